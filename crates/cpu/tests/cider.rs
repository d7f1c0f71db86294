//! W8A8 and W4A8 against Cider: activations by row, products in integers, and results, on every tier.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::{Named, bits, given, load_with, run_once, tiers};
use half::f16;
use keeve_codec::{Codec, Float, Group};
use keeve_graph::{Activations, Graph, Phase, Want};
use safetensors::{Dtype, SafeTensors};

struct File<'a>(SafeTensors<'a>);

impl File<'_> {
    fn shape(&self, name: &str) -> [usize; 2] {
        self.0.tensor(name).expect(name).shape().try_into().expect(name)
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensor = self.0.tensor(name).expect(name);
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
            Dtype::F16 => {
                let pairs = data.as_chunks::<2>().0.iter();
                pairs.map(|x| f16::from_le_bytes(*x).to_f32()).collect()
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    fn integers(&self, name: &str) -> Vec<i32> {
        let tensor = self.0.tensor(name).expect(name);
        match tensor.dtype() {
            Dtype::I8 => tensor.data().iter().map(|&x| i32::from(x as i8)).collect(),
            Dtype::I32 => {
                let words = tensor.data().as_chunks().0.iter();
                words.map(|x| i32::from_le_bytes(*x)).collect()
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// The results of all rows, on every tier and in both phases, with a call for so many rows each: one,
/// some, more than the kernels for few rows take, and all.
fn each_result(file: &File<'_>, codec: Codec, mut check: impl FnMut(&str, &[f32])) {
    let ([n, k], [rows, _]) = (file.shape("w"), file.shape("x"));
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 1, k, &vec![0.0; k]);
    weights.add("head.weight", codec, n, k, &file.floats("w"));
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, k).unwrap();
    let picked = graph.select_rows(x, Want::Logits).unwrap();
    let y = graph.linear(picked, "head", n, false).unwrap();
    graph.output(Want::Logits, y).unwrap();
    let x = file.floats("x");
    for isa in tiers(&format!("Cider {codec}")) {
        let program = load_with(Activations::Int8, isa, 2, &graph, &weights);
        for phase in [Phase::Prompt, Phase::Generated] {
            for each in [1, 3, 9, rows] {
                let mut all = vec![];
                for x in x.chunks(each * k) {
                    let mut step = given(x, k, &[0, 1]);
                    step.rows.iter_mut().for_each(|row| row.phase = phase);
                    all.extend(run_once(&*program, &step, 2).values.remove(0).2);
                }
                check(&format!("{isa} {codec} {phase:?}, {each} rows at a time"), &all);
            }
        }
    }
}

fn check(bytes: &[u8]) {
    let file = File(SafeTensors::deserialize(bytes).expect("safetensors"));
    let ([n, k], [rows, _]) = (file.shape("w"), file.shape("x"));
    let (codes, x_scales) = (file.integers("xq"), file.floats("x_scale"));

    let int8 = |group| Codec::Int8 { group, scale: Float::F32 };
    let int4 = Codec::Int4 { group: Group::Row, scale: Float::F32 };
    for (codec, scales, sums, halves) in [
        (int8(Group::Row), "w8_scale", "acc_w8a8", "y_w8a8"),
        (int4, "w4_scale", "acc_w4a8", "y_w4a8"),
    ] {
        let (scales, sums, halves) =
            (file.floats(scales), file.integers(sums), file.floats(halves));
        let expected: Vec<f32> =
            (0..rows * n).map(|at| sums[at] as f32 * x_scales[at / n] * scales[at % n]).collect();
        each_result(&file, codec, |what, found| {
            assert_eq!(bits(found), bits(&expected), "{what}");
            let found: Vec<_> = found.iter().map(|y| f16::from_f32(*y).to_f32()).collect();
            assert_eq!(bits(&found), bits(&halves), "{what}: as Cider's results are stored");
        });
    }

    for (width, weights, results) in
        [(64, "w8g64", "y_w8a8_g64_f32"), (128, "w8g128", "y_w8a8_g128_f32")]
    {
        let results = file.floats(results);
        let (scales, weights) = (file.floats(&format!("{weights}_scale")), file.integers(weights));
        let product = |at: usize| {
            let (row, index) = (at / n, at % n);
            let groups = scales[index * k / width..].iter().zip(weights[index * k..].chunks(width));
            let groups = groups.zip(codes[row * k..][..k].chunks(width));
            let sum = groups.fold(0.0f32, |sum, ((scale, weights), codes)| {
                let product: i32 = weights.iter().zip(codes).map(|(w, x)| w * x).sum();
                scale.mul_add(product as f32, sum)
            });
            sum * x_scales[row]
        };
        let expected: Vec<f32> = (0..rows * n).map(product).collect();
        let largest = results.iter().fold(0.0f32, |most, y| most.max(y.abs()));
        each_result(&file, int8(Group::Of(width as u16)), |what, found| {
            assert_eq!(bits(found), bits(&expected), "{what}");
            // Those were added up in another order: eight numbers, each rounded to within 2^-24.
            for (found, result) in found.iter().zip(&results) {
                assert!((found - result).abs() <= largest * 5e-7, "{what}: {found} {result}");
            }
        });
    }
}

#[test]
fn products_meet_cider() {
    check(include_bytes!("../../../testdata/cider.safetensors"));
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_products_meet_cider() {
    let folder = std::env::var_os("KEEVE_TEST_DATA").expect("KEEVE_TEST_DATA is set");
    let path = std::path::Path::new(&folder).join("fixtures/cider/cider_ops.safetensors");
    check(&std::fs::read(path).expect("reference data"));
}

/// W4A8 by groups, of which there is no reference: the definition, in plain loops.
#[test]
fn products_of_int4_by_groups_are_the_definition() {
    let bytes = include_bytes!("../../../testdata/cider.safetensors");
    let file = File(SafeTensors::deserialize(bytes).expect("safetensors"));
    let ([n, k], [rows, _]) = (file.shape("w"), file.shape("x"));
    let (codes, x_scales) = (file.integers("xq"), file.floats("x_scale"));
    let weights = file.floats("w");
    for width in [32, 64, 128, 256] {
        let product = |at: usize| {
            let groups = weights[at % n * k..][..k].chunks(width);
            let groups = groups.zip(codes[at / n * k..][..k].chunks(width));
            let sum = groups.fold(0.0f32, |sum, (weights, codes)| {
                let largest = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                let scale = if largest == 0.0 { 1.0 } else { largest / 7.0 };
                let code = |w: &f32| ((w / scale).round_ties_even() as i32).clamp(-8, 7);
                let product: i32 = weights.iter().map(code).zip(codes).map(|(w, x)| w * x).sum();
                scale.mul_add(product as f32, sum)
            });
            sum * x_scales[at / n]
        };
        let expected: Vec<f32> = (0..rows * n).map(product).collect();
        let codec = Codec::Int4 { group: Group::Of(width as u16), scale: Float::F32 };
        each_result(&file, codec, |what, found| assert_eq!(bits(found), bits(&expected), "{what}"));
    }
}
