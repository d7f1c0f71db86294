//! `GET /openapi.json`.

use axum::Json;
use utoipa::OpenApi;

use super::chat_types::ChatChunk;
use super::{chat, completions, embeddings, messages, misc, responses};

#[derive(OpenApi)]
#[openapi(
    info(title = "keeve", description = "Language models in OpenAI's and Anthropic's forms."),
    paths(
        chat::create,
        completions::create,
        responses::create,
        messages::create,
        embeddings::create,
        misc::models,
        misc::model,
        misc::queue,
        misc::tokenize,
        misc::detokenize,
        misc::health,
        misc::metrics,
    ),
    components(schemas(ChatChunk))
)]
struct Document;

/// The description of this API.
pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
