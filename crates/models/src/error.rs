//! What can be wrong with a config.

/// An error about a model's config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `model_type` names an architecture that keeve does not have.
    #[error("config: model_type '{0}' is not supported (known: {known})", known = crate::architectures().collect::<Vec<_>>().join(", "))]
    Architecture(String),
    /// A field is wrong.
    #[error("config: {field} {problem}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The graph refused something that the config asks for.
    #[error("config does not fit together: {0}")]
    Graph(#[from] keeve_graph::Error),
}
