//! What all crates have to do with files that others wrote or left behind.
//!
//! * [`whole`]: small files are read whole, within a limit, and never from a device or a folder;
//! * [`kind`]: what stands in a file that is not what its name says;
//! * [`weights`]: which files of a folder hold a model's weights;
//! * [`part`]: files that are written beside their place before they have their name, with nothing followed that
//!   somebody else put there.

#![forbid(unsafe_code)]

pub mod kind;
pub mod part;
pub mod weights;
pub mod whole;
