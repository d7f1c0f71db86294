//! Tool calls in each notation, from a chat template to the endpoints: the demo model, with a template
//! that writes calls in the notation and, where its markers are special tokens, with these.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use common::{Running, config, loading, question, start};
use keeve_codec::Bytes;
use keeve_server::{ModelSource, ModelsConfig};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const NOTATIONS: &str = include_str!("notations/notations.json");
const TEMPLATE: &str = include_str!("notations/template.jinja");
/// Special tokens of the demo model that nothing needs.
const SPARE: [&str; 11] = [
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

fn notations() -> Vec<Value> {
    let all: Value = serde_json::from_str(NOTATIONS).unwrap();
    all["notations"].as_array().unwrap().clone()
}

fn text<'a>(notation: &'a Value, field: &str) -> &'a str {
    notation[field].as_str().unwrap()
}

/// The demo model as one of a family.
fn model(notation: &Value, special: bool) -> ModelSource {
    let mut template = TEMPLATE.to_owned();
    for field in ["open", "call", "between", "close"] {
        template = template.replace(&format!("@{}@", field.to_uppercase()), text(notation, field));
    }
    let markers = notation["special"].as_array().unwrap().clone();
    let name = format!("{}{}", text(notation, "name"), if special { "" } else { "-spelled" });
    ModelSource {
        names: vec![name],
        open: Box::new(move || {
            let files = keeve_demo_model::FILES.map(|(name, bytes)| match name {
                "chat_template.jinja" => (name, Bytes::from(template.clone().into_bytes())),
                "tokenizer.json" | "tokenizer_config.json" if special => {
                    let mut text = String::from_utf8(bytes.to_vec()).unwrap();
                    for (spare, marker) in SPARE.iter().zip(&markers) {
                        let spare = Value::from(*spare).to_string();
                        text = text.replace(&spare, &marker.to_string());
                    }
                    (name, Bytes::from(text.into_bytes()))
                }
                _ => (name, Bytes::new(bytes)),
            });
            keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
        }),
        draft: None,
    }
}

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "weather", "description": "The weather.",
            "parameters": { "type": "object", "additionalProperties": false, "required": ["city", "days"],
                "properties": { "city": { "type": "string", "enum": ["Bonn", "Ulm"] },
                    "days": { "type": "integer", "minimum": 1, "maximum": 9 },
                    "wet": { "type": "boolean" } } } } },
        { "type": "function", "function": { "name": "clock", "parameters": { "type": "object", "properties": {} } } },
    ])
}

/// The message of a whole answer, after the same answer in pieces was found to be the same.
fn both_ways(server: &Running, request: &Value, about: &str) -> Value {
    let answer = server.ok(CHAT, request);
    let choice = &answer["choices"][0];
    let mut request = request.clone();
    request["stream"] = json!(true);
    let (mut calls, mut content, mut reason) = (vec![], String::new(), Value::Null);
    let mut thought = String::new();
    for event in server.stream(CHAT, &request) {
        let Ok(chunk) = serde_json::from_str::<Value>(&event) else { continue };
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        thought.push_str(choice["delta"]["reasoning_content"].as_str().unwrap_or_default());
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            if call["function"]["name"].is_string() {
                assert!(call["id"].is_string() && call["index"] == calls.len(), "{about}: {call}");
                calls.push(call["function"].clone());
            } else {
                let last = calls.last_mut().unwrap();
                let more = call["function"]["arguments"].as_str().unwrap();
                last["arguments"] = (last["arguments"].as_str().unwrap().to_owned() + more).into();
            }
        }
        reason = choice["finish_reason"].clone();
    }
    let message = &choice["message"];
    let whole: Vec<_> = message["tool_calls"].as_array().into_iter().flatten().collect();
    let whole: Vec<_> = whole.iter().map(|call| call["function"].clone()).collect();
    assert_eq!((&calls, &reason), (&whole, &choice["finish_reason"]), "{about}");
    assert_eq!(content, message["content"].as_str().unwrap_or_default(), "{about}");
    assert_eq!(thought, message["reasoning_content"].as_str().unwrap_or_default(), "{about}");
    let mut message = message.clone();
    message["finish_reason"] = reason;
    message
}

fn server() -> Running {
    let models = notations().into_iter().flat_map(|notation| {
        let spelled = notation["special"].as_array().unwrap().len().min(1);
        [model(&notation, false), model(&notation, true)].into_iter().take(1 + spelled)
    });
    // One at a time is in memory.
    let bytes = keeve_demo_model::FILES.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    let limits = ModelsConfig { memory: Some(bytes * 3 / 2), ..loading() };
    start(config(), models.collect(), limits)
}

#[test]
fn calls_are_made_and_found_in_every_notation() {
    let server = server();
    for notation in notations() {
        let name = text(&notation, "name");
        let special = !notation["special"].as_array().unwrap().is_empty();
        let model = format!("{name}-spelled");
        must_call(&server, if special { name } else { &model }, notation["thinks"].as_str());
        // Where nothing but the vocabulary tells the notation, there is none without these tokens.
        if notation["tokens_only"] == true {
            continue;
        }
        // The notation in letters, as a model without these tokens writes it.
        let mut request = asked(&model);
        let answer = regex(text(&notation, "answer"));
        request["response_format"] = json!({ "type": "regex", "regex": answer });
        let message = both_ways(&server, &request, &model);
        let call = &message["tool_calls"][0]["function"];
        assert_eq!(call["name"], "weather", "{model}: {message}");
        let value: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(value, json!({ "city": "Ulm", "days": 3 }), "{model}");
        assert_eq!(message["finish_reason"], "tool_calls", "{model}: {message}");
    }
}

fn asked(model: &str) -> Value {
    let mut request = question("How is the weather in Ulm for three days?", 400);
    request["model"] = json!(model);
    request["tools"] = tools();
    request["parallel_tool_calls"] = json!(false);
    request
}

/// The model has to call a tool: whatever it likes to write, it is a call in its notation.
///
/// `thinks` begins a thought, which may come first and which nothing ends in a model as small as this.
fn must_call(server: &Running, model: &str, thinks: Option<&str>) {
    let mut request = asked(model);
    for end in 1..=thinks.map_or(0, str::len) {
        let text = &thinks.unwrap()[..end];
        let body = json!({ "model": model, "prompt": text, "add_special_tokens": false });
        if let [only] = &server.ok("/tokenize", &body)["tokens"].as_array().unwrap()[..] {
            request["logit_bias"][only.to_string()] = json!(-100);
        }
    }
    request["tool_choice"] = json!({ "type": "function", "function": { "name": "weather" } });
    let message = both_ways(server, &request, model);
    assert_eq!(message["finish_reason"], "tool_calls", "{model}: {message}");
    assert_eq!(message["content"], Value::Null, "{model}: {message}");
    let calls = message["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!("weather")), "{model}");
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    let value: Value = serde_json::from_str(arguments).unwrap();
    assert!(["Bonn", "Ulm"].contains(&value["city"].as_str().unwrap()), "{model}: {value}");
    assert!((1..=9).contains(&value["days"].as_u64().unwrap()), "{model}: {value}");
    assert!(value["wet"].is_null() || value["wet"].is_boolean(), "{model}: {value}");
    // The conversation goes on with what the tool gave, also in the template's eyes.
    let mut next = asked(model);
    next["max_tokens"] = json!(4);
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": null, "tool_calls": calls }));
    messages.push(json!({ "role": "tool", "tool_call_id": calls[0]["id"], "content": "sunny" }));
    server.ok(CHAT, &next);
}

/// An expression that matches this text.
fn regex(text: &str) -> String {
    let special = |c: char| "\\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
