//! What functions, filters and tests are called with.

use std::sync::Arc;

use crate::error::{Result, failed};
use crate::text::{Text, plain};
use crate::value::Value;

/// Arguments as they were given.
#[derive(Default)]
pub(crate) struct Given {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Given {
    pub fn of(positional: Vec<Value>) -> Self {
        Self { positional, named: Vec::new() }
    }

    /// Takes the named argument `name` out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.named.iter().position(|(given, _)| &**given == name)?;
        Some(self.named.remove(index).1)
    }

    /// The arguments of `function` in the order of its `parameters`, of which the first `required` must be
    /// there.
    pub fn bind(self, function: &str, parameters: &[&str], required: usize) -> Result<Bound> {
        if self.positional.len() > parameters.len() {
            let (most, given) = (parameters.len(), self.positional.len());
            return failed(format!("{function}() takes at most {most} arguments ({given} given)"));
        }
        let mut bound: Vec<Option<Value>> = self.positional.into_iter().map(Some).collect();
        bound.resize(parameters.len(), None);
        for (name, value) in self.named {
            let Some(index) = parameters.iter().position(|parameter| *parameter == &*name) else {
                return failed(format!("{function}() got an unexpected keyword argument '{name}'"));
            };
            if bound[index].is_some() {
                return failed(format!("{function}() got multiple values for argument '{name}'"));
            }
            bound[index] = Some(value);
        }
        if let Some(missing) = (0..required).find(|index| bound[*index].is_none()) {
            return failed(format!(
                "{function}() missing required argument '{}'",
                parameters[missing]
            ));
        }
        Ok(Bound { bound, function: function.into() })
    }
}

/// Arguments by parameter.
pub(crate) struct Bound {
    bound: Vec<Option<Value>>,
    function: Box<str>,
}

impl Bound {
    /// The argument, if it was given.
    pub fn get(&self, index: usize) -> Option<&Value> {
        self.bound.get(index)?.as_ref()
    }

    /// The argument, if it was given and is not none.
    pub fn some(&self, index: usize) -> Option<&Value> {
        self.get(index).filter(|value| !matches!(value, Value::None))
    }

    /// The argument; one that is required and therefore there.
    pub fn value(&self, index: usize) -> Value {
        self.get(index).cloned().unwrap_or(Value::None)
    }

    pub fn int(&self, index: usize, default: i128) -> Result<i128> {
        match self.get(index) {
            None => Ok(default),
            Some(value) => value.index().map_or_else(|| self.wrong(value, "an integer"), Ok),
        }
    }

    pub fn flag(&self, index: usize, default: bool) -> bool {
        self.get(index).map_or(default, Value::is_true)
    }

    /// A string that must be one.
    pub fn text(&self, index: usize) -> Result<Text> {
        match self.get(index) {
            Some(Value::Str(text)) => Ok(text.clone()),
            Some(other) => self.wrong(other, "str"),
            None => failed(format!("{}() is missing an argument", self.function)),
        }
    }

    /// A string that may be left out or be none.
    pub fn optional_text(&self, index: usize) -> Result<Option<Text>> {
        self.some(index).map(|_| self.text(index)).transpose()
    }

    pub fn name(&self, index: usize) -> Result<String> {
        Ok(plain(&self.text(index)?))
    }

    fn wrong<T>(&self, value: &Value, expected: &str) -> Result<T> {
        let found = value.type_name();
        failed(format!("{}() expected {expected}, not '{found}'", self.function))
    }
}
