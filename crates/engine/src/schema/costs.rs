//! What large schemas cost, kind by kind: each is followed, or refused in words about the schema, and what
//! is made of it is bounded by counts.

use serde_json::{Map, Value, json};

use super::*;
use crate::constraint::Grammar;
use crate::constraint::suite::{bytewise, matcher_of};

/// A kind of schema that can be as large as one likes, and sizes of it: some that clients send, and some
/// that nobody does.
type Kind = (&'static str, fn(usize) -> Value, &'static [usize]);

fn object(properties: impl Iterator<Item = (String, Value)>) -> Value {
    json!({"type": "object", "properties": Map::from_iter(properties), "additionalProperties": false})
}

fn strings(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("property_{at}")).collect()
}

fn optional(count: usize) -> Value {
    object(strings(count).into_iter().map(|name| (name, json!({"type": "string"}))))
}

fn required(count: usize) -> Value {
    let mut schema = optional(count);
    schema["required"] = json!(strings(count));
    schema
}

/// Ten levels with a tenth of the properties each.
fn nested(count: usize, schema: fn(usize) -> Value) -> Value {
    let mut inner = json!({"type": "integer"});
    for _ in 0..10 {
        let mut outer = schema(count / 10);
        outer["properties"]["child"] = inner;
        if outer["required"].is_array() {
            outer["required"] =
                json!(outer["properties"].as_object().unwrap().keys().collect::<Vec<_>>());
        }
        inner = outer;
    }
    inner
}

/// A schema inside itself so often.
fn wrapped(count: usize, schema: Value, wrap: fn(Value) -> Value) -> Value {
    (0..count).fold(schema, |inner, _| wrap(inner))
}

fn each(count: usize, schema: fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(schema).collect()
}

const KINDS: &[Kind] = &[
    ("optional properties of one object", optional, &[200, 1000, 2000, 5000, 20_000]),
    (
        "the same, open",
        |n| {
            let mut s = optional(n);
            s["additionalProperties"] = json!(true);
            s
        },
        &[200, 1000, 2000, 5000],
    ),
    ("required properties of one object", required, &[200, 1000, 5000]),
    (
        "the same, open",
        |n| {
            let mut s = required(n);
            s["additionalProperties"] = json!(true);
            s
        },
        &[200, 1000, 5000],
    ),
    ("optional properties, ten levels", |n| nested(n, optional), &[200, 2000, 5000, 40_000]),
    ("required properties, ten levels", |n| nested(n, required), &[200, 2000, 5000, 40_000]),
    (
        "required names without a schema",
        |n| json!({"type": "object", "required": strings(n)}),
        &[100, 1000, 5000],
    ),
    (
        "minProperties and maxProperties",
        |n| json!({"type": "object", "minProperties": n, "maxProperties": 2 * n}),
        &[10, 1000, 1_000_000],
    ),
    (
        "the same with as many names",
        |n| {
            let mut s = optional(n);
            s["minProperties"] = json!(n / 2);
            s
        },
        &[20, 100, 1000],
    ),
    (
        "names with 100 KB together",
        |n| {
            object(
                (0..n).map(|at| {
                    (format!("{at}{}", "x".repeat(100_000 / n)), json!({"type": "null"}))
                }),
            )
        },
        &[1, 10, 1000],
    ),
    ("enum of texts", |n| json!({"enum": strings(n)}), &[250, 1000, 5000, 50_000]),
    (
        "enum of long texts",
        |n| json!({"enum": strings(n).iter().map(|s| s.repeat(20)).collect::<Vec<_>>()}),
        &[60, 1000, 5000],
    ),
    ("enum of numbers", |n| json!({"enum": (0..n).collect::<Vec<_>>()}), &[250, 1000, 5000]),
    (
        "enum of objects",
        |n| json!({"enum": each(n, |at| json!({"a": at, "b": [at]}))}),
        &[50, 1000, 5000],
    ),
    ("const array", |n| json!({"const": (0..n).collect::<Vec<_>>()}), &[100, 1000, 20_000]),
    ("not enum", |n| json!({"type": "string", "not": {"enum": strings(n)}}), &[10, 250, 5000]),
    (
        "$defs",
        |n| {
            json!({"$defs": Map::from_iter((0..n).map(|at| (format!("d{at}"), json!({"type": "object", "properties": {"a": {"type": "integer"}}})))),
        "anyOf": each(n, |at| json!({"$ref": format!("#/$defs/d{at}")}))})
        },
        &[100, 1000, 5000, 40_000],
    ),
    (
        "$ref to $ref",
        |n| {
            json!({"$ref": "#/$defs/d0", "$defs": Map::from_iter((0..=n).map(|at| (format!("d{at}"),
        if at == n { json!({"type": "null"}) } else { json!({"$ref": format!("#/$defs/d{}", at + 1)}) })))})
        },
        &[50, 1000, 40_000],
    ),
    (
        "$ref among all",
        |n| {
            json!({"$ref": "#/$defs/d0", "$defs": Map::from_iter((0..n).map(|at| (format!("d{at}"),
        object((0..n).map(|other| (format!("p{other}"), json!({"$ref": format!("#/$defs/d{other}")})))))))})
        },
        &[10, 50, 150],
    ),
    (
        "anyOf of objects",
        |n| {
            json!({"anyOf": each(n, |at| json!({"type": "object", "required": ["kind", "x"],
        "properties": {"kind": {"const": format!("kind{at}")}, "x": {"type": "string"}}, "additionalProperties": false}))})
        },
        &[50, 1000, 5000],
    ),
    (
        "oneOf of objects",
        |n| {
            json!({"oneOf": each(n, |at| json!({"type": "object", "required": ["kind", "x"],
        "properties": {"kind": {"const": format!("kind{at}")}, "x": {"type": "string"}}, "additionalProperties": false}))})
        },
        &[20, 100, 1000],
    ),
    (
        "anyOf of required names, beside as many properties",
        |n| {
            let mut s = optional(n);
            s["anyOf"] = json!(
                strings(n).iter().map(|name| json!({"required": [name]})).collect::<Vec<_>>()
            );
            s
        },
        &[20, 200, 5000],
    ),
    (
        "anyOf in anyOf",
        |n| {
            wrapped(
                n,
                json!({"type": "string"}),
                |inner| json!({"anyOf": [inner, {"type": "null"}]}),
            )
        },
        &[10, 50, 180],
    ),
    (
        "allOf of anyOf",
        |n| json!({"allOf": each(n, |at| json!({"anyOf": [{"required": [format!("a{at}")]}, {"required": [format!("b{at}")]}]}))}),
        &[4, 10, 100],
    ),
    (
        "allOf of objects",
        |n| json!({"allOf": each(n, |at| json!({"properties": {format!("p{at}"): {"type": "string"}}}))}),
        &[20, 1000, 5000],
    ),
    (
        "if and then",
        |n| {
            json!({"type": "object", "properties": {"kind": {"type": "string"}}, "allOf": each(n, |at|
        json!({"if": {"properties": {"kind": {"const": format!("k{at}")}}}, "then": {"required": [format!("r{at}")]}}))})
        },
        &[3, 10, 100],
    ),
    (
        "dependentRequired",
        |n| json!({"dependentRequired": Map::from_iter((0..n).map(|at| (format!("a{at}"), json!([format!("b{at}")]))))}),
        &[4, 10, 100],
    ),
    (
        "patternProperties",
        |n| json!({"type": "object", "patternProperties": Map::from_iter((0..n).map(|at| (format!("^k{at}_"), json!({"type": "integer"}))))}),
        &[4, 6, 60],
    ),
    (
        "propertyNames",
        |n| json!({"type": "object", "propertyNames": {"enum": strings(n)}}),
        &[100, 1000, 5000],
    ),
    (
        "minItems",
        |n| json!({"type": "array", "minItems": n, "items": {"type": "integer"}}),
        &[10, 1000, 1_000_000, 2_000_000_000],
    ),
    (
        "maxItems",
        |n| json!({"type": "array", "maxItems": n, "items": {"type": "integer"}}),
        &[10, 1000, 1_000_000, 2_000_000_000],
    ),
    (
        "maxItems in maxItems, four levels",
        |n| {
            let mut s = json!({"type": "integer"});
            for _ in 0..4 {
                s = json!({"type": "array", "minItems": n, "maxItems": 2 * n, "items": s});
            }
            s
        },
        &[10, 1000, 100_000],
    ),
    (
        "prefixItems",
        |n| json!({"type": "array", "prefixItems": each(n, |_| json!({"type": "integer"}))}),
        &[100, 1000, 20_000],
    ),
    (
        "contains",
        |n| json!({"type": "array", "contains": {"type": "string"}, "minContains": n, "maxItems": 2 * n}),
        &[5, 50, 1000],
    ),
    (
        "arrays in arrays",
        |n| {
            wrapped(n, json!({"type": "integer"}), |inner| json!({"type": "array", "items": inner}))
        },
        &[10, 50, 120],
    ),
    (
        "minLength",
        |n| json!({"type": "string", "minLength": n}),
        &[10, 1000, 100_000, 2_000_000_000],
    ),
    (
        "maxLength",
        |n| json!({"type": "string", "maxLength": n}),
        &[100, 5000, 100_000, 2_000_000_000],
    ),
    (
        "maxLength of many",
        |n| {
            object(
                (0..n).map(|at| {
                    (format!("p{at}"), json!({"type": "string", "maxLength": 1000 + at}))
                }),
            )
        },
        &[20, 200, 1000],
    ),
    (
        "pattern a{n}",
        |n| json!({"type": "string", "pattern": format!("^a{{{n}}}$")}),
        &[10, 1000, 100_000, 2_000_000_000],
    ),
    (
        "pattern [a-z]{n,2n}",
        |n| json!({"type": "string", "pattern": format!("^[a-z]{{{n},{}}}$", 2 * n)}),
        &[10, 1000, 100_000],
    ),
    (
        "pattern .*a.{n}",
        |n| json!({"type": "string", "pattern": format!("a.{{{n}}}$")}),
        &[3, 15, 1000],
    ),
    (
        "pattern ((a{n}){n}){n}",
        |n| json!({"type": "string", "pattern": format!("^((a{{{n}}}){{{n}}}){{{n}}}$")}),
        &[3, 30, 1000],
    ),
    (
        "pattern (a|b|...)",
        |n| json!({"type": "string", "pattern": format!("^({})$", strings(n).join("|"))}),
        &[50, 1000, 5000],
    ),
    (
        "pattern of n letters",
        |n| json!({"type": "string", "pattern": "a".repeat(n)}),
        &[50, 1000, 100_000],
    ),
    (
        "pattern (.*x){n}",
        |n| json!({"type": "string", "pattern": format!("^(.*x){{{n}}}$")}),
        &[3, 20, 1000],
    ),
    (
        "pattern (a?){n}a{n}",
        |n| json!({"type": "string", "pattern": format!("^(a?){{{n}}}a{{{n}}}$")}),
        &[3, 20, 1000],
    ),
    (
        "patterns, intersected",
        |n| json!({"allOf": each(n, |at| json!({"type": "string", "pattern": format!("x{at}")}))}),
        &[2, 10, 100],
    ),
    ("multipleOf", |n| json!({"type": "integer", "multipleOf": n}), &[7, 1021, 4093, 1_000_003]),
    (
        "multipleOf of several",
        |n| json!({"allOf": each(n, |at| json!({"type": "integer", "multipleOf": ([2, 3, 5, 7, 11, 13, 17, 19][at])}))}),
        &[2, 5, 8],
    ),
    (
        "multipleOf in many",
        |n| {
            object((0..n).map(|at| {
                (format!("p{at}"), json!({"type": "integer", "multipleOf": 1001 + 2 * at}))
            }))
        },
        &[5, 50, 1000],
    ),
    (
        "minimum of many",
        |n| {
            object((0..n).map(|at| {
                (
                    format!("p{at}"),
                    json!({"type": "integer", "minimum": at, "maximum": 1_000_003 * at + 7}),
                )
            }))
        },
        &[20, 200, 2000],
    ),
    (
        "bounds with n digits",
        |n| {
            serde_json::from_str(&format!(
                "{{\"type\":\"number\",\"minimum\":1e{n},\"maximum\":2e{n}}}"
            ))
            .unwrap_or(json!(false))
        },
        &[5, 100, 300],
    ),
    (
        "formats of many",
        |n| {
            object((0..n).map(|at| (format!("p{at}"), json!({"type": "string", "format": (["date-time", "email", "uri", "ipv6"][at % 4])}))))
        },
        &[20, 200, 2000],
    ),
    (
        "descriptions of 1 KB",
        |n| {
            object((0..n).map(|at| {
                (format!("p{at}"), json!({"type": "string", "description": "x".repeat(1000)}))
            }))
        },
        &[20, 200, 2000],
    ),
];

fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0) / 1024
}

/// Seconds that this process has computed, whatever else the machine does.
fn computed() -> f64 {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = status.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

#[test]
#[ignore = "prints a table; takes a minute"]
fn table() {
    let factory = bytewise();
    let only = std::env::var("KEEVE_KIND").unwrap_or_default();
    println!(
        "| kind | n | bytes | grammar | translated | compiled | memory | |\n|---|---|---|---|---|---|---|---|"
    );
    for (kind, schema, sizes) in KINDS.iter().filter(|(kind, ..)| kind.contains(&*only)) {
        for &size in *sizes {
            let schema = schema(size);
            let bytes = schema.to_string().len();
            let _ = std::fs::write("/proc/self/clear_refs", "5");
            let before = resident("VmRSS:");
            let begun = computed();
            let text = lark(&schema, &Whitespace::Pattern(r"( |\n {0,12})?".into()));
            let translated = computed() - begun;
            let length = text.as_ref().map_or(0, String::len);
            let begun = computed();
            let made = match text {
                Ok(_) => {
                    matcher_of(&factory, &Grammar::JsonSchema(schema)).and_then(|mut matcher| {
                        matcher.compute_mask().map(drop).map_err(|error| error.to_string())?;
                        let _ = matcher
                            .try_consume_tokens(b"{\"property_1\"".map(u32::from).as_slice());
                        matcher.compute_mask().map(drop).map_err(|error| error.to_string())
                    })
                }
                Err(refusal) => Err(refusal.to_string()),
            };
            let compiled = computed() - begun - translated;
            let peak = resident("VmHWM:").saturating_sub(before);
            let said = match made {
                Ok(()) => "followed".into(),
                Err(problem) => problem.chars().take(170).collect::<String>().replace('\n', " "),
            };
            println!(
                "| {kind} | {size} | {bytes} | {length} | {translated:.2} s | {compiled:.2} s | {peak} MiB | {said} |"
            );
        }
    }
}
