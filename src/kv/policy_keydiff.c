/* policy_keydiff.c - KeyDiff (arXiv 2504.15364): keys unlike the others stay.
 *
 * The anchor of a head is the mean of its keys' directions (unit vectors) in the cache; a token's score is minus the
 * cosine between its key and the anchor. Keys only: no queries, no window, no sinks. The paper reads a prompt in blocks
 * of B tokens and cuts the cache to `keep` after each: that is prefill:bounded here, whose grid is `block`; under
 * prefill:exact the prompt is cut once. In decode the cache is cut after every 64 tokens, so a lane holds `keep` to
 * keep + 63 of them. Ties go to the smaller position. Sums are in double, so the order of scores is the definition's.
 */
#include "kv/method.h"
#include "base/status.h"
#include "kv/dots.h"
#include <limits.h>
#include <math.h>
#include <string.h>

enum { KEEP, BLOCK };
enum { DECODE_TOKENS = 64 };

static const kv_param params[] = {
    {"keep", "tokens kept", NULL, 512, 1, 1 << 24, true},
    {"block", "prompt tokens between events under prefill:bounded, a multiple of 64", NULL, 128, 64, 1 << 16, true},
    {0},
};

static pleat_status check(const kv_config *c, pleat_error *error) {
    if ((int)c->value[BLOCK] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "keydiff: block=%d is not a multiple of %d", (int)c->value[BLOCK],
                       PAGE_TOKENS);
    return PLEAT_OK;
}

static kv_wants wants(const kv_config *c) {
    (void)c;
    return (kv_wants){.flags = KV_WANT_ROWS};
}

static int budget(const kv_config *c, const kv_view *view) {
    return view->event == KV_AT_STEP && view->n_steps % DECODE_TOKENS ? INT_MAX : (int)c->value[KEEP];
}

static int bound_tokens(const kv_config *c) {
    return (int)c->value[KEEP] + DECODE_TOKENS - 1;
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)il;
    (void)max_new;
    return n_prompt < (int)c->value[KEEP] ? n_prompt : (int)c->value[KEEP];
}

static int grid_tokens(const kv_config *c) {
    return (int)c->value[BLOCK];
}

/* unit = the row's direction; a row of zeros has none. */
static void direct(const float *restrict row, int d, double *restrict unit) {
    double size = sqrt(dot_double(row, row, d)), over = size > 0 ? 1 / size : 0;
    for (int j = 0; j < d; j++)
        unit[j] = (double)row[j] * over;
}

static void score_lane(const kv_view *view, int ih, float *s) {
    int d = view->model->head_dim;
    const float *k = kv_view_rows(view, ih, KV_K);
    double anchor[KV_MAX_HEAD_DIM] = {0}, unit[KV_MAX_HEAD_DIM];
    for (int slot = 0; slot < view->n_slots[ih]; slot++) {
        direct(k + (size_t)slot * (size_t)d, d, unit);
        for (int j = 0; view->pos[ih][slot] != KV_DEAD && j < d; j++)
            anchor[j] += unit[j];
    }
    double size = sqrt(dot_doubles(anchor, anchor, d));
    for (int slot = 0; slot < view->n_slots[ih]; slot++) {
        direct(k + (size_t)slot * (size_t)d, d, unit);
        s[slot] = size > 0 ? (float)(-dot_doubles(unit, anchor, d) / size) : 0; /* minus the cosine */
    }
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    (void)c;
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        score_lane(view, ih, s[ih]);
}

const kv_policy kv_policy_keydiff = {
    .name = "keydiff",
    .paper = "arXiv 2504.15364",
    .summary = "keys that point elsewhere than the mean key",
    .params = params,
    .per_head_scores = true,
    .shares_budget = true,
    .check = check,
    .wants = wants,
    .budget = budget,
    .score = score,
    .bound_tokens = bound_tokens,
    .kept_tokens = kept_tokens,
    .grid_tokens = grid_tokens,
};
