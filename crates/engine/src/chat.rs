//! Chat templates: messages to prompt text.
//!
//! Templates are Jinja, rendered as huggingface/transformers renders them
//! (`src/transformers/utils/chat_template_utils.py`): `trim_blocks` and `lstrip_blocks` on, loop
//! controls, `raise_exception`, `strftime_now`, its `tojson`, and `{% generation %}` blocks, which
//! only mark text and are rendered like any other.
//!
//! # Keeping people's text apart from control tokens
//! A prompt mixes control tokens written by the template with text written by people, which may
//! spell the same tokens. Marking the people's text would be seen by the template (`trim`,
//! `startswith`, `split("</think>")` would all behave differently), so the *template's* control
//! tokens are marked instead: wherever the template's source spells a special token, and in
//! `bos_token` and its kin, the token is replaced by one private-use character of its own before
//! the template is compiled. People's text goes in unchanged, except that those private-use
//! characters are replaced in it by U+FFFD. In the output, exactly those characters are control
//! tokens; whatever else spells one, even if put together from several messages, is not.
//!
//! A template that puts a special token together from pieces (`"<|" + role + "|>"`) cannot be
//! told from a person doing so. It is found out by rendering a harmless conversation when the
//! template is loaded, and refused when used.
//!
//! # Limits
//! A template runs with a limited number of steps, recursion depth and output. Its memory is
//! *not* limited: a template from a malicious model file can still build large strings.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use aho_corasick::{AhoCorasick, MatchKind};
use jiff::civil::DateTime;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Map;

use crate::chat_language::{RaisedMessage, environment, strftime_now, without_generation_tags};
use crate::chat_message::ContentForm;
pub use crate::chat_message::{Content, Message, MessageError, Part};

/// The first private-use character that stands for a special token, and how many there may be.
const FIRST_MARK: u32 = 0x10_f000;
const MAX_MARKS: u32 = 4000;

/// Longest template source read, in bytes. The longest in use are about 20 kB.
const MAX_SOURCE: usize = 1 << 20;

/// Longest output, in bytes.
const MAX_OUTPUT: usize = 64 << 20;

/// Steps of the template engine allowed to one rendering. A message takes around a hundred.
const MAX_STEPS: u64 = 500_000;

/// Stack of the thread that renders, in bytes; only what is used takes memory.
///
/// A template can nest a list in itself once a step, and the engine drops, prints and compares
/// nested values by recursion. This is 1 KiB for each possible level, several times what it takes.
const STACK: usize = 512 << 20;

/// The name errors show for the template.
const NAME: &str = "chat_template";

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
    #[error("chat template: took more than {MAX_STEPS} steps")]
    TooManySteps,
    /// The output grew past its limit.
    #[error("chat template: output is longer than {MAX_OUTPUT} bytes")]
    TooLong,
    /// Special tokens and people's text cannot be told apart in this template's output.
    #[error(
        "chat template: it puts the special token {0:?} together from pieces, which cannot be told from a user's text"
    )]
    BuildsSpecial(String),
    /// A template argument that the caller must set another way.
    #[error("chat template argument {0:?} is reserved")]
    Reserved(String),
    /// A message cannot be given to the template.
    #[error(transparent)]
    Message(#[from] MessageError),
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

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and its kin, as the template sees them.
    named: BTreeMap<String, String>,
    /// `marks[n]` is the special token that the private-use character `FIRST_MARK + n` stands for.
    marks: Vec<String>,
    form: ContentForm,
    /// A special token the template was seen to put together from pieces.
    builds: Option<String>,
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
        if source.len() > MAX_SOURCE {
            return Err(ChatError::Template(format!(
                "source has {} bytes (expected at most {MAX_SOURCE})",
                source.len()
            )));
        }
        if source.chars().any(is_mark) {
            return Err(ChatError::Template(
                "source contains private-use characters from U+10F000 on".to_owned(),
            ));
        }
        let markable: Vec<&String> = special.iter().filter(|text| is_markable(text)).collect();
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&markable)
            .map_err(|error| ChatError::Template(format!("special tokens: {error}")))?;
        let mut marks = Marks::default();
        let source = marks.put_in(&without_generation_tags(source), &matcher, &markable)?;
        let named = named.iter().map(|(name, text)| {
            let seen =
                if special.contains(text) { marks.of(text)?.to_string() } else { text.clone() };
            Ok((name.clone(), seen))
        });
        let named: BTreeMap<String, String> = named.collect::<Result<_, ChatError>>()?;
        let mut environment = environment(MAX_STEPS).map_err(|error| describe(&error))?;
        environment.add_template_owned(NAME, source).map_err(|error| describe(&error))?;
        let mut template = Self {
            environment,
            named,
            marks: marks.texts,
            form: ContentForm::AsGiven,
            builds: None,
        };
        template.form = template.probe_content();
        template.builds = template.probe_specials(&matcher);
        Ok(template)
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

    /// The prompt with the template's special tokens apart from everything else.
    ///
    /// Each trusted segment is one special token that the template put there; the untrusted
    /// segments between them hold the template's other text and the messages.
    pub fn render_segments(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, ChatError> {
        if let Some(text) = &self.builds {
            return Err(ChatError::BuildsSpecial(text.clone()));
        }
        Ok(self.segments(&self.run(messages, options, self.form)?))
    }

    /// Renders to text in which private-use characters stand for special tokens.
    fn run(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        form: ContentForm,
    ) -> Result<String, ChatError> {
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        for (name, text) in &self.named {
            context.insert(name.clone(), Value::from(text.clone()));
        }
        for (name, value) in &options.extra {
            if RESERVED.contains(&name.as_str()) {
                return Err(ChatError::Reserved(name.clone()));
            }
            context.insert(name.clone(), template_value(value));
        }
        let mut list = Vec::with_capacity(messages.len());
        for message in messages {
            list.push(message.to_value(form)?);
        }
        context.insert("messages".to_owned(), template_value(&list.into()));
        let optional = |list: &Option<Vec<serde_json::Value>>| list.clone().into();
        context.insert("tools".to_owned(), template_value(&optional(&options.tools)));
        context.insert("documents".to_owned(), template_value(&optional(&options.documents)));
        let prompt = Value::from(options.add_generation_prompt);
        context.insert("add_generation_prompt".to_owned(), prompt);
        let now = options.now;
        let strftime = move |format: &str| strftime_now(now, format);
        context.insert("strftime_now".to_owned(), Value::from_function(strftime));

        let render = || {
            let mut output = Limited(Vec::new());
            let template = self.environment.get_template(NAME)?;
            template.render_captured_to(context, &mut output)?;
            Ok(output.0)
        };
        // Everything the template made is dropped in there, errors included: they hold values.
        let guarded = || match catch_unwind(AssertUnwindSafe(render)) {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err(ChatError::Template("the template engine gave up".to_owned())),
        };
        let bytes = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, guarded);
            let gone = |what: String| ChatError::Template(format!("cannot render: {what}"));
            let thread = thread.map_err(|error| gone(error.to_string()))?;
            thread.join().unwrap_or_else(|_| Err(gone("its thread ended early".to_owned())))
        })?;
        String::from_utf8(bytes).map_err(|error| ChatError::Template(error.to_string()))
    }

    /// Cuts rendered text at the private-use characters that stand for special tokens.
    fn segments(&self, rendered: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut plain = String::new();
        for c in rendered.chars() {
            let token = u32::from(c)
                .checked_sub(FIRST_MARK)
                .and_then(|index| self.marks.get(usize::try_from(index).ok()?));
            let Some(token) = token else {
                plain.push(c);
                continue;
            };
            if !plain.is_empty() {
                segments.push(Segment { text: std::mem::take(&mut plain), trusted: false });
            }
            segments.push(Segment { text: token.clone(), trusted: true });
        }
        if !plain.is_empty() {
            segments.push(Segment { text: plain, trusted: false });
        }
        segments
    }

    /// Finds out which form of content the template reads by giving it both.
    fn probe_content(&self) -> ContentForm {
        const WORD: &str = "probe-5c1f";
        let reads = |content: Content| {
            let message = Message { content: Some(content), ..Message::text("user", "") };
            let output = self.run(&[message], &RenderOptions::default(), ContentForm::AsGiven);
            // A list printed as such shows its keys.
            output.is_ok_and(|text| text.contains(WORD) && !text.contains("type"))
        };
        let parts = vec![Part::text(WORD)];
        match (reads(Content::Text(WORD.to_owned())), reads(Content::Parts(parts))) {
            (true, false) => ContentForm::TextOnly,
            (false, true) => ContentForm::PartsOnly,
            _ => ContentForm::AsGiven,
        }
    }

    /// A special token that shows up in harmless conversations without being marked.
    fn probe_specials(&self, matcher: &AhoCorasick) -> Option<String> {
        let turns = ["user", "assistant", "user"].map(|role| Message::text(role, "word"));
        let with_system = [&[Message::text("system", "word")], &turns[..]].concat();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        for messages in [&turns[..1], &turns[..], &with_system[..]] {
            // A template may refuse a conversation; then this one says nothing.
            let Ok(rendered) = self.run(messages, &options, self.form) else { continue };
            if let Some(found) = matcher.find(&rendered) {
                return Some(rendered[found.range()].to_owned());
            }
        }
        None
    }
}

/// Variables that the renderer itself provides.
const RESERVED: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception"];

/// The special tokens that have got a private-use character so far.
#[derive(Default)]
struct Marks {
    texts: Vec<String>,
}

impl Marks {
    /// The character that stands for `text`.
    fn of(&mut self, text: &str) -> Result<char, ChatError> {
        let index = self.texts.iter().position(|known| known == text).unwrap_or_else(|| {
            self.texts.push(text.to_owned());
            self.texts.len() - 1
        });
        u32::try_from(index)
            .ok()
            .filter(|&index| index < MAX_MARKS)
            .and_then(|index| char::from_u32(FIRST_MARK + index))
            .ok_or_else(|| ChatError::Template(format!("uses over {MAX_MARKS} special tokens")))
    }

    /// Replaces every special token spelled in `source`.
    fn put_in(
        &mut self,
        source: &str,
        matcher: &AhoCorasick,
        special: &[&String],
    ) -> Result<String, ChatError> {
        let mut marked = String::with_capacity(source.len());
        let mut done = 0;
        for found in matcher.find_iter(source) {
            marked.push_str(&source[done..found.start()]);
            marked.push(self.of(special[found.pattern().as_usize()])?);
            done = found.end();
        }
        marked.push_str(&source[done..]);
        Ok(marked)
    }
}

fn is_mark(c: char) -> bool {
    (FIRST_MARK..FIRST_MARK + MAX_MARKS).contains(&u32::from(c))
}

/// Whether a special token may be looked for in template source.
///
/// A token that is an ordinary word or a piece of template syntax would be found where it means
/// something else; such tokens are left alone, hence never trusted.
fn is_markable(text: &str) -> bool {
    let syntax = ["{{", "}}", "{%", "%}", "{#", "#}", "'", "\"", "\\"];
    text.chars().count() >= 3
        && !text.contains(char::is_whitespace)
        && text.chars().any(|c| !(c.is_ascii_alphanumeric() || c == '_'))
        && !syntax.iter().any(|piece| text.contains(piece))
}

/// A JSON value as the template sees it, private-use marks in strings and keys being replaced by
/// U+FFFD.
pub(crate) fn template_value(json: &serde_json::Value) -> Value {
    let clean = |text: &str| Value::from(text.replace(is_mark, "\u{fffd}"));
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => clean(text),
        serde_json::Value::Array(items) => items.iter().map(template_value).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, item)| (clean(key), template_value(item))))
        }
    }
}

/// A template engine error as ours, in one line.
fn describe(error: &minijinja::Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(raised) = inner.downcast_ref::<RaisedMessage>() {
            return ChatError::Raised(raised.0.replace('\n', " "));
        }
        if inner.downcast_ref::<TooLong>().is_some() {
            return ChatError::TooLong;
        }
        if let Some(inner) = inner.downcast_ref::<minijinja::Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return ChatError::TooManySteps;
        }
        // An I/O error keeps its payload apart from its source.
        cause = match inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(payload) => Some(payload),
            None => inner.source(),
        };
    }
    ChatError::Template(error.to_string().replace('\n', " "))
}

/// Collects output up to [`MAX_OUTPUT`].
struct Limited(Vec<u8>);

#[derive(Debug, thiserror::Error)]
#[error("output is too long")]
struct TooLong;

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT.saturating_sub(self.0.len()) {
            return Err(io::Error::other(TooLong));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
