//! What one client may cost the others: time, memory, places.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Running, config, demo, loading, question, server, start};
use keeve_codec::Bytes;
use keeve_server::{ModelSource, ServerConfig};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn well(server: &Running) {
    server.ok(CHAT, &question("Hi", 2));
    server.idle();
}

/// The demo model with another chat template.
fn with_template(template: &'static str) -> ModelSource {
    ModelSource {
        names: vec!["demo".into()],
        open: Box::new(move || {
            let files = keeve_demo_model::FILES.map(|(name, bytes)| match name {
                "chat_template.jinja" => (name, Bytes::new(template.as_bytes())),
                _ => (name, Bytes::new(bytes)),
            });
            keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
        }),
        draft: None,
    }
}

#[test]
fn prompts_that_cannot_fit_are_refused_before_they_are_tokenized() {
    let server = server();
    let digits = "1".repeat(8 << 20);
    let message = json!([{ "role": "user", "content": digits }]);
    let begun = Instant::now();
    for (path, body) in [
        (CHAT, json!({ "messages": message, "max_tokens": 2 })),
        ("/v1/completions", json!({ "prompt": digits, "max_tokens": 2 })),
        ("/v1/embeddings", json!({ "input": digits })),
        ("/tokenize", json!({ "prompt": digits })),
        ("/v1/messages", json!({ "model": "demo", "messages": message, "max_tokens": 2 })),
        ("/v1/responses", json!({ "input": digits, "max_output_tokens": 2 })),
    ] {
        let response = server.post(path, &body);
        assert_eq!(response.status, 400, "{path}: {}", response.text());
        let said = response.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(said.contains("context"), "{path}: {said}");
    }
    // Tokenizing these takes minutes.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    well(&server);
}

#[test]
fn grammars_that_explode_are_refused_in_time() {
    let server = server();
    let multiples: Vec<Value> =
        [97, 89, 83, 79].map(|step| json!({ "type": "integer", "multipleOf": step })).into();
    let schema =
        |schema: Value| json!({ "type": "json_schema", "json_schema": { "schema": schema } });
    let lark = |grammar: String| json!({ "type": "lark", "grammar": grammar });
    let intersected =
        "start: T\nT: /(.*a.{15}.*)/ & /(.*b.{15}.*)/ & /(.*c.{15}.*)/ & ~/(.*d.{15}.*)/";
    let deep = format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000));
    let chain: String = (0..9_000).map(|at| format!("a{at}: a{}\n", at + 1)).collect();
    let begun = Instant::now();
    for (format, taken) in [
        (schema(json!({ "allOf": multiples })), false),
        (schema(json!({ "type": "integer", "multipleOf": 1_000_003 })), false),
        (schema(json!({ "anyOf": [{ "allOf": multiples.clone() }, { "type": "null" }] })), false),
        (lark(format!("start: %json {}", json!({ "allOf": multiples }))), false),
        (lark(intersected.to_owned()), false),
        (lark(deep), false),
        (lark(format!("start: a0\n{chain}a9000: \"x\"\n")), true),
        (json!({ "type": "regex", "regex": "a".repeat(1 << 20) }), false),
    ] {
        let mut request = question("Hi", 4);
        request["response_format"] = format.clone();
        let response = server.post(CHAT, &request);
        let shown: String = format.to_string().chars().take(80).collect();
        if taken {
            assert!([200, 400].contains(&response.status), "{shown}: {}", response.text());
        } else {
            assert_eq!(response.status, 400, "{shown}: {}", response.text());
            assert_eq!(response.json()["error"]["param"], "response_format", "{shown}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
    well(&server);
}

#[test]
fn expressions_and_grammars_are_the_same_with_and_without_reasoning() {
    let plain = start(config(), vec![with_template("{{ messages[0].content }}\n")], loading());
    let thinks =
        start(config(), vec![with_template("{{ messages[0].content }}<think>\n")], loading());
    for format in [
        json!({ "type": "regex", "regex": "a\\/b" }),
        json!({ "type": "regex", "regex": "[\\/]x" }),
        json!({ "type": "regex", "regex": "[/]x" }),
        json!({ "type": "regex", "regex": "a\\\\/b" }),
        json!({ "type": "regex", "regex": "^a/b$" }),
        json!({ "type": "regex", "regex": "a\nb" }),
        json!({ "type": "regex", "regex": "(?i)a|b" }),
        json!({ "type": "regex", "regex": "" }),
        json!({ "type": "regex", "regex": "(" }),
        json!({ "type": "regex", "regex": "(?=a)" }),
        json!({ "type": "lark", "grammar": "start: \"a\" b\nb: /b+/" }),
        json!({ "type": "lark", "grammar": "start: b\nb: %json {\"type\": \"integer\"}" }),
        json!({ "type": "lark", "grammar": "start: missing" }),
        json!({ "type": "json_schema", "json_schema": { "schema": { "const": "a/b" } } }),
        json!({ "type": "json_schema", "json_schema": { "schema": { "$ref": "#/$defs/A~1B", "$defs": { "A/B": { "type": "boolean" } } } } }),
        json!({ "type": "json_schema", "json_schema": { "schema": { "type": "array", "uniqueItems": true } } }),
    ] {
        let ask = |server: &Running| {
            let mut request = question("Go", 3);
            request["response_format"] = format.clone();
            let response = server.post(CHAT, &request);
            (response.status, response.json()["error"]["message"].clone())
        };
        assert_eq!(ask(&plain), ask(&thinks), "{format}");
    }
}

#[test]
fn there_is_exactly_one_host() {
    let server = server();
    let status = |head: &str| server.raw(format!("GET /health {head}\r\n\r\n").as_bytes()).status;
    assert_eq!(status("HTTP/1.1\r\nHost: localhost"), 200);
    assert_eq!(status("HTTP/1.0"), 200);
    for bad in [
        "HTTP/1.1",
        "HTTP/1.1\r\nHost:",
        "HTTP/1.1\r\nHost: localhost\r\nHost: localhost",
        "HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "HTTP/1.1\r\nHost: local host",
        "HTTP/1.1\r\nHost: localhost:port",
        "HTTP/1.1\r\nHost: user@localhost",
    ] {
        assert_eq!(status(bad), 400, "{bad:?}");
    }
    well(&server);
}

#[test]
fn idle_connections_keep_nobody_out() {
    let few = ServerConfig { max_connections: 20, ..config() };
    let server = start(few, vec![demo(&["demo"])], loading());
    let idle: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    let begun = Instant::now();
    well(&server);
    // Also those that have sent a part of a head.
    let half: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = server.connect();
            let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHo");
            stream
        })
        .collect();
    well(&server);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    drop((idle, half));
}
