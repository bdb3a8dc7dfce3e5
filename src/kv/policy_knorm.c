/* policy_knorm.c - L2 norm of keys (arXiv 2406.11430): keys of small norm are attended to more, so they stay.
 *
 * At the prompt's end each head keeps the `keep` tokens of smallest || k ||; the first `skip` layers keep everything,
 * as the authors do. The norm does not change with the rotation. Nothing protects the newest tokens unless recent=N.
 * Decode only adds tokens. Ties go to the smaller position.
 *
 * Deviations: a number of tokens instead of a ratio of the prompt; kept tokens stay in the order of their positions
 * (the authors leave the cache sorted by norm, which changes nothing that attention sees). Models that norm their keys
 * (gemma3) have nearly constant norms: the policy warns. Under prefill:bounded the skipped layers are not bounded. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/dots.h"
#include <limits.h>
#include <math.h>

enum { KEEP, SKIP, RECENT };

static const kv_param params[] = {
    {"keep", "tokens kept", NULL, 512, 1, 1 << 24, true},
    {"skip", "first layers that keep everything", NULL, 2, 0, KV_MAX_LAYERS, true},
    {"recent", "newest tokens that stay", NULL, 0, 0, 1 << 24, true},
    {0},
};

static pleat_status check(const kv_config *c, pleat_error *error) {
    if (c->value[RECENT] > c->value[KEEP])
        return err_set(error, PLEAT_EINPUT, "knorm: recent=%d is more than keep=%d", (int)c->value[RECENT],
                       (int)c->value[KEEP]);
    return PLEAT_OK;
}

static kv_wants wants(const kv_config *c) {
    (void)c;
    return (kv_wants){.flags = KV_WANT_ROWS};
}

static int budget(const kv_config *c, const kv_view *view) {
    return view->event == KV_AT_STEP || view->il < (int)c->value[SKIP] ? INT_MAX : (int)c->value[KEEP];
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)max_new;
    return il < (int)c->value[SKIP] || n_prompt < (int)c->value[KEEP] ? n_prompt : (int)c->value[KEEP];
}

static int window_tokens(const kv_config *c) {
    return (int)c->value[RECENT];
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    int d = view->model->head_dim, recent_from = view->n_seen - (int)c->value[RECENT];
    for (int ih = 0; ih < view->model->n_head_kv; ih++) {
        const float *k = kv_view_rows(view, ih, KV_K);
        for (int slot = 0; slot < view->n_slots[ih]; slot++) {
            const float *row = k + (size_t)slot * (size_t)d;
            s[ih][slot] = view->pos[ih][slot] >= recent_from ? INFINITY : (float)-sqrt(dot_double(row, row, d));
        }
    }
}

static const char *warning(const kv_config *c, const kv_model *model) {
    (void)c;
    return model && model->has_qk_norm
               ? "knorm: this model norms its keys, so their norms are nearly constant and say little"
               : NULL;
}

const kv_policy kv_policy_knorm = {
    .name = "knorm",
    .paper = "arXiv 2406.11430",
    .summary = "keys of small norm",
    .params = params,
    .per_head_scores = true,
    .shares_budget = true,
    .check = check,
    .wants = wants,
    .budget = budget,
    .score = score,
    .kept_tokens = kept_tokens,
    .window_tokens = window_tokens,
    .warning = warning,
};
