#!/usr/bin/env python3
"""Writes the reference figures under tests/data/golden with llama.cpp, an engine that shares no code with pleat.

Needs llama-cpp-python (tried with 0.3.36) and numpy in some Python of your own; neither pleat nor its tests depend on them.

    python3 scripts/golden/make_golden.py OUT_DIR [tokens] [greedy] [logits] [perplexity] [--model NAME]... [--wide]

Without a part named, all parts are made; without --model, all four models. --wide: greedy text from the same weights written
out as F32 (needs gguf, and disk for a temporary file), so that no activation is rounded to 8 bits. Models are taken from
$PLEAT_HOME/models/NAME.gguf (default ~/.cache/pleat). What the files hold stands in tests/data/golden/README.md."""
import ctypes
import math
import os
import sys
import tempfile

import llama_cpp as L
import numpy as np

from make_perplexity import widen

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma3-270m"]
THREADS = 2
STEPS = 48
TEXT = os.path.join(HERE, "../../tests/data/shakespeare-40k.txt")

STRINGS = [
    b"", b" ", b"  ", b"\n", b"a", b"Hello", b" Hello", b"Hello, world!", b"The quick brown fox jumps over the lazy dog.",
    b"It's we're they've I'm she'll he'd IT'S WE'RE don't", "it’s ‘quoted’ — dash…".encode(), "'ſ 'S 'ſt".encode(),
    b"0", b"1234567890", b"3.14159e-10", b"year 2024, 12:30:59", "½ Ⅷ ٣٤٥ 一二三 ①②".encode(), b"1 22 333 4444 55555",
    b"a  b   c    d", b"   leading and trailing   ", b"tab\tand\t\ttabs", b"line\nline\r\nline\r\n\r\n\n\nend", b" \n \n  \n\t\n x",
    b"\n" * 40, b" " * 70, b"\t" * 33, "\u00a0nbsp\u3000ideographic\u2003em\u180emvs\u0085nel\u200bzw".encode(),
    b"def f(x):\n    return x**2 + 1  # square\n", b"for (int i = 0; i < n; i++) {\n\t\ta[i] += b[i];\n}\n",
    b'{"key": [1, 2.5, null, true], "s": "\\u00e9\\n"}', b"<html><body><h1>T</h1><table></table></body></html>",
    b"https://example.org/a/b?c=d&e=%20f#g", b"CamelCase snake_case kebab-case SCREAMING_CASE x86_64",
    b"!!!???...;;;:::", b"==>!=<=>=+-*/^~|&%$#@`\\", "α+β=γ ∑∫√ ≤≥ ±".encode(), "naïve café façade Ångström".encode(),
    "e\u0301 a\u0308\u0304 \u0301\u0302".encode(), "Z̸͕̈́a̷l̵g̶o̴".encode(), "日本語のテキスト、漢字とカタカナ。".encode(), "中文分词测试，你好！".encode(),
    "한국어 문장입니다".encode(), "Привет, как дела?".encode(), "שלום עולם".encode(), "مرحبا بالعالم ١٢٣".encode(), "नमस्ते दुनिया".encode(), "สวัสดีชาวโลก".encode(),
    "😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽".encode(), "🇩🇪🇯🇵 \U0001F9FF".encode(), "\U00031350\U0001e030\U00011f50 new letters".encode(), "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ﬀ".encode(),
    "▁▁lower one eighth▁block".encode(), "\ufeffbom \ufffd \ue000".encode(), b"nul\0inside\0",
    b"\xff\xfe", b"\xc3\x28", b"ab\xe2\x82", b"\x80\x81 tail", b"\xc0\x80 overlong \xe0\x80\xaf", b"\xed\xa0\x80 surrogate \xed\xb0\x80",
    b"<|im_start|>user\nHi<|im_end|>\n", b"x<|endoftext|> y </s> z", b"<bos><start_of_turn>user\nHi<end_of_turn>\n<eos>",
    b"<tool_call>{}</tool_call> <|im_start", b"<s>[INST] hi [/INST]</s> <unk> <0x41> <unused7>", b"<reponame> <|fim_pad|> [PAD151665] <jupyter_text>",
    b"Wherefore art thou Romeo? Deny thy father and refuse thy name.", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]

PROMPTS = [
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Germany is",
    "def fibonacci(n):\n    \"\"\"Returns the n-th Fibonacci number.\"\"\"\n",
    None,  # bytes 3,000 to 3,800 of the text
]


def path(name):
    return os.path.join(os.environ.get("PLEAT_HOME", os.path.expanduser("~/.cache/pleat")), "models", name + ".gguf")


class Engine:
    def __init__(self, name, n_ctx=0, vocab_only=False, file=None):
        params = L.llama_model_default_params()
        params.vocab_only = vocab_only
        self.model = L.llama_model_load_from_file((file or path(name)).encode(), params)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.n_vocab = L.llama_vocab_n_tokens(self.vocab)
        self.ctx = None
        if not vocab_only:
            params = L.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, n_ctx, n_ctx, 1
            params.n_threads = params.n_threads_batch = THREADS
            params.flash_attn_type = 0  # off
            params.type_k = params.type_v = 1  # F16
            self.ctx = L.llama_init_from_model(self.model, params)

    def close(self):
        if self.ctx:
            L.llama_free(self.ctx)
        L.llama_model_free(self.model)

    def tokenize(self, text, add, parse):
        n = 2 * len(text) + 16
        ids = (ctypes.c_int32 * n)()
        got = L.llama_tokenize(self.vocab, text, len(text), ids, n, add, parse)
        assert got >= 0
        return list(ids[:got])

    def clear(self):
        L.llama_memory_clear(L.llama_get_memory(self.ctx), True)

    def decode(self, ids, at, all_rows):
        """Logits of the last row, or of all rows [n][n_vocab]."""
        batch = L.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, at + i, 1, 0
            batch.logits[i] = all_rows or i + 1 == len(ids)
        assert L.llama_decode(self.ctx, batch) == 0
        L.llama_batch_free(batch)
        rows = len(ids) if all_rows else 1
        if all_rows:
            got = [np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, i), (self.n_vocab,)) for i in range(rows)]
            return np.stack(got)
        return np.array(np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, len(ids) - 1), (self.n_vocab,)))


def log_softmax(x):
    x = x.astype(np.float64)
    top = x.max(axis=-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def words(ids):
    return "".join(" %d" % i for i in ids)


def make_tokens(name, out):
    engine = Engine(name, vocab_only=True)
    with open(os.path.join(out, "tokens-%s.txt" % name), "w") as f:
        for text in STRINGS:
            f.write("text %s\n" % (text.hex() or "-"))
            f.write("plain%s\n" % words(engine.tokenize(text, False, False)))
            f.write("special%s\n" % words(engine.tokenize(text, True, True)))
    engine.close()


def make_greedy(name, out, file=None):
    engine = Engine(name, n_ctx=1024, file=file)
    with open(os.path.join(out, "greedy-%s.txt" % name), "w") as f:
        for prompt in PROMPTS:
            text = prompt.encode() if prompt else open(TEXT, "rb").read()[3000:3800]
            ids = engine.tokenize(text, True, True)
            f.write("prompt%s\n" % words(ids))
            engine.clear()
            logits = engine.decode(ids, 0, False)
            for step in range(STEPS):
                log_p = log_softmax(logits)
                first, second = np.argsort(-log_p, kind="stable")[:2]
                f.write("step %d %.4f %d %.4f\n" % (first, log_p[first], second, log_p[second]))
                logits = engine.decode([int(first)], len(ids) + step, False)
    engine.close()


def make_greedy_wide(name, out):
    with tempfile.TemporaryDirectory() as folder:
        widen(path(name), folder + "/wide.gguf")
        make_greedy(name, out, folder + "/wide.gguf")


def make_logits(name, out):
    engine = Engine(name, n_ctx=512)
    ids = engine.tokenize(open(TEXT, "rb").read()[:1000], True, False)[:32]
    engine.clear()
    logits = engine.decode(ids, 0, False)
    with open(os.path.join(out, "logits-%s.txt" % name), "w") as f:
        f.write("prompt%s\n" % words(ids))
        for i in np.argsort(-logits, kind="stable")[:64]:
            f.write("logit %d %.5f\n" % (i, logits[i]))
    engine.close()


def make_perplexity(name):
    """The protocol of llama.cpp's perplexity tool, context 512: prints one line for the README."""
    engine = Engine(name, n_ctx=512)
    ids = engine.tokenize(open(TEXT, "rb").read(), True, False)
    loss = []
    for first in range(0, len(ids) - 511, 512):
        window = ids[first : first + 512]
        if L.llama_vocab_get_add_bos(engine.vocab):
            window[0] = L.llama_vocab_bos(engine.vocab)
        engine.clear()
        log_p = log_softmax(engine.decode(window, 0, True)[256:511])
        loss += [-log_p[i, window[257 + i]] for i in range(255)]
        print("%s: window %d, %.4f" % (name, first // 512 + 1, math.exp(np.mean(loss))), file=sys.stderr, flush=True)
    mean, error = np.mean(loss), np.std(loss) / math.sqrt(len(loss) - 1)
    print("%s: perplexity %.4f +/- %.4f, %d windows" % (name, math.exp(mean), math.exp(mean) * error, len(loss) // 255), flush=True)
    engine.close()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out, names, parts, rest = sys.argv[1], [], [], sys.argv[2:]
    wide = "--wide" in rest
    while rest:
        word = rest.pop(0)
        if word == "--wide":
            continue
        names.append(rest.pop(0)) if word == "--model" else parts.append(word)
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    L.llama_log_set(quiet, None)
    L.llama_backend_init()
    for name in names or MODELS:
        for part in parts or ["tokens", "greedy", "logits", "perplexity"]:
            if part == "tokens":
                make_tokens(name, out)
            elif part == "greedy":
                (make_greedy_wide if wide else make_greedy)(name, out)
            elif part == "logits" and name == "smollm2-135m":
                make_logits(name, out)
            elif part == "perplexity":
                make_perplexity(name)


if __name__ == "__main__":
    main()
