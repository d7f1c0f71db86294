//! Tokens to statements: pallets/jinja `src/jinja2/parser.py`. Expressions are in `expressions.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{
    Body, CALLER, Expr, For, KNOWN, KWARGS, Kind, Link, Macro, Statement, Symbol, Target, VARARGS,
};
use crate::error::{Error, Result};
use crate::lexer::{Token, tokens};
use crate::text::Text;

/// Deepest nesting of blocks, brackets and operators in front or without end. Python's own compiler gives
/// up at about a hundred blocks or two hundred brackets.
const MAX_DEPTH: usize = 200;

/// A parsed template, with the names of its variables.
pub(crate) struct Parsed {
    pub body: Body,
    pub names: HashMap<String, Symbol>,
}

pub(crate) fn parse(source: &str) -> Result<Parsed> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        depth: 0,
        names: KNOWN.into_iter().map(str::to_owned).zip(0..).collect(),
        used: Vec::new(),
    };
    let body = parser.body(&[])?;
    Ok(Parsed { body, names: parser.names })
}

pub(crate) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    pub depth: usize,
    names: HashMap<String, Symbol>,
    /// Which of the macros' own names the macros around have used so far.
    used: Vec<[bool; KNOWN.len()]>,
}

impl Parser {
    /// The current token. The list ends with one that is never passed.
    pub fn token(&self) -> &Token {
        self.ahead(0)
    }

    pub fn ahead(&self, offset: usize) -> &Token {
        self.tokens.get(self.at + offset).map_or(&Token::End, |(token, _)| token)
    }

    pub fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub fn next(&mut self) -> Token {
        let token = self.token().clone();
        if self.at < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Syntax { message: message.into(), line: self.line() })
    }

    pub fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.token() {
            Token::Name(name) => format!("'{}'", name.chars().take(40).collect::<String>()),
            Token::Sign(sign) => format!("'{sign}'"),
            Token::Str(_) => "a string".to_owned(),
            Token::Int(_) | Token::Float(_) => "a number".to_owned(),
            Token::PrintEnd => "'}}'".to_owned(),
            Token::BlockEnd => "'%}'".to_owned(),
            Token::End => "the end of the template".to_owned(),
            Token::Data(_) | Token::PrintBegin | Token::BlockBegin => "text".to_owned(),
        };
        self.fail(format!("expected {expected}, found {found}"))
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(found) if found == name)
    }

    pub fn is_sign(&self, sign: &str) -> bool {
        matches!(self.token(), Token::Sign(found) if *found == sign)
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub fn expect_sign(&mut self, sign: &str) -> Result<()> {
        if self.skip_sign(sign) { Ok(()) } else { self.unexpected(&format!("'{sign}'")) }
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(&format!("'{name}'")) }
    }

    pub fn any_name(&mut self) -> Result<String> {
        match self.token() {
            Token::Name(_) => match self.next() {
                Token::Name(name) => Ok(name),
                _ => self.unexpected("a name"),
            },
            _ => self.unexpected("a name"),
        }
    }

    pub fn symbol(&mut self, name: &str) -> Symbol {
        let next = self.names.len() as Symbol;
        let symbol = *self.names.entry(name.to_owned()).or_insert(next);
        if let Some(index) = KNOWN.iter().position(|known| *known == name) {
            self.used.iter_mut().for_each(|used| used[index] = true);
        }
        symbol
    }

    /// Runs `inner` one level deeper.
    pub fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        let parsed = inner(self);
        self.depth -= 1;
        parsed
    }

    /// Statements up to a block that begins with one of `ends`, which is the current token then.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.next() {
                Token::Data(text) => Kind::Data(Text::literal(&text)),
                Token::PrintBegin => {
                    let value = self.tuple(true, &[])?;
                    self.end_of(Token::PrintEnd)?;
                    Kind::Print(value)
                }
                Token::BlockBegin => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let kinds = self.nested(|parser| parser.statement())?;
                    self.end_of(Token::BlockEnd)?;
                    body.extend(kinds.into_iter().map(|kind| Statement { line, kind }));
                    continue;
                }
                Token::End if ends.is_empty() => return Ok(body),
                _ => {
                    let ends: Vec<String> = ends.iter().map(|end| format!("'{end}'")).collect();
                    return self.fail(format!(
                        "unexpected end of template, expected {}",
                        ends.join(" or ")
                    ));
                }
            };
            body.push(Statement { line, kind });
        }
    }

    fn end_of(&mut self, end: Token) -> Result<()> {
        if *self.token() == end {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(if end == Token::BlockEnd { "'%}'" } else { "'}}'" })
    }

    /// A body behind the tag that is being read, and which of `ends` ended it.
    fn block(&mut self, ends: &[&str]) -> Result<(Body, String)> {
        self.skip_sign(":");
        self.end_of(Token::BlockEnd)?;
        let body = self.body(ends)?;
        Ok((body, self.any_name()?))
    }

    fn statement(&mut self) -> Result<Vec<Kind>> {
        let Token::Name(name) = self.token().clone() else {
            return self.unexpected("the name of a tag");
        };
        self.at += 1;
        let kind = match name.as_str() {
            "for" => self.for_loop()?,
            "if" => self.if_block()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.any_name()?;
                Kind::Macro(Arc::new(self.macro_body(&name, "endmacro", true)?.0))
            }
            "call" => self.call_block()?,
            "filter" => {
                let links = self.filters(true)?;
                Kind::Filter(links, self.block(&["endfilter"])?.0)
            }
            "generation" => Kind::Generation(self.block(&["endgeneration"])?.0),
            "block" => {
                let name = self.any_name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let (body, _) = self.block(&["endblock"])?;
                self.skip_name(&name);
                Kind::Block(body)
            }
            "print" => {
                let mut printed = Vec::new();
                while *self.token() != Token::BlockEnd {
                    if !printed.is_empty() {
                        self.expect_sign(",")?;
                    }
                    printed.push(Kind::Print(self.expression()?));
                }
                return Ok(printed);
            }
            "break" => Kind::Break,
            "continue" => Kind::Continue,
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.token(), Token::BlockEnd | Token::End) {
                    self.at += 1;
                }
                Kind::Refused("a chat template cannot load other templates")
            }
            other => return self.fail(format!("Encountered unknown tag '{other}'")),
        };
        Ok(vec![kind])
    }

    fn for_loop(&mut self) -> Result<Kind> {
        let target = self.target(&["in"], false)?;
        self.expect_name("in")?;
        let items = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        let (body, end) = self.block(&["endfor", "else"])?;
        let otherwise = if end == "else" { self.block(&["endfor"])?.0 } else { Vec::new() };
        Ok(Kind::For(Arc::new(For { target, items, test, recursive, body, otherwise })))
    }

    fn if_block(&mut self) -> Result<Kind> {
        let mut cases = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            cases.push((test, body));
            match end.as_str() {
                "elif" => (),
                "else" => return Ok(Kind::If(cases, self.block(&["endif"])?.0)),
                _ => return Ok(Kind::If(cases, Vec::new())),
            }
        }
    }

    fn set(&mut self) -> Result<Kind> {
        let target = self.target(&[], true)?;
        if self.skip_sign("=") {
            return Ok(Kind::Set(target, self.tuple(true, &[])?));
        }
        let links = self.filters(false)?;
        Ok(Kind::SetBlock(target, links, self.block(&["endset"])?.0))
    }

    fn with(&mut self) -> Result<Kind> {
        let mut values = Vec::new();
        while *self.token() != Token::BlockEnd {
            if !values.is_empty() {
                self.expect_sign(",")?;
            }
            let target = self.target(&[], false)?;
            self.expect_sign("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Kind::With(values, self.block(&["endwith"])?.0))
    }

    /// Parameters, then what `middle` reads, then the body.
    fn macro_with<T>(
        &mut self,
        name: &str,
        end: &str,
        signature: bool,
        middle: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Macro, T)> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        // A parameter called `caller` is no use of it.
        if signature {
            self.expect_sign("(")?;
            while !self.is_sign(")") {
                if !parameters.is_empty() {
                    self.expect_sign(",")?;
                }
                let parameter = self.any_name()?;
                let symbol = self.symbol(&parameter);
                parameters.push((symbol, Arc::from(parameter)));
                if self.skip_sign("=") {
                    defaults.push(self.expression()?);
                } else if symbol == CALLER {
                    return self.fail("a parameter called caller needs a default");
                } else if !defaults.is_empty() {
                    return self.fail("non-default argument follows default argument");
                }
            }
            self.expect_sign(")")?;
        }
        let between = middle(self)?;
        self.used.push([false; KNOWN.len()]);
        let body = self.block(&[end]);
        let used = self.used.pop().unwrap_or_default();
        let uses = |symbol: Symbol| {
            let declared = parameters.iter().any(|(parameter, _)| *parameter == symbol);
            used[symbol as usize] && !declared
        };
        let (uses_caller, uses_varargs, uses_kwargs) = (uses(CALLER), uses(VARARGS), uses(KWARGS));
        let (body, name) = (body?.0, Arc::from(name));
        let made =
            Macro { name, parameters, defaults, body, uses_caller, uses_varargs, uses_kwargs };
        Ok((made, between))
    }

    fn macro_body(&mut self, name: &str, end: &str, signature: bool) -> Result<(Macro, ())> {
        self.macro_with(name, end, signature, |_| Ok(()))
    }

    fn call_block(&mut self) -> Result<Kind> {
        let signature = self.is_sign("(");
        let (body, call) = self.macro_with("caller", "endcall", signature, Self::expression)?;
        match call {
            Expr::Chain(base, mut links) => match links.pop() {
                Some(Link::Call(args)) => {
                    Ok(Kind::Call(Arc::new(body), Expr::Chain(base, links), args))
                }
                _ => self.fail("expected call"),
            },
            _ => self.fail("expected call"),
        }
    }

    /// What is assigned to. `ends` are names that end a tuple.
    fn target(&mut self, ends: &[&str], namespaces: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if ends.iter().any(|end| self.is_name(end)) || self.is_sign("=") || self.is_sign(")") {
                break;
            }
            targets.push(self.single_target(namespaces)?);
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(target) if !is_tuple => Ok(target),
            Some(target) => {
                targets.push(target);
                Ok(Target::Tuple(targets))
            }
            None => self.unexpected("a name to assign to"),
        }
    }

    fn single_target(&mut self, namespaces: bool) -> Result<Target> {
        if self.skip_sign("(") {
            let target = self.nested(|parser| parser.target(&[], namespaces))?;
            self.expect_sign(")")?;
            return Ok(target);
        }
        let name = self.any_name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&name.as_str()) {
            return self.fail(format!("can't assign to '{name}'"));
        }
        let symbol = self.symbol(&name);
        if namespaces && self.skip_sign(".") {
            let attribute = self.any_name()?;
            let text = Text::literal(&attribute);
            return Ok(Target::Attribute(symbol, name.into(), text));
        }
        Ok(Target::Name(symbol))
    }
}
