//! Lark text as clients write it: the schemas in it, and how deep it is.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::width;

/// Brackets inside each other.
const DEEPEST: usize = 100;

/// A part of Lark text.
enum Piece<'a> {
    /// A schema behind `%json`.
    Schema(Value),
    /// A string, an expression or a comment.
    Opaque(&'a str),
    /// A character of anything else.
    Plain(char),
}

/// The next part of a text, and what follows.
fn next(text: &str) -> Result<Option<(Piece<'_>, &str)>, String> {
    let Some(first) = text.chars().next() else { return Ok(None) };
    if let Some(rest) = text.strip_prefix("%json") {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let schema = match values.next() {
            Some(Ok(schema)) => schema,
            Some(Err(error)) => return Err(format!("%json: {error}")),
            None => return Err("%json: there is no schema behind it".into()),
        };
        return Ok(Some((Piece::Schema(schema), &rest[values.byte_offset()..])));
    }
    let comment = first == '#' || text.starts_with("//");
    let length = match first {
        _ if comment => text.find('\n').unwrap_or(text.len()),
        '"' | '/' => {
            let mut escaped = false;
            let end = text.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == first && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(text.len(), |(at, _)| at + 1)
        }
        plain => return Ok(Some((Piece::Plain(plain), &text[plain.len_utf8()..]))),
    };
    let (opaque, rest) = text.split_at(length);
    Ok(Some((Piece::Opaque(opaque), rest)))
}

/// The text with references in the place of its schemas, and these by the names that they are given.
pub(super) fn without_schemas(
    text: &str,
    prefix: &str,
) -> Result<(String, Vec<(String, Value)>), String> {
    let (mut out, mut schemas) = (String::with_capacity(text.len()), vec![]);
    let mut rest = text;
    while let Some((piece, after)) = next(rest)? {
        match piece {
            Piece::Schema(schema) => {
                let name = format!("{prefix}-json-{}", schemas.len());
                out.push_str(&format!(" @{name} "));
                schemas.push((name, schema));
            }
            Piece::Opaque(opaque) => out.push_str(opaque),
            Piece::Plain(c) => out.push(c),
        }
        rest = after;
    }
    Ok((out, schemas))
}

/// Brackets are followed by recursion.
pub(super) fn check_depth(text: &str) -> Result<(), String> {
    let (mut depth, mut tildes) = (0usize, 0usize);
    let mut rest = text;
    while let Some((piece, after)) = next(rest)? {
        rest = after;
        match piece {
            Piece::Plain('(' | '[' | '{') => depth += 1,
            Piece::Plain(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Piece::Plain('~') => tildes += 1,
            Piece::Plain(c) if c.is_whitespace() => {}
            _ => tildes = 0,
        }
        if depth > DEEPEST || tildes > DEEPEST {
            return Err(format!("its brackets are more than {DEEPEST} deep"));
        }
    }
    Ok(())
}

/// A definition: how wide its expressions are, the names in it, and whether it intersects.
#[derive(Default)]
struct Definition {
    widths: Vec<usize>,
    names: Vec<String>,
    intersects: bool,
}

/// Expressions that are intersected are followed together ([`width`]).
pub(super) fn check_width(text: &str) -> Result<(), String> {
    let definitions = definitions(text)?;
    let mut known = HashMap::new();
    for (name, _) in definitions.iter().filter(|(_, one)| one.intersects) {
        if definition_width(name, &definitions, &mut known, 0) > width::MOST {
            return Err(format!(
                "{name}: the expressions that & puts together have too many alternatives"
            ));
        }
    }
    Ok(())
}

fn definitions(text: &str) -> Result<BTreeMap<String, Definition>, String> {
    let mut all: BTreeMap<String, Definition> = BTreeMap::new();
    let (mut current, mut word) = (String::new(), String::new());
    let mut rest = text;
    while let Some((piece, after)) = next(rest)? {
        rest = after;
        if let Piece::Plain(c) = piece
            && (c.is_alphanumeric() || matches!(c, '_' | '-' | '@'))
        {
            word.push(c);
            continue;
        }
        let named = std::mem::take(&mut word);
        let here = all.entry(current.clone()).or_default();
        match piece {
            // A name in front of a colon, or of what else may stand there.
            Piece::Plain(':') if !named.is_empty() => {
                current = named;
                continue;
            }
            Piece::Plain('&' | '~') => here.intersects = true,
            Piece::Opaque(opaque) if opaque.starts_with('/') && !opaque.starts_with("//") => {
                let end = opaque.len().saturating_sub(1).max(1);
                here.widths.push(width::of(opaque.get(1..end).unwrap_or_default()));
            }
            _ => {}
        }
        if !named.is_empty() {
            here.names.push(named);
        }
    }
    if !word.is_empty() {
        all.entry(current).or_default().names.push(word);
    }
    Ok(all)
}

/// How wide what a name stands for is at most.
fn definition_width(
    name: &str,
    all: &BTreeMap<String, Definition>,
    known: &mut HashMap<String, usize>,
    depth: usize,
) -> usize {
    if let Some(&width) = known.get(name) {
        return width;
    }
    let Some(definition) = all.get(name) else { return 1 };
    if depth > DEEPEST {
        return usize::MAX;
    }
    // What leads back to itself is no terminal, and is refused as one.
    known.insert(name.to_owned(), 1);
    let mut width = 1usize;
    let names = definition.names.iter().map(|name| definition_width(name, all, known, depth + 1));
    for own in definition.widths.iter().copied().chain(names.collect::<Vec<_>>()) {
        width = match definition.intersects {
            true => width.saturating_mul(own),
            false => width.saturating_add(own - 1),
        };
    }
    known.insert(name.to_owned(), width);
    width
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_taken_out_of_rules_and_only_there() {
        let text = "start: a b // %json 1\na: \"%json {\\\"\" /%json \\/x/ # \"\nb: %json {\"const\": \"/\"} c\nc: %json true\n";
        let (out, schemas) = without_schemas(text, "m").unwrap();
        assert_eq!(
            out,
            "start: a b // %json 1\na: \"%json {\\\"\" /%json \\/x/ # \"\nb:  @m-json-0  c\nc:  @m-json-1 \n"
        );
        let expected = [json!({"const": "/"}), json!(true)];
        assert_eq!(schemas.into_iter().map(|(_, schema)| schema).collect::<Vec<_>>(), expected);
        assert!(without_schemas("start: %json {", "m").unwrap_err().contains("%json"));
        assert!(without_schemas("start: %json", "m").is_err());
    }

    #[test]
    fn what_is_intersected_is_bounded() {
        let all = |count: usize| {
            let each: Vec<_> = (0..count).map(|at| format!("/.*x{at}.*/")).collect();
            each.join(" & ")
        };
        assert!(check_width(&format!("start: T\nT: {}\n", all(8))).is_ok());
        let said = check_width(&format!("start: T\nT: {}\n", all(9))).unwrap_err();
        assert!(said.starts_with("T: "), "{said}");
        // Through names, each of which is used twice.
        let named =
            format!("start: D\nA: {}\nB: A \"x\" & \"x\" A\nC: B \"x\" & \"x\" B\nD: C", all(3));
        assert!(check_width(&named).is_err());
        // Without &, there may be as many as there are.
        assert!(check_width(&format!("start: {}", all(100).replace('&', "|"))).is_ok());
        assert!(check_width("start: /[a-z]+/ & ~/(if|else|for)/\n").is_ok());
        assert!(check_width("start: start & start /.*a/\n").is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |open: &str, close: &str, depth: usize| {
            format!("start: {}\"a\"{}", open.repeat(depth), close.repeat(depth))
        };
        assert!(check_depth(&nested("(", ")", 100)).is_ok());
        assert!(check_depth(&nested("(", ")", 101)).is_err());
        assert!(check_depth(&nested("[", "]", 101)).is_err());
        assert!(check_depth(&nested("~ ", "", 101)).is_err());
        assert!(check_depth(&format!("start: \"{}\"", "(".repeat(1000))).is_ok());
    }
}
