//! Whether anybody still wants what a thread is working on.
//!
//! Rendering, tokenizing and compiling run on threads that may block. Whoever asked may have gone
//! meanwhile, or pressed Ctrl-C; the work then ends at the next place that looks.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

thread_local! {
    static GIVEN_UP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Does some work of this crate on this thread, until it is done or the flag is set: then it fails with
/// [`Error::GivenUp`], soon but not at once.
pub fn until<T>(given_up: Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<AtomicBool>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            GIVEN_UP.with(|flag| *flag.borrow_mut() = before);
        }
    }
    let before = GIVEN_UP.with(|flag| flag.borrow_mut().replace(given_up));
    let _restore = Restore(before);
    work()
}

/// What is set as soon as nobody wants the work of this thread any more, for work that goes on on others.
pub(crate) fn flag() -> Option<Arc<AtomicBool>> {
    GIVEN_UP.with(|flag| flag.borrow().clone())
}

/// # Errors
/// If nobody wants the work of this thread any more.
pub(crate) fn check() -> Result<(), Error> {
    let given_up = flag().is_some_and(|flag| flag.load(Ordering::Relaxed));
    if given_up { Err(Error::GivenUp) } else { Ok(()) }
}
