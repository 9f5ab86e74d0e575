"""Loads checkpoints of this crate in Hugging Face transformers and records the logits.

    cargo test -p yushan-train --test checkpoint
    python crates/train/tests/golden/load_in_transformers.py target/tmp/checkpoint \
        > crates/train/tests/golden/transformers_logits.json

Needs torch and transformers (recorded with 2.15.0 and 5.24.0). The test writes the folders `tied/step-000003`,
`untied/step-000003` and their bf16 exports before it compares anything. Per model the file holds the logits of every
id at each of 12 positions, computed in F32 with eager attention and no cache, and how many ids the tokenizer makes
of a text.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

IDS = [2, 17, 3, 44, 3, 61, 2, 2, 9, 30, 5, 1]
TEXT = "abba"


def logits(folder, dtype):
    model = LlamaForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")
    assert model.dtype == dtype, (folder, model.dtype)
    # The class that the folder itself names.
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is LlamaForCausalLM
    assert (model.config.bos_token_id, model.generation_config.eos_token_id) == (2, 2)
    model = model.float().eval()
    with torch.no_grad():
        rows = model(torch.tensor([IDS]), use_cache=False).logits[0]
    return [[float(f"{x:.7g}") for x in row] for row in rows.tolist()]


root = Path(sys.argv[1])
out = {"torch": torch.__version__, "transformers": transformers.__version__, "ids": IDS, "text": TEXT, "models": {}}
for name in ["tied", "untied"]:
    tokenizer = AutoTokenizer.from_pretrained(root / name / "step-000003")
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 2), tokenizer
    out["models"][name] = {
        "f32": logits(root / name / "step-000003", torch.float32),
        "bf16": logits(root / f"{name}-bf16", torch.bfloat16),
        "text_ids": tokenizer(TEXT)["input_ids"],
    }
json.dump(out, sys.stdout)
print()
