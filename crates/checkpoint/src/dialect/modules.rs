//! Stored tensors by the module that they belong to.

use std::collections::HashMap;

use crate::StoredTensor;

/// The tensors of a checkpoint, to be found by module and suffix.
pub(super) struct Modules<'a>(HashMap<&'a str, &'a StoredTensor>);

impl<'a> Modules<'a> {
    pub(super) fn new(stored: &'a [StoredTensor]) -> Self {
        Self(stored.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect())
    }

    /// The tensor `<module><suffix>`.
    pub(super) fn find(&self, module: &str, suffix: &str) -> Option<&'a StoredTensor> {
        self.0.get(format!("{module}{suffix}").as_str()).copied()
    }

    /// The module of a tensor whose name ends in one of `suffixes`, if `<module><marker>` is there as well.
    pub(super) fn of<'t>(
        &self,
        tensor: &'t StoredTensor,
        suffixes: &[&str],
        marker: &str,
    ) -> Option<&'t str> {
        let modules = suffixes.iter().filter_map(|suffix| tensor.name.strip_suffix(suffix));
        modules.into_iter().find(|module| self.find(module, marker).is_some())
    }
}
