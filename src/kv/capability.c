/* capability.c - see capability.h. Asked of two made-up models of two layers, one of which has a window in its second
 * layer; heads of 64, which every format takes. */
#include "kv/capability.h"
#include <stdio.h>

static void open_nothing(const void *owner, int il, int h, float *wo) {
    (void)owner, (void)il, (void)h, (void)wo;
}

static kv_model model_of(const kv_layer_shape layer[2]) {
    return (kv_model){.name = "a model",
                      .n_layer = 2,
                      .n_head = 2,
                      .n_head_kv = 1,
                      .head_dim = 64,
                      .n_rot = 64,
                      .context_tokens = 1 << 16,
                      .layer = layer,
                      .open_wo = open_nothing};
}

kv_reuse kv_reuse_of(const kv_method *method, const kv_model *model, int *first_tokens, int *grid_tokens) {
    static const kv_reuse pages[] = {[KV_SHARE_F16] = KV_REUSE_F16, [KV_SHARE_SEALED] = KV_REUSE_SEALED};
    kv_share_kind kind = kv_share_kind_of(method, model);
    *first_tokens = kv_share_first_tokens(method, model, kind);
    *grid_tokens = kv_share_grid_tokens(method, kind);
    if (kind != KV_SHARE_NONE)
        return pages[kind];
    return *grid_tokens ? KV_REUSE_COPY : KV_REUSE_NONE;
}

kv_capability kv_capability_of(const kv_format *format, const kv_policy *policy, const kv_split *split, bool bounded,
                               const char *modifier) {
    static const kv_layer_shape plain[2] = {{0}, {0}}, windowed[2] = {{0}, {.window_tokens = 512}};
    const kv_model full = model_of(plain), local = model_of(windowed);
    char spec[160];
    kv_method method;
    kv_capability c = {.reuse = KV_REUSE_NONE};
    int first, grid;
    snprintf(spec, sizeof(spec), "%s+%s+%s+prefill:%s%s%s", format->name, policy->name, split->name,
             bounded ? "bounded" : "exact", modifier ? "+" : "", modifier ? modifier : "");
    if (kv_method_parse(spec, &full, &method, &c.refusal))
        return c;
    c.refusal.text[0] = 0;
    c.reuse = kv_reuse_of(&method, &full, &c.first_tokens, &c.grid_tokens);
    c.windowed =
        !kv_method_parse(spec, &local, &method, NULL) && kv_reuse_of(&method, &local, &first, &grid) == c.reuse;
    return c;
}
