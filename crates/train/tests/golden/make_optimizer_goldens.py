"""Goldens of the optimizers, from PyTorch.

Run: python crates/train/tests/golden/make_optimizer_goldens.py   (PyTorch >= 2.9; made with 2.15, CPU)
Writes optimizer.json beside it: parameters, gradients of eight steps, and the parameters after some.

AdamW is torch.optim.AdamW after torch.nn.utils.clip_grad_norm_. Muon is torch.optim.Muon with
adjust_lr_fn="match_rms_adamw", its Newton-Schulz steps in float32 (optimizers.py).
"""

import json
import pathlib

import torch

from optimizers import optimizers

torch.manual_seed(5)
torch.set_num_threads(1)
STEPS = 8
AFTER = [1, 5, 8]
RATES = [1e-2, 2e-2, 3e-2, 3e-2, 3e-2, 2e-2, 1e-2, 1e-3]
TENSORS = [
    ("embedding", [13, 6], "Embedding"),
    ("wide", [6, 14], "Matrix"),
    ("tall", [14, 6], "Matrix"),
    ("square", [6, 6], "Matrix"),
    ("norm", [6], "Norm"),
    ("head", [13, 6], "Head"),
]
CONFIG = dict(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, momentum=0.95, clip=1.0)


def short(tensor):
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


start = [torch.randn(shape) for _, shape, _ in TENSORS]
# Steps 0, 3 and 6 are clipped, the others are not; one step has gradients of zero.
grads = []
for step in range(STEPS):
    size = 3.0 if step % 3 == 0 else 0.02
    grads.append([torch.randn(shape) * size * (step != 4) for _, shape, _ in TENSORS])


def run(muon):
    params = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    made = optimizers([(param, kind) for param, (_, _, kind) in zip(params, TENSORS)], CONFIG, muon)
    norms, after = [], []
    for rate, gradient in zip(RATES, grads):
        for param, grad in zip(params, gradient):
            param.grad = grad.clone()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, CONFIG["clip"])))
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        if len(norms) in AFTER:
            after.append([value for param in params for value in short(param.detach())])
    return {"norms": norms, "after": after}


golden = {
    "made_with": f"PyTorch {torch.__version__}",
    "config": CONFIG,
    "tensors": [{"name": name, "shape": shape, "kind": kind} for name, shape, kind in TENSORS],
    "rates": RATES,
    "after": AFTER,
    "params": [value for tensor in start for value in short(tensor)],
    "grads": [[value for tensor in step for value in short(tensor)] for step in grads],
    "adamw": run(False),
}
golden["muon"] = run(True)

path = pathlib.Path(__file__).with_name("optimizer.json")
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(path, path.stat().st_size, "bytes")
