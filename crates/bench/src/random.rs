//! Weights without meaning but of real size: every tensor has its own memory and its own values.
//!
//! They are made in packed form, without encoding any float (see [`crate::codes`]).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use keeve_codec::{Codec, PackedTensor, Parts};
use keeve_graph::{Graph, WeightInfo, Weights};

use crate::Error;
use crate::codes::{self, Random};
use keeve_quantize::{Dimensions, Scheme};

/// Rows that a thread takes at a time.
const ROWS_PER_TASK: usize = 64;

/// A tensor of random weights. The same seed gives the same tensor on any number of threads.
///
/// # Errors
/// If the shape is empty, overflows, or does not fit the codec.
pub fn tensor(
    codec: Codec,
    rows: usize,
    cols: usize,
    seed: u64,
    threads: usize,
) -> Result<PackedTensor, keeve_codec::Error> {
    let row = codec.row_parts(cols)?;
    let buffer = |each: usize| {
        let too_large = keeve_codec::Error::TooLarge { experts: 1, rows, cols };
        rows.checked_mul(each).map(|bytes| vec![0u8; bytes]).ok_or(too_large)
    };
    let (mut data, mut scales, mut biases) =
        (buffer(row.data)?, buffer(row.scales)?, buffer(row.biases)?);
    let fill = |first: usize, data: &mut [u8], scales: &mut [u8], biases: &mut [u8]| {
        let mut random = Random::new(seed ^ (first as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        codes::fill(codec, data, scales, biases, &mut random);
    };
    // Tasks, each with the number of its first row. Codecs without a part give every task none.
    let mut tasks = data.chunks_mut((row.data * ROWS_PER_TASK).max(1)).enumerate();
    let mut task_scales = scales.chunks_mut((row.scales * ROWS_PER_TASK).max(1));
    let mut task_biases = biases.chunks_mut((row.biases * ROWS_PER_TASK).max(1));
    let queue = Mutex::new(|| {
        let (index, data) = tasks.next()?;
        let scales = task_scales.next().unwrap_or_default();
        Some((index * ROWS_PER_TASK, data, scales, task_biases.next().unwrap_or_default()))
    });
    let work = || {
        loop {
            let task = queue.lock().unwrap_or_else(PoisonError::into_inner)();
            let Some((first, data, scales, biases)) = task else { return };
            fill(first, data, scales, biases);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(rows.div_ceil(ROWS_PER_TASK)) {
            scope.spawn(work);
        }
        work();
    });
    let present = |bytes: Vec<u8>| (!bytes.is_empty()).then(|| bytes.into());
    let (scales, biases) = (present(scales), present(biases));
    let parts =
        Parts { data: data.into(), scales, biases, global_scale: codes::global_scale(codec) };
    PackedTensor::new(codec, 1, rows, cols, parts)
}

/// `count` token ids below `vocabulary`, different for each `seed`.
pub(crate) fn token_ids(count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| (random.next() % vocabulary.max(1) as u64) as u32).collect()
}

/// The weights that a graph names, each made when it is asked for.
pub struct RandomWeights {
    tensors: HashMap<String, Made>,
    threads: usize,
    /// How long making took. Held while a tensor is made.
    time: Mutex<Duration>,
}

/// A tensor to be made.
struct Made {
    codec: Codec,
    rows: usize,
    cols: usize,
    /// Of a stack.
    experts: Option<usize>,
    seed: u64,
}

impl RandomWeights {
    /// Weights for `graph` in the codecs of `scheme`; gains and biases are `f32`. `threads` threads
    /// make them. `tied`: the embedding table is also the head.
    pub fn new(
        graph: &Graph,
        scheme: &Scheme,
        dimensions: &Dimensions,
        tied: bool,
        threads: usize,
    ) -> Self {
        let made = |(index, weight): (usize, &keeve_graph::Weight)| {
            let codec = match weight.rows {
                1 => Codec::F32,
                _ => scheme.codec(&weight.name, weight.cols, tied, dimensions),
            };
            let &keeve_graph::Weight { rows, cols, experts, .. } = weight;
            (weight.name.clone(), Made { codec, rows, cols, experts, seed: index as u64 })
        };
        let tensors = graph.weights().iter().enumerate().map(made).collect();
        Self { tensors, threads, time: Mutex::default() }
    }

    /// These and further weights, matrices in bf16.
    pub fn with<'a>(mut self, further: impl Iterator<Item = &'a keeve_graph::Weight>) -> Self {
        for weight in further {
            let codec = if weight.rows == 1 { Codec::F32 } else { Codec::BF16 };
            let &keeve_graph::Weight { rows, cols, experts, .. } = weight;
            let seed = self.tensors.len() as u64;
            self.tensors.insert(weight.name.clone(), Made { codec, rows, cols, experts, seed });
        }
        self
    }

    /// The codec of the weight `name`.
    ///
    /// # Errors
    /// If there is no such weight.
    pub fn codec(&self, name: &str) -> Result<Codec, Error> {
        self.made(name).map(|made| made.codec)
    }

    fn made(&self, name: &str) -> Result<&Made, Error> {
        self.tensors.get(name).ok_or_else(|| Error::NoWeight(name.into()))
    }

    /// Bytes of the weight `name`, made or not.
    ///
    /// # Errors
    /// If there is no such weight, or its shape does not fit its codec.
    pub fn bytes(&self, name: &str) -> Result<u64, Error> {
        let made = self.made(name)?;
        let shape = |error| Error::Tensor { name: name.into(), error };
        let row = made.codec.row_bytes(made.cols).map_err(shape)?;
        let rows = (made.rows as u64).saturating_mul(made.experts.unwrap_or(1) as u64);
        Ok((row as u64).saturating_mul(rows))
    }

    /// Bytes of all weights.
    ///
    /// # Errors
    /// As for [`RandomWeights::bytes`].
    pub fn total_bytes(&self) -> Result<u64, Error> {
        self.tensors.keys().try_fold(0u64, |sum, name| Ok(sum.saturating_add(self.bytes(name)?)))
    }

    /// How long making weights has taken so far: not part of what loading costs.
    pub fn making(&self) -> Duration {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The matrices of a weight, each other than those before it.
    fn make(&self, name: &str) -> Result<Vec<PackedTensor>, Error> {
        let made = self.made(name)?;
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let matrix = |index: usize| match made.rows {
            1 => gains(made.cols, made.seed),
            rows => {
                let seed = made.seed ^ (index as u64) << 32;
                tensor(made.codec, rows, made.cols, seed, self.threads)
            }
        };
        let matrices: Result<_, _> = (0..made.experts.unwrap_or(1)).map(matrix).collect();
        *time += start.elapsed();
        matrices.map_err(|error| Error::Tensor { name: name.into(), error })
    }
}

impl Weights for RandomWeights {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.make(name)?.swap_remove(0))
    }

    fn experts(
        &self,
        name: &str,
        _: usize,
    ) -> Result<Vec<PackedTensor>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.make(name)?)
    }

    fn info(&self, name: &str) -> Result<WeightInfo, Box<dyn std::error::Error + Send + Sync>> {
        let Made { rows, cols, .. } = *self.made(name)?;
        Ok(WeightInfo { experts: 1, rows, cols, bytes: self.bytes(name)? })
    }

    fn experts_bytes(
        &self,
        name: &str,
        _: usize,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.bytes(name)?)
    }
}

/// A vector of numbers around one, as the gains of norms are.
fn gains(cols: usize, seed: u64) -> Result<PackedTensor, keeve_codec::Error> {
    let mut random = Random::new(seed);
    let values: Vec<f32> = (0..cols).map(|_| random.around_one()).collect();
    PackedTensor::from_f32(1, cols, &values)
}

#[cfg(test)]
mod tests {
    use keeve_codec::{Float, Group, decode};

    use super::*;
    use crate::codes::SPREAD;

    fn codecs() -> Vec<Codec> {
        let floats = [Float::F32, Float::F16, Float::Bf16];
        let mut codecs = Codec::PLAIN.to_vec();
        for scale in floats {
            for bits in Codec::AFFINE_BITS {
                codecs.push(Codec::Affine { bits, group: 64, scale });
            }
            for group in [Group::Row, Group::Of(64)] {
                codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
                codecs.push(Codec::Fp8 { group, scale });
            }
        }
        codecs
    }

    #[test]
    fn weights_of_every_codec_are_finite_and_spread_like_real_ones() {
        for codec in codecs() {
            let values = decode(&tensor(codec, 8, 512, 7, 1).unwrap());
            assert!(values.iter().all(|value| value.is_finite()), "{codec}");
            let count = values.len() as f32;
            let mean = values.iter().sum::<f32>() / count;
            let deviation =
                (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count).sqrt();
            assert!(deviation > SPREAD / 4.0 && deviation < SPREAD * 4.0, "{codec}: {deviation}");
            assert!(mean.abs() < SPREAD, "{codec}: mean {mean}");
        }
    }

    #[test]
    fn tensors_differ_by_seed_and_rows_differ_from_each_other() {
        for codec in codecs() {
            let one = tensor(codec, 130, 256, 1, 1).unwrap();
            let other = tensor(codec, 130, 256, 2, 1).unwrap();
            assert_ne!(one.parts().data, other.parts().data, "{codec}");
            assert_ne!(one.parts().data.as_ptr(), other.parts().data.as_ptr(), "{codec}");
            for row in 1..one.rows() {
                assert_ne!(one.row(0).data, one.row(row).data, "{codec}: row {row}");
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_tensor() {
        for codec in codecs() {
            let one = tensor(codec, 200, 256, 3, 1).unwrap();
            assert_eq!(one, tensor(codec, 200, 256, 3, 4).unwrap(), "{codec}");
        }
    }

    #[test]
    fn every_weight_of_a_model_is_made_in_its_codec() {
        let config = serde_json::json!({
            "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 512, "head_dim": 64,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
            "vocab_size": 64, "tie_word_embeddings": true,
        });
        let model = keeve_models::build(&config).unwrap();
        let scheme: Scheme = "q4_k_m".parse().unwrap();
        let dimensions = Dimensions::of(&config);
        let weights = RandomWeights::new(&model.graph, &scheme, &dimensions, true, 2);
        let mut all: Vec<PackedTensor> = vec![];
        for weight in model.graph.weights() {
            let made = weights.weight(&weight.name).unwrap();
            assert_eq!((made.rows(), made.cols()), (weight.rows, weight.cols));
            assert_eq!(made.bytes() as u64, weights.bytes(&weight.name).unwrap());
            assert!(all.iter().all(|other| other.parts().data != made.parts().data));
            all.push(made);
        }
        assert_eq!(weights.weight("model.embed_tokens.weight").unwrap().codec(), Codec::Q6K);
        assert_eq!(weights.weight("model.norm.weight").unwrap().codec(), Codec::F32);
        let bytes: usize = all.iter().map(PackedTensor::bytes).sum();
        assert_eq!(weights.total_bytes().unwrap(), bytes as u64);
        assert!(weights.weight("lm_head.weight").is_err());
    }
}
