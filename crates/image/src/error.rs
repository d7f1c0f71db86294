//! Why a picture or the settings for pictures are refused.

/// An error of this crate. What it says of a picture never repeats what a decoder said: that may
/// hold anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings are wrong or ask for what is not done here.
    #[error("{file}: field '{field}' is {found}, expected {expected}")]
    Settings {
        /// Where the settings come from.
        file: String,
        /// The field.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The settings are not JSON of the expected form.
    #[error("{file}: {what}")]
    Json {
        /// Where the settings come from.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes are of no format read here.
    #[error("the image is of an unknown format, expected PNG, JPEG or WebP")]
    Format,
    /// The bytes begin like a picture but do not go on like one.
    #[error("the {format} image is damaged or cut short")]
    Damaged {
        /// The format it begins as.
        format: &'static str,
    },
    /// Decoding would take more than the limits allow.
    #[error("the image has {found} {unit}, expected at most {most}")]
    TooLarge {
        /// What there is too much of.
        unit: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        most: u64,
    },
    /// The picture is much longer than it is wide, or the other way round.
    #[error("the image is {width} x {height}, expected no side over {most} times the other")]
    Ratio {
        /// Its width in pixels.
        width: usize,
        /// Its height in pixels.
        height: usize,
        /// The largest ratio allowed.
        most: usize,
    },
}
