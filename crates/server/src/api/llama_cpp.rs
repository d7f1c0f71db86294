//! The endpoints of llama.cpp's own server that clients of nothing else speak: `/completion`, `/props` and `/slots`
//! (ggml-org/llama.cpp, `tools/server/README.md`). `/infill` is in `infill.rs`, `/tokenize` in `misc.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use keeve_engine::{Event, FinishReason, Grammar, Timings};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::fields::Given;
use crate::answer::Answers;
use crate::app::Shared;
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::models::Model;
use crate::sse;

/// Defines a request in llama.cpp's form: the fields given, and those that choose tokens.
macro_rules! llama_request {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        pub(crate) struct $name {
            /// The model. May be left out where there is only one.
            #[serde(default, deserialize_with = "crate::api::fields::or_default")]
            #[schema(value_type = Option<String>)]
            pub model: String,
            $($own)*
            /// The most tokens to generate; below 0: as many as the context holds.
            pub n_predict: Option<i64>,
            /// Send the answer in pieces as it is generated.
            pub stream: Option<bool>,
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f32>,
            pub top_k: Option<i64>,
            #[schema(minimum = 0, maximum = 1)]
            pub top_p: Option<f32>,
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f32>,
            pub repeat_penalty: Option<f32>,
            pub presence_penalty: Option<f32>,
            pub frequency_penalty: Option<f32>,
            /// Repeats the same random choices; -1: new ones.
            pub seed: Option<i64>,
            /// Texts that end the answer.
            pub stop: Option<$crate::api::common::Texts>,
            pub ignore_eos: Option<bool>,
            /// Added to the scores of tokens, by id.
            pub logit_bias: Option<std::collections::BTreeMap<String, f32>>,
            pub grammar: Option<$crate::api::fields::Given>,
            pub mirostat: Option<$crate::api::fields::Given>,
            pub typical_p: Option<$crate::api::fields::Given>,
            pub dry_multiplier: Option<$crate::api::fields::Given>,
            pub xtc_probability: Option<$crate::api::fields::Given>,
            pub dynatemp_range: Option<$crate::api::fields::Given>,
            pub n_probs: Option<$crate::api::fields::Given>,
            pub lora: Option<$crate::api::fields::Given>,
            /// Has no effect: samplers run in a fixed order.
            #[serde(rename = "samplers")]
            pub _samplers: Option<$crate::api::fields::Unused>,
            /// Has no effect: beginnings that were computed are always found again.
            #[serde(rename = "cache_prompt")]
            pub _cache_prompt: Option<$crate::api::fields::Unused>,
            /// Has no effect.
            #[serde(rename = "id_slot")]
            pub _id_slot: Option<$crate::api::fields::Unused>,
            /// Has no effect: --request-timeout limits how long an answer takes.
            #[serde(rename = "t_max_prompt_ms")]
            pub _t_max_prompt_ms: Option<$crate::api::fields::Unused>,
            /// Has no effect, as `t_max_prompt_ms`.
            #[serde(rename = "t_max_predict_ms")]
            pub _t_max_predict_ms: Option<$crate::api::fields::Unused>,
            /// Has no effect: all fields are given.
            #[serde(rename = "response_fields")]
            pub _response_fields: Option<$crate::api::fields::Unused>,
        }

        impl $name {
            /// How tokens are chosen.
            pub(crate) fn choosing(&self) -> $crate::api::common::Choosing {
                let most = self.n_predict.filter(|&most| most >= 0);
                $crate::api::common::Choosing {
                    max_tokens: most.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
                    seed: self.seed.filter(|&seed| seed != -1),
                    stop: self.stop.clone().map($crate::api::common::Texts::into_vec).unwrap_or_default(),
                    temperature: self.temperature,
                    top_k: self.top_k,
                    top_p: self.top_p,
                    min_p: self.min_p,
                    repetition_penalty: self.repeat_penalty,
                    presence_penalty: self.presence_penalty,
                    frequency_penalty: self.frequency_penalty,
                    logit_bias: self.logit_bias.clone(),
                    ignore_eos: self.ignore_eos.unwrap_or(false),
                    ..Default::default()
                }
            }

            /// # Errors
            /// If a field would change the answer in a way that is not supported; it is named.
            pub(crate) fn refuse_unsupported(&self) -> Result<(), $crate::error::ApiError> {
                const SAMPLER: &str = "there is no such sampler here";
                for (given, neutral, name, why) in [
                    (&self.grammar, f64::NAN, "grammar", "GBNF is not read"),
                    (&self.mirostat, 0.0, "mirostat", SAMPLER),
                    (&self.typical_p, 1.0, "typical_p", SAMPLER),
                    (&self.dry_multiplier, 0.0, "dry_multiplier", SAMPLER),
                    (&self.xtc_probability, 0.0, "xtc_probability", SAMPLER),
                    (&self.dynatemp_range, 0.0, "dynatemp_range", SAMPLER),
                    (&self.n_probs, 0.0, "n_probs", "/v1/completions reports log probabilities"),
                    (&self.lora, f64::NAN, "lora", "adapters are not chosen by request"),
                ] {
                    $crate::api::fields::Given::refuse(given.as_ref(), neutral, name, why)?;
                }
                Ok(())
            }
        }
    };
}
pub(crate) use llama_request;

llama_request! {
    /// A text to go on with, in llama.cpp's form.
    pub(crate) struct LlamaCompletionRequest {
        /// The text, or token ids. Names of special tokens in the text are these tokens.
        pub prompt: Prompt,
        /// A JSON schema of the answer.
        pub json_schema: Option<Value>,
        pub image_data: Option<Given>,
        /// Has no effect: a prompt that is too long is refused.
        #[serde(rename = "n_keep")]
        pub _n_keep: Option<crate::api::fields::Unused>,
    }
}

/// A prompt.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = llama_cpp::Prompt)]
#[serde(untagged)]
pub(crate) enum Prompt {
    /// A text.
    Text(String),
    /// Texts and token ids, one behind the other.
    Mixed(Vec<PromptPart>),
}

/// A part of a prompt.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = llama_cpp::PromptPart)]
#[serde(untagged)]
pub(crate) enum PromptPart {
    /// A token id.
    Id(u32),
    /// A text.
    Text(String),
}

impl Prompt {
    fn parts(self) -> Vec<PromptPart> {
        match self {
            Self::Text(text) => vec![PromptPart::Text(text)],
            Self::Mixed(parts) => parts,
        }
    }
}

/// Go on with a text, in llama.cpp's form.
#[utoipa::path(
    post, path = "/completion", request_body = LlamaCompletionRequest,
    responses(
        (status = 200, description = "The text, or its pieces as server-sent events.",
            content((Piece = "application/json"), (Piece = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<LlamaCompletionRequest>,
) -> Result<Response, ApiError> {
    request.refuse_unsupported()?;
    let images = request.image_data.as_ref();
    Given::refuse(images, f64::NAN, "image_data", "/v1/chat/completions takes images")?;
    let model = app.models.get(&request.model).await?;
    let (choosing, stream) = (request.choosing(), request.stream.unwrap_or(false));
    let schema = request.json_schema.filter(|schema| !schema.is_null());
    let format =
        schema.map(|schema| super::structured::schema("json_schema", schema)).transpose()?;
    let parts = request.prompt.parts();
    let bytes =
        parts.iter().map(|part| if let PromptPart::Text(text) = part { text.len() } else { 0 });
    let bytes = bytes.sum::<usize>();
    let prepared = model.prepare([bytes], format.is_some(), move |model| {
        let ids = prompt_ids(model, &parts)?;
        let constraint =
            format.map(|grammar: Grammar| model.engine.constraint(&grammar)).transpose();
        let constraint =
            constraint.map_err(|error| ApiError::field("json_schema", error.to_string()))?;
        let mut texts = parts.into_iter();
        let text = match (texts.next(), texts.next()) {
            (Some(PromptPart::Text(text)), None) => text,
            _ => String::new(),
        };
        Ok((ids, constraint, text))
    });
    let (ids, constraint, prompt) = prepared.await?;
    let stops = choosing.stop.clone();
    let mut requests = choosing.requests(&app, &model, ids, constraint)?;
    for request in &mut requests {
        request.continues = true;
    }
    let answers = Answers::start(model.clone(), requests)?;
    Reply { model, answers, stops, prompt }.respond(stream).await
}

fn prompt_ids(model: &Model, parts: &[PromptPart]) -> Result<Vec<u32>, ApiError> {
    let mut ids = vec![];
    for (index, part) in parts.iter().enumerate() {
        match part {
            PromptPart::Id(id) => ids.push(*id),
            PromptPart::Text(text) if index == 0 => ids.extend(model.template_ids(text)?),
            PromptPart::Text(text) => ids.extend(model.engine.text_prompt(text, false, true)?),
        }
    }
    Ok(ids)
}

/// Which model is meant.
#[derive(IntoParams)]
#[allow(dead_code, reason = "the parameters of a path are described by a type")]
pub(crate) struct Which {
    /// The model; the first one if not given.
    model: Option<String>,
}

async fn which(app: &Shared, query: Option<&str>) -> Result<Arc<Model>, ApiError> {
    let named = query.into_iter().flat_map(|query| query.split('&'));
    let named = named.filter_map(|pair| pair.strip_prefix("model=")).next().unwrap_or_default();
    if named.is_empty() {
        return app.models.load_first().await;
    }
    let name = percent_decode_str(named).decode_utf8();
    let name = name.map_err(|_| ApiError::field("model", "model is no UTF-8"))?;
    app.models.get(&name).await
}

/// What a model is like, in llama.cpp's form.
#[utoipa::path(get, path = "/props", params(Which), responses(
    (status = 200, description = "The model.", body = Object),
    (status = "4XX", description = "There is none of this name.", body = ErrorBody),
    (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody)))]
pub(crate) async fn props(
    State(app): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let model = which(&app, query.as_deref()).await?;
    let about = app.models.about(&model.name);
    let (sampling, info) = (&model.sampling, model.engine.info());
    let tokenizer = model.engine.tokenizer().ok();
    let end = info.eos.first().and_then(|&id| tokenizer?.token_bytes(id));
    let end = end.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let params = json!({
        "n_predict": model.max_tokens.map_or(-1, |most| most as i64), "seed": -1,
        "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        "min_p": sampling.min_p, "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty,
        "stream": true, "stop": [],
    });
    Ok(Json(json!({
        "default_generation_settings": { "id": 0, "n_ctx": info.max_context, "speculative": false,
            "is_processing": model.engine.stats().running > 0, "params": params },
        "total_slots": model.at_once, "model_path": model.name, "model_alias": model.name,
        "modalities": { "vision": info.image_tokens > 0, "audio": false },
        "chat_template": about.as_ref().and_then(|about| about.template.clone()).unwrap_or_default(),
        "eos_token": end.unwrap_or_default(),
        "build_info": concat!("keeve-", env!("CARGO_PKG_VERSION")),
        "is_sleeping": false,
    })))
}

/// A place for a request that is computed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = llama_cpp::Slot)]
pub(crate) struct Slot {
    pub id: usize,
    pub n_ctx: usize,
    pub is_processing: bool,
}

/// What is being computed, in llama.cpp's form.
#[utoipa::path(get, path = "/slots", params(Which), responses(
    (status = 200, description = "A slot for each request that may be computed at the same time.", body = Vec<Slot>),
    (status = "4XX", description = "There is none of this name.", body = ErrorBody),
    (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody)))]
pub(crate) async fn slots(
    State(app): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Slot>>, ApiError> {
    let model = which(&app, query.as_deref()).await?;
    let (running, n_ctx) = (model.engine.stats().running, model.engine.info().max_context);
    let slot = |id: usize| Slot { id, n_ctx, is_processing: id < running };
    Ok(Json((0..model.at_once).map(slot).collect()))
}

/// An answer, or a piece of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = llama_cpp::Piece)]
pub(crate) struct Piece {
    pub index: usize,
    pub content: String,
    pub tokens: Vec<u32>,
    /// Whether this is the end.
    pub stop: bool,
    pub model: String,
    pub tokens_predicted: usize,
    pub tokens_evaluated: usize,
    /// Found in the prefix cache.
    pub tokens_cached: usize,
    pub truncated: bool,
    /// `eos`, `limit` or `word`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_type: Option<&'static str>,
    /// The prompt as text; with the end.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// The text that ended the answer.
    pub stopping_word: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Took>,
}

/// How long things took.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Took {
    pub prompt_n: usize,
    pub prompt_ms: f64,
    pub prompt_per_second: f64,
    pub predicted_n: usize,
    pub predicted_ms: f64,
    pub predicted_per_second: f64,
}

impl From<&Timings> for Took {
    fn from(timings: &Timings) -> Self {
        let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        Self {
            prompt_n: timings.prompt_tokens.saturating_sub(timings.cached_tokens),
            prompt_ms: milliseconds(timings.prompt),
            prompt_per_second: timings.prompt_rate(),
            predicted_n: timings.decode_tokens,
            predicted_ms: milliseconds(timings.decode),
            predicted_per_second: timings.decode_rate(),
        }
    }
}

pub(super) struct Reply {
    pub model: Arc<Model>,
    pub answers: Answers,
    /// The texts that end the answer.
    pub stops: Vec<String>,
    /// The prompt, where the end of the answer is to have it.
    pub prompt: String,
}

impl Reply {
    /// The response: pieces as events, or all of them as one.
    pub async fn respond(self, stream: bool) -> Result<Response, ApiError> {
        match stream {
            true => Ok(self.stream()),
            false => Ok(Json(self.whole().await?).into_response()),
        }
    }

    /// What is new next; `None` after the end.
    async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            let event = match self.answers.next().await? {
                (_, Ok(event)) => event,
                (_, Err(error)) => return Some(Err(error)),
            };
            let model = self.model.name.clone();
            return Some(match event {
                Event::PromptLogits { .. } | Event::Embedding(_) => continue,
                Event::Token { id, text, .. } => {
                    Ok(Piece { content: text, tokens: vec![id], model, ..Piece::default() })
                }
                Event::Finished { reason: FinishReason::TimedOut, .. } => {
                    Err(ApiError::timed_out())
                }
                Event::Finished { reason, text, stop_text, timings } => {
                    let word = stop_text.and_then(|index| self.stops.get(index)).cloned();
                    let kind = match reason {
                        FinishReason::Length => "limit",
                        _ if word.is_some() => "word",
                        _ => "eos",
                    };
                    Ok(Piece {
                        content: text,
                        stop: true,
                        model,
                        tokens_predicted: timings.decode_tokens,
                        tokens_evaluated: timings.prompt_tokens,
                        tokens_cached: timings.cached_tokens,
                        stop_type: Some(kind),
                        prompt: std::mem::take(&mut self.prompt),
                        stopping_word: word.unwrap_or_default(),
                        timings: Some((&timings).into()),
                        ..Piece::default()
                    })
                }
                Event::Failed(error) => Err(error.as_ref().into()),
            });
        }
    }

    async fn whole(mut self) -> Result<Piece, ApiError> {
        let mut answer = Piece::default();
        while let Some(piece) = self.next().await {
            let mut piece = piece?;
            let (content, mut tokens) = (answer.content, answer.tokens);
            tokens.append(&mut piece.tokens);
            answer = Piece { content: content + &piece.content, tokens, ..piece };
        }
        Ok(answer)
    }

    fn stream(mut self) -> Response {
        sse::respond(move |out| async move {
            loop {
                let piece = tokio::select! {
                    piece = self.next() => piece,
                    () = out.closed() => return Err(sse::Gone),
                };
                match piece {
                    None => return Ok(()),
                    Some(Ok(piece)) => out.data(&piece).await?,
                    Some(Err(error)) => {
                        out.data(&error.openai()).await?;
                        return Ok(());
                    }
                }
            }
        })
    }
}
