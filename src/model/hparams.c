/* hparams.c - the numbers of a model, from the metadata of its file.
 *
 * Keys are `ARCH.name` as the GGUF specification has them. Where a gemma3 file is silent (some converters leave the
 * local layers out), the architecture's own values hold: a window of 512, every sixth layer global, rope base 10,000 on
 * local layers. sliding_window_pattern is a period or one truth value for each layer. */
#include "model/model.h"
#include "base/status.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GEMMA3_PERIOD = 6, GEMMA3_27B_LAYERS = 62, MAX_WIDTH = 1 << 20, MAX_TOKENS = 1 << 24 };

static const char *const arch_names[] = {"llama", "qwen2", "gemma3"};

static const char *key_of(const pleat_model *model, const char *name, char out[96]) {
    snprintf(out, 96, "%s.%s", model->arch_name, name);
    return out;
}

/* An integer of the architecture; without a fallback (< 0) it must be there. */
static pleat_status get_int(const pleat_model *model, const char *name, int low, int high, int fallback, int *value,
                            pleat_error *error) {
    char key[96];
    int64_t x = fallback;
    bool found = false;
    pleat_status status = gguf_get_int(model->file, key_of(model, name, key), low, high, &x, &found, error);
    if (status)
        return status;
    if (!found && fallback < 0)
        return gguf_refuse(model->file, key, error, "the key %s is missing", key);
    *value = (int)x;
    return PLEAT_OK;
}

static pleat_status read_arch(pleat_model *model, pleat_error *error) {
    gguf_string s;
    bool found = false;
    pleat_status status = gguf_get_string(model->file, "general.architecture", &s, &found, error);
    if (status)
        return status;
    if (!found)
        return gguf_refuse(model->file, NULL, error, "the key general.architecture is missing");
    for (size_t i = 0; i < sizeof(arch_names) / sizeof(*arch_names); i++) {
        if (s.n == strlen(arch_names[i]) && !memcmp(s.bytes, arch_names[i], s.n)) {
            model->arch = (model_arch)i;
            snprintf(model->arch_name, sizeof(model->arch_name), "%s", arch_names[i]);
            return PLEAT_OK;
        }
    }
    return gguf_refuse(model->file, "general.architecture", error,
                       "general.architecture is \"%.*s\"; known are llama, qwen2 and gemma3",
                       (int)(s.n < 40 ? s.n : 40), s.bytes);
}

static pleat_status read_name(pleat_model *model, pleat_error *error) {
    gguf_string s = {.bytes = "", .n = 0};
    bool found = false;
    pleat_status status = gguf_get_string(model->file, "general.name", &s, &found, error);
    if (status)
        return status;
    if (!found)
        s = (gguf_string){.bytes = model->arch_name, .n = strlen(model->arch_name)};
    snprintf(model->name, sizeof(model->name), "%.*s", (int)(s.n < 120 ? s.n : 120), s.bytes);
    return PLEAT_OK;
}

static pleat_status read_sizes(pleat_model *model, pleat_error *error) {
    int n_experts = 0, value_dim = 0;
    const struct {
        const char *name;
        int low, high, fallback, *value;
    } keys[] = {
        {"block_count", 1, KV_MAX_LAYERS, -1, &model->n_layer},
        {"embedding_length", 32, MAX_WIDTH, -1, &model->n_embd},
        {"feed_forward_length", 32, MAX_WIDTH, -1, &model->n_ff},
        {"context_length", 64, MAX_TOKENS, -1, &model->context_tokens},
        {"attention.head_count", 1, 4096, -1, &model->n_head},
        {"attention.head_count_kv", 1, KV_MAX_HEADS, 0, &model->n_head_kv},
        {"attention.key_length", 1, 1 << 16, 0, &model->head_dim},
        {"attention.value_length", 1, 1 << 16, 0, &value_dim},
        {"expert_count", 0, 1 << 16, 0, &n_experts},
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        pleat_status status =
            get_int(model, keys[i].name, keys[i].low, keys[i].high, keys[i].fallback, keys[i].value, error);
        if (status)
            return status;
    }
    char key[96];
    if (n_experts)
        return gguf_refuse(model->file, key_of(model, "expert_count", key), error,
                           "%s.expert_count is %d; mixtures of experts are not supported", model->arch_name, n_experts);
    model->n_head_kv = model->n_head_kv ? model->n_head_kv : model->n_head;
    if (!model->head_dim && model->n_embd % model->n_head)
        return gguf_refuse(model->file, key_of(model, "attention.head_count", key), error,
                           "an embedding_length of %d cannot be shared by %d heads", model->n_embd, model->n_head);
    model->head_dim = model->head_dim ? model->head_dim : model->n_embd / model->n_head;
    if (value_dim && value_dim != model->head_dim)
        return gguf_refuse(model->file, key_of(model, "attention.value_length", key), error,
                           "keys of %d and values of %d elements: both must be the same", model->head_dim, value_dim);
    return PLEAT_OK;
}

static pleat_status check_heads(const pleat_model *model, pleat_error *error) {
    char key[96];
    int d = model->head_dim;
    if (d % 32 || d > KV_MAX_HEAD_DIM)
        return gguf_refuse(model->file, key_of(model, "attention.key_length", key), error,
                           "heads of %d elements; they must be a multiple of 32, at most %d", d, KV_MAX_HEAD_DIM);
    if (model->n_head_kv > KV_MAX_HEADS || model->n_head % model->n_head_kv ||
        model->n_head / model->n_head_kv > KV_MAX_GROUP)
        return gguf_refuse(model->file, key_of(model, "attention.head_count_kv", key), error,
                           "%d query heads cannot share %d KV heads (a multiple, at most %d each, at most %d KV heads)",
                           model->n_head, model->n_head_kv, KV_MAX_GROUP, KV_MAX_HEADS);
    return PLEAT_OK;
}

static pleat_status read_floats(pleat_model *model, pleat_error *error) {
    char key[96];
    double eps = 0, softcap = 0;
    bool found = false, unused;
    pleat_status status =
        gguf_get_float(model->file, key_of(model, "attention.layer_norm_rms_epsilon", key), &eps, &found, error);
    if (status)
        return status;
    if (!found || !(eps > 0 && eps < 1))
        return gguf_refuse(model->file, key, error, "the key %s must be there and between 0 and 1", key);
    model->norm_eps = (float)eps;
    static const char *const softcaps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    for (int i = 0; i < 2; i++) {
        status = gguf_get_float(model->file, key_of(model, softcaps[i], key), &softcap, &unused, error);
        if (status)
            return status;
        if (softcap != 0)
            return gguf_refuse(model->file, key, error, "%s is %g; soft-capped logits are not supported", key, softcap);
    }
    return PLEAT_OK;
}

/* Which layers are local: by a period, or a list of truth values. */
static pleat_status read_pattern(pleat_model *model, int window, pleat_error *error) {
    char key[96];
    int64_t period = GEMMA3_PERIOD;
    gguf_array list = {.n = 0};
    key_of(model, "attention.sliding_window_pattern", key);
    bool listed = gguf_is_array(model->file, key), found;
    pleat_status status = listed ? gguf_get_array(model->file, key, &list, &found, error)
                                 : gguf_get_int(model->file, key, 1, KV_MAX_LAYERS, &period, &found, error);
    if (status)
        return status;
    if (listed && (list.type != GGUF_BOOL || list.n < model->n_layer))
        return gguf_refuse(model->file, key, error,
                           "%s has %lld elements; a truth value for each of %d layers is expected", key,
                           (long long)list.n, model->n_layer);
    for (int il = 0; il < model->n_layer; il++) {
        bool local = listed ? gguf_array_int(&list, il) != 0 : (il + 1) % period != 0;
        model->shape[il].window_tokens = local ? window : 0;
    }
    return PLEAT_OK;
}

/* Windows of gemma3's local layers; a window on another architecture would change its answers silently. */
static pleat_status read_windows(pleat_model *model, pleat_error *error) {
    bool gemma = model->arch == MODEL_GEMMA3;
    char key[96];
    int window = 0;
    pleat_status status = get_int(model, "attention.sliding_window", 1, MAX_TOKENS, gemma ? 512 : 0, &window, error);
    if (status)
        return status;
    if (window && !gemma && window < model->context_tokens)
        return gguf_refuse(model->file, key_of(model, "attention.sliding_window", key), error,
                           "%s is %d; windows are known for gemma3 only", key, window);
    return gemma ? read_pattern(model, window, error) : PLEAT_OK;
}

pleat_status hparams_read(pleat_model *model, pleat_error *error) {
    pleat_status status = read_arch(model, error);
    status = status ? status : read_name(model, error);
    status = status ? status : read_sizes(model, error);
    status = status ? status : check_heads(model, error);
    status = status ? status : read_floats(model, error);
    if (status)
        return status;
    model->layer = calloc((size_t)model->n_layer, sizeof(*model->layer));
    model->shape = calloc((size_t)model->n_layer, sizeof(*model->shape));
    if (!model->layer || !model->shape)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d layers", model->n_layer);
    status = read_windows(model, error);
    if (status)
        return status;
    bool gemma = model->arch == MODEL_GEMMA3;
    int scale_dim = gemma && model->n_layer == GEMMA3_27B_LAYERS ? model->n_embd / model->n_head : model->head_dim;
    model->embed_scale = gemma ? sqrtf((float)model->n_embd) : 1;
    model->kv = (kv_model){.name = model->name,
                           .n_layer = model->n_layer,
                           .n_head = model->n_head,
                           .n_head_kv = model->n_head_kv,
                           .head_dim = model->head_dim,
                           .rope_neox = model->arch != MODEL_LLAMA,
                           .score_scale = 1 / sqrtf((float)scale_dim),
                           .context_tokens = model->context_tokens,
                           .layer = model->shape,
                           .n_embd = model->n_embd,
                           .open_wo = tensors_open_wo,
                           .owner = model};
    return PLEAT_OK;
}
