//! Models as they are judged: as their files have them, or made anew in memory.

use clap::ValueEnum;
use keeve::{Checkpoint, Codec, Engine, EngineOptions};
use keeve_quantize::{Format, Idle, Imatrix, Importance, Made, Making, Plan, Recipe, Scheme};

use super::quantize::cores;
use crate::args::{ActivationMode, Compute, Eval};
use crate::interrupt;
use crate::model::{self, Sum};
use crate::output::{Failure, Output};

/// What becomes of a model before it is judged.
pub struct Variant {
    /// As it was asked for; empty for a model as it is.
    name: String,
    /// How its weights are encoded anew.
    scheme: Option<Scheme>,
    /// Whether with importance.
    imatrix: bool,
    /// Whether rows are rotated first.
    rotate: bool,
    activations: ActivationMode,
}

impl Variant {
    /// Those that the flags ask for.
    pub fn all(args: &Eval, compute: &Compute) -> Result<Vec<Self>, Failure> {
        if args.variants.is_empty() {
            let activations = compute.activations;
            return Ok(vec![Self {
                name: String::new(),
                scheme: None,
                imatrix: false,
                rotate: false,
                activations,
            }]);
        }
        if compute.weights.is_some() {
            return Err(Failure::usage("--as and --weights exclude each other"));
        }
        let mut all = Vec::new();
        for asked in &args.variants {
            let (rest, mode) = match asked.split_once('@') {
                Some((rest, mode)) => (rest, Some(mode)),
                None => (asked.as_str(), None),
            };
            let activations = match mode {
                None => compute.activations,
                Some(mode) => ActivationMode::from_str(mode, true).map_err(|_| {
                    Failure::usage(format!(
                        "--as {asked}: no mode '{mode}' (float, bf16, int8, auto, fast)"
                    ))
                })?,
            };
            let (mut rest, mut imatrix, mut rotate) = (rest, false, false);
            let full = rest;
            while let Some((before, with)) = rest.rsplit_once('+') {
                match with {
                    "imatrix" => imatrix = true,
                    "rotate" => rotate = true,
                    _ => break,
                }
                rest = before;
            }
            let with = &full[rest.len()..];
            if imatrix && args.imatrix.is_none() {
                return Err(Failure::usage(format!("--as {asked}: --imatrix is needed")));
            }
            let schemes: Vec<(String, Scheme)> = match rest {
                "presets" => {
                    let preset = |name: &str| Ok((name.to_owned(), Scheme::preset(name)?));
                    Scheme::presets().map(preset).collect::<Result<_, Failure>>()?
                }
                "codecs" => {
                    Scheme::codecs().map(|codec| (codec.name(), Scheme::uniform(codec))).collect()
                }
                name => {
                    let scheme = name.parse();
                    vec![(
                        name.into(),
                        scheme.map_err(|error| Failure::usage(format!("--as {asked}: {error}")))?,
                    )]
                }
            };
            for (name, scheme) in schemes {
                let mode = mode.map_or_else(String::new, |mode| format!("@{mode}"));
                let name = format!("{name}{with}{mode}");
                all.push(Self { name, scheme: Some(scheme), imatrix, rotate, activations });
            }
        }
        Ok(all)
    }

    /// How activations enter its products.
    pub fn activations(&self) -> ActivationMode {
        self.activations
    }

    /// What the flags say about how to compute, for this model.
    fn compute(&self, compute: &Compute) -> Compute {
        Compute { activations: self.activations, ..compute.clone() }
    }
}

/// A model to judge.
pub struct Subject<'a> {
    pub name: &'a str,
    pub checkpoint: &'a Checkpoint,
    pub variant: &'a Variant,
    pub imatrix: Option<&'a Imatrix>,
}

impl Subject<'_> {
    /// What its row is called.
    pub fn row_name(&self) -> String {
        match &self.variant.scheme {
            None => self.name.into(),
            Some(_) => format!("{} as {}", self.name, self.variant.name),
        }
    }

    /// Loads it, to run on so many threads; gives its bytes and bits a weight too.
    pub fn load(
        &self,
        compute: &Compute,
        threads: Option<usize>,
        output: &Output,
    ) -> Result<(Engine, (u64, f64)), Failure> {
        let making_threads = compute.threads.unwrap_or_else(cores);
        let compute = Compute { threads, ..self.variant.compute(compute) };
        let Some(scheme) = &self.variant.scheme else {
            let engine = model::load_for_one(self.checkpoint, &compute, output)?;
            let mut size = Sum::default();
            self.checkpoint.tensors().for_each(|tensor| size.add(tensor));
            return Ok((engine, (size.bytes, size.bits())));
        };
        let format = match scheme.uniform_codec() {
            // What is written as compressed-tensors has float heads.
            Some(Codec::Int8 { .. } | Codec::Int4 { .. }) => Format::CompressedTensors,
            _ => Format::Memory,
        };
        let recipe = Recipe::from(scheme.clone());
        let plan = Plan::new(self.checkpoint, &recipe, format)?;
        let plan = if self.variant.rotate { plan.rotated()? } else { plan };
        if let Some(Idle::Nothing(problem)) = plan.idle(&recipe) {
            return Err(format!("nothing to quantize: {problem}").into());
        }
        let importance = match self.imatrix.filter(|_| self.variant.imatrix) {
            Some(imatrix) => Some(Importance::of(self.checkpoint, imatrix)?),
            None => None,
        };
        let making =
            Making { importance: importance.as_ref(), folds: None, threads: making_threads };
        let options = EngineOptions { max_sequences: 1, ..model::options(&compute) };
        let built = keeve_models::build_for(self.checkpoint.config(), compute.max_context)
            .map_err(|error| format!("{}: {error}", self.checkpoint.config_path().display()))?;
        let bar = output.loading_bar();
        let weights = Made::new(self.checkpoint, &plan, making);
        let engine = Engine::from_weights(built, &weights, &options, &|progress| {
            bar.set(progress);
            !interrupt::interrupted()
        })?;
        let size = plan.total();
        Ok((engine, (size.bytes, size.bits())))
    }
}
