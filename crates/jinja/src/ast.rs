//! Parsed templates. Chains are lists, so that long ones are not deep.

use std::sync::Arc;

use crate::text::Text;

/// A variable's name, as a number.
pub(crate) type Symbol = u32;

/// Names that mean something by themselves, numbered before all others.
pub(crate) const KNOWN: [&str; 4] = ["loop", "caller", "varargs", "kwargs"];
pub(crate) const LOOP: Symbol = 0;
pub(crate) const CALLER: Symbol = 1;
pub(crate) const VARARGS: Symbol = 2;
pub(crate) const KWARGS: Symbol = 3;

pub(crate) type Body = Vec<Statement>;

pub(crate) struct Statement {
    pub line: usize,
    pub kind: Kind,
}

pub(crate) enum Kind {
    Data(Text),
    Print(Expr),
    For(Arc<For>),
    /// Tests with their bodies, then what is done otherwise.
    If(Vec<(Expr, Body)>, Body),
    Set(Target, Expr),
    SetBlock(Target, Vec<Link>, Body),
    With(Vec<(Target, Expr)>, Body),
    Macro(Arc<Macro>),
    /// A call with a body, which it may ask for as `caller`.
    Call(Arc<Macro>, Expr, Args),
    Filter(Vec<Link>, Body),
    /// Runs with the variables of the whole template only.
    Block(Body),
    /// Runs as part of what is around it, in a scope of its own.
    Generation(Body),
    /// Ends in an error if it is reached.
    Refused(&'static str),
    Break,
    Continue,
}

pub(crate) struct For {
    pub target: Target,
    pub items: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    pub body: Body,
    pub otherwise: Body,
}

pub(crate) struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<(Symbol, Arc<str>)>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Body,
    pub uses_caller: bool,
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
}

pub(crate) enum Target {
    Name(Symbol),
    Tuple(Vec<Target>),
    /// An attribute of a namespace.
    Attribute(Symbol, Arc<str>, Text),
}

pub(crate) enum Expr {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    Name(Symbol),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Test, value, other value.
    Cond(Box<(Expr, Expr, Option<Expr>)>),
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Operations of one precedence, from the left.
    Arithmetic(Box<Expr>, Vec<(Operation, Expr)>),
    Concat(Vec<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Chain(Box<Expr>, Vec<Link>),
}

/// What may follow a value.
pub(crate) enum Link {
    Attribute(Text),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Args),
    Filter(Arc<str>, Args),
    Test { name: Arc<str>, args: Args, negated: bool },
}

#[derive(Default)]
pub(crate) struct Args {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*items`.
    pub items: Option<Box<Expr>>,
    /// `**map`.
    pub map: Option<Box<Expr>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

impl Operation {
    pub fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Remainder => "%",
            Self::Power => "** or pow()",
        }
    }
}
