//! What can be wrong with a config.

/// An error about a model's config. Its text is one line that names the field; which file the config
/// comes from is for the caller to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `model_type` names an architecture that keeve does not have.
    #[error("field 'model_type' is {0}, which is not supported (known: {known})", known = crate::architectures().collect::<Vec<_>>().join(", "))]
    Architecture(String),
    /// A field is wrong.
    #[error("field '{field}' {problem}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The graph refused something that the config asks for.
    #[error("does not fit together: {0}")]
    Graph(#[from] keeve_graph::Error),
}
