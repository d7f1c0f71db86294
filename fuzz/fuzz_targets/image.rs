//! An image file: its header, and its pixels as patches.
#![no_main]

use std::sync::LazyLock;

use keeve_image::{Limits, Processor};
use libfuzzer_sys::fuzz_target;

static PROCESSOR: LazyLock<Processor> = LazyLock::new(|| {
    const SETTINGS: &str = r#"{"patch_size": 4, "min_pixels": 64, "max_pixels": 1024}"#;
    // Small, so that most of the time goes into reading files.
    let limits = Limits { bytes: 1 << 16, side: 256, pixels: 1 << 14, allocation: 1 << 20 };
    Processor::from_json(SETTINGS, "settings").expect("sound settings").with_limits(limits)
});

fuzz_target!(init: keeve_fuzz::let_caught_panics_pass(), |data: &[u8]| {
    let grid = PROCESSOR.grid(data);
    let patches = PROCESSOR.process(data);
    if let Ok(patches) = &patches {
        assert_eq!(grid.as_ref(), Ok(&patches.grid));
        assert_eq!(patches.pixels.len(), patches.rows() * PROCESSOR.width());
    }
    keeve_fuzz::count(patches.is_ok());
});
