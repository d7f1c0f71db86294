//! Single products of packed weights at the sizes of Cider's table, for each codec, mode, phase and
//! number of rows.
//!
//! A product is measured as models run it: as a graph of one linear on the backend, timed by the
//! plan's profile, so that quantizing the activations counts. Few rows wait for memory, so there the
//! runs go round several copies of the weight, more than any cache holds. A mode by which products are
//! made as by one before it is left out, and a product that takes long is not repeated as often.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeve_codec::{Codec, PackedTensor};
use keeve_cpu::{Cpu, CpuOptions, Isa, RecipeNames, recipe_names};
use keeve_graph::{
    Activations, Backend, CompileOptions, Graph, LoadOptions, OpProfile, Phase, Plan, Program,
    RowInput, State, Step, Want, Weights,
};
use serde::{Serialize, Serializer};

use crate::bounds::Bounds;
use crate::random::tensor;
use crate::{Error, Observer, Spread};

/// Weight rows and columns of the products: the table of Mininglamp-AI/cider's README.
pub const SIZES: [(usize, usize); 2] = [(10240, 2560), (2560, 10240)];

/// Rows up to which products wait for memory more than for arithmetic, and up to which generated
/// rows are measured besides those of prompts: sequences that generate at the same time.
const FEW_ROWS: usize = 16;

/// Bytes of copies of a weight that runs with few rows go round.
const CIRCLE_BYTES: usize = 512 << 20;

/// Runs of one measurement go on until this much time has passed.
const ENOUGH_NANOSECONDS: u64 = 100_000_000;

/// Rows of the table that activations come from.
const TABLE_ROWS: usize = 256;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsOptions {
    /// Codecs of weights.
    pub codecs: Vec<Codec>,
    /// Modes of activations; those that the backend lacks are listed in [`OpsReport::unsupported`].
    pub activations: Vec<Activations>,
    /// Weight rows and columns.
    pub sizes: Vec<(usize, usize)>,
    /// Numbers of rows of activations.
    pub rows: Vec<usize>,
    /// Runs of each measurement, at least, where there is time for them.
    pub repetitions: usize,
    /// When a product has been measured for so long, what there is counts: one run, if it took that long.
    pub patience: Duration,
    /// Threads; `None`: one for each core.
    pub threads: Option<usize>,
}

impl OpsOptions {
    /// The powers of two up to `most`.
    pub fn rows_up_to(most: usize) -> Vec<usize> {
        (0..usize::BITS).map(|bit| 1 << bit).take_while(|&rows| rows <= most).collect()
    }

    /// The modes by which products of a codec are made in different ways, the first of each.
    fn modes(&self, codec: Codec, isa: Isa) -> Vec<Activations> {
        let mut modes: Vec<Activations> = vec![];
        for &mode in &self.activations {
            let names = recipe_names(codec, mode, isa);
            if !modes.iter().any(|&earlier| recipe_names(codec, earlier, isa) == names) {
                modes.push(mode);
            }
        }
        modes
    }

    /// Phases that are measured with so many rows.
    fn phases(rows: usize) -> &'static [Phase] {
        if rows > FEW_ROWS { &[Phase::Prompt] } else { &[Phase::Generated, Phase::Prompt] }
    }

    /// The codecs that have kernels of their own, or are to.
    pub fn default_codecs() -> Vec<Codec> {
        let names = [
            "q4_k",
            "q5_k",
            "q6_k",
            "q3_k",
            "q2_k",
            "q4_0",
            "q8_0",
            "affine4-g64",
            "int8",
            "int8-g128",
            "int4-g128",
            "bf16",
        ];
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }
}

/// Measures every product. Ends early, with what there is, when the observer says so.
///
/// # Errors
/// If the machine lacks memory or threads, a codec does not fit a size, or the backend fails.
pub fn run(options: &OpsOptions, observer: &dyn Observer) -> Result<OpsReport, Error> {
    let isa = Isa::choose()?;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or_else(cores).max(1);
    let cpu = Cpu::new(CpuOptions { threads, isa })?;
    let bounds = Bounds::measure(threads, observer)?;
    let mut report = OpsReport {
        isa: isa.name(),
        threads,
        bounds,
        ops: vec![],
        unsupported: vec![],
        interrupted: false,
    };
    let of_each: usize = options.rows.iter().map(|&rows| OpsOptions::phases(rows).len()).sum();
    let modes = options.codecs.iter().map(|&codec| options.modes(codec, isa).len()).sum::<usize>();
    let mut progress = Progress { observer, done: 0, total: modes * options.sizes.len() * of_each };
    for &(n, k) in &options.sizes {
        for &codec in &options.codecs {
            let copies = copies(codec, n, k, threads, options, observer)?;
            for activations in options.modes(codec, isa) {
                let end = progress.done + of_each;
                progress.show(&format!("{codec} {}", activations.name()));
                if observer.stopped() {
                    report.interrupted = true;
                    return Ok(report);
                }
                match Products::load(&cpu, &copies, activations) {
                    Ok(mut products) => products.measure(options, &mut report, &mut progress)?,
                    Err(keeve_graph::Error::Unsupported { what, .. }) => {
                        report.note_unsupported(what);
                    }
                    Err(error) => return Err(error.into()),
                }
                progress.done = end;
            }
        }
    }
    progress.show("products");
    report.interrupted = observer.stopped();
    Ok(report)
}

/// How many products have been measured.
struct Progress<'a> {
    observer: &'a dyn Observer,
    done: usize,
    total: usize,
}

impl Progress<'_> {
    fn show(&self, what: &str) {
        self.observer.progress(what, self.done, self.total);
    }
}

/// Random weights of `n` rows by `k` columns, as many as no cache holds, if that matters.
fn copies(
    codec: Codec,
    n: usize,
    k: usize,
    threads: usize,
    options: &OpsOptions,
    observer: &dyn Observer,
) -> Result<Vec<PackedTensor>, Error> {
    let wrong = |error| Error::Tensor { name: format!("weight of {n} by {k}"), error };
    let bytes = codec.row_bytes(k).map_err(wrong)?.saturating_mul(n).max(1);
    let count = match options.rows.iter().any(|&rows| rows <= FEW_ROWS) {
        true => CIRCLE_BYTES.div_ceil(bytes).min(MAX_COPIES),
        false => 1,
    };
    let mut copies = vec![];
    for seed in 0..count as u64 {
        if observer.stopped() && !copies.is_empty() {
            break;
        }
        copies.push(tensor(codec, n, k, seed, threads).map_err(wrong)?);
    }
    Ok(copies)
}

/// Copies of a weight at most: small weights of tests need no more.
const MAX_COPIES: usize = 64;

/// One weight in several copies, each a program of one linear.
struct Products {
    codec: Codec,
    activations: Activations,
    recipes: RecipeNames,
    n: usize,
    k: usize,
    weight_bytes: usize,
    programs: Vec<Box<dyn Program>>,
}

/// The names of the program's weights.
const TABLE: &str = "table.weight";
const LINEAR: &str = "linear";

/// A table to take activations from, and the weight.
struct Operands(HashMap<String, PackedTensor>);

impl Weights for Operands {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.get(name).cloned().ok_or_else(|| Error::NoWeight(name.into()))?)
    }
}

impl Products {
    fn load(
        cpu: &Cpu,
        copies: &[PackedTensor],
        activations: Activations,
    ) -> Result<Self, keeve_graph::Error> {
        let Some(weight) = copies.first() else {
            return Err(keeve_graph::Error::Step("no weight to measure".into()));
        };
        let (n, k) = (weight.rows(), weight.cols());
        let mut graph = Graph::new();
        let x = graph.embed(TABLE, TABLE_ROWS, k)?;
        let y = graph.linear(x, LINEAR, n, false)?;
        let rows = graph.select_rows(y, Want::Hidden)?;
        graph.output(Want::Hidden, rows)?;
        let graph = Arc::new(graph);
        let table = tensor(Codec::F32, TABLE_ROWS, k, u64::MAX, cpu.threads())
            .map_err(|error| keeve_graph::Error::Weight(Box::new(error)))?;
        let options = LoadOptions { activations, ..LoadOptions::default() };
        let mut programs = vec![];
        for copy in copies {
            let weight = (format!("{LINEAR}.weight"), copy.clone());
            let operands = Operands([(TABLE.into(), table.clone()), weight].into());
            programs.push(cpu.load(graph.clone(), &operands, &options)?);
        }
        let (codec, weight_bytes) = (weight.codec(), weight.bytes());
        let recipes = recipe_names(codec, activations, cpu.isa());
        Ok(Self { codec, activations, recipes, n, k, weight_bytes, programs })
    }

    /// Measures all numbers of rows, few rows in both phases.
    fn measure(
        &mut self,
        options: &OpsOptions,
        report: &mut OpsReport,
        progress: &mut Progress<'_>,
    ) -> Result<(), Error> {
        for &rows in &options.rows {
            for &phase in OpsOptions::phases(rows) {
                let Some(times) = self.time(rows, phase, options, progress.observer)? else {
                    return Ok(());
                };
                report.add(self, rows, phase, times);
                progress.done += 1;
                let mode = self.activations.name();
                progress.show(&format!("{} {mode}", self.codec));
            }
        }
        Ok(())
    }

    /// Seconds of a product. `None` if it was interrupted.
    fn time(
        &self,
        rows: usize,
        phase: Phase,
        options: &OpsOptions,
        observer: &dyn Observer,
    ) -> Result<Option<Spread>, Error> {
        let circle = if rows <= FEW_ROWS { self.programs.len() } else { 1 };
        let compile = CompileOptions { profile: true, max_rows: Some(rows), taps: vec![] };
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        let start = Instant::now();
        let (mut runs, mut first) = (vec![], 0);
        for program in &self.programs[..circle] {
            let mut run =
                Run { plan: program.compile(&compile)?, state: program.state(0)?, time: 0 };
            // The first run pays for memory that later ones find.
            first = run.next(rows, phase)?;
            runs.push(run);
            if observer.stopped() {
                return Ok(None);
            }
            if start.elapsed() >= options.patience {
                break;
            }
        }
        let (mut times, mut spent) = (vec![], 0);
        for index in (0..runs.len()).cycle() {
            if observer.stopped() {
                return Ok(None);
            }
            let enough = times.len() >= options.repetitions.max(1) && spent >= ENOUGH_NANOSECONDS;
            if enough || start.elapsed() >= options.patience {
                break;
            }
            let time = runs[index].next(rows, phase)?;
            times.push(seconds(time));
            spent += time;
        }
        if times.is_empty() {
            times.push(seconds(first));
        }
        Ok(Spread::of(&times))
    }
}

/// A plan and how much time its profile had counted before the next run.
struct Run {
    plan: Box<dyn Plan>,
    state: Box<dyn State>,
    time: u64,
}

impl Run {
    /// Runs a step and returns the nanoseconds of its product, with what belongs to it.
    fn next(&mut self, rows: usize, phase: Phase) -> Result<u64, Error> {
        let row = |index: usize| RowInput::text((index % TABLE_ROWS) as u32, index as u32, phase);
        let step = Step { rows: (0..rows).map(row).collect(), ..Step::default() };
        self.plan.run(&step, &mut *self.state, None)?;
        let product = |op: &OpProfile| op.op != "embed" && op.op != "select_rows";
        let profile = self.plan.profile();
        let total = profile.iter().filter(|op| product(op)).map(|op| op.nanoseconds).sum();
        // At least one, for rates.
        let time = u64::saturating_sub(total, self.time).max(1);
        self.time = total;
        Ok(time)
    }
}

/// The table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpsReport {
    /// The instruction set tier.
    pub isa: &'static str,
    /// Threads that computed.
    pub threads: usize,
    /// The machine's limits.
    #[serde(flatten)]
    pub bounds: Bounds,
    /// One entry for each product.
    pub ops: Vec<Product>,
    /// What the backend cannot do.
    pub unsupported: Vec<String>,
    /// Whether it was ended before everything was measured.
    pub interrupted: bool,
}

/// One product, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Product {
    /// Codec of the weight.
    pub codec: String,
    /// Mode of activations.
    pub activations: &'static str,
    /// How the mode makes products of this codec in this phase: see `crates/cpu/src/scheme/mod.rs`.
    pub recipe: &'static str,
    /// Phase of the rows.
    #[serde(serialize_with = "phase_name")]
    pub phase: Phase,
    /// Weight rows.
    pub n: usize,
    /// Weight columns.
    pub k: usize,
    /// Rows of activations.
    pub rows: usize,
    /// Seconds of a product.
    pub seconds: Spread,
    /// Bytes of the packed weight over the median time, 10^9 a second.
    pub gb_s: f64,
    /// Operations over the median time, 10^12 a second (a multiply and an addition are two).
    pub tops: f64,
    /// The least time that the bounds allow, over the median time.
    pub bound_fraction: Option<f64>,
}

fn phase_name<S: Serializer>(phase: &Phase, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(name(*phase))
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prompt => "prompt",
        Phase::Generated => "generated",
    }
}

impl OpsReport {
    fn add(&mut self, products: &Products, rows: usize, phase: Phase, seconds: Spread) {
        let Products { codec, activations, recipes, n, k, weight_bytes, .. } = *products;
        let bytes = weight_bytes as f64 / 1e9;
        let operations = 2.0 * n as f64 * k as f64 * rows as f64 / 1e12;
        let peak = self.bounds.peak_tops(activations);
        let least = self.bounds.read_gb_s.zip(peak);
        let least = least.map(|(read, peak)| (bytes / read).max(operations / peak));
        self.ops.push(Product {
            codec: codec.to_string(),
            activations: activations.name(),
            recipe: match phase {
                Phase::Prompt => recipes.prompt,
                Phase::Generated => recipes.generated,
            },
            phase,
            n,
            k,
            rows,
            seconds,
            gb_s: bytes / seconds.median,
            tops: operations / seconds.median,
            bound_fraction: least.map(|least| least / seconds.median),
        });
    }

    fn note_unsupported(&mut self, what: String) {
        if !self.unsupported.contains(&what) {
            self.unsupported.push(what);
        }
    }

    /// A table for a person.
    pub fn table(&self) -> String {
        let rate = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.2} {unit}"))
        };
        let mut table = format!(
            "{} threads, {}; read bandwidth {}, AMX int8 {}, AMX bf16 {}, VNNI int8 {}\n\n\
             {:12} {:6} {:8} {:9} {:>12} {:>5} {:>12} {:>8} {:>8} {:>8}\n",
            self.threads,
            self.isa,
            rate(self.bounds.read_gb_s, "GB/s"),
            rate(self.bounds.amx_int8_tops, "TOP/s"),
            rate(self.bounds.amx_bf16_tops, "TOP/s"),
            rate(self.bounds.vnni_int8_tops, "TOP/s"),
            "codec",
            "mode",
            "recipe",
            "phase",
            "n x k",
            "rows",
            "us",
            "GB/s",
            "TOP/s",
            "bound",
        );
        for product in &self.ops {
            let Product { codec, activations, recipe, n, k, rows, gb_s, tops, .. } = product;
            let bound = product.bound_fraction;
            let bound = bound.map_or_else(|| "-".into(), |part| format!("{:.1} %", 100.0 * part));
            let (phase, size) = (name(product.phase), format!("{n}x{k}"));
            let us = product.seconds.median * 1e6;
            table += &format!(
                "{codec:12} {activations:6} {recipe:8} {phase:9} {size:>12} {rows:>5} {us:>12.1} \
                 {gb_s:>8.2} {tops:>8.3} {bound:>8}\n"
            );
        }
        for what in &self.unsupported {
            table += &format!("not supported: {what}\n");
        }
        table
    }
}
