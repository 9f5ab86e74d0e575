#!/usr/bin/env python3
"""Logits, loss and gradients of a small decoder by PyTorch and transformers in f64, for tests/decoder.rs.

    pip install torch transformers safetensors numpy
    python crates/train/tests/golden/gradients.py

writes tied.safetensors and untied.safetensors beside itself. The sizes fit no register, key/value heads are shared,
two targets do not count. Loss: sum over the targets that count, times SCALE.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

from fill import fill, model, shapes

HERE = pathlib.Path(__file__).parent
BATCH, TIME, SCALE = 3, 37, 0.01


def config(tied):
    return dict(vocab_size=53, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=6, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
                tie_word_embeddings=tied)


for tied in (True, False):
    c = config(tied)
    m = model(c, 0.3, torch.float64)
    ids = ((fill(BATCH * (TIME + 1), 1000) + 1) / 2 * c["vocab_size"]).astype(np.int64).clip(0, c["vocab_size"] - 1)
    ids = torch.from_numpy(ids.reshape(BATCH, TIME + 1))
    tokens, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[0, 5] = targets[2, 36] = -100
    logits = m(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, c["vocab_size"]), targets.reshape(-1), reduction="sum", ignore_index=-100)
    (loss * SCALE).backward()
    own = dict(m.named_parameters())
    out = {name: own[name].grad.numpy().astype(np.float32) for name, _ in shapes(c)}
    out["logits"] = logits[1].detach().numpy().astype(np.float32)
    out["loss"] = np.array([loss.item()], dtype=np.float64)
    name = "tied" if tied else "untied"
    save_file(out, HERE / f"{name}.safetensors")
    print(name, loss.item(), sum(v.nbytes for v in out.values()), "bytes")
