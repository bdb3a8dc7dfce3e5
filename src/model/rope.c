/* rope.c - the angle per position of every rotated pair, with the scaling that a file states.
 *
 *   plain    inv[i] = base^(-2i/n_rot)
 *   linear   inv[i] / factor (position interpolation, arXiv 2306.15595); gemma3: on global layers only
 *   yarn     between both by wave length (arXiv 2309.00071, section 3): pairs that turn more than beta_fast times (32)
 * in the original context stay, those that turn less than beta_slow times (1) are interpolated, a ramp between; cos and
 * sin are multiplied by 1 + 0.1 ln(factor) llama-3  the file brings a factor for each pair in the tensor
 * rope_freqs.weight: inv[i] / factor[i]
 *
 * A file that states a factor and no type means linear, as llama.cpp has it. "longrope" (factors that change with the
 * length) would make a token's key depend on a later token and is refused, as is every scaling that is not listed. */
#include "model/model.h"
#include "base/memory.h"
#include "base/status.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define GEMMA3_LOCAL_BASE 10000.0

typedef struct scaling {
    double base, factor; /* factor 1: none */
    bool yarn;
    int original_tokens;
    double attention_factor, fast_turns, slow_turns;
} scaling;

static pleat_status get_float(const pleat_model *model, const char *name, double low, double high, double *value,
                              pleat_error *error) {
    char key[96];
    bool found;
    snprintf(key, sizeof(key), "%s.%s", model->arch_name, name);
    pleat_status status = gguf_get_float(model->file, key, value, &found, error);
    if (!status && !(*value >= low && *value <= high))
        return gguf_refuse(model->file, key, error, "%s is %g; it must be between %g and %g", key, *value, low, high);
    return status;
}

static bool is(gguf_string s, const char *name) {
    return s.n == strlen(name) && !memcmp(s.bytes, name, s.n);
}

/* Numbers of other kinds of yarn than the one above: there, they must be neutral. */
static pleat_status check_yarn(const pleat_model *model, pleat_error *error) {
    static const struct {
        const char *name;
        double neutral;
    } list[] = {{"rope.scaling.yarn_ext_factor", 1},
                {"rope.scaling.yarn_attn_factor", 1},
                {"rope.scaling.yarn_log_multiplier", 0},
                {"rope.scaling.alpha", 0}};
    pleat_status status = PLEAT_OK;
    for (size_t i = 0; i < sizeof(list) / sizeof(*list) && !status; i++) {
        double value = list[i].neutral;
        status = get_float(model, list[i].name, list[i].neutral, list[i].neutral, &value, error);
    }
    return status;
}

static pleat_status read_yarn(const pleat_model *model, scaling *s, pleat_error *error) {
    char key[96];
    int64_t original = s->original_tokens;
    bool found;
    snprintf(key, sizeof(key), "%s.rope.scaling.original_context_length", model->arch_name);
    pleat_status status = gguf_get_int(model->file, key, 1, 1 << 24, &original, &found, error);
    status = status ? status : get_float(model, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, &s->fast_turns, error);
    status = status ? status : get_float(model, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, &s->slow_turns, error);
    s->original_tokens = (int)original;
    return status ? status : check_yarn(model, error);
}

static pleat_status read_scaling(const pleat_model *model, scaling *s, pleat_error *error) {
    *s = (scaling){.base = 10000,
                   .factor = 1,
                   .original_tokens = model->context_tokens,
                   .attention_factor = 1,
                   .fast_turns = 32,
                   .slow_turns = 1};
    pleat_status status = get_float(model, "rope.freq_base", 1, 1e12, &s->base, error);
    char key[96];
    gguf_string type = {.bytes = "linear", .n = 6};
    bool found = false;
    snprintf(key, sizeof(key), "%s.rope.scaling.type", model->arch_name);
    status = status ? status : gguf_get_string(model->file, key, &type, &found, error);
    status = status ? status : get_float(model, "rope.scale_linear", 1e-3, 1e6, &s->factor, error); /* old files */
    status = status ? status : get_float(model, "rope.scaling.factor", 1e-3, 1e6, &s->factor, error);
    status = status ? status : get_float(model, "rope.scaling.attn_factor", 1e-3, 1e3, &s->attention_factor, error);
    if (status)
        return status;
    s->yarn = is(type, "yarn");
    if (s->yarn)
        return read_yarn(model, s, error);
    if (is(type, "none"))
        s->factor = 1;
    else if (!is(type, "linear"))
        return gguf_refuse(model->file, key, error, "%s is \"%.*s\"; known are none, linear and yarn", key,
                           (int)(type.n < 40 ? type.n : 40), type.bytes);
    return PLEAT_OK;
}

/* The pair (as a real number) that turns `turns` times in the original context. */
static double yarn_pair(const scaling *s, int n_rot, double turns) {
    return n_rot * log(s->original_tokens / (turns * 2 * M_PI)) / (2 * log(s->base));
}

static void fill(float *inv, int n_rot, const scaling *s, const gguf_tensor *factors) {
    double low = floor(yarn_pair(s, n_rot, s->fast_turns)), high = ceil(yarn_pair(s, n_rot, s->slow_turns));
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
        return gguf_refuse(model->file, "rope_freqs.weight", error, "the tensor rope_freqs.weight must be %d floats",
                           model->kv.n_rot / 2);
    for (int i = 0; i < model->kv.n_rot / 2; i++) {
        float factor;
        memcpy(&factor, t->data + (size_t)i * sizeof(factor), sizeof(factor));
        if (!(factor > 0 && factor < 1e6f))
            return gguf_refuse(model->file, "rope_freqs.weight", error, "rope_freqs.weight[%d] is %g", i,
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
        return gguf_refuse(model->file, key, error, "%s is %d; it must be even", key, (int)n_rot);
    model->kv.n_rot = (int)n_rot;
    const gguf_tensor *factors = gguf_tensor_find(model->file, "rope_freqs.weight");
    status = check_factors(model, factors, error);
    if (status)
        return status;
    model->rope_magnitude[0] = model->rope_magnitude[1] = (float)s.attention_factor;
    if (s.yarn && s.factor > 1)
        model->rope_magnitude[0] *= (float)(1 + 0.1 * log(s.factor));
    model->kv.rope_magnitude = model->rope_magnitude[0];
    scaling local = {.base = GEMMA3_LOCAL_BASE, .factor = 1};
    if (model->arch == MODEL_GEMMA3) {
        /* the first name is Ollama's */
        status = get_float(model, "rope.local.freq_base", 1, 1e12, &local.base, error);
        status = status ? status : get_float(model, "rope.freq_base_swa", 1, 1e12, &local.base, error);
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
