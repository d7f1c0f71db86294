//! The architectures of GGUF files that keeve knows, and in what they differ.
//!
//! Names: ggml-org/llama.cpp `gguf-py/gguf/constants.py` and `tensor_mapping.py`; what the converter
//! changes: its `conversion/` (one file for each family).

/// Names of modules: ggml's and Hugging Face's.
type Names = &'static [(&'static str, &'static str)];

/// An architecture by the name that ggml has for it.
#[derive(Debug)]
pub(super) struct Architecture {
    pub ggml: &'static str,
    /// Hugging Face's.
    pub model_type: &'static str,
    /// Whether the rows of q and k were moved within each head.
    pub permuted: bool,
    /// Whether the converter added 1 to norms.
    pub plus_one: bool,
    /// The activation of the feed-forward part; it is not stored.
    pub activation: &'static str,
    /// Modules of a layer that are called otherwise than in llama, or that it lacks.
    pub layer: Names,
    /// What is known of experts, which not all have.
    pub experts: Option<ExpertNames>,
}

/// Experts of an architecture.
#[derive(Debug)]
pub(super) struct ExpertNames {
    /// Whether the weights of the chosen ones are divided by their sum; it is not stored.
    pub normalize: bool,
    /// Modules of a layer.
    pub layer: Names,
    /// `model_type` of those with experts where those without are called otherwise.
    pub model_type: &'static str,
}

const PLAIN: Architecture = Architecture {
    ggml: "",
    model_type: "",
    permuted: false,
    plus_one: false,
    activation: "silu",
    layer: &[],
    experts: None,
};

const GEMMA: Architecture =
    Architecture { plus_one: true, activation: "gelu_pytorch_tanh", ..PLAIN };

/// Norms around both parts of a layer.
const NORMS_AROUND: Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Norms after both parts.
const NORMS_AFTER: Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const FUSED: Names = &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];

const EXPERTS: Names = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

const MIXTRAL: Names = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
];

const fn experts(normalize: bool, model_type: &'static str) -> Option<ExpertNames> {
    Some(ExpertNames { normalize, layer: EXPERTS, model_type })
}

static ARCHITECTURES: [Architecture; 15] = [
    Architecture { ggml: "gemma", model_type: "gemma", ..GEMMA },
    Architecture { ggml: "gemma2", model_type: "gemma2", layer: NORMS_AROUND, ..GEMMA },
    // Hugging Face's "gemma3" is the model that also sees.
    Architecture { ggml: "gemma3", model_type: "gemma3_text", layer: NORMS_AROUND, ..GEMMA },
    Architecture { ggml: "granite", model_type: "granite", permuted: true, ..PLAIN },
    Architecture {
        ggml: "llama",
        model_type: "llama",
        permuted: true,
        experts: Some(ExpertNames { normalize: true, layer: MIXTRAL, model_type: "mixtral" }),
        ..PLAIN
    },
    Architecture { ggml: "olmo2", model_type: "olmo2", layer: NORMS_AFTER, ..PLAIN },
    Architecture { ggml: "olmoe", model_type: "olmoe", experts: experts(false, "olmoe"), ..PLAIN },
    Architecture { ggml: "phi3", model_type: "phi3", layer: FUSED, ..PLAIN },
    Architecture { ggml: "qwen2", model_type: "qwen2", ..PLAIN },
    Architecture {
        ggml: "qwen2moe",
        model_type: "qwen2_moe",
        experts: experts(false, "qwen2_moe"),
        ..PLAIN
    },
    Architecture { ggml: "qwen3", model_type: "qwen3", ..PLAIN },
    Architecture {
        ggml: "qwen3moe",
        model_type: "qwen3_moe",
        experts: experts(true, "qwen3_moe"),
        ..PLAIN
    },
    // The language model; what sees is a file of its own.
    Architecture { ggml: "qwen3vl", model_type: "qwen3_vl_text", ..PLAIN },
    Architecture {
        ggml: "qwen3vlmoe",
        model_type: "qwen3_vl_moe_text",
        experts: experts(true, "qwen3_vl_moe_text"),
        ..PLAIN
    },
    Architecture { ggml: "smollm3", model_type: "smollm3", permuted: true, ..PLAIN },
];

/// The architecture that ggml calls so, if keeve knows it.
pub(super) fn known(ggml: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|known| known.ggml == ggml)
}

impl Architecture {
    /// Names of the modules of a layer that are not called as in llama.
    pub fn layer_names(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        let experts = self.experts.as_ref().map_or(&[][..], |experts| experts.layer);
        self.layer.iter().chain(experts)
    }

    /// Hugging Face's name for a module of a layer that is not called as in llama.
    pub fn own(&self, module: &str) -> Option<&'static str> {
        self.layer_names().find(|(ggml, _)| *ggml == module).map(|(_, name)| *name)
    }
}
