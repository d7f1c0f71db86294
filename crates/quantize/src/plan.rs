//! What becomes of each tensor of a model, before anything is read or written.

use std::collections::HashSet;

use keeve_checkpoint::{Checkpoint, TensorInfo};
use keeve_codec::{Codec, hadamard_block};
use serde::Serialize;

use crate::dimensions::Dimensions;
use crate::gguf::mmproj;
use crate::{Error, Recipe, Role, exact, fitting, gguf, role};

/// How a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A GGUF file.
    Gguf,
    /// A folder as MLX (affine) or mlx-kquant (ggml's codecs) write it.
    Mlx,
    /// A folder as compressed-tensors writes it: int8 and int4. Only matrices of linear layers are packed;
    /// embedding tables and heads are not, as its loaders expect.
    CompressedTensors,
    /// In no file: weights are made as an engine loads them.
    Memory,
}

impl Format {
    /// Whether packed weights of this codec can be written.
    pub fn holds(self, codec: Codec) -> bool {
        match (self, codec) {
            (_, Codec::Float(_)) | (Self::Memory, _) => true,
            (Self::Gguf, codec) => {
                codec.is_blocks() && !matches!(codec, Codec::Pq2_0 | Codec::Ptq1_0)
            }
            (Self::Mlx, codec) => codec.is_blocks() || matches!(codec, Codec::Affine { .. }),
            (Self::CompressedTensors, codec) => {
                matches!(codec, Codec::Int8 { .. } | Codec::Int4 { .. })
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gguf => "GGUF",
            Self::Mlx => "MLX's layout",
            Self::CompressedTensors => "compressed-tensors",
            Self::Memory => "memory",
        }
    }

    /// Whether matrices in this role may be packed.
    fn packs(self, role: Role) -> bool {
        self != Self::CompressedTensors || !matches!(role, Role::Embedding | Role::Head)
    }
}

/// What becomes of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its canonical name.
    pub name: String,
    /// The part it plays.
    pub role: Role,
    /// Dimensions in weights, the slowest first.
    pub shape: Vec<usize>,
    /// How it is stored now.
    pub from: Codec,
    /// How it will be.
    pub to: Codec,
    /// The codec that was wanted, where its rows do not fit that.
    pub instead_of: Option<Codec>,
    /// Whether its rows are stored in another basis now, out of which they are brought: columns in another order, or
    /// rotated. No format but one says so, and that one only of what [`Plan::rotated`] asks for.
    pub has_basis: bool,
    /// Columns of the blocks that its rows are multiplied by Hadamard matrices in, if they are: see [`Plan::rotated`].
    pub hadamard: Option<usize>,
    /// Bytes now.
    pub bytes_before: u64,
    /// Bytes afterwards.
    pub bytes: u64,
}

impl Planned {
    /// Whether rows stay in the basis of the columns.
    fn in_place(&self) -> bool {
        !self.has_basis && self.hadamard.is_none()
    }

    /// Whether the bytes move as they are.
    pub fn is_moved(&self) -> bool {
        self.from == self.to && self.in_place()
    }

    /// Whether the values stay what they are, in other bytes.
    pub fn is_exact(&self) -> bool {
        self.is_moved()
            || self.in_place()
                && (exact::is_exact(self.from, self.to)
                    || matches!((self.from, self.to), (Codec::F16 | Codec::BF16, Codec::F32)))
    }

    /// Weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().fold(1, |product, &length| product.saturating_mul(length as u64))
    }
}

/// What becomes of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// How it is written.
    pub format: Format,
    /// Its tensors in the checkpoint's order.
    pub tensors: Vec<Planned>,
    /// The names of the checkpoint's tensors that the model has no use for, and that are not written: others would
    /// refuse a file with tensors that they do not know.
    pub unused: Vec<String>,
}

/// What is to be said of a plan under which nothing is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// Weights are packed, and all stay as they are, in the basis of the columns too: the recipe wants nothing else of them, or leaves them out.
    Already,
    /// No tensor is one that the recipe packs: the rest of a sentence that begins "nothing to quantize".
    Nothing(String),
}

/// Tensors, weights and bytes in one codec, for tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sum {
    /// Tensors.
    pub tensors: u64,
    /// Weights.
    pub weights: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, tensor: &Planned) {
        self.tensors += 1;
        self.weights = self.weights.saturating_add(tensor.weights());
        self.bytes = self.bytes.saturating_add(tensor.bytes);
    }

    /// Bits of a weight.
    pub fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }
}

impl Plan {
    /// Applies `recipe` to the tensors of a checkpoint.
    ///
    /// # Errors
    /// If a tensor cannot be read, `format` cannot hold a codec that the recipe asks for, the codec has no
    /// encoder, or a part of the recipe is for none of the tensors.
    pub fn new(checkpoint: &Checkpoint, recipe: &Recipe, format: Format) -> Result<Self, Error> {
        let dimensions = Dimensions::of(checkpoint.config());
        let tied = checkpoint.info("lm_head.weight").is_none()
            && !checkpoint.tensors().any(|tensor| tensor.name.ends_with("lm_head.weight"));
        let (weights, unused) = weights(checkpoint, format)?;
        let roles: Vec<(String, Role)> = weights
            .iter()
            .map(|info| (info.name.clone(), Role::of(&info.name, info.shape.len(), tied)))
            .collect();
        recipe.check_used(&roles)?;
        let values = roles.iter().filter(|(_, role)| *role == Role::Value).count();
        let mut values_before = 0;
        let mut tensors = Vec::with_capacity(roles.len());
        for (info, (_, role)) in weights.iter().zip(&roles) {
            let (index, count) = match role {
                Role::Value => (values_before, values),
                _ => (role::layer(&info.name).unwrap_or(0), dimensions.layers),
            };
            values_before += usize::from(*role == Role::Value);
            let wanted = match recipe.exception(&info.name, *role) {
                Some(exception) => exception,
                // Packed before, but not to be here: a float again.
                None if !format.packs(*role)
                    && info.codec.is_some_and(|codec| !codec.is_float()) =>
                {
                    Some(Codec::BF16)
                }
                None if recipe.packs(*role) && format.packs(*role) => {
                    Some(recipe.scheme().wanted(*role, index, count, &dimensions))
                }
                None => None,
            };
            // One dimension is never packed, whatever a recipe says of all names.
            let wanted = wanted.filter(|codec| info.shape.len() > 1 || codec.is_float());
            tensors.push(planned(info, *role, wanted, format)?);
        }
        Ok(Self { format, tensors, unused })
    }

    /// Whether `recipe`, which made this plan, comes to nothing.
    pub fn idle(&self, recipe: &Recipe) -> Option<Idle> {
        let packed = self.tensors.iter().any(|tensor| !tensor.to.is_float());
        let floats = recipe.scheme().uniform_codec().is_some_and(Codec::is_float);
        if packed || floats {
            let changes = self.tensors.iter().any(|tensor| !tensor.is_exact());
            return (!changes).then_some(Idle::Already);
        }
        let count = |test: &dyn Fn(&&Planned) -> bool| self.tensors.iter().filter(test).count();
        let plain = count(&|tensor| tensor.shape.len() < 2);
        let misfits = count(&|tensor| tensor.instead_of.is_some());
        let kept = count(&|tensor| tensor.shape.len() > 1 && !tensor.role.is_packed());
        let skipped = self.tensors.len() - plain - misfits - kept;
        let reasons = [
            (plain, "have one dimension"),
            (misfits, "have rows that no block divides"),
            (kept, "are in roles that stay floats"),
            (skipped, "are left out by the recipe or --skip"),
        ];
        let reasons: Vec<String> = reasons
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{count} {why}"))
            .collect();
        let first: Vec<String> = self
            .tensors
            .iter()
            .take(3)
            .map(|tensor| format!("'{}' {:?} ({})", tensor.name, tensor.shape, tensor.role))
            .collect();
        Some(Idle::Nothing(format!(
            "none of the {} tensors is packed: {}; they are {}{}",
            self.tensors.len(),
            reasons.join(", "),
            first.join(", "),
            if self.tensors.len() > first.len() { " and so on" } else { "" },
        )))
    }

    /// A plan that keeps every tensor's codec where `format` holds it, and takes the nearest that it holds
    /// where it does not.
    ///
    /// # Errors
    /// If a tensor cannot be read, or `format` holds nothing near its codec.
    pub fn keeping(checkpoint: &Checkpoint, format: Format) -> Result<Self, Error> {
        let plan = |info: &TensorInfo| {
            let wanted = info.codec.and_then(|codec| nearest(codec, format));
            planned(info, Role::of(&info.name, info.shape.len(), false), wanted, format)
        };
        let (weights, unused) = weights(checkpoint, format)?;
        let tensors = weights.iter().map(plan).collect::<Result<_, _>>()?;
        Ok(Self { format, tensors, unused })
    }

    /// The same with the rows of int8 and int4 matrices rotated: multiplied by Hadamard matrices before they are
    /// encoded, in blocks of [`hadamard_block`] columns, as inputs are when they are multiplied. Outliers of
    /// activations, which share a scale with all others of their token, are spread over a block (QuaRot, arXiv
    /// 2404.00456, its online form).
    ///
    /// # Errors
    /// If the format cannot say so, or there are no such matrices.
    pub fn rotated(mut self) -> Result<Self, Error> {
        if !matches!(self.format, Format::CompressedTensors | Format::Memory) {
            let format = self.format.name();
            let problem = format!(
                "{format} cannot say that rows are rotated; compressed-tensors (int8, int4) can"
            );
            return Err(Error::Input(problem));
        }
        let mut count = 0;
        for tensor in &mut self.tensors {
            let integers = matches!(tensor.to, Codec::Int8 { .. } | Codec::Int4 { .. });
            let cols = tensor.shape.last().filter(|_| integers);
            tensor.hadamard = cols.and_then(|&cols| hadamard_block(cols));
            count += usize::from(tensor.hadamard.is_some());
        }
        if count == 0 {
            let problem = "no matrix becomes int8 or int4, whose rows could be rotated";
            return Err(Error::Input(problem.into()));
        }
        Ok(self)
    }

    /// Bytes over all tensors.
    pub fn total(&self) -> Sum {
        let mut total = Sum::default();
        self.tensors.iter().for_each(|tensor| total.add(tensor));
        total
    }

    /// Sums by codec, the largest first.
    pub fn by_codec(&self) -> Vec<(Codec, Sum)> {
        let mut sums: Vec<(Codec, Sum)> = Vec::new();
        for tensor in &self.tensors {
            match sums.iter_mut().find(|(codec, _)| *codec == tensor.to) {
                Some((_, sum)) => sum.add(tensor),
                None => {
                    let mut sum = Sum::default();
                    sum.add(tensor);
                    sums.push((tensor.to, sum));
                }
            }
        }
        sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.bytes));
        sums
    }
}

/// The tensors of a model that are not made from its config (a GGUF file has rope divisors among its own), and the names
/// of those that the model does not use. Experts are stacked where `format` has them so.
fn weights(
    checkpoint: &Checkpoint,
    format: Format,
) -> Result<(Vec<TensorInfo>, Vec<String>), Error> {
    let mut all = match format {
        Format::Gguf | Format::Mlx => checkpoint.tensors_stacked()?,
        Format::CompressedTensors | Format::Memory => checkpoint.tensors().cloned().collect(),
    };
    all.retain(|info| info.name != gguf::ROPE_FREQS);
    // What an unknown architecture uses is not known.
    let Ok(model) = keeve_models::build(checkpoint.config()) else { return Ok((all, vec![])) };
    let used: HashSet<&str> = model.weights().map(|weight| weight.name.as_str()).collect();
    // Experts have other names where they are not stacked.
    let is_used = |info: &TensorInfo| {
        used.contains(info.name.as_str())
            || [".experts.", ".switch_mlp."].iter().any(|part| info.name.contains(part))
    };
    if !all.iter().any(is_used) {
        return Ok((all, vec![]));
    }
    let (used, unused): (Vec<_>, Vec<_>) = all.into_iter().partition(is_used);
    Ok((used, unused.into_iter().map(|info| info.name).collect()))
}

/// The codec that is nearest to one that `format` does not hold; `None` if it does, or nothing is near.
fn nearest(codec: Codec, format: Format) -> Option<Codec> {
    if format.holds(codec) {
        return None;
    }
    match (format, codec) {
        (Format::Mlx, Codec::Int8 { group, .. }) => exact::affine(8, group),
        (Format::Mlx, Codec::Int4 { group, .. }) => exact::affine(4, group),
        // What these hold are floats of few bits, and so exact.
        (_, Codec::MlxMxfp4 | Codec::MlxMxfp8 | Codec::MlxNvfp4 { .. }) => Some(Codec::BF16),
        (Format::Gguf, Codec::Affine { bits, .. }) => Some(match bits {
            1 | 2 => Codec::Q2K,
            3 => Codec::Q3K,
            4 => Codec::Q4K,
            5 => Codec::Q5K,
            6 => Codec::Q6K,
            _ => Codec::Q8_0,
        }),
        (Format::Gguf, Codec::Int8 { .. }) => Some(Codec::Q8_0),
        (Format::Gguf, Codec::Int4 { .. }) => Some(Codec::Q4K),
        _ => None,
    }
}

/// What becomes of a tensor for which `wanted` is asked (nothing: it keeps its codec).
fn planned(
    info: &TensorInfo,
    role: Role,
    wanted: Option<Codec>,
    format: Format,
) -> Result<Planned, Error> {
    let Some(from) = info.codec else {
        let problem = format!("is stored as {}, which keeve does not read", info.format);
        return Err(Error::tensor(&info.name, problem));
    };
    let cols = info.shape.last().copied().unwrap_or(1);
    // As llama.cpp's converter: vectors, norms and routers are f32 whatever the file's type.
    let is_vector =
        info.shape.len() < 2 || info.name.contains("norm.weight") || mmproj::is_plain(&info.name);
    let is_plain = is_vector || role == Role::Router && from.is_float();
    let kept = if format == Format::Gguf && is_plain { Codec::F32 } else { from };
    let (to, instead_of) = match wanted {
        None => (kept, None),
        Some(codec) => match fitting(codec, cols) {
            Some(fit) => (fit, (fit != codec).then_some(codec)),
            // What llama.cpp writes for rows that fit nothing; others stay.
            None if format == Format::Gguf => (Codec::F16, Some(codec)),
            None => (from, Some(codec)),
        },
    };
    if !to.is_float() && !format.packs(role) {
        let problem = format!("is to be {to}, but compressed-tensors packs no {role}");
        return Err(Error::tensor(&info.name, problem));
    }
    if !format.holds(to) {
        let problem = format!("is to be {to}, which {} cannot hold", format.name());
        return Err(Error::tensor(&info.name, problem));
    }
    if to != from && !to.has_encoder() {
        return Err(Error::tensor(&info.name, format!("is to be {to}, which keeve only reads")));
    }
    let rows = &info.shape[..info.shape.len().saturating_sub(1)];
    let row = to.row_bytes(cols).map_err(|error| Error::tensor(&info.name, error))?;
    let bytes = rows.iter().fold(row as u64, |bytes, &n| bytes.saturating_mul(n as u64));
    Ok(Planned {
        name: info.name.clone(),
        role,
        shape: info.shape.clone(),
        from,
        to,
        instead_of,
        has_basis: info.has_basis,
        hadamard: None,
        bytes_before: info.bytes,
        bytes,
    })
}
