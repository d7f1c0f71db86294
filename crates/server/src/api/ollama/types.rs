//! What Ollama's endpoints take and give (ollama/ollama, `docs/openapi.yaml` and `api/types.go`).

use keeve_engine::{Grammar, Timings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::api::common::{Choosing, Texts};
use crate::api::fields::{Given, Unused, or_default};
use crate::api::structured::schema;
use crate::api::tool_use::Tool;
use crate::error::ApiError;

/// How tokens are chosen, and settings of Ollama's own runner.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(as = ollama::Options)]
pub(crate) struct Options {
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    pub top_k: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Repeats the same random choices.
    pub seed: Option<f64>,
    /// The most tokens to generate; below 0: as many as the context holds.
    pub num_predict: Option<f64>,
    /// Texts that end the answer.
    pub stop: Option<Texts>,
    pub repeat_penalty: Option<f32>,
    /// 0: `repeat_penalty` has no effect; -1: it looks at all tokens, as it does here. Others are refused
    /// where `repeat_penalty` has an effect.
    pub repeat_last_n: Option<f64>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub mirostat: Option<Given>,
    pub tfs_z: Option<Given>,
    pub typical_p: Option<Given>,
    /// Has no effect: the context is that of the model, or of --max-context.
    #[serde(rename = "num_ctx")]
    pub _num_ctx: Option<Unused>,
    /// Has no effect: nothing is left out of a conversation; one that is too long is refused.
    #[serde(rename = "num_keep")]
    pub _num_keep: Option<Unused>,
    #[serde(rename = "mirostat_tau")]
    pub _mirostat_tau: Option<Unused>,
    #[serde(rename = "mirostat_eta")]
    pub _mirostat_eta: Option<Unused>,
    #[serde(rename = "penalize_newline")]
    pub _penalize_newline: Option<Unused>,
    #[serde(rename = "numa")]
    pub _numa: Option<Unused>,
    #[serde(rename = "num_batch")]
    pub _num_batch: Option<Unused>,
    #[serde(rename = "num_gpu")]
    pub _num_gpu: Option<Unused>,
    #[serde(rename = "main_gpu")]
    pub _main_gpu: Option<Unused>,
    #[serde(rename = "low_vram")]
    pub _low_vram: Option<Unused>,
    #[serde(rename = "f16_kv")]
    pub _f16_kv: Option<Unused>,
    #[serde(rename = "logits_all")]
    pub _logits_all: Option<Unused>,
    #[serde(rename = "vocab_only")]
    pub _vocab_only: Option<Unused>,
    #[serde(rename = "use_mmap")]
    pub _use_mmap: Option<Unused>,
    #[serde(rename = "use_mlock")]
    pub _use_mlock: Option<Unused>,
    #[serde(rename = "embedding_only")]
    pub _embedding_only: Option<Unused>,
    #[serde(rename = "num_thread")]
    pub _num_thread: Option<Unused>,
}

/// A number without a fraction. Ollama takes `128.0` where it means `128`.
fn whole(number: Option<f64>, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(number) = number else { return Ok(None) };
    // All integers up to 2^53 are exact.
    if number.fract() != 0.0 || number.abs() > 9e15 {
        let field = format!("options.{name}");
        return Err(ApiError::field(
            &field,
            format!("{field} is {number}, expected a whole number"),
        ));
    }
    Ok(Some(number as i64))
}

impl Options {
    /// What the engine is asked for.
    pub fn choosing(self) -> Result<Choosing, ApiError> {
        for (given, neutral, name) in [
            (&self.mirostat, 0.0, "options.mirostat"),
            (&self.tfs_z, 1.0, "options.tfs_z"),
            (&self.typical_p, 1.0, "options.typical_p"),
        ] {
            Given::refuse(given.as_ref(), neutral, name, "there is no such sampler here")?;
        }
        let mut penalty = self.repeat_penalty;
        match whole(self.repeat_last_n, "repeat_last_n")? {
            Some(0) => penalty = penalty.map(|_| 1.0),
            Some(count) if count > 0 && penalty.is_some_and(|penalty| penalty != 1.0) => {
                let message =
                    "options.repeat_last_n: repeat_penalty looks at all tokens, expected -1 or 0";
                return Err(ApiError::field("options.repeat_last_n", message));
            }
            _ => {}
        }
        let most = whole(self.num_predict, "num_predict")?;
        let most =
            most.filter(|&most| most >= 0).map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        Ok(Choosing {
            seed: whole(self.seed, "seed")?,
            stop: self.stop.map(Texts::into_vec).unwrap_or_default(),
            max_tokens: most,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: whole(self.top_k, "top_k")?,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: penalty,
            ..Choosing::default()
        })
    }
}

/// How tokens are chosen, as a request says it.
pub(crate) fn choosing(
    options: Option<Options>,
    top_logprobs: Option<u32>,
) -> Result<Choosing, ApiError> {
    let choosing = options.unwrap_or_default().choosing()?;
    Ok(Choosing { top_logprobs: top_logprobs.unwrap_or(0) as usize, ..choosing })
}

/// How long a model is to stay loaded: a number of seconds, or a text such as `5m`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = ollama::KeepAlive)]
#[serde(untagged)]
pub(crate) enum KeepAlive {
    /// Seconds.
    Seconds(f64),
    /// A duration, as Go writes it.
    Text(String),
}

impl KeepAlive {
    /// Whether the model is to be unloaded at once.
    ///
    /// # Errors
    /// If this is no duration.
    pub fn is_zero(&self) -> Result<bool, ApiError> {
        match self {
            Self::Seconds(seconds) => Ok(*seconds == 0.0),
            Self::Text(text) => match seconds(text) {
                Some(seconds) => Ok(seconds == 0.0),
                None => {
                    let message =
                        "keep_alive is no duration, expected a number or a text such as 5m";
                    Err(ApiError::field("keep_alive", message))
                }
            },
        }
    }
}

/// The seconds of a duration as Go writes it (Go, package time, `ParseDuration`): `1h30m`, `-1`, `0`.
fn seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Ok(number) = rest.parse::<u64>() {
        return Some(sign * number as f64);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number * unit;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(sign * sum)
}

/// What an answer has to look like: `json`, or a JSON schema; an empty text or null is any text.
pub(crate) fn grammar(format: Option<Value>) -> Result<Option<Grammar>, ApiError> {
    match format {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => {
            Ok(Some(Grammar::JsonSchema(json!({ "type": "object" }))))
        }
        Some(Value::String(_)) => Err(ApiError::field("format", "format is json or a JSON schema")),
        Some(value) => schema("format", value).map(Some),
    }
}

/// Whether the model is to think, or how much.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = ollama::Think)]
#[serde(untagged)]
pub(crate) enum Think {
    /// Whether it is to think.
    Whether(bool),
    /// How much: `low`, `medium` or `high`.
    Level(String),
}

impl Think {
    /// What the chat template is told.
    pub fn args(this: Option<Self>) -> Map<String, Value> {
        let mut args = Map::new();
        match this {
            None => {}
            Some(Self::Whether(whether)) => {
                args.insert("enable_thinking".into(), whether.into());
            }
            Some(Self::Level(level)) => {
                args.insert("enable_thinking".into(), (level != "none").into());
                args.insert("reasoning_effort".into(), level.into());
            }
        }
        args
    }
}

/// A conversation to go on with, in Ollama's form.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ollama::ChatRequest)]
pub(crate) struct ChatRequest {
    /// The model, perhaps with `:latest`. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// The conversation. Without one, the model is loaded.
    pub messages: Option<Vec<ChatMessage>>,
    pub tools: Option<Vec<Tool>>,
    /// `json`, or a JSON schema.
    pub format: Option<Value>,
    pub options: Option<Options>,
    /// Whether the answer is sent in pieces; true if not given.
    pub stream: Option<bool>,
    /// 0 without messages: unload the model. Others have no effect: --ttl says how long a model stays.
    pub keep_alive: Option<KeepAlive>,
    pub think: Option<Think>,
    /// Report the log probability of each token.
    pub logprobs: Option<bool>,
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Has no effect: a conversation that is too long is refused.
    #[serde(rename = "truncate")]
    pub _truncate: Option<Unused>,
    /// Has no effect, as `truncate`.
    #[serde(rename = "shift")]
    pub _shift: Option<Unused>,
}

/// A message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[schema(as = ollama::ChatMessage)]
pub(crate) struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub content: String,
    /// Images in base64.
    pub images: Option<Vec<String>>,
    pub tool_calls: Option<Vec<MadeCall>>,
    /// Of a tool's message: the tool.
    #[serde(alias = "name")]
    pub tool_name: Option<String>,
    /// Of a tool's message: the call.
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it answered.
    pub thinking: Option<String>,
}

/// A call that the assistant made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = ollama::MadeCall)]
pub(crate) struct MadeCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub function: MadeFunction,
}

/// The function of a call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = ollama::MadeFunction)]
pub(crate) struct MadeFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<Map<String, Value>>)]
    pub arguments: Map<String, Value>,
}

/// A text to answer, or to go on with.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ollama::GenerateRequest)]
pub(crate) struct GenerateRequest {
    /// The model, perhaps with `:latest`. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// The question. Without one, the model is loaded.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub prompt: String,
    /// The text after the answer: the model fills in what is between, by its own tokens for that.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub suffix: String,
    /// Images in base64.
    pub images: Option<Vec<String>>,
    /// A system prompt.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub system: String,
    pub template: Option<Given>,
    pub context: Option<Given>,
    /// Whether the prompt is given to the model as it is, without its chat template; names of special tokens in it
    /// are these tokens.
    pub raw: Option<bool>,
    /// `json`, or a JSON schema.
    pub format: Option<Value>,
    pub options: Option<Options>,
    /// Whether the answer is sent in pieces; true if not given.
    pub stream: Option<bool>,
    /// 0 without a prompt: unload the model. Others have no effect: --ttl says how long a model stays.
    pub keep_alive: Option<KeepAlive>,
    pub think: Option<Think>,
    /// Report the log probability of each token.
    pub logprobs: Option<bool>,
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    pub width: Option<Given>,
    pub height: Option<Given>,
    pub steps: Option<Given>,
    /// Has no effect: a prompt that is too long is refused.
    #[serde(rename = "truncate")]
    pub _truncate: Option<Unused>,
    /// Has no effect, as `truncate`.
    #[serde(rename = "shift")]
    pub _shift: Option<Unused>,
}

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ollama::EmbedRequest)]
pub(crate) struct EmbedRequest {
    /// The model, perhaps with `:latest`. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// The text or texts.
    pub input: Option<Texts>,
    /// The one text, of `/api/embeddings`.
    pub prompt: Option<String>,
    /// Whether texts that are too long are cut; true if not given.
    pub truncate: Option<bool>,
    /// How many numbers vectors keep; they are then scaled to length 1 again.
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Has no effect.
    #[serde(rename = "options")]
    pub _options: Option<Unused>,
    /// Has no effect: --ttl says how long a model stays.
    #[serde(rename = "keep_alive")]
    pub _keep_alive: Option<Unused>,
}

impl EmbedRequest {
    /// Refuses vectors of no numbers.
    pub fn check(&self) -> Result<(), ApiError> {
        match self.dimensions {
            Some(0) => Err(ApiError::field("dimensions", "dimensions is 0 (expected at least 1)")),
            _ => Ok(()),
        }
    }
}

/// How long things took, in nanoseconds, and how many tokens there were; nothing before the end.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
#[schema(as = ollama::Durations)]
pub(crate) struct Durations {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_duration: Option<u64>,
}

impl Durations {
    /// What an answer took that began at `begun` and had its model after `load`.
    pub fn of(timings: &Timings, begun: std::time::Instant, load: std::time::Duration) -> Self {
        let nanoseconds = |time: std::time::Duration| Some(time.as_nanos() as u64);
        Self {
            total_duration: nanoseconds(begun.elapsed()),
            load_duration: nanoseconds(load),
            prompt_eval_count: Some(timings.prompt_tokens),
            prompt_eval_duration: nanoseconds(timings.prompt),
            eval_count: Some(timings.decode_tokens),
            eval_duration: nanoseconds(timings.decode),
        }
    }
}

/// A token and its log probability.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ollama::TokenReport)]
pub(crate) struct TokenReport {
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    pub bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub top_logprobs: Vec<TokenReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("5m", Some(300.0)),
            ("1h30m", Some(5400.0)),
            ("1.5s", Some(1.5)),
            ("-1", Some(-1.0)),
            ("0", Some(0.0)),
            ("0s", Some(0.0)),
            ("-1m", Some(-60.0)),
            ("250ms", Some(0.25)),
            ("", None),
            ("m", None),
            ("5x", None),
            ("5 m", None),
            ("1.2.3s", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_may_be_written_with_a_fraction_that_is_none() {
        let options: Options =
            serde_json::from_value(json!({ "num_predict": 12.0, "top_k": 40, "seed": 1.0 }))
                .unwrap();
        let choosing = options.choosing().unwrap();
        assert_eq!(
            (choosing.max_tokens, choosing.top_k, choosing.seed),
            (Some(12), Some(40), Some(1))
        );
        for (options, field) in [
            (json!({ "num_predict": 1.5 }), "options.num_predict"),
            (json!({ "mirostat": 2 }), "options.mirostat"),
            (json!({ "repeat_penalty": 1.1, "repeat_last_n": 64 }), "options.repeat_last_n"),
        ] {
            let options: Options = serde_json::from_value(options).unwrap();
            assert_eq!(options.choosing().unwrap_err().param.as_deref(), Some(field));
        }
        let neutral = json!({ "mirostat": 0, "tfs_z": 1.0, "num_predict": -1, "repeat_penalty": 1.1,
            "repeat_last_n": -1, "num_ctx": 4096 });
        let options: Options = serde_json::from_value(neutral).unwrap();
        assert_eq!(options.choosing().unwrap().max_tokens, None);
    }
}
