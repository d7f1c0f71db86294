//! The schemas of a document, and which one a reference means.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::uri::{join, unescaped};
use super::{Refusal, cut};

/// Schemas that a document may have.
const MOST_SCHEMAS: usize = 50_000;

/// The address of a document that does not say its own.
const OWN_ADDRESS: &str = "schema:///";

/// A schema of a document, by number.
pub(super) type NodeId = u32;

/// Versions of the standard, as far as they differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Draft {
    Draft4,
    Draft7,
    Draft2019,
    Draft2020,
}

/// A schema, and where it is.
#[derive(Debug)]
pub(super) struct Node<'a> {
    held: Held<'a>,
    /// What references in it start from.
    pub base: Rc<str>,
    pub draft: Draft,
    /// A JSON pointer, as a fragment.
    pub place: String,
}

#[derive(Debug)]
enum Held<'a> {
    Here(&'a Value),
    Made(Value),
}

impl Node<'_> {
    pub fn value(&self) -> &Value {
        match &self.held {
            Held::Here(value) => value,
            Held::Made(value) => value,
        }
    }

    pub fn refuse(&self, problem: impl Into<String>) -> Refusal {
        Refusal { place: self.place.clone(), problem: problem.into() }
    }
}

/// A document and its schemas.
pub(super) struct Document<'a> {
    nodes: Vec<Rc<Node<'a>>>,
    /// Schemas by where they are in memory.
    known: HashMap<usize, NodeId>,
    /// Schemas that were made, by their text.
    made: HashMap<String, NodeId>,
    /// Schemas with an address: resources, and `address#anchor`.
    named: HashMap<String, NodeId>,
    /// The address and number of schemas with a `$dynamicAnchor`, by its name.
    dynamic: HashMap<String, Vec<NodeId>>,
}

/// Keywords that have a schema, a list of schemas or schemas by name.
const ONE: [&str; 14] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$recursiveRef",
    "extends",
];
const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
const NAMED: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

impl<'a> Document<'a> {
    /// # Errors
    /// If it has too many schemas, or two of the same address.
    pub fn new(root: &'a Value) -> Result<(Self, NodeId), Refusal> {
        let mut document = Self {
            nodes: vec![],
            known: HashMap::new(),
            made: HashMap::new(),
            named: HashMap::new(),
            dynamic: HashMap::new(),
        };
        let base = Rc::from(OWN_ADDRESS);
        let id = document.register(root, &base, Draft::Draft2020, String::from("#"))?;
        document.named.entry(OWN_ADDRESS.into()).or_insert(id);
        Ok((document, id))
    }

    pub fn node(&self, id: NodeId) -> Rc<Node<'a>> {
        self.nodes[id as usize].clone()
    }

    /// A schema that stands nowhere in the document.
    pub fn make(&mut self, value: Value, of: &Node<'_>) -> NodeId {
        let text = value.to_string();
        if let Some(&id) = self.made.get(&text) {
            return id;
        }
        let node = Node {
            held: Held::Made(value),
            base: of.base.clone(),
            draft: of.draft,
            place: of.place.clone(),
        };
        self.nodes.push(Rc::new(node));
        let id = (self.nodes.len() - 1) as NodeId;
        self.made.insert(text, id);
        id
    }

    /// The number of a schema inside another one.
    pub fn inside(&mut self, of: &Node<'a>, path: &[&str]) -> Result<NodeId, Refusal> {
        let mut place = of.place.clone();
        for step in path {
            place.push('/');
            place.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        match &of.held {
            Held::Here(value) => {
                let found = path.iter().try_fold(*value, |value, step| child(value, step));
                let found = found.ok_or_else(|| of.refuse("there is no such place"))?;
                self.register(found, &of.base.clone(), of.draft, place)
            }
            Held::Made(value) => {
                let found = path.iter().try_fold(value, |value, step| child(value, step));
                let found = found.ok_or_else(|| of.refuse("there is no such place"))?;
                Ok(self.make(found.clone(), of))
            }
        }
    }

    /// Takes a schema and all schemas inside into the list.
    fn register(
        &mut self,
        value: &'a Value,
        base: &Rc<str>,
        draft: Draft,
        place: String,
    ) -> Result<NodeId, Refusal> {
        let address = std::ptr::from_ref(value) as usize;
        if let Some(&id) = self.known.get(&address) {
            return Ok(id);
        }
        let refuse = |problem: String| Refusal { place: place.clone(), problem };
        if self.nodes.len() >= MOST_SCHEMAS {
            return Err(refuse(format!("more than {MOST_SCHEMAS} schemas in one document")));
        }
        let id = self.nodes.len() as NodeId;
        self.known.insert(address, id);
        let fields = value.as_object();
        let draft = fields.and_then(draft_of).unwrap_or(draft);
        let mut base = base.clone();
        let mut resource = None;
        // Next to "$ref", old drafts see nothing else.
        let alone =
            draft <= Draft::Draft7 && fields.is_some_and(|fields| fields.contains_key("$ref"));
        let own = if draft == Draft::Draft4 { "id" } else { "$id" };
        let own = fields.and_then(|fields| fields.get(own)?.as_str()).filter(|_| !alone);
        if let Some(own) = own {
            let address = join(&base, own);
            let (document, fragment) = address.split_once('#').unwrap_or((&address, ""));
            if fragment.is_empty() {
                base = Rc::from(document);
                resource = Some(document.to_owned());
            } else {
                // Draft 7 and before write anchors this way.
                resource = Some(address.clone());
            }
        }
        if let Some(resource) = resource
            && self.named.insert(resource.clone(), id).is_some_and(|other| other != id)
        {
            return Err(refuse(format!("$id: two schemas are called {:?}", cut(&resource, 60))));
        }
        self.nodes.push(Rc::new(Node {
            held: Held::Here(value),
            base: base.clone(),
            draft,
            place: place.clone(),
        }));
        let Some(fields) = fields else { return Ok(id) };
        for (key, value) in fields {
            let below = |step: &str| {
                let step = step.replace('~', "~0").replace('/', "~1");
                format!("{place}/{key}/{step}")
            };
            match (key.as_str(), value) {
                ("$anchor" | "$dynamicAnchor", Value::String(name)) => {
                    self.named.insert(format!("{base}#{name}"), id);
                    if key == "$dynamicAnchor" {
                        self.dynamic.entry(name.clone()).or_default().push(id);
                    }
                }
                ("$recursiveAnchor", Value::Bool(true)) => {
                    self.dynamic.entry(String::new()).or_default().push(id);
                }
                (key, Value::Object(inner)) if NAMED.contains(&key) => {
                    for (name, value) in inner {
                        if value.is_object() || value.is_boolean() {
                            self.register(value, &base, draft, below(name))?;
                        }
                    }
                }
                (key, Value::Array(inner)) if LISTS.contains(&key) => {
                    for (index, value) in inner.iter().enumerate() {
                        self.register(value, &base, draft, below(&index.to_string()))?;
                    }
                }
                (key, Value::Object(_) | Value::Bool(_)) if ONE.contains(&key) => {
                    self.register(value, &base, draft, format!("{place}/{key}"))?;
                }
                _ => {}
            }
        }
        Ok(id)
    }

    /// The schema that a reference in another one means.
    ///
    /// # Errors
    /// If there is none in the document: no other one is ever read.
    pub fn resolve(&mut self, reference: &str, from: &Node<'a>) -> Result<NodeId, Refusal> {
        let full = join(&from.base, reference);
        let (address, fragment) = full.split_once('#').unwrap_or((&full, ""));
        let missing = |what: &str| Refusal {
            place: from.place.clone(),
            problem: format!("$ref {:?}: {what}", cut(reference, 60)),
        };
        let outside = "it refers to another document, and none but the schema itself is read";
        let resource = *self.named.get(address).ok_or_else(|| missing(outside))?;
        let fragment = unescaped(fragment);
        if fragment.is_empty() {
            return Ok(resource);
        }
        let Some(pointer) = fragment.strip_prefix('/') else {
            let named = self.named.get(&format!("{address}#{fragment}"));
            return named.copied().ok_or_else(|| missing("there is no such $anchor"));
        };
        // RFC 6901.
        let steps: Vec<String> =
            pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        let node = self.node(resource);
        let path: Vec<&str> = steps.iter().map(String::as_str).collect();
        if path.iter().try_fold(node.value(), |value, step| child(value, step)).is_none() {
            return Err(missing("there is nothing at this place"));
        }
        self.inside(&node, &path)
    }

    /// The schemas with this `$dynamicAnchor`; the empty name is `$recursiveAnchor`.
    pub fn dynamic(&self, name: &str) -> &[NodeId] {
        self.dynamic.get(name).map_or(&[], Vec::as_slice)
    }
}

fn child<'v>(value: &'v Value, step: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    }
}

fn draft_of(fields: &Map<String, Value>) -> Option<Draft> {
    let name = fields.get("$schema")?.as_str()?.trim_end_matches('#');
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    Some(match name {
        "json-schema.org/draft-03/schema" | "json-schema.org/draft-04/schema" => Draft::Draft4,
        "json-schema.org/draft-06/schema" | "json-schema.org/draft-07/schema" => Draft::Draft7,
        "json-schema.org/draft/2019-09/schema" => Draft::Draft2019,
        _ => Draft::Draft2020,
    })
}
