#!/usr/bin/env python3
"""A loss curve of 200 steps by PyTorch in f32, for tests/curve.rs: the same start, data and order on both sides.

    pip install torch transformers numpy
    python crates/train/tests/golden/curve.py [--f64]

writes curve.json beside itself; --f64 only prints how far a run in f64 lies from it. AdamW (betas .9 .95, eps 1e-8,
weight decay 0.1 on matrices alone), warm-up and cosine, clipping at 1.0, as written in `STEPS` and `rate`.
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch

from fill import fill, model

HERE = pathlib.Path(__file__).parent
BATCH, TIME, STEPS, WARM, TOP, LOW = 4, 48, 200, 20, 3e-3, 3e-4
CONFIG = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, head_dim=12, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
              tie_word_embeddings=True)


def text(step):
    """(B, T + 1) ids that can be learnt: a walk over the vocabulary, its stride drawn a row, a jump now and then."""
    u = fill(BATCH * (TIME + 1), 5000 + step).reshape(BATCH, TIME + 1)
    out = np.zeros((BATCH, TIME + 1), dtype=np.int64)
    for b in range(BATCH):
        stride = 1 + int((u[b, 0] + 1) * 2.5)
        at = int((u[b, 1] + 1) / 2 * 96)
        for t in range(TIME + 1):
            out[b, t] = at
            jump = u[b, t] > 0.8
            at = (at * 5 + 1 if jump else at + stride) % 97
    return torch.from_numpy(out)


def rate(step):
    if step < WARM:
        return TOP * (step + 1) / WARM
    done = (step - WARM) / (STEPS - WARM)
    return LOW + (TOP - LOW) * 0.5 * (1 + math.cos(math.pi * done))


def run(dtype):
    torch.manual_seed(0)
    m = model(CONFIG, 0.08, dtype)
    decayed = [p for p in m.parameters() if p.dim() > 1]
    plain = [p for p in m.parameters() if p.dim() == 1]
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=plain, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=TOP, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(STEPS):
        ids = text(step)
        logits = m(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), ids[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.item())
    return losses


losses = run(torch.float32)
if "--f64" in sys.argv:
    wide = run(torch.float64)
    print("largest distance of f32 from f64:", max(abs(a - b) for a, b in zip(losses, wide)))
else:
    (HERE / "curve.json").write_text(json.dumps([round(loss, 7) for loss in losses]) + "\n")
print("first", losses[0], "last", losses[-1])
