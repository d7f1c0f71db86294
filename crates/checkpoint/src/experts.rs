//! The matrices of experts, however a file holds them.
//!
//! The canonical name is that of MLX's stack, `B.switch_mlp.gate_proj.weight` for a block `B`
//! (ml-explore/mlx-lm `mlx_lm/models/switch_layers.py`). Hugging Face has a tensor for each expert,
//! `B.experts.3.gate_proj.weight` (for Mixtral `w1`, `w3` and `w2` for gate, up and down), or since
//! transformers 5 `B.experts.gate_up_proj`, a stack with the rows of gate before those of up, and
//! `B.experts.down_proj` (huggingface/transformers `conversion_mapping.py`).

use keeve_codec::PackedTensor;

use crate::{Checkpoint, Error};

/// Names of a projection: canonical, and Mixtral's.
const PROJECTIONS: [(&str, &str); 3] =
    [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")];

impl Checkpoint {
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
