//! Keywords of objects.

use serde_json::{Map, Value};

use super::Refusal;
use super::alternatives::{Alternative, Others, Records, Shared};
use super::read::{
    Conj, MOST_EXPRESSIONS, MOST_LISTED, Reader, Reading, bounded, count, only, shown,
};

impl<'a> Reader<'a> {
    pub(super) fn record_keyword(
        &mut self,
        mut found: Vec<Alternative>,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        key: &str,
        value: &Value,
    ) -> Result<Vec<Alternative>, Refusal> {
        let node = &of.node;
        let change: Box<dyn Fn(&mut Records)> = match key {
            "minProperties" => {
                let least = count(node, key, value)?;
                Box::new(move |records| records.least = records.least.max(least))
            }
            "maxProperties" => {
                let most = count(node, key, value)?;
                Box::new(move |records| {
                    records.most = Some(records.most.map_or(most, |old| old.min(most)));
                })
            }
            "required" => {
                // Draft 3 and clients that mix it up write it at the property; there it says nothing.
                let names = names_of(of, key, value)?;
                Box::new(move |records| records.require(&names))
            }
            "propertyNames" => {
                let id = self.document.inside(node, &[key])?;
                Box::new(move |records| records.names.extend(only(id)))
            }
            "dependentRequired" | "dependentSchemas" | "dependencies" => {
                let Value::Object(entries) = value else {
                    return Err(
                        node.refuse(format!("{key} is {}, expected an object", shown(value)))
                    );
                };
                for (name, wanted) in entries {
                    self.charge(Alternative::sizes(&found), node)?;
                    let (mut with, mut without) = (found.clone(), found);
                    let never = only(self.never);
                    on_records(&mut without, |records| records.property(name, &never));
                    on_records(&mut with, |records| records.require([name]));
                    with.retain(|one| matches!(one, Alternative::Record(_)));
                    if wanted.is_array() {
                        let needed = names_of(of, key, wanted)?;
                        on_records(&mut with, |records| records.require(&needed));
                    } else {
                        with = self.refine_inside(with, of, &[key, name], true)?;
                    }
                    without.extend(with);
                    found = without;
                }
                return Ok(found);
            }
            _ => {
                let (named, others, patterns) = self.properties_of(of, fields)?;
                Box::new(move |records| {
                    records.properties(&named);
                    if !others.patterns.is_empty() || !others.rest.is_empty() {
                        records.others.push(others.clone());
                    }
                    records.patterns.extend(patterns.iter().cloned());
                })
            }
        };
        on_records(&mut found, change);
        Ok(found)
    }

    /// What `properties`, `patternProperties` and `additionalProperties` say.
    #[allow(clippy::type_complexity, reason = "three lists that belong together")]
    pub(super) fn properties_of(
        &mut self,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
    ) -> Result<(Vec<(String, Conj)>, Others, Vec<(String, Shared)>), Refusal> {
        let node = &of.node;
        let entries = |key: &str| match fields.get(key) {
            None => Ok(vec![]),
            Some(Value::Object(entries)) => {
                let most = if key == "properties" { MOST_LISTED } else { MOST_EXPRESSIONS };
                bounded(node, key, entries.len(), most)?;
                Ok(entries.keys().cloned().collect::<Vec<_>>())
            }
            Some(other) => {
                Err(node.refuse(format!("{key} is {}, expected an object", shown(other))))
            }
        };
        let mut named = vec![];
        for name in entries("properties")? {
            let id = self.document.inside(node, &["properties", &name])?;
            named.push((name, only(id)));
        }
        let mut others = Others {
            named: named.iter().map(|(name, _)| name.clone()).collect(),
            ..Others::default()
        };
        let mut patterns = vec![];
        for expression in entries("patternProperties")? {
            let pattern = self.pattern(&expression, node, "patternProperties")?;
            patterns.push((expression.clone(), Shared(pattern)));
            let id = self.document.inside(node, &["patternProperties", &expression])?;
            others.patterns.push((expression, only(id)));
        }
        if fields.contains_key("additionalProperties") {
            others.rest = only(self.document.inside(node, &["additionalProperties"])?);
        }
        Ok((named, others, patterns))
    }

    /// `unevaluatedProperties`, where it is clear which properties other keywords look at.
    pub(super) fn unevaluated_properties(
        &mut self,
        mut found: Vec<Alternative>,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        value: &Value,
    ) -> Result<Vec<Alternative>, Refusal> {
        if *value == Value::Bool(true) {
            return Ok(found);
        }
        let mut seen = Others::default();
        let mut patterns = vec![];
        if !self.seen_properties(of, fields, &mut seen, &mut patterns, 0)? {
            return Ok(found);
        }
        seen.rest = only(self.document.inside(&of.node, &["unevaluatedProperties"])?);
        on_records(&mut found, |records| {
            records.others.push(seen.clone());
            records.patterns.extend(patterns.iter().cloned());
        });
        Ok(found)
    }

    /// Collects the properties that are looked at; `false` if it is all of them.
    fn seen_properties(
        &mut self,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        seen: &mut Others,
        patterns: &mut Vec<(String, Shared)>,
        depth: usize,
    ) -> Result<bool, Refusal> {
        let refuse = |key: &str| {
            of.node.refuse(format!("unevaluatedProperties beside {key} cannot be followed"))
        };
        if depth > 16 {
            return Err(refuse("recursion"));
        }
        for (key, value) in super::read::keywords(fields, of.node.draft) {
            match key {
                "properties" => {
                    let (named, others, new) = self.properties_of(of, fields)?;
                    if fields.contains_key("additionalProperties") {
                        return Ok(false);
                    }
                    seen.named.extend(named.into_iter().map(|(name, _)| name));
                    // What they ask for is asked where they stand.
                    seen.patterns
                        .extend(others.patterns.into_iter().map(|(one, _)| (one, Conj::new())));
                    patterns.extend(new);
                }
                "unevaluatedProperties" if depth > 0 => return Ok(false),
                "anyOf" | "oneOf" | "if" | "dependentSchemas" | "dependencies" | "$dynamicRef"
                | "$recursiveRef" => return Err(refuse(key)),
                "$ref" => {
                    let target = self.target(&of.node, key, value)?;
                    let reading = Reading { node: self.document.node(target) };
                    if let Value::Object(fields) = reading.node.clone().value()
                        && !self.seen_properties(&reading, fields, seen, patterns, depth + 1)?
                    {
                        return Ok(false);
                    }
                }
                "allOf" => {
                    for index in 0..super::read::list(&of.node, key, value)? {
                        let id = self.document.inside(&of.node, &[key, &index.to_string()])?;
                        let reading = Reading { node: self.document.node(id) };
                        if let Value::Object(fields) = reading.node.clone().value()
                            && !self.seen_properties(&reading, fields, seen, patterns, depth + 1)?
                        {
                            return Ok(false);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(true)
    }
}

fn on_records(found: &mut [Alternative], change: impl Fn(&mut Records)) {
    for one in found {
        if let Alternative::Record(records) = one {
            change(records);
        }
    }
}

pub(super) fn names_of(of: &Reading<'_>, key: &str, value: &Value) -> Result<Vec<String>, Refusal> {
    let all = value.as_array().and_then(|names| {
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    match (all, value) {
        (Some(names), _) => {
            bounded(&of.node, key, names.len(), MOST_LISTED)?;
            Ok(names)
        }
        (None, Value::Bool(_)) if key == "required" => Ok(vec![]),
        (None, Value::String(name)) if key == "dependencies" => Ok(vec![name.clone()]),
        (None, other) => {
            Err(of.node.refuse(format!("{key} is {}, expected a list of names", shown(other))))
        }
    }
}
