//! Answers that must match a grammar.
//!
//! A [`Constraint`] says after each token which tokens may come next. That takes a while for a large
//! vocabulary, so a thread of its own works it out as soon as a token is chosen, while the model
//! computes the logits that the result will be applied to.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::toktrie::{TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// A JSON value that this JSON schema accepts.
    JsonSchema(Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text of this grammar, written as llguidance's variant of Lark (guidance-ai/llguidance,
    /// `docs/syntax.md`).
    Lark(String),
}

/// Whitespace between the parts of a JSON value: none, a space, or a line end with indentation.
/// Without a bound, a model may go on indenting for ever.
const JSON_WHITESPACE: &str = r"( |\n {0,12})?";

/// Makes constraints for one tokenizer, and works out masks.
#[derive(Default)]
pub(crate) struct Grammars {
    factory: OnceLock<Result<ParserFactory, String>>,
    /// The thread that works out masks, once there is one.
    jobs: Mutex<Option<Sender<Job>>>,
}

/// A grammar made ready for one answer.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    jobs: Sender<Job>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

/// A matcher that is to go on, after `token` if there is one.
struct Job {
    matcher: Matcher,
    token: Option<u32>,
    answer: Sender<Ready>,
}

/// A matcher, and the tokens that it lets through; `None` if nothing may follow.
struct Ready {
    matcher: Matcher,
    allowed: Result<Option<SimpleVob>, String>,
}

impl Grammars {
    /// A constraint for the answers of a model with these end tokens.
    ///
    /// # Errors
    /// If the grammar is malformed or too large.
    pub fn constraint(
        &self,
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        eos: &[u32],
    ) -> Result<Constraint, Error> {
        let make = || {
            let factory = self.factory.get_or_init(|| factory(tokenizer, eos));
            let factory = factory.as_ref().map_err(Clone::clone)?;
            let parser = factory.create_parser(top_level(grammar)?);
            let matcher = Matcher::new(parser);
            match matcher.get_error() {
                Some(error) => Err(error),
                None => Ok(matcher),
            }
        };
        let made = catch_unwind(AssertUnwindSafe(make));
        let matcher = made.unwrap_or_else(|_| Err("it cannot be compiled".into()));
        let one_line = |problem: String| {
            Error::Grammar(problem.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        Ok(Constraint { matcher: matcher.map_err(one_line)?, jobs: self.jobs()? })
    }

    fn jobs(&self) -> Result<Sender<Job>, Error> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*jobs {
            return Ok(jobs.clone());
        }
        let (sender, inbox) = channel::<Job>();
        let named = std::thread::Builder::new().name("keeve-masks".into());
        // It ends when the engine and all constraints are gone, and holds nothing of theirs.
        named.spawn(move || inbox.into_iter().for_each(work_out)).map_err(Error::Thread)?;
        Ok(jobs.insert(sender).clone())
    }
}

fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, String> {
    Ok(match grammar {
        Grammar::JsonSchema(schema) => {
            let mut schema = match schema {
                Value::Bool(true) => json!({}),
                schema => schema.clone(),
            };
            let Some(fields) = schema.as_object_mut() else {
                return Err("a JSON schema is an object".into());
            };
            let options = json!({ "whitespace_pattern": JSON_WHITESPACE });
            fields.entry("x-guidance").or_insert(options);
            TopLevelGrammar::from_json_schema(schema)
        }
        Grammar::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
        Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
    })
}

fn factory(tokenizer: &Tokenizer, eos: &[u32]) -> Result<ParserFactory, String> {
    let Some(&end) = eos.iter().find(|&&id| (id as usize) < tokenizer.vocab_size()) else {
        return Err("the model has no end token, which a grammar needs".into());
    };
    let words: Vec<_> = (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words).with_eos_tokens(eos);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
    let mut factory = factory.map_err(|error| error.to_string())?;
    factory.quiet().limits_mut().verbose_errors = false;
    Ok(factory)
}

/// A token as the library wants it: special ones behind a byte that no text has.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let marker = TokTrie::SPECIAL_TOKEN_MARKER;
    if tokenizer.is_special(id) {
        [&[marker], bytes].concat()
    } else if bytes.len() > 1 && bytes[0] == marker {
        // It would be taken for a special one; valid text never needs it.
        vec![]
    } else {
        bytes.to_vec()
    }
}

fn work_out(job: Job) {
    let Job { mut matcher, token, answer } = job;
    let allowed = catch_unwind(AssertUnwindSafe(|| {
        if let Some(token) = token {
            matcher.consume_token(token).map_err(|error| error.to_string())?;
        }
        if matcher.is_stopped() {
            return matcher.get_error().map_or(Ok(None), Err);
        }
        matcher.compute_mask().map(Some).map_err(|error| error.to_string())
    }));
    let allowed = allowed.unwrap_or_else(|_| Err("it made the library panic".into()));
    // The answer may have been cancelled.
    let _ = answer.send(Ready { matcher, allowed });
}

/// A constraint on its way through an answer.
pub(crate) struct Following {
    jobs: Sender<Job>,
    ready: Receiver<Ready>,
}

/// Where an answer stands in its grammar.
pub(crate) enum Standing {
    /// Nothing may follow.
    Complete,
    /// These tokens may follow.
    Open(Box<Allowed>),
}

/// Tokens that may come next, and the matcher that waits for one of them.
pub(crate) struct Allowed {
    matcher: Matcher,
    tokens: SimpleVob,
}

impl Allowed {
    /// One bit a token, lowest first.
    pub fn bits(&self) -> &[u32] {
        self.tokens.as_slice()
    }
}

impl Following {
    /// Begins to work out what may come first.
    pub fn start(constraint: Constraint) -> Self {
        let Constraint { matcher, jobs } = constraint;
        let mut following = Self { jobs, ready: channel().1 };
        following.post(matcher, None);
        following
    }

    /// What may come next, waiting until it is known.
    pub fn standing(&self) -> Result<Standing, Error> {
        let Ok(Ready { matcher, allowed }) = self.ready.recv() else {
            return Err(Error::Grammar("the thread that follows it has died".into()));
        };
        Ok(match allowed.map_err(Error::Grammar)? {
            None => Standing::Complete,
            Some(tokens) => Standing::Open(Box::new(Allowed { matcher, tokens })),
        })
    }

    /// Goes on with the token that was chosen.
    pub fn advance(&mut self, allowed: Box<Allowed>, token: u32) {
        self.post(allowed.matcher, Some(token));
    }

    fn post(&mut self, matcher: Matcher, token: Option<u32>) {
        let (answer, ready) = channel();
        self.ready = ready;
        // If the thread is gone, `standing` says so.
        let _ = self.jobs.send(Job { matcher, token, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let json = include_bytes!("../../../testdata/tokenizers/tok_qwen/tokenizer.json");
        Tokenizer::from_json(json, &[]).unwrap()
    }

    fn end(tokenizer: &Tokenizer) -> u32 {
        tokenizer.token_id("<|im_end|>").unwrap()
    }

    fn constraint(grammar: &Grammar) -> Result<Constraint, Error> {
        let tokenizer = tokenizer();
        Grammars::default().constraint(grammar, &tokenizer, &[end(&tokenizer)])
    }

    /// Text of tokens chosen at random among those that the grammar lets through; `None` if that
    /// takes too long.
    fn walk(grammar: &Grammar, seed: u64) -> Option<String> {
        let tokenizer = tokenizer();
        let end = end(&tokenizer);
        let mut following = Following::start(constraint(grammar).unwrap());
        let mut random = seed;
        let mut text = vec![];
        for _ in 0..400 {
            let Standing::Open(allowed) = following.standing().unwrap() else {
                return String::from_utf8(text).ok();
            };
            let ids = 0..tokenizer.vocab_size() as u32;
            let open: Vec<u32> =
                ids.filter(|id| allowed.bits()[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let id = open[(random >> 33) as usize % open.len()];
            if id == end {
                return String::from_utf8(text).ok();
            }
            assert!(!tokenizer.is_special(id), "{id}");
            text.extend_from_slice(tokenizer.token_bytes(id).unwrap());
            following.advance(allowed, id);
        }
        None
    }

    #[test]
    fn whatever_is_chosen_the_text_matches_the_schema() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["name", "size"],
            "properties": {
                "name": { "enum": ["cider", "perry"] },
                "size": { "type": "integer", "minimum": 1, "maximum": 99 },
            },
        });
        let mut complete = 0;
        for seed in 0..20 {
            let Some(text) = walk(&Grammar::JsonSchema(schema.clone()), seed) else { continue };
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}"));
            assert!(["cider", "perry"].contains(&value["name"].as_str().unwrap()), "{text}");
            assert!((1..=99).contains(&value["size"].as_u64().unwrap()), "{text}");
            complete += 1;
        }
        assert!(complete > 10, "{complete}");
    }

    #[test]
    fn regular_expressions_and_grammars_bind_as_well() {
        for seed in 0..5 {
            let text = walk(&Grammar::Regex("(ab|cd){3}[0-9]".into()), seed).unwrap();
            assert!(
                text.len() == 7 && text.ends_with(|last: char| last.is_ascii_digit()),
                "{text}"
            );
            let lark = "start: \"left \" side\nside: \"up\" | \"down\"";
            let text = walk(&Grammar::Lark(lark.into()), seed).unwrap();
            assert!(["left up", "left down"].contains(&&*text), "{text}");
        }
    }

    #[test]
    fn grammars_that_are_wrong_or_too_large_are_refused_with_the_reason() {
        let nested = |depth: usize| {
            (0..depth).fold(
                json!({"type": "string"}),
                |inner, _| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}),
            )
        };
        assert!(constraint(&Grammar::JsonSchema(nested(20))).is_ok());
        for (grammar, reason) in [
            (Grammar::JsonSchema(json!({"type": "strin"})), "strin"),
            (Grammar::JsonSchema(json!(7)), "object"),
            (Grammar::JsonSchema(json!({"$ref": "http://elsewhere/schema"})), "elsewhere"),
            (Grammar::Regex("(".into()), "regex"),
            (Grammar::Lark("start: nothing".into()), "nothing"),
        ] {
            let error = match constraint(&grammar) {
                Ok(_) => panic!("{grammar:?}"),
                Err(error) => error.to_string(),
            };
            assert!(error.starts_with("grammar: ") && error.contains(reason), "{error}");
        }
    }
}
