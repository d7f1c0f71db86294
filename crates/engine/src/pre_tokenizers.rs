//! How GGUF's named pre-tokenizers (`tokenizer.ggml.pre`) split text before byte-level merging.
//!
//! Names, defaults and patterns: ggml-org/llama.cpp `src/llama-vocab.cpp`, which gives most patterns
//! beside the `tokenizer.json` they come from. Where it writes a pattern for its own engine, the
//! original is used: they mean the same, except that for `tekken` and `gpt-4o` llama.cpp knows upper
//! and lower case of ASCII only, and the model was trained with the original.

use std::sync::LazyLock;

use fancy_regex::Regex;

/// How a named pre-tokenizer behaves.
#[derive(Debug, Clone, Copy)]
pub struct PreTokenizer {
    /// Applied in turn to the pieces that the one before left; what does not match is a piece too.
    pub patterns: &'static [&'static str],
    /// A piece that is in the vocabulary whole is not merged step by step.
    pub ignore_merges: bool,
    /// Whether a BOS is put before text when the file does not say.
    pub add_bos: bool,
    /// The vocabulary has characters, not letters for bytes.
    pub characters: bool,
    /// With `characters`: a space is written as U+2581.
    pub marks: bool,
    /// A piece of newlines that is in the vocabulary whole is not merged step by step.
    pub whole_newlines: bool,
}

/// What byte-level tokenizers split by if they have no pattern of their own.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// The letters that have a case, as the file spells them out.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const YOUTU_CJK: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const AFMOE_CJK: &str = "[一-鿿㐀-䶿豈-\u{faff}぀-ゟ゠-ヿ･-ﾟ⼀-\u{2fdf}เ-๿຀-\u{eff}ក-\u{17ff}က-႟ꩠ-ꩿꧠ-\u{a9ff}가-\u{d7af}ᄀ-ᇿ]+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
/// Digits in threes, counted from the right.
const DIGITS_FROM_RIGHT: &str = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))";
/// The same, where no word goes on after them.
const DIGITS_OF_WORD: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
/// Between threes of digits, counted from the right.
const BETWEEN_DIGITS: &str = r"(?=(\d{3})+(?!\d))";
/// Newlines apart from everything else.
const LINES: &str = r"[^\n]+|[\n]+";

/// The pre-tokenizer called `name`.
pub(crate) fn pre_tokenizer(name: &str) -> Option<PreTokenizer> {
    let plain = |patterns| PreTokenizer {
        patterns,
        ignore_merges: false,
        add_bos: false,
        characters: false,
        marks: false,
        whole_newlines: false,
    };
    let whole = |patterns| PreTokenizer { ignore_merges: true, ..plain(patterns) };
    let begun = |patterns| PreTokenizer { add_bos: true, ..whole(patterns) };
    let characters = |patterns| PreTokenizer { characters: true, ..plain(patterns) };
    Some(match name {
        "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "jina-v5-nano" => begun(&[LLAMA3]),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => plain(&[LLAMA3]),
        "glm4" | "glm5" => whole(&[LLAMA3]),
        "jais-2" => plain(&[JAIS2]),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" | "hunyuan" | "solar-open"
        | "grok-2" | "kormo" | "f2llmv2" => plain(&[QWEN2]),
        "qwen35" => plain(&[QWEN35]),
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "exaone4" | "trillion" | "granite-docling"
        | "gigachat" | "a.x-4.0" | "mellum" | "jais" | "jina-es" | "jina-de" | "jina-v2-es"
        | "jina-v2-de" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => {
            plain(&[GPT2])
        }
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => plain(&[r"\p{N}", GPT2]),
        "falcon" => plain(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
        "deepseek-coder" => plain(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
        "tekken" => begun(&[TEKKEN]),
        "deepseek-llm" => plain(&[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ]),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            plain(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3])
        }
        "spark2_5" => plain(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", SPARK, r"\p{N}"]),
        "youtu" => whole(&[YOUTU_CJK, YOUTU]),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => plain(&[GPT4O]),
        "granite-embed-multi-97m" => whole(&[GPT4O]),
        "tiny_aya" | "cohere2moe" => plain(&[DIGITS_OF_WORD, GPT4O]),
        "kimi-k2" => plain(&[KIMI]),
        "superbpe" => plain(&[r"\p{N}+", BETWEEN_DIGITS]),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(&[BAILING]),
        "seed-coder" => plain(&[SEED_CODER]),
        "ufakzeka" => plain(&[UFAKZEKA]),
        "afmoe" => plain(&[DIGITS_FROM_RIGHT, AFMOE_CJK, DEEPSEEK_V3]),
        "laguna" => plain(&[LINES, QWEN2]),
        "exaone-moe" => plain(&[EXAONE_MOE]),
        "chameleon" => PreTokenizer {
            add_bos: true,
            ..plain(&[
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2,
            ])
        },
        "minicpm5" => whole(&[r"\p{N}{1,3}", MINICPM5]),
        "bloom" | "poro-chat" | "gpt3-finnish" => plain(&[BLOOM]),
        "viking" => plain(&[BLOOM, r"\p{N}"]),
        // llama.cpp puts a BOS before text here whatever the file says.
        "gemma4" | "granite-embed-multi-311m" => PreTokenizer {
            add_bos: true,
            marks: true,
            whole_newlines: true,
            ..characters(&[LINES])
        },
        "sarvam-moe" => PreTokenizer { marks: true, ..characters(&[LINES]) },
        "whitespace" => characters(&[r"\S+"]),
        _ => return None,
    })
}

/// A way of splitting, made ready.
#[derive(Debug)]
pub(crate) struct Splitter(Vec<Rule>);

#[derive(Debug)]
enum Rule {
    Pattern(Box<Regex>),
    /// [`LINES`], [`DIGITS_FROM_RIGHT`] and its like: as patterns they look ahead to the end of a run from each place
    /// of it, which takes the square of its length.
    Lines,
    Digits {
        of_word: bool,
        decimal: bool,
    },
    /// Pieces of white space, and the white space around others, are left out.
    NoSpaces,
}

impl Splitter {
    /// # Errors
    /// If a pattern is none.
    pub fn new(patterns: &[&str], drops_spaces: bool) -> Result<Self, String> {
        let rule = |pattern: &&str| {
            Ok(match *pattern {
                LINES => Rule::Lines,
                DIGITS_FROM_RIGHT => Rule::Digits { of_word: false, decimal: false },
                DIGITS_OF_WORD => Rule::Digits { of_word: true, decimal: true },
                BETWEEN_DIGITS => Rule::Digits { of_word: false, decimal: true },
                pattern => Rule::Pattern(Box::new(Regex::new(pattern).map_err(|e| e.to_string())?)),
            })
        };
        let mut rules = patterns.iter().map(rule).collect::<Result<Vec<_>, String>>()?;
        if drops_spaces {
            rules.insert(0, Rule::NoSpaces);
        }
        Ok(Self(rules))
    }

    /// Calls `each` with the pieces of `text`, from left to right.
    pub fn split(&self, text: &str, mut each: impl FnMut(&str)) {
        step(&self.0, text, &mut each);
    }
}

fn step(rules: &[Rule], text: &str, each: &mut dyn FnMut(&str)) {
    let Some((rule, rules)) = rules.split_first() else {
        if !text.is_empty() {
            each(text);
        }
        return;
    };
    let mut done = 0;
    let mut found = |start: usize, end: usize| {
        for piece in [&text[done..start], &text[start..end]] {
            if !piece.is_empty() {
                step(rules, piece, each);
            }
        }
        done = end;
    };
    match rule {
        // A pattern that gives up finds nothing more, as in the `tokenizers` crate.
        Rule::Pattern(pattern) => {
            for matched in pattern.find_iter(text).map_while(Result::ok) {
                found(matched.start(), matched.end());
            }
        }
        Rule::Lines => {
            let mut start = 0;
            while let Some(first) = text[start..].bytes().next() {
                let is_end = |letter: char| (letter == '\n') != (first == b'\n');
                let end = text[start..].find(is_end).map_or(text.len(), |length| start + length);
                found(start, end);
                start = end;
            }
        }
        Rule::Digits { of_word, decimal } => digits(text, *of_word, *decimal, &mut found),
        Rule::NoSpaces => {
            for piece in text.split(char::is_whitespace).filter(|piece| !piece.is_empty()) {
                step(rules, piece, each);
            }
            return;
        }
    }
    if done < text.len() {
        step(rules, &text[done..], each);
    }
}

/// Finds runs of digits in threes, counted from the right.
fn digits(text: &str, of_word: bool, decimal: bool, found: &mut dyn FnMut(usize, usize)) {
    let class = |letter: char| match letter {
        '0'..='9' => true,
        _ => letter.is_numeric() && (!decimal || is_of(letter, &DECIMAL)),
    };
    let mut letters = text.char_indices().peekable();
    while let Some((start, letter)) = letters.next() {
        if !class(letter) {
            continue;
        }
        let mut starts = vec![start];
        let mut after = None;
        while let Some(&(at, letter)) = letters.peek() {
            if !class(letter) {
                after = Some(letter);
                break;
            }
            starts.push(at);
            letters.next();
        }
        if of_word && after.is_some_and(|letter| is_of(letter, &WORD)) {
            continue;
        }
        let end = letters.peek().map_or(text.len(), |(at, _)| *at);
        starts.push(end);
        let count = starts.len() - 1;
        let mut from = 0;
        while from < count {
            let to = from + (count - from - 1) % 3 + 1;
            found(starts[from], starts[to]);
            from = to;
        }
    }
}

static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\d$").ok());
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\w$").ok());

/// Whether a character is of the class that patterns mean.
fn is_of(letter: char, class: &Option<Regex>) -> bool {
    let mut room = [0; 4];
    let text: &str = letter.encode_utf8(&mut room);
    class.as_ref().is_some_and(|pattern| pattern.is_match(text).unwrap_or(false))
}

/// One name for each way of splitting that a `tokenizer.json` may describe. Where llama.cpp knows several,
/// they behave alike.
const NAMES: [&str; 9] = [
    "llama-bpe",
    "dbrx",
    "qwen2",
    "qwen35",
    "gpt-2",
    "starcoder",
    "deepseek-coder",
    "tekken",
    "gpt-4o",
];

/// The name of the rule that splits by `patterns` in turn, if there is one.
pub(crate) fn name_of(patterns: &[&str], ignore_merges: bool) -> Option<&'static str> {
    // What is left over is a piece in any case.
    fn plain(pattern: &str) -> &str {
        pattern.strip_suffix(r"|\s+").unwrap_or(pattern)
    }
    let matches = |name: &&&str| {
        pre_tokenizer(name).is_some_and(|known| {
            !known.characters
                && known.ignore_merges == ignore_merges
                && known
                    .patterns
                    .iter()
                    .map(|pattern| plain(pattern))
                    .eq(patterns.iter().map(|pattern| plain(pattern)))
        })
    };
    NAMES.iter().find(matches).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(patterns: &[&str], text: &str) -> Vec<String> {
        let mut pieces = vec![];
        Splitter::new(patterns, false).unwrap().split(text, |piece| pieces.push(piece.to_owned()));
        pieces
    }

    /// The rules that are not run as patterns split as the patterns would.
    #[test]
    fn rules_in_place_of_patterns_split_as_they_do() {
        let texts = [
            "",
            "1",
            "12",
            "1234",
            "a1234567b 12345. 1234_ \u{663}\u{664}\u{665}\u{666} \u{b2}1234",
            "123abc 1234567",
            "x\n\ny\n",
            "\n",
            "1000000 22 333 4444 \u{bd}",
        ];
        for pattern in [LINES, DIGITS_FROM_RIGHT, DIGITS_OF_WORD, BETWEEN_DIGITS] {
            // Written otherwise, so that it is run as a pattern.
            let same = format!("(?:{pattern})");
            let first: &[&str] = if pattern == BETWEEN_DIGITS { &[r"\d+"] } else { &[] };
            for text in texts {
                let with = |last: &str| pieces(&[first, &[last]].concat(), text);
                assert_eq!(with(pattern), with(&same), "{pattern} {text:?}");
            }
        }
    }

    #[test]
    fn long_runs_of_digits_take_no_square() {
        let run = "7".repeat(1 << 20);
        for name in ["afmoe", "tiny_aya", "superbpe", "gemma4", "deepseek-llm", "exaone-moe"] {
            let pre = pre_tokenizer(name).unwrap();
            assert_eq!(pieces(pre.patterns, &run).concat(), run, "{name}");
        }
    }
}
