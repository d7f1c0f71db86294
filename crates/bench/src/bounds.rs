//! The machine's limits, measured in the same run as what is held against them.

use keeve_cpu::rates::{self, Unit};
use keeve_graph::Activations;
use serde::Serialize;

use crate::{Error, Observer};

/// Memory that the read bandwidth is measured over: far more than any cache.
const READ_BYTES: usize = 2 << 30;

/// What the machine reaches with all threads; `None` where it lacks the unit (or was interrupted).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Bounds {
    /// Memory read, 10^9 bytes a second.
    pub read_gb_s: Option<f64>,
    /// AMX on bytes, 10^12 operations a second (a multiply and an addition are two).
    pub amx_int8_tops: Option<f64>,
    /// AMX on bf16.
    pub amx_bf16_tops: Option<f64>,
    /// VNNI on bytes.
    pub vnni_int8_tops: Option<f64>,
}

impl Bounds {
    /// Measures all of them on `threads` threads; takes some seconds and 2 GiB.
    ///
    /// # Errors
    /// If there is not enough memory, or the system refuses a thread.
    pub fn measure(threads: usize, observer: &dyn Observer) -> Result<Self, Error> {
        let stop = || observer.stopped();
        observer.progress("bounds", 0, 4);
        let mut done = 0;
        let mut step = |value| {
            done += 1;
            observer.progress("bounds", done, 4);
            value
        };
        Ok(Self {
            read_gb_s: step(rates::read(READ_BYTES, threads, &stop)?),
            amx_int8_tops: step(rates::operations(Unit::AmxInt8, threads, &stop)?),
            amx_bf16_tops: step(rates::operations(Unit::AmxBf16, threads, &stop)?),
            vnni_int8_tops: step(rates::operations(Unit::VnniInt8, threads, &stop)?),
        })
    }

    /// The rate that matrix products are held against: that of AMX on bf16 for bf16 activations, and
    /// for all others that of the fastest int8 unit, the most that the machine could do.
    pub fn peak_tops(&self, activations: Activations) -> Option<f64> {
        match activations {
            Activations::Bf16 => self.amx_bf16_tops,
            Activations::Float | Activations::Int8 | Activations::Auto | Activations::Fast => {
                self.amx_int8_tops.or(self.vnni_int8_tops)
            }
        }
    }
}
