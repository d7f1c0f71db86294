//! How much of a picture is accepted.

/// Limits on one picture. All but the first are checked on its header, before anything is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Pixels of either side, as the file says.
    pub side: u32,
    /// Pixels, as the file says.
    pub pixels: u64,
    /// Bytes that decoding may allocate, its result included.
    pub allocation: u64,
}

impl Default for Limits {
    /// 20 MiB, 16,384 pixels a side, 64 million pixels, 512 MiB while decoding.
    fn default() -> Self {
        Self { bytes: 20 << 20, side: 16_384, pixels: 64_000_000, allocation: 512 << 20 }
    }
}
