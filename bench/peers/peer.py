"""One peer engine, kept loaded, that measures what it is told on its standard input.

    peer.py llama_cpp|ik_llama_cpp MODEL.gguf THREADS

A line is answered by one, {"seconds": ...} or {"error": ...}:

    {"do": "prefill", "kv": "f16", "batch": 1, "prompt": 512, "decode": 64}   prompts, in a new context with room for the decode
    {"do": "decode", "kv": "f16", "batch": 1, "prompt": 512, "decode": 64}    the tokens after them, which are then taken back
    {"do": "forget"}                                                          closes all contexts

Prompts of a batch follow one another in pieces of 512 tokens; decode steps carry one token of every sequence. Both engines use
flash attention, ik repacks its weights when it loads them. The bindings' low-level functions are called: what is timed is the engine.
"""
import ctypes
import json
import os
import sys
import time

PIECE = 512
KV_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}


class Engine:
    def __init__(self, binding, path, threads):
        self.ik = binding == "ik_llama_cpp"
        self.threads = threads
        if self.ik:
            from ik_llama_cpp import _ctypes_api as c
            self.seq_rm = c._lib.llama_kv_cache_seq_rm  # which the binding leaves out
            self.seq_rm.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]
            self.seq_rm.restype = ctypes.c_bool
        else:
            import llama_cpp as c
        self.c = c
        c.llama_backend_init()
        params = c.llama_model_default_params()
        params.n_gpu_layers = 0
        if self.ik:
            params.repack_tensors = True
            params.use_mmap = False
        self.model = c.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError("the model cannot be loaded")
        self.n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.rows = c.llama_batch_init(PIECE, 0, 1)
        self.contexts = {}  # by cache type

    def context(self, kv, batch, n_tokens):
        c = self.c
        params = c.llama_context_default_params()
        params.n_ctx = (n_tokens + 255) // 256 * 256 * batch
        params.n_batch = params.n_ubatch = PIECE
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = KV_TYPES[kv]
        if self.ik:
            params.flash_attn = True
        else:
            params.flash_attn_type = 1
        context = c.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"no context of {params.n_ctx} tokens with {kv}")
        return context

    def run(self, context, batch, rows):
        """rows: (token, position, sequence, wants logits)"""
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        if self.c.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        if rows[-1][3]:
            self.c.llama_get_logits_ith(context, len(rows) - 1)

    def cut(self, context, sequence, first):
        """Takes back a sequence's tokens from position `first` on."""
        if self.ik:
            done = self.seq_rm(context, sequence, first, -1)
        else:
            done = self.c.llama_memory_seq_rm(self.c.llama_get_memory(context), sequence, first, -1)
        if not done:
            raise RuntimeError("tokens cannot be taken back")

    def token(self, sequence, position):
        return (sequence * 997 + position * 31) % (self.n_vocab - 1000) + 500

    def prefill(self, kv, batch, prompt, decode):
        self.forget(kv)
        context = self.contexts[kv] = self.context(kv, batch, prompt + decode)
        self.run(context, self.rows, [(self.token(0, i), i, 0, i == 63) for i in range(64)])
        self.cut(context, 0, 0)
        rows = [(self.token(s, t), t, s, t == prompt - 1) for s in range(batch) for t in range(prompt)]
        started = time.perf_counter()
        for i in range(0, len(rows), PIECE):
            self.run(context, self.rows, rows[i:i + PIECE])
        return time.perf_counter() - started

    def decode(self, kv, batch, prompt, decode):
        context = self.contexts[kv]
        started = time.perf_counter()
        for position in range(prompt, prompt + decode):
            self.run(context, self.rows, [(self.token(s, position), position, s, 1) for s in range(batch)])
        seconds = time.perf_counter() - started
        for s in range(batch):
            self.cut(context, s, prompt)
        return seconds

    def forget(self, kv):
        if kv in self.contexts:
            self.c.llama_free(self.contexts.pop(kv))


def answer(engine, do, **point):
    if do != "forget":
        return {"prefill": engine.prefill, "decode": engine.decode}[do](**point)
    for kv in list(engine.contexts):
        engine.forget(kv)
    return 0.0


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the engines' own chatter goes to stderr
    engine = Engine(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        try:
            print(json.dumps({"seconds": answer(engine, **json.loads(line))}), file=answers)
        except Exception as error:  # the run goes on without this point
            print(json.dumps({"error": str(error)}), file=answers)


main()
