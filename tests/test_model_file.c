/* test_model_file.c - what a model file must hold: every number, tensor and rotation that is wrong is refused by name,
 * what a gemma3 file leaves out is filled in, RoPE is scaled as the file states it, and a number that is none spoils
 * only the answers that meet it. */
#include "engine/engine.h"
#include "model/model.h"
#include "support/env.h"
#include "support/meter.h"
#include "support/reference_forward.h"
#include "support/tiny_model.h"
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MARGIN_BYTES = 16 << 20 };

static tiny_options small(void) {
    tiny_options o = tiny_default();
    o.n_head = 2;
    o.n_head_kv = 1;
    o.head_dim = 32;
    o.n_embd = o.n_ff = 64;
    o.context = 4096;
    o.type = BLOCK_F32;
    return o;
}

/* ---- files with one thing changed ---- */

typedef struct edit {
    const char *key;                               /* taken out of the file; NULL: the list's end */
    enum { DROP, U32, I32, F32, TEXT, LIST } kind; /* and put back as this */
    double number;
    const char *text;
} edit;

/* Renames the first string `name` (with its length before it) in a file, so that nobody finds it. */
static void hide(uint8_t *image, size_t n, const char *name) {
    uint8_t wanted[100];
    uint64_t length = strlen(name);
    memcpy(wanted, &length, 8);
    memcpy(wanted + 8, name, length);
    uint8_t *at = memmem(image, n, wanted, 8 + length);
    if (at)
        at[8] = '~';
}

static void add(gguf_writer *w, const edit *e) {
    switch (e->kind) {
    case DROP:
        break;
    case U32:
        gguf_writer_u32(w, e->key, (uint32_t)e->number);
        break;
    case I32:
        gguf_writer_int(w, e->key, GGUF_I32, (int64_t)e->number);
        break;
    case F32:
        gguf_writer_f32(w, e->key, (float)e->number);
        break;
    case TEXT:
        gguf_writer_string(w, e->key, e->text);
        break;
    case LIST:
        gguf_writer_array(w, e->key, GGUF_U32, (uint32_t[]){1, 1}, 2);
        break;
    }
}

typedef struct memory_file {
    int fd;
    char path[40];
    size_t n;
} memory_file;

static memory_file save(uint8_t *image, size_t n) {
    memory_file f = {.fd = memfd_create("model", 0), .n = n};
    assert_int_equal(write(f.fd, image, n), n);
    snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
    free(image);
    return f;
}

/* Added keys come after those that were there, which are hidden. */
static memory_file edited(gguf_writer *w, const edit *edits) {
    size_t n, n_before;
    uint8_t *before = gguf_writer_image(w, &n_before, NULL);
    for (const edit *e = edits; e->key; e++)
        add(w, e);
    uint8_t *image = gguf_writer_image(w, &n, NULL);
    gguf_writer_close(w);
    for (const edit *e = edits; e->key; e++)
        if (memmem(before, n_before, e->key, strlen(e->key)))
            hide(image, n, e->key);
    free(before);
    return save(image, n);
}

static void refused_file(memory_file f, bool placed, const char *const *words) {
    pleat_model *model = NULL;
    pleat_error error = {""};
    meter_start();
    pleat_status status = pleat_model_open(f.path, 1, &model, &error);
    assert_true(meter_peak() <= f.n + MARGIN_BYTES);
    if (status != PLEAT_EINPUT || model)
        fail_msg("%s: status %d (%s)", words[0], status, error.text);
    if (!strstr(error.text, f.path) || (placed && !strstr(error.text, ": byte ")))
        fail_msg("%s: the sentence does not say where: %s", words[0], error.text);
    for (; *words; words++)
        if (!strstr(error.text, *words))
            fail_msg("\"%s\" is not in: %s", *words, error.text);
    close(f.fd);
}

/* ---- numbers ---- */

#define ARCH(name) "llama." name

static const struct {
    edit edit;
    const char *word;
} bad_numbers[] = {
    {{"general.architecture", DROP, 0, NULL}, "general.architecture is missing"},
    {{"general.architecture", TEXT, 0, "gptneox"}, "\"gptneox\"; known are llama, qwen2 and gemma3"},
    {{"general.architecture", U32, 3, NULL}, "of type u32; a string"},
    {{"general.name", U32, 3, NULL}, "general.name is of type u32"},
    {{ARCH("block_count"), DROP, 0, NULL}, "block_count is missing"},
    {{ARCH("block_count"), U32, 0, NULL}, "block_count is 0"},
    {{ARCH("block_count"), U32, 1, NULL}, "blk.1.attn_norm.weight is not one that a llama model of 1 layers has"},
    {{ARCH("block_count"), U32, 3, NULL}, "blk.2.attn_norm.weight is missing"},
    {{ARCH("block_count"), U32, 256, NULL}, "blk.2.attn_norm.weight is missing"},
    {{ARCH("block_count"), U32, 257, NULL}, "block_count is 257"}, /* the most layers that methods have room for */
    {{ARCH("block_count"), U32, 2147483648.0, NULL}, "block_count is 2147483648"},
    {{ARCH("block_count"), I32, -1, NULL}, "block_count is -1"},
    {{ARCH("block_count"), F32, 2, NULL}, "block_count is of type f32; an integer"},
    {{ARCH("block_count"), TEXT, 0, "2"}, "block_count is of type string"},
    {{ARCH("block_count"), LIST, 0, NULL}, "block_count is of type array"},
    {{ARCH("embedding_length"), DROP, 0, NULL}, "embedding_length is missing"},
    {{ARCH("embedding_length"), U32, 0, NULL}, "embedding_length is 0"},
    {{ARCH("embedding_length"), U32, 96, NULL}, "token_embd.weight is 64 x 263; the model's numbers make it 96 x 263"},
    {{ARCH("feed_forward_length"), U32, 0, NULL}, "feed_forward_length is 0"},
    {{ARCH("feed_forward_length"), U32, 65, NULL}, "blk.0.ffn_gate.weight is 64 x 64"},
    {{ARCH("context_length"), DROP, 0, NULL}, "context_length is missing"},
    {{ARCH("context_length"), U32, 0, NULL}, "context_length is 0"},
    {{ARCH("context_length"), U32, 4294967295.0, NULL}, "context_length is 4294967295"},
    {{ARCH("attention.head_count"), DROP, 0, NULL}, "head_count is missing"},
    {{ARCH("attention.head_count"), U32, 0, NULL}, "head_count is 0"},
    {{ARCH("attention.head_count"), U32, 3, NULL}, "blk.0.attn_q.weight"},
    {{ARCH("attention.head_count"), U32, 4294967295.0, NULL}, "head_count is 4294967295"},
    {{ARCH("attention.head_count_kv"), U32, 0, NULL}, "head_count_kv is 0"},
    {{ARCH("attention.head_count_kv"), U32, 3, NULL}, "2 query heads cannot share 3 KV heads"},
    {{ARCH("attention.head_count_kv"), U32, 2, NULL}, "blk.0.attn_k.weight"},
    {{ARCH("attention.head_count_kv"), LIST, 0, NULL}, "head_count_kv is of type array"},
    {{ARCH("attention.key_length"), U32, 0, NULL}, "key_length is 0"},
    {{ARCH("attention.key_length"), U32, 48, NULL}, "keys of 48 and values of 32"},
    {{ARCH("attention.value_length"), U32, 0, NULL}, "value_length is 0"},
    {{ARCH("attention.value_length"), U32, 64, NULL}, "keys of 32 and values of 64"},
    {{ARCH("attention.layer_norm_rms_epsilon"), DROP, 0, NULL}, "layer_norm_rms_epsilon"},
    {{ARCH("attention.layer_norm_rms_epsilon"), F32, 0, NULL}, "layer_norm_rms_epsilon"},
    {{ARCH("attention.layer_norm_rms_epsilon"), F32, NAN, NULL}, "layer_norm_rms_epsilon"},
    {{ARCH("attention.layer_norm_rms_epsilon"), U32, 0, NULL}, "layer_norm_rms_epsilon is of type u32; a float"},
    {{ARCH("expert_count"), U32, 8, NULL}, "expert_count is 8; mixtures of experts"},
    {{ARCH("attn_logit_softcapping"), F32, 50, NULL}, "attn_logit_softcapping is 50"},
    {{ARCH("final_logit_softcapping"), F32, 30, NULL}, "final_logit_softcapping is 30"},
    {{ARCH("attention.sliding_window"), U32, 16, NULL}, "sliding_window is 16; windows are known for gemma3 only"},
    {{ARCH("rope.dimension_count"), U32, 0, NULL}, "dimension_count is 0"},
    {{ARCH("rope.dimension_count"), U32, 31, NULL}, "dimension_count is 31; it must be even"},
    {{ARCH("rope.dimension_count"), U32, 34, NULL}, "dimension_count is 34"},
    {{ARCH("rope.freq_base"), F32, 0, NULL}, "freq_base is 0"},
    {{ARCH("rope.freq_base"), F32, NAN, NULL}, "freq_base is nan"},
    {{ARCH("rope.freq_base"), TEXT, 0, "1e4"}, "freq_base is of type string"},
    {{ARCH("rope.scaling.type"), TEXT, 0, "longrope"}, "\"longrope\"; known are none, linear and yarn"},
    {{ARCH("rope.scaling.type"), TEXT, 0, "su"}, "\"su\""},
    {{ARCH("rope.scaling.type"), U32, 1, NULL}, "scaling.type is of type u32"},
    {{ARCH("rope.scaling.factor"), F32, 0, NULL}, "scaling.factor is 0"},
    {{ARCH("rope.scaling.factor"), F32, INFINITY, NULL}, "scaling.factor is inf"},
    {{ARCH("rope.scale_linear"), F32, -1, NULL}, "scale_linear is -1"},
    {{ARCH("rope.scaling.attn_factor"), F32, 0, NULL}, "attn_factor is 0"},
};

static void every_bad_number_is_named(void **state) {
    (void)state;
    tiny_options o = small();
    for (size_t i = 0; i < sizeof(bad_numbers) / sizeof(*bad_numbers); i++) {
        const edit edits[] = {bad_numbers[i].edit, {0}};
        bool placed = edits[0].kind != DROP && !strstr(bad_numbers[i].word, "is missing");
        refused_file(edited(tiny_writer(&o), edits), placed, (const char *const[]){bad_numbers[i].word, NULL});
    }
}

static void scalings_that_are_not_known_are_named(void **state) {
    (void)state;
    tiny_options o = small();
    o.scaling = "yarn";
    static const struct {
        edit edit;
        const char *word;
    } bad[] = {
        {{ARCH("rope.scaling.yarn_ext_factor"), F32, 0.5, NULL}, "yarn_ext_factor is 0.5"},
        {{ARCH("rope.scaling.yarn_attn_factor"), F32, 2, NULL}, "yarn_attn_factor is 2"},
        {{ARCH("rope.scaling.yarn_log_multiplier"), F32, 1, NULL}, "yarn_log_multiplier is 1"},
        {{ARCH("rope.scaling.alpha"), F32, 8, NULL}, "scaling.alpha is 8"},
        {{ARCH("rope.scaling.yarn_beta_fast"), F32, 0, NULL}, "yarn_beta_fast is 0"},
        {{ARCH("rope.scaling.original_context_length"), U32, 0, NULL}, "original_context_length is 0"},
        {{ARCH("rope.scaling.original_context_length"), F32, 9, NULL}, "original_context_length is of type f32"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        refused_file(edited(tiny_writer(&o), (const edit[]){bad[i].edit, {0}}), true,
                     (const char *const[]){bad[i].word, NULL});
}

/* ---- tensors ---- */

static void tensors_that_are_missing_are_named(void **state) {
    (void)state;
    static const char *const names[] = {"token_embd.weight", "output_norm.weight", "blk.1.attn_q.weight",
                                        "blk.0.ffn_down.weight"};
    tiny_options o = small();
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        char word[60];
        snprintf(word, sizeof(word), "the tensor %s is missing", names[i]);
        refused_file(edited(tiny_writer(&o), (const edit[]){{names[i], DROP, 0, NULL}, {0}}), false,
                     (const char *const[]){word, NULL});
    }
    static const char *const archs[] = {"qwen2", "gemma3", "gemma3", "gemma3"};
    static const char *const parts[] = {"blk.0.attn_k.bias", "blk.1.attn_q_norm.weight",
                                        "blk.0.post_attention_norm.weight", "blk.0.post_ffw_norm.weight"};
    for (int i = 0; i < 4; i++) {
        o.arch = archs[i];
        refused_file(edited(tiny_writer(&o), (const edit[]){{parts[i], DROP, 0, NULL}, {0}}), false,
                     (const char *const[]){parts[i], "is missing", NULL});
    }
}

/* A tensor replaced by another of the same name. */
static void replaced(const char *name, block_type type, int n_dims, const int64_t *ne, const char *word) {
    tiny_options o = small();
    size_t n = 1;
    for (int i = 0; i < n_dims; i++)
        n *= (size_t)ne[i];
    float *x = calloc(n, sizeof(*x));
    gguf_writer *w = tiny_writer(&o);
    gguf_writer_tensor(w, name, type, n_dims, ne, x);
    uint8_t *image = gguf_writer_image(w, &n, NULL);
    gguf_writer_close(w);
    free(x);
    if (!strstr(word, "is not one that") && strcmp(name, "rope_freqs.weight"))
        hide(image, n, name);
    refused_file(save(image, n), true, (const char *const[]){name, word, NULL});
}

static void tensors_of_wrong_shape_or_type_are_named(void **state) {
    (void)state;
    replaced("blk.0.attn_k.weight", BLOCK_F32, 2, (int64_t[]){32, 64},
             "is 32 x 64; the model's numbers make it 64 x 32");
    replaced("blk.0.attn_k.weight", BLOCK_F32, 3, (int64_t[]){64, 32, 2}, "is 64 x 32");
    replaced("blk.0.attn_k.weight", BLOCK_F32, 1, (int64_t[]){2048}, "is 2048 x 1");
    replaced("output_norm.weight", BLOCK_Q8_0, 1, (int64_t[]){64}, "is of type Q8_0; F32, F16 or BF16");
    replaced("output_norm.weight", BLOCK_F32, 1, (int64_t[]){32}, "is 32 x 1");
    replaced("token_embd.weight", BLOCK_Q8_0, 2, (int64_t[]){64, 262}, "is 64 x 262");
    replaced("blk.0.attn_rot.weight", BLOCK_F32, 1, (int64_t[]){1}, "is not one that a llama model of 2 layers has");
    replaced("rope_freqs.weight", BLOCK_F32, 1, (int64_t[]){15}, "must be 16 floats");
    replaced("rope_freqs.weight", BLOCK_F16, 1, (int64_t[]){16}, "must be 16 floats");
    replaced("rope_freqs.weight", BLOCK_F32, 1, (int64_t[]){16}, "rope_freqs.weight[0] is 0");
}

/* ---- rotation ---- */

static pleat_model *open_model(memory_file f) {
    pleat_model *model;
    pleat_error error;
    if (pleat_model_open(f.path, 1, &model, &error))
        fail_msg("%s", error.text);
    close(f.fd);
    return model;
}

static pleat_model *open_tiny(const tiny_options *o) {
    return open_model(edited(tiny_writer(o), (const edit[]){{0}}));
}

static void check_angle(float got, double want) {
    if (!(fabs((double)got - want) <= 1e-6 * want))
        fail_msg("angle %.9g, %.9g expected", (double)got, want);
}

/* Of heads of 64, base 10,000: pair i turns by 10000^(-i/32) a position. */
static void angles_are_scaled_as_the_file_states(void **state) {
    (void)state;
    tiny_options o = small();
    o.head_dim = 64;
    pleat_model *m = open_tiny(&o);
    check_angle(m->rope_inv[0][0], 1);
    check_angle(m->rope_inv[0][16], 0.01);
    assert_true(m->rope_magnitude[0] == 1);
    pleat_model_close(m);
    static const char *const linear[] = {NULL, "linear", "none"};
    for (int i = 0; i < 3; i++) {
        o.scaling = linear[i];
        o.scaling_factor = 4;
        m = open_tiny(&o);
        check_angle(m->rope_inv[0][0], i < 2 ? 0.25 : 1);
        check_angle(m->rope_inv[0][16], i < 2 ? 0.0025 : 0.01);
        assert_true(m->rope_magnitude[0] == 1);
        pleat_model_close(m);
    }
    o.scaling = NULL;
    o.scaling_factor = 0;
    m = open_model(edited(tiny_writer(&o), (const edit[]){{ARCH("rope.scale_linear"), F32, 8, NULL}, {0}}));
    check_angle(m->rope_inv[0][0], 0.125);
    pleat_model_close(m);
}

/* Factor 4, original context 2,048: pairs up to 8 turn 32 times or more and stay, from 21 on they turn less than once
 * and are interpolated; computed by hand from the paper's formula. */
static void yarn_mixes_by_wave_length(void **state) {
    (void)state;
    tiny_options o = small();
    o.head_dim = 64;
    o.scaling = "yarn";
    o.scaling_factor = 4;
    o.scaling_original = 2048;
    static const struct {
        int pair;
        double angle;
    } want[] = {{0, 1},
                {8, 0.1},
                {9, 0.0706631081870968},
                {12, 0.024325212770525993},
                {16, 0.005384615384615384},
                {20, 0.0009730085108210397},
                {21, 0.0005928434264154138},
                {31, 3.33380358040831e-05}};
    pleat_model *m = open_tiny(&o);
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++)
        check_angle(m->rope_inv[0][want[i].pair], want[i].angle);
    check_angle(m->rope_magnitude[0], 1.138629436111989);
    pleat_model_close(m);
    const edit turns[] = {{ARCH("rope.scaling.yarn_beta_fast"), F32, 1e6, NULL},
                          {ARCH("rope.scaling.yarn_beta_slow"), F32, 1e6, NULL},
                          {ARCH("rope.scaling.attn_factor"), F32, 0.5, NULL},
                          {0}};
    m = open_model(edited(tiny_writer(&o), turns)); /* nothing turns a million times: all but pair 0 are interpolated */
    check_angle(m->rope_inv[0][0], 1);
    check_angle(m->rope_inv[0][16], 0.0025);
    check_angle(m->rope_magnitude[0], 0.5 * 1.138629436111989);
    pleat_model_close(m);
    o.scaling_original = 0; /* silent: the trained context, which is 4,096 */
    m = open_tiny(&o);
    assert_true(m->rope_inv[0][9] > 0.0706631081870968f);
    pleat_model_close(m);
}

static void factors_of_the_file_divide_the_angles(void **state) {
    (void)state;
    tiny_options o = small();
    float factors[16];
    for (int i = 0; i < 16; i++)
        factors[i] = i < 8 ? 1 : 8;
    o.rope_factors = factors;
    pleat_model *m = open_tiny(&o);
    check_angle(m->rope_inv[0][7], pow(10000, -7.0 / 16));
    check_angle(m->rope_inv[0][8], 0.01 / 8);
    pleat_model_close(m);
}

static void gemma3_fills_in_what_its_file_leaves_out(void **state) {
    (void)state;
    tiny_options o = small();
    o.arch = "gemma3";
    o.n_layer = 13;
    o.head_dim = 256;
    o.rope_base = 1000000;
    o.scaling_factor = 8;
    o.silent_windows = true;
    pleat_model *m = open_tiny(&o);
    for (int il = 0; il < 13; il++) {
        bool global = il == 5 || il == 11;
        assert_int_equal(m->shape[il].window_tokens, global ? 0 : 512);
        check_angle(m->shape[il].rope_inv[0], global ? 0.125 : 1); /* scaled on global layers only */
        check_angle(m->shape[il].rope_inv[64], global ? 0.001 / 8 : 0.01);
    }
    assert_true(m->embed_scale == 8); /* sqrt(64) */
    assert_true(m->kv.score_scale == 0.0625f);
    pleat_model_close(m);
    o.silent_windows = false;
    o.window = 100;
    o.period = 3;
    o.local_base = 100;
    m = open_tiny(&o);
    for (int il = 0; il < 13; il++)
        assert_int_equal(m->shape[il].window_tokens, il % 3 == 2 ? 0 : 100);
    check_angle(m->shape[0].rope_inv[64], 0.1);
    pleat_model_close(m);
}

static void gemma3_reads_a_pattern_by_layers(void **state) {
    (void)state;
    tiny_options o = small();
    o.arch = "gemma3";
    o.n_layer = 3;
    o.silent_windows = true;
    for (int n = 3; n >= 2; n--) {
        gguf_writer *w = tiny_writer(&o);
        gguf_writer_array(w, "gemma3.attention.sliding_window_pattern", GGUF_BOOL, (bool[]){false, true, false},
                          (uint64_t)n);
        memory_file f = edited(w, (const edit[]){{0}});
        if (n == 2) {
            refused_file(f, true, (const char *const[]){"sliding_window_pattern has 2 elements", NULL});
            return;
        }
        pleat_model *m = open_model(f);
        for (int il = 0; il < 3; il++)
            assert_int_equal(m->shape[il].window_tokens, il == 1 ? 512 : 0);
        pleat_model_close(m);
    }
}

/* ---- the forward pass under them ---- */

/* The last token's logits against the double reference: off by less than 3e-3 of their spread (fp16 cache). */
static void matches_reference(const tiny_options *o, int n) {
    memory_file f = edited(tiny_writer(o), (const edit[]){{0}});
    gguf *file;
    pleat_engine *engine;
    pleat_method *method;
    pleat_seq *seq;
    int32_t *ids = malloc((size_t)n * sizeof(*ids));
    float logits[TINY_SPM_VOCAB];
    double want[TINY_SPM_VOCAB], mean = 0, off = 0, size = 0;
    int n_vocab = o->spm ? TINY_SPM_VOCAB : TINY_BPE_VOCAB;
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)((unsigned)(i * i * 31 + i * 7) % 250);
    assert_int_equal(gguf_open(f.path, &file, NULL), PLEAT_OK);
    reference_logits(file, o, ids, n, want, n_vocab);
    gguf_close(file);
    pleat_model *m = open_model(f);
    assert_int_equal(pleat_engine_open(m, NULL, &engine, NULL), PLEAT_OK);
    assert_int_equal(pleat_method_parse("f16", m, &method, NULL), PLEAT_OK);
    assert_int_equal(pleat_seq_open(engine, method, &seq, NULL), PLEAT_OK);
    assert_int_equal(pleat_prefill(engine, seq, ids, n, true, PLEAT_LOGITS_LAST, logits, NULL), PLEAT_OK);
    for (int i = 0; i < n_vocab; i++)
        mean += want[i] / n_vocab;
    for (int i = 0; i < n_vocab; i++) {
        off += ((double)logits[i] - want[i]) * ((double)logits[i] - want[i]);
        size += (want[i] - mean) * (want[i] - mean);
    }
    if (!(sqrt(off / size) < 3e-3))
        fail_msg("%s, scaling %s: off by %.4f of the spread", o->arch, o->scaling ? o->scaling : "silent",
                 sqrt(off / size));
    pleat_seq_close(seq);
    pleat_method_free(method);
    pleat_engine_close(engine);
    pleat_model_close(m);
    free(ids);
}

static void scaled_rotations_match_the_reference(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    float factors[16];
    for (int i = 0; i < 16; i++)
        factors[i] = 1 + (float)i / 4;
    for (int i = 0; i < 3; i++) {
        tiny_options o = small();
        o.arch = archs[i];
        o.rope_base = 5000;
        o.local_base = 300;
        matches_reference(&o, 100);
        o.scaling_factor = 4;
        matches_reference(&o, 100);
        o.scaling = "yarn";
        o.scaling_original = 512;
        matches_reference(&o, 100);
        o.scaling = "none";
        o.rope_factors = factors;
        matches_reference(&o, 100);
    }
}

/* 600 tokens: the window of 512 that the file does not name, seven layers of which the sixth is global, heads of 256.
 */
static void silent_gemma3_matches_the_reference(void **state) {
    (void)state;
    tiny_options o = small();
    o.arch = "gemma3";
    o.n_layer = 7;
    o.n_head = 1;
    o.head_dim = 256;
    o.rope_base = 1000000;
    o.silent_windows = true;
    o.spm = true;
    matches_reference(&o, 600);
}

/* ---- G33: numbers that are none ---- */

typedef struct bed {
    pleat_model *model;
    pleat_engine *engine;
    pleat_method *method;
} bed;

static bed open_bed(memory_file f) {
    bed b = {.model = open_model(f)};
    assert_int_equal(pleat_engine_open(b.model, NULL, &b.engine, NULL), PLEAT_OK);
    assert_int_equal(pleat_method_parse("f16", b.model, &b.method, NULL), PLEAT_OK);
    return b;
}

static void close_bed(bed *b) {
    pleat_method_free(b->method);
    pleat_engine_close(b->engine);
    pleat_model_close(b->model);
}

static pleat_status sample(bed *b, float *logits, pleat_error *error) {
    pleat_sampling greedy = pleat_sampling_default();
    int32_t token;
    return pleat_sample(b->engine, &greedy, logits, NULL, 0, &token, error);
}

/* The row of token 7 is NaN: a request that holds it is refused when it is sampled, one beside it has the bits that it
 * has alone. */
static void a_nan_spoils_only_the_request_that_meets_it(void **state) {
    (void)state;
    tiny_options o = small();
    size_t n;
    gguf_writer *w = tiny_writer(&o);
    uint8_t *image = gguf_writer_image(w, &n, NULL);
    gguf_writer_close(w);
    memory_file f = save(image, n);
    gguf *file;
    assert_int_equal(gguf_open(f.path, &file, NULL), PLEAT_OK);
    const float bad = NAN;
    off_t row = (off_t)gguf_tensor_find(file, "token_embd.weight")->file_offset + 7 * 64 * 4;
    gguf_close(file);
    for (int i = 0; i < 64; i++)
        assert_int_equal(pwrite(f.fd, &bad, 4, row + 4 * i), 4);
    bed b = open_bed(f);
    float alone[TINY_BPE_VOCAB], beside[TINY_BPE_VOCAB], spoilt[TINY_BPE_VOCAB];
    int32_t good_ids[] = {1, 2, 3, 4}, bad_ids[] = {1, 7, 3};
    pleat_seq *seq[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pleat_seq_open(b.engine, b.method, &seq[i], NULL), PLEAT_OK);
    pleat_item single = {seq[0], good_ids, 4, PLEAT_PROMPT_END, PLEAT_LOGITS_LAST, alone};
    pleat_item both[] = {{seq[1], good_ids, 4, PLEAT_PROMPT_END, PLEAT_LOGITS_LAST, beside},
                         {seq[2], bad_ids, 3, PLEAT_PROMPT_END, PLEAT_LOGITS_LAST, spoilt}};
    assert_int_equal(pleat_step(b.engine, &single, 1, NULL), PLEAT_OK);
    assert_int_equal(pleat_step(b.engine, both, 2, NULL), PLEAT_OK);
    assert_memory_equal(alone, beside, sizeof(alone));
    pleat_error error;
    assert_int_equal(sample(&b, beside, &error), PLEAT_OK);
    assert_int_equal(sample(&b, spoilt, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "not a number"));
    for (int i = 0; i < 3; i++)
        pleat_seq_close(seq[i]);
    close_bed(&b);
}

static void bad_scales_of_blocks_are_met_when_sampling(void **state) {
    (void)state;
    static const uint16_t bad[] = {0x7e00, 0x7c00, 0xfc00}; /* NaN, both infinities */
    static const block_type types[] = {BLOCK_Q8_0, BLOCK_Q4_1};
    for (int i = 0; i < 6; i++) {
        tiny_options o = small();
        o.type = types[i / 3];
        memory_file f = edited(tiny_writer(&o), (const edit[]){{0}});
        gguf *file;
        assert_int_equal(gguf_open(f.path, &file, NULL), PLEAT_OK);
        off_t at = (off_t)gguf_tensor_find(file, "blk.0.attn_v.weight")->file_offset;
        gguf_close(file);
        assert_int_equal(pwrite(f.fd, &bad[i % 3], 2, at), 2);
        bed b = open_bed(f);
        pleat_seq *seq;
        pleat_error error;
        int32_t ids[] = {1, 2, 3};
        float logits[TINY_BPE_VOCAB];
        assert_int_equal(pleat_seq_open(b.engine, b.method, &seq, NULL), PLEAT_OK);
        assert_int_equal(pleat_prefill(b.engine, seq, ids, 3, true, PLEAT_LOGITS_LAST, logits, NULL), PLEAT_OK);
        if (sample(&b, logits, &error) != PLEAT_EINPUT)
            fail_msg("%s with a scale of %04x: sampled as if nothing were wrong", block_traits_of(o.type)->name,
                     bad[i % 3]);
        pleat_seq_close(seq);
        close_bed(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bad_number_is_named),
        cmocka_unit_test(scalings_that_are_not_known_are_named),
        cmocka_unit_test(tensors_that_are_missing_are_named),
        cmocka_unit_test(tensors_of_wrong_shape_or_type_are_named),
        cmocka_unit_test(angles_are_scaled_as_the_file_states),
        cmocka_unit_test(yarn_mixes_by_wave_length),
        cmocka_unit_test(factors_of_the_file_divide_the_angles),
        cmocka_unit_test(gemma3_fills_in_what_its_file_leaves_out),
        cmocka_unit_test(gemma3_reads_a_pattern_by_layers),
        cmocka_unit_test(scaled_rotations_match_the_reference),
        cmocka_unit_test(silent_gemma3_matches_the_reference),
        cmocka_unit_test(a_nan_spoils_only_the_request_that_meets_it),
        cmocka_unit_test(bad_scales_of_blocks_are_met_when_sampling),
    };
    return cmocka_run_group_tests_name("model file", tests, NULL, NULL);
}
