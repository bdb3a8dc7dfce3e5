/* methods.c - the lists of formats, policies, splits and presets, from methods.def. */
#include "kv/method.h"
#include <stddef.h>
#include <string.h>

#define KV_FORMAT(symbol) extern const kv_format kv_format_##symbol;
#define KV_POLICY(symbol) extern const kv_policy kv_policy_##symbol;
#define KV_SPLIT(symbol)  extern const kv_split kv_split_##symbol;
#define KV_PRESET(name, spec)
#include "kv/methods.def"
#undef KV_FORMAT
#undef KV_POLICY
#undef KV_SPLIT
#undef KV_PRESET

#define KV_POLICY(symbol)
#define KV_SPLIT(symbol)
#define KV_PRESET(name, spec)
#define KV_FORMAT(symbol) &kv_format_##symbol,
const kv_format *const kv_formats[] = {
#include "kv/methods.def"
    NULL};
#undef KV_FORMAT
#undef KV_POLICY
#define KV_FORMAT(symbol)
#define KV_POLICY(symbol) &kv_policy_##symbol,
const kv_policy *const kv_policies[] = {
#include "kv/methods.def"
    NULL};
#undef KV_POLICY
#undef KV_SPLIT
#define KV_POLICY(symbol)
#define KV_SPLIT(symbol) &kv_split_##symbol,
const kv_split *const kv_splits[] = {
#include "kv/methods.def"
    NULL};
#undef KV_SPLIT
#undef KV_PRESET
#define KV_SPLIT(symbol)
#define KV_PRESET(name, spec) {name, spec},
const kv_preset kv_presets[] = {
#include "kv/methods.def"
    {NULL, NULL}};

kv_wants kv_method_wants(const kv_method *method) {
    kv_wants wants = {0};
    if (method->policy->wants)
        wants = method->policy->wants(&method->policy_config);
    if (method->critical)
        wants.flags |= KV_WANT_VALUES | KV_WANT_ROWS;
    return wants;
}

bool kv_method_is_f16(const kv_method *method) {
    bool plain = method->policy == kv_policies[0];
    for (int i = 0; i <= method->n_extra && plain; i++) {
        const kv_coding *coding = i ? method->extra[i - 1] : method->coding;
        plain = coding[KV_K].format == kv_formats[0] && coding[KV_V].format == kv_formats[0];
    }
    return plain;
}

bool kv_method_is_endless(const kv_method *method) {
    return method->bounded && method->policy->cache_positions &&
           method->policy->cache_positions(&method->policy_config);
}

static int add_warning(const char **out, int n, const char *sentence) {
    for (int i = 0; sentence && i < n; i++)
        if (!strcmp(out[i], sentence))
            return n;
    if (sentence)
        out[n++] = sentence;
    return n;
}

int kv_method_warnings(const kv_method *method, const kv_model *model, const char **out, int n) {
    for (int i = 0; i <= method->n_extra; i++)
        for (int side = 0; side < 2; side++) {
            const kv_coding *coding = &(i ? method->extra[i - 1] : method->coding)[side];
            if (coding->format->warning)
                n = add_warning(out, n, coding->format->warning(&coding->config, (kv_side)side, model));
        }
    if (method->policy->warning)
        n = add_warning(out, n, method->policy->warning(&method->policy_config, model));
    return n;
}

double kv_method_token_bytes(const kv_method *method, int head_dim) {
    double bytes = 0;
    for (int side = 0; side < 2; side++) {
        kv_geometry g;
        const kv_coding *coding = &method->coding[side];
        coding->format->geometry(&coding->config, (kv_side)side, head_dim, &g);
        bytes += g.page_bytes ? (double)g.page_bytes / PAGE_TOKENS : 2.0 * head_dim;
        if (g.page_bytes && coding->format->run_bytes)
            bytes += (double)coding->format->run_bytes(&coding->config, (kv_side)side, head_dim, g.run_pages, false) /
                     (PAGE_TOKENS * g.run_pages);
    }
    kv_wants wants = kv_method_wants(method);
    if (wants.flags & KV_WANT_BOUNDS)
        bytes += 2.0 * head_dim * sizeof(f16) / wants.bound_slots;
    return bytes;
}
