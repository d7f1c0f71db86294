//! From alternatives to rules.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::alternatives::{Alternative, Entry, Lists, Numbers, Records, Texts};
use super::number::{self, Decimal};
use super::pattern::{CHARACTER, Pattern, quoted};
use super::read::{Conj, Reader, only};
use super::rules::{RuleId, Rules, Symbol, Terminal};
use super::{Refusal, Whitespace};

/// Patterns of property names that may overlap each other.
const MOST_PATTERNS: usize = 6;

/// Values of which an array may have each once.
const MOST_UNIQUE: usize = 10;

/// Digits of a `multipleOf`, zeros at the end not counted, at most; and digits behind the point.
const LARGEST_STEP: u64 = 4096;
const FINEST_STEP: i32 = 6;

/// States of an array or object whose parts are counted.
const MOST_STATES: u64 = 20_000;

/// Optional properties of one object. Each is five or so of the [`crate::constraint`]'s items in a row.
const MOST_OPTIONAL: usize = 2_000;

/// Some of an object's entries.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// One of them at least, of which nothing is in front.
    first: RuleId,
    /// Any of them, each with a comma in front.
    rest: RuleId,
    /// Whether some of them are required.
    required: bool,
}

/// Makes rules of the sets of schemas that are found.
struct Emitter<'a> {
    reader: Reader<'a>,
    rules: Rules,
    known: HashMap<Conj, RuleId>,
    todo: Vec<(Conj, RuleId)>,
    comma: Symbol,
    colon: Symbol,
    /// The same whitespace, for llguidance's own schemas.
    layout: Value,
}

/// The text of a schema's grammar.
pub(super) fn grammar(schema: &Value, whitespace: &Whitespace) -> Result<String, Refusal> {
    let (reader, root) = Reader::new(schema)?;
    let at_root = |problem: String| Refusal { place: "#".into(), problem };
    let mut rules = Rules::default();
    let mut fixed = |text: &str| {
        let symbol = rules.terminal(Terminal::new(text)).map_err(at_root)?;
        symbol.ok_or_else(|| at_root("internal error: a comma that matches nothing".into()))
    };
    let (comma, colon) = (fixed(r"\x2c")?, fixed(r"\x3a")?);
    let layout = match whitespace {
        Whitespace::None => json!({ "whitespace_flexible": false }),
        Whitespace::Pattern(pattern) => json!({ "whitespace_pattern": pattern }),
    };
    let (known, todo) = (HashMap::new(), vec![]);
    let mut emitter = Emitter { reader, rules, known, todo, comma, colon, layout };
    let start = emitter.rule(&only(root)).map_err(at_root)?;
    while let Some((conj, rule)) = emitter.todo.pop() {
        let place = conj
            .iter()
            .next_back()
            .map_or("#".to_owned(), |(id, _)| emitter.reader.document.node(*id).place.clone());
        emitter.fill(&conj, rule).map_err(|problem| match problem {
            Problem::Refused(refusal) => refusal,
            Problem::Here(problem) => Refusal { place, problem },
        })?;
    }
    let options = match whitespace {
        Whitespace::None => "%llguidance {\"ignore_once\": true}\n".to_owned(),
        Whitespace::Pattern(pattern) => format!(
            "%llguidance {{\"ignore_once\": true}}\n%ignore /{}/\n",
            llguidance::regex_to_lark(pattern, "")
        ),
    };
    let text = emitter.rules.text(start, &options).map_err(at_root)?;
    text.ok_or_else(|| at_root("no JSON value satisfies it".into()))
}

enum Problem {
    Refused(Refusal),
    Here(String),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Here(problem)
    }
}

type Made<T> = Result<T, Problem>;

impl Emitter<'_> {
    /// The rule of a set of schemas.
    fn rule(&mut self, conj: &Conj) -> Result<RuleId, String> {
        if let Some(&rule) = self.known.get(conj) {
            return Ok(rule);
        }
        let rule = self.rules.rule()?;
        self.known.insert(conj.clone(), rule);
        self.todo.push((conj.clone(), rule));
        Ok(rule)
    }

    fn fill(&mut self, conj: &Conj, rule: RuleId) -> Made<()> {
        let alternatives = self.reader.alternatives(conj)?;
        for one in alternatives.iter() {
            let symbol = match one {
                Alternative::Null => self.fixed("null")?,
                Alternative::Bool(true) => self.fixed("true")?,
                Alternative::Bool(false) => self.fixed("false")?,
                Alternative::Number(numbers) => self.number(numbers)?,
                Alternative::Text(texts) => self.text(texts)?,
                Alternative::List(lists) => {
                    self.list(rule, lists)?;
                    None
                }
                Alternative::Record(records) => {
                    self.record(rule, records)?;
                    None
                }
            };
            if let Some(symbol) = symbol {
                self.rules.way(rule, vec![symbol]);
            }
        }
        Ok(())
    }

    fn fixed(&mut self, text: &str) -> Made<Option<Symbol>> {
        Ok(self.rules.terminal(Terminal::new(text))?)
    }

    fn number(&mut self, numbers: &Numbers) -> Made<Option<Symbol>> {
        let too_long = || "a number has too many digits to compare".to_owned();
        if let Some(only) = &numbers.only {
            let mut texts = vec![];
            for value in only {
                if numbers.has(value).ok_or_else(too_long)? {
                    texts.push(value.literal());
                }
            }
            if texts.is_empty() {
                return Ok(None);
            }
            return self.fixed(&format!("({})", texts.join("|")));
        }
        let mut terminal = Terminal::new(match numbers.whole {
            Some(true) => number::WHOLE,
            Some(false) => number::NOT_WHOLE,
            None if *numbers == Numbers::default() => number::ANY,
            None => number::PLAIN,
        });
        for (bound, up) in [(&numbers.least, true), (&numbers.most, false)] {
            if let Some((bound, strict)) = bound {
                terminal.all.push(if up { bound.or_more(*strict) } else { bound.or_less(*strict) });
            }
        }
        terminal.none.extend(numbers.except.iter().map(Decimal::forms));
        for (step, multiple) in &numbers.steps {
            let (digits, power) = step.step().ok_or_else(too_long)?;
            let Some(expression) = number::multiples(digits, power) else {
                return self.multiple(numbers).map(Some);
            };
            if *multiple { &mut terminal.all } else { &mut terminal.none }.push(expression);
        }
        Ok(self.rules.terminal(terminal)?)
    }

    /// Multiples that their last digits do not tell: llguidance counts remainders.
    fn multiple(&mut self, numbers: &Numbers) -> Made<Symbol> {
        let mut together = (1u64, 0i32);
        for (step, multiple) in &numbers.steps {
            if !multiple {
                return Err(format!(
                    "multipleOf {step} inside not (or what needs it) cannot be followed"
                )
                .into());
            }
            let next = step.step().and_then(|step| least_common(together, step));
            together = next.filter(|(digits, power)| *digits <= LARGEST_STEP && -power <= FINEST_STEP).ok_or_else(|| {
                format!("multipleOf: {step} (with others, if there are several), expected at most {LARGEST_STEP}, or that times a power of ten, with at most {FINEST_STEP} digits behind the point")
            })?;
        }
        if !numbers.except.is_empty() || numbers.whole == Some(false) {
            return Err("multipleOf with not, const or enum beside it cannot be followed"
                .to_owned()
                .into());
        }
        let kind = if numbers.whole == Some(true) { "integer" } else { "number" };
        let mut schema = Map::from_iter([("type".to_owned(), json!(kind))]);
        schema.insert("x-guidance".into(), self.layout.clone());
        let (digits, power) = together;
        let step = format!("{digits}e{power}").parse::<f64>().unwrap_or(0.0);
        schema.insert("multipleOf".into(), json!(step));
        for (bound, names) in [
            (&numbers.least, ["minimum", "exclusiveMinimum"]),
            (&numbers.most, ["maximum", "exclusiveMaximum"]),
        ] {
            if let Some((bound, strict)) = bound {
                let value = bound.to_string().parse::<f64>().unwrap_or(f64::NAN);
                if value.is_nan() || value.abs() > 9_007_199_254_740_992.0 {
                    return Err(format!(
                        "multipleOf beside {} {bound} cannot be followed",
                        names[0]
                    )
                    .into());
                }
                schema.insert(names[usize::from(*strict)].into(), json!(value));
            }
        }
        Ok(Symbol::Json(Value::Object(schema).to_string()))
    }

    fn text(&mut self, texts: &Texts) -> Made<Option<Symbol>> {
        match string_terminal(texts)? {
            Some(terminal) => Ok(self.rules.terminal(terminal)?),
            None => Ok(None),
        }
    }

    fn list(&mut self, rule: RuleId, lists: &Lists) -> Made<()> {
        let (Some(open), Some(close)) = (self.fixed(r"\[")?, self.fixed(r"\]")?) else {
            return Ok(());
        };
        let most = lists.most;
        let inner = if let Some(place) =
            lists.unique.as_ref().filter(|_| most.is_none_or(|most| most > 1))
        {
            self.unique(lists, place)?
        } else {
            let contains: Vec<_> =
                lists.contains.iter().filter(|one| one.least > 0 || one.most.is_some()).collect();
            match contains[..] {
                [] => self.plain_list(lists)?,
                [contains] => {
                    let contains = contains.clone();
                    self.counted_list(lists, &contains)?
                }
                _ => return Err("contains: several at once cannot be followed".to_owned().into()),
            }
        };
        self.rules.way(rule, vec![open, Symbol::Rule(inner), close]);
        Ok(())
    }

    /// What is between the brackets: items by place, then any number of the same kind.
    fn plain_list(&mut self, lists: &Lists) -> Made<RuleId> {
        let places = (lists.places() as u64).min(lists.most.unwrap_or(u64::MAX));
        let rest = self.rule(&lists.rest())?;
        let with_comma = self.rules.sequence(vec![self.comma.clone(), Symbol::Rule(rest)])?;
        let mut next = self.rules.rule()?;
        if places > 0 {
            let least = lists.least.saturating_sub(places);
            let most = lists.most.map(|most| most - places);
            self.rules.way(next, repeat(with_comma, least, most));
        } else {
            if lists.least == 0 {
                self.rules.way(next, vec![]);
            }
            if lists.most != Some(0) {
                let mut way = vec![Symbol::Rule(rest)];
                way.extend(repeat(
                    with_comma,
                    lists.least.saturating_sub(1),
                    lists.most.map(|most| most - 1),
                ));
                self.rules.way(next, way);
            }
        }
        for place in (0..places).rev() {
            let item = self.rule(&lists.item(place as usize))?;
            let this = self.rules.rule()?;
            if place >= lists.least {
                self.rules.way(this, vec![]);
            }
            let comma = (place > 0).then(|| self.comma.clone());
            self.rules.way(
                this,
                comma.into_iter().chain([Symbol::Rule(item), Symbol::Rule(next)]).collect(),
            );
            next = this;
        }
        Ok(next)
    }

    /// The same, with so many items of a kind among them.
    fn counted_list(
        &mut self,
        lists: &Lists,
        contains: &super::alternatives::Contains,
    ) -> Made<RuleId> {
        let places = (lists.places() as u64).max(lists.least).max(lists.most.unwrap_or(0)).max(1);
        let hits = contains.least.max(contains.most.unwrap_or(0));
        if (places + 1).saturating_mul(hits + 1) > MOST_STATES {
            return Err("contains: with these bounds there are too many states to follow"
                .to_owned()
                .into());
        }
        let mut states = HashMap::new();
        for place in 0..=places {
            for hit in 0..=hits {
                states.insert((place, hit), self.rules.rule()?);
            }
        }
        for (&(place, hit), &rule) in &states {
            if place >= lists.least && hit >= contains.least {
                self.rules.way(rule, vec![]);
            }
            if lists.most.is_some_and(|most| place >= most) {
                continue;
            }
            let next = (place + 1).min(places);
            let kind = lists.item(place as usize);
            let mut options = vec![];
            if contains.most.is_none_or(|most| hit < most) {
                options.push((&contains.kind | &kind, (hit + 1).min(hits)));
            }
            // Without an upper bound, it does no harm if one more is of the kind.
            let other = if contains.most.is_some() { &contains.other | &kind } else { kind };
            options.push((other, hit));
            for (conj, hit) in options {
                let item = self.rule(&conj)?;
                let comma = (place > 0).then(|| self.comma.clone());
                let way = [Symbol::Rule(item), Symbol::Rule(states[&(next, hit)])];
                self.rules.way(rule, comma.into_iter().chain(way).collect());
            }
        }
        Ok(states[&(0, 0)])
    }

    /// The same, each item once: where there are few values to choose from.
    fn unique(&mut self, lists: &Lists, place: &str) -> Made<RuleId> {
        let refuse =
            |problem: String| Problem::Refused(Refusal { place: place.to_owned(), problem });
        let values = match lists.places() {
            0 => self.values(&lists.rest())?,
            _ => None,
        };
        let Some(values) =
            values.filter(|values| values.len() <= MOST_UNIQUE && lists.contains.is_empty())
        else {
            return Err(refuse(format!(
                "uniqueItems can be followed for up to {MOST_UNIQUE} values of an enum, or with maxItems of at most 1"
            )));
        };
        let mut items = vec![];
        for value in &values {
            let schema = Map::from_iter([("const".to_owned(), value.clone())]);
            let root = self.reader.document.node(0);
            let id = self.reader.document.make(Value::Object(schema), &root);
            items.push(self.rule(&only(id))?);
        }
        let sets = 1usize << values.len();
        let mut rules = vec![];
        for _ in 0..sets {
            rules.push(self.rules.rule()?);
        }
        for (set, &rule) in rules.iter().enumerate() {
            let count = u64::from(set.count_ones());
            if count >= lists.least {
                self.rules.way(rule, vec![]);
            }
            if lists.most.is_some_and(|most| count >= most) {
                continue;
            }
            for (index, &item) in
                items.iter().enumerate().filter(|(index, _)| set >> index & 1 == 0)
            {
                let comma = (count > 0).then(|| self.comma.clone());
                let way = [Symbol::Rule(item), Symbol::Rule(rules[set | 1 << index])];
                self.rules.way(rule, comma.into_iter().chain(way).collect());
            }
        }
        Ok(rules[0])
    }

    /// All values that satisfy a set of schemas, if they are listed.
    fn values(&mut self, conj: &Conj) -> Made<Option<Vec<Value>>> {
        let mut values = vec![];
        for one in self.reader.alternatives(conj)?.iter() {
            match one {
                Alternative::Null => values.push(Value::Null),
                Alternative::Bool(value) => values.push(Value::Bool(*value)),
                Alternative::Number(Numbers { only: Some(only), .. }) => {
                    let Alternative::Number(numbers) = one else { continue };
                    for value in only.iter().filter(|value| numbers.has(value) == Some(true)) {
                        match serde_json::from_str(&value.to_string()) {
                            Ok(value) => values.push(value),
                            Err(_) => return Ok(None),
                        }
                    }
                }
                Alternative::Text(Texts { only: Some(only), .. }) => {
                    values.extend(only.iter().cloned().map(Value::String));
                }
                _ => return Ok(None),
            }
        }
        let mut different: Vec<Value> = vec![];
        for value in values {
            if !different.contains(&value) {
                different.push(value);
            }
        }
        Ok(Some(different))
    }

    fn record(&mut self, rule: RuleId, records: &Records) -> Made<()> {
        let (Some(open), Some(close)) = (self.fixed(r"\{")?, self.fixed(r"\}")?) else {
            return Ok(());
        };
        let mut places = vec![];
        let entries = records.entries();
        for Entry { name, value, required } in &entries {
            let allowed = self.allows_name(records, name)?;
            let Some(key) = self.fixed(&format!(r"\x22{}\x22", quoted(name)))? else { continue };
            let value = self.rule(value)?;
            let entry = self.rules.sequence(vec![key, self.colon.clone(), Symbol::Rule(value)])?;
            places.push((entry, allowed, *required));
        }
        let optional = places.iter().filter(|(_, _, required)| !required).count();
        if optional > MOST_OPTIONAL {
            let problem = format!(
                "properties: {optional} of one object are optional, expected at most {MOST_OPTIONAL} (required ones do not count)"
            );
            return Err(problem.into());
        }
        let counted = records.least > 1 || records.most.is_some();
        let cap = if counted { records.least.max(records.most.unwrap_or(0)).max(1) } else { 1 };
        if (places.len() as u64 + 1).saturating_mul(cap.min(places.len() as u64) + 2) > MOST_STATES
        {
            return Err("minProperties and maxProperties are too large to follow"
                .to_owned()
                .into());
        }
        // No more can be counted than there are names before the others.
        let top = cap.min(places.len() as u64);
        let extra = self.extra(records, &entries)?;
        if !counted {
            let parts = self.parts(&places, extra)?;
            self.rules.way(rule, vec![open.clone(), Symbol::Rule(parts.first), close.clone()]);
            if !parts.required && records.least == 0 {
                self.rules.way(rule, vec![open, close]);
            }
            return Ok(());
        }
        let mut next: Vec<RuleId> = vec![];
        for count in 0..=top {
            next.push(self.tail(records, extra, count)?);
        }
        for (entry, allowed, required) in places.into_iter().rev() {
            let mut this = vec![];
            for count in 0..=top {
                let rule = self.rules.rule()?;
                let full = records.most.is_some_and(|most| count >= most);
                if allowed && !full {
                    let comma = (count > 0).then(|| self.comma.clone());
                    let after = next[(count + 1).min(top) as usize];
                    let way = [Symbol::Rule(entry), Symbol::Rule(after)];
                    self.rules.way(rule, comma.into_iter().chain(way).collect());
                }
                if !required {
                    self.rules.way(rule, vec![Symbol::Rule(next[count as usize])]);
                }
                this.push(rule);
            }
            next = this;
        }
        self.rules.way(rule, vec![open, Symbol::Rule(next[0]), close]);
        Ok(())
    }

    /// The entries of an object, if they need not be counted, each place with its entry, whether its name is
    /// allowed, and whether it is required. They are halved again and again, so that no rule is far from the
    /// others: a chain of thousands of optional entries takes the library quadratic time.
    fn parts(&mut self, places: &[(RuleId, bool, bool)], extra: RuleId) -> Made<Parts> {
        let comma = |emitter: &Self| emitter.comma.clone();
        let mut all = vec![];
        for &(entry, allowed, required) in places {
            if !allowed && !required {
                continue;
            }
            let rest = self.rules.rule()?;
            // A rule without ways is never followed.
            let first = if allowed { entry } else { self.rules.rule()? };
            if allowed {
                self.rules.way(rest, vec![comma(self), Symbol::Rule(entry)]);
            }
            if !required {
                self.rules.way(rest, vec![]);
            }
            all.push(Parts { first, rest, required });
        }
        let with_comma = self.rules.sequence(vec![comma(self), Symbol::Rule(extra)])?;
        let rest = self.rules.sequence(vec![Symbol::Repeat(with_comma, 0, None)])?;
        let first = self.rules.sequence(vec![Symbol::Rule(extra), Symbol::Rule(rest)])?;
        all.push(Parts { first, rest, required: false });
        while all.len() > 1 {
            let mut halved = vec![];
            for pair in all.chunks(2) {
                let &[left, right] = pair else {
                    halved.extend(pair);
                    continue;
                };
                let first = self.rules.rule()?;
                let way = vec![Symbol::Rule(left.first), Symbol::Rule(right.rest)];
                self.rules.way(first, way);
                if !left.required {
                    self.rules.way(first, vec![Symbol::Rule(right.first)]);
                }
                let rest = vec![Symbol::Rule(left.rest), Symbol::Rule(right.rest)];
                let rest = self.rules.sequence(rest)?;
                halved.push(Parts { first, rest, required: left.required || right.required });
            }
            all = halved;
        }
        Ok(all[0])
    }

    /// What follows the names that have a place, after so many.
    fn tail(&mut self, records: &Records, extra: RuleId, count: u64) -> Made<RuleId> {
        let rule = self.rules.rule()?;
        let with_comma = self.rules.sequence(vec![self.comma.clone(), Symbol::Rule(extra)])?;
        let least = records.least.saturating_sub(count);
        let most = records.most.map(|most| most.saturating_sub(count));
        if count > 0 {
            self.rules.way(rule, repeat(with_comma, least, most));
            return Ok(rule);
        }
        if least == 0 {
            self.rules.way(rule, vec![]);
        }
        if most != Some(0) {
            let mut way = vec![Symbol::Rule(extra)];
            way.extend(repeat(with_comma, least.saturating_sub(1), most.map(|most| most - 1)));
            self.rules.way(rule, way);
        }
        Ok(rule)
    }

    /// An entry whose name has no place of its own: a way for each set of patterns that a name may match.
    fn extra(&mut self, records: &Records, entries: &[Entry<'_>]) -> Made<RuleId> {
        let rule = self.rules.rule()?;
        let mut patterns: Vec<&String> = vec![];
        for (expression, _) in records.others.iter().flat_map(|others| &others.patterns) {
            if !patterns.contains(&expression) {
                patterns.push(expression);
            }
        }
        if patterns.len() > MOST_PATTERNS {
            let problem = format!(
                "patternProperties has more than {MOST_PATTERNS} expressions that one name may match"
            );
            return Err(problem.into());
        }
        let taken: Vec<String> =
            entries.iter().map(|entry| format!(r"\x22{}\x22", quoted(entry.name))).collect();
        let names: Vec<Texts> = if records.names.is_empty() {
            vec![Texts::default()]
        } else {
            let allowed = self.reader.alternatives(&records.names)?;
            let texts = allowed.iter().filter_map(|one| match one {
                Alternative::Text(texts) => Some(texts.clone()),
                _ => None,
            });
            texts.collect()
        };
        for set in 0..1usize << patterns.len() {
            let matched = |expression: &String| {
                patterns
                    .iter()
                    .position(|one| *one == expression)
                    .is_some_and(|at| set >> at & 1 == 1)
            };
            let mut value = Conj::new();
            for others in &records.others {
                let mut some = false;
                for (expression, conj) in &others.patterns {
                    if matched(expression) {
                        value.extend(conj);
                        some = true;
                    }
                }
                if !some {
                    value.extend(&others.rest);
                }
            }
            // Most schemas exclude others; nothing is to be made of what they would be called.
            if self.reader.alternatives(&value)?.is_empty() {
                continue;
            }
            for texts in &names {
                let Some(mut key) = string_terminal(texts)? else { continue };
                for expression in &patterns {
                    let Some(pattern) = records.patterns.get(*expression) else { continue };
                    add_pattern(&mut key, &pattern.0, matched(expression))?;
                }
                key.check_width()?;
                if !taken.is_empty() {
                    key.none.push(format!("({})", taken.join("|")));
                }
                let key = self
                    .rules
                    .terminal(key)
                    .map_err(|problem| format!("patternProperties or propertyNames: {problem}"))?;
                let Some(key) = key else { continue };
                let value = self.rule(&value)?;
                self.rules.way(rule, vec![key, self.colon.clone(), Symbol::Rule(value)]);
            }
        }
        Ok(rule)
    }

    fn allows_name(&mut self, records: &Records, name: &str) -> Made<bool> {
        if records.names.is_empty() {
            return Ok(true);
        }
        let mut texts = vec![Alternative::Text(Texts::one(name))];
        for &(id, wanted) in &records.names {
            texts = self.reader.refine(texts, id, wanted)?;
        }
        Ok(texts.iter().any(|one| !super::read::is_none(one)))
    }
}

/// A terminal for JSON strings; `None` if there are none.
fn string_terminal(texts: &Texts) -> Result<Option<Terminal>, String> {
    if let Some(only) = &texts.only {
        let all: Vec<String> = only.iter().map(|text| quoted(text)).collect();
        let terminal = || Terminal::new(format!(r"\x22({})\x22", all.join("|")));
        return Ok((!all.is_empty()).then(terminal));
    }
    let bounds = match (texts.least, texts.most) {
        (0, None) => None,
        (least, most) => {
            Some(format!("{{{least},{}}}", most.map(|most| most.to_string()).unwrap_or_default()))
        }
    };
    let mut terminal = Terminal { all: vec![], none: vec![] };
    for condition in &texts.conditions {
        add_pattern(&mut terminal, &condition.pattern, condition.wanted)?;
    }
    if terminal.all.is_empty() || bounds.is_some() {
        terminal.all.push(format!(r"\x22{CHARACTER}{}\x22", bounds.as_deref().unwrap_or("*")));
    }
    if !texts.except.is_empty() {
        let except: Vec<String> = texts.except.iter().map(|text| quoted(text)).collect();
        terminal.none.push(format!(r"\x22({})\x22", except.join("|")));
    }
    terminal.check_width()?;
    Ok(Some(terminal))
}

/// Asks a string to match, or not to.
fn add_pattern(terminal: &mut Terminal, pattern: &Pattern, wanted: bool) -> Result<(), String> {
    let quoted = |pattern: &Pattern| format!(r"\x22{}\x22", pattern.quoted);
    if !wanted {
        if !pattern.also.is_empty() {
            return Err(
                "an expression that looks ahead must not match here, which cannot be followed"
                    .into(),
            );
        }
        terminal.none.push(quoted(pattern));
        return Ok(());
    }
    terminal.all.push(quoted(pattern));
    for (also, wanted) in &pattern.also {
        if *wanted { terminal.all.push(quoted(also)) } else { terminal.none.push(quoted(also)) }
    }
    Ok(())
}

/// A rule so many times, unless that is never.
fn repeat(rule: RuleId, least: u64, most: Option<u64>) -> Vec<Symbol> {
    if most == Some(0) { vec![] } else { vec![Symbol::Repeat(rule, least, most)] }
}

/// The least common multiple of two steps, each digits and a power of ten.
fn least_common(a: (u64, i32), b: (u64, i32)) -> Option<(u64, i32)> {
    let power = a.1.min(b.1);
    let up = |(digits, own): (u64, i32)| {
        digits.checked_mul(10u64.checked_pow(u32::try_from(own - power).ok()?)?)
    };
    let (a, b) = (up(a)?, up(b)?);
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    let mut digits = (a / x).checked_mul(b)?;
    let mut power = power;
    while digits % 10 == 0 && digits > 0 {
        digits /= 10;
        power += 1;
    }
    Some((digits, power))
}
