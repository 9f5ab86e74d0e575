"""The optimizers of this crate in PyTorch, for the goldens beside it and for bench/pretrain-vs-pytorch.

torch.optim.Muon computes its Newton-Schulz steps in bfloat16, which is not what is to be compared, so
`torch.bfloat16` is made float32 while it runs.
"""

import unittest.mock

import torch


class Muon(torch.optim.Muon):
    def step(self, closure=None):
        with unittest.mock.patch.object(torch, "bfloat16", torch.float32):
            return super().step(closure)


def optimizers(tensors, config, muon):
    """Those that move `tensors`, pairs of a parameter and its kind as in decoder/layout.rs: AdamW, and with `muon` Muon
    for matrices. The learning rate is 1 until the caller sets it in every group."""
    by_muon = [param for param, kind in tensors if muon and kind == "Matrix"]
    decays = [param for param, kind in tensors if kind == "Head" or kind == "Matrix" and not muon]
    plain = [param for param, kind in tensors if kind in ("Embedding", "Norm")]
    betas = (config["beta1"], config["beta2"])
    groups = [{"params": decays, "weight_decay": config["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    made = [torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=config["eps"])]
    if muon:
        made.append(
            Muon(
                by_muon,
                lr=1.0,
                weight_decay=config["weight_decay"],
                momentum=config["momentum"],
                nesterov=True,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return made
