//! Images in requests: what is refused, and that it is refused before it costs anything.

mod common;

use common::{Running, server};
use serde_json::{Value, json};

const DATA: &str = "data:image/png;base64,iVBORw0KGgo=";

/// The same image in the three forms of conversations: path, request, and the field of the image.
fn forms(address: &str) -> [(&'static str, Value, &'static str); 3] {
    let (source, field) = match address.split_once(";base64,") {
        Some((_, data)) => {
            let source = json!({ "type": "base64", "media_type": "image/png", "data": data });
            (source, "messages[0].content[1].source.data")
        }
        None => (json!({ "type": "url", "url": address }), "messages[0].content[1].source.url"),
    };
    let text = json!({ "type": "text", "text": "What is this?" });
    [
        (
            "/v1/chat/completions",
            json!({ "model": "demo", "max_tokens": 4, "messages": [{ "role": "user", "content":
                [text, { "type": "image_url", "image_url": { "url": address, "detail": "low" } }] }] }),
            "messages[0].content[1].image_url",
        ),
        (
            "/v1/responses",
            json!({ "model": "demo", "max_output_tokens": 4, "input": [{ "role": "user", "content": [
                { "type": "input_text", "text": "What is this?" },
                { "type": "input_image", "image_url": address, "detail": "auto" }] }] }),
            "input[0].content[1].image_url",
        ),
        (
            "/v1/messages",
            json!({ "model": "demo", "max_tokens": 4, "messages": [{ "role": "user", "content":
                [text, { "type": "image", "source": source }] }] }),
            field,
        ),
    ]
}

/// Sends a request that must fail, and gives what is wrong with which field.
fn refused(server: &Running, path: &str, body: &Value, status: u16) -> (String, Option<String>) {
    let response = server.post(path, body);
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(response.status, status, "{path}: {body}");
    let error = &body["error"];
    let param = error["param"].as_str().map(str::to_owned);
    (error["message"].as_str().expect("a message").to_owned(), param)
}

#[test]
fn a_model_without_eyes_is_shown_nothing() {
    let server = server();
    for address in [DATA, "http://127.0.0.1:1/a.png"] {
        for (path, body, field) in forms(address) {
            let (message, param) = refused(&server, path, &body, 400);
            assert_eq!(message, "this model cannot see images", "{path}");
            // Anthropic's form has no place for the field.
            if path != "/v1/messages" {
                assert_eq!(param.as_deref(), Some(field));
            }
        }
    }
    // Parts are what they say they are.
    let part = |part: Value| json!({ "model": "demo", "messages": [{ "role": "user", "content": [part] }] });
    for (wrong, field) in [
        (json!({ "type": "image_url" }), "messages[0].content[0]"),
        (json!({ "type": "image_url", "text": "a" }), "messages[0].content[0]"),
        (json!({ "type": "text", "image_url": DATA }), "messages[0].content[0]"),
        (json!({ "type": "text", "text": "a", "image_url": DATA }), "messages[0].content[0]"),
        (json!({ "type": "input_audio" }), "messages[0].content[0]"),
    ] {
        let (_, param) = refused(&server, "/v1/chat/completions", &part(wrong), 400);
        assert_eq!(param.as_deref(), Some(field));
    }
    let thousands: Vec<Value> =
        (0..5000).map(|_| json!({ "type": "image_url", "image_url": DATA })).collect();
    let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": thousands }] });
    refused(&server, "/v1/chat/completions", &body, 400);
    assert_eq!(server.get("/health").status, 200);
}
