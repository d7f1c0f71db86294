//! Answers that must match a grammar.
//!
//! A [`Constraint`] says after each token which tokens may come next. That takes a while for a large
//! vocabulary, so a thread of its own works it out as soon as a token is chosen, while the model
//! computes the logits that the result will be applied to ([`masks`]). How much a grammar may cost is
//! bounded: [`compile`] has the limits.

mod compile;
mod known;
mod lark;
mod masks;
pub(crate) mod width;
mod words;

use std::fmt;
use std::sync::OnceLock;

use llguidance::ParserFactory;
use serde_json::Value;

use crate::error::Error;
use crate::tokenizer::Tokenizer;
use crate::wanted;

pub(crate) use masks::{Following, Standing};

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Grammar {
    /// A JSON value that this JSON schema accepts.
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text of this grammar, written as llguidance's variant of Lark (guidance-ai/llguidance,
    /// `docs/syntax.md`). Schemas behind `%json` are read as [`Self::JsonSchema`].
    Lark(String),
    /// Something in front, for example reasoning up to its end, then an answer.
    After {
        /// What is in front: a sequence for a rule of a Lark grammar.
        front: String,
        /// The rules that it names.
        rules: String,
        /// What the answer must look like.
        answer: Box<Grammar>,
    },
}

impl Grammar {
    /// Compiles it for a tokenizer whose tokens are single bytes.
    ///
    /// # Errors
    /// If it is malformed or too large.
    pub fn check(&self) -> Result<(), Error> {
        let factory = BYTEWISE.get_or_init(|| {
            compile::factory_of(&llguidance::toktrie::ApproximateTokEnv::single_byte_env())
        });
        let factory = factory.as_ref().map_err(|problem| one_line(problem.clone()))?;
        compile::matcher(factory, self).map(drop)
    }
}

static BYTEWISE: OnceLock<Result<ParserFactory, String>> = OnceLock::new();

/// A problem as one line.
fn one_line(problem: String) -> Error {
    let line = problem.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Grammar(words::short(&line))
}

/// Makes constraints for one tokenizer, and works out masks.
pub(crate) struct Grammars {
    factory: OnceLock<Result<ParserFactory, String>>,
    known: known::Known,
    jobs: masks::Jobs,
}

/// A grammar made ready for one answer, with its first mask.
#[derive(Clone)]
pub struct Constraint {
    first: masks::Ready,
    jobs: masks::Jobs,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

impl Grammars {
    /// Starts the threads that work out masks. They have the priority of this one: who compiles a grammar may have
    /// a low one, and answers wait for masks.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn start() -> Result<Self, Error> {
        let jobs = masks::start().map_err(Error::Thread)?;
        Ok(Self { factory: OnceLock::new(), known: known::Known::default(), jobs })
    }

    /// A constraint for the answers of a model with these end tokens.
    ///
    /// # Errors
    /// If the grammar is malformed or too large, or nobody wants it any more.
    pub fn constraint(
        &self,
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        eos: &[u32],
    ) -> Result<Constraint, Error> {
        let first = match self.known.find(grammar) {
            Some(known) => known.map_err(Error::Grammar)?,
            None => self.compile(grammar, tokenizer, eos)?,
        };
        Ok(Constraint { first, jobs: self.jobs.clone() })
    }

    fn compile(
        &self,
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        eos: &[u32],
    ) -> Result<masks::Ready, Error> {
        let factory = self.factory.get_or_init(|| compile::factory(tokenizer, eos));
        let factory = factory.as_ref().map_err(|problem| one_line(problem.clone()))?;
        let made = compile::matcher(factory, grammar).and_then(masks::first);
        // If nobody wants it any more, that may be why it was refused.
        wanted::check()?;
        match &made {
            Ok(ready) => self.known.add(grammar, Ok(ready)),
            Err(Error::Grammar(problem)) => self.known.add(grammar, Err(problem.clone())),
            Err(_) => (),
        }
        made
    }
}

#[cfg(test)]
pub(crate) mod suite;
#[cfg(test)]
mod tests;
