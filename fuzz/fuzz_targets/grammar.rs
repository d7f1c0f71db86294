//! What an answer must look like: a JSON schema, a regular expression or Lark text, by the first byte.
#![no_main]

use keeve_engine::Grammar;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let grammar = match kind % 4 {
        0 => Grammar::Regex(text.to_owned()),
        1 => Grammar::Lark(text.to_owned()),
        _ => match serde_json::from_str(text) {
            Ok(schema) => Grammar::JsonSchema(schema),
            Err(_) => return,
        },
    };
    let taken = grammar.check();
    if let Err(error) = &taken {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    keeve_fuzz::count(taken.is_ok());
});
