"""What Hugging Face makes of a model or a text: the other side of bench/conformance.

    hugging_face.py logits FOLDER IDS.json OUT.f32 N    logits of every position of IDS to OUT,
                                                        N greedy tokens after them to stdout
    hugging_face.py tokenize TOKENIZER.json TEXT        the ids of the text to stdout
    hugging_face.py perplexity FOLDER TEXT WINDOW N     perplexity over the text's first N windows, and its
                                                        number of tokens

Models run in F32 with eager attention, whatever their weights are stored in.
"""

import json
import math
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


def perplexity(folder, text, window, count):
    """In the windows of llama-perplexity: each begins with BOS if texts do, and its second half is scored."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer, window, nats, scored = AutoTokenizer.from_pretrained(folder), int(window), 0.0, 0
    ids = torch.tensor(tokenizer(pathlib.Path(text).read_bytes().decode())["input_ids"])
    starts = bool(ids[0] == tokenizer.bos_token_id)
    with torch.no_grad():
        for at in range(int(count)):
            read = ids[at * window : (at + 1) * window].clone()
            assert len(read) == window, f"{len(ids)} tokens are no {count} windows of {window}"
            if starts:
                read[0] = tokenizer.bos_token_id
            half = window // 2
            logits = model(read[None], use_cache=False).logits[0, half:-1].double()
            nats += torch.nn.functional.cross_entropy(logits, read[half + 1 :], reduction="sum").item()
            scored += window - half - 1
    print(json.dumps({"perplexity": math.exp(nats / scored), "tokens": len(ids), "bos": starts}))


{"logits": logits, "tokenize": tokenize, "perplexity": perplexity}[sys.argv[1]](*sys.argv[2:])
