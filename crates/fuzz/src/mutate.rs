//! Inputs made of others, without a fuzzer: bytes, numbers and words are changed, parts are repeated, moved,
//! left out and taken from other inputs.

/// Random numbers that a seed decides (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014: SplitMix64).
pub struct Random(u64);

impl Random {
    /// Numbers that begin with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    /// One of several.
    pub fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// A part of so many bytes: mostly a short one.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let most = if self.below(4) == 0 { length } else { length.min(16) };
        let size = self.below(most + 1);
        let start = self.below(length - size + 1);
        start..start + size
    }
}

/// Bytes that are the ends of something.
const BYTES: [u8; 12] = [0, 1, 7, 9, 10, 32, 34, 47, 92, 127, 128, 255];

/// Numbers that are, as text and as eight bytes.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "127",
    "256",
    "65536",
    "2147483647",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "1e-308",
    "0.5",
    "100000",
];

/// Words of the languages that the targets read: JSON and schemas, tokenizers, templates, expressions, Lark.
const WORDS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "{\"type\":\"object\"}",
    "\"type\":\"array\",",
    "\"properties\":{},",
    "\"$ref\":\"#\",",
    "\"$ref\":\"#/$defs/a\",",
    "\"anyOf\":[{}],",
    "\"oneOf\":[{},{}],",
    "\"allOf\":[{}],",
    "\"not\":{},",
    "\"if\":{},\"then\":{},",
    "\"enum\":[1],",
    "\"pattern\":\"a{9}\",",
    "\"multipleOf\":7,",
    "\"minItems\":9,",
    "\"maxLength\":99,",
    "\"uniqueItems\":true,",
    "\"additionalProperties\":false,",
    "\"required\":[\"a\"],",
    "\"Sequence\"",
    "\"ByteLevel\"",
    "\"Metaspace\"",
    "\"Replace\"",
    "\"Precompiled\"",
    "\"Strip\"",
    "\"BPE\"",
    "\"Unigram\"",
    "\"WordPiece\"",
    "\"TemplateProcessing\"",
    "\"Regex\"",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    " for a in ",
    " if ",
    " else ",
    " endfor ",
    " endif ",
    " set a = ",
    " macro a() ",
    "messages",
    "[0]",
    "[::-1]",
    "|tojson",
    "|join",
    "|replace('a','aa')",
    "~",
    " * 99999",
    " ** 9",
    ".append(a)",
    "range(9999)",
    "namespace()",
    "loop.index",
    " is defined",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "*",
    "+",
    "?",
    "|",
    "^",
    "$",
    ".",
    "\\d",
    "\\p{L}",
    "(?:",
    "(?!",
    "{1,99}",
    "{99}",
    "[^a]",
    "start: ",
    "/a/",
    "&",
    "~/a/",
    "%json {}",
    "<|im_end|>",
    "\u{1f600}",
    "\u{0}",
    "\u{202e}",
    "\u{301}",
];

/// An input made of `input`, with parts of `other`; of at most `most` bytes.
pub fn mutated(random: &mut Random, input: &[u8], other: &[u8], most: usize) -> Vec<u8> {
    let mut made = input.to_vec();
    for _ in 0..1 + random.below(6) {
        change(random, &mut made, other);
        made.truncate(most);
    }
    made
}

fn change(random: &mut Random, made: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(made.len() + 1);
    match random.below(10) {
        0 => {
            if let Some(byte) = made.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = made.get_mut(at) {
                *byte = BYTES[random.below(BYTES.len())];
            }
        }
        2 => drop(made.drain(random.part(made.len()))),
        3 => {
            let part = made[random.part(made.len())].repeat(1 + random.below(20));
            made.splice(at..at, part);
        }
        4 => {
            let part = random.part(other.len());
            made.splice(at..at, other[part].iter().copied());
        }
        5 | 6 => {
            let word = random.one_of(WORDS);
            made.splice(at..at, word.bytes());
        }
        7 => {
            // Another number in the place of one.
            let number = random.one_of(&NUMBERS);
            let digits = made[at..].iter().position(u8::is_ascii_digit).map(|first| at + first);
            if let Some(start) = digits {
                let rest = made[start..].iter();
                let end = start + rest.take_while(|byte| byte.is_ascii_digit()).count();
                made.splice(start..end, number.bytes());
            }
        }
        8 => {
            let value = random.one_of(&NUMBERS).parse::<f64>().unwrap_or(0.0) as u64;
            let end = (at + 8).min(made.len());
            made.splice(at..end, value.to_le_bytes().into_iter().take(end - at));
        }
        _ => {
            // A part in another place.
            let part: Vec<u8> = made.drain(random.part(made.len())).collect();
            let at = random.below(made.len() + 1);
            made.splice(at..at, part);
        }
    }
}
