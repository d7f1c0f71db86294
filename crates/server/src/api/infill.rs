//! `POST /infill`: filling in the middle as plugins of editors ask llama.cpp's server for it
//! (ggml-org/llama.cpp, `tools/server/README.md`, "POST `/infill`").

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::{Event, FinishReason, Timings};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::common::{Choosing, Texts};
use super::fields::{Given, Unused, or_default};
use super::middle::{Middle, OtherFile};
use crate::answer::Answers;
use crate::app::Shared;
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::models::Model;
use crate::sse;

/// What is around the text that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct InfillRequest {
    /// The model. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    pub model: String,
    /// What is before the text.
    pub input_prefix: String,
    /// What is after it.
    pub input_suffix: String,
    /// Other files that the text may look at. Those that do not fit are left out.
    #[serde(default, deserialize_with = "or_default")]
    pub input_extra: Vec<OtherFile>,
    /// What the text begins with already.
    #[serde(default, deserialize_with = "or_default")]
    pub prompt: String,
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
    pub stop: Option<Texts>,
    pub ignore_eos: Option<bool>,
    /// Added to the scores of tokens, by id.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    pub grammar: Option<Given>,
    pub json_schema: Option<Given>,
    pub mirostat: Option<Given>,
    /// Has no effect: samplers run in a fixed order, and the one for filling in is not among them.
    #[serde(rename = "samplers")]
    pub _samplers: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "n_indent")]
    pub _n_indent: Option<Unused>,
    /// Has no effect: beginnings that were computed are always found again.
    #[serde(rename = "cache_prompt")]
    pub _cache_prompt: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "id_slot")]
    pub _id_slot: Option<Unused>,
    /// Has no effect: --request-timeout limits how long an answer takes.
    #[serde(rename = "t_max_prompt_ms")]
    pub _t_max_prompt_ms: Option<Unused>,
    /// Has no effect, as `t_max_prompt_ms`.
    #[serde(rename = "t_max_predict_ms")]
    pub _t_max_predict_ms: Option<Unused>,
    /// Has no effect: all fields are given.
    #[serde(rename = "response_fields")]
    pub _response_fields: Option<Unused>,
}

/// An answer, or a piece of it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Infilled {
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

/// Fill in the middle, by the model's own tokens for that.
#[utoipa::path(
    post, path = "/infill", request_body = InfillRequest,
    responses(
        (status = 200, description = "The text, or its pieces as server-sent events.",
            content((Infilled = "application/json"), (Infilled = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<InfillRequest>,
) -> Result<Response, ApiError> {
    for (given, neutral, name) in [
        (&request.grammar, f64::NAN, "grammar"),
        (&request.json_schema, f64::NAN, "json_schema"),
        (&request.mirostat, 0.0, "mirostat"),
    ] {
        Given::refuse(given.as_ref(), neutral, name, "what is filled in is text")?;
    }
    let model = app.models.get(&request.model).await?;
    let stream = request.stream.unwrap_or(false);
    let most = request.n_predict.filter(|&most| most >= 0);
    let most = most.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    let stops = request.stop.map(Texts::into_vec).unwrap_or_default();
    let choosing = Choosing {
        max_tokens: most,
        seed: request.seed.filter(|&seed| seed != -1),
        stop: stops.clone(),
        temperature: request.temperature,
        top_k: request.top_k,
        top_p: request.top_p,
        min_p: request.min_p,
        repetition_penalty: request.repeat_penalty,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        logit_bias: request.logit_bias,
        ignore_eos: request.ignore_eos.unwrap_or(false),
        ..Choosing::default()
    };
    let middle = Middle {
        prefix: request.input_prefix,
        begun: request.prompt,
        suffix: request.input_suffix,
        files: request.input_extra,
    };
    let owner = model.clone();
    let prompt = model.lanes.clone().prepare(middle.bytes(), false, move || {
        let context = owner.engine.info().max_context;
        // Room for the answer: what is asked for, but never more than half of all.
        let answer = most.map_or(context / 4, |most| most as usize).clamp(1, context / 2);
        middle.ids(&owner, "input_suffix", Some(context - answer))
    });
    let mut requests = choosing.requests(&app, &model, prompt.await??, None)?;
    for request in &mut requests {
        request.continues = true;
    }
    let answers = Answers::start(model.clone(), requests)?;
    let reply = Reply { model, answers, stops };
    match stream {
        true => Ok(reply.stream()),
        false => Ok(Json(reply.whole().await?).into_response()),
    }
}

struct Reply {
    model: Arc<Model>,
    answers: Answers,
    stops: Vec<String>,
}

impl Reply {
    /// What is new next; `None` after the end.
    async fn next(&mut self) -> Option<Result<Infilled, ApiError>> {
        loop {
            let event = match self.answers.next().await? {
                (_, Ok(event)) => event,
                (_, Err(error)) => return Some(Err(error)),
            };
            let model = self.model.name.clone();
            return Some(match event {
                Event::PromptLogits { .. } | Event::Embedding(_) => continue,
                Event::Token { id, text, .. } => {
                    Ok(Infilled { content: text, tokens: vec![id], model, ..Infilled::default() })
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
                    Ok(Infilled {
                        content: text,
                        stop: true,
                        model,
                        tokens_predicted: timings.decode_tokens,
                        tokens_evaluated: timings.prompt_tokens,
                        tokens_cached: timings.cached_tokens,
                        stop_type: Some(kind),
                        stopping_word: word.unwrap_or_default(),
                        timings: Some((&timings).into()),
                        ..Infilled::default()
                    })
                }
                Event::Failed(error) => Err(error.as_ref().into()),
            });
        }
    }

    async fn whole(mut self) -> Result<Infilled, ApiError> {
        let mut answer = Infilled::default();
        while let Some(piece) = self.next().await {
            let mut piece = piece?;
            let (content, mut tokens) = (answer.content, answer.tokens);
            tokens.append(&mut piece.tokens);
            answer = Infilled { content: content + &piece.content, tokens, ..piece };
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
