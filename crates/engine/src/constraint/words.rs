//! What is said of grammars that cannot be followed, in words for who wrote them: the compiler's own name its parts
//! and repeat what it was given, which may be long.

use regex_syntax::Error as Malformed;

use super::Grammar;
use crate::schema::cut;

/// Characters of a message, and of what it repeats.
const LONGEST: usize = 300;
const LONGEST_PART: usize = 60;

/// Why a regular expression is none; `None` if it is one.
pub(super) fn malformed(expression: &str) -> Option<String> {
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    let (kind, at) = match parser.parse(expression).err()? {
        Malformed::Parse(error) => (error.kind().to_string(), error.span().start.offset),
        Malformed::Translate(error) => (error.kind().to_string(), error.span().start.offset),
        _ => ("it is malformed".to_owned(), 0),
    };
    let place = expression.get(..at).map_or(1, |before| before.chars().count() + 1);
    Some(format!("regular expression {:?}: at character {place}: {kind}", part(expression)))
}

/// What the compiler says of a grammar.
pub(super) fn said(grammar: &Grammar, problem: &str) -> String {
    if let Some(limit) = exceeded(problem) {
        return limit.into();
    }
    match grammar {
        Grammar::Regex(expression) if problem.contains("lookaround") => {
            let shown = part(expression);
            format!("regular expression {shown:?}: anchors and word boundaries cannot be followed")
        }
        Grammar::Regex(expression) => {
            format!("regular expression {:?}: it cannot be followed", part(expression))
        }
        Grammar::JsonSchema(_) => "the schema cannot be followed".into(),
        Grammar::Lark(_) => in_lark(problem),
        Grammar::After { answer, .. } => said(answer, problem),
    }
}

/// Which of the compiler's limits a grammar exceeds, if that is the problem.
pub(super) fn exceeded(problem: &str) -> Option<&'static str> {
    let has = |word: &&str| problem.contains(*word);
    // The compiler's own errors begin so; those of grammars that are written wrongly name line and column.
    let of_its_own = [
        "arser error: ",
        "Parser Error: ",
        "panic: ",
        "fuel",
        "initial lexer",
        "grammar size",
        "DNF",
    ];
    let kinds = [
        (&["items"][..], "it leaves too many ways to go on open at one place"),
        (
            &["fuel", "too big", "too large, ", "lexer", "panic:", "assertion failed", "too many"],
            "it is too large to follow, or repeats, excludes or intersects too much",
        ),
    ];
    let (_, meaning) = kinds.iter().find(|(words, _)| words.iter().any(has))?;
    of_its_own.iter().any(has).then_some(*meaning)
}

/// What is wrong with Lark text, without the lines of it that the compiler shows: they are the client's.
fn in_lark(problem: &str) -> String {
    let excerpt = |line: &&str| {
        let number = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        number.len() < line.trim_start().len() && number.starts_with(" |")
    };
    let lines: Vec<_> = problem.lines().take_while(|line| !excerpt(line)).collect();
    let text = lines.join(" ").replace("lexer error", "nothing in a grammar is spelled so");
    let text = text.strip_prefix("at ").unwrap_or(&text);
    // "LINE(COLUMN): "
    let place = text.split_once("): ").and_then(|(place, rest)| {
        let (line, column) = place.split_once('(')?;
        let number = |text: &str| text.parse::<u32>().ok();
        Some((number(line)?, number(column)?, rest))
    });
    match place {
        Some((line, column, rest)) => format!("line {line}, column {column}: {}", short(rest)),
        None => short(text),
    }
}

/// A message of a length that a person reads.
pub(super) fn short(text: &str) -> String {
    cut(text, LONGEST)
}

fn part(text: &str) -> String {
    cut(text, LONGEST_PART)
}
