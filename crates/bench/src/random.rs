//! Weights without meaning but of real size: every tensor has its own memory and its own values.
//!
//! They are made in packed form, without encoding any float: codes are random bits, of which every
//! combination is a valid code, and scales are random numbers around one that gives the weights the
//! spread of a trained model's. Layouts are those of `keeve-codec`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use half::{bf16, f16};
use keeve_codec::{Codec, Float, PackedTensor, Parts};
use keeve_graph::{Graph, Weights};

use crate::Error;
use crate::scheme::{Dimensions, Scheme};

/// About the standard deviation of weights.
const SPREAD: f32 = 0.02;

/// Rows that a thread takes at a time.
const ROWS_PER_TASK: usize = 64;

/// A tensor of random weights. The same seed gives the same tensor on any number of threads.
///
/// # Errors
/// If the shape is empty, overflows, or does not fit the codec, or random bytes make no weights in it.
pub fn tensor(
    codec: Codec,
    rows: usize,
    cols: usize,
    seed: u64,
    threads: usize,
) -> Result<PackedTensor, keeve_codec::Error> {
    let row = codec.row_parts(cols)?;
    if block_scales(codec).is_none() {
        return Err(keeve_codec::Error::NoEncoder(codec));
    }
    let buffer = |each: usize| {
        let too_large = keeve_codec::Error::TooLarge { experts: 1, rows, cols };
        rows.checked_mul(each).map(|bytes| vec![0u8; bytes]).ok_or(too_large)
    };
    let (mut data, mut scales, mut biases) =
        (buffer(row.data)?, buffer(row.scales)?, buffer(row.biases)?);
    let fill = |first: usize, data: &mut [u8], scales: &mut [u8], biases: &mut [u8]| {
        let mut random = Random::new(seed ^ (first as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        fill_rows(codec, data, scales, biases, &mut random);
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
    let parts = Parts { data: data.into(), scales, biases, global_scale: None };
    PackedTensor::new(codec, 1, rows, cols, parts)
}

/// Codes and scales of a codec, in numbers that give weights the right spread.
fn fill_rows(
    codec: Codec,
    data: &mut [u8],
    scales: &mut [u8],
    biases: &mut [u8],
    random: &mut Random,
) {
    // The standard deviation of codes, all being equally likely.
    let deviation = |codes: f32| codes / 12f32.sqrt();
    if let Codec::Float(float) = codec {
        return fill_floats(float, SPREAD, true, data, random);
    }
    random.fill(data);
    match codec {
        Codec::Affine { bits, scale, .. } => {
            let codes = f32::from(bits).exp2();
            let size = SPREAD / deviation(codes);
            fill_floats(scale, size, false, scales, random);
            fill_floats(scale, -size * (codes - 1.0) / 2.0, false, biases, random);
        }
        Codec::Int8 { scale, .. } => {
            fill_floats(scale, SPREAD / deviation(256.0), false, scales, random);
        }
        Codec::Int4 { scale, .. } => {
            fill_floats(scale, SPREAD / deviation(16.0), false, scales, random);
        }
        _ => {
            for block in data.chunks_exact_mut(codec.geometry().block_bytes) {
                for &(at, size) in block_scales(codec).unwrap_or_default() {
                    let value = f16::from_f32(size * random.around_one());
                    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}

/// Where the f16 scales and minimums of a ggml block are, and about how large they should be. `None` for
/// the codecs that random weights are not made in.
fn block_scales(codec: Codec) -> Option<&'static [(usize, f32)]> {
    // A scale is the spread over the deviation of codes (and of the runs' own scales); a minimum
    // moves the middle code to zero.
    const Q4: f32 = SPREAD / 4.6;
    const Q5: f32 = SPREAD / 9.2;
    const Q2K: f32 = SPREAD / (1.1 * 7.5);
    const Q4K: f32 = SPREAD / (4.6 * 31.5);
    const Q5K: f32 = SPREAD / (9.2 * 31.5);
    Some(match codec {
        Codec::Q4_0 => &[(0, Q4)],
        Codec::Q4_1 => &[(0, Q4), (2, -7.5 * Q4)],
        Codec::Q5_0 => &[(0, Q5)],
        Codec::Q5_1 => &[(0, Q5), (2, -15.5 * Q5)],
        Codec::Q8_0 => &[(0, SPREAD / 74.0)],
        Codec::Q2K => &[(80, Q2K), (82, 1.5 * Q2K)],
        Codec::Q3K => &[(108, SPREAD / (2.3 * 18.0))],
        Codec::Q4K => &[(0, Q4K), (2, 7.5 * Q4K)],
        Codec::Q5K => &[(0, Q5K), (2, 15.5 * Q5K)],
        Codec::Q6K => &[(208, SPREAD / (18.5 * 74.0))],
        Codec::Float(_) | Codec::Affine { .. } | Codec::Int8 { .. } | Codec::Int4 { .. } => &[],
        _ => return None,
    })
}

/// Fills with numbers between half and one and a half of `size`, of either sign if `signed`.
fn fill_floats(float: Float, size: f32, signed: bool, out: &mut [u8], random: &mut Random) {
    let mut number = || {
        let size = if signed && random.bit() { -size } else { size };
        size * random.around_one()
    };
    match float {
        Float::F32 => fill_each(out, || number().to_le_bytes()),
        Float::F16 => fill_each(out, || f16::from_f32(number()).to_le_bytes()),
        Float::Bf16 => fill_each(out, || bf16::from_f32(number()).to_le_bytes()),
    }
}

fn fill_each<const BYTES: usize>(out: &mut [u8], mut next: impl FnMut() -> [u8; BYTES]) {
    for out in out.as_chunks_mut::<BYTES>().0 {
        *out = next();
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        // Neighbouring seeds would else give streams shifted by a step.
        random.0 = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn fill(&mut self, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
    }

    fn bit(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// From 0.5 to 1.5.
    fn around_one(&mut self) -> f32 {
        0.5 + (self.next() >> 40) as f32 / (1 << 24) as f32
    }
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
            let (rows, cols) = (weight.rows, weight.cols);
            (weight.name.clone(), Made { codec, rows, cols, seed: index as u64 })
        };
        let tensors = graph.weights().iter().enumerate().map(made).collect();
        Self { tensors, threads, time: Mutex::default() }
    }

    /// Bytes of the weight `name`, made or not.
    ///
    /// # Errors
    /// If there is no such weight, or its shape does not fit its codec.
    pub fn bytes(&self, name: &str) -> Result<u64, Error> {
        let made = self.tensors.get(name).ok_or_else(|| Error::NoWeight(name.into()))?;
        let shape = |error| Error::Tensor { name: name.into(), error };
        let row = made.codec.row_bytes(made.cols).map_err(shape)?;
        Ok((row as u64).saturating_mul(made.rows as u64))
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
}

impl Weights for RandomWeights {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        let made = self.tensors.get(name).ok_or_else(|| Error::NoWeight(name.into()))?;
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let tensor = match made.rows {
            1 => gains(made.cols, made.seed),
            rows => tensor(made.codec, rows, made.cols, made.seed, self.threads),
        };
        *time += start.elapsed();
        Ok(tensor.map_err(|error| Error::Tensor { name: name.into(), error })?)
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
    use keeve_codec::{Group, decode};

    use super::*;

    fn codecs() -> Vec<Codec> {
        let floats = [Float::F32, Float::F16, Float::Bf16];
        let mut codecs = Codec::PLAIN.to_vec();
        for scale in floats {
            for bits in Codec::AFFINE_BITS {
                codecs.push(Codec::Affine { bits, group: 64, scale });
            }
            for group in [Group::Row, Group::Of(64)] {
                codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
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
