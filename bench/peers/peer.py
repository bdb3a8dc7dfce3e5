"""One peer engine, kept loaded, that measures what it is told on its standard input.

    peer.py llama_cpp|ik_llama_cpp MODEL.gguf THREADS

Each line {"kv": "f16", "batch": 1, "prompt": 512, "decode": 64} is answered by {"prefill_s": ..., "decode_s": ...} or {"error": ...}.
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

    def clear(self, context):
        if self.ik:
            self.c.llama_kv_cache_clear(context)
        else:
            self.c.llama_memory_clear(self.c.llama_get_memory(context), True)

    def measure(self, kv, batch, prompt, decode):
        c = self.c
        token = lambda sequence, position: (sequence * 997 + position * 31) % (self.n_vocab - 1000) + 500
        context = self.context(kv, batch, prompt + decode)
        rows = c.llama_batch_init(PIECE, 0, 1)
        try:
            self.run(context, rows, [(token(0, i), i, 0, i == 63) for i in range(64)])
            self.clear(context)
            all_rows = [(token(s, t), t, s, t == prompt - 1) for s in range(batch) for t in range(prompt)]
            started = time.perf_counter()
            for i in range(0, len(all_rows), PIECE):
                self.run(context, rows, all_rows[i:i + PIECE])
            prefilled = time.perf_counter()
            for step in range(decode):
                position = prompt + step
                self.run(context, rows, [(token(s, position), position, s, 1) for s in range(batch)])
            return {"prefill_s": prefilled - started, "decode_s": time.perf_counter() - prefilled}
        finally:
            c.llama_batch_free(rows)
            c.llama_free(context)


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the engines' own chatter goes to stderr
    engine = Engine(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        try:
            print(json.dumps(engine.measure(**json.loads(line))), file=answers)
        except Exception as error:  # the run goes on without this point
            print(json.dumps({"error": str(error)}), file=answers)


main()
