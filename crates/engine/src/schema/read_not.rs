//! What does not satisfy a schema: what breaks one of its keywords.

use serde_json::{Map, Value};

use super::Refusal;
use super::alternatives::{Alternative, Items, Records, constant};
use super::read::{
    Conj, Reader, Reading, count, keywords, list, not, number_change, only, shown, types,
};
use super::record::names_of;

type Alternatives = Vec<Alternative>;

impl<'a> Reader<'a> {
    pub(super) fn negative(
        &mut self,
        found: Alternatives,
        of: &Reading<'a>,
    ) -> Result<Alternatives, Refusal> {
        let node = of.node.clone();
        let Value::Object(fields) = node.value() else { return Ok(vec![]) };
        let mut out = vec![];
        for (key, value) in keywords(fields, node.draft) {
            self.charge(Alternative::sizes(&found), &node)?;
            let mut found = found.clone();
            if let Some(types) = of_types(key) {
                // Others satisfy it.
                found.retain(|one| types.iter().any(|name| one.is(name)));
            }
            if found.is_empty() {
                continue;
            }
            out.extend(self.broken(found, of, fields, key, value)?);
        }
        Ok(out)
    }

    fn broken(
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
                return self.refine(found, target, false);
            }
            "allOf" => {
                let mut any = vec![];
                for index in 0..list(node, key, value)? {
                    let path = [key, &*index.to_string()];
                    any.extend(self.refine_inside(found.clone(), of, &path, false)?);
                }
                return Ok(any);
            }
            "anyOf" => {
                for index in 0..list(node, key, value)? {
                    found = self.refine_inside(found, of, &[key, &index.to_string()], false)?;
                }
            }
            "oneOf" => return self.none_of(found, of, list(node, key, value)?),
            "not" => return self.refine_inside(found, of, &[key], true),
            "if" => {
                let mut out = vec![];
                for (branch, holds) in [("then", true), ("else", false)] {
                    if fields.contains_key(branch) {
                        let inner = self.refine_inside(found.clone(), of, &["if"], holds)?;
                        out.extend(self.refine_inside(inner, of, &[branch], false)?);
                    }
                }
                return Ok(out);
            }
            "type" => {
                let mut types = types(node, value)?;
                if fields.get("nullable") == Some(&Value::Bool(true)) {
                    types.push("null");
                }
                found.retain(|one| !types.iter().any(|name| one.is(name)));
                if types.contains(&"integer") {
                    for one in &mut found {
                        if let Alternative::Number(numbers) = one {
                            if numbers.whole == Some(true) {
                                numbers.only(vec![]);
                            }
                            numbers.whole = Some(false);
                        }
                    }
                }
            }
            "const" => return self.no_constant(found, of, key, value),
            "enum" => {
                for value in value.as_array().into_iter().flatten() {
                    found = self.no_constant(found, of, key, value)?;
                }
            }
            "minLength" | "maxLength" | "pattern" | "format" => {
                let Some(change) = self.text_change(of, key, value)? else { return Ok(vec![]) };
                for one in &mut found {
                    if let Alternative::Text(texts) = one {
                        change.apply(texts, false);
                    }
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                let Some(change) = number_change(node, fields, key, value)? else {
                    return Ok(vec![]);
                };
                for one in &mut found {
                    if let Alternative::Number(numbers) = one {
                        change.apply(numbers, false);
                    }
                }
            }
            "minItems" | "maxItems" | "items" | "contains" | "uniqueItems" => {
                return self.broken_list(found, of, fields, key, value);
            }
            "minProperties" | "maxProperties" | "required" | "properties" | "propertyNames"
            | "dependentRequired" | "dependentSchemas" | "dependencies" => {
                return self.broken_record(found, of, fields, key, value);
            }
            "unevaluatedProperties" | "unevaluatedItems" => {
                if *value != Value::Bool(true) {
                    return Err(node.refuse(format!(
                        "{key} inside not (or what needs it) cannot be followed"
                    )));
                }
                return Ok(vec![]);
            }
            // An annotation cannot be broken.
            _ => return Ok(vec![]),
        }
        Ok(found)
    }

    /// Not exactly one: none, where no two can match.
    fn none_of(
        &mut self,
        mut found: Alternatives,
        of: &Reading<'a>,
        count: usize,
    ) -> Result<Alternatives, Refusal> {
        let mut ids = vec![];
        for index in 0..count {
            ids.push(self.document.inside(&of.node, &["oneOf", &index.to_string()])?);
        }
        for (index, &a) in ids.iter().enumerate() {
            for &b in &ids[index + 1..] {
                let both = self.refine(found.clone(), a, true)?;
                let both = self.refine(both, b, true)?;
                if self.some_value(&both, 3)? {
                    return Err(of.node.refuse("oneOf inside not (or what needs it), with schemas that overlap, cannot be followed"));
                }
            }
        }
        for id in ids {
            found = self.refine(found, id, false)?;
        }
        Ok(found)
    }

    fn no_constant(
        &mut self,
        found: Alternatives,
        of: &Reading<'a>,
        key: &str,
        value: &Value,
    ) -> Result<Alternatives, Refusal> {
        let number =
            constant(value).map_err(|problem| of.node.refuse(format!("{key}: {problem}")))?;
        let mut out = vec![];
        for one in found {
            match (one, value) {
                (Alternative::Null, Value::Null) => {}
                (Alternative::Bool(a), Value::Bool(b)) if a == *b => {}
                (Alternative::Number(mut own), Value::Number(_)) => {
                    own.except.extend(number.clone());
                    self.put(&mut out, Alternative::Number(own), of)?;
                }
                (Alternative::Text(mut own), Value::String(text)) => {
                    own.except.insert(text.clone());
                    own.settle();
                    self.put(&mut out, Alternative::Text(own), of)?;
                }
                (Alternative::List(own), Value::Array(items)) => {
                    let count = items.len() as u64;
                    let mut shorter = own.clone();
                    let mut longer = own.clone();
                    longer.least = longer.least.max(count + 1);
                    self.put(&mut out, Alternative::List(longer), of)?;
                    if let Some(most) = count.checked_sub(1) {
                        shorter.most = Some(shorter.most.map_or(most, |old| old.min(most)));
                        self.put(&mut out, Alternative::List(shorter), of)?;
                    }
                    for (index, item) in items.iter().enumerate() {
                        let mut other = own.clone();
                        other.least = other.least.max(index as u64 + 1);
                        let mut first = vec![Conj::new(); index];
                        first.push(self.negated_constant(item, of));
                        other.items.push(Items { first, rest: Conj::new() });
                        self.put(&mut out, Alternative::List(other), of)?;
                    }
                }
                (Alternative::Record(own), Value::Object(entries)) => {
                    let count = entries.len() as u64;
                    for (name, value) in entries {
                        let mut without = own.clone();
                        without.property(name, &only(self.never));
                        self.put(&mut out, Alternative::Record(without), of)?;
                        let mut other = own.clone();
                        other.require([name]);
                        let negated = self.negated_constant(value, of);
                        other.property(name, &negated);
                        self.put(&mut out, Alternative::Record(other), of)?;
                    }
                    let mut more = own;
                    more.require(entries.keys());
                    more.least = more.least.max(count + 1);
                    self.put(&mut out, Alternative::Record(more), of)?;
                }
                (one, _) => out.push(one),
            }
        }
        Ok(out)
    }

    fn negated_constant(&mut self, value: &Value, of: &Reading<'a>) -> Conj {
        let schema = Map::from_iter([("const".to_owned(), value.clone())]);
        not(self.document.make(Value::Object(schema), &of.node))
    }

    fn broken_list(
        &mut self,
        found: Alternatives,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        key: &str,
        value: &Value,
    ) -> Result<Alternatives, Refusal> {
        let node = &of.node;
        let mut out = vec![];
        for one in found {
            let Alternative::List(own) = one else { continue };
            match key {
                "minItems" => {
                    if let Some(most) = count(node, key, value)?.checked_sub(1) {
                        let mut own = own;
                        own.most = Some(own.most.map_or(most, |old| old.min(most)));
                        self.put(&mut out, Alternative::List(own), of)?;
                    }
                }
                "maxItems" => {
                    let mut own = own;
                    own.least = own.least.max(count(node, key, value)?.saturating_add(1));
                    self.put(&mut out, Alternative::List(own), of)?;
                }
                "contains" => {
                    let contains = self.contains_of(of, fields)?;
                    if contains.most.is_some() || contains.least != 1 {
                        return Err(node.refuse("minContains and maxContains inside not (or what needs it) cannot be followed"));
                    }
                    let mut own = own;
                    own.items.push(Items { first: vec![], rest: contains.other });
                    self.put(&mut out, Alternative::List(own), of)?;
                }
                "items" => {
                    let items = self.items_of(of, fields)?;
                    for (index, conj) in items.first.iter().enumerate() {
                        let mut other = own.clone();
                        other.least = other.least.max(index as u64 + 1);
                        let mut first = vec![Conj::new(); index];
                        first.push(negated(conj));
                        other.items.push(Items { first, rest: Conj::new() });
                        self.put(&mut out, Alternative::List(other), of)?;
                    }
                    let places = items.first.len();
                    match self.trivial(&items.rest) {
                        Some(true) => {}
                        Some(false) => {
                            let mut longer = own.clone();
                            longer.least = longer.least.max(places as u64 + 1);
                            self.put(&mut out, Alternative::List(longer), of)?;
                        }
                        None if places == 0 => {
                            let mut other = own.clone();
                            other.contains.push(super::alternatives::Contains {
                                kind: negated(&items.rest),
                                least: 1,
                                most: None,
                                other: items.rest.clone(),
                            });
                            self.put(&mut out, Alternative::List(other), of)?;
                        }
                        None => return Err(node.refuse(
                            "items after others inside not (or what needs it) cannot be followed",
                        )),
                    }
                }
                _ if *value == Value::Bool(false) => {}
                _ => {
                    return Err(
                        node.refuse("uniqueItems inside not (or what needs it) cannot be followed")
                    );
                }
            }
        }
        Ok(out)
    }

    fn broken_record(
        &mut self,
        found: Alternatives,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        key: &str,
        value: &Value,
    ) -> Result<Alternatives, Refusal> {
        let node = &of.node;
        let never = only(self.never);
        let mut out = vec![];
        for one in found {
            let Alternative::Record(own) = one else { continue };
            match key {
                "minProperties" => {
                    if let Some(most) = count(node, key, value)?.checked_sub(1) {
                        let mut own = own;
                        own.most = Some(own.most.map_or(most, |old| old.min(most)));
                        self.put(&mut out, Alternative::Record(own), of)?;
                    }
                }
                "maxProperties" => {
                    let mut own = own;
                    own.least = own.least.max(count(node, key, value)?.saturating_add(1));
                    self.put(&mut out, Alternative::Record(own), of)?;
                }
                "required" => {
                    for name in names_of(of, key, value)? {
                        let mut own = own.clone();
                        own.property(&name, &never);
                        self.put(&mut out, Alternative::Record(own), of)?;
                    }
                }
                "dependentRequired" | "dependentSchemas" | "dependencies" => {
                    let Value::Object(entries) = value else {
                        return Err(
                            node.refuse(format!("{key} is {}, expected an object", shown(value)))
                        );
                    };
                    for (name, wanted) in entries {
                        let mut with = own.clone();
                        with.require([name]);
                        if wanted.is_array() {
                            for needed in names_of(of, key, wanted)? {
                                let mut with = with.clone();
                                with.property(&needed, &never);
                                self.put(&mut out, Alternative::Record(with), of)?;
                            }
                        } else {
                            let with = vec![Alternative::Record(with)];
                            out.extend(self.refine_inside(with, of, &[key, name], false)?);
                        }
                    }
                }
                "properties" => {
                    let (named, others, patterns) = self.properties_of(of, fields)?;
                    for (name, conj) in &named {
                        let mut own = own.clone();
                        own.require([name]);
                        own.property(name, &negated(conj));
                        self.put(&mut out, Alternative::Record(own), of)?;
                    }
                    let patterned = others.patterns.iter().map(|(_, conj)| conj);
                    if patterned.chain([&others.rest]).all(|conj| self.trivial(conj) == Some(true))
                    {
                        continue;
                    }
                    // Other names can be asked about one by one where there are only so many.
                    let closed = own.others.iter().find(|others| {
                        self.trivial(&others.rest) == Some(false) && others.patterns.is_empty()
                    });
                    let Some(closed) = closed else {
                        return Err(node.refuse(
                            "additionalProperties or patternProperties inside not (or what needs it) cannot be followed",
                        ));
                    };
                    let mut asked = Records { others: vec![others], ..Records::default() };
                    asked.patterns.extend(patterns);
                    for name in &closed.named {
                        for &(id, wanted) in &asked.value(name) {
                            let mut own = own.clone();
                            own.require([name]);
                            own.property(name, &Conj::from([(id, !wanted)]));
                            self.put(&mut out, Alternative::Record(own), of)?;
                        }
                    }
                }
                _ => {
                    let id = self.document.inside(node, &[key])?;
                    if self.trivial(&only(id)) != Some(true) {
                        return Err(node.refuse(
                            "propertyNames inside not (or what needs it) cannot be followed",
                        ));
                    }
                }
            }
        }
        Ok(out)
    }

    /// Whether a set of schemas plainly accepts everything, or nothing.
    fn trivial(&self, conj: &Conj) -> Option<bool> {
        let mut all = Some(true);
        for &(id, wanted) in conj {
            match self.document.node(id).value() {
                Value::Bool(accepts) if *accepts != wanted => return Some(false),
                Value::Bool(_) => {}
                Value::Object(fields) if fields.is_empty() && wanted => {}
                _ => all = None,
            }
        }
        all
    }
}

/// The opposite of a set of one schema.
fn negated(conj: &Conj) -> Conj {
    conj.iter().map(|&(id, wanted)| (id, !wanted)).collect()
}

/// The types that a keyword says something of; `None` for all.
fn of_types(key: &str) -> Option<&'static [&'static str]> {
    Some(match key {
        "minLength" | "maxLength" | "pattern" | "format" => &["string"],
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
            &["number"]
        }
        "minItems" | "maxItems" | "items" | "contains" | "uniqueItems" | "unevaluatedItems" => {
            &["array"]
        }
        "minProperties"
        | "maxProperties"
        | "required"
        | "properties"
        | "propertyNames"
        | "dependentRequired"
        | "dependentSchemas"
        | "dependencies"
        | "unevaluatedProperties" => &["object"],
        _ => return None,
    })
}
