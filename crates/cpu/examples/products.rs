//! How fast products of many rows are, next to the units' own rates:
//! `cargo run --release -p keeve-cpu --example products -- [THREADS] [REPETITIONS] [ROWS,...] [KIND]`.
//!
//! From `f32` activations to `f32` results: quantizing or rounding the activations is included.

#![allow(clippy::print_stdout, reason = "an example prints")]

use keeve_cpu::Isa;
use keeve_cpu::measure::{Machine, ProductKind, TimedProduct};
use keeve_cpu::rates::{self, Unit};

/// Smallest, median and largest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(2), |threads| threads.parse())?;
    let repetitions: usize = args.next().map_or(Ok(5), |count| count.parse())?;
    let rows = args.next().unwrap_or_else(|| "1,16,128,512,1024,8192".into());
    let rows = rows.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let only = args.next();
    let most = rows.iter().copied().max().unwrap_or(1);
    let machine = Machine::new(threads)?;
    // In units of 10^12, as all rates here.
    let rate = |unit| rates::operations(unit, threads, &|| false);
    let forced = Isa::choose()?;
    let tiers: Vec<_> = match std::env::var_os("KEEVE_ISA") {
        Some(_) => vec![forced],
        None => Isa::found().filter(|&isa| isa != Isa::Scalar).collect(),
    };
    println!("{threads} threads, TOP/s: smallest median largest of {repetitions}");
    println!("percent: of the tile unit's rate for the kind, or of VNNI's on tier avx512, median");
    for (n, k) in [(10240, 2560), (2560, 10240)] {
        for kind in [
            ProductKind::Int8Rows,
            ProductKind::Int8Groups,
            ProductKind::Int8Blocks,
            ProductKind::Bf16,
        ] {
            if only.as_ref().is_some_and(|only| *only != format!("{kind:?}")) {
                continue;
            }
            for &isa in tiers.iter().rev() {
                let unit = match (isa, kind) {
                    (Isa::Amx, ProductKind::Bf16) => Some(Unit::AmxBf16),
                    (Isa::Amx, _) => Some(Unit::AmxInt8),
                    (Isa::Avx512, kind) if kind != ProductKind::Bf16 => Some(Unit::VnniInt8),
                    _ => None,
                };
                let mut product = TimedProduct::new(isa, kind, n, k, most);
                for &rows in &rows {
                    // The slow tiers need not be waited for.
                    if rows > 1024 && isa < Isa::Amx {
                        continue;
                    }
                    product.run(&machine, rows);
                    let (mut speeds, mut parts, mut packing) = (vec![], vec![], vec![]);
                    for _ in 0..repetitions {
                        let rate = unit.map(rate).transpose()?.flatten();
                        let (packed, all) = product.run(&machine, rows);
                        let speed = product.operations(rows) / all.as_secs_f64() / 1e12;
                        speeds.push(speed);
                        packing.push(100.0 * packed.as_secs_f64() / all.as_secs_f64());
                        parts.extend(rate.map(|rate| 100.0 * speed / rate));
                    }
                    let [least, median, largest] = spread(speeds);
                    let percent = match parts.is_empty() {
                        true => String::new(),
                        false => format!("{:5.1} %", spread(parts)[1]),
                    };
                    let packing = spread(packing)[1];
                    println!(
                        "{n:5} x {k:5} {kind:10?} {isa:6} {rows:4} rows \
                         {least:6.3} {median:6.3} {largest:6.3} {percent:7} ({packing:.0} % activations)"
                    );
                }
            }
        }
        let shown = |unit| -> std::io::Result<String> {
            Ok(rate(unit)?.map_or("-".into(), |rate| format!("{rate:.2}")))
        };
        let [int8, bf16, vnni] = [Unit::AmxInt8, Unit::AmxBf16, Unit::VnniInt8].map(shown);
        println!("rates now: AMX int8 {}, AMX bf16 {}, VNNI {}", int8?, bf16?, vnni?);
    }
    Ok(())
}
