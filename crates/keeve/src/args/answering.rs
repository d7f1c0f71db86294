//! Flags of commands that answer, and of all that run a model.

use std::path::PathBuf;

use clap::{ArgAction, ValueEnum};
use keeve::engine::ActivationCheck;
use keeve::{Activations, Codec, KvCodec, Speculation};

use super::values::{at_least_one, draft_tokens, threads, token_id};

/// How the engine uses the machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Compute {
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
    /// The most tokens of prompt and answer together [default: what the model was made for].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub max_context: Option<usize>,
    /// Prompt tokens computed in one step.
    #[arg(long, value_name = "TOKENS", default_value = "512", value_parser = at_least_one)]
    pub prefill_chunk: usize,
    /// Do not share computed beginnings between prompts.
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// How activations enter matrix products.
    #[arg(long, value_enum, default_value_t = ActivationMode::Auto)]
    pub activations: ActivationMode,
    /// Whether to tell what --activations fast or int8 cost MODEL, after a look at its predictions for a short
    /// text.
    #[arg(long, value_enum, value_name = "MODELS", default_value_t = CheckedModels::Small)]
    pub activation_check: CheckedModels,
    /// How keys and values of tokens are kept: f32, f16 or q8_0 [default: f32 with --activations float,
    /// else f16].
    #[arg(long, value_name = "CODEC")]
    pub kv_codec: Option<KvCodec>,
    /// Encode the matrices of linear layers anew in this codec as they load (int8, int8-g64, int8-g128,
    /// int4-g128, q4_k, ...) [default: they stay as they are].
    #[arg(long, value_name = "CODEC")]
    pub weights: Option<Codec>,
    /// Rotate the rows of these matrices, and activations, by Hadamard matrices: so outliers of activations, which
    /// cost int8 most of its accuracy, are spread.
    #[arg(long, requires = "weights")]
    pub rotate: bool,
    /// Report time, bytes and calls by operation.
    #[arg(long)]
    pub profile: bool,
}

/// What a GGUF model sees with.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Seeing {
    /// The GGUF file that a GGUF MODEL sees images with [default: one beside it with mmproj in its name].
    #[arg(long, value_name = "FILE.gguf")]
    pub mmproj: Option<PathBuf>,
}

/// How tokens are guessed ahead, to be checked several at a time. That changes no answer.
#[derive(Debug, Clone, clap::Args)]
pub struct Speculate {
    /// A small model with the same tokenizer that guesses what the model will say.
    #[arg(long, value_name = "MODEL")]
    pub draft_model: Option<String>,
    /// Where guesses come from.
    #[arg(long, value_enum, default_value_t = SpeculateMode::Auto)]
    pub speculate: SpeculateMode,
    /// Tokens that are guessed ahead, at most.
    #[arg(long, value_name = "TOKENS", default_value = "8", value_parser = draft_tokens)]
    pub draft_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpeculateMode {
    /// The draft model if there is one, else what the text repeats; as many as pay.
    Auto,
    /// What the text repeats, always as many as allowed.
    Ngram,
    /// The draft model, always as many as allowed.
    Draft,
    /// There are none.
    Off,
}

impl From<SpeculateMode> for Speculation {
    fn from(mode: SpeculateMode) -> Self {
        match mode {
            SpeculateMode::Auto => Self::Auto,
            SpeculateMode::Ngram => Self::Ngram,
            SpeculateMode::Draft => Self::Draft,
            SpeculateMode::Off => Self::Off,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActivationMode {
    /// 32-bit floats, weights exactly as stored.
    Float,
    /// Activations and weights rounded to bf16 for prompts; nothing rounded for generated tokens.
    Bf16,
    /// Quantized to 8 bits, products in integers; by row as the checkpoint says, where weights are by row.
    Int8,
    /// By product and phase what is fastest of all that costs no more accuracy than llama.cpp's int8 products
    /// of the same file.
    Auto,
    /// 8 bits with a scale for each 256 columns for prompts, each 32 for generated tokens: faster than auto for
    /// prompts, and rougher. What that costs MODEL is told.
    Fast,
}

impl From<ActivationMode> for Activations {
    fn from(mode: ActivationMode) -> Self {
        match mode {
            ActivationMode::Float => Self::Float,
            ActivationMode::Bf16 => Self::Bf16,
            ActivationMode::Int8 => Self::Int8,
            ActivationMode::Auto => Self::Auto,
            ActivationMode::Fast => Self::Fast,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckedModels {
    /// Of models with up to half a billion weights, where it takes about a second.
    Small,
    /// Of all models.
    Always,
    /// Of none.
    Never,
}

impl From<CheckedModels> for ActivationCheck {
    fn from(models: CheckedModels) -> Self {
        match models {
            CheckedModels::Small => Self::Small,
            CheckedModels::Always => Self::Always,
            CheckedModels::Never => Self::Never,
        }
    }
}

/// How tokens are chosen.
#[derive(Debug, Clone, clap::Args)]
pub struct Sampling {
    /// Temperature; 0 always takes the likeliest token.
    #[arg(long, alias = "temperature", default_value_t = 0.0)]
    pub temp: f32,
    /// Choose among this many likeliest tokens; 0: among all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Drop tokens less likely than this times the likeliest.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Divide the scores of tokens already in prompt or answer; 1: off.
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Lower the scores of tokens already in the answer by this.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Lower the scores of tokens by this for each time they are in the answer.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Seed of the random choices [default: a new one each time].
    #[arg(long)]
    pub seed: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "keeve run [OPTIONS] [MODEL] <PROMPT>\n       \
    keeve run [OPTIONS] [MODEL] -\n       \
    keeve run [OPTIONS] [MODEL] --prompt <PROMPT> | --prompt-ids <IDS>")]
pub struct Run {
    /// [MODEL] PROMPT. MODEL is a directory or a .gguf file; without one, the demo model that is
    /// part of keeve answers. PROMPT `-` is read from standard input.
    #[arg(value_name = "[MODEL] PROMPT", num_args = 0..=2)]
    pub positional: Vec<String>,
    /// The prompt.
    #[arg(long, conflicts_with = "prompt_ids")]
    pub prompt: Option<String>,
    /// The prompt as token ids, used as they are.
    #[arg(long, value_name = "IDS", value_delimiter = ',', num_args = 1, value_parser = token_id)]
    pub prompt_ids: Option<Vec<u32>>,
    /// Show the model this image (PNG, JPEG or WebP); may be given several times, and the prompt follows
    /// the images.
    #[arg(
        long, value_name = "FILE", action = ArgAction::Append,
        conflicts_with_all = ["prompt_ids", "no_chat_template"]
    )]
    pub image: Vec<PathBuf>,
    /// A system prompt.
    #[arg(long, conflicts_with_all = ["prompt_ids", "no_chat_template"])]
    pub system: Option<String>,
    /// Give the prompt to the model as it is, without its chat template.
    #[arg(long)]
    pub no_chat_template: bool,
    /// Use this chat template instead of the model's own: a file, or the name of one of several that the
    /// model has.
    #[arg(long, value_name = "FILE.jinja", conflicts_with_all = ["prompt_ids", "no_chat_template"])]
    pub chat_template: Option<String>,
    /// Further variables for the chat template, as a JSON object.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["prompt_ids", "no_chat_template"])]
    pub chat_template_args: Option<String>,
    /// The most tokens to generate.
    #[arg(long, short = 'n', value_name = "TOKENS", default_value_t = 512)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub sampling: Sampling,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT", action = ArgAction::Append)]
    pub stop: Vec<String>,
    /// Go on after the model's end tokens.
    #[arg(long)]
    pub ignore_eos: bool,
    #[command(flatten)]
    pub speculate: Speculate,
    #[command(flatten)]
    pub seeing: Seeing,
    #[command(flatten)]
    pub compute: Compute,
}

#[derive(Debug, clap::Args)]
pub struct Chat {
    /// A directory, a .gguf file or a model on the hub [default: the demo model].
    pub model: Option<String>,
    /// A system prompt.
    #[arg(long)]
    pub system: Option<String>,
    /// Use this chat template instead of the model's own: a file, or the name of one of several that the
    /// model has.
    #[arg(long, value_name = "FILE.jinja")]
    pub chat_template: Option<String>,
    /// Further variables for the chat template, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub chat_template_args: Option<String>,
    /// The most tokens of a reply.
    #[arg(long, short = 'n', value_name = "TOKENS", default_value = "2048", value_parser = at_least_one)]
    pub max_tokens: usize,
    /// The most tokens of the conversation that the model sees: when they are reached, the oldest
    /// messages leave (never the system prompt) [default: what the model was made for].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, conflicts_with = "max_context")]
    pub max_kv_size: Option<usize>,
    /// Do not keep what is typed, and do not read what was kept.
    #[arg(long)]
    pub no_history: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub speculate: Speculate,
    #[command(flatten)]
    pub seeing: Seeing,
    #[command(flatten)]
    pub compute: Compute,
}
