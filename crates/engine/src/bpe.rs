//! Merging by rank, as GGUF's tokenizer models `gpt2` and `gemma4` want it.
//!
//! Not the `tokenizers` crate's: that refuses a merge whose halves or result are no tokens, and joins what was beside a
//! character without a token. Here such *pieces* take part in merging like any other; what is left of them at the end is
//! taken apart again, down to characters, and what has no token then is left out.
//! Reference: ggml-org/llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_bpe_session`), which takes such a piece apart into
//! bytes at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::pre_tokenizers::Splitter;
use crate::spm::SPACE;
use crate::vocabulary::char_of_byte;

/// How text is written in the vocabulary.
#[derive(Debug)]
enum Spelling {
    /// A letter for each byte: pieces by byte.
    Letters(Box<[u32; 256]>),
    /// As it is, spaces as a mark if `marks`; bytes have tokens of their own.
    Characters { marks: bool, bytes: Box<[Option<u32>; 256]> },
}

/// Ranked merges.
#[derive(Debug)]
pub(crate) struct Bpe {
    splitter: Splitter,
    spelling: Spelling,
    /// Numbers of pieces by text: the ids of tokens, and further ones.
    pieces: HashMap<String, u32>,
    /// Texts of pieces that are no tokens, from the number of tokens on.
    others: Vec<String>,
    /// Rank and result by pair.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// What a piece that is no token was made of.
    parts: HashMap<u32, (u32, u32)>,
    /// Whether text may become the token, by id.
    plain: Vec<bool>,
    /// A word that is a token is not merged step by step.
    whole_words: bool,
    /// The same for words of nothing but newlines.
    whole_newlines: bool,
}

/// What [`Bpe`] is made of.
pub(crate) struct BpeTables<'a> {
    pub splitter: Splitter,
    /// Ids by text.
    pub ids: &'a HashMap<String, u32>,
    /// Whether text may become the token, by id.
    pub plain: Vec<bool>,
    pub merges: &'a [String],
    /// Characters instead of letters for bytes; if so, tokens of bytes, and whether spaces are marks.
    pub characters: Option<(Box<[Option<u32>; 256]>, bool)>,
    pub whole_words: bool,
    pub whole_newlines: bool,
}

/// Part of a word under way: a linked list whose links are indices.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    /// [`NONE`] for a character without a piece.
    piece: u32,
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

const NONE: u32 = u32::MAX;
const END: usize = usize::MAX;

/// A pair that merges: rank, left symbol, right symbol, their pieces.
type Queue = BinaryHeap<Reverse<(u32, usize, usize, u32, u32)>>;

/// Room that words share.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: Queue,
    stack: Vec<u32>,
}

impl Bpe {
    /// Builds the tables; also says how many merges are no pairs and are left out.
    pub fn new(tables: BpeTables<'_>) -> (Self, usize) {
        let BpeTables { splitter, ids, plain, merges, characters, whole_words, whole_newlines } =
            tables;
        let mut made = Self {
            splitter,
            spelling: Spelling::Letters(Box::new([NONE; 256])),
            pieces: ids.clone(),
            others: vec![],
            merges: HashMap::with_capacity(merges.len()),
            parts: HashMap::new(),
            plain,
            whole_words,
            whole_newlines,
        };
        made.spelling = match characters {
            Some((bytes, marks)) => Spelling::Characters { marks, bytes },
            None => {
                let letters = char_of_byte();
                let pieces = letters.map(|letter| made.piece(letter.encode_utf8(&mut [0; 4])));
                Spelling::Letters(Box::new(pieces))
            }
        };
        let mut no_pairs = 0;
        for (rank, merge) in (0..).zip(merges) {
            // The first character may be a space itself.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let Some(at) = merge[first..].find(' ').map(|at| first + at) else {
                no_pairs += 1;
                continue;
            };
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            if right.is_empty() {
                no_pairs += 1;
                continue;
            }
            let joined = made.piece(&format!("{left}{right}"));
            let (left, right) = (made.piece(left), made.piece(right));
            made.merges.entry((left, right)).or_insert((rank, joined));
            if !made.is_plain(joined) {
                made.parts.entry(joined).or_insert((left, right));
            }
        }
        (made, no_pairs)
    }

    /// The number of a piece, a new one if need be.
    fn piece(&mut self, text: &str) -> u32 {
        if let Some(&piece) = self.pieces.get(text) {
            return piece;
        }
        // Below `NONE`, since texts of that number would not fit into memory.
        let piece = (self.plain.len() + self.others.len()) as u32;
        self.pieces.insert(text.to_owned(), piece);
        self.others.push(text.to_owned());
        piece
    }

    /// Whether a piece is a token that text may become.
    fn is_plain(&self, piece: u32) -> bool {
        self.plain.get(piece as usize).copied().unwrap_or(false)
    }

    /// Whether a token comes of every byte that text may have.
    pub fn is_complete(&self) -> bool {
        (0..=255u8).filter(|byte| !matches!(byte, 0xc0 | 0xc1 | 0xf5..)).all(|byte| {
            let byte = usize::from(byte);
            match &self.spelling {
                Spelling::Letters(pieces) => self.is_plain(pieces[byte]),
                Spelling::Characters { bytes, .. } => bytes[byte].is_some(),
            }
        })
    }

    /// Whether letters stand for bytes.
    pub fn has_letters(&self) -> bool {
        matches!(self.spelling, Spelling::Letters(_))
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let marked;
        let text = match &self.spelling {
            Spelling::Characters { marks: true, .. } => {
                marked = text.replace(' ', SPACE);
                &marked
            }
            _ => text,
        };
        let mut scratch = Scratch::default();
        self.splitter.split(text, |word| self.word(word, &mut scratch, ids));
    }

    fn word(&self, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let newlines = self.whole_newlines && word.bytes().all(|byte| byte == b'\n');
        if self.whole_words || newlines {
            let spelled: String;
            let text = match &self.spelling {
                Spelling::Letters(_) => {
                    let letters = letters();
                    spelled = word.bytes().map(|byte| letters[usize::from(byte)]).collect();
                    spelled.as_str()
                }
                Spelling::Characters { .. } => word,
            };
            if let Some(&piece) = self.pieces.get(text).filter(|piece| self.is_plain(**piece)) {
                ids.push(piece);
                return;
            }
        }
        self.symbols(word, &mut scratch.symbols);
        self.merge(&mut scratch.symbols, &mut scratch.queue);
        let mut at = if scratch.symbols.is_empty() { END } else { 0 };
        while let Some(symbol) = scratch.symbols.get(at) {
            match symbol.piece {
                NONE => self.bytes(&word[symbol.start..symbol.end], ids),
                piece => self.take_apart(piece, &mut scratch.stack, ids),
            }
            at = symbol.next;
        }
    }

    /// The word's bytes or characters.
    fn symbols(&self, word: &str, symbols: &mut Vec<Symbol>) {
        symbols.clear();
        let mut push = |piece, start, end| {
            let at = symbols.len();
            let previous = at.checked_sub(1).unwrap_or(END);
            symbols.push(Symbol { piece, start, end, previous, next: at + 1 });
        };
        match &self.spelling {
            Spelling::Letters(pieces) => {
                for (at, byte) in word.bytes().enumerate() {
                    push(pieces[usize::from(byte)], at, at + 1);
                }
            }
            Spelling::Characters { .. } => {
                for (at, letter) in word.char_indices() {
                    let end = at + letter.len_utf8();
                    push(self.pieces.get(&word[at..end]).copied().unwrap_or(NONE), at, end);
                }
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
    }

    /// Merges pairs, lower ranks first, and from the left among equals.
    fn merge(&self, symbols: &mut [Symbol], queue: &mut Queue) {
        queue.clear();
        for left in 1..symbols.len() {
            self.consider(symbols, left - 1, left, queue);
        }
        while let Some(Reverse((_, left, right, left_piece, right_piece))) = queue.pop() {
            let current = symbols[left].piece == left_piece
                && symbols[left].next == right
                && symbols[right].piece == right_piece;
            let Some(&(_, joined)) =
                self.merges.get(&(left_piece, right_piece)).filter(|_| current)
            else {
                continue;
            };
            let Symbol { end, next, .. } = symbols[right];
            symbols[right].piece = NONE;
            symbols[right].next = END;
            let Symbol { previous, .. } = symbols[left];
            symbols[left] = Symbol { piece: joined, end, next, ..symbols[left] };
            if next != END {
                symbols[next].previous = left;
                self.consider(symbols, left, next, queue);
            }
            if previous != END {
                self.consider(symbols, previous, left, queue);
            }
        }
    }

    fn consider(&self, symbols: &[Symbol], left: usize, right: usize, queue: &mut Queue) {
        let pair = (symbols[left].piece, symbols[right].piece);
        if let Some(&(rank, _)) = self.merges.get(&pair) {
            queue.push(Reverse((rank, left, right, pair.0, pair.1)));
        }
    }

    /// Appends a piece, or what it was made of if it is no token.
    fn take_apart(&self, piece: u32, stack: &mut Vec<u32>, ids: &mut Vec<u32>) {
        stack.push(piece);
        while let Some(piece) = stack.pop() {
            if self.is_plain(piece) {
                ids.push(piece);
            } else if let Some(&(left, right)) = self.parts.get(&piece) {
                stack.extend([right, left]);
            } else if let Some(text) =
                (piece as usize).checked_sub(self.plain.len()).and_then(|at| self.others.get(at))
            {
                self.bytes(text, ids);
            }
        }
    }

    /// Appends the tokens of bytes, where bytes have tokens of their own.
    fn bytes(&self, text: &str, ids: &mut Vec<u32>) {
        if let Spelling::Characters { bytes, .. } = &self.spelling {
            ids.extend(text.bytes().filter_map(|byte| bytes[usize::from(byte)]));
        }
    }
}

fn letters() -> &'static [char; 256] {
    static LETTERS: std::sync::LazyLock<[char; 256]> = std::sync::LazyLock::new(char_of_byte);
    &LETTERS
}
