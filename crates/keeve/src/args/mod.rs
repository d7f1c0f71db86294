//! The command line: every flag once.

mod making;
mod values;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use keeve::{Activations, Codec, Isa, KvCodec, Speculation};

pub use self::making::{Alpha, Calibrate, Convert, FolderLayout, Quantize, Verify};
use self::values::{at_least_one, draft_tokens, named_model, seconds, threads, token_id};

/// Runs and makes language models with packed low-bit weights.
#[derive(Debug, Parser)]
#[command(name = "keeve", version = version(), arg_required_else_help = true)]
pub struct Args {
    /// Print exactly one JSON object on standard output, and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no summary on standard error.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Print what models and files say on standard output as it is: control characters are not escaped.
    #[arg(long, global = true)]
    pub raw: bool,
    #[command(flatten)]
    pub hub: Hub,
    #[command(subcommand)]
    pub command: Command,
}

fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let tiers: Vec<_> = Isa::found().map(Isa::name).collect();
        format!("{} (instruction sets found: {})", env!("CARGO_PKG_VERSION"), tiers.join(", "))
    });
    &VERSION
}

/// How models are had from the Hugging Face hub. A MODEL that is no path is one there: `owner/name`,
/// or `owner/name:FILE.gguf` or `owner/name:LABEL` (such as `Q4_K_M`) where there are several.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Hub {
    /// Branch, tag or commit of a model on the hub [default: main].
    #[arg(long, global = true, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Use only what is in the cache of the hub.
    #[arg(long, global = true)]
    pub offline: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt.
    Run(Run),
    /// Talk with a model.
    Chat(Chat),
    /// Answer requests over HTTP, as OpenAI's and Anthropic's clients send them.
    Serve(Serve),
    /// Say what a model is made of.
    Inspect(Inspect),
    /// Write the logits of every position of a prompt.
    Logits(Logits),
    /// Decode one tensor.
    Tensor(Tensor),
    /// Turn text into token ids.
    Tokenize(Tokenize),
    /// Show the prompt that a conversation becomes.
    Render(Render),
    /// Pack a model's weights.
    Quantize(Quantize),
    /// Write a model in another format, its weights as they are.
    Convert(Convert),
    /// Find out which inputs of a model's weights matter: an importance matrix.
    Calibrate(Calibrate),
    /// Check that a model is whole.
    Verify(Verify),
    /// Measure how well models predict a text, and how far they are from a reference.
    Eval(Eval),
    /// Measure a model's speed, and how near it is to the machine's limits.
    Bench(Bench),
    /// Download a model from the Hugging Face hub.
    Download(Download),
    /// List the models in the cache of the hub.
    List,
    /// Remove models from the cache of the hub.
    Rm(Rm),
    /// Print a completion script for a shell.
    Completions(Completions),
}

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
    /// How keys and values of tokens are kept: f32, f16 or q8_0 [default: f32 with --activations float,
    /// else f16].
    #[arg(long, value_name = "CODEC")]
    pub kv_codec: Option<KvCodec>,
    /// Encode the matrices of linear layers anew in this codec as they load (int8, int8-g64, int8-g128,
    /// int4-g128, q4_k, ...) [default: they stay as they are].
    #[arg(long, value_name = "CODEC")]
    pub weights: Option<Codec>,
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
    /// By codec and phase.
    Auto,
}

impl From<ActivationMode> for Activations {
    fn from(mode: ActivationMode) -> Self {
        match mode {
            ActivationMode::Float => Self::Float,
            ActivationMode::Bf16 => Self::Bf16,
            ActivationMode::Int8 => Self::Int8,
            ActivationMode::Auto => Self::Auto,
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
#[command(args_override_self = true)]
pub struct Serve {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// The MODEL of a config file.
    #[arg(long, hide = true, value_name = "PATH")]
    pub default_model: Option<String>,
    /// Take settings from this TOML or YAML file: a key is a flag's name without its dashes, `model` the
    /// MODEL, and the table `models` has further ones by name. YAML may also be the config.yaml of
    /// vlm_service (`model_name_or_path`, `sampling`, `server`, `w8a8`). Flags prevail.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print all settings as such a file, and do nothing else.
    #[arg(long)]
    pub print_config: bool,
    /// A further model under this name, loaded when it is first asked for; may be given several times.
    #[arg(long = "model", value_name = "NAME=PATH", action = ArgAction::Append, value_parser = named_model)]
    pub models: Vec<(String, String)>,
    /// A further name for MODEL; may be given several times.
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub alias: Vec<String>,
    /// The address to listen at. With another than this machine's own, use a key.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The port; 0: any that is free.
    #[arg(long, default_value_t = 8341)]
    pub port: u16,
    /// A file with keys, one a line (lines that begin with # are comments); requests must have one of
    /// them. The variable KEEVE_API_KEY holds a further one.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let web pages of this origin (or `*`) use the server; may be given several times.
    #[arg(long, value_name = "ORIGIN", action = ArgAction::Append)]
    pub cors_origin: Vec<String>,
    /// Requests that are computed at the same time.
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = at_least_one)]
    pub max_sequences: usize,
    /// Requests that may wait; more are refused.
    #[arg(long, value_name = "COUNT", default_value_t = 128)]
    pub max_queue: usize,
    /// The longest body of a request, in MiB.
    #[arg(long, value_name = "MIB", default_value = "16", value_parser = at_least_one)]
    pub max_body: usize,
    /// Images of one request.
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = at_least_one)]
    pub max_images: usize,
    /// Fetch images from addresses that requests name. Only public addresses are connected to.
    #[arg(long)]
    pub allow_remote_images: bool,
    /// Connections at a time.
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = at_least_one)]
    pub max_connections: usize,
    /// Seconds after which an answer is given up; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub request_timeout: u64,
    /// Seconds that running requests have to end once the server is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_timeout: u64,
    /// Unload a model that nobody has used for so many seconds; it is loaded again when needed.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub ttl: Option<u64>,
    /// Use this chat template instead of MODEL's own: a file, or the name of one of several that MODEL
    /// has.
    #[arg(long, value_name = "FILE.jinja")]
    pub chat_template: Option<String>,
    /// The most MiB that the files of loaded models may have together; idle ones make room.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub memory_budget: Option<u64>,
    #[command(flatten)]
    pub sampling: DefaultSampling,
    #[command(flatten)]
    pub speculate: Speculate,
    #[command(flatten)]
    pub seeing: Seeing,
    #[command(flatten)]
    pub compute: Compute,
}

/// How tokens are chosen where a request does not say.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DefaultSampling {
    /// Temperature where a request has none [default: what the model recommends].
    #[arg(long, alias = "temperature")]
    pub temp: Option<f32>,
    /// Choose among this many likeliest tokens where a request does not say; 0: among all [default: what the
    /// model recommends].
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have this probability, where a request does not say
    /// [default: what the model recommends].
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this times the likeliest, where a request does not say [default: what the
    /// model recommends].
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Divide the scores of tokens already in prompt or answer, where a request does not say [default: what
    /// the model recommends].
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// The most tokens to generate where a request does not say [default: as many as fit].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub max_tokens: Option<usize>,
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

#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Print the graph that the model becomes.
    #[arg(long)]
    pub graph: bool,
    #[command(flatten)]
    pub seeing: Seeing,
}

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
#[command(override_usage = "keeve tensor [OPTIONS] [MODEL] <NAME>")]
pub struct Tensor {
    /// [MODEL] NAME: a directory or a .gguf file [default: the demo model], and the tensor's
    /// Hugging Face name, as `keeve inspect --tensors` lists it.
    #[arg(value_name = "[MODEL] NAME", num_args = 1..=2, required = true)]
    pub positional: Vec<String>,
    /// The safetensors file to write: the tensor decoded to f32, as `value`.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Render {
    /// A directory, a .gguf file or a model on the hub [default: the demo model]. Of a directory or file, only
    /// what there is to text is read.
    pub model: Option<String>,
    /// The conversation, as JSON: a list of messages, or an object with `messages` and, if need be, `tools` and
    /// `documents`; `-`: standard input.
    #[arg(long, value_name = "FILE.json")]
    pub messages: PathBuf,
    /// Tools, as a JSON list in OpenAI's form; `-`: standard input.
    #[arg(long, value_name = "FILE.json")]
    pub tools: Option<PathBuf>,
    /// Use this chat template instead of the model's own: a file, or the name of one of several that the
    /// model has.
    #[arg(long, value_name = "FILE.jinja")]
    pub chat_template: Option<String>,
    /// Further variables for the chat template, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub chat_template_args: Option<String>,
    /// Do not end with the beginning of the assistant's answer.
    #[arg(long)]
    pub no_generation_prompt: bool,
}

#[derive(Debug, clap::Args)]
pub struct Tokenize {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// The text; `-` or none: all of standard input.
    pub text: Option<String>,
    /// The text, where no MODEL is named.
    #[arg(long = "text", value_name = "TEXT", conflicts_with = "text")]
    pub text_flag: Option<String>,
    /// Leave out the tokens that the tokenizer puts around a text, such as BOS.
    #[arg(long)]
    pub no_special: bool,
    /// Take the names of special tokens in the text as text.
    #[arg(long)]
    pub plain: bool,
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
    /// `+imatrix` after a name makes it with --imatrix, `@float`, `@bf16`, `@int8` or `@auto` says how
    /// activations enter its products. `presets` and `codecs` stand for all of them.
    #[arg(long = "as", value_name = "NAME[+imatrix][@MODE]", value_delimiter = ',')]
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
    /// Tokens that the model sees at a time [default: 2048, with --like llama.cpp 512].
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

#[derive(Debug, clap::Args)]
pub struct Download {
    /// A model on the hub: owner/name, or owner/name:FILE.gguf or owner/name:LABEL.
    pub model: String,
    /// The GGUF file, or a label in its name such as Q4_K_M.
    #[arg(long, value_name = "FILE|LABEL")]
    pub file: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Models as `keeve list` names them.
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        super::Args::command().debug_assert();
    }
}
