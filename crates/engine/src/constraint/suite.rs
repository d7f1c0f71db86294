//! The public JSON-Schema-Test-Suite (json-schema-org/JSON-Schema-Test-Suite), and what tests of schemas
//! share: whether a text is one that a compiled grammar lets through, byte by byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use llguidance::toktrie::ApproximateTokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use super::{Grammar, compile};
use crate::error::Error;

/// Compiles for a tokenizer whose tokens are bytes.
pub(crate) fn bytewise() -> ParserFactory {
    compile::factory_of(&ApproximateTokEnv::single_byte_env()).unwrap()
}

/// A matcher of a grammar, or what is wrong with the grammar.
pub(crate) fn matcher_of(factory: &ParserFactory, grammar: &Grammar) -> Result<Matcher, String> {
    compile::matcher(factory, grammar).map_err(|error| match error {
        Error::Grammar(problem) => problem,
        other => other.to_string(),
    })
}

/// Whether a grammar lets all of a text through, and lets it end there.
pub(crate) fn accepts(matcher: &Matcher, text: &str) -> bool {
    let mut matcher = matcher.deep_clone();
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    matcher.try_consume_tokens(&tokens).unwrap_or(0) == tokens.len()
        && matcher.is_accepting().unwrap_or(false)
}

/// Orders of the properties of a value, the one that it has first; not more than a few hundred.
fn orders(value: &Value) -> Vec<Value> {
    const MOST: usize = 200;
    match value {
        Value::Object(entries) => {
            let mut lists: Vec<Vec<(String, Value)>> = vec![vec![]];
            for (name, value) in entries {
                let mut longer = vec![];
                for value in orders(value) {
                    for list in &lists {
                        for at in (0..=list.len()).rev() {
                            let mut list = list.clone();
                            list.insert(at, (name.clone(), value.clone()));
                            longer.push(list);
                        }
                    }
                }
                longer.truncate(MOST);
                lists = longer;
            }
            lists.into_iter().map(|list| Value::Object(list.into_iter().collect())).collect()
        }
        Value::Array(items) => {
            let mut lists: Vec<Vec<Value>> = vec![vec![]];
            for item in items {
                let longer = orders(item).into_iter().flat_map(|item| {
                    lists
                        .iter()
                        .map(move |list| [&list[..], std::slice::from_ref(&item)].concat())
                        .collect::<Vec<_>>()
                });
                let longer: Vec<_> = longer.take(MOST).collect();
                lists = longer;
            }
            lists.into_iter().map(Value::Array).collect()
        }
        other => vec![other.clone()],
    }
}

#[derive(Default, Clone, Copy)]
struct Score {
    right: usize,
    refused: usize,
    /// Valid, but not in a way that the grammar writes.
    left_out: usize,
    wrong: usize,
}

#[test]
#[ignore = "needs a checkout of JSON-Schema-Test-Suite in KEEVE_JSON_SCHEMA_SUITE"]
fn the_public_suite() {
    let folder =
        std::env::var_os("KEEVE_JSON_SCHEMA_SUITE").expect("KEEVE_JSON_SCHEMA_SUITE is not set");
    let factory = bytewise();
    let mut report = String::new();
    let mut invalid_accepted = vec![];
    for draft in ["draft2020-12", "draft2019-09", "draft7", "draft6", "draft4"] {
        let mut scores: BTreeMap<String, Score> = BTreeMap::new();
        let top = Path::new(&folder).join("tests").join(draft);
        for part in ["", "optional", "optional/format"] {
            let Ok(entries) = std::fs::read_dir(top.join(part)) else { continue };
            let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            files.sort();
            for file in
                files.iter().filter(|file| file.extension().is_some_and(|end| end == "json"))
            {
                let stem = file.file_stem().unwrap().to_string_lossy();
                // Annotations, as the standard has them; these tests are for those who enforce them.
                if (part == "optional/format" && !crate::schema::enforces_format(&stem))
                    || stem == "content"
                {
                    continue;
                }
                let name = format!("{part}/{stem}");
                let score = scores.entry(name.trim_start_matches('/').to_owned()).or_default();
                let groups: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
                for group in groups.as_array().unwrap() {
                    let mut schema = group["schema"].clone();
                    // Tests say by their folder which draft they are of.
                    if let Some(fields) = schema.as_object_mut().filter(|_| !draft.contains('-')) {
                        let name = draft.replace("draft", "draft-0");
                        let uri = format!("http://json-schema.org/{name}/schema#");
                        fields.entry("$schema").or_insert(Value::String(uri));
                    }
                    let made = matcher_of(&factory, &Grammar::JsonSchema(schema));
                    let tests = group["tests"].as_array().unwrap();
                    let nothing = made.as_ref().is_err_and(|error| error.contains("no JSON value"));
                    for test in tests {
                        let valid = test["valid"] == true;
                        let data = &test["data"];
                        let Ok(matcher) = &made else {
                            // Refusing a schema that nothing satisfies is right.
                            if nothing && !valid {
                                score.right += 1
                            } else {
                                score.refused += 1
                            }
                            continue;
                        };
                        let found = orders(data).iter().any(|data| {
                            accepts(matcher, &data.to_string())
                                && accepts(matcher, &serde_json::to_string_pretty(data).unwrap())
                        });
                        let line = || {
                            format!(
                                "{draft} {name}: {} / {}: {data}",
                                group["description"], test["description"]
                            )
                        };
                        match (found, valid) {
                            (true, true) | (false, false) => score.right += 1,
                            (false, true) => {
                                score.left_out += 1;
                                let _ = writeln!(report, "left out: {}", line());
                            }
                            (true, false) => {
                                score.wrong += 1;
                                let _ = writeln!(report, "WRONG: {}", line());
                                invalid_accepted.push(line());
                            }
                        }
                    }
                    if let Err(error) = &made {
                        let _ = writeln!(
                            report,
                            "refused: {draft} {name}: {}: {error}",
                            group["description"]
                        );
                    }
                }
            }
        }
        let mut all = Score::default();
        for (name, one) in &scores {
            let Score { right, refused, left_out, wrong } = *one;
            let _ = writeln!(
                report,
                "score {draft} {name}: {right} right, {refused} refused, {left_out} left out, {wrong} wrong"
            );
            all.right += right;
            all.refused += refused;
            all.left_out += left_out;
            all.wrong += wrong;
        }
        let Score { right, refused, left_out, wrong } = all;
        let _ = writeln!(
            report,
            "total {draft}: {right} right, {refused} refused, {left_out} left out, {wrong} wrong"
        );
        // For `cargo xtask peers`.
        let _ = writeln!(
            report,
            "peers: JSON Schema {} | {right} | {} | {refused} with schemas that are refused by name, {left_out} valid values that are not written so, {wrong} wrong",
            draft.trim_start_matches("draft"),
            right + refused + left_out + wrong,
        );
    }
    println!("{report}");
    assert!(
        invalid_accepted.is_empty(),
        "invalid values are let through:\n{}",
        invalid_accepted.join("\n")
    );
}
