//! Ctrl-C: the first one asks for an orderly end, the second one ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use keeve::Canceller;
use keeve::engine::wanted;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static CURRENT: Mutex<Option<Canceller>> = Mutex::new(None);

/// The same for work that looks at a flag.
static FLAG: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether Ctrl-C ends the process without further ado.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// The exit code of an interrupted command, as shells have it.
pub const EXIT_CODE: u8 = 130;

/// Begins to watch for Ctrl-C and SIGTERM.
pub fn watch() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        FLAG.store(true, Ordering::SeqCst);
        if INTERRUPTED.swap(true, Ordering::SeqCst) || AT_ONCE.load(Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
        if let Some(canceller) = &*CURRENT.lock().unwrap_or_else(PoisonError::into_inner) {
            canceller.cancel();
        }
    })
}

/// Begins to watch for Ctrl-C and SIGTERM; the first one calls `stop`.
pub fn watch_for(stop: impl Fn() + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
        stop();
    })
}

/// Whether Ctrl-C came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Renders, tokenizes or compiles until that is done or Ctrl-C comes.
pub fn until<T>(work: impl FnOnce() -> T) -> T {
    wanted::until(FLAG.clone(), work)
}

/// Ctrl-C has done what it should; the next one is again the first.
pub fn forget() {
    FLAG.store(false, Ordering::SeqCst);
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Makes Ctrl-C end the process, or stops to: for as long as nothing looks at [`interrupted`].
pub fn ends_at_once(yes: bool) {
    AT_ONCE.store(yes, Ordering::SeqCst);
}

/// Makes Ctrl-C cancel this request.
pub fn cancels(canceller: Canceller) {
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(canceller.clone());
    if interrupted() {
        canceller.cancel();
    }
}
