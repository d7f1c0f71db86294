//! What a file or standard input may have at most, by what it is for. Everything that is read whole is read through
//! [`keeve_files::whole`].

use keeve_files::whole::MIB;

/// Recipes and settings: a person writes them.
pub const SETTINGS: u64 = MIB;

/// API keys: a line each.
pub const KEYS: u64 = MIB;

/// A line of standard input, which is one thing to say.
pub const LINE: u64 = 16 * MIB;

/// Texts to calibrate with, to judge by, and to answer. A token of a few bytes takes four in memory, and logits far more.
pub const TEXT: u64 = 256 * MIB;
