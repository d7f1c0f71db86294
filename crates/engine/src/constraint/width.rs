//! How wide an expression is: how many of its parts one character can be the next of.
//!
//! derivre, which llguidance finds out with whether an intersection matches anything, makes all combinations of
//! such parts of the expressions that are intersected, a step of the text at a time, and counts its steps
//! afterwards. So a hundred expressions like `.*x.*` at once would take more memory than there is, within one
//! step. The product of their widths says beforehand how many combinations there can be.

use regex_syntax::hir::{Class, Hir, HirKind};

/// The most combinations of the first step. They become more with each step, but not many times as many, and
/// the steps are counted.
pub(crate) const MOST: usize = 256;

/// How wide an expression is; 1 if it cannot be parsed, which is told elsewhere.
pub(crate) fn of(expression: &str) -> usize {
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    parser.parse(expression).map_or(1, |hir| Width::of(&hir).widest)
}

/// By first byte, how many parts of an expression it can begin with.
type First = [usize; 256];

/// How wide an expression is at its beginning, and at most.
struct Width {
    first: First,
    widest: usize,
}

impl Width {
    fn new(begins: impl Fn(u8) -> bool) -> Self {
        Self { first: std::array::from_fn(|byte| usize::from(begins(byte as u8))), widest: 1 }
    }

    fn of_ranges(ranges: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut made = Self::new(|_| false);
        for (from, to) in ranges {
            let ascii = (from.min(0x80) as usize)..(to.saturating_add(1).min(0x80) as usize);
            made.first[ascii].fill(1);
            if to >= 0x80 {
                made.first[0x80..].fill(1);
            }
        }
        made
    }

    fn of(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => Self::new(|_| false),
            HirKind::Literal(literal) => Self::new(|byte| literal.0.first() == Some(&byte)),
            HirKind::Class(Class::Bytes(class)) => Self::of_ranges(
                class.ranges().iter().map(|one| (one.start().into(), one.end().into())),
            ),
            // What is no ASCII begins with any other byte.
            HirKind::Class(Class::Unicode(class)) => Self::of_ranges(
                class.ranges().iter().map(|one| (one.start().into(), one.end().into())),
            ),
            // It begins again, or what follows does: that is counted where it stands.
            HirKind::Repetition(repetition) => Self::of(&repetition.sub),
            HirKind::Capture(capture) => Self::of(&capture.sub),
            HirKind::Concat(parts) => Self::of_sequence(parts),
            HirKind::Alternation(parts) => Self::of_alternatives(parts),
        }
    }

    fn of_sequence(parts: &[Hir]) -> Self {
        let mut made = Self::new(|_| false);
        let mut at_start = true;
        // What the next byte may begin or go on with besides the next part.
        let mut open = [0usize; 256];
        for part in parts {
            let own = Self::of(part);
            let both: First =
                std::array::from_fn(|byte| open[byte].saturating_add(own.first[byte]));
            let here = both.iter().copied().max().unwrap_or(0);
            made.widest = made.widest.max(own.widest).max(here);
            let empty = part.properties().minimum_len().is_none_or(|least| least == 0);
            if at_start {
                made.first = both;
            }
            at_start &= empty;
            open = match part.kind() {
                _ if empty => both,
                // It has begun, and can go on.
                HirKind::Repetition(_) => own.first,
                _ => [0; 256],
            };
        }
        made
    }

    fn of_alternatives(parts: &[Hir]) -> Self {
        let (mut first, mut widest) = ([0usize; 256], [0usize; 256]);
        let mut words = [false; 256];
        for part in parts {
            let own = Self::of(part);
            // Words are looked up letter by letter, whatever their number.
            let is_word = matches!(part.kind(), HirKind::Literal(_) | HirKind::Empty);
            for byte in (0..256).filter(|byte| own.first[*byte] > 0) {
                if is_word && std::mem::replace(&mut words[byte], true) {
                    continue;
                }
                first[byte] = first[byte].saturating_add(own.first[byte]);
                widest[byte] = widest[byte].saturating_add(own.widest);
            }
        }
        let widest = widest.into_iter().max().unwrap_or(0).max(1);
        Self { first, widest }
    }
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn what_one_character_can_be_the_next_of() {
        for (expression, width) in [
            ("abc", 1),
            ("(one|two|three)", 1),
            (".*x.*", 2),
            ("[a-z]+[0-9]", 1),
            ("[a-z]+e", 2),
            (".{3}x", 2),
            ("a?b?c?d", 1),
            ("a?a?a?a", 4),
            ("(a.|ab.|abc.)", 3),
            ("(a.*b|a.*c|a.*d|x.*y)", 6),
            ("(.*x){20}", 2),
            (r#"([^"\\]|\\.)*x"#, 2),
            ("(", 1),
        ] {
            assert_eq!(of(expression), width, "{expression}");
        }
    }
}
