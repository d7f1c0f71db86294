//! The state of all sequences, in pages.

use std::any::Any;

use keeve_graph::{Error, PageId, State};

use crate::kv_cache::{KeyValues, KvShape, PAGE_TOKENS, page_bytes};

/// The state of a graph's paged slots.
pub(crate) struct Pages {
    pub slots: Vec<KeyValues>,
    pages: usize,
}

impl Pages {
    /// Room for `pages` pages.
    pub fn new(shapes: &[KvShape], pages: usize) -> Result<Self, Error> {
        let slots = KeyValues::slots(shapes, pages).ok_or_else(|| Error::OutOfMemory {
            what: "keys and values",
            bytes: (pages as u64).saturating_mul(page_bytes(shapes) as u64),
        })?;
        Ok(Self { slots, pages })
    }

    /// Whether it was made for these slots.
    pub fn is_for(&self, slots: &[KvShape]) -> bool {
        self.slots.iter().map(|slot| slot.shape).eq(slots.iter().copied())
    }
}

impl State for Pages {
    fn page_tokens(&self) -> usize {
        PAGE_TOKENS
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn page_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.shape.page_bytes()).sum()
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.slots.iter_mut().for_each(|slot| slot.copy_page(from, to));
    }

    fn export_page(&self, page: PageId) -> Vec<u8> {
        self.slots.iter().flat_map(|slot| slot.page(page)).copied().collect()
    }

    fn import_page(&mut self, page: PageId, bytes: &[u8]) -> bool {
        if bytes.len() != State::page_bytes(self) {
            return false;
        }
        let mut rest = bytes;
        for slot in &mut self.slots {
            let (page_bytes, after) = rest.split_at(slot.shape.page_bytes());
            slot.page_mut(page).copy_from_slice(page_bytes);
            rest = after;
        }
        true
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use keeve_graph::KvCodec;

    use super::*;

    /// Two slots under each codec.
    fn shapes() -> [[KvShape; 2]; 3] {
        let shape = |codec, kv_heads, head_dim| KvShape { kv_heads, head_dim, codec };
        KvCodec::ALL.map(|codec| [shape(codec, 2, 3), shape(codec, 1, 40)])
    }

    fn filled(slots: &[KvShape], pages: usize) -> Pages {
        let mut state = Pages::new(slots, pages).expect("memory");
        let mut next = 0u32;
        for slot in &mut state.slots {
            for page in 0..pages as PageId {
                slot.page_mut(page).iter_mut().for_each(|byte| {
                    next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (next >> 24) as u8;
                });
            }
        }
        state
    }

    #[test]
    fn pages_are_copied_in_every_slot_and_nowhere_else() {
        for slots in shapes() {
            let mut state = filled(&slots, 4);
            let before: Vec<_> = (0..4).map(|page| state.export_page(page)).collect();
            state.copy_page(3, 1);
            for (page, from) in [(0, 0), (1, 3), (2, 2), (3, 3)] {
                assert!(state.export_page(page) == before[from], "page {page}");
            }
        }
    }

    #[test]
    fn an_exported_page_comes_back_elsewhere() {
        for slots in shapes() {
            let state = filled(&slots, 3);
            let bytes = state.export_page(2);
            assert_eq!(bytes.len(), State::page_bytes(&state));
            assert_eq!(bytes.len(), page_bytes(&slots));
            let mut other = Pages::new(&slots, 2).expect("memory");
            let empty = other.export_page(0);
            assert!(empty.iter().all(|&byte| byte == 0));
            assert!(!other.import_page(1, &bytes[1..]));
            assert!(other.export_page(1) == empty);
            assert!(other.import_page(1, &bytes));
            assert!(other.export_page(1) == bytes && other.export_page(0) == empty);
            assert!(other.slots[1].page(1) == state.slots[1].page(2));
        }
    }

    #[test]
    fn bytes_are_those_of_the_codec() {
        let bytes = shapes().map(|slots| slots[1].page_bytes());
        assert_eq!(bytes, [40 * 4, 40 * 2, 40 + 2 * 2].map(|token| 2 * PAGE_TOKENS * token));
    }

    #[test]
    fn too_much_memory_is_an_error() {
        for slots in shapes() {
            for pages in [usize::MAX, usize::MAX / 1000, 1 << 50] {
                let error = Pages::new(&slots, pages).err().map(|error| error.to_string());
                assert!(error.is_some_and(|error| error.contains("keys and values")), "{pages}");
            }
        }
    }
}
