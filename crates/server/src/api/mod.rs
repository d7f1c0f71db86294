//! The endpoints, one file each.

mod chat;
mod chat_types;
mod common;
mod completions;
mod embeddings;
mod fields;
mod format;
mod infill;
mod llama_cpp;
mod messages;
mod messages_types;
mod middle;
mod misc;
mod offsets;
pub(crate) mod ollama;
mod openapi;
mod response_events;
mod responses;
mod responses_types;
mod structured;
mod tool_use;
mod turn;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::app::Shared;
use crate::error::ApiError;
use crate::guard::guard;

/// All endpoints.
pub(crate) fn router(app: Shared) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        // As llama.cpp's server has them for clients whose address of the server lacks `/v1`.
        .route("/chat/completions", post(chat::create))
        .route("/completions", post(completions::create))
        .route("/embeddings", post(embeddings::create))
        .route("/models", get(misc::models))
        .route("/v1/health", get(misc::health))
        .route("/v1/chat/completions/render", post(chat::render))
        .route("/apply-template", post(chat::apply_template))
        .route("/v1/completions", post(completions::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(misc::models))
        .route("/v1/models/{model}", get(misc::model))
        .route("/v1/queue", get(misc::queue))
        .route("/infill", post(infill::create))
        .route("/completion", post(llama_cpp::create))
        .route("/props", get(llama_cpp::props))
        .route("/slots", get(llama_cpp::slots))
        .route("/tokenize", post(misc::tokenize))
        .route("/detokenize", post(misc::detokenize))
        .route("/health", get(misc::health))
        .route("/metrics", get(misc::metrics))
        .route("/openapi.json", get(openapi::document))
        .merge(ollama::routes())
        .merge(crate::web::routes())
        .fallback(|| async { ApiError::refused(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::refused(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method")
        })
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}
