//! `linear` with every codec on every tier, against a product in `f64` of the same weights.
//!
//! Bound: a sum of K products in `f32` is off by at most some K * 6e-8 of the sum of magnitudes; with
//! random signs, sums of up to 512 terms come out below 1e-6 of the result's Frobenius norm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use std::sync::Arc;

use common::{Named, Random, bits, error, given, load, load_with, run_once, tiers};
use keeve_codec::{Basis, Codec, Float, Group};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{Activations, Backend, Graph, LoadOptions, Want};

const ROWS: [usize; 10] = [1, 2, 3, 7, 8, 9, 16, 33, 64, 129];
const BOUND: f64 = 1e-6;

fn graph(n: usize, k: usize, bias: bool) -> Graph {
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, k).unwrap();
    let rows = graph.select_rows(x, Want::Logits).unwrap();
    let y = graph.linear(rows, "head", n, bias).unwrap();
    graph.output(Want::Logits, y).unwrap();
    graph
}

fn codecs() -> Vec<Codec> {
    let mut codecs = Codec::PLAIN.to_vec();
    // The kernels see only unpacked weights; that unpacking is right for all codecs is tested apart.
    codecs.retain(|codec| codec.has_encoder());
    for bits in Codec::AFFINE_BITS {
        for (group, scale) in
            Codec::AFFINE_GROUPS.into_iter().zip([Float::Bf16, Float::F16, Float::F32])
        {
            codecs.push(Codec::Affine { bits, group, scale });
        }
    }
    for group in [Group::Row, Group::Of(32), Group::Of(64), Group::Of(128), Group::Of(256)] {
        for scale in [Float::F32, Float::F16] {
            codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
            codecs.push(Codec::Fp8 { group, scale });
        }
    }
    codecs
}

fn check(codec: Codec, n: usize, k: usize, random: &mut Random) {
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 1, k, &vec![0.0; k]);
    weights.add("head.weight", codec, n, k, &random.values(n * k));
    let bias = n % 4 == 3;
    weights.add("head.bias", Codec::F32, 1, n, &random.values(n));
    let most = ROWS[ROWS.len() - 1];
    let x = random.values(most * k);
    let mut row = vec![0.0; k];
    let mut expected = vec![0.0; most * n];
    let mut added = vec![0.0; n];
    if bias {
        keeve_codec::row_values(&weights.0["head.bias"], 0, &mut added);
    }
    for index in 0..n {
        keeve_codec::row_values(&weights.0["head.weight"], index, &mut row);
        for (at, x) in x.chunks_exact(k).enumerate() {
            let products = x.iter().zip(&row).map(|(a, b)| f64::from(*a) * f64::from(*b));
            expected[at * n + index] = products.sum::<f64>() + f64::from(added[index]);
        }
    }
    for isa in Isa::found() {
        let program = load(isa, 2, &graph(n, k, bias), &weights);
        let all = run_once(&*program, &given(&x, k, &[0, 1, 2, 3, 4]), 5).values.remove(0).2;
        let error = error(&all, &expected);
        assert!(error < BOUND, "{isa} {codec} {n}x{k}: {error:e}");
        for rows in ROWS {
            let step = given(&x[..rows * k], k, &[0, 1, 2, 3, 4]);
            let some = run_once(&*program, &step, 5).values.remove(0).2;
            assert!(bits(&some) == bits(&all[..rows * n]), "{isa} {codec} {n}x{k}: {rows} rows");
        }
    }
}

#[test]
fn every_codec_tier_and_number_of_rows() {
    tiers("linear");
    let mut random = Random(11);
    for codec in codecs() {
        let k = 512.max(codec.column_step());
        check(codec, 19, k, &mut random);
    }
}

#[test]
fn odd_shapes() {
    tiers("linear, odd shapes");
    let mut random = Random(12);
    for n in [1, 2, 15, 16, 17, 35] {
        for codec in [Codec::F32, Codec::F16, Codec::BF16, "int8".parse().unwrap()] {
            for k in [1, 7, 31, 131] {
                check(codec, n, k, &mut random);
            }
        }
        check("int4".parse().unwrap(), n, 46, &mut random);
        for codec in [Codec::Q4_0, Codec::Q8_0, Codec::Q4K, Codec::Q6K] {
            check(codec, n, 3 * codec.column_step(), &mut random);
        }
    }
}

/// Columns stored in another order multiply the inputs that they belong to.
#[test]
fn reordered_columns() {
    let mut random = Random(13);
    let (n, k) = (35, 256);
    let x = random.values(3 * k);
    let order: Vec<u32> = (0..k as u32).map(|column| (column * 77 + 5) % k as u32).collect();
    let gathered: Vec<f32> =
        x.chunks_exact(k).flat_map(|x| order.iter().map(|&at| x[at as usize])).collect();
    for codec in ["int4-g128", "affine4-g64", "q8_0", "fp8"] {
        let mut stored = Named::default();
        stored.add("table", Codec::F32, 1, k, &vec![0.0; k]);
        stored.add("head.weight", codec.parse().unwrap(), n, k, &random.values(n * k));
        let mut reordered = Named(stored.0.clone());
        let weight = reordered.0.remove("head.weight").unwrap();
        let weight = weight.with_basis(Basis::Order(order.clone().into())).unwrap();
        reordered.0.insert("head.weight".into(), weight);
        let graph = graph(n, k, false);
        for isa in Isa::found() {
            for activations in [Activations::Float, Activations::Int8] {
                let run = |weights: &Named, x: &[f32]| {
                    let program = load_with(activations, isa, 2, &graph, weights);
                    run_once(&*program, &given(x, k, &[0, 1]), 2).values.remove(0).2
                };
                let (found, expected) = (run(&reordered, &x), run(&stored, &gathered));
                assert!(bits(&found) == bits(&expected), "{isa} {codec} {activations:?}");
            }
        }
    }
}

/// Rows stored rotated multiply inputs that are rotated, and so give what the matrix gives.
#[test]
fn rotated_rows() {
    let mut random = Random(14);
    for (n, k, block) in [(35, 256, 256), (19, 192, 64), (16, 1056, 32), (3, 2048, 1024)] {
        let x = random.values(3 * k);
        let rotated: Vec<f32> = x
            .chunks_exact(k)
            .flat_map(|row| {
                let mut row = row.to_vec();
                keeve_codec::hadamard(&mut row, block);
                row
            })
            .collect();
        let values = random.values(n * k);
        for codec in ["int8", "int4", "int8-g32", "affine4-g32", "q8_0", "bf16"] {
            let mut plain = Named::default();
            plain.add("table", Codec::F32, 1, k, &vec![0.0; k]);
            plain.add("head.weight", codec.parse().unwrap(), n, k, &values);
            let stored = plain.0["head.weight"].clone();
            let weight = stored.with_basis(Basis::Hadamard(block)).unwrap();
            let mut matrix = vec![0.0; n * k];
            for (index, row) in matrix.chunks_exact_mut(k).enumerate() {
                keeve_codec::row_values(&weight, index, row);
            }
            let mut other = Named(plain.0.clone());
            other.0.insert("head.weight".into(), weight);
            let graph = graph(n, k, false);
            for isa in Isa::found() {
                for activations in [Activations::Float, Activations::Auto, Activations::Int8] {
                    let run = |weights: &Named, x: &[f32]| {
                        let program = load_with(activations, isa, 2, &graph, weights);
                        run_once(&*program, &given(x, k, &[0, 1]), 2).values.remove(0).2
                    };
                    let (found, expected) = (run(&other, &x), run(&plain, &rotated));
                    let case = format!("{isa} {codec} {activations:?} {n} by {k}");
                    assert!(bits(&found) == bits(&expected), "{case}");
                    if activations != Activations::Float {
                        continue;
                    }
                    for (row, found) in x.chunks_exact(k).zip(found.chunks_exact(n)) {
                        for (weights, found) in matrix.chunks_exact(k).zip(found) {
                            let pairs = row.iter().zip(weights);
                            let sum: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                            assert!((sum - f64::from(*found)).abs() < 1e-3, "{case}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tables_in_another_basis_are_refused() {
    let graph = graph(1, 2, false);
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 1, 2, &[0.0; 2]);
    weights.add("head.weight", Codec::F32, 1, 2, &[0.0; 2]);
    let table = weights.0.remove("table").unwrap().with_basis(Basis::Order([1, 0].into())).unwrap();
    weights.0.insert("table".into(), table);
    let cpu = Cpu::new(CpuOptions { threads: 1, isa: Isa::Scalar }).unwrap();
    let error = cpu.load(Arc::new(graph), &weights, &LoadOptions::default()).err().unwrap();
    assert!(
        error.to_string().contains("embed with rows in another basis (tensor table)"),
        "{error}"
    );
}
