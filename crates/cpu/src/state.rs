//! Keys and values of all sequences, in pages.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use keeve_graph::{Error, PageId, State};

/// Tokens in a page.
pub(crate) const PAGE_TOKENS: usize = 32;

/// Zeroed memory that the system gives only as it is touched, so that room for the longest
/// context costs nothing until it is used.
struct Zeroed {
    /// Where the values are: inside the allocation, on a boundary of [`ALIGNMENT`].
    start: NonNull<f32>,
    values: usize,
    allocation: NonNull<u8>,
    layout: Layout,
}

/// A cache line.
const ALIGNMENT: usize = 64;

// SAFETY: it owns its memory, like a `Box<[f32]>`.
unsafe impl Send for Zeroed {}
// SAFETY: as above.
unsafe impl Sync for Zeroed {}

impl Zeroed {
    fn new(values: usize) -> Option<Self> {
        // The boundary is found by hand: asked for more than their own alignment, allocators write
        // the zeros themselves, and touch all of it.
        let bytes = values.checked_mul(size_of::<f32>())?.checked_add(ALIGNMENT)?;
        let layout = Layout::from_size_align(bytes, align_of::<f32>()).ok()?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let offset = allocation.align_offset(ALIGNMENT);
        // SAFETY: the offset is below ALIGNMENT, by which the allocation is longer than the values.
        let start = unsafe { allocation.add(offset) }.cast();
        Some(Self { start, values, allocation, layout })
    }
}

impl Deref for Zeroed {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the allocation has this many values, all initialized (zero is a valid `f32`).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.values) }
    }
}

impl DerefMut for Zeroed {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.values) }
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// Keys and values of one slot: `[pages, kv_heads, PAGE_TOKENS, head_dim]` each.
pub(crate) struct KeyValues {
    keys: Zeroed,
    values: Zeroed,
    kv_heads: usize,
    head_dim: usize,
}

impl KeyValues {
    fn page_len(&self) -> usize {
        self.kv_heads * PAGE_TOKENS * self.head_dim
    }

    fn head_start(&self, page: PageId, head: usize) -> usize {
        (page as usize * self.kv_heads + head) * PAGE_TOKENS * self.head_dim
    }

    /// Keys of one head in one page: `[PAGE_TOKENS, head_dim]`.
    pub fn keys(&self, page: PageId, head: usize) -> &[f32] {
        let start = self.head_start(page, head);
        &self.keys[start..start + PAGE_TOKENS * self.head_dim]
    }

    /// Values of one head in one page: `[PAGE_TOKENS, head_dim]`.
    pub fn values(&self, page: PageId, head: usize) -> &[f32] {
        let start = self.head_start(page, head);
        &self.values[start..start + PAGE_TOKENS * self.head_dim]
    }

    /// Stores a token's keys and values (`[kv_heads * head_dim]` each) at `index` of `page`.
    pub fn store(&mut self, page: PageId, index: usize, keys: &[f32], values: &[f32]) {
        for head in 0..self.kv_heads {
            let start = self.head_start(page, head) + index * self.head_dim;
            let token = head * self.head_dim..(head + 1) * self.head_dim;
            self.keys[start..start + self.head_dim].copy_from_slice(&keys[token.clone()]);
            self.values[start..start + self.head_dim].copy_from_slice(&values[token]);
        }
    }
}

/// The state of a graph's paged slots.
pub(crate) struct Pages {
    pub slots: Vec<KeyValues>,
    pages: usize,
}

impl Pages {
    /// Room for `pages` pages in slots of `(kv_heads, head_dim)`.
    pub fn new(slots: &[(usize, usize)], pages: usize) -> Result<Self, Error> {
        let make = |&(kv_heads, head_dim): &(usize, usize)| {
            let values = pages
                .checked_mul(kv_heads * PAGE_TOKENS)
                .and_then(|tokens| tokens.checked_mul(head_dim));
            let out_of_memory = || Error::OutOfMemory {
                what: "keys and values",
                bytes: (pages as u64).saturating_mul((page_bytes(slots)) as u64),
            };
            let zeroed = || values.and_then(Zeroed::new).ok_or_else(out_of_memory);
            Ok(KeyValues { keys: zeroed()?, values: zeroed()?, kv_heads, head_dim })
        };
        Ok(Self { slots: slots.iter().map(make).collect::<Result<_, Error>>()?, pages })
    }

    /// Whether it was made for these slots.
    pub fn is_for(&self, slots: &[(usize, usize)]) -> bool {
        self.slots.iter().map(|slot| (slot.kv_heads, slot.head_dim)).eq(slots.iter().copied())
    }
}

/// Bytes of one page over slots of `(kv_heads, head_dim)`.
pub(crate) fn page_bytes(slots: &[(usize, usize)]) -> usize {
    slots.iter().map(|(heads, dim)| 2 * heads * dim * PAGE_TOKENS * size_of::<f32>()).sum()
}

impl State for Pages {
    fn page_tokens(&self) -> usize {
        PAGE_TOKENS
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn page_bytes(&self) -> usize {
        self.slots.iter().map(|slot| 2 * slot.page_len() * size_of::<f32>()).sum()
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        for slot in &mut self.slots {
            let len = slot.page_len();
            let (from, to) = (from as usize * len, to as usize * len);
            slot.keys.copy_within(from..from + len, to);
            slot.values.copy_within(from..from + len, to);
        }
    }

    fn export_page(&self, page: PageId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.page_bytes());
        for slot in &self.slots {
            let start = page as usize * slot.page_len();
            for part in [&slot.keys, &slot.values] {
                let page = &part[start..start + slot.page_len()];
                bytes.extend(page.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        bytes
    }

    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> bool {
        if bytes.len() != self.page_bytes() {
            return false;
        }
        let (values, _) = bytes.as_chunks::<4>();
        let mut values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
        for slot in &mut self.slots {
            let len = slot.page_len();
            let start = page as usize * len;
            for part in [&mut slot.keys, &mut slot.values] {
                part[start..start + len]
                    .iter_mut()
                    .zip(&mut values)
                    .for_each(|(to, from)| *to = from);
            }
        }
        true
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [(usize, usize); 2] = [(2, 3), (1, 8)];

    fn filled(pages: usize) -> Pages {
        let mut state = Pages::new(&SLOTS, pages).expect("memory");
        let mut next = 0.0;
        for slot in &mut state.slots {
            for part in [&mut slot.keys, &mut slot.values] {
                part.iter_mut().for_each(|value| {
                    next += 1.0;
                    *value = next;
                });
            }
        }
        state
    }

    #[test]
    fn pages_are_copied_in_every_slot_and_nowhere_else() {
        let mut state = filled(4);
        let before: Vec<_> = (0..4).map(|page| state.export_page(page)).collect();
        state.copy_page(3, 1);
        for (page, from) in [(0, 0), (1, 3), (2, 2), (3, 3)] {
            assert!(state.export_page(page) == before[from], "page {page}");
        }
    }

    #[test]
    fn an_exported_page_comes_back_elsewhere() {
        let state = filled(3);
        let bytes = state.export_page(2);
        assert_eq!(bytes.len(), state.page_bytes());
        assert_eq!(bytes.len(), page_bytes(&SLOTS));
        let mut other = Pages::new(&SLOTS, 2).expect("memory");
        let empty = other.export_page(0);
        assert!(empty.iter().all(|&byte| byte == 0));
        assert!(!other.import_page(1, &bytes[1..]));
        assert!(other.export_page(1) == empty);
        assert!(other.import_page(1, &bytes));
        assert!(other.export_page(1) == bytes && other.export_page(0) == empty);
        assert_eq!(other.slots[1].keys(1, 0), state.slots[1].keys(2, 0));
    }

    #[test]
    fn memory_is_aligned_and_too_much_is_an_error() {
        for values in [0, 1, 7, 1000] {
            let zeroed = Zeroed::new(values).expect("memory");
            assert_eq!((zeroed.len(), zeroed.as_ptr() as usize % ALIGNMENT), (values, 0));
        }
        for pages in [usize::MAX, usize::MAX / 1000, 1 << 50] {
            let error = Pages::new(&SLOTS, pages).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains("keys and values")), "{pages}");
        }
    }
}
