//! What the fuzz targets share.

use keeve_checkpoint::Checkpoint;
use keeve_codec::Bytes;

/// Configs for models of safetensors files; the first byte of an input picks one.
pub const CONFIGS: [&str; 4] = [
    r#"{}"#,
    r#"{"hidden_size": 128, "quantization": {"bits": 4, "group_size": 64, "m": {"bits": 8, "group_size": 32}, "n": false}}"#,
    r#"{"quantization": {"mode": "kquant", "per_tensor": {"a": "q8_0", "b": "q4_k", "c": "iq4_xs"}}}"#,
    r#"{"quantization": {"mode": "mxfp4", "group_size": 32, "bits": 4}}"#,
];

/// Opens a model in memory and uses everything it offers. Only panics count.
pub fn exercise(files: &[(&str, Bytes)]) {
    let Ok(checkpoint) = Checkpoint::from_memory(files) else { return };
    for info in checkpoint.tensors() {
        if let Ok(tensor) = checkpoint.tensor(&info.name) {
            assert_eq!(tensor.bytes() as u64, info.bytes, "{info:?}");
            assert_eq!(tensor.len(), info.shape.iter().product::<usize>(), "{info:?}");
        }
    }
    let _ = checkpoint.gguf_tokenizer();
}
