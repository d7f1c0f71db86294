//! Python's values, as far as templates see them.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};

use crate::budget::{Budget, MAX_NESTING, Meter};
use crate::error::{Error, Result, failed};
use crate::macros::{LoopState, MacroValue};
use crate::text::{Char, Text};

/// Characters that an item of a list or map counts as.
const ITEM: usize = 8;

#[derive(Clone)]
pub(crate) enum Value {
    /// What is not there, and the message of using it nevertheless.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(List),
    Tuple(List),
    Dict(Dict),
    /// `keys()`, `values()` or `items()`.
    View(View, Dict),
    Range(Range),
    /// Items that can be had once.
    Stream(Rc<(List, Cell<usize>)>),
    Namespace(Rc<Namespace>),
    Macro(Rc<MacroValue>),
    Loop(Rc<LoopState>),
    Function(Function),
    /// A method and what it is of.
    Method(Rc<(Value, &'static str)>),
    Cycler(Rc<(List, Cell<usize>)>),
    Joiner(Rc<(Value, Cell<bool>)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

/// Global functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub start: i128,
    pub step: i128,
    pub count: i128,
}

impl Range {
    pub fn get(self, index: i128) -> Value {
        Value::Int(self.start + self.step * index)
    }
}

/// The items of a list or tuple.
#[derive(Clone)]
pub(crate) struct List(Rc<ListBuffer>);

struct ListBuffer {
    items: Vec<Value>,
    nesting: u32,
    /// From `groupby`: a tuple with names.
    group: bool,
    meter: Arc<Meter>,
}

impl Drop for ListBuffer {
    fn drop(&mut self) {
        self.meter.give_back(size(&self.items));
    }
}

impl List {
    pub fn new(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Self::make(items, false, budget)
    }

    pub fn group(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Self::make(items, true, budget)
    }

    fn make(items: Vec<Value>, group: bool, budget: &Budget) -> Result<Self> {
        let nesting = nesting(items.iter())?;
        budget.items(items.len())?;
        budget.meter.take(size(&items))?;
        let meter = Arc::clone(&budget.meter);
        Ok(Self(Rc::new(ListBuffer { items, nesting, group, meter })))
    }

    pub fn is_group(&self) -> bool {
        self.0.group
    }

    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl std::ops::Deref for List {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.0.items
    }
}

/// Characters that a list counts as. What is undefined has a message.
fn size(items: &[Value]) -> usize {
    let undefined = items.iter().filter(|item| item.is_undefined()).count();
    (items.len() + 1) * ITEM + undefined * 4 * ITEM
}

fn nesting<'a>(items: impl Iterator<Item = &'a Value>) -> Result<u32> {
    let deepest = items.map(Value::nesting).max().unwrap_or(0);
    if deepest >= MAX_NESTING { Err(Error::Depth) } else { Ok(deepest + 1) }
}

#[derive(Clone)]
pub(crate) struct Dict(Rc<DictBuffer>);

struct DictBuffer {
    map: IndexMap<Key, Value>,
    nesting: u32,
    meter: Arc<Meter>,
}

impl Drop for DictBuffer {
    fn drop(&mut self) {
        self.meter.give_back((self.map.len() + 1) * 4 * ITEM);
    }
}

impl Dict {
    pub fn new(map: IndexMap<Key, Value>, budget: &Budget) -> Result<Self> {
        let nesting = nesting(map.iter().flat_map(|(key, value)| [&key.0, value]))?;
        budget.items(map.len() * 4)?;
        budget.meter.take((map.len() + 1) * 4 * ITEM)?;
        let meter = Arc::clone(&budget.meter);
        Ok(Self(Rc::new(DictBuffer { map, nesting, meter })))
    }

    pub fn map(&self) -> &IndexMap<Key, Value> {
        &self.0.map
    }

    pub fn get(&self, name: &[Char]) -> Option<&Value> {
        self.0.map.get(&Spelled(name))
    }

    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// What a map may have as a key.
#[derive(Clone)]
pub(crate) struct Key(Value);

impl Key {
    /// Counts the steps of hashing it.
    pub fn new(value: Value, budget: &Budget) -> Result<Self> {
        fn check(value: &Value, budget: &Budget) -> Result<()> {
            budget.steps(1)?;
            match value {
                Value::List(_) | Value::Dict(_) | Value::View(..) => {
                    failed(format!("unhashable type: '{}'", value.type_name()))
                }
                Value::Tuple(items) => items.iter().try_for_each(|item| check(item, budget)),
                Value::Str(text) => budget.characters(text.len()),
                _ => Ok(()),
            }
        }
        check(&value, budget)?;
        Ok(Self(value))
    }

    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        same_key(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(&self.0, state);
    }
}

/// Python's `==` of keys.
fn same_key(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Tuple(a), Value::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_key(a, b))
        }
        _ => crate::arithmetic::equal_leaves(a, b),
    }
}

/// Numbers that are equal have one hash.
fn hash<H: Hasher>(value: &Value, state: &mut H) {
    match value {
        Value::Str(text) => Spelled(text).hash(state),
        Value::Bool(flag) => state.write_i128(i128::from(*flag)),
        Value::Int(number) => state.write_i128(*number),
        Value::Float(number) if number.fract() == 0.0 => state.write_i128(*number as i128),
        Value::Float(number) => state.write_u64(number.to_bits()),
        Value::Tuple(items) => items.iter().for_each(|item| hash(item, state)),
        Value::None => state.write_u8(1),
        _ => state.write_u8(2),
    }
}

/// A string key that is looked up.
struct Spelled<'a>(&'a [Char]);

impl Hash for Spelled<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|c| c.hash(state));
        state.write_u8(0xff);
    }
}

impl Equivalent<Key> for Spelled<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(&key.0, Value::Str(text) if text[..] == *self.0)
    }
}

/// Variables that inner blocks may set. The renderer holds all of them, and empties them at its end: one may hold
/// itself.
pub(crate) struct Namespace {
    pub values: RefCell<IndexMap<Key, Value>>,
}

impl Value {
    pub fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(message.into().into())
    }

    pub fn list(items: Vec<Self>, budget: &Budget) -> Result<Self> {
        Ok(Self::List(List::new(items, budget)?))
    }

    pub fn tuple(items: Vec<Self>, budget: &Budget) -> Result<Self> {
        Ok(Self::Tuple(List::new(items, budget)?))
    }

    /// Items that can be had once.
    pub fn stream(items: Vec<Self>, budget: &Budget) -> Result<Self> {
        Ok(Self::Stream(Rc::new((List::new(items, budget)?, Cell::new(0)))))
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    fn nesting(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.0.nesting,
            Self::Dict(dict) | Self::View(_, dict) => dict.0.nesting,
            Self::Method(of) => of.0.nesting() + 1,
            Self::Joiner(of) => of.0.nesting() + 1,
            Self::Cycler(of) => of.0.0.nesting + 1,
            Self::Stream(of) => of.0.0.nesting + 1,
            _ => 0,
        }
    }

    /// Python's name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(text) if text.markup => "Markup",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Stream(_) => "generator",
            Self::Namespace(_) => "TemplateNamespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
        }
    }

    /// Python's truth.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.map().is_empty(),
            Self::Range(range) => range.count > 0,
            Self::Loop(state) => !state.items.is_empty(),
            _ => true,
        }
    }

    /// `len()`.
    pub fn len(&self) -> Result<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => text.len(),
            Self::List(items) | Self::Tuple(items) => items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.map().len(),
            Self::Range(range) => usize::try_from(range.count).unwrap_or(0),
            Self::Loop(state) => state.items.len(),
            other => return failed(format!("object of type '{}' has no len()", other.type_name())),
        })
    }

    /// What Python iterates over, all at once.
    pub fn iterate(&self, budget: &Budget) -> Result<Vec<Self>> {
        let items: Vec<Self> = match self {
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) => {
                budget.room(text.len() * ITEM)?;
                let each = |c: &Char| Ok(Self::Str(budget.raw_text(vec![*c])?));
                return text.iter().map(each).collect();
            }
            Self::List(items) | Self::Tuple(items) => items.to_vec(),
            Self::Dict(dict) | Self::View(View::Keys, dict) => {
                dict.map().keys().map(|key| key.value().clone()).collect()
            }
            Self::View(View::Values, dict) => dict.map().values().cloned().collect(),
            Self::View(View::Items, dict) => {
                let pair = |(key, value): (&Key, &Self)| {
                    Self::tuple(vec![key.value().clone(), value.clone()], budget)
                };
                dict.map().iter().map(pair).collect::<Result<_>>()?
            }
            Self::Range(range) => (0..range.count).map(|index| range.get(index)).collect(),
            Self::Stream(of) => of.0[of.1.replace(of.0.len())..].to_vec(),
            Self::Loop(state) => state.rest(),
            other => return failed(format!("'{}' object is not iterable", other.type_name())),
        };
        budget.room(items.len() * ITEM)?;
        Ok(items)
    }

    /// [`Self::iterate`] as a list, which is shared where it is one.
    pub fn listed(&self, budget: &Budget) -> Result<List> {
        match self {
            Self::List(items) | Self::Tuple(items) => Ok(items.clone()),
            other => List::new(other.iterate(budget)?, budget),
        }
    }

    /// Whether [`Self::iterate`] would work.
    pub fn is_iterable(&self) -> bool {
        matches!(
            self,
            Self::Undefined(_)
                | Self::Str(_)
                | Self::List(_)
                | Self::Tuple(_)
                | Self::Dict(_)
                | Self::View(..)
                | Self::Range(_)
                | Self::Stream(_)
                | Self::Loop(_)
        )
    }

    /// An int, for what Python takes an index.
    pub fn index(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(flag) => Some(i128::from(*flag)),
            _ => None,
        }
    }
}
