//! Answers that must have a form: schemas, grammars and tool calls, with the demo model.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Running, question, server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn content(server: &Running, format: Value, seed: u64) -> String {
    let mut request = question("Describe a cat.", 200);
    request["response_format"] = format;
    request["temperature"] = json!(1);
    request["seed"] = json!(seed);
    let answer = server.ok(CHAT, &request);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn answers_follow_schemas_expressions_and_grammars() {
    let server = server();
    let schema = json!({ "type": "object", "additionalProperties": false,
        "required": ["colour", "legs"],
        "properties": { "colour": { "enum": ["black", "white"] },
            "legs": { "type": "integer", "minimum": 3, "maximum": 5 } } });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "cat", "schema": schema, "strict": true } });
    for seed in 0..4 {
        let value: Value = serde_json::from_str(&content(&server, format.clone(), seed)).unwrap();
        assert!(["black", "white"].contains(&value["colour"].as_str().unwrap()));
        assert!((3..=5).contains(&value["legs"].as_i64().unwrap()));
    }
    let text = content(&server, json!({ "type": "regex", "regex": "[a-c]{4}-[0-9]{2}" }), 1);
    assert!(text.len() == 7 && text.as_bytes()[4] == b'-', "{text}");
    let grammar = "start: \"It is \" (\"big\" | \"small\") \".\"";
    let text = content(&server, json!({ "type": "lark", "grammar": grammar }), 1);
    assert!(["It is big.", "It is small."].contains(&&*text), "{text}");
    server.idle();
}

#[test]
fn formats_that_cannot_be_followed_are_refused_with_the_reason() {
    let server = server();
    for format in [
        json!({ "type": "json_schema", "json_schema": { "schema": { "type": "objekt" } } }),
        json!({ "type": "json_schema", "json_schema": { "schema": { "$ref": "#/nowhere" } } }),
        json!({ "type": "regex", "regex": "(" }),
        json!({ "type": "lark", "grammar": "start: missing" }),
        json!({ "type": "xml" }),
        json!({ "type": "text", "more": 1 }),
    ] {
        let mut request = question("Hi", 4);
        request["response_format"] = format;
        let error = server.fails(CHAT, &request, 400);
        assert!(error["param"].as_str().unwrap().starts_with("response_format"), "{error}");
    }
}

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "weather", "description": "The weather of a city.",
            "parameters": { "type": "object", "additionalProperties": false, "required": ["city"],
                "properties": { "city": { "enum": ["Bonn", "Ulm"] } } } } },
        { "type": "function", "function": { "name": "clock" } },
    ])
}

#[test]
fn a_tool_must_be_called_where_that_is_required() {
    let server = server();
    let mut request = question("How is the weather in Ulm?", 200);
    request["tools"] = tools();
    request["tool_choice"] = json!({ "type": "function", "function": { "name": "weather" } });
    request["parallel_tool_calls"] = json!(false);
    let answer = server.ok(CHAT, &request);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!("weather")));
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    let value: Value = serde_json::from_str(arguments).unwrap();
    assert!(["Bonn", "Ulm"].contains(&value["city"].as_str().unwrap()));

    request["stream"] = json!(true);
    let events = server.stream(CHAT, &request);
    let (mut name, mut streamed, mut reason) = (String::new(), String::new(), Value::Null);
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event).unwrap();
        let choice = &chunk["choices"][0];
        if let Some(call) = choice["delta"]["tool_calls"].get(0) {
            name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            streamed.push_str(call["function"]["arguments"].as_str().unwrap());
            assert_eq!(call["id"].is_string(), call["function"]["name"].is_string());
        }
        reason = choice["finish_reason"].clone();
    }
    assert_eq!((&*name, &*streamed, reason), ("weather", arguments, json!("tool_calls")));

    // The conversation goes on with what the tool gave.
    let call = calls[0].clone();
    let id = call["id"].clone();
    let mut next = question("How is the weather in Ulm?", 20);
    next["tools"] = tools();
    next["tool_choice"] = json!("none");
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] }));
    messages.push(json!({ "role": "tool", "tool_call_id": id, "content": "sunny" }));
    assert!(server.ok(CHAT, &next)["choices"][0]["message"]["content"].is_string());
}

#[test]
fn any_of_the_tools_may_be_required() {
    let server = server();
    let mut request = question("What time is it?", 120);
    request["tools"] = tools();
    request["tool_choice"] = json!("required");
    request["parallel_tool_calls"] = json!(false);
    let answer = server.ok(CHAT, &request);
    let name = &answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"];
    assert!(["weather", "clock"].contains(&name.as_str().unwrap()), "{answer}");
    request["tool_choice"] = json!({ "type": "function", "function": { "name": "missing" } });
    assert_eq!(server.fails(CHAT, &request, 400)["param"], "tool_choice");
    request["tool_choice"] = json!("required");
    request["response_format"] = json!({ "type": "json_object" });
    assert_eq!(server.fails(CHAT, &request, 400)["param"], "response_format");
}
