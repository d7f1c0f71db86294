//! Work that may take long, on threads of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::error::ApiError;

/// How much less of a core threads that give way get than others that want it too: a tenth.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lets this thread compute when others do not, from now on.
pub(crate) fn give_way() {
    // On Linux it is the thread that becomes nice, and those that it starts. Without it, it works too.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICE);
}

/// Does some work on a thread of its own.
///
/// # Errors
/// If there is no thread, or the work panics.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (answer, answered) = oneshot::channel();
    let named = std::thread::Builder::new().name("keeve-prepare".into());
    let thread = named.spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        // Whoever asked may have gone.
        let _ = answer.send(done.ok());
    });
    thread.map_err(|error| ApiError::unavailable(format!("no thread for the request: {error}")))?;
    answered.await.ok().flatten().ok_or_else(ApiError::panicked)
}

/// The same, on a thread that gives way to others.
///
/// # Errors
/// If there is no thread, or the work panics.
pub(crate) async fn background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    apart(move || {
        give_way();
        work()
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_the_background_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert_eq!(background(|| 7).await.unwrap(), 7);
            let broken = background(|| panic!("on purpose") as u32).await.unwrap_err();
            assert_eq!(broken.status, 500);
        });
    }
}
