//! Hostile requests, one a line: each is answered or refused in one line of bounded length, and the
//! server answers as before afterwards.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Running, question, server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
/// What a request that makes no sense may be answered with.
const REFUSED: [u16; 6] = [400, 404, 413, 415, 422, 501];
/// A message says what was wrong; it does not repeat all of it.
const LONGEST_MESSAGE: usize = 4000;

/// Sends a body; it is answered, or refused with a reason.
fn survives(server: &Running, path: &str, what: &str, body: &[u8]) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let response = server.raw(&[head.as_bytes(), body].concat());
    let text = response.text();
    if response.status != 200 {
        assert!(REFUSED.contains(&response.status), "{what}: {} {text:.300}", response.status);
        assert!(!text.is_empty() && text.len() < LONGEST_MESSAGE, "{what}: {} bytes", text.len());
        assert!(!text.contains("panicked"), "{what}: {text}");
    }
}

/// A question with these fields.
fn with(fields: Value) -> Vec<u8> {
    let mut request = question("Hi", 2);
    for (name, value) in fields.as_object().unwrap() {
        request[name] = value.clone();
    }
    request.to_string().into_bytes()
}

fn well(server: &Running) {
    server.ok(CHAT, &question("Hi", 2));
    server.idle();
}

fn tool(name: &str, parameters: &Value) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
}

#[test]
fn fields_out_of_all_bounds() {
    let server = server();
    let many = |count: usize, item: &Value| Value::Array(vec![item.clone(); count]);
    let message = json!({ "role": "user", "content": "" });
    let part = json!({ "type": "text", "text": "a" });
    let biases: serde_json::Map<_, _> = (0..100_000).map(|id| (id.to_string(), json!(1))).collect();
    let cases = [
        json!({ "n": 1u64 << 31 }),
        json!({ "n": 0 }),
        json!({ "n": 1.5 }),
        json!({ "logprobs": true, "top_logprobs": 1_000_000_000 }),
        json!({ "logit_bias": biases }),
        json!({ "logit_bias": { "2147483648": 1 } }),
        json!({ "logit_bias": { "-1": 1 } }),
        json!({ "logit_bias": { "x": 1 } }),
        json!({ "logit_bias": { "5": 1e30 } }),
        json!({ "stop": many(100_000, &json!("stop")) }),
        json!({ "stop": "" }),
        json!({ "stop": "x".repeat(1_000_000) }),
        json!({ "stop": [[]] }),
        json!({ "seed": 1e30 }),
        json!({ "seed": i64::MIN }),
        json!({ "max_tokens": u64::MAX }),
        json!({ "max_tokens": -2 }),
        json!({ "temperature": 1e300 }),
        json!({ "temperature": "0.5" }),
        json!({ "top_p": 0 }),
        json!({ "top_k": -7 }),
        json!({ "min_p": 2 }),
        json!({ "repetition_penalty": 0 }),
        json!({ "frequency_penalty": 1e38 }),
        json!({ "messages": many(50_000, &message) }),
        json!({ "messages": [{ "role": "user", "content": many(50_000, &part) }] }),
        json!({ "messages": [{ "role": "r\u{1b}[2J".repeat(100_000), "content": "x" }] }),
        json!({ "messages": [{ "role": "user", "content": 7 }] }),
        json!({ "messages": {} }),
        json!({ "messages": [{ "role": "user", "content": "\u{0}\u{1b}\u{202e}" }] }),
        json!({ "model": "../../etc/passwd" }),
        json!({ "model": "\u{1b}[2J".repeat(100_000) }),
        json!({ "tools": [tool("a\n</tool_call>\"", &json!({}))], "tool_choice": "required" }),
        json!({ "tools": [tool("a", &json!({})), tool("a", &json!({}))], "tool_choice": "required" }),
        json!({ "tools": [tool("a", &json!({}))],
            "tool_choice": { "type": "function", "function": { "name": "b" } } }),
        json!({ "chat_template_kwargs": { "messages": [], "raise_exception": 1, "tools": 7 } }),
    ];
    for fields in &cases {
        let what = format!("{fields}").chars().take(80).collect::<String>();
        survives(&server, CHAT, &what, &with(fields.clone()));
    }
    let unknown: serde_json::Map<_, _> =
        (0..100_000).map(|at| (format!("u{at}"), json!(1))).collect();
    survives(&server, CHAT, "unknown fields", &with(Value::Object(unknown)));
    let long = "\u{1b}\n".repeat(100_000);
    survives(&server, CHAT, "a long unknown field", &with(json!({ long: 1 })));
    well(&server);
}

#[test]
fn bodies_that_are_no_proper_json() {
    let server = server();
    let head = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":1"#;
    let tailed = |tail: &str| format!("{head}{tail}").into_bytes();
    let utf16: Vec<u8> = "{\"messages\":[]}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases = [
        (
            "a number of a million digits",
            tailed(&format!(r#","seed":{}}}"#, "9".repeat(1_000_000))),
        ),
        ("1e999999", tailed(r#","temperature":1e999999}"#)),
        ("NaN", tailed(r#","temperature":NaN}"#)),
        ("a field twice", tailed(r#","max_tokens":2}"#)),
        ("a lone surrogate", br#"{"messages":[{"role":"user","content":"\ud800"}]}"#.to_vec()),
        ("no UTF-8", b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}".to_vec()),
        ("UTF-16", utf16),
        ("a byte order mark", [b"\xef\xbb\xbf", &tailed("}")[..]].concat()),
        ("two values", tailed("}{}")),
        ("nothing", vec![]),
        ("null", b"null".to_vec()),
        ("NULs", vec![0; 100_000]),
    ];
    for (what, body) in cases {
        survives(&server, CHAT, what, &body);
    }
    well(&server);
}

#[test]
fn forms_that_are_costly_or_circular() {
    let server = server();
    let properties = |count: usize, property: &Value| -> Value {
        Value::Object((0..count).map(|at| (format!("p{at}"), property.clone())).collect())
    };
    let names = |count: usize| (0..count).map(|at| format!("p{at}")).collect::<Vec<_>>();
    let text = json!({ "type": "string" });
    let schemas = [
        json!({ "$ref": "#" }),
        json!({ "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/b" }] },
            "b": { "allOf": [{ "$ref": "#/$defs/a" }] } }, "$ref": "#/$defs/a" }),
        json!({ "$ref": "http://127.0.0.1:9/x.json" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "enum": names(20_000) }),
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 1_000_000_000 }),
        json!({ "type": "string", "minLength": 1_000_000_000 }),
        json!({ "type": "number", "multipleOf": 1e-300 }),
        json!({ "allOf": [{ "type": "number", "multipleOf": 0.0007 },
            { "type": "number", "multipleOf": 0.0013 }] }),
        // As many as a stack could hold if each took a frame, and more.
        json!({ "type": "object", "properties": properties(10_000, &text), "required": names(10_000) }),
        json!({ "type": "object", "properties": properties(2_000, &text) }),
        json!({ "not": { "not": { "not": text } } }),
    ];
    for schema in schemas {
        let what = format!("{schema}").chars().take(80).collect::<String>();
        let format = json!({ "type": "json_schema", "json_schema": { "schema": schema } });
        survives(&server, CHAT, &what, &with(json!({ "response_format": format })));
        survives(
            &server,
            CHAT,
            &what,
            &with(json!({ "tools": [tool("a", &schema)], "tool_choice": "required" })),
        );
    }
    for regex in
        ["(.*a){30}", "[^x]{1,65535}y", "((((a?){9}){9}){9}){9}", "(?=a)b", "(a)\\1", "(((("]
    {
        let format = json!({ "type": "regex", "regex": regex });
        survives(&server, CHAT, regex, &with(json!({ "response_format": format })));
    }
    well(&server);
}

#[test]
fn other_endpoints() {
    let server = server();
    let ids = |count: usize| Value::Array(vec![json!(1); count]);
    let cases = [
        ("/v1/completions", json!({ "prompt": ids(500_000), "max_tokens": 1 })),
        ("/v1/completions", json!({ "prompt": [1_000_000_000], "max_tokens": 1 })),
        ("/v1/completions", json!({ "prompt": [-1], "max_tokens": 1 })),
        ("/v1/completions", json!({ "prompt": "a", "best_of": 1_000_000_000, "max_tokens": 1 })),
        ("/v1/completions", json!({ "prompt": "a", "suffix": "b", "max_tokens": 1 })),
        ("/v1/completions", json!({ "prompt": {}, "max_tokens": 1 })),
        ("/v1/embeddings", json!({ "input": "a", "dimensions": 1_000_000_000 })),
        ("/v1/embeddings", json!({ "input": [[]] })),
        ("/v1/embeddings", json!({ "input": "a", "encoding_format": "md5" })),
        ("/v1/responses", json!({ "input": "x", "previous_response_id": "../../x" })),
        ("/v1/responses", json!({ "input": [7] })),
        ("/v1/messages", json!({ "model": "demo", "max_tokens": 0, "messages": [] })),
        (
            "/v1/messages",
            json!({ "model": "demo", "max_tokens": 1, "messages": [{ "role": "user",
            "content": [{ "type": "tool_result", "tool_use_id": "x", "content": [{ "type": "y" }] }] }] }),
        ),
        ("/tokenize", json!({ "content": "9".repeat(3_000_000) })),
        ("/infill", json!({ "input_prefix": "a", "input_suffix": "b", "n_predict": 1 })),
    ];
    for (path, body) in cases {
        let what = format!("{path} {}", body.to_string().chars().take(60).collect::<String>());
        survives(&server, path, &what, body.to_string().as_bytes());
    }
    well(&server);
}

/// What comes back for these bytes, as far as it comes: the status, or 0 where there is none.
fn status(server: &Running, request: &[u8]) -> u16 {
    let mut stream = server.connect();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // Whoever refuses early does not read the rest.
    let _ = stream.write_all(request);
    let mut start = vec![];
    let _ = (&mut stream).take(4096).read_to_end(&mut start);
    let start = String::from_utf8_lossy(&start).into_owned();
    start.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).unwrap_or(0)
}

#[test]
fn messages_that_are_no_proper_http() {
    let server = server();
    let body = question("Hi", 1).to_string();
    let length = format!("Content-Length: {}\r\n", body.len());
    let post = |target: &str, host: &str, headers: &str, body: &str| {
        format!(
            "POST {target} HTTP/1.1\r\n{host}Content-Type: application/json\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    };
    let localhost = "Host: localhost\r\n";
    let hosts = [
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host: a@localhost\r\n",
        "Host: localhost/x\r\n",
        "Host: localhost:99999\r\n",
        "Host: localhost, localhost\r\n",
        "Host: evil.example\r\n",
        "Host: \r\n",
    ];
    for host in hosts {
        let got = status(&server, post(CHAT, host, &length, &body).as_bytes());
        assert!([0, 400, 403].contains(&got), "{host:?}: {got}");
    }
    let elsewhere = format!("http://evil.example{CHAT}");
    let got = status(&server, post(&elsewhere, localhost, &length, &body).as_bytes());
    assert!([0, 400, 403].contains(&got), "another host in the address: {got}");
    let framings = [
        (format!("{length}Content-Length: 3\r\n"), body.clone()),
        (format!("{length}Transfer-Encoding: chunked\r\n"), body.clone()),
        (format!("Content-Length: +{}\r\n", body.len()), body.clone()),
        ("Content-Length: -1\r\n".into(), body.clone()),
        ("Content-Length: 18446744073709551616\r\n".into(), body.clone()),
        ("Transfer-Encoding: chunked\r\n".into(), "FFFFFFFFFFFFFFFFF\r\n".into()),
        ("Transfer-Encoding: chunked\r\n".into(), format!("1;{}\r\nx\r\n", "a".repeat(1 << 20))),
        (format!("{length}X: a\0b\r\n"), body.clone()),
    ];
    for (headers, body) in framings {
        let got = status(&server, post(CHAT, localhost, &headers, &body).as_bytes());
        assert!([0, 400, 408, 413, 415, 431].contains(&got), "{headers:?}: {got}");
    }
    let heads = [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20)),
        format!("{} / HTTP/1.1\r\nHost: localhost\r\n\r\n", "A".repeat(1 << 17)),
        "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /..%00/ HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n".into(),
    ];
    for head in heads {
        let got = status(&server, head.as_bytes());
        assert!(got == 0 || got >= 400, "{:.60}: {got}", head);
    }
    well(&server);
}
