//! Ollama's endpoints, which many local clients speak and nothing else (ollama/ollama, `docs/openapi.yaml`,
//! `api/types.go` and `server/routes.go`). docs/server.md says what is not honoured, and why.

mod answer;
pub(crate) mod chat;
pub(crate) mod generate;
pub(crate) mod models;
pub(crate) mod types;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use crate::app::Shared;
use crate::body;
use crate::error::ApiError;
use crate::models::Model;

/// The endpoints.
pub(crate) fn routes() -> Router<Shared> {
    let unsupported = || any(|| async { Failed(unsupported()) });
    Router::new()
        .route("/api/chat", post(chat::create))
        .route("/api/generate", post(generate::create))
        .route("/api/embed", post(models::embed))
        .route("/api/embeddings", post(models::embeddings))
        .route("/api/tags", get(models::tags))
        .route("/api/ps", get(models::running))
        .route("/api/show", post(models::show))
        .route("/api/version", get(models::version))
        .route("/api/pull", post(models::pull))
        .route("/api/push", unsupported())
        .route("/api/create", unsupported())
        .route("/api/copy", unsupported())
        .route("/api/delete", unsupported())
        .route("/api/blobs/{digest}", unsupported())
        .route("/api/{*path}", any(|| async { Failed(no_path()) }))
        .method_not_allowed_fallback(|| async {
            let message = "this path takes another method";
            Failed(ApiError::refused(StatusCode::METHOD_NOT_ALLOWED, message))
        })
}

fn unsupported() -> ApiError {
    let message = "not supported: which models there are is said where the server is started";
    ApiError::refused(StatusCode::NOT_IMPLEMENTED, message)
}

fn no_path() -> ApiError {
    ApiError::refused(StatusCode::NOT_FOUND, "no such path")
}

/// An error in Ollama's form.
pub(crate) struct Failed(pub ApiError);

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        self.0.into_ollama()
    }
}

/// The JSON body of a request. Clients often say nothing of its type, or something wrong, as the examples in
/// Ollama's documents do; web pages may not.
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned + ToSchema + Send + 'static> FromRequest<Shared> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Failed> {
        if from_a_page(request.headers()) && !is_json(request.headers()) {
            let message = "the content type must be application/json";
            return Err(ApiError::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into());
        }
        Ok(Self(body::json(request, app).await?))
    }
}

/// Whether a browser sends this for a page: it then says for which one, or from how far away (Fetch Standard,
/// "The Origin header"; Fetch Metadata Request Headers).
fn from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// What Ollama puts behind names that have no tag.
const LATEST: &str = ":latest";

/// A name as Ollama's clients expect it, with a tag.
fn tagged(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") }
}

/// A name as the server knows it: Ollama's clients put a tag behind it.
fn plain<'a>(app: &Shared, name: &'a str) -> &'a str {
    match name.strip_suffix(LATEST) {
        Some(plain) if !app.models.has(name) => plain,
        _ => name,
    }
}

/// A model, and how long it took to have it.
async fn model(app: &Shared, name: &str) -> Result<(Arc<Model>, Duration), ApiError> {
    let begun = Instant::now();
    let model = app.models.get(plain(app, name)).await?;
    Ok((model, begun.elapsed()))
}

/// The time, as Ollama writes it (RFC 3339).
fn timestamp() -> String {
    Timestamp::now().to_string()
}

/// What `/` answers to programs, which find out by it whether there is a server.
pub(crate) const RUNNING: &str = "Ollama is running";
