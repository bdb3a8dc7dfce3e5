/* rope.c - the angle per position of every rotated pair, with the scaling that a file states.
 *
 *   plain    inv[i] = base^(-2i/n_rot)
 *   linear   inv[i] / factor (position interpolation, arXiv 2306.15595); gemma3: on global layers only
 *   yarn     between both by wave length (arXiv 2309.00071, section 3): pairs that turn more than 32 times in the
 * original context stay, those that turn less than once are interpolated, a ramp between; cos and sin are multiplied by
 * 1 + 0.1 ln(factor) llama-3  the file brings a factor for each pair in the tensor rope_freqs.weight: inv[i] /
 * factor[i]
 *
 * "longrope" (factors that change with the length) would make a token's key depend on a later token and is refused. */
#include "model/model.h"
#include "base/memory.h"
#include "base/status.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { YARN_FAST = 32, YARN_SLOW = 1 };
#define GEMMA3_LOCAL_BASE 10000.0

typedef struct scaling {
    double base, factor; /* factor 1: none */
    bool yarn;
    int original_tokens;
    double attention_factor;
} scaling;

static pleat_status get_float(const pleat_model *model, const char *name, double low, double high, double *value,
                              pleat_error *error) {
    char key[96];
    bool found;
    snprintf(key, sizeof(key), "%s.%s", model->arch_name, name);
    pleat_status status = gguf_get_float(model->file, key, value, &found, error);
    if (!status && !(*value >= low && *value <= high))
        return err_set(error, PLEAT_EINPUT, "%s: %s is %g; it must be between %g and %g", gguf_path(model->file), key,
                       *value, low, high);
    return status;
}

static bool is(gguf_string s, const char *name) {
    return s.n == strlen(name) && !memcmp(s.bytes, name, s.n);
}

static pleat_status read_scaling(const pleat_model *model, scaling *s, pleat_error *error) {
    *s = (scaling){.base = 10000, .factor = 1, .original_tokens = model->context_tokens, .attention_factor = 1};
    pleat_status status = get_float(model, "rope.freq_base", 1, 1e12, &s->base, error);
    char key[96];
    gguf_string type = {.bytes = "", .n = 0};
    bool found = false;
    snprintf(key, sizeof(key), "%s.rope.scaling.type", model->arch_name);
    status = status ? status : gguf_get_string(model->file, key, &type, &found, error);
    if (status)
        return status;
    if (!found)
        return get_float(model, "rope.scale_linear", 1e-3, 1e6, &s->factor, error); /* the key of old files */
    if (is(type, "none"))
        return PLEAT_OK;
    s->yarn = is(type, "yarn");
    if (!s->yarn && !is(type, "linear"))
        return err_set(error, PLEAT_EINPUT, "%s: %s is \"%.*s\"; known are none, linear and yarn",
                       gguf_path(model->file), key, (int)(type.n < 40 ? type.n : 40), type.bytes);
    double original = s->original_tokens;
    status = get_float(model, "rope.scaling.factor", 1e-3, 1e6, &s->factor, error);
    status = status ? status : get_float(model, "rope.scaling.original_context_length", 1, 1e9, &original, error);
    status = status ? status : get_float(model, "rope.scaling.attn_factor", 1e-3, 1e3, &s->attention_factor, error);
    s->original_tokens = (int)original;
    return status;
}

/* The pair (as a real number) that turns `turns` times in the original context. */
static double yarn_pair(const scaling *s, int n_rot, double turns) {
    return n_rot * log(s->original_tokens / (turns * 2 * M_PI)) / (2 * log(s->base));
}

static void fill(float *inv, int n_rot, const scaling *s, const gguf_tensor *factors) {
    double low = floor(yarn_pair(s, n_rot, YARN_FAST)), high = ceil(yarn_pair(s, n_rot, YARN_SLOW));
    low = low < 0 ? 0 : low;
    high = high > n_rot - 1 ? n_rot - 1 : high;
    for (int i = 0; i < n_rot / 2; i++) {
        double plain = pow(s->base, -2.0 * i / n_rot), keep = 0;
        if (s->yarn) {
            keep = 1 - (i - low) / (high - low > 1e-3 ? high - low : 1e-3);
            keep = keep < 0 ? 0 : keep > 1 ? 1 : keep;
        }
        inv[i] = (float)(plain * keep + plain / s->factor * (1 - keep));
    }
    for (int i = 0; factors && i < n_rot / 2; i++) {
        float factor;
        memcpy(&factor, factors->data + (size_t)i * sizeof(factor), sizeof(factor));
        inv[i] /= factor;
    }
}

static pleat_status check_factors(const pleat_model *model, const gguf_tensor *t, pleat_error *error) {
    if (!t)
        return PLEAT_OK;
    if (t->type != BLOCK_F32 || t->n_dims != 1 || t->ne[0] != model->kv.n_rot / 2)
        return err_set(error, PLEAT_EINPUT, "%s: the tensor rope_freqs.weight must be %d floats",
                       gguf_path(model->file), model->kv.n_rot / 2);
    for (int i = 0; i < model->kv.n_rot / 2; i++) {
        float factor;
        memcpy(&factor, t->data + (size_t)i * sizeof(factor), sizeof(factor));
        if (!(factor > 0 && factor < 1e6f))
            return err_set(error, PLEAT_EINPUT, "%s: rope_freqs.weight[%d] is %g", gguf_path(model->file), i,
                           (double)factor);
    }
    return PLEAT_OK;
}

pleat_status rope_read(pleat_model *model, pleat_error *error) {
    int64_t n_rot = model->head_dim;
    bool found;
    char key[96];
    scaling s;
    snprintf(key, sizeof(key), "%s.rope.dimension_count", model->arch_name);
    pleat_status status = gguf_get_int(model->file, key, 2, model->head_dim, &n_rot, &found, error);
    status = status ? status : read_scaling(model, &s, error);
    if (status)
        return status;
    if (n_rot % 2)
        return err_set(error, PLEAT_EINPUT, "%s: %s is %d; it must be even", gguf_path(model->file), key, (int)n_rot);
    model->kv.n_rot = (int)n_rot;
    const gguf_tensor *factors = gguf_tensor_find(model->file, "rope_freqs.weight");
    status = check_factors(model, factors, error);
    if (status)
        return status;
    model->rope_magnitude = (float)s.attention_factor;
    if (s.yarn)
        model->rope_magnitude *= (float)(1 + 0.1 * log(s.factor));
    model->kv.rope_magnitude = model->rope_magnitude;
    scaling local = {.base = GEMMA3_LOCAL_BASE, .factor = 1};
    if (model->arch == MODEL_GEMMA3) {
        status = get_float(model, "rope.local.freq_base", 1, 1e12, &local.base, error);
        if (status)
            return status;
    }
    for (int i = 0; i < 2; i++) {
        model->rope_inv[i] = mem_alloc((size_t)n_rot / 2, sizeof(float));
        if (!model->rope_inv[i])
            return err_set(error, PLEAT_EMEMORY, "no memory for the rotation of %d elements", (int)n_rot);
    }
    fill(model->rope_inv[0], (int)n_rot, &s, factors);
    fill(model->rope_inv[1], (int)n_rot, &local, NULL);
    for (int il = 0; il < model->n_layer; il++)
        model->shape[il].rope_inv = model->rope_inv[model->shape[il].window_tokens > 0];
    return PLEAT_OK;
}
