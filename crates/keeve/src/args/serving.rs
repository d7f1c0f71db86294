//! Flags of `keeve serve`.

use std::path::PathBuf;

use clap::{ArgAction, ValueEnum};

use super::answering::{Compute, Seeing, Speculate};
use super::values::{at_least_one, named_model, origin};

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
    #[arg(long, value_name = "ORIGIN", action = ArgAction::Append, value_parser = origin)]
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
    /// What is logged on standard error, a line each; with --quiet nothing is.
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Warn)]
    pub log_level: LogLevel,
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

/// What a server logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// Also what may not be as it was meant: fields of requests that were left alone.
    Warn,
    /// Also which models are loaded and unloaded.
    Info,
    /// Also what was found out about models.
    Debug,
}
