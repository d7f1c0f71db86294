//! From grammars to matchers, at a bounded cost.
//!
//! llguidance counts steps of its lexer ("fuel"), items of its parser and symbols of its grammar, and
//! gives up beyond a limit. One place does not count: where a new lexer looks at each first byte, it
//! searches for a text that an intersection, a complement or a remainder still matches, however long that
//! takes. So the same search is made before, with fuel, and what fails it never gets there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::{GrammarInit, GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use super::{Grammar, lark, one_line, words};
use crate::error::Error;
use crate::schema::{self, Whitespace};
use crate::tokenizer::Tokenizer;
use crate::wanted;

/// Whitespace between the parts of a JSON value: none, a space, or a line end with indentation.
/// Without a bound, a model may go on indenting for ever.
const JSON_WHITESPACE: &str = r"( |\n {0,12})?";

/// Bytes of a regular expression or Lark text.
const LONGEST: usize = 128 << 10;

/// The stack of a thread that compiles. Rules that call rules are followed by recursion; it is address
/// space, of which only what is used is taken.
const STACK: usize = 256 << 20;

/// Steps of the lexer to compile a grammar, and for one mask: about a second, and about 15 ms.
const COMPILE_FUEL: u64 = 1_000_000;
const MASK_FUEL: u64 = 200_000;

/// Items of the parser: ways to go on at one place, and what a mask may make of them (about 10 ms).
const ROW_ITEMS: usize = 16_000;
const MASK_ITEMS: usize = 200_000;

/// States of a grammar's lexer, 1 to 2 KiB each.
const LEXER_STATES: usize = 40_000;

/// Symbols of a grammar.
const SYMBOLS: usize = 300_000;

/// What is common to the grammars of a tokenizer.
pub(super) fn factory(tokenizer: &Tokenizer, eos: &[u32]) -> Result<ParserFactory, String> {
    let Some(&end) = eos.iter().find(|&&id| (id as usize) < tokenizer.vocab_size()) else {
        return Err("the model has no end token, which a grammar needs".into());
    };
    let words: Vec<_> = (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words).with_eos_tokens(eos);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    factory_of(&environment)
}

pub(super) fn factory_of(environment: &TokEnv) -> Result<ParserFactory, String> {
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(environment, InferenceCapabilities::default(), &slices);
    let mut factory = factory.map_err(|error| error.to_string())?;
    *factory.quiet().limits_mut() = ParserLimits {
        initial_lexer_fuel: COMPILE_FUEL,
        step_lexer_fuel: MASK_FUEL,
        max_lexer_states: LEXER_STATES,
        max_grammar_size: SYMBOLS,
        max_items_in_row: ROW_ITEMS,
        step_max_items: MASK_ITEMS,
        verbose_errors: false,
        ..ParserLimits::default()
    };
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

/// A matcher of a grammar, compiled on a thread that has room for it, as long as anybody wants it.
pub(crate) fn matcher(factory: &ParserFactory, grammar: &Grammar) -> Result<Matcher, Error> {
    let here = || {
        let made = catch_unwind(AssertUnwindSafe(|| compiled(factory, grammar)));
        made.unwrap_or_else(|_| Err("it cannot be compiled".into()))
    };
    let who = wanted::who();
    let make = || match who {
        Some(who) => wanted::until(who, here),
        None => here(),
    };
    std::thread::scope(|scope| {
        let named = std::thread::Builder::new().name("keeve-grammar".into()).stack_size(STACK);
        let thread = named.spawn_scoped(scope, make).map_err(Error::Thread)?;
        let made = thread.join().unwrap_or_else(|_| Err("it cannot be compiled".into()));
        made.map_err(one_line)
    })
}

/// A place to give up at. Nobody reads what it says then.
fn still_wanted() -> Result<(), String> {
    if wanted::go_on() { Ok(()) } else { Err("nobody wants it any more".into()) }
}

fn compiled(factory: &ParserFactory, grammar: &Grammar) -> Result<Matcher, String> {
    let said = |error: &dyn std::fmt::Display| words::said(grammar, &error.to_string());
    let mut grammars = vec![];
    add(grammar, None, &mut grammars)?;
    still_wanted()?;
    let init = GrammarInit::Serialized(TopLevelGrammar { grammars, max_tokens: None });
    let mut limits = factory.limits().clone();
    let internal = init.to_internal(Some(factory.tok_env().clone()), limits.clone());
    let (compiled, lexer) = internal.map_err(|error| said(&error))?;
    still_wanted()?;
    // What the library does next, but with fuel.
    let mut states = lexer.to_regex_vec(&mut limits).map_err(|error| said(&error))?;
    states.set_fuel(COMPILE_FUEL);
    let first = states.initial_state(&lexer.all_lexemes());
    for byte in 0..=u8::MAX {
        still_wanted()?;
        states.transition(first, byte);
        if states.has_error() {
            return Err("it takes too many steps to follow: expressions that are intersected, excluded or repeated this way are too large".into());
        }
    }
    drop(states);
    let parser = factory.create_parser_from_init_default(GrammarInit::Internal(compiled, lexer));
    let matcher = Matcher::new(parser);
    match matcher.get_error() {
        Some(error) => Err(said(&error)),
        None => Ok(matcher),
    }
}

/// Adds a grammar and those that it consists of to a list, the first of which is where it starts.
fn add(
    grammar: &Grammar,
    name: Option<&str>,
    grammars: &mut Vec<GrammarWithLexer>,
) -> Result<(), String> {
    let named = |lark_grammar: String| GrammarWithLexer {
        name: name.map(str::to_owned),
        lark_grammar: Some(lark_grammar),
        json_schema: None,
    };
    let bounded = |text: &str| match text.len() {
        ..=LONGEST => Ok(()),
        bytes => Err(format!("it has {bytes} bytes, expected at most {LONGEST}")),
    };
    match grammar {
        Grammar::JsonSchema(schema) => {
            if !schema.is_object() && !schema.is_boolean() {
                return Err("a JSON schema is an object".into());
            }
            let whitespace = Whitespace::Pattern(JSON_WHITESPACE.into());
            let text = schema::lark(schema, &whitespace).map_err(|refusal| refusal.to_string())?;
            grammars.push(named(text));
        }
        Grammar::Regex(expression) => {
            bounded(expression)?;
            if let Some(problem) = words::malformed(expression) {
                return Err(problem);
            }
            let expression = llguidance::regex_to_lark(expression, "");
            grammars.push(named(match &*expression {
                "" => "start: \"\"".into(),
                expression => format!("start: /{expression}/"),
            }));
        }
        Grammar::Lark(text) => {
            let (text, schemas) = lark::without_schemas(text, name.unwrap_or("main"))?;
            bounded(&text)?;
            lark::check_depth(&text)?;
            lark::check_width(&text)?;
            grammars.push(named(text));
            for (name, schema) in schemas {
                add(&Grammar::JsonSchema(schema), Some(&name), grammars)?;
            }
        }
        Grammar::After { front, rules, answer } => {
            grammars.push(named(format!("start: {front} @answer\n{rules}")));
            add(answer, Some("answer"), grammars)?;
        }
    }
    Ok(())
}
