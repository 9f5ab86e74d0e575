"""Records quant.txt: what independent implementations make of quantized blocks.

    python make_quant_goldens.py LIBGGML_BASE > quant.txt

Needs numpy and gguf 0.19 (its Python dequantizers are the oracle of reading) and the shared library
libggml-base.so of a llama.cpp build (its ggml_quantize_chunk is the oracle of writing).

Lines:  input NAME F32...           a row of numbers
        read  TYPE BYTES F32...     blocks, and the numbers they stand for
        write TYPE NAME BYTES       the blocks that llama.cpp makes of an input
        rmse  TYPE VALUE            the error of llama.cpp's blocks on 262144 normal numbers, relative
                                    to their root mean square
BYTES and F32 are hexadecimal, little-endian.
"""

import ctypes
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Where the f16 scales of a block stand, in bytes.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
# Ordinary, negative, subnormal, zero.
SCALE_VALUES = [0.0123, -1.7e-3, 3e-7, 0.0]

rng = np.random.default_rng(3952)


def read_blocks(name):
    elements, size = GGML_QUANT_SIZES[Type[name]]
    count = 4 if elements == 32 else 2
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for place, at in enumerate(SCALES[name]):
        values = np.array([SCALE_VALUES[(i + place) % 4] for i in range(count)], np.float16)
        blocks[:, at : at + 2] = values.view(np.uint8).reshape(count, 2)
    return blocks


def inputs():
    gauss = rng.standard_normal(256) * 0.02
    heavy = rng.standard_t(2, 256) * 0.05
    edges = np.zeros((8, 32))  # the first stays zero
    edges[1] = 0.37
    edges[2] = rng.standard_normal(32) * 1e-3
    edges[2, 5] = -9.0
    edges[3] = rng.standard_normal(32) * 1e-30
    edges[4] = rng.random(32) + 2
    edges[5] = rng.standard_normal(32) * 3e3
    edges[6] = -rng.random(32) * 1e-6
    edges[7] = np.where(np.arange(32) % 2, 1.0, -1.0)
    small = rng.standard_normal(256) * 1e-5
    zeros = np.zeros(256)
    rows = {"gauss": gauss, "heavy": heavy, "edges": edges.ravel(), "small": small, "zeros": zeros}
    return {name: row.astype(np.float32) for name, row in rows.items()}


def quantizer():
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]

    def quantize(name, row):
        elements, size = GGML_QUANT_SIZES[Type[name]]
        out = np.zeros(row.size // elements * size, np.uint8)
        row = np.ascontiguousarray(row)
        ggml.ggml_quantize_chunk(
            Type[name].value, row.ctypes.data, out.ctypes.data, 0, 1, row.size, None
        )
        return out

    return quantize


def main():
    quantize = quantizer()
    for name in SCALES:
        blocks = read_blocks(name)
        values = dequantize(blocks, Type[name]).astype("<f4")
        print("read", name, blocks.tobytes().hex(), values.tobytes().hex())
    for name, row in inputs().items():
        print("input", name, row.astype("<f4").tobytes().hex())
        for dtype in ["F16", "BF16", *SCALES]:
            print("write", dtype, name, quantize(dtype, row).tobytes().hex())
    normal = rng.standard_normal(262144).astype(np.float32)
    for name in SCALES:
        error = dequantize(quantize(name, normal), Type[name]).astype(np.float64) - normal
        rmse = np.sqrt(np.mean(error**2) / np.mean(normal.astype(np.float64) ** 2))
        print("rmse", name, f"{rmse:.6f}")


main()
