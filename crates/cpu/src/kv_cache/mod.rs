//! Keys and values of one slot, in pages, as a [`KvCodec`] stores them.

pub(crate) mod pages;

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use keeve_graph::{KvCodec, PageId};

use crate::runtime::arena::{Arena, Piece};
use crate::runtime::bytes::{numbers, numbers_mut};

/// Tokens in a page.
pub(crate) const PAGE_TOKENS: usize = 32;
/// Numbers that share a scale under [`KvCodec::Q8_0`].
pub(crate) const SCALE_SPAN: usize = 32;

/// What a slot holds for each token, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub kv_heads: usize,
    pub head_dim: usize,
    pub codec: KvCodec,
}

impl KvShape {
    /// Bytes of the keys, or values, of one head in one page.
    fn head_bytes(&self) -> usize {
        PAGE_TOKENS
            * match self.codec {
                KvCodec::F32 => size_of::<f32>() * self.head_dim,
                KvCodec::F16 => size_of::<f16>() * self.head_dim,
                KvCodec::Q8_0 => self.head_dim + size_of::<f16>() * self.scales(),
            }
    }

    /// Scales of one key under [`KvCodec::Q8_0`].
    pub fn scales(&self) -> usize {
        self.head_dim.div_ceil(SCALE_SPAN)
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        2 * self.kv_heads * self.head_bytes()
    }

    /// The keys, or values, of one head in one page, from their bytes.
    fn head<'a>(&self, bytes: &'a [u8]) -> Head<'a> {
        match self.codec {
            KvCodec::F32 => Head::F32(numbers(bytes)),
            KvCodec::F16 => Head::F16(numbers(bytes)),
            KvCodec::Q8_0 => {
                let (codes, scales) = bytes.split_at(PAGE_TOKENS * self.head_dim);
                Head::Q8_0 { codes: numbers(codes), scales: numbers(scales) }
            }
        }
    }

    /// Stores one key, or value (`[head_dim]`), at `index` of the bytes of its head. `to_f16` is
    /// [`to_f16`], or does the same.
    #[inline(always)]
    pub fn store(
        &self,
        bytes: &mut [u8],
        index: usize,
        values: &[f32],
        to_f16: impl Fn(&[f32], &mut [f16]),
    ) {
        let range = index * self.head_dim..(index + 1) * self.head_dim;
        match self.codec {
            KvCodec::F32 => numbers_mut(bytes)[range].copy_from_slice(values),
            KvCodec::F16 => to_f16(values, &mut numbers_mut(bytes)[range]),
            KvCodec::Q8_0 => {
                let (codes, scales) = bytes.split_at_mut(PAGE_TOKENS * self.head_dim);
                let scales = &mut numbers_mut(scales)[index * self.scales()..][..self.scales()];
                to_q8_0(values, &mut numbers_mut(codes)[range], scales);
            }
        }
    }
}

/// Bytes of one page over all slots.
pub(crate) fn page_bytes(slots: &[KvShape]) -> usize {
    slots.iter().map(KvShape::page_bytes).sum()
}

/// The keys, or values, of one head in one page.
#[derive(Clone, Copy)]
pub(crate) enum Head<'a> {
    /// `[PAGE_TOKENS, head_dim]`.
    F32(&'a [f32]),
    /// `[PAGE_TOKENS, head_dim]`.
    F16(&'a [f16]),
    /// `[PAGE_TOKENS, head_dim]` and `[PAGE_TOKENS, runs of 32]`; a number is code times scale, exact
    /// in `f32`.
    Q8_0 { codes: &'a [i8], scales: &'a [f16] },
}

impl Head<'_> {
    /// Where its numbers (or codes) begin.
    pub fn start(&self) -> *const u8 {
        match self {
            Self::F32(values) => values.as_ptr().cast(),
            Self::F16(values) => values.as_ptr().cast(),
            Self::Q8_0 { codes, .. } => codes.as_ptr().cast(),
        }
    }
}

/// The largest binary16 number.
pub(crate) const LARGEST_F16: f32 = 65504.0;

/// Numbers to binary16, to the nearest, ties to even; those out of range to its largest.
pub(crate) fn to_f16(values: &[f32], out: &mut [f16]) {
    let mut within = [0.0; 64];
    for (values, out) in values.chunks(within.len()).zip(out.chunks_mut(within.len())) {
        let within = &mut within[..values.len()];
        for (within, value) in within.iter_mut().zip(values) {
            *within = value.clamp(-LARGEST_F16, LARGEST_F16);
        }
        out.convert_from_f32_slice(within);
    }
}

/// Numbers to codes and scales: those of `q8_0` weights (`quantize_row_q8_0_ref` in
/// ggml/src/ggml-quants.c), but for a last run that may be shorter and scales out of range, which
/// become the largest one.
#[inline(always)]
fn to_q8_0(values: &[f32], codes: &mut [i8], scales: &mut [f16]) {
    let runs = values.chunks(SCALE_SPAN).zip(codes.chunks_mut(SCALE_SPAN));
    for ((values, codes), scale) in runs.zip(scales) {
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let exact = (largest / 127.0).min(f16::MAX.to_f32());
        *scale = f16::from_f32(exact);
        let inverse = if exact > 0.0 { 1.0 / exact } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            // Halves go away from zero. The number below a half keeps what is just below one from
            // being rounded up by the sum; conversion cuts off.
            let scaled = (value * inverse).clamp(-127.0, 127.0);
            *code = (scaled + 0.499_999_97f32.copysign(scaled)) as i8;
        }
    }
}

/// Keys and values of one slot: for each page and head `[keys, values]`.
///
/// The same page of all slots is in one place, one slot after the other: what a token needs is little in each slot, and
/// large pages of the system should be full of what is needed.
pub(crate) struct KeyValues {
    /// `[pages]` of `stride` bytes, which all slots share; this one's begin at `offset` of each.
    memory: Arc<Piece>,
    pages: usize,
    stride: usize,
    offset: usize,
    pub shape: KvShape,
}

impl KeyValues {
    /// Slots with room for `pages` pages, or `None` if the system has not as much. It gives memory only as it is
    /// touched, so that room for the longest context costs nothing until it is used.
    pub fn slots(shapes: &[KvShape], pages: usize) -> Option<Vec<Self>> {
        let stride = page_bytes(shapes);
        let memory = Arc::new(Arena::default().take(pages.checked_mul(stride)?).ok()?);
        let mut next = 0;
        let slot = |&shape: &KvShape| {
            let offset = next;
            next += shape.page_bytes();
            Self { memory: memory.clone(), pages, stride, offset, shape }
        };
        Some(shapes.iter().map(slot).collect())
    }

    /// Where the bytes of a page are, [`KvShape::page_bytes`] of them, which are no other slot's.
    ///
    /// # Panics
    /// If there is no such page.
    fn place(&self, page: PageId) -> *mut u8 {
        let page = page as usize;
        assert!(page < self.pages, "page {page} of {}", self.pages);
        self.memory.start().wrapping_add(page * self.stride + self.offset)
    }

    /// The bytes of a page.
    pub fn page(&self, page: PageId) -> &[u8] {
        // SAFETY: they are this slot's, of which nobody has an exclusive borrow.
        unsafe { std::slice::from_raw_parts(self.place(page), self.shape.page_bytes()) }
    }

    /// The bytes of a page, to be written.
    pub fn page_mut(&mut self, page: PageId) -> &mut [u8] {
        // SAFETY: they are this slot's, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.place(page), self.shape.page_bytes()) }
    }

    /// Copies page `from` over page `to`.
    pub fn copy_page(&mut self, from: PageId, to: PageId) {
        // SAFETY: as in `page_mut`; both pages have as many bytes.
        unsafe { std::ptr::copy(self.place(from), self.place(to), self.shape.page_bytes()) }
    }

    /// Keys of one head in one page.
    pub fn keys(&self, page: PageId, head: usize) -> Head<'_> {
        let len = self.shape.head_bytes();
        self.shape.head(&self.page(page)[2 * head * len..][..len])
    }

    /// Values of one head in one page.
    pub fn values(&self, page: PageId, head: usize) -> Head<'_> {
        let len = self.shape.head_bytes();
        self.shape.head(&self.page(page)[(2 * head + 1) * len..][..len])
    }

    /// For writing to several pages at the same time.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer(self)
    }
}

/// Writes keys and values of tokens. Holds the slot's exclusive borrow.
pub(crate) struct Writer<'a>(&'a KeyValues);

impl Writer<'_> {
    /// Stores the key and the value (`[kv_heads * head_dim]` each) of a token at `index` of `page`.
    ///
    /// # Safety
    /// No other call may be writing to the page.
    ///
    /// # Panics
    /// If the page does not have the token.
    pub unsafe fn store(
        &self,
        page: PageId,
        index: usize,
        key: &[f32],
        value: &[f32],
        store: impl Fn(KvShape, &mut [u8], usize, &[f32]),
    ) {
        let shape = self.0.shape;
        let KvShape { kv_heads, head_dim, .. } = shape;
        let len = shape.head_bytes();
        // SAFETY: the page is this slot's, which is borrowed exclusively, and nobody else writes to it, by this
        // function's contract.
        let page =
            unsafe { std::slice::from_raw_parts_mut(self.0.place(page), shape.page_bytes()) };
        for head in 0..kv_heads {
            let (key_bytes, value_bytes) = page[2 * head * len..][..2 * len].split_at_mut(len);
            let columns = head * head_dim..(head + 1) * head_dim;
            store(shape, key_bytes, index, &key[columns.clone()]);
            store(shape, value_bytes, index, &value[columns]);
        }
    }
}

#[cfg(test)]
mod tests {
    use keeve_codec::{Codec, EncodeOptions, decode_row, encode};

    use super::*;

    #[test]
    fn q8_0_is_that_of_weights() {
        let mut seed = 1u32;
        let mut values: Vec<f32> = (0..32 * 200)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * ((seed % 7) as f32).exp2()
            })
            .collect();
        // Halves, in a run whose scale is one.
        for (index, value) in values[..32].iter_mut().enumerate() {
            *value = if index == 0 { 127.0 } else { index as f32 * 3.0 - 50.5 };
        }
        values[32..64].fill(0.0);
        let tensor = encode(Codec::Q8_0, 1, values.len(), &values, EncodeOptions::default());
        let tensor = tensor.expect("a tensor").tensor;
        let mut expected = vec![0.0; values.len()];
        decode_row(&tensor, 0, &mut expected);
        let mut codes = vec![0; values.len()];
        let mut scales = vec![f16::ZERO; values.len() / SCALE_SPAN];
        to_q8_0(&values, &mut codes, &mut scales);
        let found = codes
            .iter()
            .enumerate()
            .map(|(index, &code)| f32::from(code) * scales[index / SCALE_SPAN].to_f32());
        assert!(found.eq(expected));
    }

    #[test]
    fn numbers_out_of_range_become_the_largest() {
        let values = [1e6, -1e30, f32::INFINITY, 1.0, f32::NEG_INFINITY, 65519.9];
        let mut out = [f16::ZERO; 6];
        to_f16(&values, &mut out);
        assert_eq!(out.map(f16::to_f32), [65504.0, -65504.0, 65504.0, 1.0, -65504.0, 65504.0]);
        let (mut codes, mut scales) = ([0; 6], [f16::ZERO]);
        to_q8_0(&values, &mut codes, &mut scales);
        assert_eq!((codes[1], codes[2], codes[4]), (-127, 127, -127));
        assert_eq!(scales[0], f16::MAX);
        to_q8_0(&[f32::NAN, 2.0], &mut codes[..2], &mut scales);
        assert_eq!((codes[0], codes[1]), (0, 127));
    }
}
