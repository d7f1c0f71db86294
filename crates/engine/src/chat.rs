//! Chat templates: messages to prompt text.
//!
//! Templates are Jinja, rendered as huggingface/transformers renders them
//! (`src/transformers/utils/chat_template_utils.py`); the language itself is `keeve-jinja`. Like
//! there, a message's fields that are null are left out, and reasoning goes by all of its names.
//!
//! # Keeping people's text apart from control tokens
//! A prompt mixes control tokens written by the template with text written by people, which may
//! spell the same tokens. While a template is rendered, every character knows whether the template
//! wrote it or it came in with a message. A special token counts as one if the template wrote all
//! of it, be it in one piece, through a variable such as `bos_token`, or put together (`'<|' + role +
//! '|>'`). Whatever else spells one, even if several messages or a message and the template
//! do so together, stays text.
//!
//! Roles come from outside, too, and templates make tokens of them. The usual ones
//! ([`chat_message`](crate::chat_message)) count as the template's own words, others as text.
//!
//! # Limits
//! A rendering has a limited number of steps, memory and depth, and ends early if nobody wants it any more
//! ([`crate::wanted`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use jiff::civil::DateTime;
pub use keeve_jinja::start_thread;
use keeve_jinja::{Char, Host, Input, Limits, Template};
use serde_json::Map;

pub use crate::chat_message::{Content, Message, MessageError, Part};
use crate::chat_probe::{self, Forms, probe};
use crate::chat_time::strftime;
use crate::wanted;

/// Why a chat template was refused or could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is not valid, or failed while rendering.
    #[error("chat template: {0}")]
    Template(String),
    /// The template itself refused the conversation through `raise_exception`.
    #[error("the chat template refuses this conversation: {0}")]
    Raised(String),
    /// The template ran into its step limit.
    #[error("chat template: took too many steps")]
    TooManySteps,
    /// The template ran into its memory limit.
    #[error("chat template: needs too much memory")]
    TooLong,
    /// Whoever asked for the prompt no longer wants it.
    #[error("chat template: given up")]
    GivenUp,
    /// A template argument that the caller must set another way.
    #[error("chat template argument {0:?} is reserved")]
    Reserved(String),
    /// There are named templates only, and none of them fits.
    #[error("the model has several chat templates and none named \"default\": {0}")]
    NoDefault(String),
    /// A message cannot be given to the template.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl From<keeve_jinja::Error> for ChatError {
    fn from(error: keeve_jinja::Error) -> Self {
        use keeve_jinja::Error as E;
        match error {
            E::Raised(message) => Self::Raised(message),
            E::Steps => Self::TooManySteps,
            E::Memory => Self::TooLong,
            E::GivenUp => Self::GivenUp,
            other => Self::Template(other.to_string()),
        }
    }
}

/// A part of a prompt, for [`crate::tokenizer::Tokenizer::encode_segments`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Special tokens spelled in the text are meant as such.
    pub trusted: bool,
}

/// What a conversation is rendered with besides its messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Tool definitions as the template expects them (OpenAI form), if any.
    pub tools: Option<Vec<serde_json::Value>>,
    /// Documents for retrieval-augmented templates, if any.
    pub documents: Option<Vec<serde_json::Value>>,
    /// End with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Further template variables (`chat_template_kwargs`), such as `enable_thinking`.
    pub extra: Map<String, serde_json::Value>,
    /// The time `strftime_now` shows; absent, the local time of this machine.
    pub now: Option<DateTime>,
}

/// A compiled chat template, or several that a model chooses from.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    default: Option<Arc<Compiled>>,
    /// Those with another name than `default`.
    named: Vec<(String, Arc<Compiled>)>,
}

/// One template.
#[derive(Debug)]
struct Compiled {
    template: Template,
    /// `bos_token` and its kin, as the template sees them.
    variables: BTreeMap<String, String>,
    /// Finds special tokens; none if there are none.
    special: Option<AhoCorasick>,
    forms: Forms,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// `named` are the special tokens of `tokenizer_config.json` by name (`bos_token`, ...), which
    /// the template sees as variables. `special` are the texts of all special tokens
    /// ([`crate::tokenizer::Tokenizer::special_tokens`]).
    pub fn new(
        source: &str,
        named: &BTreeMap<String, String>,
        special: &[String],
    ) -> Result<Self, ChatError> {
        Self::of_several(&[("default".to_owned(), source.to_owned())], named, special)
    }

    /// Compiles templates with names. `tool_use` is for conversations with tools, `rag` for those with
    /// documents, and `default` for all others; for the rest see [`Self::new`].
    pub fn of_several(
        sources: &[(String, String)],
        named: &BTreeMap<String, String>,
        special: &[String],
    ) -> Result<Self, ChatError> {
        let mut all = Self { default: None, named: Vec::new() };
        for (name, source) in sources {
            let compiled = Arc::new(Compiled::new(source, named, special)?);
            if name == "default" {
                all.default = Some(compiled);
            } else {
                all.named.push((name.clone(), compiled));
            }
        }
        Ok(all)
    }

    /// The whole prompt as one text. To get token ids, use [`Self::render_segments`].
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, ChatError> {
        let segments = self.render_segments(messages, options)?;
        Ok(segments.into_iter().map(|segment| segment.text).collect())
    }

    /// The same, within what finding something out about a template may cost: a fortieth of what a prompt may.
    ///
    /// # Errors
    /// [`ChatError::TooManySteps`] or [`ChatError::TooLong`] beyond that, and as [`Self::render`].
    pub fn render_briefly(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, ChatError> {
        let template = self.chosen(options)?;
        let rendered = template.run(messages, options, &template.forms, chat_probe::LIMITS)?;
        Ok(rendered.iter().map(|c| c.get()).collect())
    }

    /// The prompt with the template's special tokens apart from everything else.
    ///
    /// Each trusted segment is one special token that the template put there; the untrusted
    /// segments between them hold the template's other text and the messages.
    pub fn render_segments(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, ChatError> {
        let template = self.chosen(options)?;
        let rendered = template.run(messages, options, &template.forms, Limits::default())?;
        Ok(template.segments(&rendered))
    }

    /// The template for a conversation (huggingface/transformers `tokenization_utils_base.py`,
    /// `get_chat_template`).
    fn chosen(&self, options: &RenderOptions) -> Result<&Compiled, ChatError> {
        let named = |wanted: &str| self.named.iter().find(|(name, _)| name == wanted);
        let given = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let special = [("tool_use", given(&options.tools)), ("rag", given(&options.documents))];
        let special = special.iter().filter(|(_, given)| *given);
        match special.filter_map(|(name, _)| named(name)).next() {
            Some((_, template)) => Ok(template),
            None => self.default.as_deref().ok_or_else(|| {
                let names: Vec<&str> = self.named.iter().map(|(name, _)| name.as_str()).collect();
                ChatError::NoDefault(names.join(", "))
            }),
        }
    }
}

impl Compiled {
    fn new(
        source: &str,
        variables: &BTreeMap<String, String>,
        special: &[String],
    ) -> Result<Self, ChatError> {
        let special: Vec<&String> = special.iter().filter(|text| !text.is_empty()).collect();
        let finder = match special.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(&special)
                    .map_err(|error| ChatError::Template(format!("special tokens: {error}")))?,
            ),
        };
        let template = Template::parse(source)?;
        let variables = variables.clone();
        let mut compiled = Self { template, variables, special: finder, forms: Forms::default() };
        compiled.forms = probe(&|messages, options, forms, limits| {
            compiled.run(messages, options, forms, limits)
        });
        Ok(compiled)
    }

    /// Renders messages in the forms that are given.
    fn run(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        forms: &Forms,
        limits: Limits,
    ) -> Result<Vec<Char>, ChatError> {
        let mut size = 0;
        let mut inputs: Vec<(&str, Input)> = Vec::new();
        for (name, text) in &self.variables {
            inputs.push((name, Input::Own(text.clone())));
        }
        for (name, value) in &options.extra {
            if RESERVED.contains(&name.as_str()) {
                return Err(ChatError::Reserved(name.clone()));
            }
            size += length(value);
            inputs.push((name, Input::Foreign(value.clone())));
        }
        let mut list = Vec::with_capacity(messages.len());
        for message in messages {
            let (input, bytes) = message.input(forms)?;
            size += bytes;
            list.push(input);
        }
        inputs.push(("messages", Input::List(list)));
        for (name, list) in [("tools", &options.tools), ("documents", &options.documents)] {
            let list = list.clone().map_or(serde_json::Value::Null, serde_json::Value::Array);
            size += length(&list);
            inputs.push((name, Input::Foreign(list)));
        }
        let prompt = serde_json::Value::Bool(options.add_generation_prompt);
        inputs.push(("add_generation_prompt", Input::Foreign(prompt)));
        // The language may render on a thread of its own, so whom to ask is taken along.
        let wanted = wanted::who();
        let gone = || wanted.as_ref().is_some_and(|wanted| !wanted.go_on());
        let host = Host { strftime: &|format| strftime(options.now, format), given_up: &gone };
        // What is given is in use as well, and parts of it are copied many times.
        let limits = Limits {
            steps: limits.steps.saturating_add(8 * size as u64),
            characters: limits.characters.saturating_add(24 * size),
        };
        Ok(self.template.render(&inputs, &host, limits)?)
    }

    /// Cuts rendered text at the special tokens that the template wrote.
    fn segments(&self, rendered: &[Char]) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut plain = String::new();
        for run in rendered.chunk_by(|a, b| a.is_foreign() == b.is_foreign()) {
            let text: String = run.iter().map(|c| c.get()).collect();
            let special = self.special.as_ref().filter(|_| !run[0].is_foreign());
            let mut done = 0;
            for found in special.into_iter().flat_map(|special| special.find_iter(&text)) {
                plain.push_str(&text[done..found.start()]);
                if !plain.is_empty() {
                    segments.push(Segment { text: std::mem::take(&mut plain), trusted: false });
                }
                segments.push(Segment { text: text[found.range()].to_owned(), trusted: true });
                done = found.end();
            }
            plain.push_str(&text[done..]);
        }
        if !plain.is_empty() {
            segments.push(Segment { text: plain, trusted: false });
        }
        segments
    }
}

/// Variables that the renderer itself provides.
const RESERVED: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception"];

/// About how many characters a value has.
pub(crate) fn length(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(items) => items.iter().map(|item| 8 + length(item)).sum(),
        serde_json::Value::Object(items) => {
            items.iter().map(|(key, item)| 64 + key.len() + length(item)).sum()
        }
        _ => 8,
    }
}
