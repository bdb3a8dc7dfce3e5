/* tiny_model.c - see tiny_model.h. Weights are normal with a spread of 1/sqrt(n_cols), so that activations keep their
 * size through the layers; norms are near 1; biases (qwen2) near 0 with one large key channel, as in the real family.
 */
#include "support/tiny_model.h"
#include "base/rng.h"
#include "text/vocab.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

tiny_options tiny_default(void) {
    return (tiny_options){.arch = "llama",
                          .n_layer = 2,
                          .n_head = 4,
                          .n_head_kv = 2,
                          .head_dim = 64,
                          .n_embd = 256,
                          .n_ff = 512,
                          .context = 2048,
                          .window = 64,
                          .period = 2,
                          .type = BLOCK_Q4_1,
                          .template = true,
                          .seed = 1};
}

typedef struct tiny {
    gguf_writer *w;
    const tiny_options *o;
    uint64_t stream;
} tiny;

static void key_int(tiny *t, const char *name, int value) {
    char key[100];
    snprintf(key, sizeof(key), "%s.%s", t->o->arch, name);
    gguf_writer_u32(t->w, key, (uint32_t)value);
}

static void key_float(tiny *t, const char *name, float value) {
    char key[100];
    snprintf(key, sizeof(key), "%s.%s", t->o->arch, name);
    gguf_writer_f32(t->w, key, value);
}

/* n_rows 0: a vector. */
static void tensor(tiny *t, const char *name, block_type type, int n_cols, int n_rows, float middle, float spread) {
    int64_t ne[2] = {n_cols, n_rows ? n_rows : 1};
    size_t n = (size_t)(ne[0] * ne[1]);
    float *x = malloc(n * sizeof(*x));
    assert(x);
    t->stream++;
    for (size_t i = 0; i < n; i++)
        x[i] = middle + spread * (float)rng_normal(t->o->seed, t->stream, i);
    if (strstr(name, "attn_k.bias"))
        x[5] = 40;
    gguf_writer_tensor(t->w, name, type, n_rows ? 2 : 1, ne, x);
    free(x);
}

static void layer(tiny *t, int il) {
    const tiny_options *o = t->o;
    int e = o->n_embd, q = o->n_head * o->head_dim, kv = o->n_head_kv * o->head_dim, d = o->head_dim;
    bool gemma = !strcmp(o->arch, "gemma3"), qwen = !strcmp(o->arch, "qwen2");
    float wide = 1 / sqrtf((float)e);
    const struct {
        const char *name;
        int cols, rows;
        float middle, spread;
        bool there;
    } list[] = {
        {"attn_norm.weight", e, 0, 1, 0.1f, true},
        {"attn_q.weight", e, q, 0, 2 * wide, true},
        {"attn_k.weight", e, kv, 0, 2 * wide, true},
        {"attn_v.weight", e, kv, 0, wide, true},
        {"attn_q.bias", q, 0, 0, 0.1f, qwen},
        {"attn_k.bias", kv, 0, 0, 0.5f, qwen},
        {"attn_v.bias", kv, 0, 0, 0.1f, qwen},
        {"attn_q_norm.weight", d, 0, 1, 0.1f, gemma},
        {"attn_k_norm.weight", d, 0, 1, 0.1f, gemma},
        {"attn_output.weight", q, e, 0, 1 / sqrtf((float)q), true},
        {"post_attention_norm.weight", e, 0, 1, 0.1f, gemma},
        {"ffn_norm.weight", e, 0, 1, 0.1f, true},
        {"ffn_gate.weight", e, o->n_ff, 0, wide, true},
        {"ffn_up.weight", e, o->n_ff, 0, wide, true},
        {"ffn_down.weight", o->n_ff, e, 0, 1 / sqrtf((float)o->n_ff), true},
        {"post_ffw_norm.weight", e, 0, 1, 0.1f, gemma},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        char name[64];
        if (!list[i].there)
            continue;
        snprintf(name, sizeof(name), "blk.%d.%s", il, list[i].name);
        tensor(t, name, list[i].rows ? o->type : BLOCK_F32, list[i].cols, list[i].rows, list[i].middle, list[i].spread);
    }
}

/* 256 bytes as their visible characters, four special tokens, three merges. */
static int bpe_vocab(tiny *t) {
    static char piece[TINY_BPE_VOCAB][24];
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra>"};
    static const char *const merged[] = {"th", "the",
                                         "\xc4\xa0the"}; /* the last begins with the visible form of a space */
    static const char *const merges[] = {"t h", "th e", "\xc4\xa0 the"};
    const char *tokens[TINY_BPE_VOCAB];
    int32_t types[TINY_BPE_VOCAB];
    for (int i = 0; i < TINY_BPE_VOCAB; i++) {
        types[i] = VOCAB_NORMAL;
        if (i < 256)
            piece[i][vocab_byte_char((uint8_t)i, piece[i])] = 0;
        else if (i < 260)
            strcpy(piece[i], special[i - 256]);
        else
            strcpy(piece[i], merged[i - 260]);
        if (i >= 256 && i < 260)
            types[i] = i == 259 ? VOCAB_USER : VOCAB_CONTROL;
        tokens[i] = piece[i];
    }
    gguf_writer_string(t->w, "tokenizer.ggml.model", "gpt2");
    gguf_writer_string(t->w, "tokenizer.ggml.pre", "smollm");
    gguf_writer_strings(t->w, "tokenizer.ggml.tokens", tokens, TINY_BPE_VOCAB);
    gguf_writer_array(t->w, "tokenizer.ggml.token_type", GGUF_I32, types, TINY_BPE_VOCAB);
    gguf_writer_strings(t->w, "tokenizer.ggml.merges", merges, 3);
    gguf_writer_u32(t->w, "tokenizer.ggml.bos_token_id", 256);
    gguf_writer_u32(t->w, "tokenizer.ggml.eos_token_id", 258);
    gguf_writer_bool(t->w, "tokenizer.ggml.add_bos_token", false);
    return TINY_BPE_VOCAB;
}

/* <unk> <s> </s>, 256 bytes, letters, four longer pieces. */
static int spm_vocab(tiny *t) {
    static char piece[TINY_SPM_VOCAB][16];
    static const char *const longer[] = {"\xe2\x96\x81", "th", "the", "\xe2\x96\x81the"};
    const char *tokens[TINY_SPM_VOCAB];
    int32_t types[TINY_SPM_VOCAB];
    float scores[TINY_SPM_VOCAB];
    for (int i = 0; i < TINY_SPM_VOCAB; i++) {
        tokens[i] = piece[i];
        scores[i] = (float)-i;
        types[i] = i == 0 ? VOCAB_UNKNOWN : i < 3 ? VOCAB_CONTROL : i < 259 ? VOCAB_BYTE : VOCAB_NORMAL;
        if (i < 3)
            strcpy(piece[i], i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
        else if (i < 259)
            snprintf(piece[i], sizeof(piece[i]), "<0x%02X>", i - 3);
        else if (i < 285)
            snprintf(piece[i], sizeof(piece[i]), "%c", 'a' + i - 259);
        else
            strcpy(piece[i], longer[i - 285]);
    }
    gguf_writer_string(t->w, "tokenizer.ggml.model", "llama");
    gguf_writer_strings(t->w, "tokenizer.ggml.tokens", tokens, TINY_SPM_VOCAB);
    gguf_writer_array(t->w, "tokenizer.ggml.scores", GGUF_F32, scores, TINY_SPM_VOCAB);
    gguf_writer_array(t->w, "tokenizer.ggml.token_type", GGUF_I32, types, TINY_SPM_VOCAB);
    gguf_writer_u32(t->w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(t->w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_u32(t->w, "tokenizer.ggml.unknown_token_id", 0);
    return TINY_SPM_VOCAB;
}

gguf_writer *tiny_writer(const tiny_options *o) {
    tiny t = {.w = gguf_writer_open(3), .o = o};
    bool gemma = !strcmp(o->arch, "gemma3");
    gguf_writer_string(t.w, "general.architecture", o->arch);
    gguf_writer_string(t.w, "general.name", "tiny");
    key_int(&t, "block_count", o->n_layer);
    key_int(&t, "context_length", o->context);
    key_int(&t, "embedding_length", o->n_embd);
    key_int(&t, "feed_forward_length", o->n_ff);
    key_int(&t, "attention.head_count", o->n_head);
    key_int(&t, "attention.head_count_kv", o->n_head_kv);
    key_int(&t, "attention.key_length", o->head_dim);
    key_int(&t, "attention.value_length", o->head_dim);
    key_float(&t, "attention.layer_norm_rms_epsilon", 1e-5f);
    key_float(&t, "rope.freq_base", o->rope_base > 0 ? o->rope_base : 10000);
    char key[100];
    snprintf(key, sizeof(key), "%s.rope.scaling.type", o->arch);
    if (o->scaling)
        gguf_writer_string(t.w, key, o->scaling);
    if (o->scaling_factor > 0)
        key_float(&t, "rope.scaling.factor", o->scaling_factor);
    if (o->scaling_original)
        key_int(&t, "rope.scaling.original_context_length", o->scaling_original);
    if (o->local_base > 0)
        key_float(&t, "rope.freq_base_swa", o->local_base);
    if (gemma && !o->silent_windows) {
        key_int(&t, "attention.sliding_window", o->window);
        key_int(&t, "attention.sliding_window_pattern", o->period);
    }
    int n_vocab = o->spm ? spm_vocab(&t) : bpe_vocab(&t);
    if (o->template)
        gguf_writer_string(
            t.w, "tokenizer.chat_template",
            "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}");
    tensor(&t, "token_embd.weight", o->type, o->n_embd, n_vocab, 0, gemma ? 0.05f : 1);
    tensor(&t, "output_norm.weight", BLOCK_F32, o->n_embd, 0, 1, 0.1f);
    for (int il = 0; il < o->n_layer; il++)
        layer(&t, il);
    if (o->rope_factors)
        gguf_writer_tensor(t.w, "rope_freqs.weight", BLOCK_F32, 1, (int64_t[]){o->head_dim / 2}, o->rope_factors);
    if (!gemma)
        tensor(&t, "output.weight", o->type, o->n_embd, n_vocab, 0, 3 / sqrtf((float)o->n_embd));
    return t.w;
}

void tiny_write(const char *path, const tiny_options *o) {
    gguf_writer *w = tiny_writer(o);
    bool ok = gguf_writer_save(w, path);
    gguf_writer_close(w);
    if (!ok) {
        fprintf(stderr, "%s could not be written\n", path);
        abort();
    }
}
