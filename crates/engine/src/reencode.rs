//! Weights in another codec than their file's, made as they load.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use keeve_codec::{
    Basis, Codec, EncodeOptions, PackedTensor, Parts, RowMut, decode_row, encode_row,
    hadamard_block,
};
use keeve_graph::{Graph, Op, WeightInfo, Weights};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Weights of which the matrices that activations are multiplied with are encoded anew, row by row on all
/// threads, from what [`keeve_codec::decode`] gives. Embedding tables stay as they are, a tied head with
/// them, as in Mininglamp-AI/cider `cider/nn.py`, whose `convert_model` replaces linear layers.
pub(crate) struct Reencoded<'a> {
    weights: &'a dyn Weights,
    codec: Codec,
    /// Whether rows are multiplied by Hadamard matrices first.
    rotate: bool,
    /// Names of the matrices.
    matrices: HashSet<String>,
    threads: usize,
    /// How many were encoded.
    encoded: AtomicUsize,
}

impl<'a> Reencoded<'a> {
    /// The weights of `graph`.
    pub fn new(
        weights: &'a dyn Weights,
        codec: Codec,
        rotate: bool,
        graph: &Graph,
        threads: usize,
    ) -> Self {
        let matrices = matrices_of(graph);
        Self { weights, codec, rotate, matrices, threads, encoded: AtomicUsize::new(0) }
    }

    /// What was done, for a person.
    pub fn note(&self) -> String {
        let count = self.encoded.load(Ordering::Relaxed);
        let rotated = if self.rotate { ", rotated" } else { "" };
        format!(
            "{count} matrices were encoded anew as {}{rotated} while they were loaded",
            self.codec
        )
    }
}

/// The names of the matrices of linear layers that [`crate::EngineOptions::weights`] is about: all but
/// those that are embedding tables too.
pub fn matrices_of(graph: &Graph) -> HashSet<String> {
    let name = |weight| graph.weight(weight).name.clone();
    let matrices = graph.nodes().iter().filter_map(|node| match node.op {
        Op::Linear { weight, .. } | Op::ExpertLinear { weight, .. } => Some(name(weight)),
        _ => None,
    });
    let mut matrices: HashSet<_> = matrices.collect();
    for node in graph.nodes() {
        if let Op::Embed { table } = node.op {
            matrices.remove(&name(table));
        }
    }
    matrices
}

impl Reencoded<'_> {
    /// Bytes of a matrix in the new codec.
    fn bytes(&self, name: &str, rows: usize, cols: usize) -> Result<u64, Failure> {
        let row = self.codec.row_bytes(cols);
        let row = row.map_err(|error| format!("tensor {name} as {}: {error}", self.codec))?;
        Ok((row as u64).saturating_mul(rows as u64))
    }

    /// `tensor`, which is one of the matrices or not, as it is to be.
    fn made(&self, name: &str, tensor: PackedTensor) -> Result<PackedTensor, Failure> {
        let same = tensor.codec() == self.codec && !self.rotate;
        if same || !self.matrices.contains(name) {
            return Ok(tensor);
        }
        let hadamard = hadamard_block(tensor.cols()).filter(|_| self.rotate);
        let encoded = reencode(&tensor, self.codec, hadamard, self.threads)
            .map_err(|error| format!("tensor {name} as {}: {error}", self.codec))?;
        self.encoded.fetch_add(1, Ordering::Relaxed);
        Ok(encoded)
    }
}

impl Weights for Reencoded<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Failure> {
        self.made(name, self.weights.weight(name)?)
    }

    fn experts(&self, name: &str, count: usize) -> Result<Vec<PackedTensor>, Failure> {
        let experts = self.weights.experts(name, count)?;
        experts.into_iter().map(|expert| self.made(name, expert)).collect()
    }

    fn info(&self, name: &str) -> Result<WeightInfo, Failure> {
        let info = self.weights.info(name)?;
        if !self.matrices.contains(name) {
            return Ok(info);
        }
        Ok(WeightInfo { bytes: self.bytes(name, info.rows, info.cols)?, ..info })
    }

    fn experts_bytes(&self, name: &str, count: usize) -> Result<u64, Failure> {
        if !self.matrices.contains(name) {
            return self.weights.experts_bytes(name, count);
        }
        let experts = self.weights.experts(name, count)?;
        experts.iter().map(|expert| self.bytes(name, expert.rows(), expert.cols())).sum()
    }
}

/// A single matrix in another codec, its rows multiplied by Hadamard matrices in blocks of `hadamard` columns first.
fn reencode(
    tensor: &PackedTensor,
    codec: Codec,
    hadamard: Option<usize>,
    threads: usize,
) -> Result<PackedTensor, keeve_codec::Error> {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let part = codec.row_parts(cols)?;
    let too_large = keeve_codec::Error::TooLarge { experts: 1, rows, cols };
    let buffer = |each: usize| -> Result<Vec<u8>, keeve_codec::Error> {
        Ok(vec![0; rows.checked_mul(each).ok_or_else(|| too_large.clone())?])
    };
    let (mut data, mut scales, mut biases) =
        (buffer(part.data)?, buffer(part.scales)?, buffer(part.biases)?);
    let rows_each = rows.div_ceil(threads.max(1)).max(1);
    // Parts of no bytes are as many empty slices as there are threads.
    fn split(bytes: &mut [u8], each: usize) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = bytes;
        std::iter::from_fn(move || {
            let taken = std::mem::take(&mut rest);
            let (part, after) = taken.split_at_mut(each.min(taken.len()));
            rest = after;
            Some(part)
        })
    }
    let parts = split(&mut data, rows_each * part.data)
        .zip(split(&mut scales, rows_each * part.scales))
        .zip(split(&mut biases, rows_each * part.biases));
    std::thread::scope(|scope| {
        let starts = (0..rows).step_by(rows_each);
        let running: Vec<_> = starts
            .zip(parts)
            .map(|(start, ((data, scales), biases))| {
                scope.spawn(move || {
                    let mut values = vec![0.0; cols];
                    for (at, index) in (start..rows.min(start + rows_each)).enumerate() {
                        decode_row(tensor, index, &mut values);
                        if let Some(block) = hadamard {
                            keeve_codec::hadamard(&mut values, block);
                        }
                        let row = RowMut {
                            data: &mut data[at * part.data..][..part.data],
                            scales: &mut scales[at * part.scales..][..part.scales],
                            biases: &mut biases[at * part.biases..][..part.biases],
                        };
                        encode_row(codec, &values, EncodeOptions::default(), row)?;
                    }
                    Ok(())
                })
            })
            .collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let present = |bytes: Vec<u8>| (!bytes.is_empty()).then(|| bytes.into());
    let parts = Parts {
        data: data.into(),
        scales: present(scales),
        biases: present(biases),
        global_scale: None,
    };
    let encoded = PackedTensor::new(codec, 1, rows, cols, parts)?;
    match hadamard {
        None => Ok(encoded),
        Some(block) => encoded.with_basis(Basis::Hadamard(block)),
    }
}

#[cfg(test)]
mod tests {
    use keeve_codec::{decode, encode};

    use super::*;

    #[test]
    fn rows_are_encoded_as_if_at_once_whatever_the_threads() {
        let values: Vec<f32> = (0..7 * 256).map(|i| (i as f32 * 0.37).sin()).collect();
        let source = encode(Codec::Q8_0, 7, 256, &values, EncodeOptions::default()).unwrap().tensor;
        for name in ["int8", "int8-g64", "int4-g128", "q4_k", "affine4", "bf16"] {
            let codec: Codec = name.parse().unwrap();
            let options = EncodeOptions::default();
            let expected = encode(codec, 7, 256, &decode(&source), options).unwrap().tensor;
            for threads in [1, 2, 3, 16] {
                assert_eq!(reencode(&source, codec, None, threads).unwrap(), expected, "{name}");
            }
        }
        let error = reencode(&source.slice_cols(0..32).unwrap(), Codec::Q4K, None, 2).unwrap_err();
        assert!(error.to_string().contains("32"), "{error}");
    }

    #[test]
    fn tables_stay_and_matrices_change() {
        struct Same(PackedTensor);
        impl Weights for Same {
            fn weight(&self, _: &str) -> Result<PackedTensor, Failure> {
                Ok(self.0.clone())
            }
        }
        let mut graph = Graph::new();
        let x = graph.embed("table.weight", 256, 256).unwrap();
        let x = graph.linear(x, "w", 256, false).unwrap();
        graph.linear(x, "table", 256, false).unwrap();
        let source = Same(PackedTensor::from_f32(256, 256, &[0.5; 256 * 256]).unwrap());
        let int8: Codec = "int8".parse().unwrap();
        let rotated = Reencoded::new(&source, int8, true, &graph, 2).weight("w.weight").unwrap();
        assert_eq!(rotated.basis(), Some(&Basis::Hadamard(256)));
        let made = Reencoded::new(&source, int8, false, &graph, 2);
        assert_eq!(made.weight("table.weight").unwrap().codec(), Codec::F32);
        let matrix = made.weight("w.weight").unwrap();
        assert_eq!((matrix.codec(), matrix.basis()), (int8, None));
        assert!(made.note().starts_with("1 matrices") && made.note().contains("int8"));
    }
}
