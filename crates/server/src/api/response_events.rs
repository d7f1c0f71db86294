//! The output items of a response, and the events that tell how they grow.

use serde_json::{Value, json};

use super::turn::{End, Update};
use crate::app::Shared;
use crate::error::ApiError;
use crate::parse::Delta;

/// Makes a response of the pieces of an answer.
pub(crate) struct Builder {
    /// The response; its `output` has the items that are complete.
    response: Value,
    app: Shared,
    open: Option<Open>,
    events: Vec<Value>,
    sequence: u64,
}

/// The item that is growing.
struct Open {
    id: String,
    text: String,
    kind: Kind,
}

enum Kind {
    Text,
    Reasoning,
    Call { call_id: String, name: String },
}

impl Builder {
    /// `response` is what is known of it from the start.
    pub fn new(response: Value, app: Shared) -> Self {
        Self { response, app, open: None, events: vec![], sequence: 0 }
    }

    /// The first events.
    pub fn begin(&mut self) {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.response.clone();
            self.event(kind, json!({ "response": response }));
        }
    }

    /// Events since the last time.
    pub fn take_events(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.events)
    }

    /// The response, once its answer has ended.
    pub fn into_response(self) -> Value {
        self.response
    }

    /// The event that says what went wrong.
    pub fn failed(&mut self, error: &ApiError) -> Value {
        self.response["status"] = "failed".into();
        self.response["error"] =
            json!({ "code": error.code.unwrap_or("server_error"), "message": error.message });
        let response = self.response.clone();
        self.event("response.failed", json!({ "response": response }));
        self.events.pop().unwrap_or_default()
    }

    /// Takes what is new.
    pub fn update(&mut self, update: Update) {
        for delta in update.deltas {
            self.delta(delta);
        }
        if let Some(end) = update.end {
            self.end(&end);
        }
    }

    fn event(&mut self, kind: &str, mut fields: Value) {
        fields["type"] = kind.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.events.push(fields);
    }

    /// Number of the item that is growing, or of the next one.
    fn index(&self) -> usize {
        self.response["output"].as_array().map_or(0, Vec::len)
    }

    fn delta(&mut self, delta: Delta) {
        match delta {
            Delta::Text(text) => {
                if !matches!(self.open, Some(Open { kind: Kind::Text, .. })) {
                    self.open_item("msg_", Kind::Text);
                }
                self.grow("response.output_text.delta", &text);
            }
            Delta::Reasoning(text) => {
                if !matches!(self.open, Some(Open { kind: Kind::Reasoning, .. })) {
                    self.open_item("rs_", Kind::Reasoning);
                }
                self.grow("response.reasoning_text.delta", &text);
            }
            Delta::ToolStart { id, name, .. } => {
                let call_id = id.unwrap_or_else(|| self.app.id("call_"));
                self.open_item("fc_", Kind::Call { call_id, name });
            }
            Delta::ToolArguments { text, .. } => {
                self.grow("response.function_call_arguments.delta", &text);
            }
        }
    }

    fn open_item(&mut self, prefix: &str, kind: Kind) {
        self.close();
        let open = Open { id: self.app.id(prefix), text: String::new(), kind };
        let mut item = open.item("in_progress");
        if !matches!(open.kind, Kind::Call { .. }) {
            item["content"] = json!([]);
        }
        let index = self.index();
        self.event("response.output_item.added", json!({ "output_index": index, "item": item }));
        if let Some(part) = open.part() {
            let fields = json!({ "item_id": open.id, "output_index": index, "content_index": 0,
                "part": part });
            self.event("response.content_part.added", fields);
        }
        self.open = Some(open);
    }

    fn grow(&mut self, kind: &str, text: &str) {
        let index = self.index();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut fields = json!({ "item_id": open.id, "output_index": index, "delta": text });
        if !matches!(open.kind, Kind::Call { .. }) {
            fields["content_index"] = 0.into();
        }
        if matches!(open.kind, Kind::Text) {
            fields["logprobs"] = json!([]);
        }
        self.event(kind, fields);
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let index = self.index();
        let at = json!({ "item_id": open.id, "output_index": index });
        let with = |name: &str, value: Value| {
            let mut fields = at.clone();
            fields[name] = value;
            fields
        };
        match &open.kind {
            Kind::Call { name, .. } => {
                let mut fields = with("arguments", open.text.clone().into());
                fields["name"] = name.clone().into();
                self.event("response.function_call_arguments.done", fields);
            }
            kind => {
                let mut fields = with("text", open.text.clone().into());
                fields["content_index"] = 0.into();
                let name = if matches!(kind, Kind::Text) {
                    fields["logprobs"] = json!([]);
                    "response.output_text.done"
                } else {
                    "response.reasoning_text.done"
                };
                self.event(name, fields);
            }
        }
        if let Some(part) = open.part() {
            let mut fields = with("part", part);
            fields["content_index"] = 0.into();
            self.event("response.content_part.done", fields);
        }
        let item = open.item("completed");
        let fields = json!({ "output_index": index, "item": item });
        self.event("response.output_item.done", fields);
        if let Some(output) = self.response["output"].as_array_mut() {
            output.push(item);
        }
    }

    fn end(&mut self, end: &End) {
        self.close();
        let complete = end.reason != "length";
        self.response["status"] = if complete { "completed" } else { "incomplete" }.into();
        if !complete {
            self.response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        let timings = &end.timings;
        self.response["usage"] = json!({
            "input_tokens": timings.prompt_tokens,
            "input_tokens_details": { "cached_tokens": timings.cached_tokens },
            "output_tokens": timings.decode_tokens,
            "output_tokens_details": { "reasoning_tokens": end.reasoning_tokens },
            "total_tokens": timings.prompt_tokens + timings.decode_tokens,
        });
        let response = self.response.clone();
        let kind = if complete { "response.completed" } else { "response.incomplete" };
        self.event(kind, json!({ "response": response }));
    }
}

impl Open {
    /// The item as it is now.
    fn item(&self, status: &str) -> Value {
        match &self.kind {
            Kind::Text => json!({ "id": self.id, "type": "message", "role": "assistant",
                "status": status, "content": [self.part()] }),
            Kind::Reasoning => json!({ "id": self.id, "type": "reasoning", "status": status,
                "summary": [], "content": [self.part()] }),
            Kind::Call { call_id, name } => json!({ "id": self.id, "type": "function_call",
                "status": status, "call_id": call_id, "name": name, "arguments": self.text }),
        }
    }

    /// The only part of an item that has parts.
    fn part(&self) -> Option<Value> {
        match &self.kind {
            Kind::Text => Some(json!({ "type": "output_text", "text": self.text,
                "annotations": [], "logprobs": [] })),
            Kind::Reasoning => Some(json!({ "type": "reasoning_text", "text": self.text })),
            Kind::Call { .. } => None,
        }
    }
}
