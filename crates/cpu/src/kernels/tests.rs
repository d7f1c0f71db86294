//! Every tier that this machine has, against the oracle.
//!
//! Bound of the relative Frobenius error: both sides compute in `f32` and differ in the order of
//! sums, in fused multiply-adds and in `exp`. With at most 130 terms of random sign that is some
//! tens of roundings of 6e-8, of which few add up; 2e-6 leaves room and is far below any mistake.

use keeve_codec::{Codec, Float, Group, PackedTensor, Parts};

use crate::dispatch::kernels;
use crate::isa::Isa;
use crate::kernels::*;
use crate::reference::Scalar;

const BOUND: f64 = 2e-6;

/// Numbers between -1 and 1, the same on every run.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        // A 64-bit linear congruential generator with Knuth's MMIX constants.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.bits() as f32 / (1u64 << 31) as f32 - 1.0).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.bits() >> 7) as u8).collect()
    }
}

fn tiers(test: &str) -> Vec<(Isa, &'static dyn Kernels)> {
    let tiers: Vec<_> = Isa::found().filter_map(|isa| Some((isa, kernels(isa)?))).collect();
    println!("{test}: {}", Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "));
    tiers
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = found.iter().zip(expected);
    let error = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let size = norm(&mut expected.iter().map(|&b| f64::from(b)));
    assert!(error <= BOUND * size.max(1e-30), "{what}: {error:e} of {size:e}");
}

#[test]
fn dots_of_every_length_do_not_depend_on_their_neighbours() {
    let mut random = Random(1);
    for (isa, tier) in tiers("dots") {
        for k in 1..=130 {
            let (rows, cols) = (1 + k % 11, 1 + k % 13);
            let (x, weights) = (random.values(rows * k), random.values(cols * k));
            let stride = rows + k % 3;
            let mut expected = vec![7.0; cols * stride];
            let mut found = expected.clone();
            Scalar.dots(&x, &weights, k, &mut expected, stride);
            tier.dots(&x, &weights, k, &mut found, stride);
            // Not relative to the sums, which may cancel, but to what was summed.
            for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
                assert!((a - b).abs() <= 1e-6 * (k as f32).sqrt(), "{isa} {k} at {index}");
            }
            for (c, weights) in weights.chunks_exact(k).enumerate() {
                for (r, x) in x.chunks_exact(k).enumerate() {
                    let mut alone = [0.0];
                    tier.dots(x, weights, k, &mut alone, 1);
                    assert_eq!(alone[0].to_bits(), found[c * stride + r].to_bits(), "{isa} {k}");
                }
            }
        }
    }
}

#[test]
#[should_panic]
fn dots_refuse_an_output_that_is_too_short() {
    let (_, tier) = tiers("dots").pop().unwrap();
    tier.dots(&[0.0; 64], &[0.0; 64], 32, &mut [0.0; 3], 2);
}

#[test]
fn element_wise_primitives_of_every_length() {
    let mut random = Random(2);
    for (isa, tier) in tiers("rms_norm, silu") {
        for n in 1..=130 {
            let (mut expected, mut found) = (vec![0.0; n], vec![0.0; n]);
            let (x, gain) = (random.values(n), random.values(n));
            Scalar.rms_norm(&x, &gain, 1e-5, &mut expected);
            tier.rms_norm(&x, &gain, 1e-5, &mut found);
            assert_near(&found, &expected, &format!("rms_norm {isa} {n}"));

            let bias = random.values(n);
            Scalar.layer_norm(&x, &gain, &bias, 1e-5, &mut expected);
            tier.layer_norm(&x, &gain, &bias, 1e-5, &mut found);
            assert_near(&found, &expected, &format!("layer_norm {isa} {n}"));

            expected = random.values(n).iter().map(|x| x * 6.0).collect();
            found = expected.clone();
            Scalar.gelu_tanh(&mut expected);
            tier.gelu_tanh(&mut found);
            // Far below zero, the oracle subtracts numbers that are nearly the same.
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6, "gelu_tanh {isa} {n}: {found} {expected}");
            }

            expected = random.values(n).iter().map(|x| x * 20.0).collect();
            found = expected.clone();
            Scalar.silu(&mut expected);
            tier.silu(&mut found);
            assert_near(&found, &expected, &format!("silu {isa} {n}"));
        }
    }
}

#[test]
fn silu_and_gelu_have_the_right_ends() {
    type Function = fn(&dyn Kernels, &mut [f32]);
    let functions: [Function; 2] = [|tier, x| tier.silu(x), |tier, x| tier.gelu_tanh(x)];
    for (isa, tier) in tiers("ends").into_iter().filter(|(isa, _)| *isa != Isa::Scalar) {
        for function in functions {
            let mut x = [0.0, -0.0, 100.0, -100.0, 3e38, -3e38, f32::INFINITY, f32::NAN];
            let mut expected = x;
            function(tier, &mut x);
            function(&Scalar, &mut expected);
            for (found, expected) in x.into_iter().zip(expected) {
                assert!(found == expected || found.is_nan() && expected.is_nan(), "{isa}: {found}");
            }
        }
    }
}

/// From where it is zero to where it is infinite: within two units in the last place of the exact value,
/// the place being that of the value, or of the smallest numbers.
#[test]
fn exp_is_within_two_units_in_the_last_place() {
    for (isa, tier) in tiers("exp") {
        let x: Vec<f32> = (0..16 * 40_000u32)
            .map(|index| -105.0 + 194.5 * index as f32 / (16.0 * 40_000.0))
            .chain([0.0, -0.0, f32::MIN_POSITIVE, -1e-30, 88.722_84, -87.336_55, -103.972_08, 1.0])
            .chain([
                f32::NEG_INFINITY,
                -200.0,
                f32::INFINITY,
                200.0,
                f32::MIN,
                f32::MAX,
                1e-10,
                -1.0,
            ])
            .collect();
        let mut found = x.clone();
        tier.exp(&mut found);
        for (&x, found) in x.iter().zip(found) {
            let exact = f64::from(x).exp();
            if exact > f64::from(f32::MAX) * (1.0 + f64::from(f32::EPSILON)) {
                assert_eq!(found, f32::INFINITY, "{isa}: exp({x})");
                continue;
            }
            let place = f64::from((exact as f32).max(f32::MIN_POSITIVE)).log2().floor() - 23.0;
            let off = (f64::from(found) - exact).abs() / place.exp2();
            let last = exact > f64::from(f32::MAX) * (1.0 - 4.0 * f64::from(f32::EPSILON));
            assert!(off <= 2.0 || last && found == f32::INFINITY, "{isa}: exp({x}) off by {off}");
        }
        let mut wrong = [f32::NAN; 16];
        tier.exp(&mut wrong);
        assert!(wrong.iter().all(|value| value.is_nan()), "{isa}");
    }
}

/// Every codec with its parameters.
fn codecs() -> Vec<Codec> {
    let mut codecs = Codec::PLAIN.to_vec();
    for scale in [Float::F32, Float::F16, Float::Bf16] {
        for bits in Codec::AFFINE_BITS {
            codecs.extend(Codec::AFFINE_GROUPS.map(|group| Codec::Affine { bits, group, scale }));
        }
        let groups = Codec::INT_GROUPS.map(Group::Of);
        for group in groups.into_iter().chain([Group::Row]) {
            codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
        }
    }
    codecs
}

#[test]
fn unpack_gives_the_codecs_bits_for_any_bytes() {
    let mut random = Random(4);
    for (isa, tier) in tiers("unpack") {
        for codec in codecs() {
            let step = codec.column_step();
            for cols in [step, 2 * step, 3 * step, 7 * step, 33 * step, 126 * step] {
                let lengths = codec.row_parts(cols).expect("a fitting row");
                for _ in 0..8 {
                    let part =
                        |random: &mut Random, len| (len > 0).then(|| random.bytes(len).into());
                    let parts = Parts {
                        data: random.bytes(lengths.data).into(),
                        scales: part(&mut random, lengths.scales),
                        biases: part(&mut random, lengths.biases),
                        global_scale: part(&mut random, lengths.global_scale),
                    };
                    let tensor = PackedTensor::new(codec, 1, 1, cols, parts).expect("a tensor");
                    let mut expected = vec![0.0; cols];
                    keeve_codec::row_values(&tensor, 0, &mut expected);
                    let mut found = vec![f32::NAN; cols];
                    tier.unpack(codec, tensor.row(0), &mut found);
                    for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
                        let same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                        assert!(same, "{isa} {codec} {cols} at {index}: {a:e}, not {b:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn sampling_gives_the_same_on_every_tier() {
    let mut random = Random(9);
    for (isa, tier) in tiers("sampling") {
        let mut work = Workspace::default();
        for count in [1, 15, 256, 300, 5000, 33_000] {
            let logits: Vec<f32> = random.values(count).iter().map(|value| value * 9.0).collect();
            for (top_k, top_p, min_p) in
                [(0, 1.0, 0.0), (40, 0.9, 0.05), (0, 0.95, 0.0), (0, 1.0, 0.01)]
            {
                for (position, temperature) in [(1, 0.0), (2, 0.3), (3, 1.0), (4, 2.0)] {
                    let sampling = RowSampling {
                        temperature,
                        top_k,
                        top_p,
                        min_p,
                        position,
                        top_logprobs: 3,
                        ..RowSampling::default()
                    };
                    let found = tier.sample(&logits, &sampling, &mut work);
                    let expected = Scalar.sample(&logits, &sampling, &mut Workspace::default());
                    assert_eq!(found, expected, "{} {sampling:?}", isa.name());
                    assert!(expected.unwrap().is_some());
                }
            }
        }
    }
}
