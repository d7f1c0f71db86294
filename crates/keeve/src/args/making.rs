//! Flags of what makes, converts and checks models.

use std::path::PathBuf;

use clap::{ArgAction, ValueEnum};

use super::Seeing;
use super::values::{at_least_one, threads};

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "keeve quantize [OPTIONS] [MODEL] --preset <NAME> --out <DIR|FILE.gguf>\n       \
    keeve quantize [OPTIONS] [MODEL] --codec <NAME> --out <DIR|FILE.gguf>\n       \
    keeve quantize [OPTIONS] [MODEL] --recipe <FILE.toml> --out <DIR|FILE.gguf>\n       \
    keeve quantize --list-presets"
)]
pub struct Quantize {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// What to write: a GGUF file if it ends in .gguf, else a directory.
    #[arg(long, value_name = "DIR|FILE.gguf", required_unless_present_any = ["dry_run", "list_presets"])]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub choice: CodecChoice,
    /// How a directory is laid out [default: compressed-tensors for int8 and int4, else mlx].
    #[arg(long, value_enum)]
    pub layout: Option<FolderLayout>,
    /// An importance matrix (see `keeve calibrate`), as llama.cpp has them: GGUF or .dat.
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Leave weights as they are whose name this matches (* stands for any text); may be given several
    /// times.
    #[arg(long, value_name = "PATTERN", action = ArgAction::Append)]
    pub skip: Vec<String>,
    /// Rotate the rows of weights that become int8 or int4 by Hadamard matrices, and activations likewise when the model
    /// runs: so outliers of activations, which cost int8 most of its accuracy, are spread. For compressed-tensors'
    /// layout, whose transform_config says so.
    #[arg(long, conflicts_with = "smoothquant")]
    pub rotate: bool,
    /// Fold SmoothQuant's factors into weights that become int8 or int4, where that brings the model nearer
    /// to the original on the text of --data: with this exponent (0 to 1), or what suits each place.
    #[arg(long, value_name = "auto|ALPHA", requires = "data", conflicts_with = "dry_run")]
    pub smoothquant: Option<Alpha>,
    /// Text for --smoothquant; several are read one after another.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "smoothquant")]
    pub data: Vec<PathBuf>,
    /// Pieces of 512 tokens of that text that are used, every other one to find factors and the rest to
    /// judge them.
    #[arg(long, value_name = "NUMBER", default_value = "32", value_parser = at_least_one, requires = "smoothquant")]
    pub pieces: usize,
    /// Pack the matrices of what sees as well.
    #[arg(long)]
    pub quantize_vision: bool,
    /// Say what would become of each tensor, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Replace what stands under the name of the output.
    #[arg(long)]
    pub force: bool,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub seeing: Seeing,
}

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "keeve calibrate [OPTIONS] [MODEL] --data <FILE>... --out <FILE>\n       \
    keeve calibrate --show <FILE>"
)]
pub struct Calibrate {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// Text to run; several are run one after another.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "show")]
    pub data: Vec<PathBuf>,
    /// The matrix to write: GGUF, or the older format if it ends in .dat. A GGUF file that stands there is
    /// gone on with where it ends.
    #[arg(long, value_name = "FILE", required_unless_present = "show")]
    pub out: Option<PathBuf>,
    /// Say what a matrix holds.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "data", "out"])]
    pub show: Option<PathBuf>,
    /// Tokens of a piece of text, each run by itself.
    #[arg(long, value_name = "TOKENS", default_value = "512", value_parser = at_least_one)]
    pub chunk: usize,
    /// The most pieces [default: all].
    #[arg(long, value_name = "NUMBER", value_parser = at_least_one)]
    pub chunks: Option<usize>,
    /// Include the head, which llama.cpp leaves out.
    #[arg(long)]
    pub head: bool,
    /// Start anew where a matrix stands already.
    #[arg(long)]
    pub force: bool,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub struct Convert {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// What to write: a GGUF file if it ends in .gguf, else a directory as MLX and mlx-kquant read it.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub out: PathBuf,
    /// Say what would become of each tensor, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Replace what stands under the name of the output.
    #[arg(long)]
    pub force: bool,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub seeing: Seeing,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// A directory or a .gguf file [default: the demo model].
    pub model: Option<String>,
    /// Another model with the same tensors: say how far their values are apart.
    #[arg(long, value_name = "MODEL")]
    pub against: Option<String>,
    /// Say how far their predictions are apart on this text too (its first 4096 tokens, in pieces of 512,
    /// activations in floats).
    #[arg(long, value_name = "FILE", requires = "against")]
    pub data: Option<PathBuf>,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_parser = threads)]
    pub threads: Option<usize>,
}

/// SmoothQuant's exponent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alpha {
    /// What suits each place.
    Auto,
    /// This everywhere.
    Is(f32),
}

impl std::str::FromStr for Alpha {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let alpha = text.parse().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
        alpha.map(Self::Is).ok_or_else(|| "expected auto or a number from 0 to 1".into())
    }
}

/// Which codec a weight gets.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct CodecChoice {
    /// A mixture of codecs by role and layer; see --list-presets.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// One codec for all: q4_k, affine4-g64, int8, int8-g128, int4-g128, ...
    #[arg(long, value_name = "NAME")]
    pub codec: Option<String>,
    /// A file that names codecs by role or name.
    #[arg(long, value_name = "FILE.toml")]
    pub recipe: Option<PathBuf>,
    /// Print all presets.
    #[arg(long)]
    pub list_presets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FolderLayout {
    /// As MLX (affine) and mlx-kquant (ggml's codecs) read it.
    Mlx,
    /// As vLLM and transformers read it: int8 and int4.
    CompressedTensors,
}
