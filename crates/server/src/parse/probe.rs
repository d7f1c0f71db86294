//! Finding out how a model writes its answers.
//!
//! The chat template is given a conversation in which the assistant calls a tool. Of what it makes of
//! that, each notation's parser is given the assistant's turn: the notation whose parser finds exactly
//! that call is the model's. So neither the model's name nor words in the template decide.
//!
//! Templates that write no calls (of Granite 3, Phi-4 mini and SmolLM 3, say) leave less to go by: in this
//! order, what the template tells the model about tools, the tokens of the vocabulary, and the
//! template's source.

use std::cell::Cell;
use std::sync::Arc;

use keeve_engine::chat::{ChatError, ChatTemplate, Content, Part};
use keeve_engine::{Message, RenderOptions, Tokenizer};
use serde_json::{Map, Value, json};

use super::channels::{ChannelParser, ChannelStyle};
use super::marker::Specials;
use super::notation::{Form, Notation};
use super::reader::ToolList;
use super::table::{HERMES, NOTATIONS};
use super::tools::{ToolParser, ToolStyle};
use super::{AnswerStyle, Delta, Reasoning};

/// What was found out about a model's chat template.
#[derive(Debug, Clone)]
pub(crate) struct Probed {
    /// Whether it tells the model about tools.
    pub tools: bool,
    /// Whether it writes the calls of earlier turns.
    pub calls: bool,
    pub ids: CallIds,
    pub style: AnswerStyle,
}

/// Which identifiers of calls a chat template takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallIds {
    Any,
    /// Nine letters and digits (Mistral).
    Nine,
    /// `functions.NAME:INDEX`, which stands for the name (Kimi K2).
    Qualified,
}

const NAME: &str = "probe_fn";
const ASKED: &str = "asked-5c1f";
const THOUGHT: &str = "mull-5c1f";
const SAID: &str = "said-5c1f";

impl CallIds {
    fn example(self) -> &'static str {
        match self {
            Self::Any => "call_5c1f0001",
            Self::Nine => "a5c1f0001",
            Self::Qualified => "functions.probe_fn:0",
        }
    }
}

fn arguments() -> Value {
    json!({ "alpha": "vv", "beta": 7 })
}

fn schema() -> Map<String, Value> {
    let schema = json!({ "type": "object", "required": ["alpha"], "properties": {
        "alpha": { "type": "string", "description": "x" },
        "beta": { "type": "integer", "description": "y" } } });
    schema.as_object().cloned().unwrap_or_default()
}

/// Probes a model. `source` is its template's.
pub(crate) fn probe(
    template: Option<&ChatTemplate>,
    source: &str,
    tokenizer: Option<&Tokenizer>,
) -> Probed {
    let writer = template.map(|template| Writer { template, costly: Cell::new(false) });
    let written = writer.as_ref().and_then(Writer::call);
    let channels = matches!(written, Some((How::Channels, _)))
        || writer.as_ref().is_some_and(Writer::says_in_channels);
    let with_tools = writer.as_ref().and_then(|writer| writer.text(&[user()], true, true));
    let tools = match (&writer, &with_tools) {
        (Some(writer), Some(with)) => {
            writer.text(&[user()], false, true).is_none_or(|without| without != *with)
        }
        _ => source.contains("tools"),
    };
    let notation = match written {
        Some((How::Calls(notation), _)) => notation,
        Some((How::Channels, _)) => HERMES,
        // What a template does not say, the model is told in this notation.
        None if !tools => HERMES,
        None => guess(&with_tools.unwrap_or_default(), source, tokenizer),
    };
    let reasoning = writer.as_ref().and_then(Writer::reasoning);
    let reasoning = reasoning.or_else(|| writer.as_ref().and_then(Writer::told_reasoning));
    let reasoning = reasoning.or_else(|| known_reasoning(source, tokenizer)).unwrap_or_default();
    Probed {
        tools,
        calls: written.is_some(),
        ids: written.map_or(CallIds::Any, |(_, ids)| ids),
        style: AnswerStyle::new(reasoning, notation, channels, tokenizer),
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    Calls(&'static Notation),
    Channels,
}

fn user() -> Message {
    Message::text("user", ASKED)
}

struct Writer<'a> {
    template: &'a ChatTemplate,
    /// Whether a rendering cost too much: then no more is tried.
    costly: Cell<bool>,
}

impl Writer<'_> {
    /// What the template makes of a conversation; `None` if it refuses it or is too costly.
    fn text(&self, messages: &[Message], tools: bool, begin: bool) -> Option<String> {
        if self.costly.get() {
            return None;
        }
        let tool = json!({ "type": "function", "function": {
            "name": NAME, "description": "d", "parameters": schema() } });
        let options = RenderOptions {
            tools: tools.then(|| vec![tool]),
            add_generation_prompt: begin,
            ..RenderOptions::default()
        };
        let rendered = self.template.render_briefly(messages, &options);
        let costly = matches!(rendered, Err(ChatError::TooManySteps | ChatError::TooLong));
        self.costly.set(costly);
        rendered.ok()
    }

    /// What the template makes of an assistant's turn, as the model would have to write it.
    fn turn(&self, message: Message, tools: bool) -> Option<String> {
        let before = self.text(&[user()], tools, true)?;
        let whole = self.text(&[user(), message], tools, false)?;
        let same = before.char_indices().zip(whole.chars());
        let same = same.take_while(|((_, one), other)| one == other).last();
        let start = same.map_or(0, |((at, c), _)| at + c.len_utf8());
        // A mark of which the prompt happens to begin another one is the model's from its start.
        let mark = whole[..start].rfind(['<', '[']).unwrap_or(start);
        let open = !whole[mark..start].contains(['>', ']']);
        let start = if open { mark } else { start };
        Some(whole[start..].to_owned())
    }

    /// How the template writes a call, and which identifier it took for it.
    fn call(&self) -> Option<(How, CallIds)> {
        for ids in [CallIds::Any, CallIds::Qualified, CallIds::Nine] {
            for content in [Some(Content::Text(String::new())), None] {
                let call = json!({ "id": ids.example(), "type": "function", "function": {
                    "name": NAME, "arguments": arguments().to_string() } });
                let message = Message {
                    content,
                    tool_calls: Some(vec![call]),
                    ..Message::text("assistant", "")
                };
                let Some(text) = self.turn(message, true) else { continue };
                if let Some(how) = reads(&text) {
                    return Some((how, ids));
                }
            }
        }
        None
    }

    /// Whether plain answers come in channels.
    fn says_in_channels(&self) -> bool {
        let Some(text) = self.turn(Message::text("assistant", SAID), false) else { return false };
        let style = Arc::new(ChannelStyle::new(&Specials::default()));
        let mut parser = ChannelParser::new(style, None, false);
        let mut deltas = parser.push(&text);
        deltas.extend(parser.finish());
        let said: String = deltas
            .into_iter()
            .filter_map(|delta| match delta {
                Delta::Text(text) => Some(text),
                _ => None,
            })
            .collect();
        text.contains(super::channels::CHANNEL) && said.trim() == SAID
    }

    /// What the template puts around reasoning.
    fn reasoning(&self) -> Option<Reasoning> {
        let thought = |key: &str| {
            let mut message = Message::text("assistant", SAID);
            message.other.insert(key.into(), THOUGHT.into());
            message
        };
        let part = Part {
            kind: "thinking".into(),
            text: None,
            other: [("thinking".to_owned(), Value::from(THOUGHT))].into_iter().collect(),
        };
        let parts = Message::parts("assistant", vec![part, Part::text(SAID)]);
        let content =
            Message { reasoning_content: Some(THOUGHT.into()), ..Message::text("assistant", SAID) };
        // Some keep reasoning only before a call.
        let call = json!({ "id": CallIds::Any.example(), "type": "function", "function": {
            "name": NAME, "arguments": arguments().to_string() } });
        let before_call = Message { tool_calls: Some(vec![call]), ..content.clone() };
        let messages = [content, thought("reasoning"), thought("thinking"), parts, before_call];
        messages.into_iter().find_map(|message| {
            let tools = message.tool_calls.is_some();
            let text = self.text(&[user(), message], tools, false)?;
            // A system prompt may show an example.
            let (_, turn) = text.rsplit_once(ASKED)?;
            let (before, after) = turn.split_once(THOUGHT)?;
            around(before, after).or_else(|| self.begun(before, after, tools))
        })
    }

    /// The marks of reasoning that a prompt begins with words, and the answer ends with a mark of its own (Apriel
    /// 1.6): `before` and `after` are what stands around a thought.
    fn begun(&self, before: &str, after: &str, tools: bool) -> Option<Reasoning> {
        let prompt = self.text(&[user()], tools, true)?;
        let (_, turn) = prompt.rsplit_once(ASKED)?;
        let open = turn.strip_prefix(before)?.trim();
        let close = after.split(SAID).next()?.trim();
        let mark = close.starts_with('[') && close.ends_with(']') && close.len() <= 40;
        let words = open.len() <= 60 && open.ends_with(':');
        (mark && words).then(|| Reasoning {
            open: open.to_owned(),
            close: close.to_owned(),
            end: String::new(),
            rendered: true,
        })
    }

    /// The marks of reasoning that the model is only told of: ServiceNow-AI/Apriel-1.5-15b-Thinker's system prompt,
    /// and its model card, which has what reasoning begins with.
    fn told_reasoning(&self) -> Option<Reasoning> {
        const CLOSE: &str = "[BEGIN FINAL RESPONSE]";
        let told = self.text(&[user()], false, true)?;
        told.contains(CLOSE).then(|| Reasoning {
            open: "Here are my reasoning steps:".into(),
            close: CLOSE.into(),
            end: "[END FINAL RESPONSE]".into(),
            rendered: false,
        })
    }
}

/// The marks at the end of `before` and the beginning of `after`, between which a thought stands.
fn around(before: &str, after: &str) -> Option<Reasoning> {
    let before = before.trim_end();
    let open = &before[before.rfind(['<', '[', '◁'])?..];
    let after = after.trim_start();
    let end = after.find(['>', ']', '▷'])?;
    let close = &after[..end + after[end..].chars().next()?.len_utf8()];
    // What a turn is full of is no mark of reasoning.
    let once = before.matches(open).count() == 1 && !before.contains(close);
    let marks = open.len() <= 40 && close.len() <= 40 && close.starts_with(['<', '[', '◁']);
    // The beginning of a turn is no mark of reasoning: marks of a pair name the same thing.
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphabetic());
        words.filter(|word| word.len() >= 5).map(str::to_owned).collect()
    };
    let named = words(close);
    let pair = words(open).iter().any(|word| named.contains(word));
    (marks && pair && once).then(|| Reasoning {
        open: open.to_owned(),
        close: close.to_owned(),
        end: String::new(),
        rendered: true,
    })
}

/// Marks of reasoning that a vocabulary has, where the template writes none: Magistral, Command A
/// Reasoning, Kimi-VL, Seed-OSS, Apertus.
fn known_reasoning(source: &str, tokenizer: Option<&Tokenizer>) -> Option<Reasoning> {
    const KNOWN: [(&str, &str); 5] = [
        ("[THINK]", "[/THINK]"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("◁think▷", "◁/think▷"),
        ("<seed:think>", "</seed:think>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
    ];
    let has = |mark: &str| tokenizer.is_some_and(|tokenizer| tokenizer.token_id(mark).is_some());
    let known = KNOWN.iter().find(|(open, close)| has(open) && has(close));
    let known = known.filter(|_| !source.contains("</think>"));
    known.map(|(open, close)| Reasoning {
        open: (*open).to_owned(),
        close: (*close).to_owned(),
        end: String::new(),
        rendered: false,
    })
}

/// Which parser reads the call in this text.
fn reads(text: &str) -> Option<How> {
    let tools = Arc::new(ToolList(vec![(NAME.to_owned(), Some(schema()))]));
    let style = Arc::new(ChannelStyle::new(&Specials::default()));
    let mut parser = ChannelParser::new(style, Some(tools.clone()), false);
    let mut deltas = parser.push(text);
    deltas.extend(parser.finish());
    if is_the_call(&deltas) {
        return Some(How::Channels);
    }
    let found = NOTATIONS.iter().find(|notation| {
        let style = Arc::new(ToolStyle::strict(notation));
        let mut parser = ToolParser::new(style, tools.clone(), false, false);
        let mut deltas = parser.push(text);
        deltas.extend(parser.finish());
        parser.complete() == 1 && is_the_call(&deltas)
    });
    found.map(How::Calls)
}

/// Whether these have the probe's call and no other.
fn is_the_call(deltas: &[Delta]) -> bool {
    let mut names = vec![];
    let mut written = String::new();
    for delta in deltas {
        match delta {
            Delta::ToolStart { name, .. } => names.push(name.as_str()),
            Delta::ToolArguments { text, .. } => written.push_str(text),
            Delta::Text(_) | Delta::Reasoning(_) => {}
        }
    }
    names == [NAME] && serde_json::from_str::<Value>(&written).is_ok_and(|all| all == arguments())
}

/// The likeliest notation of a model whose template writes no calls.
fn guess(told: &str, source: &str, tokenizer: Option<&Tokenizer>) -> &'static Notation {
    // Of those whose first marker appears, the one most of whose markers do.
    let seen = |text: &str| {
        let count = |notation: &Notation| {
            notation.markers().filter(|marker| marker.len() > 2 && text.contains(marker)).count()
        };
        let begun = NOTATIONS.iter().filter(|notation| text.contains(notation.opener()));
        // Of equals, the one that has least besides; then the first.
        begun.rev().max_by_key(|row| (count(row), std::cmp::Reverse(row.markers().count())))
    };
    let token = |notation: &&Notation| {
        let has = |text: &str| tokenizer.is_some_and(|tokens| tokens.token_id(text).is_some());
        has(notation.opener()) && (notation.close.is_empty() || has(notation.close))
    };
    let bare = || {
        let is = source.contains("python_tag") || source.contains("\"parameters\"");
        NOTATIONS.iter().find(|row| is && row.unmarked && matches!(row.form, Form::Object { .. }))
    };
    // Marks that vocabularies have in common say nothing.
    let telling = || NOTATIONS.iter().filter(|row| row.opener() != HERMES.open && !row.unmarked);
    let in_vocabulary = || telling().find(token);
    seen(told).or_else(in_vocabulary).or_else(|| seen(source)).or_else(bare).unwrap_or(HERMES)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_template_that_never_ends_is_tried_once() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(source, &BTreeMap::new(), &[]).unwrap();
        let writer = Writer { template: &template, costly: Cell::new(false) };
        assert!(writer.text(&[user()], false, true).is_none());
        assert!(writer.costly.get());
        assert!(!probe(Some(&template), source, None).calls);
        // One that only refuses a conversation is asked about others.
        let template =
            ChatTemplate::new("{{ raise_exception('no') }}", &BTreeMap::new(), &[]).unwrap();
        let writer = Writer { template: &template, costly: Cell::new(false) };
        assert!(writer.text(&[user()], false, true).is_none());
        assert!(!writer.costly.get());
    }
}
