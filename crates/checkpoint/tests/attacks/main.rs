//! Files that lie. Each must be refused with one line that names the file and what is wrong, without
//! a panic and without memory that follows a number in the file.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod gguf;
mod safetensors;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Model, open};

/// Remembers the largest single allocation.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every call to the system allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Opens the model and reads every tensor; gives the error.
fn refusal(model: &Model) -> Option<String> {
    let read_all = || {
        let checkpoint = open(model)?;
        for info in checkpoint.tensors() {
            checkpoint.tensor(&info.name)?;
        }
        checkpoint.gguf_tokenizer()
    };
    read_all().err().map(|error| error.to_string())
}

/// Asserts that the model is refused with a line about `file` that contains `expected`.
fn assert_refused(what: &str, model: &Model, file: &str, expected: &str) {
    let error = refusal(model).unwrap_or_else(|| panic!("{what}: accepted"));
    let (named, _) = error.split_once(": ").unwrap_or((&error, ""));
    assert!(named.ends_with(file), "{what}: should name {file}: {error}");
    assert!(error.contains(expected), "{what}: should say '{expected}': {error}");
    assert!(error.len() < 800 && !error.contains(char::is_control), "{what}: {error:?}");
}

/// The tests above run in this process too, so that what they allocate counts.
#[test]
fn nothing_is_allocated_from_a_count() {
    safetensors::files_that_lie();
    gguf::metadata_that_lie();
    gguf::tensors_that_lie();
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < 8 << 20, "an allocation of {largest} bytes");
}
