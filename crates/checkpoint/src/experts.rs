//! The matrices of experts, however a file holds them.
//!
//! The canonical name is that of MLX's stack, `B.switch_mlp.gate_proj.weight` for a block `B`
//! (ml-explore/mlx-lm `mlx_lm/models/switch_layers.py`). Hugging Face has a tensor for each expert,
//! `B.experts.3.gate_proj.weight` (for Mixtral `w1`, `w3` and `w2` for gate, up and down), or since
//! transformers 5 `B.experts.gate_up_proj`, a stack with the rows of gate before those of up, and
//! `B.experts.down_proj` (huggingface/transformers `conversion_mapping.py`).

use std::collections::HashMap;

use keeve_codec::{Basis, Bytes, PackedTensor, Parts};

use crate::{Checkpoint, Error, TensorInfo};

/// Names of a projection: canonical, and Mixtral's.
const PROJECTIONS: [(&str, &str); 3] =
    [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")];

/// The stack that the matrix of one expert belongs to, and which expert's it is.
pub fn stack_of(name: &str) -> Option<(String, usize)> {
    let (block, rest) = name.strip_suffix(".weight")?.split_once(".experts.")?;
    let (expert, projection) = rest.split_once('.')?;
    let known = PROJECTIONS.iter().find(|(own, short)| [*own, *short].contains(&projection));
    Some((stack_name(block, known?.0), expert.parse().ok()?))
}

fn stack_name(block: &str, projection: &str) -> String {
    format!("{block}.switch_mlp.{projection}.weight")
}

impl Checkpoint {
    /// All tensors as they are where experts are stacked, in the file's order: in place of experts that it
    /// has apart, or with gate and up in one, the stacks that [`Checkpoint::stacked`] makes of them.
    ///
    /// # Errors
    /// If the experts of a stack are not all there, or differ in shape or codec.
    pub fn tensors_stacked(&self) -> Result<Vec<TensorInfo>, Error> {
        let mut all: Vec<TensorInfo> = Vec::new();
        // Where a stack is in `all`, and whose matrices it has.
        let mut stacks: HashMap<String, (usize, Vec<usize>)> = HashMap::new();
        for info in self.tensors() {
            if let Some((name, expert)) = stack_of(&info.name) {
                let Some((at, experts)) = stacks.get_mut(&name) else {
                    let shape = [&[0], &info.shape[..]].concat();
                    stacks.insert(name.clone(), (all.len(), vec![expert]));
                    all.push(TensorInfo { name, shape, ..info.clone() });
                    continue;
                };
                experts.push(expert);
                let stack = &mut all[*at];
                if stack.shape[1..] != info.shape || stack.codec != info.codec {
                    let problem =
                        format!("has another shape or codec than other experts of '{name}'");
                    return Err(Error::tensor(self.path(), &info.name, problem));
                }
                stack.has_basis |= info.has_basis;
                stack.bytes = stack.bytes.saturating_add(info.bytes);
                stack.stored_names.extend_from_slice(&info.stored_names);
            } else {
                all.extend(self.parted(info)?);
            }
        }
        for (name, (at, mut experts)) in stacks {
            experts.sort_unstable();
            if let Some(expert) = (0..experts.len()).find(|&expert| experts[expert] != expert) {
                let count = experts.len();
                let problem = format!("has {count} matrices, but not one of expert {expert}");
                return Err(Error::tensor(self.path(), &name, problem));
            }
            all[at].shape[0] = experts.len();
        }
        Ok(all)
    }

    /// The stacks that a stack of several projections amounts to; others as they are.
    fn parted(&self, info: &TensorInfo) -> Result<Vec<TensorInfo>, Error> {
        let &[experts, rows, cols] = &info.shape[..] else { return Ok(vec![info.clone()]) };
        if let Some(block) = info.name.strip_suffix(".experts.down_proj") {
            return Ok(vec![TensorInfo { name: stack_name(block, "down_proj"), ..info.clone() }]);
        }
        let Some(block) = info.name.strip_suffix(".experts.gate_up_proj") else {
            return Ok(vec![info.clone()]);
        };
        if !rows.is_multiple_of(2) {
            let problem = format!("has {rows} rows, which are not as many for gate as for up");
            return Err(Error::tensor(self.path(), &info.name, problem));
        }
        let half = |projection: &str| TensorInfo {
            name: stack_name(block, projection),
            shape: vec![experts, rows / 2, cols],
            bytes: info.bytes / 2,
            ..info.clone()
        };
        Ok(vec![half("gate_proj"), half("up_proj")])
    }

    /// The stack `name` of `count` experts in one piece, copied together if the file has it otherwise.
    ///
    /// # Errors
    /// As [`Checkpoint::experts`]; if experts differ in shape or codec.
    pub fn stacked(&self, name: &str, count: usize) -> Result<PackedTensor, Error> {
        if self.info(name).is_some() {
            return self.tensor(name);
        }
        let wrong = |problem: String| Error::tensor(self.path(), name, problem);
        let experts = self.experts(name, count)?;
        let Some(first) = experts.first() else { return Err(wrong("has no experts".into())) };
        let (codec, rows, cols) = (first.codec(), first.rows(), first.cols());
        let mut joined: [Option<Vec<u8>>; 4] = Default::default();
        for expert in &experts {
            if (expert.codec(), expert.rows(), expert.cols()) != (codec, rows, cols) {
                return Err(wrong("has experts of several shapes or codecs".into()));
            }
            let stored = match expert.basis() {
                None => None,
                Some(Basis::Hadamard(_)) => Some("rotated"),
                Some(Basis::Order(_)) => Some("stored with their columns in another order"),
            };
            if let Some(stored) = stored {
                let problem = format!("has experts whose rows are {stored}; such are not stacked");
                return Err(wrong(problem));
            }
            let Parts { data, scales, biases, global_scale } = expert.parts();
            let parts = [Some(data), scales.as_ref(), biases.as_ref(), global_scale.as_ref()];
            for (joined, part) in joined.iter_mut().zip(parts) {
                if let Some(part) = part {
                    let joined = joined.get_or_insert_with(|| {
                        Vec::with_capacity(part.len().saturating_mul(count))
                    });
                    joined.extend_from_slice(part);
                }
            }
            // Mapped pages count as memory until they are given back.
            expert.release();
        }
        let [data, scales, biases, global_scale] = joined.map(|joined| joined.map(Bytes::new));
        let data = data.unwrap_or_else(|| Bytes::new(Vec::new()));
        let parts = Parts { data, scales, biases, global_scale };
        PackedTensor::new(codec, count, rows, cols, parts)
            .map_err(|error| wrong(format!("is wrong: {error}")))
    }

    /// The matrices of the stack `name`, one for each of `count` experts, whether the file has them
    /// stacked or apart. They are windows of the file as [`Checkpoint::tensor`] gives them.
    ///
    /// # Errors
    /// If the stack or one of its matrices is not there, there are more or fewer than `count`, or
    /// they cannot be read.
    pub fn experts(&self, name: &str, count: usize) -> Result<Vec<PackedTensor>, Error> {
        self.experts_from(name, count, |name| self.tensor(name))
    }

    /// As [`Checkpoint::experts`], with tensors from `read` in place of the file's, of the same shapes.
    ///
    /// # Errors
    /// As [`Checkpoint::experts`]; and those of `read`.
    pub fn experts_from<E: From<Error>>(
        &self,
        name: &str,
        count: usize,
        read: impl Fn(&str) -> Result<PackedTensor, E>,
    ) -> Result<Vec<PackedTensor>, E> {
        let stack = |name: &str| Ok::<_, E>(self.stack(name, read(name)?, count)?);
        if self.info(name).is_some() {
            return stack(name);
        }
        let missing = || Error::tensor(self.path(), name, "is not in the model");
        let stem = name.strip_suffix(".weight").and_then(|stem| stem.split_once(".switch_mlp."));
        let (block, projection) = stem.ok_or_else(missing)?;
        let names = PROJECTIONS.iter().find(|(known, _)| *known == projection);
        let (projection, short) = names.ok_or_else(missing)?;
        let experts = format!("{block}.experts");
        if *projection == "down_proj" {
            let name = format!("{experts}.down_proj");
            if self.info(&name).is_some() {
                return stack(&name);
            }
        } else {
            let name = format!("{experts}.gate_up_proj");
            if self.info(&name).is_some() {
                return Ok(self.halves(&name, stack(&name)?, *projection == "up_proj")?);
            }
        }
        let apart =
            |projection: &str, expert: usize| format!("{experts}.{expert}.{projection}.weight");
        let of_mixtral = self.info(&apart(short, 0)).is_some();
        let projection = if of_mixtral { short } else { projection };
        let superfluous = apart(projection, count);
        if self.info(&superfluous).is_some() {
            let problem = format!("is one expert more than the {count} of the config");
            return Err(Error::tensor(self.path(), &superfluous, problem).into());
        }
        (0..count).map(|expert| read(&apart(projection, expert))).collect()
    }

    /// A stack, taken apart.
    fn stack(
        &self,
        name: &str,
        stack: PackedTensor,
        count: usize,
    ) -> Result<Vec<PackedTensor>, Error> {
        let wrong = |problem: String| Error::tensor(self.path(), name, problem);
        if stack.experts() != count {
            let found = stack.experts();
            return Err(wrong(format!("has {found} experts, the config has {count}")));
        }
        let expert = |index| stack.expert(index);
        (0..count)
            .map(|index| expert(index).map_err(|error| wrong(format!("is wrong: {error}"))))
            .collect()
    }

    /// The first or the second half of the rows of each matrix of a stack.
    fn halves(
        &self,
        name: &str,
        stack: Vec<PackedTensor>,
        second: bool,
    ) -> Result<Vec<PackedTensor>, Error> {
        let half = |both: PackedTensor| {
            let (rows, middle) = (both.rows(), both.rows() / 2);
            if !rows.is_multiple_of(2) {
                let problem = format!("has {rows} rows, which are not as many for gate as for up");
                return Err(Error::tensor(self.path(), name, problem));
            }
            let rows = if second { middle..rows } else { 0..middle };
            let half = both.slice_rows(rows);
            half.map_err(|error| Error::tensor(self.path(), name, format!("is wrong: {error}")))
        };
        stack.into_iter().map(half).collect()
    }
}
