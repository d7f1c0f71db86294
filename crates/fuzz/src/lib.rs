//! What the fuzz targets of the folder `fuzz` do with an input, and short runs of them without a fuzzer.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use keeve_checkpoint::Checkpoint;
use keeve_codec::Bytes;

pub mod dialects;
pub mod mutate;
pub mod seeds;
pub mod short;
pub mod targets;

/// Weights of a tensor that are decoded.
const MOST_COLUMNS: usize = 1 << 16;

/// Opens a model in memory and uses everything it offers: every tensor is put together and its first and last rows
/// are decoded. Only panics count. Gives the number of tensors decoded.
fn exercise(files: &[(&str, Bytes)]) -> usize {
    let Ok(checkpoint) = Checkpoint::from_memory(files) else { return 0 };
    let mut decoded = 0;
    for info in checkpoint.tensors() {
        let Ok(tensor) = checkpoint.tensor(&info.name) else { continue };
        assert_eq!(tensor.len(), info.shape.iter().product::<usize>(), "{info:?}");
        assert_eq!(info.codec, Some(tensor.codec()), "{info:?}");
        if tensor.cols() <= MOST_COLUMNS {
            let mut row = vec![0.0; tensor.cols()];
            keeve_codec::decode_row(&tensor, 0, &mut row);
            keeve_codec::row_values(&tensor, tensor.experts() * tensor.rows() - 1, &mut row);
            decoded += 1;
        }
    }
    let _ = checkpoint.gguf_tokenizer();
    decoded
}

/// What a fuzzer calls: gives the target of this name an input, counts inputs, and those that got through
/// everything, and prints both now and then, which shows that a target does more than to refuse.
///
/// # Panics
/// If there is no such target, or the input shows a fault.
pub fn fuzzed(name: &str, data: &[u8]) {
    static EXECUTIONS: AtomicU64 = AtomicU64::new(0);
    static WHOLE: AtomicU64 = AtomicU64::new(0);
    let target = targets::TARGETS.iter().find(|(known, _)| *known == name);
    let through = target.is_some_and(|(_, target)| target(data));
    assert!(target.is_some(), "{name} is no target");
    let all = EXECUTIONS.fetch_add(1, Ordering::Relaxed) + 1;
    let whole = WHOLE.fetch_add(through.into(), Ordering::Relaxed) + u64::from(through);
    if all.is_power_of_two() && all >= 1 << 12 {
        // Nobody may be looking.
        let _ = writeln!(std::io::stderr(), "keeve: {whole} of {all} inputs got through");
    }
}

/// A safetensors file of one tensor.
fn one_tensor() -> Bytes {
    safetensors(br#"{"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#)
}

/// A safetensors file with this header, and as much data as the largest offset in it, up to a limit.
fn safetensors(header: &[u8]) -> Bytes {
    const MOST: u64 = 1 << 12;
    let ends = || {
        let header: serde_json::Value = serde_json::from_slice(header).ok()?;
        let end = |tensor: &serde_json::Value| tensor.get("data_offsets")?.get(1)?.as_u64();
        header.as_object()?.values().filter_map(end).max()
    };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(file.len() + ends().unwrap_or(0).min(MOST) as usize, 7);
    Bytes::from(file)
}

/// Encodes a text and streams it back; whether there was anything to decode.
fn round_trip(tokenizer: &keeve_engine::Tokenizer) -> bool {
    const TEXT: &str = "Hello, wörld 12\u{2581}  </s><0x0A>\n\u{1f600}";
    let mut found = false;
    for parse_special in [false, true] {
        let Ok(ids) = tokenizer.encode(TEXT, true, parse_special) else { continue };
        found |= !ids.is_empty();
        let _ = tokenizer.decode(&ids, false);
    }
    found
}

/// Panics of the `tokenizers` crate and of the decoders of images are caught where they are called; the
/// fuzzer would count them: lets those pass.
pub fn let_caught_panics_pass() {
    let stop = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let caught = ["/tokenizers-", "/spm_precompiled", "/zune-jpeg-", "/image-webp-", "/png-"];
        let library = |file: &str| caught.iter().any(|name| file.contains(name));
        if !panic.location().is_some_and(|location| library(location.file())) {
            stop(panic);
        }
    }));
}
