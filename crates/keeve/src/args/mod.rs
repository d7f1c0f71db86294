//! The command line: every flag once.

mod answering;
mod making;
mod measuring;
mod serving;
mod values;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};
use keeve::Isa;

pub use self::answering::{
    ActivationMode, Chat, CheckedModels, Compute, Run, Sampling, Seeing, Speculate, SpeculateMode,
};
pub use self::making::{Alpha, Calibrate, Convert, FolderLayout, Quantize, Verify};
pub use self::measuring::{Bench, Eval, Like, Logits};
pub use self::serving::{DefaultSampling, LogLevel, Serve};

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
