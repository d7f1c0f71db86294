//! Many streaming clients at once, of which some hang up: the others' answers are those that each
//! gets alone.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Write};

use common::{Running, question, server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const CLIENTS: usize = 64;

/// Numbers that look random and are the same each time.
fn random(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 33
}

fn request(kind: usize) -> Value {
    let topics =
        ["the sea", "a long war", "bread", "the moon", "trains", "music", "a cat", "winter"];
    let mut request = question(&format!("Tell me about {}.", topics[kind]), 24);
    request["stream"] = json!(true);
    request
}

/// The text of a streamed answer; `None` if the client hung up after so many events.
fn ask(server: &Running, kind: usize, patience: Option<u64>) -> Option<String> {
    let body = request(kind).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = server.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let (mut text, mut events) = (String::new(), 0);
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        let Some(data) = line.strip_prefix("data: ") else {
            assert!(!line.starts_with("HTTP/1.1 ") || line.contains(" 200 "), "{line}");
            continue;
        };
        if data == "[DONE]" {
            return Some(text);
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        assert!(chunk["error"].is_null(), "{chunk}");
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        events += 1;
        if patience.is_some_and(|patience| events > patience) {
            return None;
        }
    }
    panic!("an answer without an end");
}

#[test]
fn many_clients_of_which_a_third_hang_up() {
    let server = server();
    let alone: Vec<_> = (0..8).map(|kind| ask(&server, kind, None).unwrap()).collect();
    let finished: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (server, alone) = (&server, &alone);
                scope.spawn(move || {
                    let mut finished = 0;
                    for round in 0..3 {
                        let number = random((client * 3 + round) as u64);
                        let kind = (number % 8) as usize;
                        let patience = (number / 8).is_multiple_of(3).then_some(number / 24 % 12);
                        if let Some(text) = ask(server, kind, patience) {
                            assert_eq!(text, alone[kind], "client {client}, topic {kind}");
                            finished += 1;
                        }
                    }
                    finished
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(finished > CLIENTS, "{finished}");
    server.idle();
    assert_eq!(server.get("/v1/queue").json()["models"][0]["running"], 0);
}
