//! `GET /openapi.json`.

use axum::Json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Schema};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

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
    components(schemas(ChatChunk)),
    modifiers(&ClosedVariants, &Key)
)]
struct Document;

/// Says of the variants of tagged enums that they take no further fields, which is so for all of
/// them and which the derived description leaves out.
struct ClosedVariants;

impl Modify for ClosedVariants {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let Some(components) = &mut document.components else { return };
        for schema in components.schemas.values_mut() {
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
struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
        document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    }
}

/// The description of this API.
pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
