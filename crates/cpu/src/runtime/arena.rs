//! Memory that is read from end to end: packed weights, keys and values.
//!
//! A step reads all of it once, and a processor remembers where only a few pages are: from pages of 4 KiB it reads
//! two thirds as fast as from those of 2 MiB. The system gives large ones only where a mapping has a whole one, and
//! many matrices are smaller. So they share mappings.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapRaw};

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;
/// Bytes of a mapping, if nothing larger is asked for. What is not used of it costs no memory.
const MAPPING: usize = 64 << 20;
/// What pieces begin at multiples of.
const ALIGNMENT: usize = 64;

/// Gives out pieces of mappings, which go back to the system when all their pieces are gone.
#[derive(Default)]
pub(crate) struct Arena(Mutex<Option<Rest>>);

/// What is left of a mapping.
struct Rest {
    mapping: Arc<MmapRaw>,
    start: usize,
}

impl Arena {
    /// A piece of `len` zeros.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn take(&self, len: usize) -> io::Result<Piece> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Rest { mapping, start } = match left.take() {
            Some(rest) if len <= rest.mapping.len() - rest.start => rest,
            _ => Rest::new(len)?,
        };
        let end = (start + len).next_multiple_of(ALIGNMENT).min(mapping.len());
        *left = Some(Rest { mapping: mapping.clone(), start: end });
        Ok(Piece { mapping, start, len })
    }
}

impl Rest {
    /// A new mapping with room for `len` bytes.
    fn new(len: usize) -> io::Result<Self> {
        let too_much = || io::Error::from(io::ErrorKind::OutOfMemory);
        // The room starts with a large page, wherever the mapping does.
        let bytes = len.max(MAPPING).checked_add(LARGE_PAGE).ok_or_else(too_much)?;
        let mapping = MmapMut::map_anon(bytes)?;
        // The system may not have large pages: then it is slower.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let start = mapping.as_ptr().align_offset(LARGE_PAGE);
        Ok(Self { mapping: Arc::new(mapping.into()), start })
    }
}

/// A part of a mapping that is nobody else's. It begins at a multiple of 64 bytes.
pub(crate) struct Piece {
    mapping: Arc<MmapRaw>,
    start: usize,
    len: usize,
}

impl Piece {
    /// Where it begins. For those who share a piece and see to it themselves that nobody reads what another writes.
    pub fn start(&self) -> *mut u8 {
        // In bounds: see `Arena::take`.
        self.mapping.as_mut_ptr().wrapping_add(self.start)
    }

    /// Its bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lives as long as the piece and has these bytes (`Arena::take`), all of them
        // initialized by the system; no two pieces share any, and this one is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`; nobody writes while the piece is borrowed.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeros_of_their_own() {
        let arena = Arena::default();
        let lens = [1, 0, 63, 64, 65, 1 << 20, MAPPING - (1 << 20), MAPPING + 1, 7];
        let mut pieces: Vec<_> = lens.iter().map(|&len| arena.take(len).unwrap()).collect();
        for (index, piece) in pieces.iter_mut().enumerate() {
            let bytes = piece.bytes_mut();
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % ALIGNMENT), (lens[index], 0));
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(index as u8 + 1);
        }
        drop(arena);
        for (index, piece) in pieces.iter().enumerate() {
            assert!(piece.iter().all(|&byte| byte == index as u8 + 1), "{index}");
        }
    }

    #[test]
    fn small_pieces_share_a_mapping_that_starts_with_a_large_page() {
        let arena = Arena::default();
        let (first, second) = (arena.take(100).unwrap(), arena.take(100).unwrap());
        assert_eq!(first.as_ptr() as usize % LARGE_PAGE, 0);
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 128);
    }

    #[test]
    fn too_much_memory_is_an_error() {
        for len in [usize::MAX, usize::MAX - LARGE_PAGE, 1 << 60] {
            assert!(Arena::default().take(len).is_err());
        }
    }
}
