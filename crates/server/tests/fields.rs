//! Field by field, as published schemas and clients' types have them: null is as absent, what is not honoured is
//! refused by name unless it asks for nothing, and what nobody knows is named in the response.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Running, config, demo, loading, question, server, start};
use keeve_codec::Bytes;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn base(path: &str) -> Value {
    match path {
        CHAT => question("Hi", 3),
        "/v1/completions" => {
            json!({ "model": "demo", "prompt": "Hi", "max_tokens": 3, "temperature": 0 })
        }
        "/v1/responses" => {
            json!({ "model": "demo", "input": "Hi", "max_output_tokens": 3, "temperature": 0 })
        }
        "/v1/messages" => json!({ "model": "demo", "max_tokens": 3, "temperature": 0,
            "messages": [{ "role": "user", "content": "Hi" }] }),
        "/v1/embeddings" => json!({ "model": "demo", "input": "Hi" }),
        _ => panic!("{path}"),
    }
}

fn with(path: &str, field: &str, value: Value) -> Value {
    let mut request = base(path);
    request[field] = value;
    request
}

/// The status, and where it is an error the field that it names (Anthropic's form names none, but its message does).
fn asked(server: &Running, path: &str, body: &Value) -> (u16, String) {
    let response = server.post(path, body);
    let value = response.json();
    let error = &value["error"];
    let named = error["param"].as_str().or(error["message"].as_str()).unwrap_or_default();
    (response.status, named.to_owned())
}

/// All fields of a request in OpenAI's and Anthropic's Python clients (openai 3.57.0, anthropic 2.14.0: the `TypedDict`s
/// of their parameters), with a value that is taken.
fn taken() -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } });
    // What clients put beside and into tools.
    let mut marked = tool.clone();
    (marked["x_server"], marked["function"]["x_cache"]) = (json!("a"), json!({ "type": "b" }));
    let format = json!({ "type": "json_object" });
    vec![
        (
            CHAT,
            vec![
                ("audio", json!({})),
                ("frequency_penalty", json!(0.5)),
                ("function_call", json!(null)),
                ("functions", json!([])),
                ("logit_bias", json!({ "5": -100 })),
                ("logprobs", json!(true)),
                ("max_completion_tokens", json!(2)),
                ("max_tokens", json!(2)),
                ("metadata", json!({ "a": "b" })),
                ("modalities", json!(["text"])),
                ("moderation", json!(null)),
                ("n", json!(2)),
                ("parallel_tool_calls", json!(true)),
                ("prediction", json!({ "type": "content", "content": "Hello" })),
                ("presence_penalty", json!(0.5)),
                ("prompt_cache_key", json!("a")),
                ("prompt_cache_options", json!({ "a": 1 })),
                ("prompt_cache_retention", json!("24h")),
                ("reasoning_effort", json!("low")),
                ("response_format", format.clone()),
                ("safety_identifier", json!("a")),
                ("seed", json!(-5)),
                ("service_tier", json!("auto")),
                ("stop", json!(["zz"])),
                ("store", json!(true)),
                ("stream", json!(false)),
                ("stream_options", json!(null)),
                ("temperature", json!(1)),
                ("tool_choice", json!("auto")),
                ("tools", json!([tool, marked])),
                ("top_logprobs", json!(0)),
                ("top_p", json!(0.5)),
                ("user", json!("me")),
                ("verbosity", json!("low")),
                ("web_search_options", json!(null)),
                // vLLM's.
                ("top_k", json!(5)),
                ("min_p", json!(0.1)),
                ("repetition_penalty", json!(1.1)),
                ("repeat_penalty", json!(1.1)),
                ("chat_template_kwargs", json!({ "enable_thinking": false })),
                ("documents", json!([{ "title": "a", "text": "b" }])),
                ("add_generation_prompt", json!(false)),
                ("continue_final_message", json!(false)),
                ("stop_token_ids", json!([7])),
                ("ignore_eos", json!(true)),
                ("min_tokens", json!(2)),
                ("return_tokens_as_token_ids", json!(true)),
                ("guided_json", json!({ "type": "object" })),
                ("guided_regex", json!("[ab]+")),
                ("guided_choice", json!(["yes", "no"])),
                ("structured_outputs", json!({ "choice": ["yes", "no"] })),
                ("skip_special_tokens", json!(false)),
                ("spaces_between_special_tokens", json!(true)),
                ("include_reasoning", json!(true)),
                ("enable_thinking", json!(false)),
                ("thinking", json!({ "type": "disabled" })),
                ("reasoning", json!({ "effort": "low" })),
                ("max_completion_tokens", json!(2.0)),
                ("priority", json!(1)),
                ("request_id", json!("a")),
                ("cache_prompt", json!(true)),
                ("mirostat", json!(0)),
                ("typical_p", json!(1.0)),
                ("use_beam_search", json!(false)),
            ],
        ),
        (
            "/v1/completions",
            vec![
                ("best_of", json!(2)),
                ("echo", json!(true)),
                ("frequency_penalty", json!(0.5)),
                ("logit_bias", json!({ "5": -100 })),
                ("logprobs", json!(0)),
                ("max_tokens", json!(2)),
                ("n", json!(2)),
                ("presence_penalty", json!(0.5)),
                ("prompt", json!([5, 6])),
                ("seed", json!(1)),
                ("stop", json!("zz")),
                ("stream", json!(false)),
                ("stream_options", json!(null)),
                ("suffix", json!("")),
                ("temperature", json!(0)),
                ("top_p", json!(1)),
                ("user", json!("me")),
                ("prompt_logprobs", json!(1)),
                ("add_special_tokens", json!(false)),
                ("skip_special_tokens", json!(false)),
            ],
        ),
        (
            "/v1/responses",
            vec![
                ("background", json!(false)),
                ("background_options", json!({})),
                ("context_management", json!([])),
                ("conversation", json!(null)),
                ("include", json!(["reasoning.encrypted_content"])),
                ("instructions", json!("Be kind.")),
                ("max_output_tokens", json!(2)),
                ("max_tool_calls", json!(2)),
                ("metadata", json!({})),
                ("moderation", json!(null)),
                ("parallel_tool_calls", json!(false)),
                ("previous_response_id", json!(null)),
                ("prompt", json!(null)),
                ("prompt_cache_key", json!("a")),
                ("prompt_cache_options", json!({})),
                ("prompt_cache_retention", json!("in-memory")),
                ("reasoning", json!({ "effort": "low", "summary": "auto" })),
                ("safety_identifier", json!("a")),
                ("service_tier", json!("auto")),
                ("store", json!(false)),
                ("stream", json!(false)),
                ("stream_options", json!({ "include_obfuscation": false })),
                ("temperature", json!(0)),
                ("text", json!({ "format": { "type": "text" }, "verbosity": "low" })),
                ("tool_choice", json!("none")),
                (
                    "tools",
                    json!([{ "type": "function", "name": "f", "parameters": {}, "strict": true }]),
                ),
                ("top_logprobs", json!(0)),
                ("top_p", json!(1)),
                ("truncation", json!("auto")),
                ("user", json!("me")),
            ],
        ),
        (
            "/v1/messages",
            vec![
                ("cache_control", json!({ "type": "ephemeral" })),
                ("container", json!(null)),
                ("context_management", json!({ "edits": [] })),
                ("diagnostics", json!({})),
                ("inference_geo", json!("eu")),
                ("mcp_servers", json!([])),
                ("metadata", json!({ "user_id": "a" })),
                ("output_config", json!({ "effort": "low" })),
                ("service_tier", json!("auto")),
                ("speed", json!("standard")),
                ("stop_sequences", json!(["zz"])),
                ("stream", json!(false)),
                (
                    "system",
                    json!([{ "type": "text", "text": "Be kind.", "cache_control": { "type": "ephemeral" } }]),
                ),
                ("temperature", json!(0)),
                (
                    "thinking",
                    json!({ "type": "enabled", "budget_tokens": 1024, "display": "omitted" }),
                ),
                ("tool_choice", json!({ "type": "auto" })),
                (
                    "tools",
                    json!([{ "name": "f", "input_schema": { "type": "object" }, "defer_loading": false }]),
                ),
                ("top_k", json!(5)),
                ("top_p", json!(0.9)),
                ("user_profile_id", json!("a")),
                ("workspace_id", json!("a")),
            ],
        ),
        (
            "/v1/embeddings",
            vec![
                ("dimensions", json!(512)),
                ("encoding_format", json!("base64")),
                ("input", json!([[5, 6], [7]])),
                ("user", json!("me")),
            ],
        ),
    ]
}

#[test]
fn published_fields_are_taken_and_null_is_as_absent() {
    let server = server();
    for (path, fields) in taken() {
        let plain = server.ok(path, &base(path));
        for (field, value) in fields {
            assert_eq!(
                asked(&server, path, &with(path, field, value.clone())),
                (200, String::new()),
                "{path} {field} {value}"
            );
            if ["input", "messages"].contains(&field) {
                continue;
            }
            // What a field asks for by being there, null does not.
            let mut null = base(path);
            if null.get(field).is_some() {
                continue;
            }
            null[field] = Value::Null;
            let answer = server.ok(path, &null);
            for part in ["choices", "content", "data"] {
                assert_eq!(answer[part], plain[part], "{path} {field}: null");
            }
        }
        let mut nameless = base(path);
        nameless["model"] = Value::Null;
        let (status, _) = asked(&server, path, &nameless);
        assert_eq!(status, 200, "{path}: model null");
    }
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    let server = server();
    let some = json!({ "a": 1 });
    for (path, fields) in [
        (
            CHAT,
            vec![
                ("audio", json!({ "voice": "x" })),
                ("modalities", json!(["text", "audio"])),
                ("web_search_options", some.clone()),
                ("moderation", some.clone()),
                ("prompt_logprobs", json!(1)),
                ("chat_template", json!("{{ messages }}")),
                ("echo", json!(true)),
                ("add_special_tokens", json!(true)),
                ("include_reasoning", json!(false)),
                ("use_beam_search", json!(true)),
                ("length_penalty", json!(2)),
                ("bad_words", json!(["a"])),
                ("allowed_token_ids", json!([1])),
                ("truncate_prompt_tokens", json!(5)),
                ("guided_grammar", json!("root ::= \"a\"")),
                ("grammar", json!("root ::= \"a\"")),
                ("include_stop_str_in_output", json!(true)),
                ("mirostat", json!(2)),
                ("typical_p", json!(0.5)),
                ("xtc_probability", json!(0.5)),
                ("dry_multiplier", json!(0.8)),
                ("cache_salt", json!("a")),
                ("min_tokens", json!(100)),
                ("function_call", json!("auto")),
                ("continue_final_message", json!(true)),
                ("temperture", json!(1)),
                ("max_token", json!(1)),
            ],
        ),
        (
            "/v1/completions",
            vec![("best_of", json!(0)), ("logprobs", json!(50)), ("mirostat", json!(1))],
        ),
        (
            "/v1/responses",
            vec![
                ("background", json!(true)),
                ("conversation", json!("conv_1")),
                ("previous_response_id", json!("resp_1")),
                ("prompt", json!({ "id": "pmpt_1" })),
                ("truncation", json!("never")),
                ("top_logprobs", json!(2)),
                ("include", json!(["message.output_text.logprobs"])),
                ("tools", json!([{ "type": "web_search" }])),
                ("tool_choice", json!({ "type": "file_search" })),
                ("input", json!([{ "type": "item_reference", "id": "a" }])),
            ],
        ),
        (
            "/v1/messages",
            vec![
                ("container", json!("c")),
                ("mcp_servers", json!([{ "name": "a" }])),
                ("tools", json!([{ "type": "web_search_20250305", "name": "web_search" }])),
                ("max_tokens", json!(null)),
            ],
        ),
        ("/v1/embeddings", vec![("dimensions", json!(3)), ("truncate_prompt_tokens", json!(5))]),
    ] {
        for (field, value) in fields {
            let (status, named) = asked(&server, path, &with(path, field, value.clone()));
            assert_eq!(status, 400, "{path} {field} {value}");
            let by_name = named.starts_with(field)
                || field == "continue_final_message" && named == "messages"
                || path == "/v1/messages" && named.contains(field.trim_end_matches('s'));
            assert!(by_name || field == "logprobs", "{path} {field}: {named}");
        }
    }
}

#[test]
fn what_nobody_knows_is_left_alone_and_named() {
    let server = server();
    for (path, _) in taken() {
        let response = server.post(path, &with(path, "x_unheard_of", json!({ "a": [1] })));
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert!(response.head.contains("x-keeve-ignored: x_unheard_of\r\n"), "{}", response.head);
        assert!(!server.post(path, &base(path)).head.contains("x-keeve-ignored"));
    }
    let mut request = base(CHAT);
    request["messages"][0]["timestamp"] = json!(5);
    request["messages"][0]["content"] = json!([{ "type": "text", "text": "Hi", "extra": null }]);
    request["stream"] = json!(true);
    let response = server.post(CHAT, &request);
    let named = "x-keeve-ignored: messages[0].content[0].extra, messages[0].timestamp\r\n";
    assert!(response.status == 200 && response.head.contains(named), "{}", response.head);
}

#[test]
fn messages_as_clients_write_them() {
    let server = server();
    let ask = |messages: Value| {
        let mut request = base(CHAT);
        request["messages"] = messages;
        request
    };
    let user = json!({ "role": "user", "content": "Hi" });
    let call =
        json!({ "id": "a", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    for messages in [
        json!([{ "role": "developer", "content": "Be kind." }, user]),
        json!([{ "role": "user", "content": [{ "type": "input_text", "text": "Hi" }], "name": "me" }]),
        json!([user, { "role": "assistant", "content": [{ "type": "refusal", "refusal": "No." }] }, user]),
        json!([user, { "role": "assistant", "content": null, "refusal": "No.", "audio": null }, user]),
        json!([user, { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "a", "content": [{ "type": "text", "text": "1" }] }]),
        json!([user, { "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": { "a": 1 } } }] },
            { "role": "tool", "content": null }]),
        json!([user, { "role": "assistant", "function_call": { "name": "f", "arguments": "{}" } },
            { "role": "function", "name": "f", "content": "1" }]),
        json!([user, { "role": "assistant", "content": "a", "reasoning": "hm" }, user]),
    ] {
        assert_eq!(
            asked(&server, CHAT, &ask(messages.clone())),
            (200, String::new()),
            "{messages}"
        );
    }
    for (messages, named) in [
        (json!([{ "role": "user", "content": null }]), "messages[0].content"),
        (
            json!([{ "role": "user", "content": [{ "type": "input_audio" }] }]),
            "messages[0].content[0]",
        ),
        (json!([{ "role": "robot", "content": "a" }]), "messages[0].role"),
        (
            json!([{ "role": "user", "content": [{ "type": "text", "text": 5 }] }]),
            "messages[0].content[0].text",
        ),
        (json!([{ "role": "user", "content": 5 }]), "messages[0].content"),
        (
            json!([user, { "role": "assistant", "content": "a", "audio": { "id": "x" } }, user]),
            "messages[1].audio",
        ),
    ] {
        assert_eq!(asked(&server, CHAT, &ask(messages.clone())), (400, named.into()), "{messages}");
    }
}

#[test]
fn an_answer_that_is_given_goes_on() {
    let server = server();
    let mut request = question("What is the capital of France?", 40);
    let whole = server.ok(CHAT, &request);
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let (begun, _) = whole.split_at(whole.find(' ').unwrap() + 1);
    for begun in [begun.trim_end(), "The capital of"] {
        let last = json!({ "role": "assistant", "content": begun });
        request["messages"].as_array_mut().unwrap().truncate(1);
        request["messages"].as_array_mut().unwrap().push(last.clone());
        request["continue_final_message"] = json!(true);
        let rest = server.ok(CHAT, &request);
        let rest = rest["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(format!("{begun}{rest}"), whole);
        // As Anthropic's clients do it.
        let mut messages = base("/v1/messages");
        messages["messages"] = request["messages"].clone();
        (messages["max_tokens"], messages["temperature"]) = (json!(40), json!(0));
        let answer = server.ok("/v1/messages", &messages);
        assert_eq!(answer["content"][0]["text"].as_str().unwrap(), rest);
    }
}

#[test]
fn functions_are_called_as_before_there_were_tools() {
    let server = server();
    let parameters = json!({ "type": "object", "properties": { "city": { "enum": ["Ulm", "Bonn"] } },
        "required": ["city"], "additionalProperties": false });
    let mut request = question("What is the weather?", 100);
    request["functions"] = json!([{ "name": "weather", "parameters": parameters }]);
    request["function_call"] = json!({ "name": "weather" });
    let answer = server.ok(CHAT, &request);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call", "{answer}");
    let call = &choice["message"]["function_call"];
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(call["name"] == "weather" && arguments["city"].is_string());
    assert!(choice["message"].get("tool_calls").is_none());
    request["stream"] = json!(true);
    let (mut name, mut text) = (String::new(), String::new());
    for event in server.stream(CHAT, &request) {
        let Ok(chunk) = serde_json::from_str::<Value>(&event) else { continue };
        let delta = &chunk["choices"][0]["delta"]["function_call"];
        name.push_str(delta["name"].as_str().unwrap_or_default());
        text.push_str(delta["arguments"].as_str().unwrap_or_default());
    }
    assert_eq!((&*name, &*text), ("weather", call["arguments"].as_str().unwrap()));
}

#[test]
fn choices_and_end_tokens_are_kept_to() {
    let server = server();
    let text = |request: &Value| {
        let answer = server.ok(CHAT, request);
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let mut request = question("Is it?", 20);
    request["guided_choice"] = json!(["yes.", "no (never)"]);
    assert!(["yes.", "no (never)"].contains(&&*text(&request)));
    let mut request = question("What is the capital of France?", 40);
    let whole = text(&request);
    let tokens = server.ok("/tokenize", &json!({ "prompt": whole, "add_special_tokens": false }));
    let ids: Vec<u64> =
        tokens["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    request["stop_token_ids"] = json!([ids[2]]);
    let cut = server.ok("/detokenize", &json!({ "tokens": ids[..2] }))["prompt"].clone();
    assert_eq!(text(&request), cut.as_str().unwrap());
    // Longer than it would be, though no end token is ignored.
    let mut request = question("What is the capital of France?", 200);
    request["min_tokens"] = json!(ids.len() + 20);
    let usage = server.ok(CHAT, &request)["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(usage as usize >= ids.len() + 20, "{usage}");
}

#[test]
fn log_probabilities_have_their_place_in_the_text() {
    let server = server();
    let mut request = json!({ "model": "demo", "prompt": "The café in Köln: 你", "temperature": 0,
        "max_tokens": 6, "logprobs": 2, "echo": true });
    let answer = server.ok("/v1/completions", &request);
    let choice = &answer["choices"][0];
    let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
    assert!(choice["text"].as_str().unwrap().starts_with("The café in Köln: 你"));
    let logprobs = &choice["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    let (tokens, offsets) = (list("tokens"), list("text_offset"));
    assert_eq!(tokens.len(), offsets.len());
    for (token, offset) in tokens.iter().zip(&offsets) {
        let rest: String = text[offset.as_u64().unwrap() as usize..].iter().collect();
        let token = token.as_str().unwrap();
        assert!(
            token.contains('\u{fffd}') || rest.starts_with(token),
            "{token:?} at {offset} of {rest:?}"
        );
    }
    // The first token has nothing before it.
    assert!(list("token_logprobs")[0].is_null() && list("top_logprobs")[0].is_null());
    assert!(list("token_logprobs")[1..].iter().all(|value| value.as_f64().unwrap() <= 0.0));
    // The prompt alone gives the same, and a stream too.
    let prompt_tokens = answer["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    request["max_tokens"] = json!(0);
    let bare = server.ok("/v1/completions", &request);
    let bare = bare["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!(bare, list("token_logprobs")[..prompt_tokens]);
    request["max_tokens"] = json!(6);
    request["stream"] = json!(true);
    let (mut streamed, mut streamed_offsets) = (String::new(), vec![]);
    for event in server.stream("/v1/completions", &request) {
        let Ok(chunk) = serde_json::from_str::<Value>(&event) else { continue };
        streamed.push_str(chunk["choices"][0]["text"].as_str().unwrap_or_default());
        streamed_offsets.extend(
            chunk["choices"][0]["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default(),
        );
    }
    assert_eq!((streamed, streamed_offsets), (text.iter().collect(), offsets));
    // What would be chosen next greedily is the likeliest alternative.
    let next = json!({ "model": "demo", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 1, "prompt_logprobs": 1 });
    let next = server.ok("/v1/completions", &next);
    let prompt = next["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert!(prompt[0].is_null() && prompt.len() > 1);
    assert!(
        prompt[1..].iter().all(|token| token
            .as_object()
            .unwrap()
            .values()
            .any(|one| one["rank"] == 1))
    );
}

#[test]
fn the_best_of_several_are_given() {
    let server = server();
    let request = json!({ "model": "demo", "prompt": "Once upon a time", "max_tokens": 12, "seed": 3,
        "temperature": 1.5, "n": 4, "logprobs": 0 });
    let mean = |choice: &Value| {
        let values = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        values.iter().map(|value| value.as_f64().unwrap()).sum::<f64>() / values.len() as f64
    };
    let all = server.ok("/v1/completions", &request);
    let mut all: Vec<_> = all["choices"].as_array().unwrap().clone();
    all.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let mut best = request.clone();
    (best["n"], best["best_of"]) = (json!(2), json!(4));
    let best = server.ok("/v1/completions", &best);
    let texts = |list: &[Value]| list.iter().map(|one| one["text"].clone()).collect::<Vec<_>>();
    assert_eq!(texts(best["choices"].as_array().unwrap()), texts(&all[..2]));
    assert_eq!(best["choices"][1]["index"], 1);
}

#[test]
fn usage_is_in_every_piece_where_it_is_asked_for() {
    let server = server();
    for path in [CHAT, "/v1/completions"] {
        let mut request = base(path);
        request["stream"] = json!(true);
        let sent = |request: &Value| -> Vec<Value> {
            let events = server.stream(path, request);
            events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
        };
        assert!(sent(&request).iter().all(|chunk| chunk.get("usage").is_none()), "{path}");
        request["stream_options"] =
            json!({ "include_usage": true, "continuous_usage_stats": false });
        let chunks = sent(&request);
        let (last, before) = chunks.split_last().unwrap();
        assert!(
            before.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some())
        );
        let total = last["usage"]["total_tokens"].as_u64().unwrap();
        assert!(total > 0 && last["choices"] == json!([]));
        // In each, what its answer has used so far.
        for at_end in [false, true] {
            request["stream_options"] =
                json!({ "include_usage": at_end, "continuous_usage_stats": true });
            let chunks = sent(&request);
            let used: Vec<u64> = chunks
                .iter()
                .map(|chunk| chunk["usage"]["total_tokens"].as_u64().unwrap())
                .collect();
            assert!(used.is_sorted() && used[0] < total && used.last() == Some(&total), "{used:?}");
            assert_eq!(chunks.last().unwrap()["choices"] == json!([]), at_end);
            let parts = &chunks[0]["usage"];
            let part = |name: &str| parts[name].as_u64().unwrap();
            assert_eq!(part("prompt_tokens") + part("completion_tokens"), used[0]);
        }
    }
}

#[test]
fn tokens_are_counted_before_they_are_sent() {
    let server = server();
    let mut request = base("/v1/messages");
    let sent = server.ok("/v1/messages", &request)["usage"]["input_tokens"].as_u64().unwrap();
    request.as_object_mut().unwrap().remove("max_tokens");
    let counted = server.ok("/v1/messages/count_tokens", &request);
    assert!(counted["input_tokens"].as_u64().unwrap() >= sent && sent > 0, "{counted} {sent}");
    let pieces = json!({ "content": "a cat", "with_pieces": true });
    let pieces = server.ok("/tokenize", &pieces);
    let joined: String = pieces["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["piece"].as_str().unwrap())
        .collect();
    assert_eq!(joined, "a cat");
}

/// A server with the demo model, whose tokenizer has no tokens for filling in.
fn without_fim() -> Running {
    let mut source = demo(&["demo"]);
    source.open = Box::new(|| {
        let files = keeve_demo_model::FILES.map(|(name, bytes)| {
            let bytes = match name {
                "tokenizer.json" | "tokenizer_config.json" => {
                    Bytes::from(String::from_utf8_lossy(bytes).replace("fim_", "fox_").into_bytes())
                }
                _ => Bytes::new(bytes),
            };
            (name, bytes)
        });
        keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
    });
    start(config(), vec![source], loading())
}

#[test]
fn the_middle_is_filled_in() {
    let server = server();
    let (before, after) = ("The capital of France is", ". It is a city.");
    let ids = |text: &str| {
        server.ok("/tokenize", &json!({ "prompt": text, "add_special_tokens": false }))["tokens"]
            .clone()
    };
    let special = |text: &str| {
        let found =
            server.ok("/tokenize", &json!({ "content": text, "parse_special": true }))["tokens"]
                .clone();
        assert_eq!(found.as_array().unwrap().len(), 1, "{text}");
        found[0].clone()
    };
    // By hand: prefix, suffix, middle.
    let mut prompt = vec![special("<|fim_prefix|>")];
    prompt.extend(ids(before).as_array().unwrap().clone());
    prompt.push(special("<|fim_suffix|>"));
    prompt.extend(ids(after).as_array().unwrap().clone());
    prompt.push(special("<|fim_middle|>"));
    let text =
        |request: &Value| server.ok("/v1/completions", request)["choices"][0]["text"].clone();
    let base = json!({ "model": "demo", "temperature": 0, "max_tokens": 8 });
    let with = |fields: Value| {
        let mut request = base.clone();
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request
    };
    let expected = text(&with(json!({ "prompt": prompt })));
    assert_eq!(text(&with(json!({ "prompt": before, "suffix": after }))), expected);
    let asked = json!({ "model": "demo", "prompt": before, "suffix": after, "stream": false,
        "options": { "temperature": 0, "num_predict": 8 } });
    assert_eq!(server.ok("/api/generate", &asked)["response"], expected);
    // As editors ask, with the fields that they send.
    let mut asked = json!({ "input_prefix": "The capital", "prompt": " of France is", "input_suffix": after, "n_predict": 8,
        "temperature": 0, "stream": false, "samplers": ["top_k", "infill"], "cache_prompt": true, "id_slot": 0,
        "n_indent": 0, "t_max_prompt_ms": 500, "t_max_predict_ms": 500, "response_fields": ["content"] });
    let answer = server.ok("/infill", &asked);
    assert_eq!((&answer["content"], &answer["stop_type"]), (&expected, &json!("limit")));
    assert!(answer["timings"]["predicted_n"] == 8 && answer["tokens_evaluated"] == prompt.len());
    asked["stream"] = json!(true);
    let events = server.stream("/infill", &asked);
    let pieces: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let joined: String = pieces.iter().map(|piece| piece["content"].as_str().unwrap()).collect();
    assert!(json!(joined) == expected && pieces.last().unwrap()["stop"] == true);
    // What does not fit is left out, what is nearest stays.
    asked["stream"] = json!(false);
    asked["input_extra"] = json!([{ "filename": "a.txt", "text": "word ".repeat(5000) }]);
    asked["input_prefix"] = json!("word ".repeat(5000) + "The capital");
    let long = server.ok("/infill", &asked);
    assert_eq!(long["tokens_predicted"], 8, "{long}");
    // Names of special tokens are text here too.
    asked["input_prefix"] = json!("<|fim_middle|>");
    let named = server.ok("/infill", &asked);
    assert!(named["tokens_evaluated"].as_u64().unwrap() > 20);
    let other = without_fim();
    for (path, request, field) in [
        ("/v1/completions", with(json!({ "prompt": before, "suffix": after })), "suffix"),
        ("/infill", json!({ "input_prefix": "a", "input_suffix": "b" }), "input_suffix"),
    ] {
        let error = other.fails(path, &request, 400);
        assert!(
            error["param"] == field
                && error["message"].as_str().unwrap().contains("no tokens for filling in")
        );
    }
}

#[test]
fn clients_say_in_many_ways_whether_the_model_is_to_reason() {
    // The demo model's template reads none of these, so one that shows them stands in.
    const SHOWS: &[u8] =
        b"{{ enable_thinking | default('unset') }} {{ reasoning_effort | default('unset') }}";
    let source = keeve_server::ModelSource {
        names: vec!["m".into()],
        open: Box::new(|| {
            let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, Bytes::new(bytes)));
            let own = files.into_iter().filter(|(name, _)| *name != "chat_template.jinja");
            let files: Vec<_> = own.chain([("chat_template.jinja", Bytes::new(SHOWS))]).collect();
            keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
        }),
        draft: None,
    };
    let server = start(config(), vec![source], loading());
    for (fields, shown) in [
        (json!({}), "unset unset"),
        (json!({ "reasoning_effort": "low" }), "unset low"),
        (json!({ "reasoning_effort": "none" }), "False none"),
        (json!({ "enable_thinking": false }), "False unset"),
        (json!({ "thinking": { "type": "disabled" } }), "False unset"),
        (
            json!({ "thinking": { "type": "enabled" }, "reasoning": { "effort": "high" } }),
            "True high",
        ),
        (json!({ "thinking": { "type": "auto" } }), "unset unset"),
        (json!({ "reasoning": { "enabled": false } }), "False unset"),
        (
            json!({ "enable_thinking": true, "chat_template_kwargs": { "enable_thinking": false } }),
            "False unset",
        ),
    ] {
        let mut request = fields.clone();
        request["messages"] = json!([{ "role": "user", "content": "Hi" }]);
        let prompt = server.ok("/v1/chat/completions/render", &request);
        assert_eq!(prompt["text"], shown, "{fields}");
    }
    for path in ["/models", "/v1/health"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let mut request = base(CHAT);
    request["model"] = json!("m");
    request["max_tokens"] = json!(-1);
    request["stop"] = json!([" "]);
    server.ok("/chat/completions", &request);
}
