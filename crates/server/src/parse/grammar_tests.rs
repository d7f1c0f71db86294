//! Grammars of calls that must be made: each compiles. What they let through is tested with a model, in
//! `tests/notations.rs`.

use std::sync::OnceLock;

use keeve_codec::Bytes;
use keeve_engine::{Engine, EngineOptions, Grammar};
use serde_json::json;

use super::table::NOTATIONS;
use super::*;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, Bytes::new(bytes)));
        let checkpoint = keeve_checkpoint::Checkpoint::from_memory(&files).unwrap();
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        Engine::load_with_draft(&checkpoint, None, &options, &|_| true).unwrap()
    })
}

#[test]
fn grammars_of_all_notations_compile() {
    let schema = json!({ "type": "object", "required": ["city", "when"], "properties": {
        "note": { "type": "string" }, "city": { "type": "string", "enum": ["Ulm", "B\"on/n"] },
        "days": { "type": "integer" }, "wet": { "type": "boolean" },
        "where": { "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "string" } }, "required": ["b"] },
        "tags": { "type": "array", "items": { "type": "string" } }, "any": {},
        "when": { "$ref": "#/$defs/day" } }, "$defs": { "day": { "enum": ["now", 3] } } });
    let nothing = json!({ "type": "object", "properties": {} });
    let functions = [("weather", schema), ("clock", nothing)];
    let tokenizer = engine().tokenizer().ok();
    for (notation, channels) in NOTATIONS.iter().map(|row| (row, false)).chain([(HERMES, true)]) {
        for (open, close) in [("<think>", "</think>"), ("[THINK]", "[/THINK]")] {
            let (open, close, end) = (open.into(), close.into(), String::new());
            let reasoning = Reasoning { open, close, end, rendered: true };
            // With special tokens where the markers are some, and without.
            for tokenizer in [None, tokenizer] {
                let style = AnswerStyle::new(reasoning.clone(), notation, channels, tokenizer);
                for (several, begun) in [(false, false), (true, true)] {
                    let rules = forced(&style, &functions, several);
                    let (front, more) = front(&style, begun, true, true).unwrap();
                    let lark = format!("start: {front} calls\n{more}\n{rules}\n");
                    let made = engine().constraint(&Grammar::Lark(lark.clone()));
                    assert!(made.is_ok(), "{}: {}\n{lark}", notation.name, made.unwrap_err());
                }
            }
        }
    }
}
