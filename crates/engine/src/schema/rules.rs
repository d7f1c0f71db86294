//! Rules of a grammar, and their text.

use std::collections::HashMap;
use std::fmt::Write as _;

use llguidance::derivre::{RegexAst, RegexBuilder};

use crate::constraint::width;

/// Rules that may be made.
const MOST_RULES: usize = 60_000;

/// Rules, ways, terminals and repetitions that a grammar may have. llguidance has room for 65,535 symbols, of
/// which each of these is one at most, but for repetitions, and counted ones, which it halves again and again;
/// compiling so many takes seconds.
const MOST_SYMBOLS: usize = 60_000;
const SYMBOLS_A_REPEAT: usize = 3;
const SYMBOLS_A_COUNT: usize = 64;

/// Expressions for one terminal.
const MOST_PARTS: usize = 16;

/// Bytes of the expressions of all terminals that have several: to find out whether there is such a text takes
/// some microseconds for each.
const MOST_INTERSECTED: usize = 256 << 10;

/// Steps to find out whether a terminal matches anything.
const EMPTINESS_FUEL: u64 = 100_000;

/// A rule, by number.
pub(super) type RuleId = usize;

/// A terminal, by number.
pub(super) type TerminalId = usize;

/// What a rule is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Symbol {
    Terminal(TerminalId),
    Rule(RuleId),
    /// A rule so many times.
    Repeat(RuleId, u64, Option<u64>),
    /// A JSON schema for llguidance itself.
    Json(String),
}

/// A terminal: what all expressions match, without what the last ones match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Terminal {
    pub all: Vec<String>,
    pub none: Vec<String>,
}

impl Terminal {
    pub fn new(expression: impl Into<String>) -> Self {
        Self { all: vec![expression.into()], none: vec![] }
    }

    /// # Errors
    /// If its expressions cannot be intersected at a bounded cost.
    pub fn check_width(&self) -> Result<(), String> {
        if self.all.len() + self.none.len() < 2 {
            return Ok(());
        }
        let parts = self.all.iter().chain(&self.none);
        let width = parts.map(|text| width::of(text)).fold(1, usize::saturating_mul);
        if width > width::MOST {
            return Err(
                "several expressions for one text have too many alternatives together".into()
            );
        }
        Ok(())
    }

    /// Whether it matches some text. A terminal without exceptions and intersections does.
    fn matches_something(&self) -> Result<bool, String> {
        if self.all.len() == 1 && self.none.is_empty() {
            return Ok(true);
        }
        let regex = |text: &String| RegexAst::Regex(text.clone());
        let mut parts: Vec<_> = self.all.iter().map(regex).collect();
        parts.extend(self.none.iter().map(|text| RegexAst::Not(Box::new(regex(text)))));
        let mut builder = RegexBuilder::new();
        let all = builder.mk(&RegexAst::And(parts)).map_err(|error| error.to_string())?;
        let regex = builder.to_regex_limited(all, EMPTINESS_FUEL);
        Ok(!regex
            .map_err(|_| "it takes too long to tell whether there is such a text")?
            .always_empty())
    }

    fn text(&self) -> String {
        let all = self.all.iter().map(|one| format!("/{one}/"));
        let none = self.none.iter().map(|one| format!("~/{one}/"));
        all.chain(none).collect::<Vec<_>>().join(" & ")
    }
}

/// A grammar that is being made.
#[derive(Default)]
pub(super) struct Rules {
    rules: Vec<Vec<Vec<Symbol>>>,
    terminals: Vec<Terminal>,
    known: HashMap<Terminal, Option<TerminalId>>,
    /// Bytes of terminals with several expressions.
    intersected: usize,
}

impl Rules {
    /// A rule without any way yet.
    pub fn rule(&mut self) -> Result<RuleId, String> {
        if self.rules.len() >= MOST_RULES {
            return Err(format!("the schema needs more than {MOST_RULES} rules"));
        }
        self.rules.push(vec![]);
        Ok(self.rules.len() - 1)
    }

    pub fn way(&mut self, rule: RuleId, symbols: Vec<Symbol>) {
        if !self.rules[rule].contains(&symbols) {
            self.rules[rule].push(symbols);
        }
    }

    /// A rule with one way.
    pub fn sequence(&mut self, symbols: Vec<Symbol>) -> Result<RuleId, String> {
        let rule = self.rule()?;
        self.way(rule, symbols);
        Ok(rule)
    }

    /// `None` if it matches nothing.
    pub fn terminal(&mut self, terminal: Terminal) -> Result<Option<Symbol>, String> {
        if let Some(known) = self.known.get(&terminal) {
            return Ok(known.map(Symbol::Terminal));
        }
        let parts = terminal.all.len() + terminal.none.len();
        if parts > MOST_PARTS {
            return Err(format!("{parts} expressions for one text, expected at most {MOST_PARTS}"));
        }
        if parts > 1 {
            let bytes = terminal.all.iter().chain(&terminal.none).map(String::len).sum::<usize>();
            self.intersected += bytes;
            if self.intersected > MOST_INTERSECTED {
                return Err(format!(
                    "bounds, patterns and exceptions have more than {MOST_INTERSECTED} bytes of expressions together"
                ));
            }
        }
        let id = terminal.matches_something()?.then(|| {
            self.terminals.push(terminal.clone());
            self.terminals.len() - 1
        });
        self.known.insert(terminal, id);
        Ok(id.map(Symbol::Terminal))
    }

    /// The text of the grammar, without ways that never end; `None` if none is left.
    ///
    /// # Errors
    /// If it is too large.
    pub fn text(&self, start: RuleId, options: &str) -> Result<Option<String>, String> {
        let mut ends = vec![false; self.rules.len()];
        loop {
            let before = ends.iter().filter(|one| **one).count();
            for (rule, ways) in self.rules.iter().enumerate() {
                let way_ends =
                    |way: &Vec<Symbol>| way.iter().all(|symbol| symbol_ends(symbol, &ends));
                ends[rule] = ends[rule] || ways.iter().any(way_ends);
            }
            if ends.iter().filter(|one| **one).count() == before {
                break;
            }
        }
        if !ends[start] {
            return Ok(None);
        }
        let mut symbols = 0;
        let mut used = vec![false; self.rules.len()];
        let mut used_terminals = vec![false; self.terminals.len()];
        let mut todo = vec![start];
        let mut text = format!("{options}start: r{start}\n");
        while let Some(rule) = todo.pop() {
            if std::mem::replace(&mut used[rule], true) {
                continue;
            }
            symbols += 1;
            let mut ways = vec![];
            for way in
                self.rules[rule].iter().filter(|way| way.iter().all(|one| symbol_ends(one, &ends)))
            {
                let mut parts = vec![];
                symbols += usize::from(way.len() > 1);
                for symbol in way {
                    match symbol {
                        Symbol::Terminal(id) => {
                            symbols +=
                                usize::from(!std::mem::replace(&mut used_terminals[*id], true));
                            parts.push(format!("T{id}"));
                        }
                        Symbol::Rule(id) => {
                            todo.push(*id);
                            parts.push(format!("r{id}"));
                        }
                        // What never ends can only be left out.
                        Symbol::Repeat(id, ..) if !ends[*id] => {}
                        Symbol::Repeat(id, least, most) => {
                            let counted = *least > 1 || most.is_some();
                            symbols += if counted { SYMBOLS_A_COUNT } else { SYMBOLS_A_REPEAT };
                            todo.push(*id);
                            parts.push(match (least, most) {
                                (0, None) => format!("r{id}*"),
                                (1, None) => format!("r{id}+"),
                                (least, None) => format!("r{id}{{{least},}}"),
                                (least, Some(most)) => format!("r{id}{{{least},{most}}}"),
                            });
                        }
                        Symbol::Json(schema) => parts.push(format!("%json {schema}")),
                    }
                }
                ways.push(if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") });
            }
            if symbols > MOST_SYMBOLS {
                return Err(format!(
                    "the schema needs more than {MOST_SYMBOLS} rules and alternatives"
                ));
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, "r{rule}: {}", ways.join("\n | "));
        }
        for (id, terminal) in
            self.terminals.iter().enumerate().filter(|(id, _)| used_terminals[*id])
        {
            let _ = writeln!(text, "T{id}: {}", terminal.text());
        }
        Ok(Some(text))
    }
}

fn symbol_ends(symbol: &Symbol, ends: &[bool]) -> bool {
    match symbol {
        Symbol::Rule(id) => ends[*id],
        Symbol::Repeat(id, least, _) => *least == 0 || ends[*id],
        Symbol::Terminal(_) | Symbol::Json(_) => true,
    }
}
