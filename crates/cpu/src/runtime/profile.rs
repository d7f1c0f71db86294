//! Time and bytes by operation.

use std::collections::BTreeMap;
use std::time::Instant;

use keeve_graph::OpProfile;

/// What has run so far.
#[derive(Default)]
pub(crate) struct Profile {
    totals: BTreeMap<String, (u64, u64, u64)>,
}

impl Profile {
    /// Counts one run of `op` that began at `start`.
    pub fn add(&mut self, op: String, start: Instant, bytes: usize) {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let total = self.totals.entry(op).or_default();
        *total = (
            total.0 + 1,
            total.1.saturating_add(nanoseconds),
            total.2.saturating_add(bytes as u64),
        );
    }

    /// Totals, the longest first.
    pub fn report(&self) -> Vec<OpProfile> {
        let row = |(op, &(calls, nanoseconds, bytes)): (&String, &(u64, u64, u64))| OpProfile {
            op: op.clone(),
            calls,
            nanoseconds,
            bytes,
        };
        let mut rows: Vec<_> = self.totals.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.nanoseconds));
        rows
    }
}
