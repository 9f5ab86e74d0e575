"""Records families.json: what Hugging Face transformers makes of tiny models of every family.

    python make_family_goldens.py > families.json

Needs torch and transformers (recorded with 2.15.0 and 5.24.0). Weights are not kept: both sides draw
them from the generator below, which `families.rs` repeats. Per family the file holds config.json as
a user would find it, the shapes of the tensors, and

    prompt   24 token ids
    logits   {position: logits of every token there}, weights in F32
    greedy   the 128 tokens that follow, weights in F32
    logits_f16, greedy_f16   the same, the weights rounded to F16 first
    mean, last   the prompt's hidden states after the final norm: their mean, and the last one; F32

Everything is computed in F32 with eager attention and without a cache: every greedy token is the
last row of a fresh forward pass. Weights are redrawn (`salt`) until the best token leads the second
by more than GAP at each of the 128 steps and enough different tokens occur, so that an engine which
stays inside the tolerance on logits must find the same tokens.
"""

import json
import sys

import numpy as np
import torch
import transformers
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

MODELS = {"llama": LlamaForCausalLM, "mistral": MistralForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}
POSITIONS = [0, 1, 2, 7, 12, 17, 22, 23]
POSITIONS_F16 = [0, 11, 23]
PROMPT, GREEDY, DISTINCT, GAP = 24, 128, 24, 0.016

# Shared by all; a family's own settings replace them.
BASE = dict(
    model_type="llama", vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
    max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float32",
)
FAMILIES = {
    # As Llama 1 and 2 stand on the hub: no num_key_value_heads, no rope_theta, no head_dim.
    "llama2": dict(rms_norm_eps=1e-6, num_key_value_heads=None, rope_theta=None),
    "llama3": dict(
        num_key_value_heads=2, rope_theta=500000.0, head_dim=16, attention_bias=False, mlp_bias=False,
        eos_token_id=[2, 3, 4],
        rope_scaling=dict(
            factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=64, rope_type="llama3"
        ),
    ),
    # The old spelling of the scaling, and biases on all four projections of attention.
    "llama_linear": dict(rope_scaling=dict(type="linear", factor=4.0), attention_bias=True),
    # The spelling of transformers 5: rope_theta inside rope_parameters.
    "llama_yarn": dict(
        num_key_value_heads=2, rope_theta=None,
        rope_parameters=dict(
            rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64,
            beta_fast=16.0, beta_slow=1.0,
        ),
    ),
    # TinyLlama and SmolLM: heads that share keys, a tied head, a width that is no multiple of 32.
    "smollm": dict(
        hidden_size=72, intermediate_size=168, num_hidden_layers=3, num_attention_heads=9, num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "mistral": dict(model_type="mistral", num_key_value_heads=2, head_dim=16, sliding_window=10, rope_theta=100000.0),
    # The window is switched off, as in every Qwen2 on the hub; use_sliding_window must be obeyed.
    "qwen2": dict(
        model_type="qwen2", num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_theta=1000000.0,
        sliding_window=10, use_sliding_window=False, max_window_layers=1,
    ),
    "qwen2_yarn": dict(
        model_type="qwen2", num_key_value_heads=1, rms_norm_eps=1e-6, rope_theta=1000000.0,
        rope_scaling=dict(type="yarn", factor=8.0, original_max_position_embeddings=32),
    ),
    "qwen3": dict(
        model_type="qwen3", num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_theta=1000000.0, sliding_window=None, use_sliding_window=False, max_window_layers=2, attention_bias=False,
    ),
}

MASK = 2**64 - 1
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth, MMIX


def draw(seed_text, count):
    """`count` numbers in [-1, 1): the top 24 bits of a linear congruential generator whose first
    state is the FNV-1a hash of the text."""
    state = 0xCBF29CE484222325
    for byte in seed_text.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    top = np.empty(count, np.int64)
    for i in range(count):
        state = (state * MULTIPLIER + INCREMENT) & MASK
        top[i] = state >> 40
    return ((top - 2**23).astype(np.float32)) / np.float32(2**23)


def weights(family, salt, shapes):
    """The tensors: around 1 for norms, and wide enough elsewhere that attention selects."""
    out = {}
    for name, shape in shapes.items():
        numbers = draw(f"{family}/{salt}/{name}", int(np.prod(shape)))
        if name.endswith("norm.weight"):
            numbers = np.float32(1) + np.float32(0.25) * numbers
        else:
            numbers = np.float32(0.25) * numbers
        out[name] = torch.from_numpy(numbers.reshape(shape))
    return out


def build(config):
    kind = MODELS[config["model_type"]]
    # The constructor renames what it is given in place: it gets a copy.
    model = kind(kind.config_class(**json.loads(json.dumps(config)), attn_implementation="eager"))
    model.eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    return model, shapes


def greedy(model, prompt):
    """The tokens after the prompt, or None as soon as a step is too close or the text repeats."""
    ids = list(prompt)
    for _ in range(GREEDY):
        best = torch.topk(model(torch.tensor([ids]), use_cache=False).logits[0, -1], 2)
        if best.values[0] - best.values[1] < GAP:
            return None
        ids.append(int(best.indices[0]))
        if len(ids) == PROMPT + 40 and len(set(ids[PROMPT:])) < DISTINCT // 2:
            return None
    generated = ids[PROMPT:]
    return generated if len(set(generated)) >= DISTINCT else None


def pooled(model, prompt):
    """The two ways to make one vector of a prompt, of a model whose weights are exact."""
    states = model.model(torch.tensor([prompt]), use_cache=False).last_hidden_state[0]
    rounded = lambda vector: [float(f"{x:.9g}") for x in vector.tolist()]
    return dict(mean=rounded(states.mean(0)), last=rounded(states[-1]))


def record(family, settings):
    config = {key: value for key, value in {**BASE, **settings}.items() if value is not None or key == "sliding_window" and key in settings}
    config["architectures"] = [MODELS[config["model_type"]].__name__]
    model, shapes = build(config)
    prompt = [int((x + 1) / 2 * config["vocab_size"]) for x in draw(f"{family}/prompt", PROMPT)]
    for salt in range(20000):
        exact = weights(family, salt, shapes)
        answer = {}
        for suffix, positions in [("_f16", POSITIONS_F16), ("", POSITIONS)]:
            rounded = {name: tensor.half().float() if suffix else tensor for name, tensor in exact.items()}
            model.load_state_dict(rounded, strict=not config["tie_word_embeddings"])
            tokens = greedy(model, prompt)
            if tokens is None:
                break
            logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
            answer["logits" + suffix] = {str(p): [float(f"{x:.6g}") for x in logits[p].tolist()] for p in positions}
            answer["greedy" + suffix] = tokens
        else:
            print(family, "salt", salt, "distinct", len(set(tokens)), file=sys.stderr, flush=True)
            return dict(salt=salt, config=config, shapes=shapes, prompt=prompt, **answer, **pooled(model, prompt))
    raise SystemExit(f"{family}: no draw has clear greedy tokens")


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    print("{")
    for number, (family, settings) in enumerate(FAMILIES.items()):
        if number:
            print(",")
        fields = record(family, settings)
        body = []
        for key, value in fields.items():
            if key.startswith("logits"):
                rows = ",\n    ".join(f"{json.dumps(p)}: {json.dumps(row)}" for p, row in value.items())
                body.append(f'  "{key}": {{\n    {rows}\n  }}')
            else:
                body.append(f'  "{key}": {json.dumps(value)}')
        print(f'"{family}": {{\n' + ",\n".join(body) + "\n}", end="")
    print("\n}")


main()
