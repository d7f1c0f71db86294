//! Work that may take long, on threads of its own.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::ApiError;

/// Threads that wait for further work, at most, of those that give way and of others, and how long each of them
/// does. Their stacks keep what was used of them.
const MOST_IDLE: usize = 16;
const IDLE: Duration = Duration::from_secs(10);

thread_local! {
    /// Whether this thread gives way to others. It cannot be taken back.
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Lets this thread compute when others do not, from now on.
pub(crate) fn give_way() {
    if GIVES_WAY.replace(true) {
        return;
    }
    // Under Linux's SCHED_IDLE (sched(7)) whoever else wakes up goes first at once. A thread that is only nice keeps a
    // core for its slice of some milliseconds, and products, whose threads wait for each other every
    // fraction of one, would be made by one thread alone. It is inherited, and works without it too.
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
            set_thread_priority_and_policy, thread_native_id,
        };
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    }
}

/// Processor time that this thread has taken, where that is known.
pub(crate) fn processor_time() -> Duration {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap_or_default()
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}

/// How much less of a core a thread of [`Threads::aside`] gets than others that want it too: a tenth.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that have done some work and wait for more.
type Idle = Mutex<Vec<(ThreadId, Sender<Job>)>>;

/// Threads for work that may block. A few are kept for a while: starting one, and one more for a template,
/// would take longer than most short work does.
#[derive(Default)]
pub(crate) struct Threads {
    others: Arc<Idle>,
    /// Those that give way. They may have to while they hold this, so whoever does not, does not wait for it.
    giving_way: Arc<Idle>,
}

fn open(idle: &Idle) -> MutexGuard<'_, Vec<(ThreadId, Sender<Job>)>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// Does some work on a thread of its own.
    ///
    /// # Errors
    /// If there is no thread, or the work panics.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.on_thread(false, work).await
    }

    /// The same, on a thread that gives way to others.
    ///
    /// # Errors
    /// As [`Self::apart`].
    pub async fn background<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.on_thread(true, work).await
    }

    /// Does what may take longer than most, but what somebody waits for who asked for nothing unusual, on a thread
    /// that gets little of cores that others want, and is not kept.
    ///
    /// # Errors
    /// As [`Self::apart`].
    pub async fn aside<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (job, answered) = job(work);
        start(move || {
            // On Linux it is the thread that becomes nice, and those that it starts. Without it, it works too.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(NICE);
            job();
        })?;
        answered.await.ok().flatten().ok_or_else(ApiError::panicked)
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        gives_way: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (job, answered) = job(work);
        let kept = match gives_way {
            true => self.giving_way.try_lock().ok().and_then(|mut idle| idle.pop()),
            false => open(&self.others).pop(),
        };
        match kept {
            // It waits until this sender is gone.
            Some((_, inbox)) => inbox.send(job).map_err(|_| ApiError::panicked())?,
            None => {
                let idle = [&self.others, &self.giving_way].map(Arc::downgrade);
                start(move || {
                    if gives_way {
                        give_way();
                    }
                    keep_on(job, idle);
                })?;
            }
        }
        answered.await.ok().flatten().ok_or_else(ApiError::panicked)
    }
}

/// The work as a job, and where what it gives arrives: nothing if it panics.
fn job<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (Job, oneshot::Receiver<Option<T>>) {
    let (answer, answered) = oneshot::channel();
    let job = move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        // Whoever asked may have gone.
        let _ = answer.send(done.ok());
    };
    (Box::new(job), answered)
}

/// A thread that has room for rendering templates.
fn start(work: impl FnOnce() + Send + 'static) -> Result<(), ApiError> {
    keeve_engine::chat::start_thread("keeve-prepare", work)
        .map(drop)
        .map_err(|error| ApiError::unavailable(format!("no thread for the request: {error}")))
}

/// Does one job after the other until none has come for a while.
fn keep_on(first: Job, [others, giving_way]: [Weak<Idle>; 2]) {
    let mut next = Some(first);
    while let Some(job) = next {
        job();
        next = wait(if GIVES_WAY.get() { &giving_way } else { &others });
    }
}

/// The next job for this thread, if there is one soon.
fn wait(idle: &Weak<Idle>) -> Option<Job> {
    let own = std::thread::current().id();
    let inbox: Receiver<Job> = {
        let idle = idle.upgrade()?;
        let mut idle = open(&idle);
        if idle.len() >= MOST_IDLE {
            return None;
        }
        let (sender, inbox) = channel();
        idle.push((own, sender));
        inbox
    };
    match inbox.recv_timeout(IDLE) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let idle = idle.upgrade()?;
            open(&idle).retain(|(thread, _)| *thread != own);
            // If somebody took it meanwhile, there is a job; else nobody can send any more.
            inbox.recv().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_the_background_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let threads = Threads::default();
            assert_eq!(threads.background(|| 7).await.unwrap(), 7);
            let broken = threads.background(|| panic!("on purpose") as u32).await.unwrap_err();
            assert_eq!(broken.status, 500);
        });
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    /// Waits until so many threads are idle: those that give way, and others.
    async fn settled(threads: &Threads, giving_way: usize, others: usize) {
        let counts = || (open(&threads.giving_way).len(), open(&threads.others).len());
        while counts() != (giving_way, others) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_thread_goes_on_with_the_next_work_of_its_kind() {
        runtime().block_on(async {
            let threads = Threads::default();
            let here = || std::thread::current().id();
            let first = threads.apart(here).await.unwrap();
            settled(&threads, 0, 1).await;
            assert_eq!(threads.apart(here).await.unwrap(), first);
            settled(&threads, 0, 1).await;
            // A panic ends the work only.
            assert_eq!(
                threads.apart(|| panic!("on purpose") as u32).await.unwrap_err().status,
                500
            );
            settled(&threads, 0, 1).await;
            let background = threads.background(here).await.unwrap();
            assert_ne!(background, first);
            settled(&threads, 1, 1).await;
            assert_eq!(threads.background(here).await.unwrap(), background);
            settled(&threads, 1, 1).await;
            // A thread that gives way does so for good, and is one of those.
            let turns_off = move || {
                give_way();
                here()
            };
            assert_eq!(threads.apart(turns_off).await.unwrap(), first);
            settled(&threads, 2, 0).await;
            assert_ne!(threads.apart(here).await.unwrap(), first);
            settled(&threads, 2, 1).await;
        });
    }

    #[test]
    fn few_threads_are_kept_and_none_without_their_owner() {
        runtime().block_on(async {
            let threads = Threads::default();
            let barrier = Arc::new(std::sync::Barrier::new(MOST_IDLE + 3));
            let works = (0..MOST_IDLE + 3).map(|_| {
                let barrier = barrier.clone();
                threads.apart(move || barrier.wait().is_leader())
            });
            for done in futures_util::future::join_all(works).await {
                done.unwrap();
            }
            settled(&threads, 0, MOST_IDLE).await;
            let idle = Arc::downgrade(&threads.others);
            drop(threads);
            assert!(idle.upgrade().is_none());
            assert!(wait(&idle).is_none());
        });
    }
}
