//! The fields of a config's quantization block.

use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::error::shown;

/// Fields that llm-awq and AutoAWQ call otherwise (vllm-project/vllm `model_executor/layers/quantization/awq.py`).
const OTHER_NAMES: [(&str, &str); 2] = [("bits", "w_bit"), ("group_size", "q_group_size")];

/// A quantization block, and where it stands.
pub(super) struct Block<'a> {
    pub path: &'a Path,
    /// The field of the file that holds the block; empty if it is all of the file.
    pub field: &'a str,
    pub block: &'a Value,
}

impl<'a> Block<'a> {
    /// The value of a field, under whatever name; none if it is null.
    pub(super) fn given(&self, key: &str) -> Option<&'a Value> {
        let other = OTHER_NAMES.iter().find(|(usual, _)| *usual == key).map(|(_, other)| *other);
        let value = |key: &str| self.block.get(key).filter(|value| !value.is_null());
        value(key).or_else(|| value(other?))
    }

    /// What to say of a field whose value has a problem.
    pub(super) fn problem(&self, key: &str, problem: &str) -> Error {
        let value = self.given(key).map_or("missing".into(), |value| shown(&value.to_string()));
        let field = match self.field {
            "" => key.into(),
            field => format!("{field}.{key}"),
        };
        Error::field(self.path, &field, format!("is {value}, {problem}"))
    }

    /// What to say of a field whose value is another than expected.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        self.problem(key, &format!("expected {expected}"))
    }

    /// `group_size`: the columns in a group, or `None` for all of them, as AWQ and GPTQ have it.
    ///
    /// # Errors
    /// If it is neither -1 nor a count.
    pub(super) fn group(&self) -> Result<Option<usize>, Error> {
        match self.given("group_size").map(Value::as_i64) {
            Some(Some(-1)) => Ok(None),
            Some(Some(group @ 1..)) => Ok(usize::try_from(group).ok()),
            _ => Err(self.wrong("group_size", "-1 or a count of columns")),
        }
    }
}
