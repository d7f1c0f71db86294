//! Flags of commands that measure models.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use keeve::{Codec, KvCodec};

use super::answering::{ActivationMode, Compute, Seeing};
use super::values::{RoundingRule, at_least_one, rounding_rule, seconds, threads, token_id};

#[derive(Debug, clap::Args)]
pub struct Logits {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// The prompt as token ids.
    #[arg(
        long, value_name = "IDS", value_delimiter = ',', num_args = 1, required = true,
        value_parser = token_id
    )]
    pub prompt_ids: Vec<u32>,
    /// The safetensors file to write: one f32 tensor `logits`, positions by vocabulary.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub compute: Compute,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "keeve bench [OPTIONS] [MODEL]\n       \
    keeve bench [OPTIONS] --config <NAME|FILE> [--codec <NAME>]\n       \
    keeve bench [OPTIONS] --ops [--codec <NAMES>]\n       \
    keeve bench [OPTIONS] --server <URL>")]
pub struct Bench {
    /// A directory or a .gguf file [default: the demo model].
    #[arg(conflicts_with_all = ["config", "ops", "server"])]
    pub model: Option<String>,
    /// Random weights of the shape of a well-known model (qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b,
    /// qwen3-vl-2b, qwen3-vl-4b,
    /// llama-3.2-1b, 4b-12l) or of a config.json.
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "ops")]
    pub config: Option<String>,
    /// Codec of the random weights, or a preset that mixes several as llama.cpp does (q2_k, q3_k_m,
    /// q4_k_m, q5_k_m, q6_k, q8) [default: q4_k_m]. With --ops, a list of codecs [default: all that
    /// have kernels].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub codec: Vec<String>,
    /// Codec of the head, where it should be another.
    #[arg(long, value_name = "NAME", requires = "config")]
    pub head_codec: Option<String>,
    /// Measure single products of 10240x2560 and 2560x10240 weights instead of a model.
    #[arg(long)]
    pub ops: bool,
    /// Put the server at this address under load: clients that stream answers of -n tokens, greedily.
    /// The variable KEEVE_API_KEY holds its key, where it needs one.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "ops", "profile"])]
    pub server: Option<String>,
    /// With --server: clients at the same time.
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = at_least_one, requires = "server")]
    pub clients: usize,
    /// With --server: questions in all.
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = at_least_one, requires = "server")]
    pub requests: usize,
    /// With --server: go on asking for so many seconds instead.
    #[arg(long, value_name = "SECONDS", requires = "server", conflicts_with = "requests")]
    pub seconds: Option<u64>,
    /// With --server: share of the questions whose client hangs up in the middle.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, requires = "server")]
    pub hang_up: f64,
    /// With --ops: the most rows of activations; they are the powers of two up to this.
    #[arg(long, value_name = "ROWS", default_value = "8192", value_parser = clap::value_parser!(u32).range(1..=8192), requires = "ops")]
    pub max_rows: u32,
    /// With --ops: these numbers of rows of activations, instead of the powers of two.
    #[arg(long, value_name = "ROWS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=8192), requires = "ops", conflicts_with = "max_rows")]
    pub rows: Vec<u32>,
    /// With --ops: how many seconds a single measurement may take before it counts with the runs that it
    /// has, if only one.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds, requires = "ops")]
    pub patience: Duration,
    /// Prompt tokens; 0: prompts are not measured.
    #[arg(long, short = 'p', value_name = "TOKENS", default_value_t = 512)]
    pub prompt: usize,
    /// Images of 1,024 x 1,024 pixels in the prompt, for models that see. Their tokens (1,024 each) are
    /// among its tokens.
    #[arg(long, value_name = "COUNT", default_value_t = 0, conflicts_with_all = ["ops", "server"])]
    pub images: usize,
    /// Generated tokens; 0: generation is not measured.
    #[arg(long, short = 'n', value_name = "TOKENS", default_value_t = 64)]
    pub generate: usize,
    /// Tokens in the context before the generated ones.
    #[arg(long, short = 'd', value_name = "TOKENS", default_value_t = 0)]
    pub depth: usize,
    /// Temperature at which tokens are sampled, greedily at 0.
    #[arg(long, value_name = "T", default_value_t = 0.0, conflicts_with_all = ["ops", "server"])]
    pub temp: f32,
    /// Sample from the likeliest tokens that have this share of the probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, conflicts_with_all = ["ops", "server"])]
    pub top_p: f32,
    /// How often each measurement is made (with --ops: at least).
    #[arg(long, short = 'r', value_name = "TIMES", default_value = "5", value_parser = at_least_one)]
    pub repetitions: usize,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
    /// Prompt tokens computed in one step.
    #[arg(long, value_name = "TOKENS", default_value = "512", value_parser = at_least_one)]
    pub prefill_chunk: usize,
    /// How activations enter matrix products [default: as other commands; with --ops: every mode].
    #[arg(long, value_enum)]
    pub activations: Option<ActivationMode>,
    /// How keys and values of tokens are kept: f32, f16 or q8_0 [default: f32 with --activations float,
    /// else f16].
    #[arg(long, value_name = "CODEC", conflicts_with = "ops")]
    pub kv_codec: Option<KvCodec>,
    /// Encode the matrices of MODEL anew in this codec as they load.
    #[arg(long, value_name = "CODEC", conflicts_with_all = ["config", "ops"])]
    pub weights: Option<Codec>,
    /// Rotate the rows of these matrices, and activations, by Hadamard matrices.
    #[arg(long, requires = "weights")]
    pub rotate: bool,
    /// Report time, bytes and calls by operation.
    #[arg(long, conflicts_with = "ops")]
    pub profile: bool,
    /// Draw the result.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Eval {
    /// Directories or .gguf files; a table row for each [default: the demo model].
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// The text, as UTF-8.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Judge each model as it would be with these presets or codecs, made in memory: a table row for each.
    /// `+imatrix` after a name makes it with --imatrix, `+rotate` rotates int8 and int4 rows, `@float`, `@bf16`, `@int8`, `@auto` or `@fast` says how
    /// activations enter its products. `presets` and `codecs` stand for all of them.
    #[arg(long = "as", value_name = "NAME[+imatrix][+rotate][@MODE]", value_delimiter = ',')]
    pub variants: Vec<String>,
    /// An importance matrix for `--as NAME+imatrix`.
    #[arg(long, value_name = "FILE", requires = "variants")]
    pub imatrix: Option<PathBuf>,
    /// Draw bits a weight against divergence from the reference, the best ones marked.
    #[arg(long, value_name = "FILE.svg", requires = "reference")]
    pub plot: Option<PathBuf>,
    /// The model that the others are compared with, such as the float original: Kullback-Leibler
    /// divergence and how often the likeliest token is the same.
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<String>,
    /// Judge so many at a time beside one run of the reference: faster, but all of them are in memory.
    #[arg(long, value_name = "MODELS", default_value_t = 1, requires = "reference",
        value_parser = at_least_one)]
    pub together: usize,
    /// Measure what rounding in products costs MODEL instead: the divergence from the same weights with
    /// nothing rounded, for prompts and generated tokens apart, in these modes (as --activations has them) or
    /// by these schemes (block, panel, fine, finer, bf16). Windows are cut as by --like llama.cpp.
    /// With --weights, the matrices are encoded anew, and compared with what they were.
    #[arg(long, value_name = "MODES", value_delimiter = ',', num_args = 0..=1,
        require_equals = true, default_missing_value = "auto,fast,bf16,int8", value_parser = rounding_rule,
        conflicts_with_all = ["variants", "reference", "stride", "plot"])]
    pub rounding: Vec<RoundingRule>,
    /// With --rounding: one kind of product after the other as well, the others left in floats, the worst
    /// first.
    #[arg(long, requires = "rounding")]
    pub by_product: bool,
    /// Tokens that the model sees at a time [default: 2048, with --like llama.cpp 512, with --rounding 256].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub window: Option<usize>,
    /// Tokens between the beginnings of windows; the overlap gives context and is not judged again
    /// [default: the window, so that nothing overlaps].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, conflicts_with = "like")]
    pub stride: Option<usize>,
    /// Cut the text as another program does, so that numbers can be compared.
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub like: Option<Like>,
    /// Judge only so many predictions, from the beginning.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub max_tokens: Option<usize>,
    #[command(flatten)]
    pub seeing: Seeing,
    #[command(flatten)]
    pub compute: Compute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Like {
    /// llama-perplexity: whole windows, in each of which only the second half is judged.
    #[value(name = "llama.cpp")]
    LlamaCpp,
}
