//! Finding tool calls in an answer.

use super::call::CallReader;
use super::{Delta, cut};

/// How a model writes its tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolStyle {
    /// `<tool_call>{"name": ..., "arguments": ...}</tool_call>`, between other text (Qwen, Hermes).
    Tagged,
    /// The answer is `{"name": ..., "parameters": ...}`, several separated by `;` (Llama 3).
    Bare,
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

enum Stage {
    Text,
    /// In a call. What was read of it, in case it is none.
    Call {
        reader: Box<CallReader>,
        read: String,
        named: bool,
    },
    /// After a call's object, before its end mark.
    AfterCall,
}

pub(super) struct ToolParser {
    style: ToolStyle,
    stage: Stage,
    held: String,
    /// Calls that were begun.
    calls: usize,
    complete: usize,
    /// Whether there was any text, after which a bare object is no call.
    had_text: bool,
}

impl ToolParser {
    pub fn new(style: ToolStyle) -> Self {
        Self {
            style,
            stage: Stage::Text,
            held: String::new(),
            calls: 0,
            complete: 0,
            had_text: false,
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
        if let Stage::Call { read, named: false, .. } = &mut self.stage {
            // Never became a call.
            let text = std::mem::take(read);
            self.stage = Stage::Text;
            self.text(&mut deltas, text);
        }
        deltas
    }

    fn text(&mut self, deltas: &mut Vec<Delta>, text: String) {
        self.had_text |= !text.trim().is_empty();
        if !text.is_empty() {
            deltas.push(Delta::Text(text));
        }
    }

    fn step(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        match &mut self.stage {
            Stage::Text => self.read_text(deltas, last),
            Stage::Call { .. } => self.read_call(deltas),
            Stage::AfterCall => self.after_call(last),
        }
    }

    fn begin(&mut self, read: &str) {
        let reader = Box::default();
        self.stage = Stage::Call { reader, read: read.into(), named: false };
    }

    fn read_text(&mut self, deltas: &mut Vec<Delta>, last: bool) -> bool {
        match self.style {
            ToolStyle::Tagged => {
                let (text, found) = cut(&mut self.held, OPEN, last);
                // Blank lines around calls are no answer.
                let blank = text.trim().is_empty() && (found || self.calls > 0);
                if !blank {
                    self.text(deltas, text);
                }
                if found {
                    self.begin(OPEN);
                }
                found
            }
            ToolStyle::Bare => {
                let begun = self.held.trim_start();
                if begun.starts_with('{') && !self.had_text {
                    self.held = begun.to_owned();
                    self.begin("");
                    return true;
                }
                if begun.is_empty() && !last {
                    return false;
                }
                let text = std::mem::take(&mut self.held);
                self.text(deltas, text);
                false
            }
        }
    }

    fn read_call(&mut self, deltas: &mut Vec<Delta>) -> bool {
        let Stage::Call { reader, read, named } = &mut self.stage else { return false };
        let text = std::mem::take(&mut self.held);
        let outcome = reader.push(&text);
        if !*named
            && outcome.is_ok()
            && let Some(name) = reader.name()
        {
            deltas.push(Delta::ToolStart { index: self.calls, name: name.into() });
            *named = true;
        }
        if *named {
            let arguments = reader.take_arguments();
            if !arguments.is_empty() {
                deltas.push(Delta::ToolArguments { index: self.calls, text: arguments });
            }
        }
        match outcome {
            Ok(None) => {
                read.push_str(&text);
                false
            }
            Ok(Some(rest)) => {
                if !reader.has_arguments() {
                    deltas.push(Delta::ToolArguments { index: self.calls, text: "{}".into() });
                }
                self.held = rest.to_owned();
                self.calls += 1;
                self.complete += 1;
                self.stage = Stage::AfterCall;
                true
            }
            // Half a call was handed out already: what follows it is lost either way.
            Err(_) if *named => {
                self.calls += 1;
                self.stage = Stage::AfterCall;
                true
            }
            Err(_) => {
                let whole = format!("{read}{text}");
                self.stage = Stage::Text;
                self.text(deltas, whole);
                true
            }
        }
    }

    fn after_call(&mut self, last: bool) -> bool {
        match self.style {
            ToolStyle::Tagged => {
                let (_, found) = cut(&mut self.held, CLOSE, last);
                if found {
                    self.stage = Stage::Text;
                }
                found
            }
            ToolStyle::Bare => {
                let rest = self.held.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
                self.held = rest.to_owned();
                if self.held.is_empty() {
                    return false;
                }
                self.stage = Stage::Text;
                true
            }
        }
    }
}
