/* critical.c - the modifier CriticalKV (arXiv 2502.03805): of a head's budget, the first part goes by attention alone,
 * the rest by attention times what a value can do to the layer's output.
 *
 * With b free places and scores A: stage 1 keeps the floor(alpha b) slots of largest A; stage 2 fills the others by
 * (A + eps) N, where N = mean over the group's query heads of || v W_O^(h) ||_1 and W_O^(h) is the head's part of the
 * output projection. Forced slots (the policy's window, sinks, pins) are outside of b; a split fixes each head's budget
 * first. Here the two stages become one order of scores, so that the plan needs no second way to evict.
 *
 * N belongs to a value and never changes, so it is kept with the slot (it moves like mass) and made only when a slot
 * that has none competes; then for all that lack it, with W_O opened once per head. In decode that is once per window
 * of the policy, not once per token. The value is the row as `open` gives it at that moment. Products go through the
 * float kernels: n_head d n_embd multiply-adds a token and layer. eps is absolute, as published: it has its weight only
 * for scores that are means (snapkv), not for sums of mass (h2o).
 *
 * vnorm=l2 takes || v ||_2 for N: a deviation, and cheap. */
#include "kv/lane.h"
#include <math.h>

enum { ALPHA, EPS, NORM, VNORM };
enum { ROWS = 32 };
#define STAGE_1 1e38f /* above any score, below what must stay */

const kv_param kv_critical_params[] = {
    {"alpha", "share of the budget that goes by attention alone", NULL, 0.5, 0, 1, false},
    {"eps", "added to the attention before it is weighed", NULL, 1e-4, 0, 1, false},
    {"norm", "of the value behind the output projection", "l1", 0, 0, 0, true},
    {"vnorm", "l2: the value's own norm instead (cheap)", "off|l2", 0, 0, 1, true},
    {0},
};

static float sum_abs(const float *x, int n) {
    enum { LANES = 16 };
    float lane[LANES] = {0}, sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += fabsf(x[i + k]);
    for (; i < n; i++)
        sum += fabsf(x[i]);
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

/* norm[slot] += the L1 norms behind one query head, for the n slots listed, whose rows are x [n][d]. */
static void add_head(const kv_view *view, int h, const float *x, const int32_t *slot, int n, float *norm) {
    const kv_model *m = view->model;
    float *wo = view->scratch->wo, out[ROWS * KV_PRODUCT_ROWS];
    m->open_wo(m->owner, view->il, h, wo);
    for (int first = 0; first < m->n_embd; first += KV_PRODUCT_ROWS) {
        int n_rows = m->n_embd - first < KV_PRODUCT_ROWS ? m->n_embd - first : KV_PRODUCT_ROWS;
        pack_matrix w = product_pack(view, wo + (size_t)first * (size_t)m->head_dim, n_rows, m->head_dim);
        for (int t = 0, k; t < n; t += k) {
            k = n - t < ROWS ? n - t : ROWS;
            product_run(view, &w, x + (size_t)t * (size_t)m->head_dim, k, out, n_rows);
            for (int i = 0; i < k; i++)
                norm[slot[t + i]] += sum_abs(out + i * n_rows, n_rows);
        }
    }
}

/* Norms of the live slots that have none yet. */
static void fill_norms(kv_cache *cache, const kv_view *view, int ih) {
    kv_lane *lane = lane_of(cache, view->il, ih);
    int d = view->model->head_dim, group = view->model->n_head / view->model->n_head_kv, n = 0;
    int32_t *slot = view->scratch->inverse;
    float *x = (float *)kv_view_rows(view, ih, KV_V);
    for (int i = 0; i < lane->n_slots; i++) {
        if (lane->pos[i] == KV_DEAD || lane->norm[i] >= 0)
            continue;
        double square = 0;
        for (int j = 0; j < d; j++) {
            x[(size_t)n * (size_t)d + (size_t)j] = x[(size_t)i * (size_t)d + (size_t)j]; /* rows move to the front */
            square += (double)x[(size_t)n * (size_t)d + (size_t)j] * (double)x[(size_t)n * (size_t)d + (size_t)j];
        }
        lane->norm[i] = cache->method.critical_config.value[VNORM] != 0 ? (float)sqrt(square) : 0;
        slot[n++] = i;
    }
    if (cache->method.critical_config.value[VNORM] != 0)
        return;
    for (int g = 0; g < group; g++)
        add_head(view, ih * group + g, x, slot, n, lane->norm);
    for (int i = 0; i < n; i++)
        lane->norm[slot[i]] /= (float)group;
}

void critical_weigh(kv_cache *cache, const kv_view *view, int ih, int n_keep, float *score) {
    const kv_lane *lane = lane_of(cache, view->il, ih);
    kv_scratch *scratch = view->scratch;
    int32_t *order = scratch->order;
    int n = 0, n_forced = 0;
    bool known = true;
    for (int slot = 0; slot < lane->n_slots; slot++) {
        if (lane->pos[slot] == KV_DEAD)
            continue;
        n_forced += score[slot] == INFINITY;
        if (score[slot] == INFINITY)
            continue;
        known = known && lane->norm[slot] >= 0;
        order[n++] = slot;
    }
    int n_free = n_keep - n_forced, n_first = (int)floor(cache->method.critical_config.value[ALPHA] * n_free);
    if (n_free <= 0 || n_free >= n)
        return;
    if (!known)
        fill_norms(cache, view, ih);
    const float *ties = scratch->has_ties[ih] ? scratch->ties + (size_t)ih * (size_t)scratch->cap_slots : NULL;
    select_leaving(order, n, n - n_first, score, ties, lane->pos);
    float eps = (float)cache->method.critical_config.value[EPS];
    for (int i = 0; i < n; i++)
        score[order[i]] = i < n - n_first ? (score[order[i]] + eps) * lane->norm[order[i]] : STAGE_1;
}
