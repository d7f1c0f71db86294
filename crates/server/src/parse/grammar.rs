//! The grammars of answers that must call a tool, in each notation, as llguidance's variant of Lark
//! (guidance-ai/llguidance, `docs/syntax.md`; a special token is written `<[id]>`).

use std::fmt::Write;

use serde_json::{Value, json};

use super::AnswerStyle;
use super::channels;
use super::elements::{ITEM, NAME_END};
use super::marker::{Piece, Specials};
use super::notation::{Form, Notation, Tags};

/// A function that may be called: its name, and the schema of its arguments.
pub(crate) type Function<'a> = (&'a str, Value);

/// The rules of an answer that is calls of these functions. The first is `calls`.
pub(crate) fn forced(style: &AnswerStyle, functions: &[Function<'_>], several: bool) -> String {
    let mut rules = Rules { specials: &style.specials, text: String::new() };
    if style.in_channels() {
        rules.channels(functions);
    } else {
        rules.notation(style.notation(), functions, several);
    }
    rules.text
}

/// What stands before the body of an answer that is bound, as a sequence for a rule and further
/// rules: the end of the reasoning where the prompt `begun` it; otherwise, where the model is known
/// to reason and `may` do so, the reasoning, which may be left out.
pub(crate) fn front(
    style: &AnswerStyle,
    begun: bool,
    may: bool,
    call: bool,
) -> Option<(String, String)> {
    let mut rules = Rules { specials: &style.specials, text: String::new() };
    if style.in_channels() {
        let thought = rules.until("thought", channels::END);
        let (channel, message) = (rules.lark(channels::CHANNEL), rules.lark(channels::MESSAGE));
        let start = rules.lark(channels::START);
        let sequence =
            format!("({channel} \"analysis\" {message} {thought} {start} \"assistant\")*");
        if call {
            return Some((sequence, rules.text));
        }
        // Only special tokens cannot be mistaken for the body. A body alone is an answer, too.
        let special = matches!(rules.specials.cut(channels::CHANNEL)[..], [Piece::Special(_)]);
        let header = format!("({sequence} {channel} \"final\" {message})?");
        return special.then_some((header, rules.text));
    }
    let open = rules.lark(&style.reasoning.open);
    let rest = rules.until("reasoning", &style.reasoning.close);
    let rest = format!("{rest} /\\n{{0,2}}/");
    match (begun, may && style.reasoning.rendered) {
        (true, _) => Some((rest, rules.text)),
        (false, true) => Some((format!("({open} {rest})?"), rules.text)),
        (false, false) => None,
    }
}

struct Rules<'a> {
    specials: &'a Specials,
    text: String,
}

impl Rules<'_> {
    /// A fixed text as a sequence for a rule; `""` for none.
    fn lark(&self, text: &str) -> String {
        let piece = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => quoted(text),
            Piece::Special(id) => format!("<[{id}]>"),
        };
        let pieces: Vec<_> = self.specials.cut(text).iter().map(piece).collect();
        if pieces.is_empty() { "\"\"".into() } else { pieces.join(" ") }
    }

    fn rule(&mut self, name: &str, body: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{name}: {body}");
    }

    /// Any text up to an end mark, and the mark, as a sequence.
    fn until(&mut self, name: &str, end: &str) -> String {
        let pieces = self.specials.cut(end);
        let plain = match pieces.first() {
            Some(Piece::Text(text)) => regex(text),
            _ => String::new(),
        };
        let lazy = if pieces.len() == 1 && !plain.is_empty() { "[lazy]" } else { "" };
        self.rule(&format!("{name}{lazy}"), &format!("/(.|\\n)*{plain}/"));
        let rest = pieces.iter().skip(usize::from(!plain.is_empty()));
        let rest = rest.map(|piece| match piece {
            Piece::Text(text) => format!(" {}", quoted(text)),
            Piece::Special(id) => format!(" <[{id}]>"),
        });
        format!("{name}{}", rest.collect::<String>())
    }

    fn notation(&mut self, notation: &Notation, functions: &[Function<'_>], several: bool) {
        let tagged = matches!(notation.form, Form::Tagged(_) | Form::Elements { .. });
        let blank = |rules: &Self, text: &str| match text {
            "\n" if tagged => "\"\\n\"?".to_owned(),
            text => rules.lark(text),
        };
        let [first, between, last] = notation.layout.map(|text| blank(self, text));
        // Without markers a call is written so.
        let around = |text| if notation.unmarked { "" } else { text };
        let open = self.lark(around(notation.open));
        let close = self.lark(around(notation.close));
        let calls = match (several, notation.shared) {
            (false, _) => format!("{open} {first} call {last} {close}"),
            (true, true) => format!("{open} {first} call ({between} call)* {last} {close}"),
            (true, false) => {
                let one = format!("{open} {first} call {last} {close}");
                format!("{one} ({between} {one})*")
            }
        };
        self.rule("calls", &calls);
        let choices: Vec<_> = (0..functions.len()).map(|index| format!("call_{index}")).collect();
        self.rule("call", &choices.join(" | "));
        for (index, (name, schema)) in functions.iter().enumerate() {
            self.call(notation, index, name, schema);
        }
    }

    fn call(&mut self, notation: &Notation, index: usize, name: &str, schema: &Value) {
        let arguments = format!("arguments_{index}");
        let open = self.lark(notation.call_open);
        let close = self.lark(notation.call_close);
        let rule = format!("call_{index}");
        match notation.form {
            Form::Object { name: name_key, arguments: key } => {
                let head = format!("{{\"{name_key}\": {}, \"{key}\": ", Value::from(name));
                self.rule(&rule, &format!("{} {arguments} \"}}\"", quoted(&head)));
                self.rule(&arguments, &json_rule(schema));
            }
            Form::Keyed => {
                let head = format!("{{{}: ", Value::from(name));
                self.rule(&rule, &format!("{} {arguments} \"}}\"", quoted(&head)));
                self.rule(&arguments, &json_rule(schema));
            }
            Form::Named { before, after, id, tail } => {
                let before = self.lark(before);
                let after = after.first().copied().unwrap_or_default();
                let mut name = quoted(name);
                if id == super::notation::Identifier::Qualified {
                    name.push_str(" \":\" /[0-9]{1,3}/");
                }
                let (after, tail) = (self.lark(after), self.lark(tail));
                let body = format!("{open} {before} {name} {after} {arguments} {tail} {close}");
                self.rule(&rule, &body);
                self.rule(&arguments, &json_rule(schema));
            }
            Form::Tagged(tags) => {
                let parameters = self.tagged(&tags, index, schema);
                let head = self.lark(&format!("{name}{}{}", tags.name_close, tags.after));
                let body = format!("{open} {head} \"\\n\"? {parameters} {close}");
                self.rule(&rule, &body);
            }
            Form::Python => {
                let items = self.items(index, schema, |rules, place, key, schema| {
                    let value = match schema.get("type").and_then(Value::as_str) {
                        Some("boolean") => "(\"True\" | \"False\")".to_owned(),
                        Some("null") => "\"None\"".to_owned(),
                        _ => {
                            rules.rule(place, &json_rule(schema));
                            place.to_owned()
                        }
                    };
                    format!("{} {value}", quoted(&format!("{key}=")))
                });
                let items = self.separated(&format!("items_{index}"), &items, ", ");
                self.rule(&rule, &format!("{} {items} \")\"", quoted(&format!("{name}("))));
            }
            Form::Braces { quote } => {
                let place = format!("value_{index}");
                let body = self.braces(&place, schema, schema, quote, 12);
                self.rule(&rule, &format!("{} {body}", quoted(&format!("call:{name}"))));
            }
            Form::Elements { mark } => {
                let place = format!("value_{index}");
                let body = self.elements(&place, schema, schema, mark, 12);
                let name = quoted(&format!("{name}{NAME_END}"));
                self.rule(&rule, &format!("{open} {name} {body} {close}"));
            }
        }
    }

    /// The arguments that a schema has: each one's sequence, and whether it has to be there, those
    /// first.
    fn items(
        &mut self,
        index: usize,
        schema: &Value,
        mut item: impl FnMut(&mut Self, &str, &str, &Value) -> String,
    ) -> Vec<(String, bool)> {
        let mut items = vec![];
        for (number, (key, value, needed)) in properties(schema).into_iter().enumerate() {
            let place = format!("argument_{index}_{number}");
            items.push((item(self, &place, key, &with_definitions(value, schema)), needed));
        }
        items.sort_by_key(|(_, needed)| !needed);
        items
    }

    fn tagged(&mut self, tags: &Tags, index: usize, schema: &Value) -> String {
        let [text, other] = tags.attributes;
        let items = self.items(index, schema, |rules, place, key, schema| {
            let is_text = schema.get("type").and_then(Value::as_str) == Some("string");
            let choices = schema.get("enum").and_then(Value::as_array);
            let close = format!("{}{}", tags.around, tags.value_close);
            let value = match (is_text, choices) {
                (true, Some(choices)) => {
                    let choices = choices.iter().filter_map(Value::as_str).map(quoted);
                    let choices = choices.collect::<Vec<_>>().join(" | ");
                    format!("({choices}) {}", rules.lark(&close))
                }
                (true, None) => rules.until(place, &close),
                (false, _) => {
                    rules.rule(place, &json_rule(schema));
                    format!("{place} {}", rules.lark(&close))
                }
            };
            let attribute = if is_text { text } else { other };
            let head = [tags.key_open, key, tags.key_close, attribute].concat();
            let head = rules.lark(&head);
            // Some put the value on a line of its own.
            let between = if tags.key_close.contains("arg_key") { "\"\\n\"?" } else { "\"\"" };
            let open = rules.lark(&[tags.value_open, tags.around].concat());
            format!("{head} {between} {open} {value} \"\\n\"?")
        });
        let items = items.into_iter().map(
            |(item, needed)| {
                if needed { item } else { format!("({item})?") }
            },
        );
        items.collect::<Vec<_>>().join(" ")
    }

    /// A sequence of items, some of which may be left out, with something between them.
    fn separated(&mut self, name: &str, items: &[(String, bool)], between: &str) -> String {
        let between = quoted(between);
        let mut rest = String::from("\"\"");
        let mut first = String::from("\"\"");
        for (number, (item, needed)) in items.iter().enumerate().rev() {
            // What stands here where something came before, and where nothing did.
            let (after, begin) = (format!("{name}_{number}"), format!("{name}_{number}_first"));
            if *needed {
                self.rule(&after, &format!("{between} {item} {rest}"));
                self.rule(&begin, &format!("{item} {rest}"));
            } else {
                self.rule(&after, &format!("({between} {item})? {rest}"));
                self.rule(&begin, &format!("{item} {rest} | {first}"));
            }
            (rest, first) = (after, begin);
        }
        first
    }

    /// A value between braces and marks, as Gemma writes it.
    fn braces(
        &mut self,
        place: &str,
        schema: &Value,
        root: &Value,
        quote: &str,
        depth: usize,
    ) -> String {
        let mark = self.lark(quote);
        let deeper = depth.saturating_sub(1);
        if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
            let choices = choices.iter().map(|choice| match choice.as_str() {
                Some(text) => format!("{mark} {} {mark}", quoted(text)),
                None => quoted(&choice.to_string()),
            });
            return format!("({})", choices.collect::<Vec<_>>().join(" | "));
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => format!("{mark} {}", self.until(place, quote)),
            Some("object") if depth > 0 => {
                let mut items = vec![];
                for (number, (key, value, needed)) in properties(schema).into_iter().enumerate() {
                    let place = format!("{place}_{number}");
                    let value = self.braces(&place, value, root, quote, deeper);
                    items.push((format!("{} {value}", quoted(&format!("{key}:"))), needed));
                }
                items.sort_by_key(|(_, needed)| !needed);
                let items = self.separated(&format!("{place}_all"), &items, ",");
                format!("\"{{\" {items} \"}}\"")
            }
            Some("array") if depth > 0 => {
                let any = json!({ "type": "string" });
                let item = schema.get("items").unwrap_or(&any);
                let item = self.braces(&format!("{place}_item"), item, root, quote, deeper);
                format!("\"[\" ({item} (\",\" {item})*)? \"]\"")
            }
            Some("integer" | "number" | "boolean" | "null") => {
                self.rule(place, &json_rule(&with_definitions(schema, root)));
                place.to_owned()
            }
            // Of no certain type: a string can say anything.
            _ => format!("{mark} {}", self.until(place, quote)),
        }
    }

    /// The elements of an object.
    fn elements(
        &mut self,
        place: &str,
        schema: &Value,
        root: &Value,
        mark: &str,
        depth: usize,
    ) -> String {
        let mut items = vec![];
        for (number, (key, value, needed)) in properties(schema).into_iter().enumerate() {
            let place = format!("{place}_{number}");
            let item = self.element(&place, key, value, root, mark, depth);
            items.push((if needed { item } else { format!("({item})?") }, needed));
        }
        items.sort_by_key(|(_, needed)| !needed);
        let items: Vec<_> = items.into_iter().map(|(item, _)| item).collect();
        if items.is_empty() { "\"\"".into() } else { items.join(" ") }
    }

    /// An element, its tags included, as MiniMax M3 writes it.
    fn element(
        &mut self,
        place: &str,
        key: &str,
        schema: &Value,
        root: &Value,
        mark: &str,
        depth: usize,
    ) -> String {
        let end = format!("{mark}</{key}>");
        let (open, close) = (self.lark(&format!("{mark}<{key}>")), self.lark(&end));
        let deeper = depth.saturating_sub(1);
        if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
            let choices = choices.iter().map(|choice| match choice.as_str() {
                Some(text) => quoted(text),
                None => quoted(&choice.to_string()),
            });
            let choices = choices.collect::<Vec<_>>().join(" | ");
            return format!("{open} ({choices}) {close}");
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") if depth > 0 => {
                format!("{open} {} {close}", self.elements(place, schema, root, mark, deeper))
            }
            Some("array") if depth > 0 => {
                let any = json!({ "type": "string" });
                let item = schema.get("items").unwrap_or(&any);
                let item = self.element(&format!("{place}_item"), ITEM, item, root, mark, deeper);
                format!("{open} ({item})* {close}")
            }
            Some("integer" | "number" | "boolean") => {
                self.rule(place, &json_rule(&with_definitions(schema, root)));
                format!("{open} {place} {close}")
            }
            // Of no certain type: a text can say anything.
            _ => format!("{open} {}", self.until(place, &end)),
        }
    }

    fn channels(&mut self, functions: &[Function<'_>]) {
        let choices: Vec<_> = (0..functions.len()).map(|index| format!("call_{index}")).collect();
        self.rule("calls", &choices.join(" | "));
        let (channel, message) = (self.lark(channels::CHANNEL), self.lark(channels::MESSAGE));
        let constrain = self.lark(channels::CONSTRAIN);
        for (index, (name, schema)) in functions.iter().enumerate() {
            let to = quoted(&format!("commentary to=functions.{name} "));
            let body = format!("{channel} {to} {constrain} \"json\" {message} arguments_{index}");
            self.rule(&format!("call_{index}"), &body);
            self.rule(&format!("arguments_{index}"), &json_rule(schema));
        }
    }
}

/// The properties of an object's schema: key, schema, and whether it has to be there.
fn properties(schema: &Value) -> Vec<(&str, &Value, bool)> {
    let required = schema.get("required").and_then(Value::as_array);
    let needed = |key: &str| required.is_some_and(|list| list.iter().any(|name| name == key));
    let all = schema.get("properties").and_then(Value::as_object);
    let all = all.into_iter().flatten();
    all.map(|(key, value)| (key.as_str(), value, needed(key))).collect()
}

/// A part of a schema, with what it may refer to.
fn with_definitions(part: &Value, root: &Value) -> Value {
    let mut part = part.clone();
    if let (Some(fields), Some(root)) = (part.as_object_mut(), root.as_object()) {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                fields.entry(key).or_insert_with(|| definitions.clone());
            }
        }
    }
    part
}

/// JSON of a schema, written tightly: whitespace could go on for ever.
fn json_rule(schema: &Value) -> String {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert(json!({ "whitespace_flexible": false }));
    }
    format!("%json {schema}")
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text as part of a regular expression between slashes.
fn regex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            c if "\\.+*?()|[]{}^$#&-~/\"".contains(c) => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
