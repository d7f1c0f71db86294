"""Tiny random models of each architecture, saved by transformers, with its logits (float32, eager attention)."""
import json, sys, shutil
from pathlib import Path
import numpy as np, torch, transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
OUT = Path(sys.argv[1])
BASE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
            pad_token_id=None, bos_token_id=None, eos_token_id=None)
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.5, 3.0, 9.0, 30.0])
CASES = {
 "qwen3_moe": dict(model_type="qwen3_moe", head_dim=16, norm_topk_prob=True, decoder_sparse_step=2, num_hidden_layers=4, mlp_only_layers=[1], **MOE),
 "qwen3_moe_sums": dict(model_type="qwen3_moe", norm_topk_prob=False, attention_bias=True, **{**MOE, "num_experts_per_tok": 3}),
 "qwen2_moe": dict(model_type="qwen2_moe", shared_expert_intermediate_size=24, tie_word_embeddings=True, **MOE),
 "mixtral": dict(model_type="mixtral", intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, sliding_window=7),
 "phi3": dict(model_type="phi3", sliding_window=9, original_max_position_embeddings=256),
 "phi3_short": dict(model_type="phi3", original_max_position_embeddings=64, rope_parameters=dict(rope_theta=1e4, original_max_position_embeddings=64, **LONG)),
 "phi3_long": dict(model_type="phi3", original_max_position_embeddings=8, rope_parameters=dict(rope_theta=1e4, original_max_position_embeddings=8, **LONG)),
 "phi3_partial": dict(model_type="phi3", original_max_position_embeddings=64, num_attention_heads=2, rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=0.5, original_max_position_embeddings=64, **LONG)),
 "olmo2": dict(model_type="olmo2"),
 "granite": dict(model_type="granite", embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.35, logits_scaling=3.0, tie_word_embeddings=True),
 "mistral": dict(model_type="mistral", head_dim=24, sliding_window=7),
 "bitnet": dict(model_type="bitnet", tie_word_embeddings=True),
 "gemma": dict(model_type="gemma", head_dim=16, tie_word_embeddings=True),
 "gemma2": dict(model_type="gemma2", head_dim=16, tie_word_embeddings=True, sliding_window=7, query_pre_attn_scalar=24, attn_logit_softcapping=3.0, final_logit_softcapping=2.0),
 "smollm3": dict(model_type="smollm3", num_hidden_layers=4, no_rope_layer_interval=2, tie_word_embeddings=True),
 "olmoe": dict(model_type="olmoe", intermediate_size=24, norm_topk_prob=False, num_experts=6, num_experts_per_tok=2),
}
def fill(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if p.ndim == 1:
            v = 0.2 * r + (0.0 if name.endswith("bias") else 1.0)
            if "gemma" in type(model).__name__.lower(): v = 0.2 * r
        elif "embed_tokens" in name: v = 0.6 * r
        else: v = 1.4 * r / p.shape[-1] ** 0.5
        p.data.copy_(v.bfloat16().float())
only = sys.argv[2:]
for name, fields in CASES.items():
    if only and name not in only: continue
    config = AutoConfig.for_model(**{**BASE, **fields})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    fill(model, 7)
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path, state_dict={k: v.bfloat16() for k, v in model.state_dict().items()})
    (path / "generation_config.json").unlink(missing_ok=True)
    tokens = torch.from_numpy(np.random.default_rng(3).integers(0, 64, 24))
    with torch.no_grad(): logits = model(tokens[None]).logits[0].float()
    save_file({"tokens": tokens.int(), "logits": logits.contiguous()}, path / "reference.safetensors")
    c = json.load(open(path / "config.json"))
    print(name, float(logits.std()), sum(f.stat().st_size for f in path.iterdir()))
print(torch.__version__, transformers.__version__)
