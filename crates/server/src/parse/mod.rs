//! Answers taken apart as they arrive: reasoning, text and tool calls.

mod call;
mod tools;

use serde::{Deserialize, Serialize};

use tools::ToolParser;
pub use tools::ToolStyle;

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

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";

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
pub struct AnswerParser {
    stage: Stage,
    tools: Option<ToolParser>,
    /// Text whose meaning is not certain yet.
    held: String,
}

impl AnswerParser {
    /// `reasoning`: whether the prompt has begun the reasoning already. `tools`: how calls are
    /// written, if there are tools.
    pub fn new(reasoning: bool, tools: Option<ToolStyle>) -> Self {
        Self {
            stage: if reasoning { Stage::Reasoning } else { Stage::Start },
            tools: tools.map(ToolParser::new),
            held: String::new(),
        }
    }

    /// Adds text and returns what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        let mut deltas = vec![];
        while self.step(&mut deltas, false) {}
        merged(deltas)
    }

    /// Ends the answer.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = vec![];
        while self.step(&mut deltas, true) {}
        if let Some(tools) = &mut self.tools {
            deltas.extend(tools.finish());
        }
        merged(deltas)
    }

    /// Whether the answer so far is that of `calls` complete tool calls.
    pub fn complete_calls(&self) -> usize {
        self.tools.as_ref().map_or(0, ToolParser::complete)
    }

    /// Goes on as far as one stage; false if it takes more text to go on.
    fn step(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        match self.stage {
            Stage::Start => {
                let begun = self.held.trim_start();
                if let Some(thought) = begun.strip_prefix(THINK) {
                    self.held = thought.to_owned();
                    self.stage = Stage::Reasoning;
                } else if !last && THINK.starts_with(begun) {
                    return false;
                } else {
                    self.stage = Stage::Answer;
                }
                true
            }
            Stage::Reasoning => {
                let (text, found) = cut(&mut self.held, END_THINK, last);
                if !text.is_empty() {
                    deltas.push(Delta::Reasoning(text));
                }
                if found {
                    self.stage = Stage::AfterReasoning;
                }
                found
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
                let text = std::mem::take(&mut self.held);
                match &mut self.tools {
                    Some(tools) => deltas.extend(tools.push(&text)),
                    None if text.is_empty() => {}
                    None => deltas.push(Delta::Text(text)),
                }
                false
            }
        }
    }
}

/// Takes from `held` what comes before `mark` (and the mark), or what cannot be part of it.
fn cut(held: &mut String, mark: &str, last: bool) -> (String, bool) {
    if let Some(at) = held.find(mark) {
        let rest = held.split_off(at + mark.len());
        let mut text = std::mem::replace(held, rest);
        text.truncate(at);
        return (text, true);
    }
    let keep = if last { 0 } else { overlap(held, mark) };
    let rest = held.split_off(held.len() - keep);
    (std::mem::replace(held, rest), false)
}

/// Bytes at the end of `text` that are a beginning of `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    let longest = mark.len().min(text.len() + 1) - 1;
    (1..=longest)
        .rev()
        .find(|&length| text.as_bytes().ends_with(&mark.as_bytes()[..length]))
        .unwrap_or(0)
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
mod tests;
