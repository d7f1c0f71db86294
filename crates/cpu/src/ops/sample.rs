//! Sampling on the threads of the pool, a row each.

use std::sync::{Mutex, PoisonError};

use keeve_graph::Step;
use keeve_graph::sampling::{Sampled, SamplingError, Workspace};

use crate::kernels::Kernels;
use crate::runtime::pool::Pool;

/// Samples after each row of [`Step::sampling`]. `logits` are the rows `of`, `width` wide.
pub(crate) fn sample(
    step: &Step<'_>,
    of: &[usize],
    (width, logits): (usize, &[f32]),
    kernels: &dyn Kernels,
    work: &mut Vec<Workspace>,
    pool: &Pool,
) -> Vec<Result<Option<Sampled>, SamplingError>> {
    for (_, sampling) in &step.sampling {
        // Threads of the pool that have nothing to do would take cores from those that work it out.
        let _ = sampling.mask.map(|mask| mask.bits());
    }
    work.resize_with(step.sampling.len().max(work.len()), Workspace::default);
    type Slot<'a> = Mutex<(&'a mut Workspace, Option<Result<Option<Sampled>, SamplingError>>)>;
    let slots: Vec<Slot<'_>> =
        work.iter_mut().take(step.sampling.len()).map(|work| Mutex::new((work, None))).collect();
    pool.run(slots.len(), |index, _| {
        let (row, sampling) = &step.sampling[index];
        let at = of.partition_point(|of| of < row);
        let logits = logits.get(at * width..(at + 1) * width).unwrap_or_default();
        let mut slot = slots[index].lock().unwrap_or_else(PoisonError::into_inner);
        slot.1 = Some(kernels.sample(logits, sampling, slot.0));
    });
    let sampled = slots.into_iter().map(|slot| slot.into_inner());
    let sampled = sampled.map(|slot| slot.unwrap_or_else(PoisonError::into_inner).1);
    sampled.map(|sampled| sampled.unwrap_or(Err(SamplingError::NoToken(0)))).collect()
}
