//! The workbench: from float models to packed ones.
//!
//! A [`Scheme`] (a preset, or one codec) with exceptions is a [`Recipe`]; a recipe applied to a checkpoint
//! is a [`Plan`], which says for each tensor what becomes of it; [`make`] does that.

mod calibrate;
mod compressed;
mod dimensions;
pub mod encode;
mod error;
mod exact;
mod gguf;
mod imatrix;
mod make;
mod making;
mod output;
mod plan;
pub mod presets;
mod recipe;
mod role;
mod scheme;
mod smooth;
mod tokenizer_json;
mod verify;
mod watch;
mod zeros;

pub use calibrate::{CalibrateOptions, Importance, calibrate};
pub use dimensions::Dimensions;
pub use error::Error;
pub use gguf::mmproj::{
    MmprojLayout, file_type as mmproj_file_type, metadata as mmproj_metadata, path as mmproj_path,
};
pub use gguf::vocabulary;
pub use imatrix::{Entry, Imatrix};
pub use make::{Observer, Options, Report, make};
pub use making::{Made, Making};
pub use output::check as check_target;
pub use plan::{Format, Idle, Plan, Planned, Sum};
pub use recipe::{Pattern, Recipe};
pub use role::Role;
pub use scheme::{Scheme, fitting};
pub use smooth::{Folds, Kind as SmoothKind, SmoothOptions, Smoothed, Trial, smooth};
pub use verify::{Difference, Findings, compare, verify};
