//! Runs without a fuzzer: a number of inputs, made of seeds, on any toolchain. It does not look at what the code
//! does with them, as a fuzzer would, but keeps the inputs that got through to make others of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mutate::{Random, mutated};
use crate::targets::Target;

/// The longest input.
const MOST_BYTES: usize = 8 << 10;

/// How long one input may take, also without optimization and beside others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Inputs that got through are kept up to here.
const MOST_KEPT: usize = 2_000;

/// What a run did.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Inputs tried.
    pub tried: u64,
    /// Those that got through everything.
    pub through: u64,
    /// What the longest took.
    pub longest: Duration,
    /// The first input that made the target panic, written to a file.
    pub failed: Option<PathBuf>,
}

/// Gives a target its seeds and inputs made of them, until `go_on` (told how many were tried) says no, or one
/// fails. What fails or does not end is written to `artifacts`; the process ends with what does not end.
pub fn run(
    target: Target,
    seeds: &[Vec<u8>],
    seed: u64,
    artifacts: &Path,
    mut go_on: impl FnMut(u64) -> bool,
) -> Outcome {
    let mut random = Random::new(seed);
    let mut inputs = seeds.to_vec();
    let mut outcome = Outcome::default();
    let watch = Watch::start(artifacts);
    while go_on(outcome.tried) {
        let input = match seeds.get(outcome.tried as usize) {
            Some(seed) => seed.clone(),
            None => {
                let (one, other) = (random.below(inputs.len()), random.below(inputs.len()));
                let empty = vec![];
                let one = inputs.get(one).unwrap_or(&empty);
                mutated(&mut random, one, inputs.get(other).unwrap_or(&empty), MOST_BYTES)
            }
        };
        watch.set(Some(input.clone()));
        let begun = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| target(&input)));
        outcome.longest = outcome.longest.max(begun.elapsed());
        watch.set(None);
        outcome.tried += 1;
        match done {
            Ok(through) => {
                outcome.through += u64::from(through);
                if through && outcome.tried > seeds.len() as u64 && inputs.len() < MOST_KEPT {
                    inputs.push(input);
                }
            }
            Err(_) => {
                outcome.failed = Some(keep(artifacts, "panic", &input));
                break;
            }
        }
    }
    outcome
}

fn keep(folder: &Path, kind: &str, input: &[u8]) -> PathBuf {
    let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{kind}-{sum:016x}"));
    // Without it, the seed and the count make the input again.
    let _ = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, input));
    path
}

/// An input that a target has been given, and when.
type Given = Option<(Vec<u8>, Instant)>;

/// Looks how long an input takes.
struct Watch(Arc<Mutex<Given>>);

impl Watch {
    fn start(artifacts: &Path) -> Self {
        let watched = Arc::new(Mutex::new(Given::None));
        let (seen, folder) = (Arc::downgrade(&watched), artifacts.to_owned());
        std::thread::spawn(move || {
            while let Some(watched) = seen.upgrade() {
                let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((input, since)) = &*watched
                    && since.elapsed() > PATIENCE
                {
                    keep(&folder, "timeout", input);
                    std::process::abort();
                }
                drop(watched);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Self(watched)
    }

    fn set(&self, input: Option<Vec<u8>>) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = input.map(|input| (input, Instant::now()));
    }
}
