//! Answers in channels: `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>...`
//! (OpenAI, "OpenAI Harmony Response Format", https://cookbook.openai.com/articles/openai-harmony;
//! ggml-org/llama.cpp `models/templates/openai-gpt-oss-120b.jinja`).
//!
//! `analysis` is reasoning, `final` and `commentary` are text, and what goes `to=functions.NAME`, in
//! whatever channel, is a tool call.

use std::sync::Arc;

use super::Delta;
use super::marker::{Begins, Marker, Specials, first, without_marks};
use super::named::{JsonEnd, JsonPlace};
use super::reader::{LONGEST_NAME, ToolList, is_name};

pub(crate) const START: &str = "<|start|>";
pub(crate) const CHANNEL: &str = "<|channel|>";
pub(crate) const CONSTRAIN: &str = "<|constrain|>";
pub(crate) const MESSAGE: &str = "<|message|>";
pub(crate) const END: &str = "<|end|>";
pub(crate) const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";

/// All markers.
pub(crate) const MARKERS: [&str; 7] = [START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN];

/// How a model writes channels, with its own tokens for the markers.
#[derive(Debug, Clone)]
pub(crate) struct ChannelStyle {
    start: Marker,
    channel: Marker,
    message: Marker,
    /// What ends a message.
    ends: [Marker; 3],
}

impl ChannelStyle {
    pub fn new(specials: &Specials) -> Self {
        let new = |text| Marker::new(text, specials);
        Self {
            start: new(START),
            channel: new(CHANNEL),
            message: new(MESSAGE),
            ends: [new(END), new(CALL), new(RETURN)],
        }
    }
}

enum Stage {
    /// Before a message's text: who it is for.
    Header,
    /// In a message.
    Message(Kind),
    /// After the only call that is wanted.
    Ended,
}

#[derive(Clone)]
enum Kind {
    Reasoning,
    Text,
    Call { begun: bool, ended: bool },
}

pub(super) struct ChannelParser {
    style: Arc<ChannelStyle>,
    /// The tools of the request, if it has any.
    tools: Option<Arc<ToolList>>,
    single: bool,
    stage: Stage,
    held: String,
    value: JsonEnd,
    calls: usize,
    complete: usize,
}

impl ChannelParser {
    pub fn new(style: Arc<ChannelStyle>, tools: Option<Arc<ToolList>>, single: bool) -> Self {
        Self {
            style,
            tools,
            single,
            stage: Stage::Header,
            held: String::new(),
            value: JsonEnd::default(),
            calls: 0,
            complete: 0,
        }
    }

    pub fn complete(&self) -> usize {
        self.complete
    }

    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        let mut deltas = vec![];
        while self.step(&mut deltas, false) {}
        deltas
    }

    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = vec![];
        while self.step(&mut deltas, true) {}
        if let Stage::Message(Kind::Call { .. }) = self.stage {
            self.end_call(&mut deltas);
        }
        deltas
    }

    fn step(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        match &self.stage {
            Stage::Header => self.read_header(deltas, last),
            Stage::Message(kind) => self.read_message(kind.clone(), deltas, last),
            Stage::Ended => {
                self.held.clear();
                false
            }
        }
    }

    fn read_header(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        let style = self.style.clone();
        if let Some((at, length)) = style.message.find(&self.held)
            && at <= LONGEST_NAME
        {
            let header = self.held[..at].to_owned();
            self.held.drain(..at + length);
            self.stage = Stage::Message(self.kind(&header, deltas));
            return true;
        }
        let text = self.held.trim_start();
        let known = [&style.start, &style.channel, &style.message];
        let marked = known.iter().any(|marker| marker.begins(text) != Begins::No);
        let worded = ["to=", "assistant"]
            .iter()
            .any(|word| text.starts_with(word) || word.starts_with(text));
        if (marked || worded) && text.len() <= LONGEST_NAME && !last {
            return false;
        }
        // No message, but an answer without any channel, or a header that was cut off.
        if last && marked {
            self.held.clear();
            return false;
        }
        self.stage = Stage::Message(Kind::Text);
        !self.held.is_empty()
    }

    /// What a message with this header is.
    fn kind(&mut self, header: &str, deltas: &mut Vec<Delta>) -> Kind {
        let word = |text: &str| {
            let text = text.trim_start();
            let end =
                text.find(|c: char| c.is_whitespace() || c == '<' || super::marker::is_mark(c));
            text[..end.unwrap_or(text.len())].to_owned()
        };
        let channel = self.style.channel.find(header);
        let channel = channel.map(|(at, length)| word(&header[at + length..])).unwrap_or_default();
        let recipient = header.find("to=").map(|at| word(&header[at + 3..]));
        match (recipient, &self.tools) {
            (Some(recipient), Some(tools)) => {
                let function = recipient.strip_prefix("functions.");
                match function.or_else(|| tools.has(&recipient).then_some(&recipient)) {
                    Some(name) if is_name(name) => {
                        let name = name.to_owned();
                        deltas.push(Delta::ToolStart { index: self.calls, id: None, name });
                        self.value = JsonEnd::default();
                        Kind::Call { begun: false, ended: false }
                    }
                    // Tools that the model was trained with and that nobody offered.
                    _ => Kind::Reasoning,
                }
            }
            _ if channel == "analysis" => Kind::Reasoning,
            _ => Kind::Text,
        }
    }

    fn read_message(&mut self, kind: Kind, deltas: &mut Vec<Delta>, last: bool) -> bool {
        let style = self.style.clone();
        let [end, call, back] = &style.ends;
        let marks = [end, call, back, &style.start];
        let found = first(&self.held, &marks);
        let end = match (found, last) {
            (Some((_, at, _)), _) => at,
            (None, true) => self.held.len(),
            (None, false) => {
                let keep = marks.iter().map(|marker| marker.overlap(&self.held)).max();
                self.held.len() - keep.unwrap_or(0)
            }
        };
        let rest = self.held.split_off(end);
        let text = without_marks(std::mem::replace(&mut self.held, rest));
        self.give(kind, text, deltas);
        let Some((_, _, length)) = found else { return false };
        self.held.drain(..length);
        if let Stage::Message(Kind::Call { .. }) = self.stage {
            self.end_call(deltas);
            if self.single {
                self.stage = Stage::Ended;
                return true;
            }
        }
        self.stage = Stage::Header;
        true
    }

    fn give(&mut self, kind: Kind, text: String, deltas: &mut Vec<Delta>) {
        if text.is_empty() {
            return;
        }
        match kind {
            Kind::Reasoning => deltas.push(Delta::Reasoning(text)),
            Kind::Text => deltas.push(Delta::Text(text)),
            // Blanks around the arguments are not theirs.
            Kind::Call { ended: true, .. } => {}
            Kind::Call { begun, .. } => {
                let text = if begun { &*text } else { text.trim_start() };
                if text.is_empty() {
                    return;
                }
                // What is wrong with it, the client sees.
                let end = match self.value.push(text) {
                    JsonPlace::End(at) => Some(at),
                    JsonPlace::Open | JsonPlace::Wrong(_) => None,
                };
                let text = text[..end.unwrap_or(text.len())].to_owned();
                deltas.push(Delta::ToolArguments { index: self.calls, text });
                self.stage = Stage::Message(Kind::Call { begun: true, ended: end.is_some() });
                self.complete += usize::from(end.is_some());
            }
        }
    }

    fn end_call(&mut self, deltas: &mut Vec<Delta>) {
        if let Stage::Message(Kind::Call { begun: false, .. }) = self.stage {
            deltas.push(Delta::ToolArguments { index: self.calls, text: "{}".into() });
            self.complete += 1;
        }
        self.calls += 1;
        self.stage = Stage::Header;
    }
}
