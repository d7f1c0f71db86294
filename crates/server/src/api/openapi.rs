//! `GET /openapi.json`.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Schema};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::chat_types::ChatChunk;
use super::ollama::{chat as ollama_chat, generate, models as ollama_models};
use super::responses_types::ChosenTool;
use super::{chat, completions, embeddings, infill, llama_cpp, messages, misc, responses};
use crate::app::Shared;
use crate::error::ApiError;

#[derive(OpenApi)]
#[openapi(
    info(title = "keeve", description = "Language models in OpenAI's, Anthropic's and Ollama's forms."),
    paths(
        chat::create,
        chat::render,
        chat::apply_template,
        completions::create,
        responses::create,
        messages::create,
        messages::count,
        infill::create,
        llama_cpp::create,
        llama_cpp::props,
        llama_cpp::slots,
        ollama_chat::create,
        generate::create,
        ollama_models::tags,
        ollama_models::running,
        ollama_models::show,
        ollama_models::version,
        ollama_models::embed,
        ollama_models::embeddings,
        embeddings::create,
        misc::models,
        misc::model,
        misc::queue,
        misc::tokenize,
        misc::detokenize,
        misc::health,
        misc::metrics,
    ),
    components(schemas(ChatChunk, ChosenTool)),
    modifiers(&ClosedVariants)
)]
struct Document;

/// Says of the variants of `response_format` that they take no further fields, which the derived description leaves
/// out: what is unknown there would change the answer.
struct ClosedVariants;

impl Modify for ClosedVariants {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let Some(components) = &mut document.components else { return };
        let closed = components.schemas.iter_mut().filter(|(name, _)| *name == "ResponseFormat");
        for (_, schema) in closed {
            let RefOr::T(Schema::OneOf(variants)) = schema else { continue };
            for variant in &mut variants.items {
                if let RefOr::T(Schema::Object(variant)) = variant
                    && variant.properties.contains_key("type")
                {
                    let closed = AdditionalProperties::FreeForm(false);
                    variant.additional_properties = Some(Box::new(closed));
                }
            }
        }
    }
}

/// Says that all paths take a key, but for those that say that they do not.
fn ask_for_key(document: &mut utoipa::openapi::OpenApi) {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("key", scheme);
    document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
}

/// The description of this API. It asks for a key if this server does.
///
/// # Errors
/// An internal error if it cannot be written as JSON.
pub(crate) async fn document(State(app): State<Shared>) -> Result<Response, ApiError> {
    let mut document = Document::openapi();
    if !app.config.api_keys.is_empty() {
        ask_for_key(&mut document);
    }
    let text = document.to_json().map_err(|error| ApiError::internal(error.to_string()))?;
    // The library spells the registered formats `uint8` to `uint64` with a hyphen.
    let text = text.replace(r#""format":"u-int"#, r#""format":"uint"#);
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
