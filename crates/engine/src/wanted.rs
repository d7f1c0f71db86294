//! Whether anybody still wants what a thread is working on.
//!
//! Rendering, tokenizing and compiling run on threads that may block. Whoever asked may have gone
//! meanwhile, or pressed Ctrl-C; the work then ends at the next place that looks. Such a place is also where
//! work that takes long can be made to wait for its turn.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// Who decides whether some work goes on.
pub trait Wanted: Send + Sync {
    /// Whether it does. It is asked every fraction of a millisecond, on the thread that works, and may
    /// keep it waiting.
    fn go_on(&self) -> bool;
}

/// A flag that is set once the work is given up.
impl Wanted for AtomicBool {
    fn go_on(&self) -> bool {
        !self.load(Ordering::Relaxed)
    }
}

thread_local! {
    static WANTED: RefCell<Option<Arc<dyn Wanted>>> = const { RefCell::new(None) };
}

/// Does some work of this crate on this thread, until it is done or not wanted any more: then it fails with
/// [`Error::GivenUp`], soon but not at once.
pub fn until<T>(wanted: Arc<dyn Wanted>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<dyn Wanted>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            WANTED.with(|wanted| *wanted.borrow_mut() = before);
        }
    }
    let before = WANTED.with(|own| own.borrow_mut().replace(wanted));
    let _restore = Restore(before);
    work()
}

/// Who decides about the work of this thread, for work that goes on on others.
pub(crate) fn who() -> Option<Arc<dyn Wanted>> {
    WANTED.with(|wanted| wanted.borrow().clone())
}

/// Whether the work of this thread is still wanted: by default it is.
pub fn go_on() -> bool {
    who().is_none_or(|wanted| wanted.go_on())
}

/// # Errors
/// If nobody wants the work of this thread any more.
pub(crate) fn check() -> Result<(), Error> {
    if go_on() { Ok(()) } else { Err(Error::GivenUp) }
}
