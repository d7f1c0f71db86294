//! Grammars that came lately, so that one that comes again, as the tools of an agent do, costs nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Grammar;
use super::masks::Ready;

/// Grammars that are kept compiled, most of which take some 100 KiB, and refusals, which are a line each.
const COMPILED: usize = 32;
const REFUSED: usize = 256;

/// What the last grammars came to.
#[derive(Default)]
pub(super) struct Known {
    hasher: Hasher,
    compiled: Recent<Ready>,
    refused: Recent<String>,
}

impl Known {
    /// What this grammar came to if it is known: its first mask, or why it was refused.
    pub fn find(&self, grammar: &Grammar) -> Option<Result<Ready, String>> {
        let hash = self.hasher.hash(grammar);
        let compiled = self.compiled.find(hash).map(|ready| Ok(ready.apart()));
        compiled.or_else(|| self.refused.find(hash).map(Err))
    }

    /// Remembers a grammar.
    pub fn add(&self, grammar: &Grammar, made: Result<&Ready, String>) {
        let hash = self.hasher.hash(grammar);
        match made {
            Ok(ready) => self.compiled.add(hash, ready.apart(), COMPILED),
            Err(problem) => self.refused.add(hash, problem, REFUSED),
        }
    }
}

/// Hashes of 128 bits, because a grammar may be large, by keys that nobody knows.
#[derive(Default)]
struct Hasher([RandomState; 2]);

type Hash = [u64; 2];

impl Hasher {
    fn hash(&self, grammar: &Grammar) -> Hash {
        self.0.each_ref().map(|key| key.hash_one(grammar))
    }
}

/// Values by hash, the last first.
struct Recent<T>(Mutex<VecDeque<(Hash, T)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Recent<T> {
    fn open(&self) -> MutexGuard<'_, VecDeque<(Hash, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a hash, which is the last from now on.
    fn find(&self, hash: Hash) -> Option<T> {
        let mut known = self.open();
        let at = known.iter().position(|(other, _)| *other == hash)?;
        let found = known.remove(at)?;
        let value = found.1.clone();
        known.push_front(found);
        Some(value)
    }

    fn add(&self, hash: Hash, value: T, most: usize) {
        let mut known = self.open();
        // Two may have made it at once.
        known.retain(|(other, _)| *other != hash);
        known.truncate(most.saturating_sub(1));
        known.push_front((hash, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_grammars_are_known() {
        let (hasher, known) = (Hasher::default(), Recent::default());
        let hash = |number: usize| hasher.hash(&Grammar::Regex(format!("a{number}")));
        for number in 0..REFUSED + 10 {
            known.add(hash(number), number, REFUSED);
            known.add(hash(number), number, REFUSED);
            // What is asked for stays.
            assert_eq!(known.find(hash(3)), (number >= 3).then_some(3));
        }
        assert_eq!(known.open().len(), REFUSED);
        assert_eq!(known.find(hash(10)), None);
        assert_eq!(known.find(hash(11)), Some(11));
        assert_eq!(known.find(hasher.hash(&Grammar::Lark("a11".into()))), None);
    }
}
