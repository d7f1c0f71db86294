//! What Python's strings do, on characters that keep their origin.

use crate::arithmetic::find;
use crate::error::Result;
use crate::execute::Run;
use crate::python::{is_alnum, is_cased, is_line_end, is_space};
use crate::text::{Char, Text, own};

/// Which ends an operation works on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
    Both,
}

/// `text` without what `of` holds at its ends; white space if it is not given.
pub(crate) fn strip<'t>(text: &'t [Char], of: Option<&[Char]>, side: Side) -> &'t [Char] {
    // Few characters are stripped at a time; more are looked up.
    let set: Option<std::collections::BTreeSet<Char>> = of.map(|of| of.iter().copied().collect());
    let goes = |c: &Char| match &set {
        Some(set) => set.contains(c),
        None => is_space(c.get()),
    };
    let start = match side {
        Side::Right => 0,
        _ => text.iter().position(|c| !goes(c)).unwrap_or(text.len()),
    };
    let end = match side {
        Side::Left => text.len(),
        _ => text.iter().rposition(|c| !goes(c)).map_or(start, |last| last + 1),
    };
    &text[start..end.max(start)]
}

pub(crate) fn upper(text: &[Char]) -> Vec<Char> {
    text.iter().flat_map(|c| c.get().to_uppercase().map(|u| c.with(u))).collect()
}

pub(crate) fn lower(text: &[Char]) -> Vec<Char> {
    (0..text.len()).flat_map(|index| lower_at(text, index)).collect()
}

/// The character at a place in lower case, which depends on those around it.
fn lower_at(text: &[Char], index: usize) -> Vec<Char> {
    let c = text[index];
    if c.get() == 'Σ' {
        // At the end of a word it has another form.
        let letter = |c: &&Char| is_cased(c.get());
        let before = text[..index].last().as_ref().is_some_and(letter);
        let after = text.get(index + 1).as_ref().is_some_and(letter);
        return vec![c.with(if before && !after { 'ς' } else { 'σ' })];
    }
    c.get().to_lowercase().map(|l| c.with(l)).collect()
}

/// The first character upper (as in a title), the others lower.
pub(crate) fn capitalize(text: &[Char]) -> Vec<Char> {
    let Some((first, rest)) = text.split_first() else { return Vec::new() };
    let mut made = title_case(*first);
    let whole = lower(text);
    let skipped = whole.len() - lower(rest).len();
    made.extend_from_slice(&whole[skipped..]);
    made
}

fn title_case(c: Char) -> Vec<Char> {
    let mut upper = c.get().to_uppercase();
    let mut made: Vec<Char> = upper.next().map(|u| c.with(u)).into_iter().collect();
    made.extend(upper.flat_map(char::to_lowercase).map(|l| c.with(l)));
    made
}

pub(crate) fn swapcase(text: &[Char]) -> Vec<Char> {
    let swap = |index: usize| match text[index].get().is_uppercase() {
        true => lower_at(text, index),
        false => upper(&text[index..=index]),
    };
    (0..text.len()).flat_map(swap).collect()
}

/// `str.title`: a word begins where a letter follows none.
pub(crate) fn title(text: &[Char]) -> Vec<Char> {
    let mut inside = false;
    let mut made = Vec::with_capacity(text.len());
    for (index, c) in text.iter().enumerate() {
        made.extend(if inside { lower_at(text, index) } else { title_case(*c) });
        inside = is_cased(c.get());
    }
    made
}

/// The `title` filter: a word begins after white space, a hyphen or an opening bracket.
pub(crate) fn title_words(text: &[Char]) -> Vec<Char> {
    let parts = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut inside = false;
    let mut made = Vec::with_capacity(text.len());
    for c in text {
        made.extend(if inside { lower(&[*c]) } else { upper(&[*c]) });
        inside = !parts(c.get());
    }
    made
}

pub(crate) fn is_lower(text: &[Char]) -> bool {
    let cased = |c: &Char| is_cased(c.get());
    text.iter().any(cased) && text.iter().all(|c| !is_cased(c.get()) || c.get().is_lowercase())
}

pub(crate) fn is_upper(text: &[Char]) -> bool {
    let cased = |c: &Char| is_cased(c.get());
    text.iter().any(cased) && text.iter().all(|c| !is_cased(c.get()) || c.get().is_uppercase())
}

pub(crate) fn is_title(text: &[Char]) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.iter().map(|c| c.get()) {
        if c.is_uppercase() && inside || c.is_lowercase() && !inside {
            return false;
        }
        inside = is_cased(c);
        any |= inside;
    }
    any
}

/// The lines of `text`, with their ends if `keep`.
pub(crate) fn lines(text: &[Char], keep: bool) -> Vec<&[Char]> {
    let mut lines = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while at < text.len() {
        if !is_line_end(text[at].get()) {
            at += 1;
            continue;
        }
        let pair = text[at].get() == '\r' && text.get(at + 1).is_some_and(|c| c.get() == '\n');
        let next = at + 1 + usize::from(pair);
        lines.push(&text[begin..if keep { next } else { at }]);
        (begin, at) = (next, next);
    }
    if begin < text.len() {
        lines.push(&text[begin..]);
    }
    lines
}

/// The parts between white space: at most `most` cuts, from the left or the right.
pub(crate) fn words(text: &[Char], most: usize, from_right: bool) -> Vec<&[Char]> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, if from_right { Side::Right } else { Side::Left });
    while !rest.is_empty() {
        let space = |c: &Char| is_space(c.get());
        let cut =
            if from_right { rest.iter().rposition(space) } else { rest.iter().position(space) };
        match cut.filter(|_| parts.len() < most) {
            Some(at) if from_right => {
                parts.push(&rest[at + 1..]);
                rest = strip(&rest[..at], None, Side::Right);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = strip(&rest[at..], None, Side::Left);
            }
            None => {
                // What is left keeps the white space at its far end only if no more cuts are allowed.
                let whole = cut.is_none();
                parts.push(if whole { strip(rest, None, Side::Both) } else { rest });
                break;
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// The last place of `one` in `all`.
pub(crate) fn find_last(all: &[Char], one: &[Char]) -> Option<usize> {
    let backward = |text: &[Char]| -> Vec<Char> { text.iter().rev().copied().collect() };
    find(&backward(all), &backward(one)).map(|at| all.len() - at - one.len())
}

/// The parts between `separator`: at most `most` cuts, from the left or the right.
pub(crate) fn split<'t>(
    text: &'t [Char],
    separator: &[Char],
    most: usize,
    from_right: bool,
) -> Vec<&'t [Char]> {
    let mut parts = Vec::new();
    if from_right {
        // Places from the right that do not overlap.
        let backward: Vec<Char> = text.iter().rev().copied().collect();
        let turned: Vec<Char> = separator.iter().rev().copied().collect();
        let mut end = text.len();
        while parts.len() < most
            && let Some(at) = find(&backward[text.len() - end..], &turned)
        {
            parts.push(&text[end - at..end]);
            end -= at + separator.len();
        }
        parts.push(&text[..end]);
        parts.reverse();
        return parts;
    }
    let mut rest = text;
    while parts.len() < most
        && let Some(at) = find(rest, separator)
    {
        parts.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest);
    parts
}

/// How often `one` is in `all`, without overlaps.
pub(crate) fn count(all: &[Char], one: &[Char]) -> usize {
    if one.is_empty() { all.len() + 1 } else { split(all, one, usize::MAX, false).len() - 1 }
}

/// `str.replace`.
pub(crate) fn replace(
    run: &Run,
    text: &[Char],
    old: &[Char],
    new: &[Char],
    most: usize,
) -> Result<Vec<Char>> {
    let mut out = run.budget.collect();
    run.budget.characters(text.len())?;
    if old.is_empty() {
        // Between all characters, and at the ends.
        for (index, c) in text.iter().enumerate() {
            if index < most {
                out.extend(new);
            }
            out.push(*c);
        }
        if text.len() < most {
            out.extend(new);
        }
        return out.chars();
    }
    for (index, part) in split(text, old, most, false).into_iter().enumerate() {
        if index > 0 {
            out.extend(new);
        }
        out.extend(part);
    }
    out.chars()
}

/// `text` in the middle of `width` characters, or at a side.
pub(crate) fn pad(
    run: &Run,
    text: &[Char],
    width: i128,
    fill: Char,
    side: Side,
) -> Result<Vec<Char>> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let missing = width.saturating_sub(text.len());
    run.budget.room(text.len().saturating_add(missing))?;
    let left = match side {
        Side::Left => 0,
        Side::Right => missing,
        // As CPython has it: an odd one goes to the left if the width is odd.
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let mut made = vec![fill; left];
    made.extend_from_slice(text);
    made.resize(left + text.len() + (missing - left), fill);
    Ok(made)
}

/// `str.zfill`.
pub(crate) fn zero_fill(run: &Run, text: &[Char], width: i128) -> Result<Vec<Char>> {
    let mut made = pad(run, text, width, Char::own('0'), Side::Right)?;
    let zeros = made.len() - text.len();
    if zeros > 0 && text.first().is_some_and(|c| matches!(c.get(), '+' | '-')) {
        made.swap(0, zeros);
    }
    Ok(made)
}

/// `str.expandtabs`.
pub(crate) fn expand_tabs(run: &Run, text: &[Char], size: i128) -> Result<Vec<Char>> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let mut out = run.budget.collect();
    let mut column = 0;
    for c in text {
        match c.get() {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                run.budget.room(out.len().saturating_add(spaces))?;
                out.extend(&vec![c.with(' '); spaces]);
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(*c);
                column = 0;
            }
            _ => {
                out.push(*c);
                column += 1;
            }
        }
    }
    out.chars()
}

/// HTML's five characters escaped, as safe text.
pub(crate) fn escape(run: &Run, text: &[Char]) -> Result<Text> {
    let mut out = run.budget.collect();
    for c in text {
        let escape = match c.get() {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            _ => {
                out.push(*c);
                continue;
            }
        };
        for e in escape.chars() {
            out.push(c.with(e));
        }
    }
    Ok(run.budget.raw_text(out.chars()?)?.as_markup(true))
}

/// How many words of letters, digits and underscores there are.
pub(crate) fn word_count(text: &[Char]) -> usize {
    let word = |c: &Char| c.get() == '_' || is_alnum(c.get());
    let begins = |index: &usize| word(&text[*index]) && (*index == 0 || !word(&text[*index - 1]));
    (0..text.len()).filter(begins).count()
}

/// Percent-encoded; a slash stays unless it is part of a query.
pub(crate) fn url_quote(run: &Run, text: &[Char], query: bool) -> Result<Vec<Char>> {
    let mut out = run.budget.collect();
    for c in text {
        let plain = c.get();
        if plain.is_ascii_alphanumeric() || "_.-~".contains(plain) || (plain == '/' && !query) {
            out.push(*c);
        } else if plain == ' ' && query {
            out.push(c.with('+'));
        } else {
            let mut bytes = [0; 4];
            for byte in plain.encode_utf8(&mut bytes).bytes() {
                for e in format!("%{byte:02X}").chars() {
                    out.push(c.with(e));
                }
            }
        }
    }
    out.chars()
}

/// Every line but the first behind `indent`.
pub(crate) fn indent(
    run: &Run,
    text: &[Char],
    indent: &[Char],
    first: bool,
    blank: bool,
) -> Result<Vec<Char>> {
    let mut out = run.budget.collect();
    let newline = own("\n");
    let whole = [text, &newline[..]].concat();
    for (index, line) in lines(&whole, false).into_iter().enumerate() {
        if index > 0 {
            out.extend(&newline);
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.extend(indent);
        }
        out.extend(line);
    }
    out.chars()
}

/// The `wordwrap` filter for one line: greedy, at white space and behind hyphens
/// (Python `textwrap.wrap` with `expand_tabs` and `replace_whitespace` off).
pub(crate) fn wrap(line: &[Char], width: usize, break_long: bool, hyphens: bool) -> Vec<Vec<Char>> {
    let mut chunks: std::collections::VecDeque<&[Char]> = chunks(line, hyphens).into();
    let blank = |chunk: &[Char]| chunk.iter().all(|c| is_space(c.get()));
    let mut lines: Vec<Vec<Char>> = Vec::new();
    while !chunks.is_empty() {
        let mut made: Vec<&[Char]> = Vec::new();
        let mut len = 0;
        if !lines.is_empty() && chunks.front().is_some_and(|chunk| blank(chunk)) {
            chunks.pop_front();
        }
        while let Some(chunk) = chunks.front().filter(|chunk| len + chunk.len() <= width) {
            len += chunk.len();
            made.push(chunk);
            chunks.pop_front();
        }
        if let Some(chunk) = chunks.front().copied().filter(|chunk| chunk.len() > width) {
            let room = width.saturating_sub(len).max(usize::from(width == 0));
            if break_long {
                let hyphen = chunk[..room].iter().rposition(|c| c.get() == '-').filter(|at| {
                    hyphens
                        && *at > 0
                        && chunk.len() > room
                        && chunk[..*at].iter().any(|c| c.get() != '-')
                });
                let cut = hyphen.map_or(room, |at| at + 1);
                if cut > 0 {
                    made.push(&chunk[..cut]);
                    chunks[0] = &chunk[cut..];
                }
            } else if made.is_empty() {
                made.push(chunk);
                chunks.pop_front();
            }
        }
        if made.last().is_some_and(|chunk| blank(chunk)) {
            made.pop();
        }
        if !made.is_empty() {
            lines.push(made.concat());
        }
    }
    lines
}

/// Words and the white space between them; words end behind a hyphen between letters, too.
fn chunks(line: &[Char], hyphens: bool) -> Vec<&[Char]> {
    let mut chunks = Vec::new();
    let mut begin = 0;
    for at in 1..=line.len() {
        let ends = at == line.len() || {
            let (before, after) = (line[at - 1].get(), line[at].get());
            let letter = |index: usize| {
                line.get(index).is_some_and(|c| c.get().is_alphabetic() || c.get() == '_')
            };
            is_space(before) != is_space(after)
                || (hyphens
                    && before == '-'
                    && at >= 2
                    && letter(at - 2)
                    && letter(at)
                    && at - begin > 2)
        };
        if ends {
            chunks.push(&line[begin..at]);
            begin = at;
        }
    }
    chunks
}
