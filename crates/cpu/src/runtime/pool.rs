//! The thread pool. One decoded token has hundreds of parallel regions, each of some
//! microseconds, so workers watch for the next one for a while before they sleep.
//!
//! The caller works too and never waits for a worker that has not come: a region closes when all
//! its tasks are taken, and only workers that are inside are waited for. So threads that the system
//! does not run (more threads than cores, a busy machine) delay nobody.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::runtime::scratch::Scratch;

/// How long a worker watches for the next region before it sleeps. Longer than what lies between
/// two regions of a step, short enough to cost nothing when idle.
const WATCH: Duration = Duration::from_micros(100);
/// A thread takes one of so many parts of its own tasks that are left.
const OWN_PARTS: u32 = 8;
/// A thread that has none left takes one of so many parts of another's.
const OTHERS_PARTS: u32 = 4;
/// Looks at the gate before a waiting thread lets others run and reads the clock.
const LOOKS: u32 = 64;

/// A fixed number of threads, the caller's included, that run numbered tasks.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a region runs: there is one at a time. The caller's scratch memory.
    running: Mutex<Scratch>,
}

/// What a region runs: a pointer to the caller's closure, erased.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize, &mut Scratch),
    data: *const (),
}

// SAFETY: the closure behind `data` is `Sync`, and only workers inside the region use it, which
// `Pool::run` waits for before it returns.
unsafe impl Send for Job {}

/// In [`Shared::gate`]: workers may enter.
const OPEN: u64 = 1 << 31;
/// In [`Shared::gate`]: how many workers are inside.
const INSIDE: u64 = OPEN - 1;
/// In [`Shared::gate`]: where the number of the region is.
const REGION_SHIFT: u32 = 32;

struct Shared {
    /// The current region; replaced only while the gate is closed and nobody is inside.
    job: Mutex<Option<Job>>,
    /// The number of the region, whether it is open, and how many workers are inside: one number,
    /// so that a worker enters the region that it saw or none.
    gate: AtomicU64,
    /// The tasks that are each thread's to take, the caller's first.
    left: Box<[Left]>,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// How many workers sleep; they are woken under this lock.
    sleeping: Mutex<usize>,
    wake: Condvar,
    /// How long workers watch before they sleep.
    watch: Duration,
}

/// Tasks that follow each other and that nobody has taken. Their thread takes from the front, so that it reads
/// memory from one end to the other, as tasks do that follow each other; those that help it take from the back.
/// In a line of cache of its own.
#[repr(align(128))]
#[derive(Default)]
struct Left(AtomicU64);

impl Left {
    fn set(&self, tasks: Range<u32>) {
        self.0.store(u64::from(tasks.start) << 32 | u64::from(tasks.end), Ordering::Relaxed);
    }

    fn get(both: u64) -> Range<u32> {
        (both >> 32) as u32..both as u32
    }

    fn count(&self) -> usize {
        Self::get(self.0.load(Ordering::Relaxed)).len()
    }

    /// Takes one of `parts` parts of them, at least a task, if there is one.
    fn take(&self, parts: u32, from_back: bool) -> Option<Range<u32>> {
        let mut both = self.0.load(Ordering::Relaxed);
        loop {
            let Range { start, end } = Self::get(both);
            let count = match end.saturating_sub(start) {
                0 => return None,
                left => left.div_ceil(parts),
            };
            let (taken, kept) = match from_back {
                true => (end - count..end, start..end - count),
                false => (start..start + count, start + count..end),
            };
            let next = u64::from(kept.start) << 32 | u64::from(kept.end);
            match self.0.compare_exchange_weak(both, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => both = now,
            }
        }
    }
}

impl Pool {
    /// A pool of `threads` threads, at least one: the caller's.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        // Watching is for threads that have a core to themselves.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            gate: AtomicU64::new(0),
            left: (0..threads).map(|_| Left::default()).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: Mutex::new(0),
            wake: Condvar::new(),
            watch: if threads <= cores { WATCH } else { Duration::ZERO },
        });
        let mut pool = Self { shared, workers: vec![], running: Mutex::default() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let named = thread::Builder::new().name(format!("keeve-cpu-{index}"));
            // If this fails, dropping `pool` ends the threads made so far.
            pool.workers.push(named.spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    /// How many threads there are, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` to `task(tasks - 1)`, in any order, each with the scratch memory of the thread
    /// it runs on, and returns when all are done. Must not be called from inside a task.
    ///
    /// # Panics
    /// If a task does.
    pub fn run<F: Fn(usize, &mut Scratch) + Sync>(&self, tasks: usize, task: F) {
        /// Calls the closure of type `F` behind `data`.
        ///
        /// # Safety
        /// `data` must point to a live `F`.
        unsafe fn call<F: Fn(usize, &mut Scratch)>(
            data: *const (),
            index: usize,
            scratch: &mut Scratch,
        ) {
            // SAFETY: the caller passes the pointer it got from a live `&F`.
            unsafe { (*data.cast::<F>())(index, scratch) }
        }
        let mut scratch = lock(&self.running);
        // More than can be dealt are for the caller alone; no tensor that fits into memory makes as many.
        let dealt = u32::try_from(tasks);
        let Some(count) = dealt.ok().filter(|&count| count > 1 && !self.workers.is_empty()) else {
            return (0..tasks).for_each(|index| task(index, &mut scratch));
        };
        let shared = &*self.shared;
        let job = Job { call: call::<F>, data: (&raw const task).cast() };
        *lock(&shared.job) = Some(job);
        shared.deal(count);
        shared.open();
        shared.wake_workers(tasks - 1);
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(job, 0, &mut scratch)));
        // After this no worker is left with a pointer to `task`, nor can one get it.
        shared.close();
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            drop(scratch);
            resume_unwind(panic);
        }
        assert!(!panicked, "a task of the thread pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_workers(self.workers.len());
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Opens the next region.
    fn open(&self) {
        let region = (self.gate.load(Ordering::Relaxed) >> REGION_SHIFT) as u32;
        let next = u64::from(region.wrapping_add(1));
        self.gate.store(next << REGION_SHIFT | OPEN, Ordering::SeqCst);
    }

    /// Closes the region and waits for the workers inside.
    fn close(&self) {
        self.gate.fetch_and(!OPEN, Ordering::SeqCst);
        let mut looks = 0u32;
        while self.gate.load(Ordering::Acquire) & INSIDE != 0 {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Wakes up to `useful` of the workers that sleep.
    fn wake_workers(&self, useful: usize) {
        let sleeping = *lock(&self.sleeping);
        if useful < sleeping {
            (0..useful).for_each(|_| self.wake.notify_one());
        } else if sleeping > 0 {
            self.wake.notify_all();
        }
    }

    /// Gives each thread as many tasks as the others.
    fn deal(&self, tasks: u32) {
        let threads = self.left.len() as u64;
        let first = |thread: u64| (u64::from(tasks) * thread / threads) as u32;
        for (thread, left) in (0..).zip(&self.left) {
            left.set(first(thread)..first(thread + 1));
        }
    }

    /// Takes tasks of the current region until none is left: those of `thread`, then those of whoever has most.
    fn take_tasks(&self, job: Job, thread: usize, scratch: &mut Scratch) {
        let mut from = (&self.left[thread], OWN_PARTS, false);
        loop {
            while let Some(tasks) = from.0.take(from.1, from.2) {
                for index in tasks {
                    // SAFETY: `Pool::run` keeps the closure alive until nobody is inside the
                    // region, and the thread that is here is inside (or is the caller's own).
                    unsafe { (job.call)(job.data, index as usize, scratch) };
                }
            }
            let most = self.left.iter().max_by_key(|left| left.count());
            let Some(most) = most.filter(|left| left.count() > 0) else { return };
            from = (most, OTHERS_PARTS, true);
        }
    }

    /// A worker's life.
    fn work(&self, thread: usize) {
        let mut scratch = Scratch::default();
        let mut seen = 0;
        loop {
            self.wait_for_region(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if !self.enter(&mut seen) {
                continue;
            }
            let job = *lock(&self.job);
            if let Some(job) = job {
                let tasks = AssertUnwindSafe(|| self.take_tasks(job, thread, &mut scratch));
                if catch_unwind(tasks).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Enters the current region, unless it has closed. Notes it in `seen` either way.
    fn enter(&self, seen: &mut u64) -> bool {
        let mut gate = self.gate.load(Ordering::SeqCst);
        loop {
            *seen = gate >> REGION_SHIFT;
            if gate & OPEN == 0 {
                return false;
            }
            let inside = gate + 1;
            match self.gate.compare_exchange_weak(gate, inside, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
    }

    /// Returns when the region is no longer the one that was `seen`, or workers are to stop: watches
    /// first, then sleeps.
    fn wait_for_region(&self, seen: u64) {
        let is_new = || {
            self.gate.load(Ordering::SeqCst) >> REGION_SHIFT != seen
                || self.stop.load(Ordering::SeqCst)
        };
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if is_new() {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= self.watch {
                break;
            }
            thread::yield_now();
        }
        let mut sleeping = lock(&self.sleeping);
        *sleeping += 1;
        while !is_new() {
            sleeping = self.wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
        }
        *sleeping -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).expect("threads");
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let ran: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, |index, _| {
                        ran[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(ran.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn workers_take_part() {
        let pool = Pool::new(4).expect("threads");
        for _ in 0..20 {
            // Tasks that wait for each other can only end if there are as many threads.
            let arrived = AtomicUsize::new(0);
            pool.run(4, |_, _| {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 4 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn workers_sleep_when_idle_and_wake() {
        let pool = Pool::new(3).expect("threads");
        for _ in 0..3 {
            while *lock(&pool.shared.sleeping) < 2 {
                thread::yield_now();
            }
            let sum = AtomicUsize::new(0);
            pool.run(10, |index, _| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn callers_from_several_threads_take_turns() {
        let pool = Pool::new(3).expect("threads");
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(5, |index, _| {
                            sum.fetch_add(index, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * 10);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).expect("threads");
        for index in [0, 9] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(10, |task, _| assert_ne!(task, index));
            }));
            assert!(outcome.is_err());
            let count = AtomicUsize::new(0);
            pool.run(10, |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 10);
        }
    }

    #[test]
    fn scratch_memory_is_as_long_as_asked_for() {
        let pool = Pool::new(2).expect("threads");
        pool.run(100, |index, scratch| {
            let [a, b] = scratch.take([index, 2 * index]);
            a.fill(1.0);
            b.fill(2.0);
            assert_eq!((a.len(), b.len()), (index, 2 * index));
            assert!(a.iter().all(|&value| value == 1.0));
        });
    }
}
