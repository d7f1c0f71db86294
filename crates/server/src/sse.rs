//! Answers in pieces: server-sent events, or a JSON value a line.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::ApiError;

/// Events that may wait for the client to read them.
const WAITING: usize = 64;

/// The client has gone. (One that does not read is thrown out by its connection.)
#[derive(Debug)]
pub struct Gone;

/// Where the events of a response go.
pub struct Out(mpsc::Sender<Bytes>);

/// The type of a JSON value a line.
const LINES: &str = "application/x-ndjson";

impl Out {
    /// Sends an event: `data` as JSON.
    pub async fn data(&self, data: &impl Serialize) -> Result<(), Gone> {
        self.raw(None, &json(data)).await
    }

    /// Sends an event with a name.
    pub async fn event(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        self.raw(Some(name), &json(data)).await
    }

    /// Sends a value on a line of its own.
    pub async fn json_line(&self, value: &impl Serialize) -> Result<(), Gone> {
        let bytes = Bytes::from(json(value) + "\n");
        self.0.send(bytes).await.map_err(|_| Gone)
    }

    /// Sends an event whose data is this line.
    pub async fn line(&self, data: &str) -> Result<(), Gone> {
        self.raw(None, data).await
    }

    async fn raw(&self, name: Option<&str>, data: &str) -> Result<(), Gone> {
        let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
        let bytes = Bytes::from(format!("{name}data: {data}\n\n"));
        self.0.send(bytes).await.map_err(|_| Gone)
    }

    /// Waits until the client is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// JSON text; it has no line ends of its own.
fn json(data: &impl Serialize) -> String {
    // The types of responses have text for keys and finite numbers, so this does not fail.
    serde_json::to_string(data).unwrap_or_else(|_| "{}".into())
}

/// A response of events that `work` sends. It ends when `work` does.
pub fn respond<F>(work: impl FnOnce(Out) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let events = pieces(work, |out| async move {
        // Nobody listening is no error.
        let _ = out.data(&ApiError::panicked().openai()).await;
    });
    typed("text/event-stream", events)
}

/// A response of lines that `work` sends. It ends when `work` does.
pub fn respond_lines<F>(work: impl FnOnce(Out) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let lines = pieces(work, |out| async move {
        // As above.
        let _ = out.json_line(&ApiError::panicked().ollama()).await;
    });
    typed(LINES, lines)
}

fn typed(kind: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

/// What `work` sends; after a panic, what `panicked` does.
fn pieces<F, P>(
    work: impl FnOnce(Out) -> F + Send + 'static,
    panicked: impl FnOnce(Out) -> P + Send + 'static,
) -> Body
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
    P: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let last = Out(sender.clone());
    tokio::spawn(async move {
        let done = AssertUnwindSafe(async { work(Out(sender)).await }).catch_unwind().await;
        if done.is_err() {
            panicked(last).await;
        }
    });
    let events = stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    Body::from_stream(events)
}
