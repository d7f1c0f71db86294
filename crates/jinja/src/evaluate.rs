//! Expressions to values.

use std::rc::Rc;

use indexmap::IndexMap;

use crate::arguments::Given;
use crate::arithmetic;
use crate::ast::{Args, Comparison, Expr, Link};
use crate::attributes;
use crate::error::{Result, failed};
use crate::execute::Run;
use crate::filters;
use crate::functions;
use crate::is_tests;
use crate::macros::Scope;
use crate::text::plain;
use crate::value::{Dict, Key, Value};

impl Run<'_> {
    pub fn evaluate(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.steps(1)?;
        Ok(match expr {
            Expr::None => Value::None,
            Expr::Bool(flag) => Value::Bool(*flag),
            Expr::Int(number) => Value::Int(*number),
            Expr::Float(number) => Value::Float(*number),
            Expr::Str(text) => Value::Str(text.clone()),
            Expr::Name(name) => self.lookup(*name, scope),
            _ => {
                let _level = self.budget.deeper()?;
                self.composed(expr, scope)?
            }
        })
    }

    fn all(&self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.evaluate(item, scope)).collect()
    }

    fn composed(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        Ok(match expr {
            Expr::List(items) => Value::list(self.all(items, scope)?, &self.budget)?,
            Expr::Tuple(items) => Value::tuple(self.all(items, scope)?, &self.budget)?,
            Expr::Dict(items) => {
                let mut map = IndexMap::with_capacity(items.len());
                for (key, value) in items {
                    let key = Key::new(self.evaluate(key, scope)?, &self.budget)?;
                    map.insert(key, self.evaluate(value, scope)?);
                }
                Value::Dict(Dict::new(map, &self.budget)?)
            }
            Expr::Cond(parts) => {
                let (test, value, other) = &**parts;
                if self.evaluate(test, scope)?.is_true() {
                    self.evaluate(value, scope)?
                } else if let Some(other) = other {
                    self.evaluate(other, scope)?
                } else {
                    Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined.",
                    )
                }
            }
            Expr::Or(items) | Expr::And(items) => {
                let ends = matches!(expr, Expr::Or(_));
                let mut last = Value::None;
                for item in items {
                    last = self.evaluate(item, scope)?;
                    if last.is_true() == ends {
                        break;
                    }
                }
                last
            }
            Expr::Not(value) => Value::Bool(!self.evaluate(value, scope)?.is_true()),
            Expr::Compare(first, rest) => {
                let mut left = self.evaluate(first, scope)?;
                for (kind, right) in rest {
                    let right = self.evaluate(right, scope)?;
                    if !self.compare_values(*kind, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::Arithmetic(first, rest) => {
                let mut left = self.evaluate(first, scope)?;
                for (operation, right) in rest {
                    let right = self.evaluate(right, scope)?;
                    left = arithmetic::binary(self, *operation, &left, &right)?;
                }
                left
            }
            Expr::Concat(items) => {
                let mut out = self.budget.collect();
                for item in items {
                    let item = self.evaluate(item, scope)?;
                    self.show(&item, &mut out)?;
                }
                out.value()?
            }
            Expr::Negative(value) => arithmetic::negative(&self.evaluate(value, scope)?)?,
            Expr::Positive(value) => arithmetic::positive(&self.evaluate(value, scope)?)?,
            Expr::Chain(first, links) => {
                let first = self.evaluate(first, scope)?;
                links.iter().try_fold(first, |value, link| self.link(value, link, scope))?
            }
            simple => self.evaluate(simple, scope)?,
        })
    }

    pub fn compare_values(&self, kind: Comparison, left: &Value, right: &Value) -> Result<bool> {
        use std::cmp::Ordering::{Greater, Less};
        let order = |sign| arithmetic::order(self, left, right, sign);
        Ok(match kind {
            Comparison::Equal => arithmetic::equal(self, left, right)?,
            Comparison::NotEqual => !arithmetic::equal(self, left, right)?,
            Comparison::Less => order("<")? == Some(Less),
            Comparison::LessOrEqual => order("<=")?.is_some_and(|order| order != Greater),
            Comparison::Greater => order(">")? == Some(Greater),
            Comparison::GreaterOrEqual => order(">=")?.is_some_and(|order| order != Less),
            Comparison::In => arithmetic::contains(self, right, left)?,
            Comparison::NotIn => !arithmetic::contains(self, right, left)?,
        })
    }

    /// What follows a value, applied to it.
    pub fn link(&self, value: Value, link: &Link, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.steps(1)?;
        match link {
            Link::Attribute(name) => attributes::attribute(self, &value, name),
            Link::Item(index) => attributes::item(self, &value, &self.evaluate(index, scope)?),
            Link::Slice(parts) => {
                let part = |part: &Option<Expr>| match part {
                    Some(part) => self.evaluate(part, scope),
                    None => Ok(Value::None),
                };
                let [start, stop, step] = &**parts;
                attributes::slice(self, &value, [&part(start)?, &part(stop)?, &part(step)?])
            }
            Link::Call(args) => {
                let given = self.given(args, scope)?;
                self.call(&value, given)
            }
            Link::Filter(name, args) => {
                let given = self.given(args, scope)?;
                filters::apply(self, name, value, given)
            }
            Link::Test { name, args, negated } => {
                let given = self.given(args, scope)?;
                Ok(Value::Bool(is_tests::apply(self, name, &value, given)? != *negated))
            }
        }
    }

    pub fn given(&self, args: &Args, scope: &Rc<Scope>) -> Result<Given> {
        let mut given = Given::of(self.all(&args.positional, scope)?);
        for (name, value) in &args.named {
            given.named.push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(items) = &args.items {
            given.positional.extend(self.evaluate(items, scope)?.iterate(&self.budget)?);
        }
        if let Some(map) = &args.map {
            let Value::Dict(map) = self.evaluate(map, scope)? else {
                return failed("argument after ** must be a mapping");
            };
            self.budget.items(map.map().len())?;
            for (key, value) in map.map() {
                let Value::Str(name) = key.value() else {
                    return failed("keywords must be strings");
                };
                let name = plain(name);
                if given.named.iter().any(|(given, _)| **given == name) {
                    return failed(format!("got multiple values for keyword argument '{name}'"));
                }
                given.named.push((name.into(), value.clone()));
            }
        }
        Ok(given)
    }

    pub fn call(&self, callee: &Value, given: Given) -> Result<Value> {
        let _level = self.budget.deeper()?;
        functions::call(self, callee, given)
    }
}
