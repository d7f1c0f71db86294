//! Kinds of values, and what is asked of those of one kind.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value;

use super::number::Decimal;
use super::pattern::Pattern;
use super::read::Conj;

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Alternative {
    Null,
    Bool(bool),
    Number(Numbers),
    Text(Texts),
    List(Lists),
    Record(Records),
}

impl Alternative {
    /// Every value.
    pub fn all() -> Vec<Self> {
        vec![
            Self::Null,
            Self::Bool(true),
            Self::Bool(false),
            Self::Number(Numbers::default()),
            Self::Text(Texts::default()),
            Self::List(Lists::default()),
            Self::Record(Records::default()),
        ]
    }

    /// About how many parts it has: each is some hundred bytes.
    pub fn size(&self) -> usize {
        1 + match self {
            Self::Null | Self::Bool(_) => 0,
            Self::Number(numbers) => {
                numbers.steps.len()
                    + numbers.except.len()
                    + numbers.only.as_ref().map_or(0, Vec::len)
            }
            Self::Text(texts) => {
                texts.conditions.len()
                    + texts.except.len()
                    + texts.only.as_ref().map_or(0, Vec::len)
            }
            Self::List(lists) => {
                let items = lists.items.iter().map(|items| 1 + items.first.len());
                items.sum::<usize>() + 2 * lists.contains.len()
            }
            Self::Record(records) => {
                let others = records.others.iter();
                let others = others.map(|others| 1 + others.named.len() + others.patterns.len());
                records.named.len()
                    + records.required.len()
                    + records.names.len()
                    + records.patterns.len()
                    + others.sum::<usize>()
            }
        }
    }

    /// The same of several.
    pub fn sizes(all: &[Self]) -> usize {
        all.iter().map(Self::size).sum()
    }

    /// Whether `name` is this type, or one that has all of it.
    pub fn is(&self, name: &str) -> bool {
        match self {
            Self::Null => name == "null",
            Self::Bool(_) => name == "boolean",
            Self::Number(_) => name == "number",
            Self::Text(_) => name == "string",
            Self::List(_) => name == "array",
            Self::Record(_) => name == "object",
        }
    }
}

/// An end of a range, and whether it is outside.
pub(super) type Bound = Option<(Decimal, bool)>;

/// Numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Numbers {
    pub whole: Option<bool>,
    pub least: Bound,
    pub most: Bound,
    /// Steps, and whether the number is a multiple or is not.
    pub steps: Vec<(Decimal, bool)>,
    pub only: Option<Vec<Decimal>>,
    pub except: Vec<Decimal>,
}

impl Numbers {
    pub fn at_least(&mut self, bound: Decimal, strict: bool) {
        let tighter = self.least.as_ref().is_none_or(|(old, old_strict)| {
            bound > *old || (bound == *old && strict && !old_strict)
        });
        if tighter {
            self.least = Some((bound, strict));
        }
    }

    pub fn at_most(&mut self, bound: Decimal, strict: bool) {
        let tighter = self.most.as_ref().is_none_or(|(old, old_strict)| {
            bound < *old || (bound == *old && strict && !old_strict)
        });
        if tighter {
            self.most = Some((bound, strict));
        }
    }

    pub fn only(&mut self, values: Vec<Decimal>) {
        match &mut self.only {
            Some(only) => {
                let values: HashSet<_> = values.iter().collect();
                only.retain(|value| values.contains(value));
            }
            None => self.only = Some(values),
        }
    }

    /// Whether a number is one of these; `None` if that takes too many digits to say.
    pub fn has(&self, value: &Decimal) -> Option<bool> {
        let low = self
            .least
            .as_ref()
            .is_none_or(|(bound, strict)| value > bound || (value == bound && !strict));
        let high = self
            .most
            .as_ref()
            .is_none_or(|(bound, strict)| value < bound || (value == bound && !strict));
        let whole = self.whole.is_none_or(|whole| value.is_whole() == whole);
        let listed = self.only.as_ref().is_none_or(|only| only.contains(value));
        let mut all = low && high && whole && listed && !self.except.contains(value);
        for (step, multiple) in &self.steps {
            all &= value.is_multiple_of(step)? == *multiple;
        }
        Some(all)
    }

    /// Whether it is clear that there are none.
    pub fn are_none(&self) -> bool {
        if let Some(only) = &self.only {
            return only.iter().all(|value| self.has(value) == Some(false));
        }
        match (&self.least, &self.most) {
            (Some((least, strict_least)), Some((most, strict_most))) => {
                least > most || (least == most && (*strict_least || *strict_most))
            }
            _ => false,
        }
    }
}

/// Something asked of a string.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// The expression, or the format.
    pub name: String,
    pub pattern: Rc<Pattern>,
    /// Whether it must match, or must not.
    pub wanted: bool,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.wanted == other.wanted
    }
}

/// Strings.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Texts {
    pub only: Option<Vec<String>>,
    pub except: BTreeSet<String>,
    pub conditions: Vec<Condition>,
    pub least: u64,
    pub most: Option<u64>,
}

impl Texts {
    pub fn one(text: &str) -> Self {
        Self { only: Some(vec![text.to_owned()]), ..Self::default() }
    }

    /// Takes out what is listed but not asked for; afterwards only the list counts, if there is one.
    pub fn settle(&mut self) {
        let Some(mut only) = self.only.take() else { return };
        only.retain(|text| {
            let length = text.chars().count() as u64;
            length >= self.least
                && self.most.is_none_or(|most| length <= most)
                && !self.except.contains(text)
                && self.conditions.iter().all(|one| one.pattern.is_match(text) == one.wanted)
        });
        *self = Self { only: Some(only), ..Self::default() };
    }

    pub fn only(&mut self, values: Vec<String>) {
        match &mut self.only {
            Some(only) => {
                let values: HashSet<_> = values.iter().collect();
                only.retain(|value| values.contains(value));
            }
            None => self.only = Some(values),
        }
        self.settle();
    }

    /// Whether it is clear that there are none.
    pub fn are_none(&self) -> bool {
        self.only.as_ref().is_some_and(Vec::is_empty)
            || self.most.is_some_and(|most| self.least > most)
    }
}

/// What items of an array must be, by place.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Items {
    pub first: Vec<Conj>,
    pub rest: Conj,
}

/// How many items must be of a kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contains {
    pub kind: Conj,
    pub least: u64,
    pub most: Option<u64>,
    /// The same, negated.
    pub other: Conj,
}

/// Arrays.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Lists {
    pub items: Vec<Items>,
    pub least: u64,
    pub most: Option<u64>,
    pub contains: Vec<Contains>,
    /// The place of the schema that wants items to be different.
    pub unique: Option<String>,
}

impl Lists {
    /// What the item at a place must be.
    pub fn item(&self, index: usize) -> Conj {
        let of = |items: &Items| items.first.get(index).unwrap_or(&items.rest).clone();
        self.items.iter().flat_map(of).collect()
    }

    /// What items behind all that have a place of their own must be.
    pub fn rest(&self) -> Conj {
        self.items.iter().flat_map(|items| items.rest.clone()).collect()
    }

    /// Items with a place of their own.
    pub fn places(&self) -> usize {
        self.items.iter().map(|items| items.first.len()).max().unwrap_or(0)
    }
}

/// What one schema says of properties that it does not name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Others {
    pub named: Vec<String>,
    pub patterns: Vec<(String, Conj)>,
    pub rest: Conj,
}

/// Objects.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Records {
    /// In the order in which they are written.
    pub named: Vec<(String, Conj)>,
    pub required: Vec<String>,
    pub others: Vec<Others>,
    /// What names must be.
    pub names: Conj,
    pub least: u64,
    pub most: Option<u64>,
    /// By expression.
    pub patterns: BTreeMap<String, Shared>,
}

/// A pattern, compared by what it was made from.
#[derive(Debug, Clone)]
pub(super) struct Shared(pub Rc<Pattern>);

impl PartialEq for Shared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A property with a place of its own.
pub(super) struct Entry<'r> {
    pub name: &'r str,
    /// All that is asked of its value.
    pub value: Conj,
    pub required: bool,
}

impl Records {
    /// Asks something of a property.
    pub fn property(&mut self, name: &str, conj: &Conj) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.extend(conj),
            None => self.named.push((name.to_owned(), conj.clone())),
        }
    }

    /// Asks something of many properties.
    pub fn properties(&mut self, all: &[(String, Conj)]) {
        let mut places: HashMap<String, usize> =
            self.named.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        for (name, conj) in all {
            match places.get(name) {
                Some(&at) => self.named[at].1.extend(conj),
                None => {
                    places.insert(name.clone(), self.named.len());
                    self.named.push((name.clone(), conj.clone()));
                }
            }
        }
    }

    /// Asks for properties.
    pub fn require<'n>(&mut self, names: impl IntoIterator<Item = &'n String>) {
        let mut known: HashSet<String> = self.required.iter().cloned().collect();
        for name in names {
            if known.insert(name.clone()) {
                self.required.push(name.clone());
            }
        }
    }

    /// All that is asked of a property's value.
    pub fn value(&self, name: &str) -> Conj {
        let own = self.named.iter().find(|(known, _)| known == name);
        let names = |others: &Others| others.named.iter().any(|known| known == name);
        self.value_of(name, own.map(|(_, conj)| conj), |at| names(&self.others[at]))
    }

    /// The same of one about which it is known what asks for it by name.
    fn value_of(&self, name: &str, own: Option<&Conj>, named: impl Fn(usize) -> bool) -> Conj {
        let mut conj = own.cloned().unwrap_or_default();
        for (at, others) in self.others.iter().enumerate() {
            let mut matched = named(at);
            for (expression, wanted) in &others.patterns {
                if self.patterns.get(expression).is_some_and(|one| one.0.is_match(name)) {
                    conj.extend(wanted);
                    matched = true;
                }
            }
            if !matched {
                conj.extend(&others.rest);
            }
        }
        conj
    }

    /// Properties with a place of their own: those of the schema, then those that are only required.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let own: HashMap<&str, &Conj> =
            self.named.iter().map(|(name, conj)| (name.as_str(), conj)).collect();
        let required: HashSet<&str> = self.required.iter().map(String::as_str).collect();
        let named = self.others.iter().map(|others| others.named.iter().map(String::as_str));
        let named: Vec<HashSet<&str>> = named.map(Iterator::collect).collect();
        let names = self.named.iter().map(|(name, _)| name.as_str());
        let only_required = self.required.iter().map(String::as_str);
        let names = names.chain(only_required.filter(|name| !own.contains_key(name)));
        let entry = |name: &'_ str| {
            self.value_of(name, own.get(name).copied(), |at| named[at].contains(name))
        };
        names
            .map(|name| Entry { name, value: entry(name), required: required.contains(name) })
            .collect()
    }
}

/// A constant's number, if it is one that is known exactly.
pub(super) fn constant(value: &Value) -> Result<Option<Decimal>, String> {
    let Value::Number(number) = value else { return Ok(None) };
    let decimal = Decimal::new(number)?;
    if number.is_f64() && decimal.is_beyond_64_bits() {
        return Err(format!("{number} is beyond 64 bits, where numbers are not known exactly"));
    }
    Ok(Some(decimal))
}
