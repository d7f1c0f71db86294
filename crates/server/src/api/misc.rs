//! Models, tokens, and how the server is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keeve_engine::Stats;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::or_default;
use crate::app::Shared;
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::metrics::{Labelled, render};
use crate::models::{Listed, Model};

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<ModelCard>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelCard {
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub owned_by: &'static str,
    /// Whether it is in memory now.
    pub loaded: bool,
    /// The most tokens of prompt and answer together; null while it is not loaded.
    pub max_model_len: Option<usize>,
    /// How activations enter matrix products, as `--activations` has it; null while it is not loaded.
    pub activations: Option<&'static str>,
}

fn cards(listed: Listed) -> impl Iterator<Item = ModelCard> {
    let Listed { names, created, model, .. } = listed;
    names.into_iter().map(move |id| ModelCard {
        id,
        object: "model",
        created,
        owned_by: "keeve",
        loaded: model.is_some(),
        max_model_len: model.as_ref().map(|model| model.engine.info().max_context),
        activations: model.as_ref().map(|model| model.engine.info().activations.name()),
    })
}

/// All models, each under each of its names.
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, description = "The models.", body = ModelList),
    (status = "4XX", description = "Not let in.", body = ErrorBody)))]
pub(crate) async fn models(State(app): State<Shared>) -> Json<ModelList> {
    let data = app.models.list().into_iter().flat_map(cards).collect();
    Json(ModelList { object: "list", data })
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{model}", params(("model" = String, Path)), responses(
    (status = 200, description = "The model.", body = ModelCard),
    (status = "4XX", description = "There is none of this name.", body = ErrorBody)))]
pub(crate) async fn model(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    let found = app.models.list().into_iter().flat_map(cards).find(|card| card.id == name);
    found.map(Json).ok_or_else(|| ApiError::no_model(&name))
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ready`, `loading` or `stopping`.
    pub status: &'static str,
}

/// Whether the server can answer. Needs no key.
#[utoipa::path(get, path = "/health", security(()), responses(
    (status = 200, description = "Ready.", body = Health),
    (status = 503, description = "Not yet, or not any more.", body = Health)))]
pub(crate) async fn health(State(app): State<Shared>) -> Response {
    let listed = app.models.list();
    let status = if app.draining.load(std::sync::atomic::Ordering::Relaxed) {
        "stopping"
    } else if listed.first().is_some_and(|first| first.ready()) {
        "ready"
    } else {
        "loading"
    };
    let code = match status {
        "ready" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(Health { status })).into_response()
}

/// What is running and waiting.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queue {
    pub models: Vec<ModelQueue>,
}

/// What is running and waiting for a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelQueue {
    pub model: String,
    /// Being computed.
    pub running: usize,
    /// Waiting for their turn.
    pub waiting: usize,
    /// Ended since the server began.
    pub ended: u64,
    /// Share of the KV pages in use; 1 is all.
    pub kv_usage: f64,
}

/// What is running and waiting.
#[utoipa::path(get, path = "/v1/queue", responses(
    (status = 200, description = "The queues.", body = Queue),
    (status = "4XX", description = "Not let in.", body = ErrorBody)))]
pub(crate) async fn queue(State(app): State<Shared>) -> Json<Queue> {
    let one = |listed: Listed| {
        let stats = stats(&listed);
        ModelQueue {
            running: stats.running,
            waiting: listed.model.as_ref().map_or(0, |model| model.waiting()),
            ended: listed.metrics.ended(),
            kv_usage: stats.pages_held as f64 / stats.pages.max(1) as f64,
            model: listed.names.into_iter().next().unwrap_or_default(),
        }
    };
    Json(Queue { models: app.models.list().into_iter().map(one).collect() })
}

fn stats(listed: &Listed) -> Stats {
    listed.model.as_ref().map(|model| model.engine.stats()).unwrap_or_default()
}

/// Numbers in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "The numbers.", body = String, content_type = "text/plain"),
    (status = "4XX", description = "Not let in.", body = ErrorBody)))]
pub(crate) async fn metrics(State(app): State<Shared>) -> Response {
    let listed = app.models.list();
    let labelled = listed.iter().map(|listed| Labelled {
        model: &listed.names[0],
        metrics: &listed.metrics,
        stats: stats(listed),
        waiting: listed.model.as_ref().map_or(0, |model| model.waiting()),
    });
    let text = render(&labelled.collect::<Vec<_>>());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A text to turn into token ids.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// The model. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// The text. Names of special tokens in it are text.
    pub prompt: Option<String>,
    /// The text, as llama.cpp's server takes it.
    pub content: Option<String>,
    /// Whether to add the tokens that the tokenizer puts around a text; true if not given.
    pub add_special_tokens: Option<bool>,
    /// The same with `content`; false if not given.
    pub add_special: Option<bool>,
    /// Whether names of special tokens in the text are these tokens; false if not given.
    pub parse_special: Option<bool>,
    /// Whether `tokens` has the texts of tokens with their ids, as llama.cpp's server gives them.
    pub with_pieces: Option<bool>,
    /// Whether to give the texts of tokens as `token_strs`.
    pub return_token_strs: Option<bool>,
}

/// Token ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    pub tokens: Vec<TokenOrPiece>,
    pub count: usize,
    pub max_model_len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_strs: Option<Vec<String>>,
}

/// A token's id, perhaps with its text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TokenOrPiece {
    /// The id.
    Id(u32),
    /// The id and the text, or the bytes of what is no text.
    Piece {
        id: u32,
        #[schema(value_type = Object)]
        piece: Value,
    },
}

/// Turn text into token ids.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, responses(
    (status = 200, description = "The ids.", body = Tokenized),
    (status = "4XX", description = "The request is wrong.", body = ErrorBody),
    (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody)))]
pub(crate) async fn tokenize(
    State(app): State<Shared>,
    Body(request): Body<TokenizeRequest>,
) -> Result<Json<Tokenized>, ApiError> {
    let (text, special) = match (request.prompt, request.content) {
        (Some(text), None) => (text, request.add_special_tokens.unwrap_or(true)),
        (None, Some(text)) => (text, request.add_special.unwrap_or(false)),
        _ => return Err(ApiError::field("prompt", "either prompt or content is needed")),
    };
    let model = app.models.get(&request.model).await?;
    let length = text.len();
    let parse = request.parse_special.unwrap_or(false);
    let (pieces, strings) =
        (request.with_pieces == Some(true), request.return_token_strs == Some(true));
    let encode = move |model: &Model| {
        let ids = model.engine.text_prompt(&text, special, parse)?;
        let tokenizer = model.engine.tokenizer()?;
        let bytes = |id: u32| tokenizer.token_bytes(id).unwrap_or_default();
        let lossy = |&id: &u32| String::from_utf8_lossy(bytes(id)).into_owned();
        let token = |&id: &u32| match (pieces, std::str::from_utf8(bytes(id))) {
            (false, _) => TokenOrPiece::Id(id),
            (true, Ok(text)) => TokenOrPiece::Piece { id, piece: text.into() },
            (true, Err(_)) => TokenOrPiece::Piece { id, piece: bytes(id).to_vec().into() },
        };
        Ok(Tokenized {
            count: ids.len(),
            max_model_len: model.engine.info().max_context,
            token_strs: strings.then(|| ids.iter().map(lossy).collect()),
            tokens: ids.iter().map(token).collect(),
        })
    };
    Ok(Json(model.prepare([length], false, encode).await?))
}

/// Token ids to turn into text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// The model. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    pub tokens: Vec<u32>,
}

/// A text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    pub prompt: String,
    /// The same, as llama.cpp's server calls it.
    pub content: String,
}

/// Turn token ids into text, special tokens included.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest, responses(
    (status = 200, description = "The text.", body = Detokenized),
    (status = "4XX", description = "The request is wrong.", body = ErrorBody),
    (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody)))]
pub(crate) async fn detokenize(
    State(app): State<Shared>,
    Body(request): Body<DetokenizeRequest>,
) -> Result<Json<Detokenized>, ApiError> {
    let model = app.models.get(&request.model).await?;
    let mut detokenizer = model.engine.tokenizer()?.detokenizer(false);
    let mut prompt = String::new();
    for id in request.tokens {
        let text = detokenizer.push(id);
        let text = text.map_err(|error| ApiError::field("tokens", error.to_string()))?;
        prompt.push_str(&text.unwrap_or_default());
    }
    prompt.push_str(&detokenizer.finish().unwrap_or_default());
    Ok(Json(Detokenized { content: prompt.clone(), prompt }))
}
