//! Fields that several endpoints share, and what they mean to the engine.

use std::collections::BTreeMap;
use std::time::Instant;

use keeve_engine::{Constraint, FinishReason, Request, SamplingParams, Timings};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::{PartialSchema, ToSchema};

use crate::app::App;
use crate::error::ApiError;
use crate::models::Model;

/// One text or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Texts {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// A field that cannot change the answer: taken, and not used.
#[derive(Debug, Clone)]
pub(crate) struct Unused;

/// Anything but null, which is what `Option` adds: only one alternative of `oneOf` may hold.
impl PartialSchema for Unused {
    fn schema() -> RefOr<Schema> {
        use utoipa::openapi::Type::{Array, Boolean, Number, Object, String};
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Object, Array, String, Number, Boolean]))
            .description(Some("A field that cannot change the answer: taken, and not used."))
            .into()
    }
}

impl ToSchema for Unused {}

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(source).map(|_| Self)
    }
}

/// How a stream is wanted.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Send the usage after the last piece.
    pub include_usage: Option<bool>,
    /// Has no effect.
    #[serde(rename = "include_obfuscation")]
    #[schema(value_type = Option<bool>)]
    pub _include_obfuscation: Option<bool>,
}

/// How the pieces of an answer are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Delivery {
    /// The answer as a whole.
    Whole,
    /// In pieces, and the usage after them if so.
    Stream {
        /// Whether the usage is sent.
        usage: bool,
    },
}

impl Delivery {
    /// What `stream` and `stream_options` of a request say.
    pub fn new(stream: Option<bool>, options: Option<&StreamOptions>) -> Result<Self, ApiError> {
        match (stream.unwrap_or(false), options) {
            (false, Some(_)) => {
                Err(ApiError::field("stream_options", "stream_options needs stream"))
            }
            (false, None) => Ok(Self::Whole),
            (true, options) => {
                let usage = options.and_then(|options| options.include_usage).unwrap_or(false);
                Ok(Self::Stream { usage })
            }
        }
    }
}

/// What was used.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of prompts.
    pub prompt_tokens: usize,
    /// Generated tokens.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Of the prompt tokens.
    pub prompt_tokens_details: PromptDetails,
    /// Of the generated tokens.
    pub completion_tokens_details: CompletionDetails,
}

/// Of the prompt tokens.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    /// Found in the prefix cache.
    pub cached_tokens: usize,
}

/// Of the generated tokens.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: usize,
}

impl Usage {
    /// Adds an answer. The prompt counts once for all answers to it.
    pub fn add(&mut self, timings: &Timings, reasoning: usize, first_of_prompt: bool) {
        if first_of_prompt {
            self.prompt_tokens += timings.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += timings.cached_tokens;
        }
        self.completion_tokens += timings.decode_tokens;
        self.completion_tokens_details.reasoning_tokens += reasoning;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// How tokens are chosen and when answers end, as requests say it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choosing {
    pub n: Option<u32>,
    pub seed: Option<i64>,
    pub stop: Vec<String>,
    pub max_tokens: Option<u32>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<i64>,
    pub min_p: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub logit_bias: Option<BTreeMap<String, f32>>,
    pub top_logprobs: usize,
    pub ignore_eos: bool,
}

/// Defines a request whose tokens are chosen: the fields given, and those that OpenAI's forms share.
/// (A flattened structure would do, but then errors do not name the field.)
macro_rules! choosing_request {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            /// The model. May be left out where there is only one.
            #[serde(default)]
            pub model: String,
            $($own)*
            /// Send the answer in pieces as it is generated.
            pub stream: Option<bool>,
            pub stream_options: Option<$crate::api::common::StreamOptions>,
            /// How many answers.
            #[schema(minimum = 1)]
            pub n: Option<u32>,
            /// Repeats the same random choices.
            pub seed: Option<i64>,
            /// Texts that end the answer.
            pub stop: Option<$crate::api::common::Texts>,
            /// The most tokens to generate.
            #[schema(minimum = 1)]
            pub max_tokens: Option<u32>,
            /// 0 takes the likeliest token each time.
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f32>,
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub top_p: Option<f32>,
            /// Choose among so many likeliest tokens; 0 or -1: among all.
            #[schema(minimum = -1)]
            pub top_k: Option<i64>,
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f32>,
            #[schema(minimum = -2, maximum = 2)]
            pub presence_penalty: Option<f32>,
            #[schema(minimum = -2, maximum = 2)]
            pub frequency_penalty: Option<f32>,
            #[schema(exclusive_minimum = 0, maximum = 10)]
            pub repetition_penalty: Option<f32>,
            /// Added to the scores of tokens, by id: -100 to 100.
            pub logit_bias: Option<std::collections::BTreeMap<String, f32>>,
            pub response_format: Option<$crate::api::format::ResponseFormat>,
            /// Go on after the model's end tokens.
            pub ignore_eos: Option<bool>,
            /// Has no effect.
            #[serde(rename = "user")]
            pub _user: Option<$crate::api::common::Unused>,
        }

        impl $name {
            /// What the shared fields say. Log probabilities are not among them.
            pub(crate) fn choosing(&self) -> $crate::api::common::Choosing {
                $crate::api::common::Choosing {
                    n: self.n,
                    seed: self.seed,
                    stop: self.stop.clone().map($crate::api::common::Texts::into_vec).unwrap_or_default(),
                    max_tokens: self.max_tokens,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    presence_penalty: self.presence_penalty,
                    frequency_penalty: self.frequency_penalty,
                    repetition_penalty: self.repetition_penalty,
                    logit_bias: self.logit_bias.clone(),
                    top_logprobs: 0,
                    ignore_eos: self.ignore_eos.unwrap_or(false),
                }
            }
        }
    };
}
pub(crate) use choosing_request;

/// Stop texts of a request, and bytes of each, at most.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 4096;

impl Choosing {
    /// What the engine is asked for each answer to a prompt.
    pub fn requests(
        self,
        app: &App,
        model: &Model,
        prompt: Vec<u32>,
        constraint: Option<Constraint>,
    ) -> Result<Vec<Request>, ApiError> {
        let most = app.config.max_choices;
        let count = match self.n.unwrap_or(1) {
            0 => return Err(ApiError::field("n", "n is 0 (expected at least 1)")),
            n if n as usize > most => {
                return Err(ApiError::field("n", format!("n is {n} (expected at most {most})")));
            }
            n => n as usize,
        };
        if self.max_tokens == Some(0) {
            return Err(ApiError::field("max_tokens", "max_tokens is 0 (expected at least 1)"));
        }
        if self.stop.len() > MOST_STOPS || self.stop.iter().any(|text| text.len() > LONGEST_STOP) {
            let message =
                format!("stop has more than {MOST_STOPS} texts, or one over {LONGEST_STOP} bytes");
            return Err(ApiError::field("stop", message));
        }
        let deadline = app.config.request_timeout.and_then(|time| Instant::now().checked_add(time));
        let request = Request {
            prompt,
            max_tokens: self.max_tokens.map(|count| count as usize),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            constraint,
            deadline,
            sampling: self.sampling(model)?,
            ..Request::default()
        };
        let numbered = (0..count).map(|index| {
            let mut request = request.clone();
            request.sampling.seed = self.seed.map(|seed| (seed as u64).wrapping_add(index as u64));
            request
        });
        Ok(numbered.collect())
    }

    fn sampling(&self, model: &Model) -> Result<SamplingParams, ApiError> {
        let defaults = &model.sampling;
        let top_k = match self.top_k {
            None => defaults.top_k,
            // -1 is how some clients say "all".
            Some(-1) => 0,
            Some(count) => usize::try_from(count).map_err(|_| {
                ApiError::field("top_k", format!("top_k is {count} (expected -1 or more)"))
            })?,
        };
        let mut logit_bias = BTreeMap::new();
        for (id, &bias) in self.logit_bias.iter().flatten() {
            let number = id.parse().map_err(|_| {
                let shown: String = id.chars().take(40).collect();
                ApiError::field("logit_bias", format!("logit_bias: {shown:?} is no token id"))
            })?;
            logit_bias.insert(number, bias);
        }
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k,
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias,
            seed: None,
            top_logprobs: self.top_logprobs,
        };
        params.validate().map_err(keeve_engine::Error::from)?;
        Ok(params)
    }
}

/// OpenAI's name for the end of an answer.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length | FinishReason::TimedOut => "length",
    }
}

/// A token for a person: its bytes as text, broken characters replaced.
pub(crate) fn token_text(model: &Model, id: u32) -> (String, Vec<u8>) {
    let tokenizer = model.engine.tokenizer().ok();
    let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(id)).unwrap_or_default();
    (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec())
}
