#!/usr/bin/env python3
"""llama.cpp's perplexity of a text on a model as its file stores it, and on the same weights as F32.

usage: make_perplexity.py MODEL.gguf TEXT     (needs PyPI's llama-cpp-python, gguf and numpy)

Windows of 512 tokens, the first token of each replaced by the model's own start token where it has one, second half scored.
The F32 file is temporary. On it no engine rounds activations to 8 bits, so the second figure
is what exact arithmetic gives."""
import sys
import tempfile

import llama_cpp
import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

WINDOW = 512


def widen(source, target):
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def perplexity(path, text):
    model = llama_cpp.Llama(path, n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=WINDOW, logits_all=True, verbose=False)
    starts = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(model.model))
    ids = list(model.tokenize(text, add_bos=True))
    total, scored, windows = 0.0, 0, len(ids) // WINDOW
    for window in range(windows):
        true = ids[window * WINDOW : (window + 1) * WINDOW]
        model.reset()
        model.eval(([model.token_bos()] + true[1:]) if starts else true)
        for at in range(WINDOW // 2, WINDOW - 1):
            row = model.scores[at].astype(np.float64)
            top = row.max()
            total += top + np.log(np.exp(row - top).sum()) - row[true[at + 1]]
            scored += 1
    return np.exp(total / scored), windows


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[2], "rb") as file:
        text = file.read()
    print("as stored: %.4f (%d windows)" % perplexity(sys.argv[1], text))
    with tempfile.TemporaryDirectory() as folder:
        wide = folder + "/wide.gguf"
        widen(sys.argv[1], wide)
        print("as F32:    %.4f (%d windows)" % perplexity(wide, text))


if __name__ == "__main__":
    main()
