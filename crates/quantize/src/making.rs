//! Tensors as a plan says, one at a time: for files, and for engines that run a model that is in no file.

use std::cell::Cell;
use std::collections::HashMap;

use keeve_checkpoint::Checkpoint;
use keeve_codec::PackedTensor;
use keeve_graph::{WeightInfo, Weights};

use crate::encode::{Encoding, encode};
use crate::smooth::Folds;
use crate::{Error, Importance, Plan, Planned, exact};

/// What tensors are made with.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    /// Importance of columns.
    pub importance: Option<&'a Importance>,
    /// SmoothQuant's factors.
    pub folds: Option<&'a Folds>,
    /// Threads that encode.
    pub threads: usize,
}

impl Making<'_> {
    /// Distinguishes what the bytes of tensors depend on besides their source and plan.
    pub(crate) fn fingerprint(&self) -> (u64, u64) {
        let importance = self.importance.map_or(0, |importance| importance.fingerprint);
        (importance, self.folds.map_or(0, Folds::fingerprint))
    }

    /// A tensor as it is planned, and how it was made.
    ///
    /// # Errors
    /// If it cannot be read or encoded, or `stopped` says so.
    pub(crate) fn tensor(
        &self,
        checkpoint: &Checkpoint,
        planned: &Planned,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<(PackedTensor, Work), Error> {
        let name = &planned.name;
        let mut source = match planned.shape[..] {
            [experts, _, _] => checkpoint.stacked(name, experts)?,
            _ => checkpoint.tensor(name)?,
        };
        let folds = self.folds.map(|folds| folds.folded(name, &source)).transpose()?.flatten();
        let folded = folds.is_some();
        if let Some(values) = folds {
            source.release();
            source = values;
        }
        // Rows in a basis of their own are made those of the matrix again: no format but one says that they are.
        let in_place = source.basis().is_none() && planned.hadamard.is_none();
        if in_place {
            if source.codec() == planned.to {
                return Ok((source, if folded { Work::Encoded } else { Work::Moved }));
            }
            if let Some(rewritten) = exact::rewritten(&source, planned.to) {
                source.release();
                return match rewritten {
                    Ok(tensor) => Ok((tensor, Work::Rewritten)),
                    Err(error) => Err(Error::tensor(name, error)),
                };
            }
        }
        // Importance is of columns, which rows in another basis do not have.
        let importance = self.importance.filter(|_| planned.hadamard.is_none());
        let importance = importance.and_then(|importance| importance.get(name));
        let encoding = Encoding {
            codec: planned.to,
            importance,
            hadamard: planned.hadamard,
            threads: self.threads,
        };
        let encoded =
            encode(&source, &encoding, stopped).map_err(|problem| Error::tensor(name, problem))?;
        // Mapped pages count as memory until they are given back.
        source.release();
        let work = match planned.from.is_float() {
            _ if folded => Work::Encoded,
            true if in_place && planned.is_exact() => Work::Rewritten,
            true => Work::Encoded,
            false => Work::EncodedAgain,
        };
        Ok((encoded.ok_or(Error::Interrupted)?, work))
    }
}

/// How a tensor was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Its bytes are those of the source.
    Moved,
    /// Its values are those of the source, in other bytes.
    Rewritten,
    /// It was encoded.
    Encoded,
    /// The same, from what was packed already: it lost twice.
    EncodedAgain,
}

/// The tensors of a checkpoint as a plan makes them, made as a backend asks for them.
pub struct Made<'a> {
    checkpoint: &'a Checkpoint,
    planned: HashMap<&'a str, &'a Planned>,
    making: Making<'a>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl<'a> Made<'a> {
    /// What `plan` makes of `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint, plan: &'a Plan, making: Making<'a>) -> Self {
        let planned = plan.tensors.iter().map(|planned| (planned.name.as_str(), planned));
        Self { checkpoint, planned: planned.collect(), making }
    }

    fn planned(&self, name: &str) -> Result<&'a Planned, Failure> {
        let problem = || Error::tensor(name, "is not in the model");
        Ok(self.planned.get(name).copied().ok_or_else(problem)?)
    }
}

impl Weights for Made<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Failure> {
        Ok(self.making.tensor(self.checkpoint, self.planned(name)?, &|| false)?.0)
    }

    fn experts(&self, name: &str, count: usize) -> Result<Vec<PackedTensor>, Failure> {
        self.checkpoint.experts_from(name, count, |name| self.weight(name))
    }

    fn experts_bytes(&self, name: &str, count: usize) -> Result<u64, Failure> {
        // What is made of the tensors that they are in, of which they may be a part.
        let (made, stored) = (Cell::new(0u64), Cell::new(0u64));
        let read = |name: &str| {
            let tensor = self.checkpoint.tensor(name)?;
            made.set(made.get().saturating_add(self.planned(name)?.bytes));
            stored.set(stored.get().saturating_add(tensor.bytes() as u64));
            Ok::<_, Failure>(tensor)
        };
        let found = self.checkpoint.experts_from(name, count, read)?;
        let found: u128 = found.iter().map(|expert| expert.bytes() as u128).sum();
        let bytes = u128::from(made.get()) * found / u128::from(stored.get()).max(1);
        Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn info(&self, name: &str) -> Result<WeightInfo, Failure> {
        let planned = self.planned(name)?;
        let (cols, before) = planned.shape.split_last().map_or((1, &[][..]), |(n, of)| (*n, of));
        let (rows, before) = before.split_last().map_or((1, &[][..]), |(n, of)| (*n, of));
        Ok(WeightInfo { experts: before.iter().product(), rows, cols, bytes: planned.bytes })
    }
}
