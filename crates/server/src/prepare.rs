//! What is done with a request before the model sees it: rendering, tokenizing, compiling.
//!
//! It costs time and memory that clients and templates decide about, so there are lanes. What is short
//! passes through the wide one; long texts and grammars wait for a narrow one each, where few run at once, on
//! threads that give way, and only so many may wait. A grammar's thread gives way once it has taken longer than
//! most grammars do, or all of them together take more than their share. What looked short and is not, such as a conversation
//! that a template goes round and round for, has to leave the wide lane for that of long texts. Whoever hangs up
//! meanwhile is forgotten: what waits is dropped, what runs ends at the next place that looks
//! ([`keeve_engine::wanted`]).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keeve_engine::wanted::Wanted;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::background::{Threads, give_way, processor_time};
use crate::error::ApiError;

/// Texts up to here are short.
const SHORT: usize = 64 << 10;

/// Short and long requests, and grammars, that are prepared at once.
const WIDE: usize = 32;
const NARROW: usize = 2;
const GRAMMARS: usize = 2;

/// How often work that looked short may ask whether to go on before it is long: a rendering has made 130,000
/// steps by then, which is some hundred messages.
const QUESTIONS: usize = 64;

/// Long requests and grammars that may wait, and bytes that they may have together.
const MOST_WAITING: usize = 64;
const MOST_WAITING_BYTES: usize = 256 << 20;

/// Processor time of one grammar, and of all of them in a row, beyond which they give way. Of a second they get back a
/// twentieth.
const LONG_GRAMMAR: Duration = Duration::from_millis(20);
const GRAMMARS_TOGETHER: Duration = Duration::from_millis(100);
const SHARE: u32 = 20;

/// What grammars have lately taken of the processor, less their share of the time since.
struct Debt {
    amount: Duration,
    at: Instant,
}

impl Debt {
    fn now(&mut self) -> &mut Duration {
        let now = Instant::now();
        self.amount = self.amount.saturating_sub((now - self.at) / SHARE);
        self.at = now;
        &mut self.amount
    }
}

/// Where requests to a model wait to be prepared.
pub(crate) struct Lanes {
    wide: Semaphore,
    narrow: Semaphore,
    grammars: Semaphore,
    debt: Mutex<Debt>,
    waiting: Arc<AtomicUsize>,
    waiting_bytes: Arc<AtomicUsize>,
    threads: Threads,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            wide: Semaphore::new(WIDE),
            narrow: Semaphore::new(NARROW),
            grammars: Semaphore::new(GRAMMARS),
            debt: Mutex::new(Debt { amount: Duration::ZERO, at: Instant::now() }),
            waiting: Arc::default(),
            waiting_bytes: Arc::default(),
            threads: Threads::default(),
        }
    }
}

/// How a request is prepared.
#[derive(Clone, Copy, PartialEq)]
enum Lane {
    Wide,
    Narrow,
    Grammars,
}

impl Lanes {
    fn debt(&self) -> std::sync::MutexGuard<'_, Debt> {
        self.debt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, lane: Lane) -> &Semaphore {
        match lane {
            Lane::Wide => &self.wide,
            Lane::Narrow => &self.narrow,
            Lane::Grammars => &self.grammars,
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
struct Gone(Arc<Course>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

/// A place in a lane.
struct Held {
    lanes: Arc<Lanes>,
    lane: Lane,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lanes.lane(self.lane).add_permits(1);
    }
}

/// The way of one request through the lanes.
struct Course {
    lanes: Arc<Lanes>,
    /// Where it begins.
    lane: Lane,
    /// Microseconds of the processor that its grammar has taken.
    spent: AtomicU64,
    bytes: usize,
    gone: AtomicBool,
    left: Notify,
    questions: AtomicUsize,
    turned_away: AtomicBool,
    /// Held until the work has ended, also if nobody waits for it any more.
    holds: Mutex<(Option<Held>, Vec<Counted>)>,
    runtime: Handle,
}

impl Course {
    fn holds(&self) -> std::sync::MutexGuard<'_, (Option<Held>, Vec<Counted>)> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a request that is long.
    fn room(&self) -> Option<Vec<Counted>> {
        let count = Counted::new(&self.lanes.waiting, 1, MOST_WAITING)?;
        let bytes = Counted::new(&self.lanes.waiting_bytes, self.bytes, MOST_WAITING_BYTES)?;
        Some(vec![count, bytes])
    }

    /// Leaves the wide lane for the narrow one, waiting until there is a place.
    fn turn_off(&self) -> bool {
        {
            let mut holds = self.holds();
            if holds.0.as_ref().is_none_or(|held| held.lane != Lane::Wide) {
                return true;
            }
            let Some(room) = self.room() else {
                self.turned_away.store(true, Ordering::Relaxed);
                return false;
            };
            *holds = (None, room);
        }
        give_way();
        let lanes = &self.lanes;
        let place = self.runtime.block_on(async {
            tokio::select! {
                place = lanes.narrow.acquire() => place.ok(),
                () = self.left.notified() => None,
            }
        });
        let Some(place) = place else { return false };
        place.forget();
        self.holds().0 = Some(Held { lanes: lanes.clone(), lane: Lane::Narrow });
        true
    }
}

impl Wanted for Course {
    fn go_on(&self) -> bool {
        if self.gone.load(Ordering::Relaxed) || self.turned_away.load(Ordering::Relaxed) {
            return false;
        }
        if self.lane == Lane::Grammars {
            // Threads that work for a grammar are its own.
            let spent = processor_time();
            let before = self.spent.fetch_max(spent.as_micros() as u64, Ordering::Relaxed);
            let further = spent.saturating_sub(Duration::from_micros(before));
            let together = {
                let mut debt = self.lanes.debt();
                *debt.now() += further;
                debt.amount
            };
            if spent > LONG_GRAMMAR || together > GRAMMARS_TOGETHER {
                give_way();
            }
            return true;
        }
        self.questions.fetch_add(1, Ordering::Relaxed) != QUESTIONS || self.turn_off()
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
        let lane = match grammar {
            _ if bytes > SHORT => Lane::Narrow,
            true => Lane::Grammars,
            false => Lane::Wide,
        };
        let full =
            || ApiError::busy("too many long requests or grammars are waiting; try again later");
        let course = Arc::new(Course {
            lanes: self.clone(),
            lane,
            spent: AtomicU64::new(0),
            bytes,
            gone: AtomicBool::new(false),
            left: Notify::new(),
            questions: AtomicUsize::new(0),
            turned_away: AtomicBool::new(false),
            holds: Mutex::default(),
            runtime: Handle::current(),
        });
        if lane != Lane::Wide {
            course.holds().1 = course.room().ok_or_else(full)?;
        }
        let place = self.lane(lane).acquire().await;
        place.map_err(|_| ApiError::internal("internal error: a lane is closed"))?.forget();
        course.holds().0 = Some(Held { lanes: self.clone(), lane });
        let gone = Gone(course.clone());
        let work = {
            let course = course.clone();
            move || {
                let done = keeve_engine::wanted::until(course.clone(), work);
                *course.holds() = (None, vec![]);
                done
            }
        };
        let threads = &self.threads;
        let done = match lane {
            Lane::Wide => threads.apart(work).await,
            Lane::Narrow => threads.background(work).await,
            Lane::Grammars => Threads::aside(work).await,
        };
        let turned_away = gone.0.turned_away.load(Ordering::Relaxed);
        if turned_away { Err(full()) } else { done }
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
            for _ in 0..GRAMMARS {
                let (begun, ends) = (begun.clone(), ends.clone());
                let work = move || {
                    let _ = begun.send(());
                    let _ = ends.lock().map(|ends| ends.recv());
                };
                all.push(tokio::spawn(lanes.clone().prepare(0, true, work)));
            }
            for _ in 0..GRAMMARS {
                has_begun.recv().unwrap();
            }
            // They are not in the way of long texts.
            assert_eq!(lanes.clone().prepare(1 << 20, true, || 3).await.unwrap(), 3);
            let never = || panic!("nobody wants it");
            for _ in GRAMMARS..MOST_WAITING {
                all.push(tokio::spawn(lanes.clone().prepare(0, true, never)));
            }
            while lanes.waiting.load(Ordering::SeqCst) < MOST_WAITING {
                tokio::task::yield_now().await;
            }
            let refused = lanes.clone().prepare(0, true, || ()).await.unwrap_err();
            assert_eq!(refused.status, 429);
            // Those that wait are gone at once, those that run when they are done.
            all.iter().for_each(tokio::task::JoinHandle::abort);
            while lanes.waiting.load(Ordering::SeqCst) > GRAMMARS {
                tokio::task::yield_now().await;
            }
            drop(end);
            while lanes.waiting.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(lanes.clone().prepare(0, true, || 5).await.unwrap(), 5);
        });
    }

    #[test]
    fn what_turns_out_to_be_long_leaves_the_wide_lane() {
        let lanes = Arc::new(Lanes::default());
        runtime().block_on(async {
            let (begun, has_begun) = channel();
            let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let mut all = vec![];
            for _ in 0..WIDE + 8 {
                let begun = begun.clone();
                let (running, most) = (running.clone(), most.clone());
                let work = move || {
                    // As a template that never ends.
                    while keeve_engine::wanted::go_on() {
                        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        let _ = begun.send(());
                        std::thread::sleep(Duration::from_micros(20));
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                };
                all.push(tokio::spawn(lanes.clone().prepare(10, false, work)));
            }
            has_begun.recv().unwrap();
            while lanes.waiting.load(Ordering::SeqCst) < WIDE + 8 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // All of them have left it, and two go on.
            assert_eq!(lanes.wide.available_permits(), WIDE);
            assert_eq!(lanes.narrow.available_permits(), 0);
            assert_eq!(lanes.clone().prepare(10, false, || 7).await.unwrap(), 7);
            most.store(0, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!((1..=NARROW).contains(&most.load(Ordering::SeqCst)));
            // Those that wait end as soon as nobody asks any more.
            all.iter().for_each(tokio::task::JoinHandle::abort);
            while lanes.waiting.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(lanes.narrow.available_permits(), NARROW);
        });
    }

    #[test]
    fn too_many_that_turn_out_to_be_long_are_told() {
        let lanes = Arc::new(Lanes::default());
        lanes.waiting.store(MOST_WAITING, Ordering::SeqCst);
        runtime().block_on(async {
            let work = || while keeve_engine::wanted::go_on() {};
            let refused = lanes.clone().prepare(10, false, work).await.unwrap_err();
            assert_eq!(refused.status, 429);
            assert_eq!(lanes.wide.available_permits(), WIDE);
        });
    }
}
