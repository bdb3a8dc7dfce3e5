/* policy_h2o.c - H2O (arXiv 2306.14048): the newest `recent` tokens and, among the older ones, the `heavy` with the
 * largest accumulated attention.
 *
 * The mass of a slot is the sum of its probabilities over all queries so far, prompt and generated, and over the query
 * heads that share the KV head (the paper has no shared heads; sum and mean rank alike). It is summed exactly, in
 * float32, in the one pass of attention (attend.c), and belongs to the lane: it moves with its slot. After the prompt
 * the budget is cut once, then every step drops the smallest mass outside the newest `recent`; the new token takes part
 * at its own step. Positions stay original.
 *
 * Deviations: counts of tokens, not ratios of the prompt (64 + 448 are the study's); the authors' masking simulation
 * hides one token for one step at the window's edge, which is not copied. norm=1 divides a mass by the number of
 * queries that could see the token (kvpress), which takes away the advantage of early tokens. Under prefill:bounded
 * mass comes from the queries that ran while the slot lived. */
#include "kv/method.h"
#include <math.h>

enum { HEAVY, RECENT, NORM };

static const kv_param params[] = {
    {"heavy", "older tokens kept, by mass", NULL, 64, 0, 1 << 24, true},
    {"recent", "newest tokens that stay", NULL, 448, 1, 1 << 24, true},
    {"norm", "1: mass per query that could see the token", NULL, 0, 0, 1, true},
    {0},
};

static kv_wants wants(const kv_config *c) {
    (void)c;
    return (kv_wants){.flags = KV_WANT_MASS};
}

static int recent_tokens(const kv_config *c) {
    return (int)c->value[RECENT];
}

static int bound_tokens(const kv_config *c) {
    return (int)c->value[HEAVY] + (int)c->value[RECENT];
}

static int budget(const kv_config *c, const kv_view *view) {
    (void)view;
    return bound_tokens(c);
}

static void score_lane(const float *restrict mass, const int32_t *restrict pos, int n, int recent_from,
                       float *restrict s) {
    for (int slot = 0; slot < n; slot++)
        s[slot] = pos[slot] >= recent_from ? INFINITY : mass[slot];
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    int recent_from =
        view->n_seen - (int)c->value[RECENT]; /* the newest tokens are never evicted, so positions count them */
    for (int ih = 0; ih < view->model->n_head_kv; ih++) {
        score_lane(view->mass[ih], view->pos[ih], view->n_slots[ih], recent_from, s[ih]);
        for (int slot = 0; c->value[NORM] != 0 && slot < view->n_slots[ih]; slot++)
            if (view->pos[ih][slot] < recent_from)
                s[ih][slot] /= (float)(view->n_seen - view->pos[ih][slot]);
    }
}

const kv_policy kv_policy_h2o = {
    .name = "h2o",
    .paper = "arXiv 2306.14048",
    .summary = "heavy hitters by accumulated attention, and the newest tokens",
    .params = params,
    .per_head_scores = true,
    .attention_scores = true,
    .shares_budget = true,
    .wants = wants,
    .budget = budget,
    .score = score,
    .bound_tokens = bound_tokens,
    .window_tokens = recent_tokens,
};
