//! What the server refuses, and that it stays well: nothing here may end it or make it grow.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use common::{Running, config, demo, loading, question, read, server, start};
use keeve_codec::Bytes;
use keeve_engine::EngineOptions;
use keeve_server::{ModelSource, ModelsConfig, ServerConfig};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// The server still answers, and nothing is left over.
fn well(server: &Running) {
    server.ok(CHAT, &question("Hi", 2));
    server.idle();
}

#[test]
fn large_bodies_are_refused_without_being_kept() {
    let server = server();
    well(&server);
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    // Announced.
    let huge = format!("{head}Content-Length: 104857600\r\n\r\n{{");
    assert_eq!(server.raw(huge.as_bytes()).status, 413);
    // Not announced.
    let mut stream = server.connect();
    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    let chunk = [b"100000\r\n", &vec![b' '; 1 << 20][..], b"\r\n"].concat();
    // The server hangs up at some point; until then it cannot keep more than it was sent.
    let sent = (0..100).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 100, "the server read all of it");
    drop(stream);
    well(&server);
}

#[test]
fn slow_and_broken_requests_are_dropped() {
    let quick = ServerConfig {
        // Long enough for a client that is only scheduled late.
        head_timeout: Duration::from_secs(2),
        body_timeout: Duration::from_secs(2),
        ..config()
    };
    let server = start(quick, vec![demo(&["demo"])], loading());
    // A head that never ends.
    let mut stream = server.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localh").unwrap();
    let mut rest = vec![];
    stream.read_to_end(&mut rest).unwrap();
    // A body that never ends.
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"
    );
    assert_eq!(server.raw(head.as_bytes()).status, 408);
    // No HTTP at all, and a head without bound.
    assert_eq!(server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").status, 400);
    let long =
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(1 << 17));
    assert_eq!(server.raw(long.as_bytes()).status, 431);
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(500));
    assert_eq!(server.raw(many.as_bytes()).status, 431);
    well(&server);
}

#[test]
fn whoever_does_not_read_is_thrown_out() {
    let quick = ServerConfig {
        write_timeout: Duration::from_secs(1),
        // The next client is let in when this one is gone.
        max_connections: 1,
        ..config()
    };
    let server = start(quick, vec![demo(&["demo"])], loading());
    let mut deaf = server.connect();
    // More answers than the buffers on the way hold.
    let asked = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4000);
    let _ = deaf.write_all(asked.as_bytes());
    well(&server);
    drop(deaf);
}

#[test]
fn deep_json_and_costly_expressions_do_no_harm() {
    let server = server();
    let deep = "[".repeat(100_000);
    let body = format!("{{\"messages\": {deep}");
    let json = "Content-Type: application/json\r\n";
    assert_eq!(server.request("POST", CHAT, json, &body).status, 400);
    let mut schema = json!({ "type": "string" });
    for _ in 0..60 {
        schema = json!({ "type": "object", "properties": { "a": schema }, "required": ["a"] });
    }
    let mut request = question("Hi", 4);
    request["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "schema": schema } });
    // Deeper than JSON may be, as the body has it; either way it is an answer, not an end.
    let status = server.post(CHAT, &request).status;
    assert!([200, 400].contains(&status), "{status}");
    for regex in [
        "(a|aa)+$",
        "((a{1,1000}){1,1000}){1,1000}",
        "(.*)*(.*)*(.*)*x{1000}",
        &"(a?){64}".repeat(64),
    ] {
        request["response_format"] = json!({ "type": "regex", "regex": regex });
        let status = server.post(CHAT, &request).status;
        assert!([200, 400].contains(&status), "{regex}: {status}");
    }
    well(&server);
}

#[test]
fn templates_that_never_end_are_stopped() {
    let endless =
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
    let source = ModelSource {
        names: vec!["demo".into()],
        open: Box::new(move || {
            let files = keeve_demo_model::FILES.map(|(name, bytes)| match name {
                "chat_template.jinja" => (name, Bytes::new(endless.as_bytes())),
                _ => (name, Bytes::new(bytes)),
            });
            keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
        }),
        draft: None,
    };
    let server = start(config(), vec![source], loading());
    let error = server.fails(CHAT, &question("Hi", 4), 400);
    assert!(error["message"].as_str().unwrap().contains("steps"), "{error}");
    server.ok("/v1/completions", &json!({ "prompt": "Hi", "max_tokens": 2 }));
}

#[test]
fn keys_are_needed_everywhere_but_for_health() {
    let keyed = ServerConfig { api_keys: vec!["first".into(), "second".into()], ..config() };
    let server = start(keyed, vec![demo(&["demo"])], loading());
    assert_eq!(server.get("/health").status, 200);
    for path in
        ["/", "/web/chat.js", "/metrics", "/v1/models", "/v1/queue", "/openapi.json", "/nothing"]
    {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    let bearer = "Authorization: Bearer first\r\n";
    let document = server.request("GET", "/openapi.json", bearer, "").json();
    assert!(document["security"][0]["key"].is_array());
    let with = |headers: &str| server.request("GET", "/v1/models", headers, "").status;
    for good in [
        "Authorization: Bearer first\r\n",
        "authorization: bearer second\r\n",
        "X-Api-Key: first\r\n",
        // ":first"
        "Authorization: Basic OmZpcnN0\r\n",
    ] {
        assert_eq!(with(good), 200, "{good}");
    }
    for bad in [
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer firs\r\n",
        "Authorization: Bearer firstt\r\n",
        "Authorization: first\r\n",
        "Authorization: Bearer first, Bearer second\r\n",
        // Smuggled: what another program takes for the key must not be what this one takes.
        "Authorization: Bearer wrong\r\nAuthorization: Bearer first\r\n",
        "Authorization: Bearer first\r\nX-Api-Key: first\r\n",
        "X_Api_Key: first\r\n",
        "X-Api-Key : first\r\n",
        "X-Other: a\r\n X-Api-Key: first\r\n",
    ] {
        let status = with(bad);
        assert!([400, 401].contains(&status), "{bad:?}: {status}");
    }
    let both = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer first\r\n\r\n"
    );
    let status = server.raw(both.as_bytes()).status;
    assert!([400, 401].contains(&status), "{status}");
}

#[test]
fn pages_elsewhere_are_kept_out() {
    let server = server();
    let foreign = server.raw(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(foreign.status, 403);
    let plain = server.request(
        "POST",
        CHAT,
        "Content-Type: text/plain\r\n",
        &question("Hi", 2).to_string(),
    );
    assert_eq!(plain.status, 415);
    let preflight = "Origin: http://page.example\r\nAccess-Control-Request-Method: POST\r\n";
    let refused = server.request("OPTIONS", CHAT, preflight, "");
    assert!(refused.status >= 400 && !refused.head.to_lowercase().contains("access-control"));
    let open = ServerConfig { cors_origins: vec!["http://page.example".into()], ..config() };
    let server = start(open, vec![demo(&["demo"])], loading());
    let allowed = server.request("OPTIONS", CHAT, preflight, "");
    assert_eq!(allowed.status, 204);
    assert!(
        allowed.head.to_lowercase().contains("access-control-allow-origin: http://page.example")
    );
    let other = server.request("GET", "/v1/models", "Origin: http://other.example\r\n", "");
    assert!(!other.head.to_lowercase().contains("access-control"));
}

/// Begins a streamed answer of so many tokens and reads its first event.
fn stream_of(server: &Running, tokens: u32) -> BufReader<std::net::TcpStream> {
    let mut request = question("Tell me everything.", tokens);
    request["stream"] = json!(true);
    request["ignore_eos"] = json!(true);
    let body = request.to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = server.connect();
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
    }
    reader
}

/// One that takes much longer than what goes on meanwhile.
fn long_stream(server: &Running) -> BufReader<std::net::TcpStream> {
    stream_of(server, 1500)
}

#[test]
fn whoever_hangs_up_is_forgotten_within_a_step() {
    let server = server();
    drop(long_stream(&server));
    server.idle();
    // Half closed: nothing more comes, so it counts as gone.
    let reader = long_stream(&server);
    reader.get_ref().shutdown(Shutdown::Write).unwrap();
    server.idle();
    // Before any answer: the request is whole, not streamed.
    let mut request = question("Tell me everything.", 1500);
    request["ignore_eos"] = json!(true);
    let body = request.to_string();
    let mut stream = server.connect();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    server.until(|| server.metric("vllm:num_requests_running") > 0.0);
    drop(stream);
    server.idle();
    let ended = server.get("/metrics").text();
    assert!(ended.contains("finished_reason=\"abort\"} 3"), "{ended}");
    assert!(!ended.contains("finished_reason=\"length\""), "{ended}");
    well(&server);
}

#[test]
fn a_full_queue_is_said_so() {
    let small = ModelsConfig {
        engine: EngineOptions { max_sequences: 1, ..loading().engine },
        max_queue: 1,
        ..loading()
    };
    let server = start(config(), vec![demo(&["demo"])], small);
    let running = long_stream(&server);
    server.until(|| server.metric("vllm:num_requests_running") > 0.0);
    let waiting = server.connect();
    let body = question("Hi", 2).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    (&waiting).write_all(head.as_bytes()).unwrap();
    server.until(|| server.metric("vllm:num_requests_waiting") > 0.0);
    let refused = server.post(CHAT, &question("Hi", 2));
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].clone()),
        (429, json!("queue_full"))
    );
    assert!(refused.head.to_lowercase().contains("retry-after: 1"));
    drop(running);
    assert_eq!(read(&mut BufReader::new(waiting)).unwrap().status, 200);
    well(&server);
    assert_eq!(server.metric("keeve:requests_refused_total"), 1.0);
}

#[test]
fn an_answer_that_takes_too_long_is_given_up() {
    let hasty = ServerConfig { request_timeout: Some(Duration::from_millis(1)), ..config() };
    let server = start(hasty, vec![demo(&["demo"])], loading());
    let mut request = question("Tell me everything.", 1500);
    request["ignore_eos"] = json!(true);
    assert_eq!(server.fails(CHAT, &request, 504)["code"], "timeout");
    request["stream"] = json!(true);
    let events = server.stream(CHAT, &request);
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "timeout");
    server.idle();
}

#[test]
fn running_answers_end_before_the_server_does() {
    let server = server();
    let mut stream = stream_of(&server, 60);
    server.begin_stop();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(server.stop().is_ok());
}

#[test]
fn idle_models_are_unloaded_and_loaded_again() {
    let short = ModelsConfig { ttl: Some(Duration::from_millis(300)), ..loading() };
    let server = start(config(), vec![demo(&["demo"])], short);
    let loaded = || server.get("/v1/models").json()["data"][0]["loaded"].clone();
    server.until(|| loaded() == false);
    assert_eq!(server.get("/health").status, 200);
    server.ok(CHAT, &question("Hi", 2));
}

#[test]
fn models_make_room_for_each_other() {
    let bytes: usize = keeve_demo_model::FILES.iter().map(|(_, bytes)| bytes.len()).sum();
    let one = ModelsConfig { memory: Some(bytes as u64 * 3 / 2), ..loading() };
    let server = start(config(), vec![demo(&["a"]), demo(&["b"])], one);
    let loaded = || {
        let models = server.get("/v1/models").json();
        [models["data"][0]["loaded"] == true, models["data"][1]["loaded"] == true]
    };
    assert_eq!(loaded(), [true, false]);
    let with = |name: &str| {
        let mut request = question("What is the capital of France?", 20);
        request["model"] = json!(name);
        request
    };
    let first = server.ok(CHAT, &with("a"));
    let second = server.ok(CHAT, &with("b"));
    assert_eq!(loaded(), [false, true]);
    assert_eq!(first["choices"], second["choices"]);
    assert_eq!(server.fails(CHAT, &with(""), 400)["param"], "model");
}
