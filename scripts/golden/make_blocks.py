#!/usr/bin/env python3
"""Writes tests/data/golden/blocks.txt: weight blocks and their values by the `gguf` package of llama.cpp's authors.

Needs gguf (tried with 0.19.0) and numpy in some Python of your own; neither pleat nor its tests depend on them.

    python3 scripts/golden/make_blocks.py >tests/data/golden/blocks.txt

Codes are random bytes, so that every bit counts; scales are hand-made fp16 numbers: plain ones, negative, 0, subnormal, the
smallest and the largest. One line a type: its number in a file, elements, the blocks in hex, the values as hex of their
little-endian floats."""
import sys

import gguf
import numpy as np
from gguf import quants

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
HALVES = [0.0123, -0.75, 0.0, 6.1e-5, 5.96e-8, 1.0, -3.3e-6, 511.5]
FLOATS = [0.0, -0.0, 1.0, -2.5, 1e-40, 3.4e38, -1.17549435e-38, 0.1, 65504.0, 5.96e-8, -6.1e-5, 1 / 3]


def blocks_of(name, rng):
    kind = getattr(gguf.GGMLQuantizationType, name)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    if name == "F32":
        return kind, np.array(FLOATS, np.float32).view(np.uint8)
    if name == "F16":
        return kind, np.array(FLOATS, np.float64).clip(-65504, 65504).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return kind, (np.array(FLOATS, np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    n = 4 if elements == 256 else 8
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for i in range(n):
        for k, at in enumerate(SCALES[name]):
            raw[i, at : at + 2] = np.array([HALVES[(i + 3 * k) % len(HALVES)]], np.float16).view(np.uint8)
    return kind, raw.reshape(-1)


def main():
    rng = np.random.default_rng(7)
    for name in TYPES:
        kind, raw = blocks_of(name, rng)
        values = quants.dequantize(raw, kind).astype(np.float32).reshape(-1)
        assert np.isfinite(values).all()
        print(int(kind), len(values), raw.tobytes().hex(), values.tobytes().hex())


if __name__ == "__main__":
    sys.exit(main())
