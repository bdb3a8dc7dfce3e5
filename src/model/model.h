/* model.h - architectures llama, qwen2, gemma3: what a file must hold, checked, and its weights packed for this CPU,
 * or left where they are.
 *
 * Which file does what: hparams.c reads the numbers, rope.c the rotation, tensors.c checks and packs the weights,
 * model.c opens and closes, forward.c runs rows through the layers, sample.c picks a token. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H
#include "base/threads.h"
#include "cpu/pack.h"
#include "gguf/gguf.h"
#include "kv/method.h"
#include "text/tokenizer.h"

typedef enum model_arch { MODEL_LLAMA, MODEL_QWEN2, MODEL_GEMMA3 } model_arch;

typedef struct model_layer {
    const float *attn_norm, *ffn_norm;           /* [n_embd] */
    const float *attn_post_norm, *ffn_post_norm; /* [n_embd] gemma3, else NULL */
    const float *q_norm, *k_norm;                /* [head_dim] gemma3, else NULL */
    const float *q_bias, *k_bias, *v_bias;       /* where the file has them, else NULL */
    pack_matrix wq, wk, wv, wo, gate, up, down;
} model_layer;

struct pleat_model {
    gguf *file;
    tokenizer *tok;
    model_arch arch;
    char arch_name[16], name[128];
    int n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_vocab, context_tokens;
    float norm_eps, embed_scale; /* embed_scale: sqrt(n_embd) for gemma3, else 1 */
    float rope_magnitude[2];     /* factor on cos and sin (yarn), else 1; global layers, local ones */
    const gguf_tensor *embed;    /* [n_vocab][n_embd], rows are opened from the mapping */
    pack_matrix head;            /* the output matrix (tied: embed) */
    const float *out_norm;       /* [n_embd] */
    model_layer *layer;          /* [n_layer] */
    kv_layer_shape *shape;       /* [n_layer] */
    float *rope_inv[2];          /* [n_rot/2] of global layers, of local ones (NULL: none) */
    kv_model kv;
    bool mapped;  /* matrices stay in the file */
    void *packed; /* one mapping with everything packed, and vectors as floats */
    size_t packed_bytes, mapped_bytes;
};

/* hparams.c: every number of the model from the metadata, checked against each other. PLEAT_EINPUT names file, key and
 * value. */
pleat_status hparams_read(pleat_model *model, pleat_error *error);
/* rope.c: rope_inv, shape[].rope_inv and rope_magnitude; needs the numbers. */
pleat_status rope_read(pleat_model *model, pleat_error *error);
/* tensors.c: checks type and shape of every tensor (an unknown one is refused by name) and packs them; of a mapped
 * model the vectors alone. */
pleat_status tensors_pack(pleat_model *model, threads *pool, pleat_error *error);
/* tensors.c: kv_model.open_wo, from the file's own tensor. */
void tensors_open_wo(const void *owner, int il, int h, float *wo);
/* model.c: pretends a longer trained context, for timing beyond it; before any engine is opened. */
void model_stretch_context(pleat_model *model, int n_tokens);
#endif
