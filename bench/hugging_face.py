"""What Hugging Face makes of a model or a text: the other side of bench/conformance.

    hugging_face.py logits FOLDER IDS.json OUT.f32 N    logits of every position of IDS to OUT,
                                                        N greedy tokens after them to stdout
    hugging_face.py tokenize TOKENIZER.json TEXT        the ids of the text to stdout

Models run in F32 with eager attention, whatever their weights are stored in.
"""

import json
import pathlib
import sys


def logits(folder, ids, out, count):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = json.loads(pathlib.Path(ids).read_text())
    with torch.no_grad():
        answer = model(torch.tensor([ids]), use_cache=True)
        pathlib.Path(out).write_bytes(answer.logits[0].contiguous().numpy().astype("<f4").tobytes())
        tokens = []
        for _ in range(int(count)):
            tokens.append(int(answer.logits[0, -1].argmax()))
            answer = model(torch.tensor([tokens[-1:]]), past_key_values=answer.past_key_values, use_cache=True)
    print(json.dumps(tokens))


def tokenize(file, text):
    from tokenizers import Tokenizer

    text = pathlib.Path(text).read_bytes().decode()
    print(json.dumps(Tokenizer.from_file(file).encode(text, add_special_tokens=False).ids))


{"logits": logits, "tokenize": tokenize}[sys.argv[1]](*sys.argv[2:])
