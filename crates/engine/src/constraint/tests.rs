//! Tests of constraints.

use serde_json::json;

use super::masks::{Following, Standing};
use super::*;

fn tokenizer() -> Tokenizer {
    let json = include_bytes!("../../../../testdata/tokenizers/tok_qwen/tokenizer.json");
    Tokenizer::from_json(json, &[]).unwrap()
}

fn end(tokenizer: &Tokenizer) -> u32 {
    tokenizer.token_id("<|im_end|>").unwrap()
}

fn constraint(grammar: &Grammar) -> Result<Constraint, Error> {
    let tokenizer = tokenizer();
    Grammars::start()?.constraint(grammar, &tokenizer, &[end(&tokenizer)])
}

/// Text of tokens chosen at random among those that the grammar lets through; `None` if that
/// takes too long.
fn walk(grammar: &Grammar, seed: u64) -> Option<String> {
    let tokenizer = tokenizer();
    let end = end(&tokenizer);
    let mut following = Following::start(constraint(grammar).unwrap());
    let mut random = seed;
    let mut text = vec![];
    for _ in 0..400 {
        let Standing::Open(bits) = following.standing().unwrap() else {
            return String::from_utf8(text).ok();
        };
        let ids = 0..tokenizer.vocab_size() as u32;
        let open: Vec<u32> =
            ids.filter(|id| bits[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let id = open[(random >> 33) as usize % open.len()];
        if id == end {
            return String::from_utf8(text).ok();
        }
        assert!(!tokenizer.is_special(id), "{id}");
        text.extend_from_slice(tokenizer.token_bytes(id).unwrap());
        following.advance(id);
    }
    None
}

#[test]
fn whatever_is_chosen_the_text_matches_the_schema() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "size"],
        "properties": {
            "name": { "enum": ["cider", "perry"] },
            "size": { "type": "integer", "minimum": 1, "maximum": 99 },
        },
    });
    let mut complete = 0;
    for seed in 0..20 {
        let Some(text) = walk(&Grammar::JsonSchema(schema.clone()), seed) else { continue };
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}"));
        assert!(["cider", "perry"].contains(&value["name"].as_str().unwrap()), "{text}");
        assert!((1..=99).contains(&value["size"].as_u64().unwrap()), "{text}");
        complete += 1;
    }
    assert!(complete > 10, "{complete}");
}

#[test]
fn regular_expressions_and_grammars_bind_as_well() {
    for seed in 0..5 {
        let text = walk(&Grammar::Regex("(ab|cd){3}[0-9]".into()), seed).unwrap();
        assert!(text.len() == 7 && text.ends_with(|last: char| last.is_ascii_digit()), "{text}");
        let lark = "start: \"left \" side\nside: \"up\" | \"down\"";
        let text = walk(&Grammar::Lark(lark.into()), seed).unwrap();
        assert!(["left up", "left down"].contains(&&*text), "{text}");
    }
}

#[test]
fn grammars_that_are_wrong_or_too_large_are_refused_with_the_reason() {
    let nested = |depth: usize| {
        (0..depth).fold(
            json!({"type": "string"}),
            |inner, _| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}),
        )
    };
    assert!(constraint(&Grammar::JsonSchema(nested(20))).is_ok());
    for (grammar, reason) in [
        (Grammar::JsonSchema(json!({"type": "strin"})), "strin"),
        (Grammar::JsonSchema(json!(7)), "object"),
        (Grammar::JsonSchema(json!({"$ref": "http://elsewhere/schema"})), "elsewhere"),
        (Grammar::Regex("ä(".into()), "at character 2: unclosed group"),
        (Grammar::Lark("start: nothing".into()), "line 1, column 8: unknown name: \"nothing\""),
    ] {
        let error = match constraint(&grammar) {
            Ok(_) => panic!("{grammar:?}"),
            Err(error) => error.to_string(),
        };
        assert!(error.starts_with("grammar: ") && error.contains(reason), "{error}");
    }
    // However long what they are about, errors are not; and they are about nothing else.
    let long = "x".repeat(50_000);
    let schema = Grammar::JsonSchema;
    for grammar in [
        schema(json!({"type": &long})),
        schema(json!({"$ref": format!("#/{long}")})),
        schema(json!({"properties": {&long: {"type": 7}}})),
        schema(json!({"pattern": format!("({long}")})),
        schema(json!({"x-guidance": {&long: &long}})),
        schema(json!({"x-guidance": {"whitespace_pattern": format!("({long}")}})),
        Grammar::Regex(format!("({long}")),
        Grammar::Regex(format!("(?<=a){long}")),
        Grammar::Lark(format!("start: {long}")),
        Grammar::Lark(format!("start: ){long}")),
        Grammar::Lark(format!("start: \"a\" ;;; {long}\n{long}")),
        Grammar::Lark(format!("start: /{long}(/")),
        Grammar::Lark(format!("start: %json {{\"type\": \"{long}\"}}")),
    ] {
        let Err(error) = constraint(&grammar) else { panic!("taken") };
        let error = error.to_string();
        assert!(error.len() < 420, "{error}");
        for internal in ["llguidance", "lexer", "fuel", "earley", "derivre"] {
            assert!(!error.contains(internal), "{error}");
        }
    }
}

#[test]
fn the_librarys_limits_are_told_in_words_about_the_grammar() {
    for (said, told) in [
        (
            "Parser Error: Current row has 3999 items; max is 2000; consider <non-verbose/>",
            "it leaves too many ways",
        ),
        (
            "parser error: Too many items (limit 50000; ff_tokens) <non-verbose/>",
            "it leaves too many ways",
        ),
        (
            "panic: assertion failed: grammar.symbols.len() < u16::MAX\n<backtrace>",
            "it is too large to follow",
        ),
        (
            "fuel exhausted when checking relevance of lexemes (1000000)",
            "it is too large to follow",
        ),
    ] {
        let words = words::exceeded(said).unwrap();
        assert!(words.starts_with(told), "{words}");
    }
    assert_eq!(words::exceeded("unknown name: \"items\"\n at 1(3)"), None);
}
