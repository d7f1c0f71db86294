//! Macros and loops: what templates define and call again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::arguments::Given;
use crate::arithmetic;
use crate::ast::{CALLER, For, KWARGS, Macro, Symbol, VARARGS};
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::text::{Char, Text};
use crate::value::{Dict, Key, List, Value};

/// The variables of a block, and those around it.
pub(crate) struct Scope {
    values: RefCell<BTreeMap<Symbol, Value>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub fn root() -> Rc<Self> {
        Rc::new(Self { values: RefCell::default(), parent: None })
    }

    pub fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { values: RefCell::default(), parent: Some(Rc::clone(parent)) })
    }

    pub fn set(&self, name: Symbol, value: Value) {
        self.values.borrow_mut().insert(name, value);
    }

    pub fn get(&self, name: Symbol) -> Option<Value> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.values.borrow().get(&name) {
                return Some(value.clone());
            }
            scope = scope.parent.as_ref()?;
        }
    }

    /// The scope of the whole template, which is inside that of what it is given.
    pub fn outermost(self: &Rc<Self>) -> Rc<Self> {
        let mut scope = self;
        while let Some(parent) = scope.parent.as_ref().filter(|parent| parent.parent.is_some()) {
            scope = parent;
        }
        Rc::clone(scope)
    }

    /// Lets go of all values.
    pub fn clear(&self) -> BTreeMap<Symbol, Value> {
        self.values.take()
    }
}

/// A macro and where it was defined.
pub(crate) struct MacroValue {
    pub definition: Arc<Macro>,
    pub scope: Rc<Scope>,
}

/// What `loop` is.
pub(crate) struct LoopState {
    pub items: List,
    /// The item that it is at.
    pub index: Cell<usize>,
    pub depth: usize,
    /// The loop itself and what is around it, if it is recursive.
    pub again: Option<(Arc<For>, Rc<Scope>)>,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// Items that were taken by iterating over `loop` itself.
    pub skipped: Cell<usize>,
}

impl LoopState {
    /// The items not reached yet, which are taken.
    pub fn rest(&self) -> Vec<Value> {
        let rest = self.items[(self.index.get() + 1).min(self.items.len())..].to_vec();
        self.skipped.set(rest.len());
        rest
    }

    /// What `loop.NAME` is, but for methods.
    pub fn attribute(&self, name: &str) -> Option<Value> {
        let (index, count) = (self.index.get(), self.items.len());
        let item = |index: Option<usize>, what: &str| {
            let item = index.and_then(|index| self.items.get(index)).cloned();
            item.unwrap_or_else(|| Value::undefined(format!("there is no {what} item")))
        };
        let number = |number: usize| Value::Int(number as i128);
        Some(match name {
            "index" => number(index + 1),
            "index0" => number(index),
            "revindex" => number(count - index),
            "revindex0" => number(count - index - 1),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == count),
            "length" => number(count),
            "depth" => number(self.depth + 1),
            "depth0" => number(self.depth),
            "previtem" => item(index.checked_sub(1), "previous"),
            "nextitem" => item(Some(index + 1), "next"),
            _ => return None,
        })
    }
}

impl Run<'_> {
    /// Renders a macro.
    pub fn call_macro(&self, of: &MacroValue, mut given: Given) -> Result<Value> {
        let definition = &*of.definition;
        let name = &definition.name;
        let scope = Scope::inside(&of.scope);
        let count = definition.parameters.len();
        let mut positional = std::mem::take(&mut given.positional).into_iter();
        let mut missing = Vec::new();
        for (index, (symbol, parameter)) in definition.parameters.iter().enumerate() {
            match positional.next().or_else(|| given.take(parameter)) {
                Some(value) => scope.set(*symbol, value),
                None => missing.push((index, *symbol, parameter)),
            }
        }
        if definition.uses_caller {
            let caller =
                given.take("caller").unwrap_or_else(|| Value::undefined("No caller defined"));
            scope.set(CALLER, caller);
        }
        let rest: Vec<Value> = positional.collect();
        if definition.uses_varargs {
            scope.set(VARARGS, Value::tuple(rest, &self.budget)?);
        } else if !rest.is_empty() {
            return failed(format!("macro '{name}' takes not more than {count} argument(s)"));
        }
        if definition.uses_kwargs {
            let text = |name: &str| Value::Str(Text::literal(name));
            let pair = |(name, value): (Arc<str>, Value)| {
                Ok((Key::new(text(&name), &self.budget)?, value))
            };
            let map = given.named.into_iter().map(pair).collect::<Result<_>>()?;
            scope.set(KWARGS, Value::Dict(Dict::new(map, &self.budget)?));
        } else if let Some((given, _)) = given.named.first() {
            return failed(format!("macro '{name}' takes no keyword argument '{given}'"));
        }
        // In order: later defaults may be made of earlier parameters.
        for (index, symbol, parameter) in missing {
            let default = (index + definition.defaults.len()).checked_sub(count);
            let value = match default.and_then(|index| definition.defaults.get(index)) {
                Some(default) => self.evaluate(default, &scope)?,
                None => Value::undefined(format!("parameter '{parameter}' was not provided")),
            };
            scope.set(symbol, value);
        }
        let mut out = self.budget.collect();
        self.body(&definition.body, &scope, &mut out)?;
        out.value()
    }

    /// Calls `loop` itself, or one of its methods.
    pub fn call_loop(&self, state: &Rc<LoopState>, items: &Value) -> Result<Value> {
        let Some((definition, scope)) = &state.again else {
            return failed("The loop must have the 'recursive' marker to be called recursively.");
        };
        let mut out = self.budget.collect();
        self.for_loop(definition, items, scope, state.depth + 1, &mut out)?;
        out.value()
    }

    /// `loop.changed(..)`.
    pub fn loop_changed(&self, state: &LoopState, given: Given) -> Result<Value> {
        let new = given.positional;
        let same = match &*state.changed.borrow() {
            Some(old) if old.len() == new.len() => {
                let mut pairs = old.iter().zip(&new);
                pairs.try_fold(true, |same, (a, b)| Ok(same && arithmetic::equal(self, a, b)?))?
            }
            _ => false,
        };
        if !same {
            state.changed.replace(Some(new));
        }
        Ok(Value::Bool(!same))
    }

    /// `chars` as a text of the template itself.
    pub fn chars(&self, chars: &[Char]) -> Result<Value> {
        self.budget.room(chars.len())?;
        self.budget.text(chars.to_vec())
    }
}
