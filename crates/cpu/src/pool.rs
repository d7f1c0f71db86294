//! The thread pool. One decoded token has hundreds of parallel regions, each of some
//! microseconds, so workers spin for a while before they sleep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Turns of the waiting loop before a worker sleeps: some tens of microseconds.
const SPINS: u32 = 20_000;
/// Turns before a waiting thread lets others run, for when there are more threads than cores.
const SPINS_BEFORE_YIELD: u32 = 2_000;

/// A fixed number of threads, the caller's included, that run numbered tasks.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One region at a time.
    running: Mutex<()>,
}

/// What a region runs: a pointer to the caller's closure, erased.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
    tasks: usize,
}

// SAFETY: the closure behind `data` is `Sync`, and `Pool::run` does not return before every worker
// has finished with it.
unsafe impl Send for Job {}

struct Shared {
    /// The current region; replaced only while no worker is in one.
    job: Mutex<Option<Job>>,
    /// Counts regions; workers watch it.
    epoch: AtomicUsize,
    /// The next task to be taken.
    next: AtomicUsize,
    /// Workers that have not finished the current region.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// How many workers sleep; they are woken under this lock.
    sleeping: Mutex<usize>,
    wake: Condvar,
}

impl Pool {
    /// A pool of `threads` threads, at least one: the caller's.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            epoch: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, workers: vec![], running: Mutex::new(()) };
        for index in 1..threads.max(1) {
            let shared = pool.shared.clone();
            let named = thread::Builder::new().name(format!("keeve-cpu-{index}"));
            pool.workers.push(named.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// How many threads there are, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` to `task(tasks - 1)`, in any order, and returns when all are done. Must not
    /// be called from inside a task.
    ///
    /// # Panics
    /// If a task does.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        /// Calls the closure of type `F` behind `data`.
        ///
        /// # Safety
        /// `data` must point to a live `F`.
        unsafe fn call<F: Fn(usize)>(data: *const (), index: usize) {
            // SAFETY: the caller passes the pointer it got from a live `&F`.
            unsafe { (*data.cast::<F>())(index) }
        }
        let _one = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let job = Job { call: call::<F>, data: (&raw const task).cast(), tasks };
        *lock(&shared.job) = Some(job);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if *lock(&shared.sleeping) > 0 {
            shared.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(job)));
        // From here on no worker may be left with a pointer to `task`.
        let mut turns = 0;
        while shared.busy.load(Ordering::Acquire) != 0 {
            pause(&mut turns);
        }
        if let Err(panic) = own {
            shared.panicked.store(false, Ordering::Relaxed);
            resume_unwind(panic);
        }
        assert!(
            !shared.panicked.swap(false, Ordering::Relaxed),
            "a task of the thread pool panicked"
        );
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.shared.sleeping));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Takes tasks of the current region until none is left.
    fn take_tasks(&self, job: Job) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                return;
            }
            // SAFETY: `Pool::run` keeps the closure alive until `busy` is 0, which the thread that
            // is here has not yet counted down (or is the caller's own).
            unsafe { (job.call)(job.data, index) };
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut seen = 0;
        loop {
            self.wait_for_region(seen);
            seen = self.epoch.load(Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let job = *lock(&self.job);
            if let Some(job) = job
                && catch_unwind(AssertUnwindSafe(|| self.take_tasks(job))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Returns when `epoch` is no longer `seen`: spins first, then sleeps.
    fn wait_for_region(&self, seen: usize) {
        let mut turns = 0;
        while turns < SPINS {
            if self.epoch.load(Ordering::SeqCst) != seen {
                return;
            }
            pause(&mut turns);
        }
        let mut sleeping = lock(&self.sleeping);
        *sleeping += 1;
        while self.epoch.load(Ordering::SeqCst) == seen {
            sleeping = self.wake.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
        }
        *sleeping -= 1;
    }
}

/// One turn of a waiting loop.
fn pause(turns: &mut u32) {
    *turns += 1;
    if (*turns).is_multiple_of(SPINS_BEFORE_YIELD) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).expect("threads");
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let ran: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, |index| {
                        ran[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(ran.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn workers_wake_after_sleeping() {
        let pool = Pool::new(3).expect("threads");
        let asleep = || *lock(&pool.shared.sleeping) == 2;
        for _ in 0..3 {
            while !asleep() {
                thread::yield_now();
            }
            let sum = AtomicUsize::new(0);
            pool.run(10, |index| {
                sum.fetch_add(index, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2).expect("threads");
        for index in [0, 9] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(10, |task| assert_ne!(task, index));
            }));
            assert!(outcome.is_err());
            let count = AtomicUsize::new(0);
            pool.run(10, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 10);
        }
    }
}
