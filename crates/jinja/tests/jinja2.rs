//! The language against Jinja2's own answers in the environment that transformers sets up.
//!
//! `data/make_cases.py` writes the templates and what Jinja2 makes of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use keeve_jinja::{Char, Error, Host, Input, Limits, Template};
use serde_json::Value;

fn render(source: &str, contexts: &[&Value]) -> Result<String, Error> {
    let mut variables = Vec::new();
    for context in contexts.iter().filter_map(|context| context.as_object()) {
        variables.extend(
            context.iter().map(|(name, value)| (name.as_str(), Input::Foreign(value.clone()))),
        );
    }
    let host = Host { strftime: &|format| Ok(format.to_owned()), given_up: &|| false };
    let rendered = Template::parse(source)?.render(&variables, &host, Limits::default())?;
    Ok(rendered.into_iter().map(Char::get).collect())
}

/// Where this language gives an answer on purpose that Jinja2 does not give, with the reason.
const DIFFERENT: [(&str, &str); 1] =
    [("{{ d | pprint }}", "refused: it breaks lines at 80 characters, for people to debug with")];

#[test]
fn answers_are_jinja2s() {
    let cases: Value = serde_json::from_str(include_str!("data/jinja2_cases.json")).unwrap();
    let all = cases["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in all {
        let source = case["template"].as_str().unwrap();
        if DIFFERENT.iter().any(|(known, _)| *known == source) {
            continue;
        }
        let found = render(source, &[&cases["context"], &case["with"]]);
        match (case["out"].as_str(), found) {
            (Some(expected), Ok(found)) if found == expected => (),
            (None, Err(_)) => (),
            (Some(expected), found) => {
                wrong.push(format!("{source:?}\n  is    {found:?}\n  not   {expected:?}"))
            }
            (None, Ok(found)) => {
                wrong.push(format!("{source:?}\n  is    {found:?}\n  not   {}", case["error"]))
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    assert!(all.len() > 2000, "the cases are not all there");
}
