//! A tiny model with random weights, made on the spot. It has no tokenizer.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use keeve_checkpoint::Checkpoint;
use keeve_codec::Bytes;
use keeve_engine::{Engine, EngineOptions, Event, FinishReason, Generation, Request};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

pub const VOCABULARY: usize = 96;
pub const CONTEXT: usize = 160;
/// The token that ends answers.
pub const EOS: u32 = 5;

/// Numbers that look random and are the same each time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// From -1 to 1.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A prompt of up to `longest` tokens; many begin alike.
    pub fn prompt(&mut self, longest: usize) -> Vec<u32> {
        let shared = (0..self.below(longest / 2) as u32).map(|id| id * 7 % VOCABULARY as u32);
        let own = 1 + self.below(longest / 2);
        shared.chain((0..own).map(|_| self.below(VOCABULARY) as u32)).collect()
    }
}

/// A qwen3 model of two layers.
pub fn tiny() -> Checkpoint {
    let (hidden, heads, kv_heads, head_dim, fed) = (32, 4, 2, 16, 48);
    let config = serde_json::json!({
        "model_type": "qwen3", "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": fed,
        "num_hidden_layers": 2, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": EOS,
    });
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, hidden]),
        ("lm_head.weight".into(), vec![VOCABULARY, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    for layer in 0..2 {
        let parts = [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![heads * head_dim, hidden]),
            ("self_attn.k_proj", vec![kv_heads * head_dim, hidden]),
            ("self_attn.v_proj", vec![kv_heads * head_dim, hidden]),
            ("self_attn.o_proj", vec![hidden, heads * head_dim]),
            ("self_attn.q_norm", vec![head_dim]),
            ("self_attn.k_norm", vec![head_dim]),
            ("mlp.gate_proj", vec![fed, hidden]),
            ("mlp.up_proj", vec![fed, hidden]),
            ("mlp.down_proj", vec![hidden, fed]),
        ];
        let named =
            parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape));
        shapes.extend(named);
    }
    let mut numbers = Numbers(11);
    let tensors: Vec<_> = shapes
        .into_iter()
        .map(|(name, shape)| {
            // Gains near 1, the rest so large that answers do not settle on one token.
            let (middle, spread) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, 0.4) };
            let values = (0..shape.iter().product()).map(|_| middle + spread * numbers.signed());
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let weights = safetensors::serialize(views, None).unwrap();
    let files = [
        ("config.json", Bytes::new(config.to_string().into_bytes())),
        ("model.safetensors", Bytes::new(weights)),
    ];
    Checkpoint::from_memory(&files).unwrap()
}

/// An engine for the tiny model.
pub fn engine(options: &EngineOptions) -> Engine {
    Engine::load(&tiny(), options, &|_| true).unwrap()
}

/// A request for the likeliest `max_tokens` tokens, end tokens or not.
pub fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    let mut request =
        Request { prompt: prompt.into(), max_tokens: Some(max_tokens), ..Request::default() };
    request.sampling.temperature = 0.0;
    request.ignore_eos = true;
    request
}

/// The same, but drawn at random from `seed`.
pub fn seeded(prompt: &[u32], max_tokens: usize, seed: u64) -> Request {
    let mut request = greedy(prompt, max_tokens);
    request.sampling.temperature = 1.0;
    request.sampling.seed = Some(seed);
    request
}

/// The tokens of an answer with their log probabilities, and why it ended.
pub fn answer(generation: Generation) -> (Vec<(u32, f32)>, FinishReason) {
    let mut tokens = vec![];
    for event in generation {
        match event {
            Event::Token { id, logprob, .. } => tokens.push((id, logprob)),
            Event::PromptLogits { .. } | Event::Embedding(_) => {}
            Event::Finished { reason, .. } => return (tokens, reason),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("an answer without an end");
}
