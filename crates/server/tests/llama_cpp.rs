//! What clients of llama.cpp's own server ask for (ggml-org/llama.cpp, `tools/server/README.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::server;
use serde_json::{Value, json};

#[test]
fn texts_go_on_as_templates_have_them() {
    let server = server();
    let chat = json!({ "messages": [{ "role": "user", "content": "Hi" }], "temperature": 0, "max_tokens": 6 });
    let prompt = server.ok("/apply-template", &chat)["prompt"].as_str().unwrap().to_owned();
    let said = server.ok("/v1/chat/completions", &chat);
    let said = said["choices"][0]["message"]["content"].as_str().unwrap();
    let asked = json!({ "prompt": prompt, "n_predict": 6, "temperature": 0, "cache_prompt": true,
        "samplers": ["top_k"], "n_probs": 0, "grammar": "", "json_schema": null });
    let answer = server.ok("/completion", &asked);
    assert_eq!(answer["content"], said);
    assert_eq!((&answer["stop"], &answer["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!((&answer["tokens_predicted"], &answer["prompt"]), (&json!(6), &json!(prompt)));
    // The same as token ids, and as texts and ids one behind the other.
    let tokens = |text: &str| {
        let asked = json!({ "content": text, "parse_special": true });
        server.ok("/tokenize", &asked)["tokens"].as_array().unwrap().clone()
    };
    let (begin, end) = prompt.split_once("Hi").unwrap();
    let mixed = [tokens(begin), vec![json!("Hi")], tokens(end)].concat();
    for prompt in [json!(tokens(&prompt)), json!(mixed)] {
        let mut asked = asked.clone();
        asked["prompt"] = prompt;
        assert_eq!(server.ok("/completion", &asked)["content"], said);
    }
    let mut streamed = asked.clone();
    streamed["stream"] = json!(true);
    let events = server.stream("/completion", &streamed);
    let events: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let (last, pieces) = events.split_last().unwrap();
    let joined: String = events.iter().map(|piece| piece["content"].as_str().unwrap()).collect();
    assert_eq!(joined, said);
    assert!(pieces.iter().all(|piece| piece["stop"] == false) && last["stop"] == true);
    let mut bound = asked.clone();
    bound["json_schema"] = json!({ "enum": ["yes", "no"] });
    let answer = server.ok("/completion", &bound);
    assert!(["\"yes\"", "\"no\""].contains(&answer["content"].as_str().unwrap()), "{answer}");
    let mut stopped = asked.clone();
    stopped["stop"] = json!([said.chars().last().unwrap().to_string()]);
    assert_eq!(server.ok("/completion", &stopped)["stop_type"], "word");
    for (field, value) in [
        ("mirostat", json!(2)),
        ("n_probs", json!(3)),
        ("image_data", json!([{ "id": 1 }])),
        ("grammar", json!("root")),
    ] {
        let mut wrong = asked.clone();
        wrong[field] = value;
        let refused = server.post("/completion", &wrong);
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(refused.status == 400 && text.contains(field), "{text}");
    }
}

#[test]
fn the_model_says_what_it_is_like() {
    let server = server();
    let get = |path: &str| -> Value {
        let response = server.get(path);
        assert_eq!(response.status, 200, "{path}");
        serde_json::from_slice(&response.body).unwrap()
    };
    let props = get("/props");
    assert_eq!(
        props["default_generation_settings"]["n_ctx"],
        get("/v1/models")["data"][0]["max_model_len"]
    );
    assert!(props["chat_template"].as_str().unwrap().contains("messages"), "{props}");
    assert_eq!(props["modalities"]["vision"], false);
    let slots = get("/slots?model=gpt-test");
    assert_eq!(slots.as_array().unwrap().len() as u64, props["total_slots"].as_u64().unwrap());
    assert_eq!(server.get("/props?model=other").status, 404);
}
