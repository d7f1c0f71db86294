//! Tokens to expressions, in Jinja's order of precedence: pallets/jinja `src/jinja2/parser.py`.

use std::sync::Arc;

use crate::ast::{Args, Comparison, Expr, Link, Operation};
use crate::error::Result;
use crate::lexer::Token;
use crate::parser::Parser;
use crate::text::Text;

impl Parser {
    /// An expression, or several with commas between them. `ends` are names that end it.
    pub fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.tuple_ends(ends) {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.nested(Self::or)? });
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(item) if !is_tuple => Ok(item),
            Some(item) => {
                items.push(item);
                Ok(Expr::Tuple(items))
            }
            None => self.unexpected("an expression"),
        }
    }

    fn tuple_ends(&self, ends: &[&str]) -> bool {
        matches!(self.token(), Token::PrintEnd | Token::BlockEnd | Token::Sign(")"))
            || ends.iter().any(|end| self.is_name(end))
    }

    pub fn expression(&mut self) -> Result<Expr> {
        self.nested(Self::conditional)
    }

    fn conditional(&mut self) -> Result<Expr> {
        let mut value = self.or()?;
        let depth = self.depth;
        while self.skip_name("if") {
            let test = self.or()?;
            let other = if self.skip_name("else") { Some(self.expression()?) } else { None };
            value = Expr::Cond(Box::new((test, value, other)));
            // Each holds the one before.
            self.nested(|_| Ok(()))?;
            self.depth += 1;
        }
        self.depth = depth;
        Ok(value)
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_name("or") {
            items.push(self.and()?);
        }
        Ok(Expr::Or(items))
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_name("and") {
            items.push(self.not()?);
        }
        Ok(Expr::And(items))
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let kind = match self.token() {
                Token::Sign("==") => Comparison::Equal,
                Token::Sign("!=") => Comparison::NotEqual,
                Token::Sign("<") => Comparison::Less,
                Token::Sign("<=") => Comparison::LessOrEqual,
                Token::Sign(">") => Comparison::Greater,
                Token::Sign(">=") => Comparison::GreaterOrEqual,
                Token::Name(name) if name == "in" => Comparison::In,
                Token::Name(name)
                    if name == "not"
                        && matches!(self.ahead(1), Token::Name(name) if name == "in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ if rest.is_empty() => return Ok(first),
                _ => return Ok(Expr::Compare(Box::new(first), rest)),
            };
            self.next();
            rest.push((kind, self.sum()?));
        }
    }

    /// Operations of one precedence.
    fn operations(
        &mut self,
        operand: fn(&mut Self) -> Result<Expr>,
        operation: fn(&'static str) -> Option<Operation>,
    ) -> Result<Expr> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Token::Sign(sign) = *self.token()
            && let Some(operation) = operation(sign)
        {
            self.next();
            rest.push((operation, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Arithmetic(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.operations(Self::concat, |sign| match sign {
            "+" => Some(Operation::Add),
            "-" => Some(Operation::Subtract),
            _ => None,
        })
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_sign("~") {
            items.push(self.product()?);
        }
        Ok(Expr::Concat(items))
    }

    fn product(&mut self) -> Result<Expr> {
        self.operations(Self::power, |sign| match sign {
            "*" => Some(Operation::Multiply),
            "/" => Some(Operation::Divide),
            "//" => Some(Operation::FloorDivide),
            "%" => Some(Operation::Remainder),
            _ => None,
        })
    }

    fn power(&mut self) -> Result<Expr> {
        self.operations(
            |parser| parser.unary(true),
            |sign| (sign == "**").then_some(Operation::Power),
        )
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let value = if self.skip_sign("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_sign("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let mut links = Vec::new();
        self.postfix(&mut links)?;
        if filters {
            self.filter_links(&mut links)?;
        }
        Ok(if links.is_empty() { value } else { Expr::Chain(Box::new(value), links) })
    }

    fn primary(&mut self) -> Result<Expr> {
        let value = match self.token().clone() {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => Expr::Name(self.symbol(&name)),
            },
            Token::Str(mut text) => {
                while let Token::Str(more) = self.ahead(1) {
                    text.push_str(more);
                    self.next();
                }
                Expr::Str(Text::literal(&text))
            }
            Token::Int(number) => Expr::Int(number),
            Token::Float(number) => Expr::Float(number),
            Token::Sign("(") => {
                self.next();
                let value = if self.is_sign(")") {
                    Expr::Tuple(Vec::new())
                } else {
                    self.nested(|parser| parser.tuple(true, &[]))?
                };
                self.expect_sign(")")?;
                return Ok(value);
            }
            Token::Sign("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_sign("]") {
                    items.push(self.expression()?);
                    if !self.skip_sign(",") {
                        break;
                    }
                }
                self.expect_sign("]")?;
                return Ok(Expr::List(items));
            }
            Token::Sign("{") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_sign("}") {
                    let key = self.expression()?;
                    self.expect_sign(":")?;
                    items.push((key, self.expression()?));
                    if !self.skip_sign(",") {
                        break;
                    }
                }
                self.expect_sign("}")?;
                return Ok(Expr::Dict(items));
            }
            _ => return self.unexpected("an expression"),
        };
        self.next();
        Ok(value)
    }

    fn postfix(&mut self, links: &mut Vec<Link>) -> Result<()> {
        loop {
            if self.skip_sign(".") {
                links.push(match self.next() {
                    Token::Name(name) => Link::Attribute(Text::literal(&name)),
                    Token::Int(number) => Link::Item(Expr::Int(number)),
                    _ => return self.fail("expected name or number"),
                });
            } else if self.skip_sign("[") {
                links.push(self.subscript()?);
            } else if self.is_sign("(") {
                links.push(Link::Call(self.args()?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Result<Link> {
        let mut items = Vec::new();
        while !self.is_sign("]") {
            if !items.is_empty() {
                self.expect_sign(",")?;
            }
            let start = if self.is_sign(":") { None } else { Some(self.expression()?) };
            match start {
                Some(item) if !self.is_sign(":") => items.push(item),
                start => {
                    self.expect_sign(":")?;
                    let part = |parser: &mut Self| {
                        let none = matches!(parser.token(), Token::Sign(":" | "]" | ","));
                        if none { Ok(None) } else { parser.expression().map(Some) }
                    };
                    let stop = part(self)?;
                    let step = if self.skip_sign(":") { part(self)? } else { None };
                    if !items.is_empty() || !self.skip_sign("]") {
                        return self.fail("a slice cannot be one of several subscripts");
                    }
                    return Ok(Link::Slice(Box::new([start, stop, step])));
                }
            }
        }
        self.expect_sign("]")?;
        Ok(Link::Item(match items.pop() {
            Some(item) if items.is_empty() => item,
            Some(item) => {
                items.push(item);
                Expr::Tuple(items)
            }
            None => Expr::Tuple(items),
        }))
    }

    fn args(&mut self) -> Result<Args> {
        self.expect_sign("(")?;
        let mut args = Args::default();
        let mut first = true;
        while !self.is_sign(")") {
            if !std::mem::take(&mut first) {
                self.expect_sign(",")?;
                if self.is_sign(")") {
                    break;
                }
            }
            let wrong = "invalid syntax for function call expression";
            if self.skip_sign("*") {
                if args.items.is_some() || args.map.is_some() {
                    return self.fail(wrong);
                }
                args.items = Some(Box::new(self.expression()?));
            } else if self.skip_sign("**") {
                if args.map.is_some() {
                    return self.fail(wrong);
                }
                args.map = Some(Box::new(self.expression()?));
            } else if let Token::Name(name) = self.token().clone()
                && *self.ahead(1) == Token::Sign("=")
            {
                if args.map.is_some() {
                    return self.fail(wrong);
                }
                self.next();
                self.next();
                args.named.push((name.into(), self.expression()?));
            } else {
                if args.items.is_some() || args.map.is_some() || !args.named.is_empty() {
                    return self.fail(wrong);
                }
                args.positional.push(self.expression()?);
            }
        }
        self.expect_sign(")")?;
        Ok(args)
    }

    fn filter_links(&mut self, links: &mut Vec<Link>) -> Result<()> {
        loop {
            if self.is_sign("|") {
                links.extend(self.filters(false)?);
            } else if self.skip_name("is") {
                links.push(self.test()?);
            } else if self.is_sign("(") {
                links.push(Link::Call(self.args()?));
            } else {
                return Ok(());
            }
        }
    }

    /// Filters; the first may stand without `|` before it.
    pub fn filters(&mut self, mut first_is_bare: bool) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        while std::mem::take(&mut first_is_bare) || self.skip_sign("|") {
            let name = self.dotted_name()?;
            let args = if self.is_sign("(") { self.args()? } else { Args::default() };
            links.push(Link::Filter(name, args));
        }
        Ok(links)
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.any_name()?;
        while self.skip_sign(".") {
            name.push('.');
            name.push_str(&self.any_name()?);
        }
        Ok(name.into())
    }

    fn test(&mut self) -> Result<Link> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let has_argument = match self.token() {
            Token::Name(name) => !["else", "or", "and"].contains(&name.as_str()),
            Token::Str(_) | Token::Int(_) | Token::Float(_) => true,
            Token::Sign("[" | "{") => true,
            _ => false,
        };
        let mut args = Args::default();
        if self.is_sign("(") {
            args = self.args()?;
        } else if self.is_name("is") {
            return self.fail("You cannot chain multiple tests with is");
        } else if has_argument {
            let value = self.nested(Self::primary)?;
            let mut links = Vec::new();
            self.postfix(&mut links)?;
            let value = if links.is_empty() { value } else { Expr::Chain(Box::new(value), links) };
            args.positional.push(value);
        }
        Ok(Link::Test { name, args, negated })
    }
}
