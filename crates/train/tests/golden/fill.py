"""Numbers that both sides can make: element i of a run with a salt is the same in Python and in Rust (see
tests/decoder.rs), so that no parameters lie in the repository."""

import numpy as np


def fill(count, salt):
    """`count` floats in -1..1: SplitMix64 of salt + i, its upper 24 bits."""
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(salt) * np.uint64(1 << 32) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0).astype(np.float32)


def parameters(shapes, scale):
    """`shapes`: (name, shape) in the order of the flat buffer. Norms are 1 + 0.1 u, the rest scale * u."""
    out = {}
    for salt, (name, shape) in enumerate(shapes):
        u = fill(int(np.prod(shape)), salt + 1).reshape(shape)
        out[name] = (np.float32(1) + np.float32(0.1) * u) if len(shape) == 1 else np.float32(scale) * u
    return out


def shapes(c):
    """Names and shapes of a decoder in the order of the flat buffer."""
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    out = [("model.embed_tokens.weight", (v, d))]
    for l in range(c["num_hidden_layers"]):
        n = f"model.layers.{l}."
        out += [(n + "input_layernorm.weight", (d,)), (n + "self_attn.q_proj.weight", (q, d)), (n + "self_attn.k_proj.weight", (kv, d)),
                (n + "self_attn.v_proj.weight", (kv, d)), (n + "self_attn.o_proj.weight", (d, q)), (n + "post_attention_layernorm.weight", (d,)),
                (n + "mlp.gate_proj.weight", (f, d)), (n + "mlp.up_proj.weight", (f, d)), (n + "mlp.down_proj.weight", (d, f))]
    out.append(("model.norm.weight", (d,)))
    if not c["tie_word_embeddings"]:
        out.append(("lm_head.weight", (v, d)))
    return out


def model(c, scale, dtype):
    """transformers' LlamaForCausalLM with those parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    m = LlamaForCausalLM(LlamaConfig(**c, attn_implementation="eager")).to(dtype)
    own = dict(m.named_parameters())
    given = parameters(shapes(c), scale)
    assert set(own) == set(given), set(own) ^ set(given)
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(torch.from_numpy(value))
    return m
