//! From schemas to alternatives.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::alternatives::{
    Alternative, Condition, Contains, Items, Numbers, Others, Texts, constant,
};
use super::document::{Document, Draft, Node, NodeId};
use super::number::Decimal;
use super::pattern::Pattern;
use super::{Refusal, cut};

/// Parts of alternatives ([`Alternative::size`]) that are looked at for one schema, all together. Each is copied
/// at most once, so it bounds the memory as well as the time.
const MOST_WORK: usize = 1_000_000;

/// Schemas that stand inside each other for the same value.
const DEEPEST: usize = 200;

/// Schemas that a value must satisfy (`true`) or must not (`false`), all of them.
pub(super) type Conj = BTreeSet<(NodeId, bool)>;

/// One schema, as it is.
pub(super) fn only(id: NodeId) -> Conj {
    Conj::from([(id, true)])
}

/// One schema, negated.
pub(super) fn not(id: NodeId) -> Conj {
    Conj::from([(id, false)])
}

/// Reads schemas.
pub(super) struct Reader<'a> {
    pub document: Document<'a>,
    known: HashMap<Conj, Rc<Vec<Alternative>>>,
    patterns: HashMap<String, Rc<Pattern>>,
    trail: Vec<(NodeId, bool)>,
    work: usize,
    /// A schema that accepts nothing.
    pub never: NodeId,
}

/// A schema that is being read.
pub(super) struct Reading<'a> {
    pub node: Rc<Node<'a>>,
}

type Alternatives = Vec<Alternative>;

impl<'a> Reader<'a> {
    pub fn new(root: &'a Value) -> Result<(Self, NodeId), Refusal> {
        let (mut document, id) = Document::new(root)?;
        let node = document.node(id);
        let never = document.make(Value::Bool(false), &node);
        let reader = Self {
            document,
            known: HashMap::new(),
            patterns: HashMap::new(),
            trail: vec![],
            work: 0,
            never,
        };
        Ok((reader, id))
    }

    /// What values that satisfy all of `conj` are like.
    pub fn alternatives(&mut self, conj: &Conj) -> Result<Rc<Alternatives>, Refusal> {
        if let Some(known) = self.known.get(conj) {
            return Ok(known.clone());
        }
        let mut alternatives = Alternative::all();
        // A set is read on its own, whatever led to it.
        let trail = std::mem::take(&mut self.trail);
        let read = conj.iter().try_for_each(|&(id, wanted)| {
            alternatives = self.refine(std::mem::take(&mut alternatives), id, wanted)?;
            Ok(())
        });
        self.trail = trail;
        read?;
        let node = self.document.node(conj.iter().next_back().map_or(0, |(id, _)| *id));
        let mut different: Alternatives = vec![];
        for one in alternatives {
            if is_none(&one) {
                continue;
            }
            // Each is compared with those before it.
            self.charge(different.len() / 8, &node)?;
            if !different.contains(&one) {
                different.push(one);
            }
        }
        let made = Rc::new(different);
        self.known.insert(conj.clone(), made.clone());
        Ok(made)
    }

    /// Those of the alternatives that satisfy a schema, or do not.
    pub fn refine(
        &mut self,
        alternatives: Alternatives,
        id: NodeId,
        wanted: bool,
    ) -> Result<Alternatives, Refusal> {
        let node = self.document.node(id);
        self.charge(Alternative::sizes(&alternatives), &node)?;
        if alternatives.is_empty() {
            return Ok(alternatives);
        }
        if self.trail.contains(&(id, wanted)) {
            return Err(node.refuse("$ref: it leads back to itself without anything in between"));
        }
        if self.trail.len() >= DEEPEST {
            return Err(node.refuse(format!("more than {DEEPEST} schemas for one value")));
        }
        self.trail.push((id, wanted));
        let reading = Reading { node };
        let refined = match reading.node.value() {
            Value::Bool(accepts) => Ok(if *accepts == wanted { alternatives } else { vec![] }),
            Value::Object(_) if wanted => self.positive(alternatives, &reading),
            Value::Object(_) => self.negative(alternatives, &reading),
            other => {
                let found = shown(other);
                Err(reading.node.refuse(format!("it is {found}, expected an object or a boolean")))
            }
        };
        self.trail.pop();
        refined
    }

    /// Counts parts of alternatives that are looked at or copied.
    ///
    /// # Errors
    /// If they are too many, with those before them.
    pub fn charge(&mut self, parts: usize, node: &Node<'_>) -> Result<(), Refusal> {
        self.work += 1 + parts;
        if self.work > MOST_WORK {
            return Err(node.refuse("the schema has too many alternatives to follow"));
        }
        Ok(())
    }

    /// Adds one to alternatives that are made of others.
    pub fn put(
        &mut self,
        out: &mut Alternatives,
        one: Alternative,
        of: &Reading<'a>,
    ) -> Result<(), Refusal> {
        self.charge(one.size(), &of.node)?;
        out.push(one);
        Ok(())
    }

    /// The same for a schema inside the one that is being read.
    pub fn refine_inside(
        &mut self,
        alternatives: Alternatives,
        of: &Reading<'a>,
        path: &[&str],
        wanted: bool,
    ) -> Result<Alternatives, Refusal> {
        let id = self.document.inside(&of.node, path)?;
        self.refine(alternatives, id, wanted)
    }

    pub fn pattern(
        &mut self,
        expression: &str,
        of: &Node<'_>,
        keyword: &str,
    ) -> Result<Rc<Pattern>, Refusal> {
        if let Some(known) = self.patterns.get(expression) {
            return Ok(known.clone());
        }
        let made = Pattern::new(expression).map_err(|problem| {
            of.refuse(format!("{keyword} {}: {problem}", shown(&Value::from(expression))))
        })?;
        let made = Rc::new(made);
        self.patterns.insert(expression.to_owned(), made.clone());
        Ok(made)
    }

    fn positive(
        &mut self,
        mut found: Alternatives,
        of: &Reading<'a>,
    ) -> Result<Alternatives, Refusal> {
        let node = of.node.clone();
        let Value::Object(fields) = node.value() else { return Ok(found) };
        for (key, value) in keywords(fields, node.draft) {
            found = self.keyword(found, of, fields, key, value)?;
            if found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    fn keyword(
        &mut self,
        mut found: Alternatives,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        key: &str,
        value: &Value,
    ) -> Result<Alternatives, Refusal> {
        let node = &of.node;
        match key {
            "$ref" | "$dynamicRef" | "$recursiveRef" => {
                let target = self.target(node, key, value)?;
                return self.refine(found, target, true);
            }
            "allOf" => {
                for index in 0..list(node, key, value)? {
                    found = self.refine_inside(found, of, &[key, &index.to_string()], true)?;
                }
            }
            "anyOf" => {
                let mut any = vec![];
                for index in 0..list(node, key, value)? {
                    let path = [key, &*index.to_string()];
                    any.extend(self.refine_inside(found.clone(), of, &path, true)?);
                }
                return Ok(any);
            }
            "oneOf" => return self.one_of(found, of, list(node, key, value)?),
            "not" => return self.refine_inside(found, of, &[key], false),
            "if" => {
                if !fields.contains_key("then") && !fields.contains_key("else") {
                    return Ok(found);
                }
                let mut both = self.refine_inside(found.clone(), of, &["if"], true)?;
                if fields.contains_key("then") {
                    both = self.refine_inside(both, of, &["then"], true)?;
                }
                let mut other = self.refine_inside(found, of, &["if"], false)?;
                if fields.contains_key("else") {
                    other = self.refine_inside(other, of, &["else"], true)?;
                }
                both.extend(other);
                return Ok(both);
            }
            "type" => {
                let mut types = types(node, value)?;
                if fields.get("nullable") == Some(&Value::Bool(true)) {
                    // OpenAPI 3.0.
                    types.push("null");
                }
                found.retain(|one| {
                    types.iter().any(|name| one.is(name))
                        || (matches!(one, Alternative::Number(_)) && types.contains(&"integer"))
                });
                if !types.contains(&"number") {
                    for one in &mut found {
                        if let Alternative::Number(numbers) = one {
                            if numbers.whole == Some(false) {
                                numbers.only(vec![]);
                            }
                            numbers.whole = Some(true);
                        }
                    }
                }
            }
            "const" => return self.constants(found, of, key, std::slice::from_ref(value)),
            "enum" => {
                let Value::Array(values) = value else {
                    return Err(node.refuse(format!("enum is {}, expected a list", shown(value))));
                };
                return self.constants(found, of, key, values);
            }
            "minLength" | "maxLength" | "pattern" | "format" => {
                self.text(&mut found, of, key, value)?
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                if let Some(change) = number_change(node, fields, key, value)? {
                    for one in &mut found {
                        if let Alternative::Number(numbers) = one {
                            change.apply(numbers, true);
                        }
                    }
                }
            }
            "minItems" | "maxItems" | "uniqueItems" | "items" | "contains" => {
                return self.list_keyword(found, of, fields, key, value);
            }
            "properties" | "required" | "minProperties" | "maxProperties" | "propertyNames"
            | "dependentRequired" | "dependentSchemas" | "dependencies" => {
                return self.record_keyword(found, of, fields, key, value);
            }
            "unevaluatedProperties" => {
                return self.unevaluated_properties(found, of, fields, value);
            }
            "unevaluatedItems" => return self.unevaluated_items(found, of, fields, value),
            _ => {}
        }
        Ok(found)
    }

    /// The schema that a reference means.
    pub fn target(&mut self, node: &Node<'a>, key: &str, value: &Value) -> Result<NodeId, Refusal> {
        let Value::String(reference) = value else {
            return Err(node.refuse(format!("{key} is {}, expected a string", shown(value))));
        };
        let target = self.document.resolve(reference, node).map_err(|mut refusal| {
            refusal.problem = refusal.problem.replacen("$ref", key, 1);
            refusal
        })?;
        // A dynamic reference may mean another schema by where it is come from; with one of that name,
        // it cannot.
        let name = match key {
            "$dynamicRef" => reference.rsplit_once('#').map_or("", |(_, name)| name),
            "$recursiveRef" => "",
            _ => return Ok(target),
        };
        let same = self.document.dynamic(name);
        let is_dynamic = same.contains(&target);
        if is_dynamic && same.len() > 1 {
            return Err(node.refuse(format!(
                "{key}: {} schemas have this anchor, and one can be followed",
                same.len()
            )));
        }
        Ok(target)
    }

    /// Exactly one: schemas that exclude each other, or can be told apart.
    fn one_of(
        &mut self,
        found: Alternatives,
        of: &Reading<'a>,
        count: usize,
    ) -> Result<Alternatives, Refusal> {
        let mut ids = vec![];
        for index in 0..count {
            ids.push(self.document.inside(&of.node, &["oneOf", &index.to_string()])?);
        }
        let mut each = vec![];
        for &id in &ids {
            each.push(self.refine(found.clone(), id, true)?);
        }
        let mut out = vec![];
        for (index, own) in each.iter().enumerate() {
            let mut own = own.clone();
            for (other, &id) in ids.iter().enumerate().filter(|(other, _)| *other != index) {
                let both = self.refine(own.clone(), id, true)?;
                if self.some_value(&both, 3)? {
                    own = self.refine(own, id, false).map_err(|refusal| {
                        let problem = format!(
                            "oneOf: values can match both {index} and {other}, and these cannot be told apart ({} at {}); use anyOf, or a const that differs",
                            refusal.problem, refusal.place
                        );
                        of.node.refuse(problem)
                    })?;
                }
            }
            out.extend(own);
        }
        Ok(out)
    }

    /// Whether there may be a value. Looks only so deep, and says yes beyond.
    pub fn some_value(
        &mut self,
        alternatives: &[Alternative],
        depth: usize,
    ) -> Result<bool, Refusal> {
        for one in alternatives {
            let some = match one {
                one if is_none(one) => false,
                _ if depth == 0 => true,
                Alternative::List(lists) => {
                    let mut all = true;
                    for index in 0..(lists.least as usize).min(8) {
                        let inner = self.alternatives(&lists.item(index))?;
                        all &= self.some_value(&inner, depth - 1)?;
                    }
                    all
                }
                Alternative::Record(records) => {
                    let mut all = true;
                    for name in &records.required {
                        let inner = self.alternatives(&records.value(name))?;
                        all &= self.some_value(&inner, depth - 1)?;
                        if !all {
                            break;
                        }
                    }
                    all
                }
                _ => true,
            };
            if some {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those of the alternatives that are one of some values.
    fn constants(
        &mut self,
        found: Alternatives,
        of: &Reading<'a>,
        key: &str,
        values: &[Value],
    ) -> Result<Alternatives, Refusal> {
        bounded(&of.node, key, values.len(), MOST_LISTED)?;
        self.work += values.len() / 8;
        let mut numbers = vec![];
        for value in values {
            let number = constant(value);
            numbers.extend(number.map_err(|problem| of.node.refuse(format!("{key}: {problem}")))?);
        }
        let texts: Vec<String> =
            values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut out = vec![];
        for one in found {
            match one {
                Alternative::Null if values.contains(&Value::Null) => out.push(one),
                Alternative::Bool(value) if values.contains(&Value::Bool(value)) => out.push(one),
                Alternative::Null | Alternative::Bool(_) => {}
                Alternative::Number(mut own) => {
                    own.only(numbers.clone());
                    out.push(Alternative::Number(own));
                }
                Alternative::Text(mut own) => {
                    own.only(texts.clone());
                    out.push(Alternative::Text(own));
                }
                Alternative::List(own) => {
                    for items in values.iter().filter_map(Value::as_array) {
                        let mut own = own.clone();
                        let mut first = vec![];
                        for item in items {
                            first.push(self.made_constant(item, of));
                        }
                        own.least = own.least.max(items.len() as u64);
                        own.most = Some(
                            own.most
                                .map_or(items.len() as u64, |most| most.min(items.len() as u64)),
                        );
                        own.items.push(Items { first, rest: Conj::new() });
                        if own.unique.is_some()
                            && (1..items.len()).any(|at| items[..at].contains(&items[at]))
                        {
                            continue;
                        }
                        own.unique = None;
                        self.put(&mut out, Alternative::List(own), of)?;
                    }
                }
                Alternative::Record(own) => {
                    for entries in values.iter().filter_map(Value::as_object) {
                        let mut own = own.clone();
                        for (name, value) in entries {
                            let conj = self.made_constant(value, of);
                            own.property(name, &conj);
                            own.require([name]);
                        }
                        let named = entries.keys().cloned().collect();
                        own.others.push(Others { named, patterns: vec![], rest: only(self.never) });
                        self.put(&mut out, Alternative::Record(own), of)?;
                    }
                }
            }
        }
        Ok(out)
    }

    fn made_constant(&mut self, value: &Value, of: &Reading<'a>) -> Conj {
        let schema = Map::from_iter([("const".to_owned(), value.clone())]);
        only(self.document.make(Value::Object(schema), &of.node))
    }

    fn text(
        &mut self,
        found: &mut Alternatives,
        of: &Reading<'a>,
        key: &str,
        value: &Value,
    ) -> Result<(), Refusal> {
        let Some(change) = self.text_change(of, key, value)? else { return Ok(()) };
        for one in found {
            if let Alternative::Text(texts) = one {
                change.apply(texts, true);
            }
        }
        Ok(())
    }

    /// What a keyword of strings asks for; `None` if it is an annotation.
    pub fn text_change(
        &mut self,
        of: &Reading<'a>,
        key: &str,
        value: &Value,
    ) -> Result<Option<TextChange>, Refusal> {
        let node = &of.node;
        Ok(Some(match key {
            "minLength" => TextChange::Least(count(node, key, value)?),
            "maxLength" => TextChange::Most(count(node, key, value)?),
            _ => {
                let Value::String(text) = value else {
                    return Err(
                        node.refuse(format!("{key} is {}, expected a string", shown(value)))
                    );
                };
                if key == "pattern" {
                    let pattern = self.pattern(text, node, key)?;
                    TextChange::Condition(Condition { name: text.clone(), pattern, wanted: true })
                } else {
                    let Some(expression) = super::format::expression(text) else { return Ok(None) };
                    let pattern = self.pattern(&expression, node, key)?;
                    TextChange::Condition(Condition { name: expression, pattern, wanted: true })
                }
            }
        }))
    }

    pub fn contains_of(
        &mut self,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
    ) -> Result<Contains, Refusal> {
        let id = self.document.inside(&of.node, &["contains"])?;
        let bound =
            |key: &str| fields.get(key).map(|value| count(&of.node, key, value)).transpose();
        // Older drafts know no bounds.
        let bounded = of.node.draft >= Draft::Draft2019;
        let (least, most) =
            if bounded { (bound("minContains")?, bound("maxContains")?) } else { (None, None) };
        Ok(Contains { kind: only(id), least: least.unwrap_or(1), most, other: not(id) })
    }
}

/// What a keyword asks of strings.
pub(super) enum TextChange {
    Least(u64),
    Most(u64),
    Condition(Condition),
}

impl TextChange {
    /// Asks for it, or for its opposite.
    pub fn apply(&self, texts: &mut Texts, wanted: bool) {
        match (self, wanted) {
            (Self::Least(least), true) => texts.least = texts.least.max(*least),
            (Self::Most(most), false) => texts.least = texts.least.max(most.saturating_add(1)),
            (Self::Most(most), true) => {
                texts.most = Some(texts.most.map_or(*most, |old| old.min(*most)))
            }
            (Self::Least(0), false) => texts.only = Some(vec![]),
            (Self::Least(least), false) => {
                texts.most = Some(texts.most.map_or(least - 1, |old| old.min(least - 1)));
            }
            (Self::Condition(condition), wanted) => {
                let condition = Condition { wanted, ..condition.clone() };
                if !texts.conditions.contains(&condition) {
                    texts.conditions.push(condition);
                }
            }
        }
        texts.settle();
    }
}

/// What a keyword asks of numbers.
pub(super) enum NumberChange {
    Least(Decimal, bool),
    Most(Decimal, bool),
    Step(Decimal),
}

impl NumberChange {
    /// Asks for it, or for its opposite.
    pub fn apply(&self, numbers: &mut Numbers, wanted: bool) {
        match (self, wanted) {
            (Self::Least(bound, strict), true) => numbers.at_least(bound.clone(), *strict),
            (Self::Most(bound, strict), true) => numbers.at_most(bound.clone(), *strict),
            (Self::Least(bound, strict), false) => numbers.at_most(bound.clone(), !strict),
            (Self::Most(bound, strict), false) => numbers.at_least(bound.clone(), !strict),
            (Self::Step(step), wanted) => {
                let step = (step.clone(), wanted);
                if !numbers.steps.contains(&step) {
                    numbers.steps.push(step);
                }
            }
        }
    }
}

/// What a keyword of numbers asks for; `None` if another one says it.
pub(super) fn number_change(
    node: &Node<'_>,
    fields: &Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<Option<NumberChange>, Refusal> {
    // Draft 4 writes exclusive bounds as a flag beside the bound.
    if let (Value::Bool(_), "exclusiveMinimum" | "exclusiveMaximum") = (value, key) {
        return Ok(None);
    }
    let Value::Number(number) = value else {
        return Err(node.refuse(format!("{key} is {}, expected a number", shown(value))));
    };
    let decimal =
        Decimal::new(number).map_err(|problem| node.refuse(format!("{key}: {problem}")))?;
    let flag = |name: &str| fields.get(name) == Some(&Value::Bool(true));
    Ok(Some(match key {
        "minimum" => NumberChange::Least(decimal, flag("exclusiveMinimum")),
        "maximum" => NumberChange::Most(decimal, flag("exclusiveMaximum")),
        "exclusiveMinimum" => NumberChange::Least(decimal, true),
        "exclusiveMaximum" => NumberChange::Most(decimal, true),
        _ => {
            if decimal.is_negative() || decimal.to_string() == "0" {
                return Err(
                    node.refuse(format!("multipleOf is {number}, expected a number above 0"))
                );
            }
            NumberChange::Step(decimal)
        }
    }))
}

/// The keywords of a schema that say something by themselves, in order. Groups are there once, by the
/// name of one of them: properties with `patternProperties` and `additionalProperties`, items with
/// `prefixItems` and `additionalItems`.
pub(super) fn keywords(fields: &Map<String, Value>, draft: Draft) -> Vec<(&str, &Value)> {
    if draft <= Draft::Draft7 && fields.contains_key("$ref") {
        return fields
            .iter()
            .filter(|(key, _)| *key == "$ref")
            .map(|(key, value)| (key.as_str(), value))
            .collect();
    }
    let mut seen: Vec<(&str, &Value)> = vec![];
    let mut last = vec![];
    for (key, value) in fields {
        let name = match key.as_str() {
            "patternProperties" | "additionalProperties" => "properties",
            "prefixItems" | "additionalItems" => "items",
            key => key,
        };
        // These depend on what all the others say.
        if name.starts_with("unevaluated") {
            last.push((name, value));
        } else if !seen.iter().any(|(known, _)| *known == name) {
            seen.push((name, value));
        }
    }
    seen.extend(last);
    seen
}

/// Whether it is clear that there is no such value.
pub(super) fn is_none(one: &Alternative) -> bool {
    match one {
        Alternative::Null | Alternative::Bool(_) => false,
        Alternative::Number(numbers) => numbers.are_none(),
        Alternative::Text(texts) => texts.are_none(),
        Alternative::List(lists) => lists.most.is_some_and(|most| lists.least > most),
        Alternative::Record(records) => {
            records.most.is_some_and(|most| records.least.max(records.required.len() as u64) > most)
        }
    }
}

/// The types that `type` names.
pub(super) fn types<'v>(node: &Node<'_>, value: &'v Value) -> Result<Vec<&'v str>, Refusal> {
    const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];
    let wrong = |found: &Value| {
        let types = TYPES.join(", ");
        node.refuse(format!("type is {}, expected one of {types}, or a list of them", shown(found)))
    };
    let one = |value: &'v Value| {
        value.as_str().filter(|name| TYPES.contains(name)).ok_or_else(|| wrong(value))
    };
    match value {
        Value::Array(names) => names.iter().map(one).collect(),
        name => Ok(vec![one(name)?]),
    }
}

/// Names, values or expressions that one keyword may list.
pub(super) const MOST_LISTED: usize = 5_000;
pub(super) const MOST_EXPRESSIONS: usize = 64;

/// # Errors
/// If a keyword lists more than it may.
pub(super) fn bounded(
    node: &Node<'_>,
    key: &str,
    found: usize,
    most: usize,
) -> Result<(), Refusal> {
    if found <= most {
        return Ok(());
    }
    Err(node.refuse(format!("{key} lists {found}, expected at most {most}")))
}

/// How many schemas a list has.
pub(super) fn list(node: &Node<'_>, key: &str, value: &Value) -> Result<usize, Refusal> {
    match value {
        Value::Array(items) if !items.is_empty() => Ok(items.len()),
        other => Err(node.refuse(format!("{key} is {}, expected a list of schemas", shown(other)))),
    }
}

/// A number of things.
pub(super) fn count(node: &Node<'_>, key: &str, value: &Value) -> Result<u64, Refusal> {
    let whole =
        value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=2e9).contains(number));
    whole.map(|number| number as u64).ok_or_else(|| {
        node.refuse(format!(
            "{key} is {}, expected a whole number of 0 to 2000000000",
            shown(value)
        ))
    })
}

/// A value in an error.
pub(super) fn shown(value: &Value) -> String {
    cut(&value.to_string(), 60)
}
