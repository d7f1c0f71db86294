//! Ollama's endpoints with the demo model.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{Read, Write};

use common::{Running, server};
use serde_json::{Value, json};

const FRANCE: &str = "What is the capital of France?";

fn chat(stream: bool) -> Value {
    json!({ "model": "demo", "stream": stream, "options": { "temperature": 0, "num_predict": 40 },
        "messages": [{ "role": "user", "content": FRANCE }] })
}

/// Posts and expects lines of JSON.
fn lines(server: &Running, path: &str, body: &Value) -> Vec<Value> {
    let response = server.post(path, body);
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.head.to_lowercase().contains("content-type: application/x-ndjson"));
    let text = response.text();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fails(server: &Running, path: &str, body: &Value, status: u16) -> String {
    let response = server.post(path, body);
    assert_eq!(response.status, status, "{body}: {}", response.text());
    response.json()["error"].as_str().unwrap().to_owned()
}

/// The status of what has no body.
fn head(server: &Running, path: &str) -> u16 {
    let mut stream = server.connect();
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("\r\n\r\n"), "{text}");
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

fn counted(last: &Value) {
    for field in ["total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count"] {
        assert!(last[field].as_u64().unwrap() > 0, "{field}: {last}");
    }
    assert!(last["load_duration"].as_u64().unwrap() < last["total_duration"].as_u64().unwrap());
    let time = last["created_at"].as_str().unwrap();
    assert!(time.len() >= 20 && time.contains('T') && time.ends_with('Z'), "{time}");
}

#[test]
fn conversations_whole_and_in_pieces() {
    let server = server();
    let whole = server.ok("/api/chat", &chat(false));
    let text = whole["message"]["content"].as_str().unwrap();
    assert!(text.contains("Paris"), "{whole}");
    assert_eq!(
        (&whole["done"], &whole["done_reason"], &whole["model"], &whole["message"]["role"]),
        (&json!(true), &json!("stop"), &json!("demo"), &json!("assistant"))
    );
    counted(&whole);
    // In pieces also where nothing is said about it.
    let mut request = chat(true);
    request.as_object_mut().unwrap().remove("stream");
    request["logprobs"] = json!(true);
    request["top_logprobs"] = json!(2);
    let pieces = lines(&server, "/api/chat", &request);
    let (last, before) = pieces.split_last().unwrap();
    let content = |piece: &Value| piece["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(pieces.iter().map(content).collect::<String>(), text);
    assert!(
        before.iter().all(|piece| piece["done"] == false && piece.get("done_reason").is_none())
    );
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    counted(last);
    let tokens = pieces.iter().filter_map(|piece| piece["logprobs"].as_array()).flatten();
    let tokens: Vec<_> = tokens.collect();
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    let spelled: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(spelled, text);
    server.idle();
}

#[test]
fn questions_texts_and_forms() {
    let server = server();
    let options = json!({ "temperature": 0, "num_predict": 40.0 });
    let question =
        json!({ "model": "demo:latest", "prompt": FRANCE, "options": options, "stream": false });
    let whole = server.ok("/api/generate", &question);
    let text = whole["response"].as_str().unwrap();
    assert!(text.contains("Paris") && whole["model"] == "demo:latest", "{whole}");
    counted(&whole);
    assert_eq!(text, server.ok("/api/chat", &chat(false))["message"]["content"].as_str().unwrap());
    let mut pieces = question.clone();
    pieces["stream"] = json!(true);
    let pieces = lines(&server, "/api/generate", &pieces);
    let joined: String = pieces.iter().map(|piece| piece["response"].as_str().unwrap()).collect();
    assert_eq!(joined, text);
    counted(pieces.last().unwrap());
    // Raw: as `/v1/completions` has it, but that names of special tokens are these.
    let mut raw = question.clone();
    (raw["raw"], raw["prompt"]) = (json!(true), json!("Once upon a time"));
    raw["options"]["num_predict"] = json!(8);
    let completion =
        json!({ "model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 8 });
    let completion = server.ok("/v1/completions", &completion);
    let answer = server.ok("/api/generate", &raw);
    assert_eq!(answer["response"], completion["choices"][0]["text"]);
    assert_eq!(answer["done_reason"], "length");
    raw["prompt"] = json!("<|im_start|>");
    let count = server.ok("/api/generate", &raw)["prompt_eval_count"].as_u64().unwrap();
    let ids =
        server.ok("/tokenize", &json!({ "prompt": "<|im_start|>" }))["count"].as_u64().unwrap();
    assert!(count < ids, "{count} tokens of a special token's name, {ids} of its text");
    // Forms.
    let city = json!({ "type": "object", "properties": { "city": { "enum": ["Ulm", "Bonn"] } },
        "required": ["city"], "additionalProperties": false });
    let mut formed = question.clone();
    formed["format"] = city;
    let answer = server.ok("/api/generate", &formed)["response"].as_str().unwrap().to_owned();
    let city: Value = serde_json::from_str(&answer).unwrap();
    assert!(["Ulm", "Bonn"].contains(&city["city"].as_str().unwrap()));
    formed["format"] = json!("");
    assert_eq!(server.ok("/api/generate", &formed)["response"], text);
    // An answer that is given goes on.
    let mut begun = chat(false);
    begun["messages"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "role": "assistant", "content": "The capital" }));
    let rest = server.ok("/api/chat", &begun)["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(format!("The capital{rest}"), text);
}

#[test]
fn tools_are_called_whole() {
    let server = server();
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let mut request = chat(true);
    request["tools"] = json!([{ "type": "function",
        "function": { "name": "weather", "description": "of a city", "parameters": parameters } }]);
    // Whether the model calls it is up to it; what comes is in Ollama's form.
    for piece in lines(&server, "/api/chat", &request) {
        for call in piece["message"]["tool_calls"].as_array().into_iter().flatten() {
            assert!(
                call["function"]["name"].is_string() && call["function"]["arguments"].is_object()
            );
        }
    }
    // Calls and results of before, as clients send them.
    request["messages"].as_array_mut().unwrap().extend([
        json!({ "role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
            { "function": { "name": "weather", "arguments": { "city": "Ulm" } } }] }),
        json!({ "role": "tool", "tool_name": "weather", "content": "sunny" }),
    ]);
    request["think"] = json!(false);
    assert!(lines(&server, "/api/chat", &request).last().unwrap()["done"] == true);
}

#[test]
fn models_are_listed_and_described() {
    let server = server();
    let tags = server.get("/api/tags").json();
    let names: Vec<_> = tags["models"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    assert_eq!(names, ["demo:latest", "gpt-test:latest"]);
    let tag = &tags["models"][0];
    assert!(
        tag["size"].as_u64().unwrap() > 0 && tag["digest"].as_str().unwrap().len() == 64,
        "{tag}"
    );
    for field in ["format", "family", "parameter_size", "quantization_level"] {
        assert!(!tag["details"][field].as_str().unwrap().is_empty(), "{tag}");
    }
    let loaded = server.get("/api/ps").json();
    assert_eq!(loaded["models"][0]["name"], "demo:latest");
    assert!(loaded["models"][0]["expires_at"].is_string());
    for body in [json!({ "model": "demo" }), json!({ "name": "demo:latest", "verbose": true })] {
        let shown = server.ok("/api/show", &body);
        let info = &shown["model_info"];
        let family = info["general.architecture"].as_str().unwrap();
        assert!(info[format!("{family}.context_length")].as_u64().unwrap() > 0, "{shown}");
        assert!(info["general.parameter_count"].as_u64().unwrap() > 1000);
        assert!(shown["template"].as_str().unwrap().contains("im_start"), "{shown}");
        let capabilities = shown["capabilities"].as_array().unwrap();
        assert!(
            ["completion", "insert"].iter().all(|one| capabilities.contains(&json!(one))),
            "{shown}"
        );
        assert!(shown["modelfile"].is_string() && shown["parameters"].is_string());
    }
    assert!(server.get("/api/version").json()["version"].as_str().unwrap().starts_with("0."));
    assert_eq!(head(&server, "/"), 200);
    assert_eq!(
        server.request("GET", "/", "Accept: application/json\r\n", "").text(),
        "Ollama is running"
    );
    assert!(server.get("/").text().contains("<html"));
}

#[test]
fn models_are_loaded_and_unloaded_where_nothing_is_asked() {
    let server = server();
    for (path, body, reason) in [
        ("/api/generate", json!({ "model": "demo" }), "load"),
        ("/api/chat", json!({ "model": "demo", "messages": [] }), "load"),
        ("/api/generate", json!({ "model": "demo", "keep_alive": 0 }), "unload"),
        ("/api/chat", json!({ "model": "demo", "keep_alive": "5m" }), "load"),
        ("/api/chat", json!({ "model": "demo", "messages": [], "keep_alive": "0s" }), "unload"),
    ] {
        let answer = server.ok(path, &body);
        assert_eq!(
            (&answer["done"], &answer["done_reason"]),
            (&json!(true), &json!(reason)),
            "{body}"
        );
        let loaded = server.get("/api/ps").json()["models"].as_array().unwrap().len();
        assert_eq!(loaded, usize::from(reason == "load"), "{body}");
    }
}

#[test]
fn vectors_of_texts() {
    let server = server();
    let both = server.ok("/api/embed", &json!({ "model": "demo", "input": ["a cat", "a dog"] }));
    let vector = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let length = |vector: &[f64]| vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert_eq!(both["embeddings"].as_array().unwrap().len(), 2);
    let cat = vector(&both["embeddings"][0]);
    assert!((length(&cat) - 1.0).abs() < 1e-4 && both["prompt_eval_count"].as_u64().unwrap() > 1);
    let one =
        server.ok("/api/embed", &json!({ "model": "demo", "input": "a cat", "dimensions": 8 }));
    let short = vector(&one["embeddings"][0]);
    assert!(short.len() == 8 && (length(&short) - 1.0).abs() < 1e-4);
    let old = server.ok("/api/embeddings", &json!({ "model": "demo", "prompt": "a cat" }));
    let old = vector(&old["embedding"]);
    assert!((old[0] / length(&old) - cat[0]).abs() < 1e-4);
    let long = json!({ "model": "demo", "input": "word ".repeat(5000) });
    assert_eq!(server.ok("/api/embed", &long)["embeddings"].as_array().unwrap().len(), 1);
    let long = json!({ "model": "demo", "input": "word ".repeat(5000), "truncate": false });
    fails(&server, "/api/embed", &long, 400);
    let none = server.ok("/api/embeddings", &json!({ "model": "demo", "prompt": "" }));
    assert_eq!(none["embedding"], json!([]));
}

#[test]
fn what_is_not_supported_is_said_in_ollamas_form() {
    let server = server();
    for path in ["/api/push", "/api/create", "/api/copy"] {
        assert!(fails(&server, path, &json!({ "model": "x" }), 501).contains("not supported"));
    }
    let deleted = server.request("DELETE", "/api/delete", "", "{\"model\": \"demo\"}");
    assert_eq!(deleted.status, 501);
    assert_eq!(head(&server, "/api/blobs/sha256:a"), 501);
    assert_eq!(fails(&server, "/api/nothing", &json!({}), 404), "no such path");
    // Clients ask for a model before they use it.
    assert_eq!(
        lines(&server, "/api/pull", &json!({ "model": "demo" })),
        [json!({ "status": "success" })]
    );
    assert!(
        fails(&server, "/api/pull", &json!({ "model": "llama3" }), 501).contains("not supported")
    );
    let with = |field: &str, value: Value| {
        let mut request = chat(false);
        request[field] = value;
        request
    };
    for (path, body, named) in [
        ("/api/chat", with("model", json!("llama3")), "llama3"),
        ("/api/chat", with("options", json!({ "mirostat": 2 })), "options.mirostat"),
        ("/api/chat", with("options", json!({ "temperature": -1 })), "temperature"),
        ("/api/chat", with("options", json!({ "num_predict": 1.5 })), "options.num_predict"),
        ("/api/chat", with("format", json!("yaml")), "format"),
        ("/api/chat", with("keep_alive", json!("soon")), "keep_alive"),
        (
            "/api/chat",
            with("messages", json!([{ "role": "robot", "content": "" }])),
            "system, user",
        ),
        ("/api/chat", with("mesages", json!([])), "messages"),
        (
            "/api/generate",
            json!({ "model": "demo", "prompt": "a", "template": "{{ .Prompt }}" }),
            "template",
        ),
        ("/api/generate", json!({ "model": "demo", "prompt": "a", "context": [1, 2] }), "context"),
        (
            "/api/generate",
            json!({ "model": "demo", "prompt": "a", "raw": true, "system": "b" }),
            "system",
        ),
        ("/api/embed", json!({ "model": "demo" }), "input"),
    ] {
        let status = if named == "llama3" { 404 } else { 400 };
        let message = fails(&server, path, &body, status);
        assert!(message.contains(named) && !message.contains('\n'), "{message}");
    }
    // What cannot change the answer is taken, and named where nobody knows it.
    let mut odd = chat(false);
    odd["options"] =
        json!({ "temperature": 0, "num_predict": 4, "num_ctx": 4096, "num_gpu": 99, "numa": null });
    odd["somebody"] = json!("else");
    let response = server.post("/api/chat", &odd);
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.head.contains("x-keeve-ignored: somebody\r\n"), "{}", response.head);
}

#[test]
fn programs_may_leave_the_type_out_and_pages_may_not() {
    let server = server();
    let body = chat(false).to_string();
    for headers in ["", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        assert_eq!(server.request("POST", "/api/chat", headers, &body).status, 200);
    }
    for headers in [
        "Origin: http://evil.example\r\nContent-Type: text/plain\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        let response = server.request("POST", "/api/chat", headers, &body);
        assert_eq!(response.status, 415, "{headers}");
        assert!(response.json()["error"].is_string());
    }
}
