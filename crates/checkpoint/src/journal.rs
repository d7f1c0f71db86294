//! What is known of a file that is being written: which tensors are in it, whole and as they should be.
//!
//! A part's length says nothing about its content: after a power cut a file may be as long as it should be and hold
//! zeros where blocks were never written. So a tensor counts as written only if it stands here with the hash of its
//! bytes, and the bytes have that hash when the part is taken up again. Hashes are recorded after the bytes are on the
//! disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use keeve_files::part;
use sha2::{Digest, Sha256};

/// Bytes of a record: its number, a space, a hash and the end of the line.
const RECORD: usize = 8 + 1 + HASH + 1;

/// Characters of a hash.
const HASH: usize = 64;

/// The records of a part, in a file beside it.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// Hashes of tensors that are written, but not known to be on the disk.
    pending: Vec<String>,
    /// Records in the file.
    recorded: usize,
}

/// The hash of bytes in hexadecimal.
pub(crate) struct Hash(Sha256);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> String {
        use std::fmt::Write;
        self.0.finalize().iter().fold(String::with_capacity(HASH), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl Journal {
    /// Opens the records at `path`, and gives the hashes that are in order, at most `most`.
    pub(crate) fn open(path: &Path, most: usize) -> io::Result<(Self, Vec<String>)> {
        let mut file = part::open_or_create(path)?;
        let mut text = Vec::new();
        (&mut file).take((most as u64).saturating_mul(RECORD as u64)).read_to_end(&mut text)?;
        let hashes: Vec<String> = text
            .chunks_exact(RECORD)
            .zip(0usize..)
            .map_while(|(record, number)| read(record, number))
            .collect();
        let mut journal = Self { file, path: path.into(), pending: Vec::new(), recorded: 0 };
        journal.keep(hashes.len())?;
        Ok((journal, hashes))
    }

    /// Forgets all but the first `count` records.
    pub(crate) fn keep(&mut self, count: usize) -> io::Result<()> {
        self.pending.clear();
        self.recorded = count;
        let end = (count as u64).saturating_mul(RECORD as u64);
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        Ok(())
    }

    /// Notes that the next tensor is written and has this hash.
    pub(crate) fn written(&mut self, hash: String) {
        self.pending.push(hash);
    }

    /// Records what is written, but no more than `most` records in all: so much is on the disk.
    pub(crate) fn record(&mut self, most: usize) -> io::Result<()> {
        self.pending.truncate(most.saturating_sub(self.recorded));
        let mut text = String::with_capacity(self.pending.len() * RECORD);
        for hash in self.pending.drain(..) {
            text += &format!("{:08x} {hash}\n", self.recorded);
            self.recorded += 1;
        }
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }

    /// Removes the records.
    pub(crate) fn remove(&self) {
        part::remove_leftover(&self.path);
    }
}

/// The hash of record `number`.
fn read(record: &[u8], number: usize) -> Option<String> {
    let text = std::str::from_utf8(record).ok()?.strip_suffix('\n')?;
    let (index, hash) = text.split_once(' ')?;
    let right = usize::from_str_radix(index, 16) == Ok(number)
        && hash.len() == HASH
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| hash.into())
}
