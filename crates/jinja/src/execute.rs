//! Templates, and running their statements.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::ast::{Body, For, KNOWN, Kind, LOOP, Link, Statement, Symbol, Target};
use crate::budget::{Budget, Limits, Out};
use crate::error::{Error, Result, failed};
use crate::functions::GLOBALS;
use crate::macros::{LoopState, MacroValue, Scope};
use crate::parser::{Parsed, parse};
use crate::stack::on_large_stack;
use crate::text::Char;
use crate::value::{Dict, Key, List, Namespace, Value};

/// Longest source of a template, in bytes. The longest in use have about 20 kB.
const MAX_SOURCE: usize = 1 << 20;

/// What a template is given.
#[derive(Debug, Clone)]
pub enum Input {
    /// Text that counts as the template's own.
    Own(String),
    /// A value whose text comes from elsewhere, keys included.
    Foreign(serde_json::Value),
    /// A list.
    List(Vec<Input>),
    /// A map. Its keys come from elsewhere.
    Map(Vec<(String, Input)>),
}

/// What a rendering needs of the program around it.
pub struct Host<'a> {
    /// The time now in the form that C's `strftime` gives it.
    pub strftime: &'a (dyn Fn(&str) -> std::result::Result<String, String> + Sync),
    /// Whether the rendering is no longer wanted. Asked every few thousand steps.
    pub given_up: &'a (dyn Fn() -> bool + Sync),
}

/// A parsed template.
pub struct Template {
    body: Body,
    names: HashMap<String, Symbol>,
    /// The names by symbol.
    spelled: Vec<String>,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("statements", &self.body.len()).finish_non_exhaustive()
    }
}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    /// If it is no template, longer than 1 MiB, or nested more than 200 levels deep.
    pub fn parse(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let message =
                format!("the source has {} bytes (expected at most {MAX_SOURCE})", source.len());
            return Err(Error::Syntax { message, line: 1 });
        }
        let Parsed { body, names } = on_large_stack(|| parse(source))?;
        let mut spelled = vec![String::new(); names.len()];
        for (name, symbol) in &names {
            spelled[*symbol as usize].clone_from(name);
        }
        Ok(Self { body, names, spelled })
    }

    /// Whether the source has a variable of that name.
    pub fn mentions(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Renders with `variables`.
    ///
    /// # Errors
    /// If an operation fails, the template refuses, a limit is reached, or the rendering is given up.
    pub fn render(
        &self,
        variables: &[(&str, Input)],
        host: &Host,
        limits: Limits,
    ) -> Result<Vec<Char>> {
        on_large_stack(|| {
            let run = Run {
                template: self,
                host,
                budget: Budget::new(limits, host.given_up),
                line: Cell::new(1),
                scopes: RefCell::default(),
                namespaces: RefCell::default(),
            };
            let rendered = run.template(variables);
            run.clear();
            rendered
        })
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // Nested statements and expressions are dropped by recursion, too.
        let body = std::mem::take(&mut self.body);
        let dropped = on_large_stack(move || {
            drop(body);
            Ok(())
        });
        drop(dropped);
    }
}

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Break,
    Continue,
}

/// One rendering.
pub(crate) struct Run<'a> {
    template: &'a Template,
    pub host: &'a Host<'a>,
    pub budget: Budget<'a>,
    line: Cell<usize>,
    /// Scopes that macros hold: they may hold the macros, so they are emptied at the end.
    scopes: RefCell<Vec<Rc<Scope>>>,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
}

impl Run<'_> {
    fn template(&self, variables: &[(&str, Input)]) -> Result<Vec<Char>> {
        let globals = Scope::root();
        for (name, function) in GLOBALS {
            if let Some(symbol) = self.template.names.get(name) {
                globals.set(*symbol, Value::Function(function));
            }
        }
        for (name, input) in variables {
            let symbol = self.template.names.get(*name);
            // Templates see no variables called as what loops and macros have.
            if let Some(symbol) = symbol.filter(|_| !KNOWN.contains(name)) {
                globals.set(*symbol, self.input(input)?);
            }
        }
        let scope = Scope::inside(&globals);
        let mut out = self.budget.collect();
        let done = self.body(&self.template.body, &scope, &mut out);
        done.map_err(|error| error.at(self.line.get()))?;
        out.chars()
    }

    /// Lets go of everything that may hold itself.
    fn clear(&self) {
        // What is taken out is dropped while all namespaces and scopes are still held here, so
        // one does not drop the next.
        for namespace in self.namespaces.borrow().iter() {
            drop(namespace.values.take());
        }
        for scope in self.scopes.borrow().iter() {
            drop(scope.clear());
        }
    }

    fn input(&self, input: &Input) -> Result<Value> {
        match input {
            Input::Own(text) => self.budget.own(text),
            Input::Foreign(json) => self.foreign(json),
            Input::List(items) => {
                let items = items.iter().map(|item| self.input(item)).collect::<Result<_>>()?;
                Value::list(items, &self.budget)
            }
            Input::Map(items) => {
                let pair = |(key, item): &(String, Input)| {
                    let key = self.budget.text(key.chars().map(Char::foreign).collect())?;
                    Ok((Key::new(key, &self.budget)?, self.input(item)?))
                };
                let map = items.iter().map(pair).collect::<Result<_>>()?;
                Ok(Value::Dict(Dict::new(map, &self.budget)?))
            }
        }
    }

    fn foreign(&self, json: &serde_json::Value) -> Result<Value> {
        let _level = self.budget.deeper()?;
        let text = |text: &str| self.budget.text(text.chars().map(Char::foreign).collect());
        match json {
            serde_json::Value::Null => Ok(Value::None),
            serde_json::Value::Bool(flag) => Ok(Value::Bool(*flag)),
            serde_json::Value::Number(number) => Ok(match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Int(number.into()),
                (None, Some(number)) => Value::Int(number.into()),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            }),
            serde_json::Value::String(string) => text(string),
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| self.foreign(item)).collect::<Result<_>>()?;
                Value::list(items, &self.budget)
            }
            serde_json::Value::Object(items) => {
                let pair = |(key, item): (&String, &serde_json::Value)| {
                    Ok((Key::new(text(key)?, &self.budget)?, self.foreign(item)?))
                };
                let map = items.iter().map(pair).collect::<Result<_>>()?;
                Ok(Value::Dict(Dict::new(map, &self.budget)?))
            }
        }
    }

    /// Holds a scope until the end, as something in it may hold it.
    fn hold(&self, scope: &Rc<Scope>) -> Result<()> {
        let mut scopes = self.scopes.borrow_mut();
        if scopes.last().is_none_or(|last| !Rc::ptr_eq(last, scope)) {
            self.budget.meter.take(256)?;
            scopes.push(Rc::clone(scope));
        }
        Ok(())
    }

    pub fn namespace(&self, values: IndexMap<Key, Value>) -> Result<Value> {
        // As much as a map; it stays until the end.
        self.budget.meter.take((values.len() + 1) * 32)?;
        let namespace = Rc::new(Namespace { values: RefCell::new(values) });
        self.namespaces.borrow_mut().push(Rc::clone(&namespace));
        Ok(Value::Namespace(namespace))
    }

    pub fn body(&self, body: &[Statement], scope: &Rc<Scope>, out: &mut Out) -> Result<Flow> {
        let _level = self.budget.deeper()?;
        for statement in body {
            self.budget.steps(1)?;
            self.line.set(statement.line);
            out.check()?;
            let flow = self.statement(&statement.kind, scope, out)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, kind: &Kind, scope: &Rc<Scope>, out: &mut Out) -> Result<Flow> {
        match kind {
            Kind::Data(text) => {
                self.budget.characters(text.len())?;
                out.extend(text);
            }
            Kind::Print(value) => {
                let value = self.evaluate(value, scope)?;
                self.show(&value, out)?;
            }
            Kind::If(cases, otherwise) => {
                for (test, body) in cases {
                    if self.evaluate(test, scope)?.is_true() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            Kind::For(definition) => {
                let items = self.evaluate(&definition.items, scope)?;
                self.for_loop(definition, &items, scope, 0, out)?;
            }
            Kind::Set(target, value) => {
                let value = self.evaluate(value, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::SetBlock(target, links, body) => {
                let value = self.captured(body, links, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::Filter(links, body) => {
                let value = self.captured(body, links, scope)?;
                self.show(&value, out)?;
            }
            Kind::With(values, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in values {
                    self.assign(target, self.evaluate(value, scope)?, &inner)?;
                }
                return self.body(body, &inner, out);
            }
            Kind::Macro(definition) => {
                if let Some(symbol) = self.template.names.get(&*definition.name) {
                    self.hold(scope)?;
                    let value =
                        MacroValue { definition: Arc::clone(definition), scope: Rc::clone(scope) };
                    scope.set(*symbol, Value::Macro(Rc::new(value)));
                }
            }
            Kind::Call(definition, callee, args) => {
                let callee = self.evaluate(callee, scope)?;
                let mut given = self.given(args, scope)?;
                let caller =
                    MacroValue { definition: Arc::clone(definition), scope: Rc::clone(scope) };
                self.hold(scope)?;
                given.named.push(("caller".into(), Value::Macro(Rc::new(caller))));
                let value = self.call(&callee, given)?;
                self.show(&value, out)?;
            }
            Kind::Block(body) => {
                let top = scope.outermost();
                return self.body(body, &Scope::inside(&top), out);
            }
            Kind::Generation(body) => return self.body(body, &Scope::inside(scope), out),
            Kind::Refused(why) => return failed(*why),
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// What `body` renders to, through filters.
    fn captured(&self, body: &[Statement], links: &[Link], scope: &Rc<Scope>) -> Result<Value> {
        let mut out = self.budget.collect();
        self.body(body, &Scope::inside(scope), &mut out)?;
        links.iter().try_fold(out.value()?, |value, link| self.link(value, link, scope))
    }

    pub fn for_loop(
        &self,
        definition: &Arc<For>,
        items: &Value,
        scope: &Rc<Scope>,
        depth: usize,
        out: &mut Out,
    ) -> Result<()> {
        let mut items = items.listed(&self.budget)?;
        if let Some(test) = &definition.test {
            let mut kept = Vec::new();
            for item in items.iter().cloned() {
                let inner = Scope::inside(scope);
                self.assign(&definition.target, item.clone(), &inner)?;
                if self.evaluate(test, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = List::new(kept, &self.budget)?;
        }
        if items.is_empty() {
            self.body(&definition.otherwise, &Scope::inside(scope), out)?;
            return Ok(());
        }
        let again = definition.recursive.then(|| (Arc::clone(definition), Rc::clone(scope)));
        let state = Rc::new(LoopState {
            items,
            index: Cell::new(0),
            depth,
            again,
            changed: RefCell::new(None),
            skipped: Cell::new(0),
        });
        for index in 0..state.items.len() {
            if index + state.skipped.get() >= state.items.len() {
                break;
            }
            self.budget.steps(1)?;
            state.index.set(index);
            let inner = Scope::inside(scope);
            inner.set(LOOP, Value::Loop(Rc::clone(&state)));
            self.assign(&definition.target, state.items[index].clone(), &inner)?;
            if self.body(&definition.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(*name, value),
            Target::Tuple(targets) => {
                let values = value.iterate(&self.budget)?;
                let (expected, found) = (targets.len(), values.len());
                if found < expected {
                    return failed(format!(
                        "not enough values to unpack (expected {expected}, got {found})"
                    ));
                }
                if found > expected {
                    return failed(format!("too many values to unpack (expected {expected})"));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
            Target::Attribute(name, spelled, attribute) => {
                let namespace = self.lookup(*name, scope);
                let Value::Namespace(namespace) = namespace else {
                    return failed(format!(
                        "cannot assign attribute on non-namespace object '{spelled}'"
                    ));
                };
                if attribute.first().is_some_and(|c| c.get() == '_') {
                    return failed("attributes of a namespace cannot begin with an underscore");
                }
                let key = Key::new(Value::Str(attribute.clone()), &self.budget)?;
                let old = namespace.values.borrow_mut().insert(key, value);
                drop(old);
            }
        }
        Ok(())
    }

    pub fn lookup(&self, name: Symbol, scope: &Scope) -> Value {
        scope.get(name).unwrap_or_else(|| {
            let spelled = self.template.spelled.get(name as usize).map_or("?", String::as_str);
            Value::undefined(format!("'{spelled}' is undefined"))
        })
    }
}
