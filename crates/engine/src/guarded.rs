//! Calls into libraries that may panic on hostile input.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether panics of this thread are answers of a library and nothing to tell a person.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call into a library, turning a panic inside it into an error text of one line. Nothing is printed.
pub(crate) fn guarded<T, E: ToString>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    QUIET.set(before);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().replace('\n', " ")),
        Err(_) => Err("the tokenizer library gave up on this input".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors_and_nest() {
        let outcome = guarded(|| {
            let inner = guarded(|| -> Result<(), String> { panic!("inner") });
            assert!(inner.is_err());
            Err::<(), _>("two\nlines")
        });
        assert_eq!(outcome, Err("two lines".to_owned()));
        assert!(!QUIET.get());
    }
}
