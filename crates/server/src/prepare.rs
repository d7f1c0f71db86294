//! What is done with a request before the model sees it: rendering, tokenizing, compiling.
//!
//! It costs time and memory that clients decide about, so there are two lanes. What is short passes
//! through the wide one; long texts and grammars wait for the narrow one, where few run at once and only
//! so many may wait. Whoever hangs up meanwhile is forgotten: what waits is dropped, what runs ends at
//! the next place that looks ([`keeve_engine::wanted`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::background::background;
use crate::error::ApiError;
use crate::models::blocking;

/// Texts up to here are short.
const SHORT: usize = 64 << 10;

/// Short and long requests that are prepared at once.
const WIDE: usize = 32;
const NARROW: usize = 2;

/// Long requests that may wait, and bytes that they may have together.
const MOST_WAITING: usize = 64;
const MOST_WAITING_BYTES: usize = 256 << 20;

/// Where requests to a model wait to be prepared.
pub(crate) struct Lanes {
    wide: Semaphore,
    narrow: Semaphore,
    waiting: Arc<AtomicUsize>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            wide: Semaphore::new(WIDE),
            narrow: Semaphore::new(NARROW),
            waiting: Arc::default(),
            waiting_bytes: Arc::default(),
        }
    }
}

/// What a request takes of the lanes' room. Dropping it gives the room back.
struct Counted(Arc<AtomicUsize>, usize);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>, amount: usize, most: usize) -> Option<Self> {
        let counted = Self(counter.clone(), amount);
        let before = counter.fetch_add(amount, Ordering::AcqRel);
        // Dropping it takes back what was added.
        (before == 0 || before.saturating_add(amount) <= most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::AcqRel);
    }
}

/// Says that nobody waits any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lanes {
    /// Does what prepares a request with so many bytes of text, and perhaps a grammar.
    ///
    /// # Errors
    /// If too many wait already, or the work panics.
    pub async fn prepare<T: Send + 'static>(
        self: Arc<Self>,
        bytes: usize,
        grammar: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let long = bytes > SHORT || grammar;
        let full =
            || ApiError::busy("too many long requests or grammars are waiting; try again later");
        let mut room = vec![];
        if long {
            room.push(Counted::new(&self.waiting, 1, MOST_WAITING).ok_or_else(full)?);
            room.push(
                Counted::new(&self.waiting_bytes, bytes, MOST_WAITING_BYTES).ok_or_else(full)?,
            );
        }
        let lane = if long { &self.narrow } else { &self.wide };
        let place = lane.acquire().await;
        place.map_err(|_| ApiError::internal("internal error: a lane is closed"))?.forget();
        // The place is held until the work has ended, also if nobody waits for it any more.
        let held = Held { lanes: self.clone(), long };
        let gone = Arc::new(AtomicBool::new(false));
        let _gone = Gone(gone.clone());
        let work = move || {
            let _held = (held, room);
            keeve_engine::wanted::until(gone, work)
        };
        if long { background(work).await } else { blocking(work).await }
    }
}

/// A place in a lane.
struct Held {
    lanes: Arc<Lanes>,
    long: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let lane = if self.long { &self.lanes.narrow } else { &self.lanes.wide };
        lane.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn long_work_is_few_at_once_and_short_work_passes_it() {
        let lanes = Arc::new(Lanes::default());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        runtime().block_on(async {
            let mut all = vec![];
            for _ in 0..10 {
                let (running, most) = (running.clone(), most.clone());
                let work = move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(30));
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                all.push(tokio::spawn(lanes.clone().prepare(1 << 20, false, work)));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let short = lanes.clone().prepare(10, false, || 7);
            assert_eq!(
                tokio::time::timeout(Duration::from_secs(5), short).await.unwrap().unwrap(),
                7
            );
            assert!(running.load(Ordering::SeqCst) > 0, "the long ones have ended already");
            for one in all {
                one.await.unwrap().unwrap();
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), NARROW);
        assert_eq!(lanes.waiting.load(Ordering::SeqCst), 0);
        assert_eq!(lanes.waiting_bytes.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn whoever_has_gone_is_forgotten_and_too_many_are_told() {
        let lanes = Arc::new(Lanes::default());
        runtime().block_on(async {
            let (begun, has_begun) = channel();
            let (end, ends) = channel::<()>();
            let ends = Arc::new(std::sync::Mutex::new(ends));
            let mut all = vec![];
            for _ in 0..NARROW {
                let (begun, ends) = (begun.clone(), ends.clone());
                let work = move || {
                    let _ = begun.send(());
                    let _ = ends.lock().map(|ends| ends.recv());
                };
                all.push(tokio::spawn(lanes.clone().prepare(0, true, work)));
            }
            for _ in 0..NARROW {
                has_begun.recv().unwrap();
            }
            let never = || panic!("nobody wants it");
            for _ in NARROW..MOST_WAITING {
                all.push(tokio::spawn(lanes.clone().prepare(0, true, never)));
            }
            while lanes.waiting.load(Ordering::SeqCst) < MOST_WAITING {
                tokio::task::yield_now().await;
            }
            let refused = lanes.clone().prepare(0, true, || ()).await.unwrap_err();
            assert_eq!(refused.status, 429);
            // Those that wait are gone at once, those that run when they are done.
            all.iter().for_each(tokio::task::JoinHandle::abort);
            while lanes.waiting.load(Ordering::SeqCst) > NARROW {
                tokio::task::yield_now().await;
            }
            drop(end);
            while lanes.waiting.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(lanes.clone().prepare(0, true, || 5).await.unwrap(), 5);
        });
    }
}
