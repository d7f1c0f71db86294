//! temp
/// temp
#[derive(Debug, Clone)]
pub struct Segment {
    /// t
    pub text: String,
    /// t
    pub trusted: bool,
}
