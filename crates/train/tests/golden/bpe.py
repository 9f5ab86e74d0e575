"""Writes bpe.json beside it: merges and ids of Hugging Face's tokenizers for a small corpus.

    pip install tokenizers==0.23.3 && python bpe.py
"""

import json
import pathlib

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REGEXES = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": WORDS % "",
    "nanochat": WORDS % "{1,2}",
    "llama3": WORDS % "{1,3}",
}
CORPUS = [
    "the cat sat on the mat; the other cat, then, sat there too.\n",
    "It's what they'd said: we'll see, I'M sure you've seen WE'RE here.\n",
    "aaaa aaaaa aaaaaaaa aaaaaaaaaaaaa ababab abababab bababa bbbbb\n",
    "1 12 123 1234 12345 2024-11-28 3.14159 1e10 0x7f\n",
    "床前明月光,疑是地上霜。舉頭望明月,低頭思故鄉。明月明月明月\n",
    "Äpfel und Öl, naïve café — “quoted” … ½ ² ٣٤ ᚠᛇ 🦙🦙 👩‍👩‍👧\n",
    "    indented\n\n\n\ttabs\t\tand  spaces   \r\n\r\nend  ",
    "def f(x):\n    return x + 1  # f(x) = x + 1\n\ndef g(x):\n    return f(x) + f(x)\n",
    "banana bandana cabana anagram nanana banana banana bandana\n",
    "there the then them these they their other another mother brother bother\n",
]
TEXTS = CORPUS + ["", " ", "Unseen: zygote, ſtrange 'ſ, \u0000\u0001, 한국어, <|endoftext|> as text. 99999999"]


def case(name, vocabulary, least):
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(REGEXES[name]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=least,
        show_progress=False,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"]
    # Special tokens must stay text here: encode what stands between them.
    plain = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]]))
    plain.pre_tokenizer = tokenizer.pre_tokenizer
    return {
        "pre_tokenizer": name,
        "vocabulary": len(vocab),
        "min_frequency": least,
        "merges": [[vocab[left], vocab[right]] for left, right in model["merges"]],
        "ids": [plain.encode(text).ids for text in TEXTS],
    }


cases = [
    case("gpt-2", 400, 2),
    case("qwen2", 380, 2),
    case("nanochat", 380, 2),
    case("llama3", 600, 1),
]
golden = {"corpus": CORPUS, "texts": TEXTS, "cases": cases}
path = pathlib.Path(__file__).with_name("bpe.json")
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")
for one in cases:
    print(one["pre_tokenizer"], len(one["merges"]), "merges")
