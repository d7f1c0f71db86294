//! Fields that several endpoints share, and what they mean to the engine.

use std::collections::BTreeMap;
use std::time::Instant;

use keeve_engine::{Constraint, FinishReason, Request, SamplingParams, Timings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

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

/// How a stream is wanted.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Send the usage after the last piece.
    pub include_usage: Option<bool>,
    /// Send with each piece what its answer has used so far.
    pub continuous_usage_stats: Option<bool>,
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
    /// In pieces.
    Stream(UsageReports),
}

/// When a stream says what was used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UsageReports {
    /// In a piece of its own after the last one.
    at_end: bool,
    /// With each piece, of its answer so far (vllm-project/vllm `vllm/entrypoints/openai`,
    /// `StreamOptions`).
    throughout: bool,
}

impl UsageReports {
    /// What a piece of an answer says of it.
    pub fn of_piece(self, so_far: impl FnOnce() -> Usage) -> Option<Option<Usage>> {
        match self {
            Self { throughout: true, .. } => Some(Some(so_far())),
            Self { at_end: true, .. } => Some(None),
            Self { at_end: false, .. } => None,
        }
    }

    /// Whether a piece of its own says it after the last one.
    pub fn at_end(self) -> bool {
        self.at_end
    }
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
                let given = |field: fn(&StreamOptions) -> Option<bool>| {
                    options.and_then(field).unwrap_or(false)
                };
                Ok(Self::Stream(UsageReports {
                    at_end: given(|options| options.include_usage),
                    throughout: given(|options| options.continuous_usage_stats),
                }))
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
    /// Of the prompt tokens; not before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptDetails>,
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
    /// What an answer that has not ended has used.
    pub fn so_far(prompt: usize, completion: usize, reasoning: usize) -> Self {
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: None,
            completion_tokens_details: CompletionDetails { reasoning_tokens: reasoning },
        }
    }

    /// Adds an answer. The prompt counts once for all answers to it.
    pub fn add(&mut self, timings: &Timings, reasoning: usize, first_of_prompt: bool) {
        let details = self.prompt_tokens_details.get_or_insert_default();
        if first_of_prompt {
            self.prompt_tokens += timings.prompt_tokens;
            details.cached_tokens += timings.cached_tokens;
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
    pub stop_tokens: Vec<u32>,
    pub min_tokens: usize,
    pub keep_special: bool,
}

/// Defines a request whose tokens are chosen: the fields given, and those that OpenAI's forms share.
/// (A flattened structure would do, but then errors do not name the field.)
macro_rules! choosing_request {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        pub(crate) struct $name {
            /// The model. May be left out where there is only one.
            #[serde(default, deserialize_with = "crate::api::fields::or_default")]
            #[schema(value_type = Option<String>)]
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
            /// The most tokens to generate; -1: as many as fit.
            #[serde(default, deserialize_with = "crate::api::fields::most_tokens")]
            #[schema(minimum = -1)]
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
            #[serde(alias = "repeat_penalty")]
            pub repetition_penalty: Option<f32>,
            /// Added to the scores of tokens, by id: -100 to 100.
            pub logit_bias: Option<std::collections::BTreeMap<String, f32>>,
            pub response_format: Option<$crate::api::format::ResponseFormat>,
            /// Go on after the model's end tokens.
            pub ignore_eos: Option<bool>,
            /// Further tokens that end the answer.
            pub stop_token_ids: Option<Vec<u32>>,
            /// Tokens before which no end token is chosen.
            pub min_tokens: Option<u32>,
            /// Whether the texts of special tokens are left out of the answer; true if not given.
            pub skip_special_tokens: Option<bool>,
            /// Spell tokens in log probabilities as `token_id:ID`.
            pub return_tokens_as_token_ids: Option<bool>,
            /// A JSON schema of the answer (or its text), as `response_format` has it too.
            pub guided_json: Option<serde_json::Value>,
            /// A regular expression of the answer.
            pub guided_regex: Option<String>,
            /// The answers to choose among.
            pub guided_choice: Option<Vec<String>>,
            pub structured_outputs: Option<$crate::api::structured::StructuredOutputs>,
            /// A JSON schema of the answer, as llama.cpp's server takes it.
            pub json_schema: Option<serde_json::Value>,
            pub guided_grammar: Option<$crate::api::fields::Given>,
            pub guided_whitespace_pattern: Option<$crate::api::fields::Given>,
            pub grammar: Option<$crate::api::fields::Given>,
            pub include_stop_str_in_output: Option<$crate::api::fields::Given>,
            pub use_beam_search: Option<$crate::api::fields::Given>,
            pub length_penalty: Option<$crate::api::fields::Given>,
            pub early_stopping: Option<$crate::api::fields::Given>,
            pub logits_processors: Option<$crate::api::fields::Given>,
            pub bad_words: Option<$crate::api::fields::Given>,
            pub allowed_token_ids: Option<$crate::api::fields::Given>,
            pub truncate_prompt_tokens: Option<$crate::api::fields::Given>,
            pub thinking_token_budget: Option<$crate::api::fields::Given>,
            pub vllm_xargs: Option<$crate::api::fields::Given>,
            pub cache_salt: Option<$crate::api::fields::Given>,
            pub samplers: Option<$crate::api::fields::Given>,
            pub mirostat: Option<$crate::api::fields::Given>,
            pub typical_p: Option<$crate::api::fields::Given>,
            pub tfs_z: Option<$crate::api::fields::Given>,
            pub top_a: Option<$crate::api::fields::Given>,
            pub top_n_sigma: Option<$crate::api::fields::Given>,
            pub dynatemp_range: Option<$crate::api::fields::Given>,
            pub dry_multiplier: Option<$crate::api::fields::Given>,
            pub xtc_probability: Option<$crate::api::fields::Given>,
            pub lora: Option<$crate::api::fields::Given>,
            /// Has no effect.
            #[serde(rename = "user")]
            pub _user: Option<$crate::api::fields::Unused>,
            /// Has no effect: requests take turns as they come.
            #[serde(rename = "priority")]
            pub _priority: Option<$crate::api::fields::Unused>,
            /// Has no effect: answers have identifiers of their own.
            #[serde(rename = "request_id")]
            pub _request_id: Option<$crate::api::fields::Unused>,
            /// Has no effect: beginnings that were computed are always found again.
            #[serde(rename = "cache_prompt")]
            pub _cache_prompt: Option<$crate::api::fields::Unused>,
            /// Has no effect.
            #[serde(rename = "guided_decoding_backend")]
            pub _guided_decoding_backend: Option<$crate::api::fields::Unused>,
            /// Has no effect.
            #[serde(rename = "spaces_between_special_tokens")]
            pub _spaces_between_special_tokens: Option<$crate::api::fields::Unused>,
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
                    stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
                    min_tokens: self.min_tokens.unwrap_or(0) as usize,
                    keep_special: self.skip_special_tokens == Some(false),
                }
            }

            /// What the answer has to look like, whichever field says so.
            ///
            /// # Errors
            /// If two of them do, or one makes no sense.
            pub(crate) fn form(
                &mut self,
            ) -> Result<Option<keeve_engine::Grammar>, $crate::error::ApiError> {
                $crate::api::structured::Forms {
                    response_format: self.response_format.take(),
                    guided_json: self.guided_json.take(),
                    guided_regex: self.guided_regex.take(),
                    guided_choice: self.guided_choice.take(),
                    structured_outputs: self.structured_outputs.take(),
                    json_schema: self.json_schema.take(),
                }
                .grammar()
            }

            /// # Errors
            /// If a field would change the answer in a way that is not supported; it is named.
            pub(crate) fn refuse_unsupported(&self) -> Result<(), $crate::error::ApiError> {
                const SAMPLER: &str = "there is no such sampler here";
                let lark = "write the grammar in llguidance's Lark, as response_format {\"type\": \"lark\"}";
                let nothing = f64::NAN;
                for (given, neutral, name, why) in [
                    (&self.guided_grammar, nothing, "guided_grammar", lark),
                    (&self.grammar, nothing, "grammar", lark),
                    (&self.guided_whitespace_pattern, nothing, "guided_whitespace_pattern",
                        "a schema may have x-guidance with whitespace_pattern"),
                    (&self.include_stop_str_in_output, nothing, "include_stop_str_in_output",
                        "the text that ends an answer is never part of it"),
                    (&self.use_beam_search, nothing, "use_beam_search", SAMPLER),
                    (&self.length_penalty, 1.0, "length_penalty", SAMPLER),
                    (&self.early_stopping, nothing, "early_stopping", SAMPLER),
                    (&self.logits_processors, nothing, "logits_processors", SAMPLER),
                    (&self.bad_words, nothing, "bad_words", "logit_bias excludes tokens"),
                    (&self.allowed_token_ids, nothing, "allowed_token_ids",
                        "response_format says what an answer may be"),
                    (&self.truncate_prompt_tokens, nothing, "truncate_prompt_tokens",
                        "prompts are never cut"),
                    (&self.thinking_token_budget, nothing, "thinking_token_budget",
                        "reasoning has no limit of its own"),
                    (&self.vllm_xargs, nothing, "vllm_xargs", "this server is another"),
                    (&self.cache_salt, nothing, "cache_salt",
                        "all requests share the prefix cache; --no-prefix-cache turns it off"),
                    (&self.samplers, nothing, "samplers", "the order of samplers is fixed"),
                    (&self.mirostat, 0.0, "mirostat", SAMPLER),
                    (&self.typical_p, 1.0, "typical_p", SAMPLER),
                    (&self.tfs_z, 1.0, "tfs_z", SAMPLER),
                    (&self.top_a, 0.0, "top_a", SAMPLER),
                    (&self.top_n_sigma, -1.0, "top_n_sigma", SAMPLER),
                    (&self.dynatemp_range, 0.0, "dynatemp_range", SAMPLER),
                    (&self.dry_multiplier, 0.0, "dry_multiplier", SAMPLER),
                    (&self.xtc_probability, 0.0, "xtc_probability", SAMPLER),
                    (&self.lora, nothing, "lora", "adapters are not chosen by request"),
                ] {
                    $crate::api::fields::Given::refuse(given.as_ref(), neutral, name, why)?;
                }
                Ok(())
            }
        }
    };
}
pub(crate) use choosing_request;

/// Stop texts of a request, and bytes of each, at most.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 4096;
const MOST_STOP_TOKENS: usize = 128;

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
        if self.stop_tokens.len() > MOST_STOP_TOKENS {
            let message = format!("stop_token_ids has more than {MOST_STOP_TOKENS} ids");
            return Err(ApiError::field("stop_token_ids", message));
        }
        if let Some(most) = self.max_tokens.filter(|&most| (most as usize) < self.min_tokens) {
            let message = format!("min_tokens is {} but max_tokens {most}", self.min_tokens);
            return Err(ApiError::field("min_tokens", message));
        }
        let deadline = app.config.request_timeout.and_then(|time| Instant::now().checked_add(time));
        let request = Request {
            prompt,
            max_tokens: self.max_tokens.map(|count| count as usize).or(model.max_tokens),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            stop_tokens: self.stop_tokens.clone(),
            min_tokens: self.min_tokens,
            keep_special: self.keep_special,
            constraint,
            deadline,
            sampling: self.sampling(&model.sampling)?,
            ..Request::default()
        };
        let numbered = (0..count).map(|index| {
            let mut request = request.clone();
            request.sampling.seed = self.seed.map(|seed| (seed as u64).wrapping_add(index as u64));
            request
        });
        Ok(numbered.collect())
    }

    /// Refuses what makes no sense with any model.
    pub fn check(&self) -> Result<(), ApiError> {
        self.sampling(&SamplingParams::default()).map(drop)
    }

    fn sampling(&self, defaults: &SamplingParams) -> Result<SamplingParams, ApiError> {
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

/// What a chat template is told of how much the model is to think.
pub(crate) fn effort_args(effort: Option<String>) -> Map<String, Value> {
    let mut args = Map::new();
    if let Some(effort) = effort {
        if effort == "none" {
            args.insert("enable_thinking".into(), false.into());
        }
        args.insert("reasoning_effort".into(), effort.into());
    }
    args
}

/// How reports of log probabilities spell tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As text, broken characters replaced.
    Text,
    /// `token_id:ID`, as vLLM does where it is asked to.
    Ids,
}

impl Spelling {
    /// What `return_tokens_as_token_ids` of a request says.
    pub fn of(ids: Option<bool>) -> Self {
        if ids == Some(true) { Self::Ids } else { Self::Text }
    }

    /// A token as it is spelled, and its bytes.
    pub fn token(self, model: &Model, id: u32) -> (String, Vec<u8>) {
        let tokenizer = model.engine.tokenizer().ok();
        let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(id)).unwrap_or_default();
        match self {
            Self::Text => (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec()),
            Self::Ids => (format!("token_id:{id}"), bytes.to_vec()),
        }
    }
}
