//! Importance matrices: for each weight, the sum of the squares of what entered each of its columns.
//!
//! Both formats of ggml-org/llama.cpp `tools/imatrix/imatrix.cpp`: GGUF with tensors
//! `<name>.in_sum2` and `<name>.counts`, and the older `.dat`, which holds means times a number of
//! chunks. Names are ggml's (`blk.0.attn_q.weight`).

use std::collections::BTreeMap;
use std::path::Path;

use keeve_checkpoint::gguf::{self, Array, Value};
use keeve_codec::{Bytes, Codec, Parts};
use keeve_files::part;

use crate::Error;

/// What entered one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Sums of squares: a number a column, for each expert one after another.
    pub sums: Vec<f32>,
    /// Rows that were summed: for each expert, or one number for all.
    pub counts: Vec<f32>,
}

impl Entry {
    /// Columns of one expert.
    fn cols(&self) -> usize {
        self.sums.len() / self.counts.len().max(1)
    }

    /// The part of one expert, if there are as many.
    pub fn of(&self, expert: usize) -> Option<Self> {
        let count = *self.counts.get(expert)?;
        let sums = self.sums.chunks(self.cols().max(1)).nth(expert)?.to_vec();
        Some(Self { sums, counts: vec![count] })
    }

    /// Mean squares, as llama.cpp's quantizer uses them: 1 for experts that no row entered.
    pub fn means(&self) -> Vec<f32> {
        let cols = self.cols().max(1);
        let experts = self.sums.chunks(cols).zip(&self.counts);
        let mean = |(sums, &count): (&[f32], &f32)| -> Vec<f32> {
            sums.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect()
        };
        experts.flat_map(mean).collect()
    }
}

/// An importance matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imatrix {
    /// By ggml's name of the weight.
    pub entries: BTreeMap<String, Entry>,
    /// The texts it was made from.
    pub datasets: Vec<String>,
    /// Pieces of text that were run.
    pub chunks: u32,
    /// Tokens in a piece.
    pub chunk_size: u32,
}

/// More entries than this is an attack, not a model.
const MAX_ENTRIES: usize = 1 << 20;

/// Bytes of a file: more than twice those of a model of 10^12 weights with 384 experts in each of 61 layers.
const MAX_BYTES: usize = 1 << 32;

/// Bytes of a name.
const MAX_NAME: usize = 1024;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

impl Imatrix {
    /// Reads a file of either format.
    ///
    /// # Errors
    /// If it is neither, is damaged, or holds numbers that are not finite or are negative.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Before it is mapped: a file with holes may be longer than the address space.
        let length = std::fs::metadata(path).map_or(0, |found| found.len());
        if length > MAX_BYTES as u64 {
            let problem = format!("is larger than {} MiB, the limit of --imatrix", MAX_BYTES >> 20);
            return Err(Error::File { path: path.into(), problem });
        }
        let bytes = keeve_checkpoint::map(path)?;
        let found = if bytes.starts_with(b"GGUF") {
            Self::from_gguf(path, &bytes)?
        } else {
            Self::from_dat(&bytes).map_err(|problem| Error::File { path: path.into(), problem })?
        };
        let wrong = |problem: String| Error::File { path: path.into(), problem };
        if found.entries.is_empty() {
            return Err(wrong("holds no importance of any weight".into()));
        }
        for (name, entry) in &found.entries {
            let good = |number: &f32| number.is_finite() && *number >= 0.0;
            if !entry.sums.iter().chain(&entry.counts).all(good) {
                let problem = "holds numbers that are not finite or are negative";
                return Err(Error::tensor(name, problem));
            }
        }
        Ok(found)
    }

    fn from_gguf(path: &Path, bytes: &Bytes) -> Result<Self, Error> {
        let parsed = gguf::parse(path, bytes)?;
        let wrong = |problem: String| Error::File { path: path.into(), problem };
        if parsed.metadata.string("general.type")? != Some("imatrix") {
            return Err(wrong("is a GGUF file, but no importance matrix".into()));
        }
        let mut found = Self::default();
        let number = |key: &str| -> Result<u32, Error> {
            let number = parsed.metadata.count(key)?.unwrap_or(0);
            u32::try_from(number).map_err(|_| wrong(format!("field '{key}' is too large")))
        };
        found.chunks = number("imatrix.chunk_count")?;
        found.chunk_size = number("imatrix.chunk_size")?;
        if let Some(names) = parsed.metadata.array("imatrix.datasets")?
            && let Some(names) = names.strings()
        {
            found.datasets = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        }
        let numbers = |name: &str| -> Result<Option<Vec<f32>>, Error> {
            let tensor = parsed.tensors.iter().find(|tensor| tensor.name == name);
            Ok(tensor.map(keeve_checkpoint::StoredTensor::to_f32).transpose()?)
        };
        for tensor in &parsed.tensors {
            let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
            let missing = || wrong(format!("has no '{name}{COUNTS}'"));
            let counts = numbers(&format!("{name}{COUNTS}"))?.ok_or_else(missing)?;
            let sums = tensor.to_f32()?;
            if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
                let problem = format!("has {} sums for {} counts", sums.len(), counts.len());
                return Err(Error::tensor(name, problem));
            }
            found.entries.insert(name.into(), Entry { sums, counts });
        }
        Ok(found)
    }

    /// Fails with the end of a sentence that begins with the file's name.
    fn from_dat(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Rest(bytes);
        let count = rest.count("a number of entries")?;
        if count > MAX_ENTRIES {
            return Err(format!("is no importance matrix: it claims {count} entries"));
        }
        let mut found = Self::default();
        for _ in 0..count {
            let length = rest.count("a name's length")?;
            if length > MAX_NAME {
                return Err(format!("is no importance matrix: a name has {length} bytes"));
            }
            let name = rest.take(length, "a name")?;
            let name = std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8")?;
            let calls = rest.count("a number of calls")?;
            let values = rest.count("a number of values")?;
            let length = values.checked_mul(4).ok_or("has more values than can be addressed")?;
            let values = rest.take(length, "values")?.as_chunks::<4>().0;
            // A sum over that many rows of length one has the same mean.
            let counts = vec![if calls == 0 { 1.0 } else { calls as f32 }];
            let sums = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if found.entries.insert(name.into(), Entry { sums, counts }).is_some() {
                return Err("has two entries of one name".into());
            }
        }
        if !rest.0.is_empty() {
            let chunks = rest.count("a number of chunks")?;
            found.chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        }
        if !rest.0.is_empty() {
            let length = rest.count("a name's length")?;
            let name = rest.take(length, "the name of a text")?;
            found.datasets.push(String::from_utf8_lossy(name).into_owned());
        }
        if !rest.0.is_empty() {
            return Err(format!("has {} bytes after its end", rest.0.len()));
        }
        Ok(found)
    }

    /// Writes a file: GGUF, or the older format if its name ends in `.dat`. It stands under its name only
    /// when it is complete.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        if path.extension().is_some_and(|extension| extension == "dat") {
            return self.save_dat(path);
        }
        let metadata = [
            ("general.type", Value::string("imatrix")),
            ("imatrix.datasets", Value::Array(Array::of_strings(&self.datasets))),
            ("imatrix.chunk_count", Value::u32(self.chunks)),
            ("imatrix.chunk_size", Value::u32(self.chunk_size)),
        ];
        let bytes = |values: &[f32]| {
            Parts::data(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
        };
        let mut tensors = Vec::new();
        for (name, entry) in &self.entries {
            let experts = entry.counts.len();
            for (suffix, cols, values) in
                [(SUMS, entry.cols(), &entry.sums), (COUNTS, 1, &entry.counts)]
            {
                let announced = gguf::Announced {
                    name: format!("{name}{suffix}"),
                    codec: Codec::F32,
                    shape: vec![experts, cols],
                };
                tensors.push((announced, bytes(values).data));
            }
        }
        let tensors = tensors.iter().map(|(announced, bytes)| (announced.clone(), &bytes[..]));
        Ok(gguf::write(path, &metadata, tensors)?)
    }

    fn save_dat(&self, path: &Path) -> Result<(), Error> {
        let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX).to_le_bytes();
        let chunk_size = self.chunk_size.max(1) as f32;
        let used: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.counts.iter().any(|n| *n > 0.0))
            .collect();
        let mut out = number(used.len()).to_vec();
        for (name, entry) in used {
            let most = entry.counts.iter().fold(0.0f32, |most, &count| most.max(count));
            let calls = (most / chunk_size).ceil().max(1.0);
            out.extend(number(name.len()));
            out.extend(name.as_bytes());
            out.extend(number(calls as usize));
            out.extend(number(entry.sums.len()));
            out.extend(entry.means().iter().flat_map(|mean| (mean * calls).to_le_bytes()));
        }
        out.extend(number(self.chunks as usize));
        let dataset = self.datasets.last().map_or("", String::as_str);
        out.extend(number(dataset.len()));
        out.extend(dataset.as_bytes());
        part::replace(path, &out).map_err(|error| Error::io(path, &error))
    }
}

/// What is left of a file.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], String> {
        let left = self.0.len();
        let found = self.0.split_at_checked(length);
        let (taken, rest) = found
            .ok_or_else(|| format!("ends early: {what} takes {length} bytes, {left} are left"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A 32-bit number that is not negative.
    fn count(&mut self, what: &str) -> Result<usize, String> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4, what)?);
        let number = i32::from_le_bytes(bytes);
        usize::try_from(number).map_err(|_| format!("is no importance matrix: {what} is {number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Imatrix {
        let dense = Entry { sums: vec![1.0, 4.0, 9.0, 0.5], counts: vec![512.0] };
        let experts =
            Entry { sums: vec![1.0, 2.0, 3.0, 4.0, 0.0, 0.0], counts: vec![8.0, 64.0, 0.0] };
        let names = ["blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"];
        Imatrix {
            entries: names.map(String::from).into_iter().zip([dense, experts]).collect(),
            datasets: vec!["a.txt".into()],
            chunks: 2,
            chunk_size: 256,
        }
    }

    #[test]
    fn files_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (gguf, dat) = (folder.path().join("i.gguf"), folder.path().join("i.dat"));
        example().save(&gguf).unwrap();
        assert_eq!(Imatrix::open(&gguf).unwrap(), example());
        example().save(&dat).unwrap();
        let older = Imatrix::open(&dat).unwrap();
        assert_eq!((older.chunks, &older.datasets[..]), (2, &["a.txt".to_owned()][..]));
        for (name, entry) in &example().entries {
            let pairs = entry.means().into_iter().zip(older.entries[name].means());
            for (a, b) in pairs {
                assert!((a - b).abs() <= 1e-6 * a.abs(), "{name}: {a} {b}");
            }
        }
        assert_eq!(example().entries["blk.0.ffn_down_exps.weight"].means()[4..], [1.0, 1.0]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.dat");
        example().save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            // The two last fields may be absent.
            if let Ok(found) = Imatrix::open(&path) {
                assert_eq!(found.entries.len(), 2, "{length}");
            }
        }
        let mut negative = whole.clone();
        negative[..4].copy_from_slice(&(-1i32).to_le_bytes());
        let mut many = whole.clone();
        many[..4].copy_from_slice(&i32::MAX.to_le_bytes());
        let mut long = whole.clone();
        long[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
        let trailing = [&whole[..], b"x"].concat();
        for wrong in [negative, many, long, trailing, b"GGUF".to_vec(), vec![]] {
            std::fs::write(&path, wrong).unwrap();
            let error = Imatrix::open(&path).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
