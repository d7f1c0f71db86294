//! Weights in another codec than their file's, made as they load.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use keeve_codec::search::Reference;
use keeve_codec::{
    Anew, Codec, EncodeOptions, PackedTensor, RowMut, encode_row_with, hadamard_block,
};
use keeve_graph::{Graph, Op, WeightInfo, Weights};

use crate::Error;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Weights of which the matrices that activations are multiplied with are encoded anew, row by row on all
/// threads, from what [`keeve_codec::decode`] gives. Embedding tables stay as they are, a tied head with
/// them, as in Mininglamp-AI/cider `cider/nn.py`, whose `convert_model` replaces linear layers.
pub struct Reencoded<'a> {
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
    ///
    /// # Errors
    /// If the codec has no encoder.
    pub fn new(
        weights: &'a dyn Weights,
        codec: Codec,
        rotate: bool,
        graph: &Graph,
        threads: usize,
    ) -> Result<Self, Error> {
        if !codec.has_encoder() {
            return Err(Error::NoEncoder(codec));
        }
        let matrices = matrices_of(graph);
        Ok(Self { weights, codec, rotate, matrices, threads, encoded: AtomicUsize::new(0) })
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

/// A matrix, or a stack of them, in another codec, rows multiplied by Hadamard matrices in blocks of `hadamard` columns first.
fn reencode(
    tensor: &PackedTensor,
    codec: Codec,
    hadamard: Option<usize>,
    threads: usize,
) -> Result<PackedTensor, keeve_codec::Error> {
    let row = |_: usize, values: &[f32], place: RowMut<'_>| {
        encode_row_with(codec, values, EncodeOptions::default(), place, &Reference)
    };
    let made = Anew { codec, hadamard, threads }.made(tensor, &|| false, &row)?;
    Ok(made.unwrap_or_else(|| tensor.clone()))
}

#[cfg(test)]
mod tests {
    use keeve_codec::Basis;

    use super::*;

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
        let rotated = Reencoded::new(&source, int8, true, &graph, 2).unwrap();
        let rotated = rotated.weight("w.weight").unwrap();
        assert_eq!(rotated.basis(), Some(&Basis::Hadamard(256)));
        let made = Reencoded::new(&source, int8, false, &graph, 2).unwrap();
        assert_eq!(made.weight("table.weight").unwrap().codec(), Codec::F32);
        let matrix = made.weight("w.weight").unwrap();
        assert_eq!((matrix.codec(), matrix.basis()), (int8, None));
        assert!(made.note().starts_with("1 matrices") && made.note().contains("int8"));
    }
}
