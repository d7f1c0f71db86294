//! Responses, Anthropic's messages and embeddings, with the demo model.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{question, server};
use serde_json::{Value, json};

const FRANCE: &str = "What is the capital of France?";

fn events(data: &[String]) -> Vec<Value> {
    data.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[test]
fn responses_whole_and_in_pieces() {
    let server = server();
    let path = "/v1/responses";
    let mut request = json!({ "model": "demo", "input": FRANCE, "temperature": 0,
        "max_output_tokens": 40 });
    let whole = server.ok(path, &request);
    let expected = server.ok("/v1/chat/completions", &question(FRANCE, 40));
    let text = &expected["choices"][0]["message"]["content"];
    assert_eq!(&whole["output"][0]["content"][0]["text"], text);
    assert_eq!((&whole["status"], &whole["object"]), (&json!("completed"), &json!("response")));
    assert_eq!(whole["usage"]["output_tokens"], expected["usage"]["completion_tokens"]);

    request["stream"] = json!(true);
    let events = events(&server.stream(path, &request));
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    assert_eq!(
        kinds[kinds.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let numbers: Vec<_> =
        events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let streamed: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(json!(streamed), *text);

    request = json!({ "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "Weather?" }] }],
        "temperature": 0, "max_output_tokens": 100, "tool_choice": "required", "parallel_tool_calls": false,
        "tools": [{ "type": "function", "name": "weather", "parameters": { "type": "object",
            "properties": { "city": { "enum": ["Ulm"] } }, "required": ["city"], "additionalProperties": false } }] });
    let called = server.ok(path, &request);
    let call = &called["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("weather")));
    assert_eq!(
        serde_json::from_str::<Value>(call["arguments"].as_str().unwrap()).unwrap(),
        json!({ "city": "Ulm" })
    );
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("background", json!(true)),
        ("reasonin", json!(1)),
    ] {
        let mut wrong = json!({ "input": "Hi" });
        wrong[field] = value;
        assert_eq!(server.fails(path, &wrong, 400)["param"], field);
    }
    let short =
        server.ok(path, &json!({ "input": FRANCE, "temperature": 0, "max_output_tokens": 2 }));
    assert_eq!(
        (&short["status"], &short["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
}

#[test]
fn messages_whole_and_in_pieces() {
    let server = server();
    let path = "/v1/messages";
    let mut request = json!({ "model": "demo", "max_tokens": 40, "temperature": 0, "top_k": 0,
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": FRANCE }] }] });
    let whole = server.ok(path, &request);
    let text = whole["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("Paris"), "{whole}");
    assert_eq!((&whole["stop_reason"], &whole["role"]), (&json!("end_turn"), &json!("assistant")));
    request["stream"] = json!(true);
    let events = events(&server.stream(path, &request));
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let streamed: String =
        events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(streamed, text);

    request["stream"] = json!(false);
    request["stop_sequences"] = json!(["Paris"]);
    let stopped = server.ok(path, &request);
    assert_eq!(
        (&stopped["stop_reason"], &stopped["stop_sequence"]),
        (&json!("stop_sequence"), &json!("Paris"))
    );

    request["tools"] = json!([{ "name": "weather", "input_schema": { "type": "object",
        "properties": { "city": { "enum": ["Ulm"] } }, "required": ["city"], "additionalProperties": false } }]);
    request["tool_choice"] =
        json!({ "type": "tool", "name": "weather", "disable_parallel_tool_use": true });
    request["max_tokens"] = json!(100);
    let called = server.ok(path, &request);
    assert_eq!(called["stop_reason"], "tool_use", "{called}");
    assert_eq!(
        (&called["content"][0]["name"], &called["content"][0]["input"]),
        (&json!("weather"), &json!({ "city": "Ulm" }))
    );
    let use_block = called["content"][0].clone();
    let messages = request["messages"].as_array_mut().unwrap();
    let id = use_block["id"].clone();
    messages.push(json!({ "role": "assistant", "content": [use_block] }));
    messages.push(json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": id, "content": "sunny" }] }));
    request["tool_choice"] = json!({ "type": "none" });
    assert_eq!(server.ok(path, &request)["content"][0]["type"], "text");

    request["max_tokens"] = json!(-1);
    let error = server.post(path, &request);
    assert_eq!((error.status, &error.json()["type"]), (400, &json!("error")));
    request["max_tokens"] = json!(5);
    request["model"] = json!("claude");
    let error = server.post(path, &request);
    assert_eq!((error.status, &error.json()["error"]["type"]), (404, &json!("not_found_error")));
}

#[test]
fn messages_keep_to_a_schema_and_their_blocks_are_closed() {
    let server = server();
    let path = "/v1/messages";
    let schema = json!({ "type": "object", "properties": { "city": { "enum": ["Ulm", "Bonn"] } },
        "required": ["city"], "additionalProperties": false });
    let mut request = json!({ "model": "demo", "max_tokens": 60, "temperature": 0,
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": FRANCE,
            "cache_control": { "type": "ephemeral" } }] }],
        "output_config": { "format": { "type": "json_schema", "schema": schema } } });
    let answer = server.ok(path, &request);
    let formed: Value =
        serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(["Ulm", "Bonn"].contains(&formed["city"].as_str().unwrap()), "{formed}");
    request["messages"][0]["content"][0]["loud"] = json!(true);
    let named = "x-keeve-ignored: messages[0].content[0].loud\r\n";
    assert!(server.post(path, &request).head.contains(named));
    request["messages"][0]["content"][0]["type"] = json!("video");
    let refused = server.post(path, &request);
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(refused.status == 400 && message.contains("\"video\" cannot stand here"), "{message}");
}

#[test]
fn embeddings_have_length_one_and_tell_texts_apart() {
    let server = server();
    let path = "/v1/embeddings";
    let answer = server.ok(path, &json!({ "model": "demo", "input": ["The cat sat.", "The cat sat.", "Stock prices fell."] }));
    let vectors: Vec<Vec<f64>> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            item["embedding"]
                .as_array()
                .unwrap()
                .iter()
                .map(|value| value.as_f64().unwrap())
                .collect()
        })
        .collect();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert_eq!(vectors[0].len(), 512);
    assert!((product(&vectors[0], &vectors[0]) - 1.0).abs() < 1e-5);
    assert_eq!(vectors[0], vectors[1]);
    assert!(product(&vectors[0], &vectors[2]) < 0.999);
    let last = server.ok(path, &json!({ "input": "The cat sat.", "pooling": "last" }));
    assert_ne!(last["data"][0]["embedding"][0], answer["data"][0]["embedding"][0]);
    let coded = server.ok(path, &json!({ "input": "The cat sat.", "encoding_format": "base64" }));
    assert_eq!(
        coded["data"][0]["embedding"].as_str().unwrap().len(),
        (512_usize * 4).div_ceil(3) * 4
    );
    assert_eq!(
        server.fails(path, &json!({ "input": "x", "dimensions": 7 }), 400)["param"],
        "dimensions"
    );
    server.fails(path, &json!({ "input": [] }), 400);
    server.fails(path, &json!({ "input": "" }), 400);
    server.idle();
}
