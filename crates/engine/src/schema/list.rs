//! Keywords of arrays.

use serde_json::{Map, Value};

use super::Refusal;
use super::alternatives::{Alternative, Items, Lists};
use super::document::Draft;
use super::read::{Conj, Reader, Reading, count, only, shown};

impl<'a> Reader<'a> {
    pub(super) fn list_keyword(
        &mut self,
        mut found: Vec<Alternative>,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        key: &str,
        value: &Value,
    ) -> Result<Vec<Alternative>, Refusal> {
        let node = &of.node;
        let change: Box<dyn Fn(&mut Lists)> = match key {
            "minItems" => {
                let least = count(node, key, value)?;
                Box::new(move |lists| lists.least = lists.least.max(least))
            }
            "maxItems" => {
                let most = count(node, key, value)?;
                Box::new(move |lists| {
                    lists.most = Some(lists.most.map_or(most, |old| old.min(most)))
                })
            }
            "uniqueItems" => match value {
                Value::Bool(false) => return Ok(found),
                Value::Bool(true) => {
                    let place = node.place.clone();
                    Box::new(move |lists| lists.unique = Some(place.clone()))
                }
                other => {
                    let found = shown(other);
                    return Err(
                        node.refuse(format!("uniqueItems is {found}, expected true or false"))
                    );
                }
            },
            "contains" => {
                let contains = self.contains_of(of, fields)?;
                Box::new(move |lists| {
                    if !lists.contains.contains(&contains) {
                        lists.contains.push(contains.clone());
                    }
                })
            }
            _ => {
                let items = self.items_of(of, fields)?;
                Box::new(move |lists| lists.items.push(items.clone()))
            }
        };
        for one in &mut found {
            if let Alternative::List(lists) = one {
                change(lists);
            }
        }
        Ok(found)
    }

    /// What `prefixItems` and `items` say, or `items` and `additionalItems` as they were before 2020.
    pub(super) fn items_of(
        &mut self,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
    ) -> Result<Items, Refusal> {
        let node = &of.node;
        let (first, rest) = match fields.get("items") {
            Some(Value::Array(_)) => (Some("items"), "additionalItems"),
            _ if node.draft < Draft::Draft2020 && !fields.contains_key("prefixItems") => {
                (None, "items")
            }
            _ => (Some("prefixItems"), "items"),
        };
        let mut items = Items::default();
        if let Some(key) = first {
            match fields.get(key) {
                Some(Value::Array(list)) => {
                    for index in 0..list.len() {
                        let id = self.document.inside(node, &[key, &index.to_string()])?;
                        items.first.push(only(id));
                    }
                }
                None => {}
                Some(other) => {
                    let found = shown(other);
                    return Err(
                        node.refuse(format!("{key} is {found}, expected a list of schemas"))
                    );
                }
            }
        }
        if fields.contains_key(rest) {
            items.rest = only(self.document.inside(node, &[rest])?);
        }
        Ok(items)
    }

    /// `unevaluatedItems`, where it is clear which items other keywords look at.
    pub(super) fn unevaluated_items(
        &mut self,
        mut found: Vec<Alternative>,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        value: &Value,
    ) -> Result<Vec<Alternative>, Refusal> {
        if *value == Value::Bool(true) {
            return Ok(found);
        }
        let seen = self.seen_items(of, fields, 0)?;
        let Some(seen) = seen else { return Ok(found) };
        let id = self.document.inside(&of.node, &["unevaluatedItems"])?;
        let items = Items { first: vec![Conj::new(); seen], rest: only(id) };
        for one in &mut found {
            if let Alternative::List(lists) = one {
                lists.items.push(items.clone());
            }
        }
        Ok(found)
    }

    /// How many items from the first on are looked at; `None` for all.
    fn seen_items(
        &mut self,
        of: &Reading<'a>,
        fields: &Map<String, Value>,
        depth: usize,
    ) -> Result<Option<usize>, Refusal> {
        let refuse =
            |key: &str| of.node.refuse(format!("unevaluatedItems beside {key} cannot be followed"));
        if depth > 16 {
            return Err(refuse("recursion"));
        }
        let mut seen = 0;
        for (key, value) in super::read::keywords(fields, of.node.draft) {
            let inner = match key {
                "items" => {
                    let items = self.items_of(of, fields)?;
                    let rest = match fields.get("items") {
                        Some(Value::Array(_)) => fields.contains_key("additionalItems"),
                        other => other.is_some(),
                    };
                    // Beside a schema for all, additionalItems says nothing.
                    if rest { None } else { Some(items.first.len()) }
                }
                "unevaluatedItems" if depth > 0 => None,
                "contains" if of.node.draft >= Draft::Draft2020 => return Err(refuse(key)),
                "anyOf" | "oneOf" | "if" | "$dynamicRef" | "$recursiveRef" => {
                    return Err(refuse(key));
                }
                "$ref" => {
                    let target = self.target(&of.node, key, value)?;
                    let reading = Reading { node: self.document.node(target) };
                    match reading.node.clone().value() {
                        Value::Object(fields) => self.seen_items(&reading, fields, depth + 1)?,
                        _ => Some(0),
                    }
                }
                "allOf" => {
                    let mut most = Some(0);
                    for index in 0..super::read::list(&of.node, key, value)? {
                        let id = self.document.inside(&of.node, &[key, &index.to_string()])?;
                        let reading = Reading { node: self.document.node(id) };
                        if let Value::Object(fields) = reading.node.clone().value() {
                            let inner = self.seen_items(&reading, fields, depth + 1)?;
                            most = most.zip(inner).map(|(a, b): (usize, usize)| a.max(b));
                        }
                    }
                    most
                }
                _ => Some(0),
            };
            match inner {
                None => return Ok(None),
                Some(count) => seen = seen.max(count),
            }
        }
        Ok(Some(seen))
    }
}
