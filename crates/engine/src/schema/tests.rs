//! Schemas, with values that they accept and values that they do not.

use serde_json::{Value, json};

use super::*;
use crate::constraint::Grammar;
use crate::constraint::suite::{accepts, bytewise, matcher_of};

/// Compiles each schema and looks at its values, written compactly and with whitespace.
fn check(cases: Vec<(Value, Vec<Value>, Vec<Value>)>) {
    let factory = bytewise();
    for (schema, good, bad) in cases {
        let matcher = matcher_of(&factory, &Grammar::JsonSchema(schema.clone()));
        let matcher = matcher.unwrap_or_else(|error| panic!("{schema}: {error}"));
        for value in &good {
            assert!(accepts(&matcher, &value.to_string()), "{schema} does not let {value} through");
            let pretty = serde_json::to_string_pretty(value).unwrap();
            assert!(accepts(&matcher, &pretty), "{schema} does not let {pretty} through");
        }
        for value in &bad {
            assert!(!accepts(&matcher, &value.to_string()), "{schema} lets {value} through");
        }
    }
}

fn refusal(schema: Value) -> String {
    let whitespace = Whitespace::None;
    lark(&schema, &whitespace).map_or_else(|refusal| refusal.to_string(), |_| String::from("taken"))
}

#[test]
fn references_have_escapes_anchors_and_addresses() {
    let definitions = json!({
        "A/B": {"type": "boolean"}, "A~B": {"type": "boolean"}, "Box<int>": {"type": "boolean"},
        "My Type": {"type": "boolean"}, "Zoë": {"type": "boolean"},
        "named": {"$anchor": "there", "type": "boolean"},
        "old": {"definitions": {"x": {"type": "boolean"}}},
        "other": {"$id": "http://host/dir/other.json", "$defs": {"in": {"type": "boolean"}},
            "properties": {"a": {"$ref": "#/$defs/in"}, "b": {"$ref": "sibling.json"}}},
        "sibling": {"$id": "http://host/dir/sibling.json", "type": "boolean"},
    });
    let mut cases = vec![];
    for reference in [
        "#/$defs/A~1B",
        "#/$defs/A~0B",
        "#/$defs/Box%3Cint%3E",
        "#/$defs/Box<int>",
        "#/$defs/My%20Type",
        "#/%24defs/A~1B",
        "#/$defs/Zo%C3%AB",
        "#there",
        "http://host/dir/sibling.json",
        "#/$defs/old/definitions/x",
        "http://host/dir/other.json#/$defs/in",
    ] {
        let schema = json!({"$ref": reference, "$defs": definitions});
        cases.push((
            schema,
            vec![json!(true), json!(false)],
            vec![json!(1), json!("true"), json!(null)],
        ));
    }
    let schema = json!({"$ref": "http://host/dir/other.json", "$defs": definitions});
    cases.push((
        schema,
        vec![json!({"a": true, "b": false})],
        vec![json!({"a": 1}), json!({"b": 1})],
    ));
    // Trees, and schemas that refer to each other.
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "additionalProperties": false,
        "required": ["value"], "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}});
    cases.push((
        tree,
        vec![json!({"value": 1}), json!({"value": 1, "next": {"value": 2, "next": null}})],
        vec![json!({"value": 1, "next": {"value": "2"}}), json!({"next": null})],
    ));
    let both = json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
        "a": {"type": "object", "properties": {"child": {"$ref": "#/$defs/a"}, "x": {"type": "integer"}}},
        "b": {"type": "object", "properties": {"child": {"$ref": "#/$defs/b"}, "x": {"minimum": 5}}}}});
    cases.push((
        both,
        vec![json!({"child": {"child": {"x": 5}, "x": 7}})],
        vec![json!({"child": {"child": {"x": 4}}}), json!({"x": 5.5})],
    ));
    check(cases);
    for (reference, reason) in [
        ("#/$defs/nothing", "nothing at this place"),
        ("#nowhere", "$anchor"),
        ("http://elsewhere/schema", "another document"),
        ("other.json", "another document"),
    ] {
        let said = refusal(json!({"properties": {"a": {"$ref": reference}}}));
        assert!(
            said.contains("#/properties/a") && said.contains(reason) && said.contains("$ref"),
            "{said}"
        );
    }
    let endless =
        refusal(json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}));
    assert!(endless.contains("leads back to itself"), "{endless}");
}

#[test]
fn numbers_are_exact() {
    let big = 9_007_199_254_740_993u64;
    check(vec![
        (json!({"const": big}), vec![json!(big)], vec![json!(big - 1), json!(big + 1)]),
        (
            json!({"enum": [u64::MAX, i64::MIN]}),
            vec![json!(u64::MAX), json!(i64::MIN)],
            vec![json!(u64::MAX - 1)],
        ),
        (
            json!({"type": "integer", "minimum": big, "maximum": big + 2}),
            vec![json!(big), json!(big + 1), json!(big + 2)],
            vec![json!(big - 1), json!(big + 3)],
        ),
        (
            json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}),
            vec![json!(0.1), json!(1.5), json!(1)],
            vec![json!(0), json!(1.51), json!(-1), json!(2)],
        ),
        (
            json!({"minimum": 5, "exclusiveMinimum": true, "type": "integer"}),
            vec![json!(6)],
            vec![json!(5)],
        ),
        (
            json!({"type": "number", "multipleOf": 0.01}),
            vec![json!(19.99), json!(7)],
            vec![json!(19.999)],
        ),
        (json!({"type": "integer", "multipleOf": 5}), vec![json!(0), json!(-15)], vec![json!(7)]),
        (
            json!({"allOf": [{"type": "integer", "multipleOf": 4}, {"multipleOf": 6}]}),
            vec![json!(12), json!(24)],
            vec![json!(6), json!(8)],
        ),
        (
            json!({"type": "integer", "multipleOf": 3, "minimum": 4, "maximum": 10}),
            vec![json!(6), json!(9)],
            vec![json!(3), json!(12)],
        ),
        (json!({"not": {"multipleOf": 10}, "type": "integer"}), vec![json!(5)], vec![json!(20)]),
    ]);
    for (schema, reason) in [
        (json!({"type": "integer", "multipleOf": 1_000_003}), "multipleOf"),
        (
            json!({"allOf": [{"type": "integer", "multipleOf": 97}, {"multipleOf": 89}, {"multipleOf": 83}]}),
            "multipleOf",
        ),
        (json!({"const": 1e30}), "64 bits"),
        (json!({"type": "integer", "multipleOf": 0}), "above 0"),
        (json!({"type": "integer", "minimum": "1"}), "expected a number"),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), "no JSON value"),
    ] {
        assert!(refusal(schema.clone()).contains(reason), "{}", refusal(schema));
    }
}

#[test]
fn keywords_beside_each_other_all_count() {
    check(vec![
        (
            json!({"type": "object", "properties": {"score": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}},
                "required": ["score"], "patternProperties": {"^score$": {"type": "integer"}}, "additionalProperties": false}),
            vec![json!({"score": 5}), json!({"score": 100})],
            vec![json!({"score": 7}), json!({}), json!({"score": 5, "x": 1})],
        ),
        (
            json!({"type": "object", "patternProperties": {"^a": {"type": "integer"}, "z$": {"minimum": 5}}, "additionalProperties": {"type": "string"}}),
            vec![json!({"a": 1, "az": 5, "b": "x", "z": 7, "bz": "text"})]
                .into_iter()
                .map(|mut v| {
                    v.as_object_mut().unwrap().remove("bz");
                    v
                })
                .collect(),
            vec![json!({"az": 4}), json!({"a": "x"}), json!({"b": 1}), json!({"az": "x"})],
        ),
        (
            json!({"type": ["string", "null"], "maxLength": 2, "minLength": 1}),
            vec![json!("ab"), json!("é\n"), json!("🐲"), json!(null)],
            vec![json!(""), json!("abc"), json!(1)],
        ),
        (
            json!({"type": "string", "nullable": true}),
            vec![json!("a"), json!(null)],
            vec![json!(1)],
        ),
        (
            json!({"enum": [1, "a", null, true, [1, {"b": "c"}], {"d": []}]}),
            vec![
                json!(1),
                json!("a"),
                json!(null),
                json!(true),
                json!([1, {"b": "c"}]),
                json!({"d": []}),
            ],
            vec![
                json!(2),
                json!("b"),
                json!(false),
                json!([1]),
                json!([1, {"b": "d"}]),
                json!({}),
                json!({"d": [], "e": 1}),
            ],
        ),
        (
            json!({"properties": {"a": true, "b": false}, "type": "object"}),
            vec![json!({"a": 1, "c": 2})],
            vec![json!({"b": 1})],
        ),
        (
            json!({"type": "object", "minProperties": 1, "maxProperties": 2, "properties": {"a": {}, "b": {}, "c": {}}, "additionalProperties": false}),
            vec![json!({"a": 1}), json!({"b": 1, "c": 2})],
            vec![json!({}), json!({"a": 1, "b": 2, "c": 3})],
        ),
        (
            json!({"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "properties": {"ab": {"type": "null"}, "toolong": {}}}),
            vec![json!({"ab": null, "cd": 1})],
            vec![json!({"ab": 1}), json!({"abc": 1}), json!({"toolong": 1})],
        ),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}, "additionalProperties": false}),
            vec![json!({}), json!({"b": 1}), json!({"a": 1, "b": 2})],
            vec![json!({"a": 1})],
        ),
        (
            json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}, "minItems": 1, "maxItems": 4}),
            vec![json!([1]), json!([1, "a"]), json!([1, "a", null, null])],
            vec![
                json!([]),
                json!(["a"]),
                json!([1, 2]),
                json!([1, "a", 3]),
                json!([1, "a", null, null, null]),
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 5}}),
            vec![json!([5]), json!([1, 9, 2])],
            vec![json!([]), json!([1, 2])],
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 5}, "minContains": 2, "maxContains": 3}),
            vec![json!([5, 6]), json!([1, 9, 2, 8, 8])],
            vec![json!([5]), json!([5, 5, 5, 5])],
        ),
        (
            json!({"type": "array", "items": {"enum": ["a", "b", 3]}, "uniqueItems": true, "minItems": 1}),
            vec![json!(["a"]), json!(["b", 3, "a"])],
            vec![json!([]), json!(["a", "a"]), json!(["c"])],
        ),
        (
            json!({"type": "string", "format": "date"}),
            vec![json!("2024-02-29")],
            vec![json!("2023-02-29"), json!("x")],
        ),
        (
            json!({"type": "string", "format": "made-up", "pattern": "^\\d/"}),
            vec![json!("1/x")],
            vec![json!("x")],
        ),
        (
            json!({"unevaluatedProperties": false, "type": "object", "allOf": [{"properties": {"a": {}}}], "properties": {"b": {}}}),
            vec![json!({"a": 2, "b": 1}), json!({})],
            vec![json!({"c": 1})],
        ),
    ]);
}

#[test]
fn schemas_are_combined_and_negated() {
    check(vec![
        (
            json!({"not": {"type": ["string", "number"]}}),
            vec![json!(null), json!([1])],
            vec![json!("a"), json!(1), json!(1.5)],
        ),
        (
            json!({"type": "string", "not": {"enum": ["a", "b"]}}),
            vec![json!("c"), json!("ab")],
            vec![json!("a"), json!("b")],
        ),
        (
            json!({"type": "string", "not": {"pattern": "x"}}),
            vec![json!("abc")],
            vec![json!("axc")],
        ),
        (
            json!({"type": "integer", "not": {"const": 5}}),
            vec![json!(4), json!(55)],
            vec![json!(5)],
        ),
        (
            json!({"type": "object", "not": {"required": ["a"]}}),
            vec![json!({"b": 1})],
            vec![json!({"a": 1})],
        ),
        (
            json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind", "x"], "additionalProperties": false},
            {"type": "object", "properties": {"kind": {"const": "b"}, "y": {"type": "string"}}, "required": ["kind", "y"], "additionalProperties": false}]}),
            vec![json!({"kind": "a", "x": 1}), json!({"kind": "b", "y": "z"})],
            vec![json!({"kind": "a", "y": "z"}), json!({"kind": "c"})],
        ),
        (
            json!({"type": "object", "oneOf": [{"properties": {"a": {"type": "string"}}, "additionalProperties": false},
                {"properties": {"b": {}}, "additionalProperties": false}]}),
            vec![json!({"a": "x"}), json!({"b": 1})],
            vec![json!({}), json!({"a": 1}), json!({"a": "x", "b": 1})],
        ),
        (
            json!({"type": "array", "items": {"type": "number", "multipleOf": 0.5}}),
            vec![json!([4.5, 3, -0.5])],
            vec![json!([0.25])],
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"minimum": 2}]}),
            vec![json!(1), json!(2.5), json!("a")],
            vec![json!(3), json!(1.5)],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {}}, "required": ["a"], "additionalProperties": false,
            "if": {"properties": {"a": {"const": true}}}, "then": {"required": ["b"]}, "else": {"properties": {"b": false}}}),
            vec![json!({"a": true, "b": 1}), json!({"a": false})],
            vec![json!({"a": true}), json!({"a": false, "b": 1})],
        ),
        (
            json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
            vec![json!({"a": 1, "b": "x"})],
            vec![json!({"a": 1}), json!({"a": "x", "b": "x"})],
        ),
        (
            json!({"anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 3}]}),
            vec![json!("a"), json!("abc")],
            vec![json!("ab")],
        ),
    ]);
}

#[test]
fn refusals_name_the_keyword_and_its_place() {
    for (schema, parts) in [
        (
            json!({"properties": {"a b": {"type": "array", "uniqueItems": true}}}),
            ["#/properties/a b", "uniqueItems"],
        ),
        (
            json!({"$defs": {"x": {"pattern": "(?=a)"}}, "$ref": "#/$defs/x"}),
            ["#/$defs/x", "pattern"],
        ),
        (json!({"items": {"type": "strin"}}), ["#/items", "type"]),
        (json!({"allOf": [{"minLength": -1}]}), ["#/allOf/0", "minLength"]),
        (json!({"properties": {"a/b": {"required": 5}}}), ["#/properties/a~1b", "required"]),
        (json!({"anyOf": []}), ["#", "anyOf"]),
        (json!({"properties": 7}), ["#", "properties"]),
        (json!({"properties": {"a": 7}}), ["#/properties/a", "boolean"]),
        (
            json!({"oneOf": [{"additionalProperties": {"type": "string"}}, {"required": ["b"]}], "type": "object"}),
            ["#", "oneOf"],
        ),
        (
            json!({"not": {"additionalProperties": {"type": "string"}}, "type": "object"}),
            ["#/not", "additionalProperties"],
        ),
        (json!({"x-guidance": {"lenient": true}}), ["#", "lenient"]),
        (json!({"enum": (0..6000).collect::<Vec<_>>()}), ["#", "enum lists 6000"]),
        (json!(false), ["#", "no JSON value"]),
    ] {
        let said = refusal(schema);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn what_clients_generate_is_taken() {
    // OpenAI's strict mode; pydantic 2; zod 4, as they write schemas.
    check(vec![
        (
            json!({"type": "object", "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/step"}}, "final_answer": {"type": "string"}},
            "$defs": {"step": {"type": "object", "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
                "required": ["explanation", "output"], "additionalProperties": false}},
            "required": ["steps", "final_answer"], "additionalProperties": false}),
            vec![json!({"steps": [{"explanation": "a", "output": "b"}], "final_answer": "c"})],
            vec![json!({"steps": [{}], "final_answer": "c"})],
        ),
        (
            json!({"$defs": {"Color": {"enum": ["red", "blue"], "title": "Color", "type": "string"},
                "Cat": {"properties": {"kind": {"const": "cat", "default": "cat", "title": "Kind", "type": "string"}, "lives": {"exclusiveMinimum": 0, "title": "Lives", "type": "integer"}}, "required": ["kind", "lives"], "title": "Cat", "type": "object"},
                "Dog": {"properties": {"kind": {"const": "dog", "title": "Kind", "type": "string"}, "name": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": null, "title": "Name"}}, "required": ["kind"], "title": "Dog", "type": "object"}},
            "properties": {"pet": {"discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "kind"},
                    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "title": "Pet"},
                "color": {"$ref": "#/$defs/Color", "description": "Its color"},
                "scores": {"additionalProperties": {"type": "number"}, "title": "Scores", "type": "object"},
                "pair": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "integer"}, {"type": "string"}], "title": "Pair", "type": "array"},
                "when": {"format": "date-time", "title": "When", "type": "string"}},
            "required": ["pet", "color"], "title": "Model", "type": "object"}),
            vec![
                json!({"pet": {"kind": "dog", "name": null}, "color": "red", "scores": {"a": 1.5}, "pair": [1, "x"], "when": "2024-01-01T00:00:00Z"}),
                json!({"pet": {"kind": "cat", "lives": 9}, "color": "blue"}),
            ],
            vec![
                json!({"pet": {"kind": "cat"}, "color": "red"}),
                json!({"pet": {"kind": "dog"}, "color": "green"}),
            ],
        ),
        (
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
            "properties": {"id": {"type": "integer", "minimum": -9007199254740991i64, "maximum": 9007199254740991i64},
                "email": {"type": "string", "format": "email", "pattern": "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"},
                "tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["id"], "additionalProperties": false}),
            vec![json!({"id": 9007199254740991i64, "email": "joe@example.com"})],
            vec![
                json!({"id": 9007199254740992i64}),
                json!({"id": 1, "email": "a..b@example.com"}),
                json!({"id": 1, "email": ".a@example.com"}),
            ],
        ),
    ]);
}

fn below(random: &mut u64, limit: usize) -> usize {
    *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*random >> 33) as usize % limit
}

/// A schema of nested keywords, some of them malformed.
fn random_schema(random: &mut u64, depth: usize) -> Value {
    let values = [
        json!(null),
        json!(0),
        json!(-1.5),
        json!("a"),
        json!([1]),
        json!({"a": 1}),
        json!(1e300),
        json!(true),
    ];
    let mut fields = serde_json::Map::new();
    for _ in 0..=below(random, 3) {
        let scalar = values[below(random, values.len())].clone();
        let pick = below(random, 30);
        let number = json!([0, 1, 2, 5, 1000][below(random, 5)]);
        let text = ["^a", "b$", "[0-9]{2,}", "(", "a|b"][below(random, 5)];
        let place = ["#", "#/$defs/x", "#/properties/a", "#/allOf/0"][below(random, 4)];
        let keywords = [
            ("type", json!(["string", "integer", "object", "array", "null"][below(random, 5)])),
            ("type", json!(["number", "boolean"])),
            ("const", scalar.clone()),
            ("enum", json!([scalar, 1, "b"])),
            ("minimum", number.clone()),
            ("exclusiveMaximum", number.clone()),
            ("multipleOf", number.clone()),
            ("minLength", number.clone()),
            ("maxLength", number.clone()),
            ("pattern", json!(text)),
            ("format", json!(["date", "uri", "other"][below(random, 3)])),
            ("minItems", number.clone()),
            ("maxItems", number.clone()),
            ("uniqueItems", json!(true)),
            ("required", json!(["a", "b"])),
            ("maxProperties", number.clone()),
            ("minProperties", number),
            ("$ref", json!(place)),
            ("dependentRequired", json!({"a": ["b"]})),
        ];
        if pick < keywords.len() || depth == 0 {
            let (key, value) = keywords[pick % keywords.len()].clone();
            fields.insert(key.into(), value);
            continue;
        }
        let mut inner = || random_schema(random, depth - 1);
        let (key, value) = match pick {
            19 => ("properties", json!({"a": inner(), "b": inner()})),
            20 => ("patternProperties", json!({"^a": inner(), "b": inner()})),
            21 => ("additionalProperties", inner()),
            22 => ("items", inner()),
            23 => ("prefixItems", json!([inner(), inner()])),
            24 => ("anyOf", json!([inner(), inner()])),
            25 => ("allOf", json!([inner(), inner()])),
            26 => ("oneOf", json!([inner(), inner()])),
            27 => ("not", inner()),
            28 => ("contains", inner()),
            _ => ("$defs", json!({"x": inner()})),
        };
        fields.insert(key.into(), value);
    }
    Value::Object(fields)
}

#[test]
fn random_schemas_are_taken_or_refused_in_time() {
    let (mut random, mut taken) = (1, 0);
    for _ in 0..1500 {
        let schema = random_schema(&mut random, 3);
        let begun = std::time::Instant::now();
        match lark(&schema, &Whitespace::None) {
            Ok(_) => taken += 1,
            Err(refusal) => assert!(!refusal.to_string().contains('\n'), "{refusal}"),
        }
        assert!(begun.elapsed().as_secs() < 20, "{schema}");
    }
    assert!(taken > 300, "{taken}");
}

#[test]
fn every_choice_of_optional_properties_can_be_written() {
    let names = ["a", "b", "c", "d", "e"];
    let factory = bytewise();
    for (required, open) in (0..1u32 << names.len()).flat_map(|set| [(set, false), (set, true)]) {
        let has = |set: u32, at: usize| set >> at & 1 == 1;
        let of = |set: u32| (0..names.len()).filter(move |at| has(set, *at)).map(|at| names[at]);
        let properties = names.map(|name| (name.to_owned(), json!({"type": "null"})));
        let schema = json!({"type": "object", "properties": serde_json::Map::from_iter(properties),
            "required": of(required).collect::<Vec<_>>(), "additionalProperties": open});
        let matcher = matcher_of(&factory, &Grammar::JsonSchema(schema.clone())).unwrap();
        for chosen in 0..1 << names.len() {
            let mut entries: Vec<_> = of(chosen).map(|name| format!("\"{name}\":null")).collect();
            let valid = required & !chosen == 0;
            let text = format!("{{{}}}", entries.join(","));
            assert_eq!(accepts(&matcher, &text), valid, "{schema} {text}");
            entries.push("\"x\":1".to_owned());
            let text = format!("{{{}}}", entries.join(","));
            assert_eq!(accepts(&matcher, &text), valid && open, "{schema} {text}");
        }
    }
}

#[test]
fn schemas_of_thousands_are_followed_or_refused_in_their_own_words() {
    let names: Vec<String> = (0..5000).map(|at| format!("n{at}")).collect();
    let object = |count: usize| {
        let properties =
            names[..count].iter().map(|name| (name.clone(), json!({"type": "integer"})));
        json!({"type": "object", "properties": serde_json::Map::from_iter(properties),
            "additionalProperties": false})
    };
    let factory = bytewise();
    let compiled = |schema: Value| matcher_of(&factory, &Grammar::JsonSchema(schema));
    let optional = compiled(object(2000)).unwrap();
    for (text, valid) in [
        ("{}", true),
        (r#"{"n7":1,"n1999":2}"#, true),
        (r#"{"n1999":2,"n7":1}"#, false),
        (r#"{"n2000":1}"#, false),
    ] {
        assert_eq!(accepts(&optional, text), valid, "{text}");
    }
    // What OpenAI takes: 5,000 properties, all of them required, 1,000 values of enums.
    let mut required = object(5000);
    required["required"] = json!(names);
    required["properties"]["n0"] = json!({"enum": names[..1000]});
    let required = compiled(required).unwrap();
    assert!(!accepts(&required, r#"{"n0":"n1"}"#));
    let deep = |count: usize| json!({"not": {"const": vec![0; count]}});
    let parts = |count: usize| {
        json!({"allOf": (0..count).map(|at| json!({"type": "string",
        "pattern": format!("x{at}")})).collect::<Vec<_>>()})
    };
    let definitions = json!({"anyOf": names.iter().map(|name| json!({"properties": {name: {"minItems": 2}},
        "required": [name], "type": "object"})).collect::<Vec<_>>()});
    for (schema, said) in [
        (object(2001), "2001 of one object are optional"),
        (deep(20_000), "too many alternatives"),
        (parts(100), "too many alternatives"),
        (definitions, "too many alternatives"),
        (json!({"pattern": "(".repeat(100_000)}), "pattern \"((("),
    ] {
        let refused = compiled(schema).map(drop).unwrap_err();
        assert!(refused.starts_with("schema at ") && refused.contains(said), "{refused}");
        assert!(refused.len() < 1000, "{} bytes", refused.len());
    }
}
