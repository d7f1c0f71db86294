//! Answers taken apart as they arrive: reasoning, text and tool calls.
//!
//! How a model writes them is found out when it is loaded ([`probe`]): its chat template writes a
//! conversation with reasoning and a call, and what reads them back is taken. [`table`] has what
//! is known, [`tools`] finds calls and leaves each to the reader of its form, and [`grammar`]
//! binds answers that must be calls.

mod braces;
mod channels;
mod elements;
mod grammar;
mod literal;
mod marker;
mod named;
mod notation;
mod object;
mod probe;
mod python;
mod reader;
mod table;
mod tagged;
mod tools;
mod writer;

use std::sync::Arc;

use keeve_engine::detokenizer::Shown;
use serde::{Deserialize, Serialize};

use channels::{ChannelParser, ChannelStyle};
pub(crate) use grammar::{forced, front};
use marker::{Begins, Marker, Specials, first, without_marks};
pub(crate) use notation::Notation;
pub(crate) use probe::{CallIds, Probed, probe};
pub(crate) use reader::ToolList;
pub(crate) use table::HERMES;
use tools::{ToolParser, ToolStyle};
pub(crate) use writer::write_calls;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delta {
    /// What the model thinks before it answers.
    Reasoning(String),
    /// The answer.
    Text(String),
    /// A tool call begins.
    ToolStart {
        /// Which call of the answer.
        index: usize,
        /// What the model itself calls the call, where it does.
        id: Option<String>,
        /// The function.
        name: String,
    },
    /// More of a call's arguments, as JSON text.
    ToolArguments {
        /// Which call of the answer.
        index: usize,
        /// The piece.
        text: String,
    },
}

/// What a model puts around its reasoning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reasoning {
    pub open: String,
    pub close: String,
    /// What it puts behind the answer, if anything.
    pub end: String,
    /// Whether the chat template writes it: then the model knows it.
    pub rendered: bool,
}

impl Default for Reasoning {
    fn default() -> Self {
        Self {
            open: "<think>".into(),
            close: "</think>".into(),
            end: String::new(),
            rendered: false,
        }
    }
}

/// How a model writes its answers.
#[derive(Debug, Clone)]
pub(crate) struct AnswerStyle {
    pub reasoning: Reasoning,
    open: Marker,
    close: Marker,
    end: Marker,
    tools: Arc<ToolStyle>,
    channels: Option<Arc<ChannelStyle>>,
    pub specials: Specials,
    shown: Arc<Shown>,
    shown_without_tools: Arc<Shown>,
}

impl AnswerStyle {
    /// A style of these markers, as the tokenizer has them. `channels`: whether the answers come in
    /// channels, which is then all there is.
    pub fn new(
        reasoning: Reasoning,
        notation: &'static Notation,
        channels: bool,
        tokenizer: Option<&keeve_engine::Tokenizer>,
    ) -> Self {
        let mut markers =
            vec![reasoning.open.as_str(), reasoning.close.as_str(), reasoning.end.as_str()];
        for marker in channels::MARKERS.into_iter().filter(|_| channels) {
            markers.push(marker);
        }
        let without = Specials::new(tokenizer, markers.iter().copied());
        for kin in ToolStyle::kin(notation) {
            for marker in kin.markers() {
                markers.push(marker);
            }
        }
        let specials = Specials::new(tokenizer, markers.into_iter());
        Self {
            open: Marker::new(&reasoning.open, &specials),
            close: Marker::new(&reasoning.close, &specials),
            end: Marker::new(&reasoning.end, &specials),
            tools: Arc::new(ToolStyle::new(notation, &specials)),
            channels: channels.then(|| Arc::new(ChannelStyle::new(&specials))),
            shown: Arc::new(specials.shown()),
            shown_without_tools: Arc::new(without.shown()),
            reasoning,
            specials,
        }
    }

    /// The special tokens that a parser must see.
    pub fn shown(&self, tools: bool) -> Arc<Shown> {
        if tools { self.shown.clone() } else { self.shown_without_tools.clone() }
    }

    /// Whether a prompt that ends in this text ends inside the model's reasoning.
    pub fn begins_reasoning(&self, prompt_end: &str) -> bool {
        self.channels.is_none() && prompt_end.trim_end().ends_with(self.reasoning.open.trim_end())
    }

    /// Whether answers come in channels.
    pub fn in_channels(&self) -> bool {
        self.channels.is_some()
    }

    /// How calls are written.
    pub fn notation(&self) -> &'static Notation {
        self.tools.notation()
    }
}

/// What an answer may call.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub tools: Arc<ToolList>,
    /// Whether an answer that begins with a call without its marker is taken for one.
    pub lenient: bool,
    /// Whether only the first call is wanted.
    pub single: bool,
}

/// Where an answer stands.
enum Stage {
    /// Nothing but whitespace so far.
    Start,
    Reasoning,
    /// After the reasoning, whose line ends are dropped.
    AfterReasoning,
    Answer,
}

/// Takes one answer apart.
pub(crate) struct AnswerParser {
    stage: Stage,
    open: Marker,
    /// What ends the reasoning: its own mark, then calls, which models have begun without it.
    ends: Vec<Marker>,
    /// Whether the mark that ends reasoning may begin the answer of a model that has not reasoned.
    unopened: bool,
    /// What may stand behind the answer, and whether it has come: blanks after it are none of the answer's.
    end: Marker,
    ended: bool,
    tools: Option<ToolParser>,
    channels: Option<ChannelParser>,
    /// Text whose meaning is not certain yet.
    held: String,
}

impl AnswerParser {
    /// `reasoning`: whether the prompt has begun the reasoning already. `calls`: what may be called,
    /// if there are tools.
    pub fn new(style: &AnswerStyle, reasoning: bool, calls: Option<Calls>) -> Self {
        let mut ends = vec![style.close.clone()];
        if calls.is_some() {
            ends.extend(style.tools.special_openers());
        }
        let channels = style.channels.clone().map(|channels| {
            let single = calls.as_ref().is_some_and(|calls| calls.single);
            ChannelParser::new(channels, calls.as_ref().map(|calls| calls.tools.clone()), single)
        });
        Self {
            stage: if reasoning { Stage::Reasoning } else { Stage::Start },
            open: style.open.clone(),
            ends,
            unopened: style.reasoning.rendered,
            end: style.end.clone(),
            ended: false,
            tools: calls.map(|Calls { tools, lenient, single }| {
                ToolParser::new(style.tools.clone(), tools, lenient, single)
            }),
            channels,
            held: String::new(),
        }
    }

    /// Adds text and returns what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        if let Some(channels) = &mut self.channels {
            return merged(channels.push(text));
        }
        self.held.push_str(text);
        let mut deltas = vec![];
        while self.step(&mut deltas, false) {}
        merged(deltas)
    }

    /// Ends the answer.
    pub fn finish(&mut self) -> Vec<Delta> {
        if let Some(channels) = &mut self.channels {
            return merged(channels.finish());
        }
        let mut deltas = vec![];
        while self.step(&mut deltas, true) {}
        if let Some(tools) = &mut self.tools {
            deltas.extend(tools.finish());
        }
        merged(deltas)
    }

    /// How many tool calls of the answer so far are complete.
    pub fn complete_calls(&self) -> usize {
        match &self.channels {
            Some(channels) => channels.complete(),
            None => self.tools.as_ref().map_or(0, ToolParser::complete),
        }
    }

    /// Goes on as far as one stage; false if it takes more text to go on.
    fn step(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        match self.stage {
            Stage::Start => {
                let begun = self.held.trim_start();
                let closes = match self.unopened {
                    true => self.ends[0].begins(begun),
                    false => Begins::No,
                };
                match (self.open.begins(begun), closes) {
                    (Begins::Yes(length), _) => {
                        self.held = begun[length..].to_owned();
                        self.stage = Stage::Reasoning;
                    }
                    // There was none (MiniMax M3 says so).
                    (_, Begins::Yes(length)) => {
                        self.held = begun[length..].to_owned();
                        self.stage = Stage::AfterReasoning;
                    }
                    (Begins::Perhaps, _) | (_, Begins::Perhaps) if !last => return false,
                    _ => self.stage = Stage::Answer,
                }
                true
            }
            Stage::Reasoning => {
                let marks: Vec<&Marker> = self.ends.iter().collect();
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
                if !text.is_empty() {
                    deltas.push(Delta::Reasoning(text));
                }
                // Only its own mark is used up.
                if let Some((0, _, length)) = found {
                    self.held.drain(..length);
                }
                if found.is_some() {
                    self.stage = Stage::AfterReasoning;
                }
                found.is_some()
            }
            Stage::AfterReasoning => {
                self.held = self.held.trim_start().to_owned();
                let begun = !self.held.is_empty();
                if begun {
                    self.stage = Stage::Answer;
                }
                begun
            }
            Stage::Answer => {
                let text = self.before_end(last);
                match &mut self.tools {
                    Some(tools) => deltas.extend(tools.push(&text)),
                    None => {
                        let text = without_marks(text);
                        if !text.is_empty() {
                            deltas.push(Delta::Text(text));
                        }
                    }
                }
                false
            }
        }
    }
}

impl AnswerParser {
    /// What of the held text is certain and stands before the mark behind the answer; the mark is dropped, with the
    /// blanks before it.
    fn before_end(&mut self, last: bool) -> String {
        if self.end.is_empty() {
            return std::mem::take(&mut self.held);
        }
        if self.ended {
            self.held = self.held.trim_start().to_owned();
        }
        if let Some((at, length)) = self.end.find(&self.held) {
            self.ended = true;
            let after = self.held.split_off(at + length);
            self.held.truncate(at);
            let text = self.held.trim_end().to_owned();
            self.held = after.trim_start().to_owned();
            return text;
        }
        let sure = match last {
            true => self.held.len(),
            false => {
                let kept = self.held.len() - self.end.overlap(&self.held);
                self.held[..kept].trim_end().len()
            }
        };
        let rest = self.held.split_off(sure);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Neighbouring pieces of a kind as one.
fn merged(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut list: Vec<Delta> = vec![];
    for delta in deltas {
        match (list.last_mut(), &delta) {
            (Some(Delta::Reasoning(text)), Delta::Reasoning(more))
            | (Some(Delta::Text(text)), Delta::Text(more)) => text.push_str(more),
            (
                Some(Delta::ToolArguments { index, text }),
                Delta::ToolArguments { index: same, text: more },
            ) if index == same => text.push_str(more),
            _ => list.push(delta),
        }
    }
    list
}

#[cfg(test)]
mod end_tests;
#[cfg(test)]
mod grammar_tests;
#[cfg(test)]
mod probe_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
