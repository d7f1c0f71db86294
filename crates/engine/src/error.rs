//! What can go wrong between a checkpoint and its answers.

use std::path::PathBuf;

use crate::chat::ChatError;
use crate::sampling::SamplingError;
use crate::stop::StopError;
use crate::tokenizer::TokenizerError;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] keeve_checkpoint::Error),
    /// The config asks for something wrong or unknown.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file that the config comes from.
        path: PathBuf,
        /// What is wrong.
        source: keeve_models::Error,
    },
    /// The metadata of a GGUF file ask for something wrong or unknown.
    #[error("{}: metadata '{key}' {problem}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The backend cannot load the model.
    #[error("{}: {source}", path.display())]
    Load {
        /// The model.
        path: PathBuf,
        /// Why not.
        source: keeve_graph::Error,
    },
    /// The backend cannot run the model.
    #[error(transparent)]
    Graph(#[from] keeve_graph::Error),
    /// Weights were asked for in a codec that can only be read.
    #[error("{0} weights cannot be made, only read")]
    NoEncoder(keeve_codec::Codec),
    /// Drafts of a draft model are asked for, and there is none.
    #[error("there is no draft model to speculate with")]
    NoDraftModel,
    /// A draft model has other tokens.
    #[error("{}: no draft model for this model: {problem}", path.display())]
    DraftTokens {
        /// The draft model.
        path: PathBuf,
        /// How they differ.
        problem: String,
    },
    /// `KEEVE_ISA` names no tier of this machine.
    #[error(transparent)]
    Isa(#[from] keeve_cpu::UnknownIsa),
    /// The tokenizer or the chat template that came with the model cannot be used.
    #[error("{}: {source}", path.display())]
    TextFile {
        /// The file, or the model that has it inside.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Text cannot be encoded or decoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template refuses the messages.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Sampling parameters or logits are out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A stop text is empty.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A field that says how answers end is of the wrong type.
    #[error("{}: field '{field}' is {found}, expected a token id or a list of them", path.display())]
    EndTokens {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it is.
        found: String,
    },
    /// Text was given to a model without a tokenizer.
    #[error("this model has no tokenizer; give token ids instead")]
    NoTokenizer,
    /// A conversation was given to a model without a chat template.
    #[error("this model has no chat template; give one with --chat-template, or a plain prompt")]
    NoChatTemplate,
    /// Text was given to a model whose tokenizer or chat template cannot be used. Token ids can.
    #[error("{0}")]
    Unusable(String),
    /// Images were given to a model without vision.
    #[error("this model cannot see images")]
    NoVision,
    /// A prompt has not one image token for each image.
    #[error("the prompt has {places} places for images and {images} images were given")]
    ImageCount {
        /// Image tokens of the prompt.
        places: usize,
        /// Images.
        images: usize,
    },
    /// An image does not fit the model.
    #[error("an image {0}")]
    Image(String),
    /// An image, or the file that says what images are made of, cannot be read.
    #[error(transparent)]
    Picture(#[from] keeve_image::Error),
    /// The file that says what images are made of does not fit the model.
    #[error("{}: {problem}", path.display())]
    ImageSettings {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, but the context holds {context}, answer included")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The most tokens of a sequence.
        context: usize,
    },
    /// A prompt that is too long whatever its tokens are.
    #[error(
        "the prompt has {bytes} bytes, but the context of {context} tokens holds at most {most}"
    )]
    TextTooLong {
        /// Bytes of the prompt.
        bytes: usize,
        /// The most bytes that as many tokens could have.
        most: usize,
        /// The most tokens of a sequence.
        context: usize,
    },
    /// Nobody wants the answer any more.
    #[error("given up: whoever asked has gone")]
    GivenUp,
    /// A token id that the model does not have.
    #[error("token id {id} is outside the model's vocabulary of {vocabulary}")]
    TokenId {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// The tokenizer has ids that the model does not.
    #[error("{}: the tokenizer has ids up to {largest}, but the model's vocabulary is {vocabulary}", path.display())]
    Vocabulary {
        /// The model.
        path: PathBuf,
        /// The tokenizer's largest id.
        largest: usize,
        /// The model's ids are below this.
        vocabulary: usize,
    },
    /// Weights and state do not fit.
    #[error(
        "not enough memory: weights {weights} bytes{} and {state} bytes for a context of {context} tokens, but {available} bytes are free",
        seeing(*images)
    )]
    Memory {
        /// Bytes of weights.
        weights: u64,
        /// Bytes of keys and values for one sequence.
        state: u64,
        /// Bytes that are worked with while images are seen; 0 if none are.
        images: u64,
        /// Tokens that they would hold.
        context: usize,
        /// Bytes that are free.
        available: u64,
    },
    /// A grammar is malformed, too large, or cannot be followed.
    #[error("grammar: {0}")]
    Grammar(String),
    /// The request is of a kind that gives no tokens, and asks for some.
    #[error("a request for an embedding cannot ask for tokens or logits")]
    EmbeddingOnly,
    /// The backend did not give the rows that a step asked for.
    #[error("internal error: the backend gave fewer rows than it was asked for")]
    NoLogits,
    /// Threads could not be started.
    #[error("cannot start threads: {0}")]
    Thread(std::io::Error),
    /// This request made the engine panic; others go on.
    #[error("internal error: the request made the engine panic")]
    RequestPanicked,
    /// The engine's thread is gone.
    #[error("internal error: the engine has died")]
    EngineDied,
}

/// What images take, in an error about memory.
fn seeing(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(", {bytes} bytes to see images"),
    }
}
