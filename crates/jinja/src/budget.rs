//! What a rendering may cost.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::text::{Char, Text, own};
use crate::value::Value;

/// Bounds of one rendering.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Steps: one for each expression and statement, and one for some dozen characters or a few items that
    /// an operation reads or makes. A message takes a few hundred.
    pub steps: u64,
    /// Characters in use at a time, items of lists and maps counting eight. One takes four bytes.
    pub characters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 20_000_000, characters: 24 << 20 }
    }
}

/// Deepest nesting of expressions, blocks and macro calls while rendering. [`crate::stack::STACK`] is for this.
pub(crate) const MAX_DEPTH: u32 = 1500;

/// Deepest nesting of lists and maps in each other.
pub(crate) const MAX_NESTING: u32 = 300;

/// Characters read or made by an operation that count as a step.
const CHARACTERS_A_STEP: usize = 32;

/// Steps between two questions whether to go on.
const ASK_EVERY: u64 = 2048;

/// What a text takes besides its characters.
pub(crate) const TEXT: usize = 16;

/// Counts the characters in use.
pub(crate) struct Meter {
    free: AtomicUsize,
}

impl Meter {
    pub fn new(characters: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(characters) })
    }

    pub fn take(&self, count: usize) -> Result<()> {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(count));
        taken.map(drop).map_err(|_| Error::Memory)
    }

    pub fn give_back(&self, count: usize) {
        self.free.fetch_add(count, Ordering::Relaxed);
    }

    fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }
}

/// What is left of the limits.
pub(crate) struct Budget<'a> {
    steps: Cell<u64>,
    ask_at: Cell<u64>,
    depth: Cell<u32>,
    pub meter: Arc<Meter>,
    given_up: &'a dyn Fn() -> bool,
}

impl<'a> Budget<'a> {
    pub fn new(limits: Limits, given_up: &'a dyn Fn() -> bool) -> Self {
        Self {
            steps: Cell::new(limits.steps),
            ask_at: Cell::new(limits.steps),
            depth: Cell::new(0),
            meter: Meter::new(limits.characters),
            given_up,
        }
    }

    /// Takes `count` steps.
    pub fn steps(&self, count: u64) -> Result<()> {
        let left = self.steps.get().checked_sub(count).ok_or(Error::Steps)?;
        self.steps.set(left);
        if left <= self.ask_at.get() {
            self.ask_at.set(left.saturating_sub(ASK_EVERY));
            if (self.given_up)() {
                return Err(Error::GivenUp);
            }
        }
        Ok(())
    }

    /// Takes the steps of reading or making `count` characters.
    pub fn characters(&self, count: usize) -> Result<()> {
        self.steps((count / CHARACTERS_A_STEP) as u64)
    }

    /// Takes the steps of reading or making `count` items.
    pub fn items(&self, count: usize) -> Result<()> {
        self.steps((count / 4) as u64)
    }

    /// Whether a text of `count` characters may be made; ask before allocating.
    pub fn room(&self, count: usize) -> Result<()> {
        if count > self.meter.free() {
            return Err(Error::Memory);
        }
        self.characters(count)
    }

    /// `chars` as a value.
    pub fn text(&self, chars: Vec<Char>) -> Result<Value> {
        Ok(Value::Str(self.raw_text(chars)?))
    }

    pub fn raw_text(&self, chars: Vec<Char>) -> Result<Text> {
        // Making one takes a while, however short it is.
        self.steps(1 + (chars.len() / CHARACTERS_A_STEP) as u64)?;
        self.meter.take(chars.len() + TEXT)?;
        Ok(Text::counted(chars, Arc::clone(&self.meter)))
    }

    /// A part of `text`, which is shared if it is all of it.
    pub fn part(&self, text: &Text, part: &[Char]) -> Result<Value> {
        if part.len() == text.len() {
            return Ok(Value::Str(text.clone()));
        }
        let made = self.raw_text(part.to_vec())?;
        Ok(Value::Str(made.as_markup(text.markup)))
    }

    /// Text that the template engine itself writes.
    pub fn own(&self, text: &str) -> Result<Value> {
        self.text(own(text))
    }

    /// Goes one level deeper until the answer is dropped.
    pub fn deeper(&self) -> Result<Level<'_>> {
        let depth = self.depth.get() + 1;
        if depth > MAX_DEPTH {
            return Err(Error::Depth);
        }
        self.depth.set(depth);
        Ok(Level(&self.depth))
    }

    /// Collects a text of unknown length.
    pub fn collect(&self) -> Out<'_> {
        Out { chars: Vec::new(), taken: 0, over: false, budget: self }
    }
}

/// A level of depth.
pub(crate) struct Level<'a>(&'a Cell<u32>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A text being made, counted as it grows; what goes past the limit is not kept, and the end is an error.
pub(crate) struct Out<'a> {
    chars: Vec<Char>,
    /// Characters that the meter has counted.
    taken: usize,
    over: bool,
    pub budget: &'a Budget<'a>,
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.budget.meter.give_back(self.taken);
    }
}

impl Out<'_> {
    pub fn push(&mut self, c: Char) {
        self.extend(&[c]);
    }

    pub fn extend(&mut self, chars: &[Char]) {
        let needed = self.chars.len() + chars.len();
        if self.over || (needed > self.taken && !self.grow(needed)) {
            self.over = true;
        } else {
            self.chars.extend_from_slice(chars);
        }
    }

    /// Makes room for `needed` characters, and some more where there is enough.
    fn grow(&mut self, needed: usize) -> bool {
        for size in [needed.max(self.taken * 2).max(64), needed] {
            if self.budget.meter.take(size - self.taken).is_ok() {
                self.taken = size;
                self.chars.reserve_exact(size - self.chars.len());
                return true;
            }
        }
        false
    }

    pub fn own(&mut self, text: &str) {
        for c in text.chars() {
            self.push(Char::own(c));
        }
    }

    pub fn len(&self) -> usize {
        self.chars.len()
    }

    /// An error once the text is longer than it may be.
    pub fn check(&self) -> Result<()> {
        if self.over { Err(Error::Memory) } else { Ok(()) }
    }

    pub fn chars(mut self) -> Result<Vec<Char>> {
        self.check()?;
        Ok(std::mem::take(&mut self.chars))
    }

    pub fn value(self) -> Result<Value> {
        let budget = self.budget;
        budget.text(self.chars()?)
    }
}
