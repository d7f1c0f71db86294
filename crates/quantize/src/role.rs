//! The part that a weight plays in a model, read from its Hugging Face name.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// What a weight does. Presets and recipes choose codecs by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The embedding table, where it is not also the head.
    Embedding,
    /// The output matrix: `lm_head`, or the embedding table of a model without one.
    Head,
    /// `q_proj`.
    Query,
    /// `k_proj`.
    Key,
    /// `v_proj`.
    Value,
    /// `o_proj`.
    Out,
    /// What enters linear attention.
    StateIn,
    /// What leaves linear attention.
    StateOut,
    /// `gate_proj`.
    Gate,
    /// `up_proj`.
    Up,
    /// `down_proj`.
    Down,
    /// `gate_proj` and `up_proj` of routed experts.
    ExpertIn,
    /// `down_proj` of routed experts.
    ExpertDown,
    /// `gate_proj` and `up_proj` of experts that every token passes.
    SharedIn,
    /// `down_proj` of experts that every token passes.
    SharedDown,
    /// Another matrix of the language model.
    Other,
    /// The choice of experts. Always float.
    Router,
    /// A matrix of what sees or hears. Float unless asked for.
    Vision,
    /// Norms, biases, convolutions, tables of positions. Always float.
    Plain,
}

impl Role {
    /// All roles with the names that recipes use.
    pub const NAMES: [(Self, &'static str); 19] = [
        (Self::Embedding, "embedding"),
        (Self::Head, "head"),
        (Self::Query, "query"),
        (Self::Key, "key"),
        (Self::Value, "value"),
        (Self::Out, "out"),
        (Self::StateIn, "state-in"),
        (Self::StateOut, "state-out"),
        (Self::Gate, "gate"),
        (Self::Up, "up"),
        (Self::Down, "down"),
        (Self::ExpertIn, "expert-in"),
        (Self::ExpertDown, "expert-down"),
        (Self::SharedIn, "shared-in"),
        (Self::SharedDown, "shared-down"),
        (Self::Other, "other"),
        (Self::Router, "router"),
        (Self::Vision, "vision"),
        (Self::Plain, "plain"),
    ];

    /// The role of the tensor `name` (Hugging Face's) with `dimensions` dimensions. `tied`: the model has
    /// no head of its own.
    pub fn of(name: &str, dimensions: usize, tied: bool) -> Self {
        let module = name.strip_suffix(".weight");
        let path = module.unwrap_or(name);
        let parts: Vec<&str> = path.split('.').collect();
        let last = parts.last().copied().unwrap_or_default();
        let has = |part: &str| parts.contains(&part);
        let routed = has("experts") || has("switch_mlp");
        let matrix = dimensions == 2 || dimensions == 3 && routed;
        if !matrix || module.is_none() && !routed || last.contains("norm") || last == "bias" {
            return Self::Plain;
        }
        if parts.iter().any(|part| is_tower(part)) {
            return if last.contains("embed") { Self::Plain } else { Self::Vision };
        }
        let shared = has("shared_expert") || has("shared_experts");
        match last {
            "lm_head" => Self::Head,
            "embed_tokens" if tied => Self::Head,
            "embed_tokens" => Self::Embedding,
            "gate" | "router" | "shared_expert_gate" => Self::Router,
            "down_proj" | "w2" if routed => Self::ExpertDown,
            _ if routed => Self::ExpertIn,
            "down_proj" if shared => Self::SharedDown,
            _ if shared => Self::SharedIn,
            "out_proj" if has("linear_attn") => Self::StateOut,
            _ if has("linear_attn") => Self::StateIn,
            "q_proj" => Self::Query,
            "k_proj" => Self::Key,
            "v_proj" => Self::Value,
            "o_proj" => Self::Out,
            "gate_proj" => Self::Gate,
            "up_proj" => Self::Up,
            "down_proj" => Self::Down,
            _ => Self::Other,
        }
    }

    /// Whether a tensor in this role may be packed without being asked for by name.
    pub fn is_packed(self) -> bool {
        !matches!(self, Self::Router | Self::Vision | Self::Plain)
    }

    /// The name that recipes use.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name)
    }
}

/// Whether a part of a name stands for what sees or hears.
fn is_tower(part: &str) -> bool {
    ["vision", "visual", "audio", "multi_modal_projector", "connector"]
        .iter()
        .any(|tower| part.contains(tower))
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(role, _)| *role).ok_or_else(|| Error::Role(name.into()))
    }
}

/// The number of the layer that a tensor belongs to: the first number in its name.
pub fn layer(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_roles() {
        for (name, dimensions, role) in [
            ("model.embed_tokens.weight", 2, Role::Embedding),
            ("lm_head.weight", 2, Role::Head),
            ("model.layers.3.self_attn.v_proj.weight", 2, Role::Value),
            ("model.layers.3.self_attn.v_proj.bias", 1, Role::Plain),
            ("model.layers.3.self_attn.q_norm.weight", 1, Role::Plain),
            ("model.layers.3.mlp.down_proj.weight", 2, Role::Down),
            ("model.layers.3.mlp.gate.weight", 2, Role::Router),
            ("model.layers.3.mlp.switch_mlp.down_proj.weight", 3, Role::ExpertDown),
            ("model.layers.3.mlp.experts.7.up_proj.weight", 2, Role::ExpertIn),
            ("model.layers.3.mlp.experts.gate_up_proj", 3, Role::ExpertIn),
            ("model.layers.3.mlp.shared_expert.down_proj.weight", 2, Role::SharedDown),
            ("model.layers.3.mlp.shared_expert_gate.weight", 2, Role::Router),
            ("model.layers.3.linear_attn.conv1d.weight", 3, Role::Plain),
            ("model.layers.3.linear_attn.out_proj.weight", 2, Role::StateOut),
            ("model.visual.blocks.0.mlp.linear_fc1.weight", 2, Role::Vision),
            ("model.visual.pos_embed.weight", 2, Role::Plain),
            ("vision_tower.patch_embed.proj.weight", 5, Role::Plain),
        ] {
            assert_eq!(Role::of(name, dimensions, false), role, "{name}");
        }
        assert_eq!(Role::of("model.embed_tokens.weight", 2, true), Role::Head);
        assert_eq!(layer("model.layers.12.mlp.experts.7.up_proj.weight"), Some(12));
        assert_eq!(layer("lm_head.weight"), None);
    }

    #[test]
    fn names_of_roles_are_read_back() {
        for (role, name) in Role::NAMES {
            assert_eq!(name.parse::<Role>().unwrap(), role);
            assert_eq!(role.name(), name);
        }
    }
}
