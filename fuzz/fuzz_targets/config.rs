//! A `config.json`: opening a model with it, and the graph of its architecture.
#![no_main]

use keeve_codec::Bytes;
use libfuzzer_sys::fuzz_target;

/// More layers than this only take time: a graph is built layer by layer.
const MOST_LAYERS: u64 = 64;

fuzz_target!(|data: &[u8]| {
    let weights = keeve_fuzz::one_tensor();
    let files = [("config.json", Bytes::from(data.to_vec())), ("model.safetensors", weights)];
    let Ok(checkpoint) = keeve_checkpoint::Checkpoint::from_memory(&files) else {
        return keeve_fuzz::count(false);
    };
    let config = checkpoint.config();
    if config["num_hidden_layers"].as_u64().is_some_and(|layers| layers > MOST_LAYERS) {
        return;
    }
    let model = keeve_models::build(config);
    keeve_fuzz::count(model.is_ok());
});
