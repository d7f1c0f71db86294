//! Stacks for everything that the limits allow.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use crate::error::{Result, failed};

/// Stack of the thread that parses and renders; only what is used takes memory. It holds the deepest
/// nesting that is allowed several times over.
pub(crate) const STACK: usize = 64 << 20;

/// What a thread of [`start_thread`] may use of its stack besides.
const BESIDES: usize = 2 << 20;

thread_local! {
    /// Whether this thread's stack has room for a rendering.
    static ROOM: Cell<bool> = const { Cell::new(false) };
}

/// Starts a thread that has room for parsing and rendering on its own stack. On others, each of both starts a
/// thread for itself, which takes longer than rendering a short conversation does.
///
/// `work` may go 2 MiB deep itself.
///
/// # Errors
/// If the system gives no thread.
pub fn start_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).stack_size(STACK + BESIDES).spawn(|| {
        ROOM.set(true);
        work();
    })
}

/// Runs `inner` on a stack with room for it: this thread's, if it has one, else that of a new one.
pub(crate) fn on_large_stack<T: Send>(inner: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let broken = |what: String| failed(format!("the template engine cannot go on: {what}"));
    let guarded = || catch_unwind(AssertUnwindSafe(inner));
    // Whatever runs in there has used some of it already.
    let done = if ROOM.replace(false) {
        let done = guarded();
        ROOM.set(true);
        Ok(done)
    } else {
        std::thread::scope(|scope| {
            let thread = Builder::new().stack_size(STACK).spawn_scoped(scope, guarded);
            // A panic is caught in there already.
            thread.map(|thread| thread.join().unwrap_or_else(Err))
        })
    };
    match done {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => broken("internal error".to_owned()),
        Err(error) => broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::execute::{Host, Template};
    use crate::{Error, Limits};

    /// Where `on_large_stack` runs, seen from here: on this thread, and within that.
    fn places() -> (bool, bool) {
        let here = || std::thread::current().id();
        let own = here();
        let place = || Ok((here() == own, on_large_stack(|| Ok(here() == own))?));
        on_large_stack(place).unwrap()
    }

    #[test]
    fn a_rendering_starts_no_thread_where_there_is_room() {
        assert_eq!(places(), (false, false));
        let (sender, receiver) = channel();
        let work = move || {
            let _ = sender.send(places());
            let panicked = on_large_stack(|| -> Result<()> { panic!("on purpose") });
            assert!(matches!(panicked, Err(Error::Failed { .. })));
            let _ = sender.send(places());
        };
        start_thread("roomy", work).unwrap().join().unwrap();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(true, false); 2]);
    }

    #[test]
    fn the_deepest_nesting_fits_a_thread_with_room() {
        let source = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}";
        let deep = move || {
            let template = Template::parse(source).unwrap();
            let host = Host { strftime: &|_| Ok(String::new()), given_up: &|| false };
            template.render(&[], &host, Limits::default()).map(drop).unwrap_err();
        };
        start_thread("roomy", deep).unwrap().join().unwrap();
    }
}
