/* tiny_model.h - a small random model as a GGUF file, complete with a tokenizer: what every test without a real model
 * runs on. */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H
#include "cpu/blocks.h"
#include "gguf_writer.h"

typedef struct tiny_options {
    const char *arch; /* "llama", "qwen2", "gemma3" */
    int n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff, context;
    int window;      /* gemma3: of local layers */
    int period;      /* gemma3: every period-th layer is global */
    block_type type; /* of the matrices */
    bool spm;        /* an SPM vocabulary, else byte-level BPE */
    bool template;   /* with a chatml template */
    uint64_t seed;
    /* rotation; 0 and NULL: the file is silent, but for the base (10,000) */
    float rope_base, local_base; /* local_base: of gemma3's local layers */
    const char *scaling;         /* none, linear, yarn */
    float scaling_factor;
    int scaling_original;
    const float *rope_factors; /* [head_dim / 2] */
    bool silent_windows;       /* gemma3: the file names neither window nor period */
} tiny_options;

tiny_options tiny_default(void); /* llama, 2 layers, 4/2 heads of 64, Q4_1, BPE */
/* The writer of the file, to be damaged or added to before it is saved. */
gguf_writer *tiny_writer(const tiny_options *o);
void tiny_write(const char *path, const tiny_options *o);
enum { TINY_BPE_VOCAB = 256 + 4 + 3, TINY_SPM_VOCAB = 3 + 256 + 26 + 4 };
#endif
