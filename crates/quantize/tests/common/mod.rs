//! What several tests of this crate need.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of several tests, each of which uses some"
)]

use std::path::{Path, PathBuf};

use keeve_checkpoint::Checkpoint;
use keeve_quantize::Observer;

/// A file or folder of the shared test data.
pub fn data(path: &str) -> PathBuf {
    Path::new(&std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA")).join(path)
}

/// Lets work go on to its end.
pub struct Quiet;

impl Observer for Quiet {
    fn progress(&self, _: u64, _: u64, _: &str) {}

    fn stopped(&self) -> bool {
        false
    }
}

/// Both models have the same tensors, of the same codecs, shapes and bytes.
pub fn same_tensors(a: &Path, b: &Path) {
    let (a, b) = (Checkpoint::open(a).unwrap(), Checkpoint::open(b).unwrap());
    assert_eq!(a.tensors().len(), b.tensors().len());
    for info in a.tensors() {
        assert_eq!(info.shape, b.info(&info.name).unwrap().shape, "{}", info.name);
        let (left, right) = (a.tensor(&info.name).unwrap(), b.tensor(&info.name).unwrap());
        assert!(left == right, "{} ({})", info.name, info.format);
    }
}
