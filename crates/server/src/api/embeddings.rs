//! `POST /v1/embeddings`.

use axum::Json;
use axum::extract::State;
use keeve_engine::{Event, FinishReason, Pooling, Request};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

use super::completions::Prompts;
use super::fields::{Given, Unused, or_default};
use crate::answer::Answers;
use crate::app::Shared;
use crate::base64::base64;
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::models::Model;

/// Texts to embed. Fields that are not listed are left alone, and named in the response's
/// `x-keeve-ignored`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    /// The model. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// The text or texts, or their token ids.
    pub input: Prompts,
    /// How the numbers are written; `float` if not given.
    pub encoding_format: Option<EncodingFormat>,
    /// Only the model's own width.
    #[schema(minimum = 1)]
    pub dimensions: Option<u32>,
    /// How one vector is made of those of all tokens; `mean` if not given.
    pub pooling: Option<PoolingMode>,
    /// Whether vectors are scaled to length 1; true if not given.
    pub normalize: Option<bool>,
    pub truncate_prompt_tokens: Option<Given>,
    /// Has no effect.
    #[serde(rename = "user")]
    pub _user: Option<Unused>,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    /// As JSON numbers.
    Float,
    /// As the bytes of little-endian 32-bit floats, in base64.
    Base64,
}

/// How one vector is made of those of all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PoolingMode {
    /// Their mean.
    Mean,
    /// That of the last token.
    Last,
}

/// The vectors.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embeddings {
    /// `list`
    pub object: &'static str,
    pub data: Vec<Embedding>,
    pub model: String,
    pub usage: EmbeddingUsage,
}

/// A vector.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embedding {
    /// `embedding`
    pub object: &'static str,
    pub index: usize,
    pub embedding: Numbers,
}

/// Numbers as asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Numbers {
    /// As JSON numbers.
    Float(Vec<f32>),
    /// In base64.
    Base64(String),
}

/// What was used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingUsage {
    pub prompt_tokens: usize,
    pub total_tokens: usize,
}

/// The most texts of a request.
const MOST_INPUTS: usize = 256;

/// Make vectors of texts.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingsRequest, responses(
    (status = 200, description = "The vectors.", body = Embeddings),
    (status = "4XX", description = "The request is wrong.", body = ErrorBody),
    (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<EmbeddingsRequest>,
) -> Result<Json<Embeddings>, ApiError> {
    let why = "texts that are too long are refused";
    let cut = request.truncate_prompt_tokens.as_ref();
    Given::refuse(cut, f64::NAN, "truncate_prompt_tokens", why)?;
    let model = app.models.get(&request.model).await?;
    let (input, lengths) = (request.input.clone(), request.input.bytes());
    let prompts = model.prepare(lengths, false, move |model| input.ids(model, true)).await?;
    let pooling = match request.pooling.unwrap_or(PoolingMode::Mean) {
        PoolingMode::Mean => Pooling::Mean,
        PoolingMode::Last => Pooling::Last,
    };
    let normalize = request.normalize.unwrap_or(true);
    let (vectors, used) = embed(&app, &model, prompts, pooling).await?;
    let mut data = vec![];
    for (index, values) in vectors.into_iter().enumerate() {
        if request.dimensions.is_some_and(|width| width as usize != values.len()) {
            let message = format!("the model's vectors have {} numbers", values.len());
            return Err(ApiError::field("dimensions", message));
        }
        let values = if normalize { unit(values) } else { values };
        let embedding = match request.encoding_format {
            Some(EncodingFormat::Base64) => Numbers::Base64(base64(&bytes(&values))),
            _ => Numbers::Float(values),
        };
        data.push(Embedding { object: "embedding", index, embedding });
    }
    let usage = EmbeddingUsage { prompt_tokens: used, total_tokens: used };
    Ok(Json(Embeddings { object: "list", data, model: model.name.clone(), usage }))
}

/// The vectors of prompts, as the model gives them, and how many tokens the prompts have.
pub(crate) async fn embed(
    app: &Shared,
    model: &Arc<Model>,
    prompts: Vec<Vec<u32>>,
    pooling: Pooling,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    if prompts.is_empty() || prompts.len() > MOST_INPUTS {
        let message = format!("expected 1 to {MOST_INPUTS} texts");
        return Err(ApiError::field("input", message));
    }
    let mut vectors = vec![];
    let mut used = 0;
    let deadline = app.config.request_timeout.and_then(|time| Instant::now().checked_add(time));
    // One after another: each is a whole prompt, so together they would be no faster.
    for prompt in prompts {
        let asked = Request { prompt, embedding: Some(pooling), deadline, ..Request::default() };
        let mut answers = Answers::start(model.clone(), vec![asked])?;
        while let Some((_, event)) = answers.next().await {
            match event? {
                Event::Embedding(values) => vectors.push(values),
                Event::Finished { reason: FinishReason::TimedOut, .. } => {
                    return Err(ApiError::timed_out());
                }
                Event::Finished { timings, .. } => used += timings.prompt_tokens,
                Event::Failed(error) => return Err(error.as_ref().into()),
                Event::Token { .. } | Event::PromptLogits { .. } => {}
            }
        }
    }
    Ok((vectors, used))
}

/// The vector scaled to length 1; a zero vector stays as it is.
pub(crate) fn unit(values: Vec<f32>) -> Vec<f32> {
    let length = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if length == 0.0 {
        return values;
    }
    values.into_iter().map(|value| (f64::from(value) / length) as f32).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_length_one_unless_they_are_zero() {
        assert_eq!(unit(vec![3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit(vec![0.0, 0.0]), [0.0, 0.0]);
    }
}
