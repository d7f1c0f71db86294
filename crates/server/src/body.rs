//! JSON bodies: bounded in size and time, and strict.

use std::sync::Arc;

use axum::body::Body as Raw;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::app::Shared;
use crate::background::background;
use crate::error::ApiError;

/// Bytes that bodies which are being read may have together, beyond the first [`FREE`] of each; in units.
const ROOM: usize = 256;
const UNIT: usize = 1 << 20;
const FREE: usize = 1 << 20;

/// Bodies longer than this are parsed in the background, few at once: the threads that serve have others
/// to talk to.
const SHORT: usize = 64 << 10;
const PARSED_AT_ONCE: usize = 2;

/// Room for the bodies that are being read, and places for long ones to be parsed.
pub(crate) struct Bodies {
    room: Arc<Semaphore>,
    parsing: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { room: places(ROOM), parsing: places(PARSED_AT_ONCE) }
    }
}

/// The JSON body of a request. An unknown field is an error that names it.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Shared> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        // Browsers send other types to any address without asking it first.
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = "the content type must be application/json";
            return Err(ApiError::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let limit = app.config.max_body;
        let too_long = || {
            let message = format!("the body is longer than {limit} bytes, or broke off");
            ApiError::refused(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        // What is held of the room is given back when the body has been parsed.
        let mut held = vec![];
        let read = collect(request.into_body(), limit, &app.bodies.room, &mut held);
        let read = tokio::time::timeout(app.config.body_timeout, read).await;
        let Ok(read) = read else {
            let message = "the body did not arrive in time";
            return Err(ApiError::refused(StatusCode::REQUEST_TIMEOUT, message));
        };
        let bytes = read.ok_or_else(too_long)?;
        if bytes.len() <= SHORT {
            return parse(&bytes).map(Self);
        }
        let place = app.bodies.parsing.clone().acquire_owned().await;
        let parsed = background(move || {
            let _held = (place, held);
            parse(&bytes)
        });
        parsed.await?.map(Self)
    }
}

/// All of a body; `None` if it is too long or breaks off. A long one waits for room as it comes, so that
/// clients which only announce one take none.
async fn collect(
    body: Raw,
    limit: usize,
    room: &Arc<Semaphore>,
    held: &mut Vec<tokio::sync::OwnedSemaphorePermit>,
) -> Option<Vec<u8>> {
    let mut pieces = body.into_data_stream();
    let mut bytes = vec![];
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        if bytes.len().saturating_add(piece.len()) > limit {
            return None;
        }
        while bytes.len() + piece.len() > FREE + held.len() * UNIT {
            held.push(room.clone().acquire_owned().await.ok()?);
        }
        bytes.extend_from_slice(&piece);
    }
    Some(bytes)
}

/// Reads JSON, naming the field in errors.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would take a list for an object, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad_request("the body is no JSON object"));
    }
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let value: T = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner();
        // serde names an unknown field in its message, and the path is that of its parent.
        let text = problem.to_string();
        let unknown = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        match (unknown, &*path) {
            (Some(name), "." | "") => ApiError::field(name, text.clone()),
            (_, "." | "") => ApiError::bad_request(format!("the body is not as expected: {text}")),
            (_, path) => ApiError::field(path, format!("{path}: {text}")),
        }
    })?;
    source
        .end()
        .map_err(|error| ApiError::bad_request(format!("after the JSON value: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "count")]
        _count: u32,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: Vec<Inner>,
    }

    #[test]
    fn long_bodies_wait_for_room_and_short_ones_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let room = Arc::new(Semaphore::new(1));
            let body = |length: usize| Raw::from(vec![b' '; length]);
            let mut first = vec![];
            let long = collect(body(FREE + 5), 8 << 20, &room, &mut first).await;
            assert_eq!(long.map(|bytes| bytes.len()), Some(FREE + 5));
            let mut second = vec![];
            let mut waits = Box::pin(collect(body(FREE + 5), 8 << 20, &room, &mut second));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending());
            assert!(collect(body(FREE), 8 << 20, &room, &mut vec![]).await.is_some());
            drop(first);
            assert!(waits.await.is_some());
            assert!(collect(body(100), 99, &room, &mut vec![]).await.is_none());
        });
    }

    #[test]
    fn errors_name_the_field() {
        for (text, param) in [
            (r#"{"inner": [], "extra": 1}"#, Some("extra")),
            (r#"{"inner": [{"count": -1}]}"#, Some("inner[0].count")),
            (r#"{"inner": [{"count": 1, "more": 1}]}"#, Some("inner[0].more")),
            (r#"{"inner": [{"count": 1e400}]}"#, Some("inner[0].count")),
            ("[1", None),
            (r#"{"inner": []} x"#, None),
        ] {
            let error = parse::<Outer>(text.as_bytes()).unwrap_err();
            assert_eq!(error.param.as_deref(), param, "{text}: {}", error.message);
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
    }
}
