/* split_adakv.c - Ada-KV (arXiv 2407.11550, section 3.3): heads of a layer share one budget by where its best scores
 * lie.
 *
 * Of a layer with H heads and B free places each (what is forced to stay is outside), count_h is how many of the H B
 * best scores of the layer lie in head h; cap_h = (1 - alpha) count_h + floor(alpha B), rounded so that all caps sum to
 * H B exactly: down, and what is left over to the largest remainders, then to lower heads. No head is given more than
 * it has; what it cannot take goes to the others in turn. normalize=1 multiplies a head's scores by the share of its
 * sum that its own B best hold. Each head then keeps its best cap_h, so lanes of a layer differ in length and in pages.
 *
 * Deviations: the authors' rounding may miss H B by a few. Not possible with one set per layer (tova) or scores that
 * are positions (streaming). */
#include "kv/method.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALPHA, NORMALIZE };

static const kv_param params[] = {
    {"alpha", "share of the budget that every head has for itself", NULL, 0.2, 0, 1, false},
    {"normalize", "1: weigh a head by how much its best scores hold", NULL, 0, 0, 1, true},
    {0},
};

static int falling(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The n_top-th largest of x [n], which is reordered. */
static float nth_largest(float *x, int n, int n_top) {
    int low = 0, high = n - 1;
    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        int i = low - 1, j = high + 1;
        for (;;) {
            do
                i++;
            while (x[i] > pivot);
            do
                j--;
            while (x[j] < pivot);
            if (i >= j)
                break;
            float swap = x[i];
            x[i] = x[j];
            x[j] = swap;
        }
        if (n_top - 1 <= j)
            high = j;
        else
            low = j + 1;
    }
    return x[n_top - 1];
}

/* Free scores of a head; returns how many, and counts the forced ones. */
static int free_scores(const kv_view *view, int ih, const float *s, float weight, float *out, int *n_forced) {
    int n = 0;
    *n_forced = 0;
    for (int slot = 0; slot < view->n_slots[ih]; slot++) {
        if (view->pos[ih][slot] == KV_DEAD)
            continue;
        *n_forced += s[slot] == INFINITY;
        if (s[slot] != INFINITY)
            out[n++] = s[slot] * weight;
    }
    return n;
}

/* Sum of the b largest over the sum of all. */
static float held_share(const kv_view *view, int ih, const float *s, int b, float *work) {
    int n_forced, n = free_scores(view, ih, s, 1, work, &n_forced);
    double all = 0, best = 0;
    qsort(work, (size_t)n, sizeof(*work), falling);
    for (int i = 0; i < n; i++) {
        all += (double)work[i];
        best += i < b ? (double)work[i] : 0;
    }
    return all > 0 ? (float)(best / all) : 1;
}

typedef struct heads {
    int n[KV_MAX_HEADS], n_forced[KV_MAX_HEADS], count[KV_MAX_HEADS];
    float weight[KV_MAX_HEADS];
    int total; /* places to share out */
} heads;

/* count[ih] of the `total` best scores; ties at the edge go to lower heads. */
static void count_best(const kv_view *view, const float *const *s, heads *h, float *work) {
    int n_heads = view->model->n_head_kv, n = 0, n_above = 0;
    for (int ih = 0; ih < n_heads; ih++)
        n += free_scores(view, ih, s[ih], h->weight[ih], work + n, &h->n_forced[ih]);
    float edge = h->total >= n ? -INFINITY : nth_largest(work, n, h->total);
    int tied[KV_MAX_HEADS] = {0};
    for (int ih = 0; ih < n_heads; ih++) {
        h->count[ih] = 0;
        for (int slot = 0; slot < view->n_slots[ih]; slot++) {
            if (view->pos[ih][slot] == KV_DEAD || s[ih][slot] == INFINITY)
                continue;
            float x = s[ih][slot] * h->weight[ih];
            h->count[ih] += x > edge;
            tied[ih] += x == edge;
        }
        n_above += h->count[ih];
    }
    for (int ih = 0, left = h->total - n_above; ih < n_heads && left > 0; ih++) {
        int more = tied[ih] < left ? tied[ih] : left;
        h->count[ih] += more;
        left -= more;
    }
}

/* cap[ih] summing to the total where the heads have so many. */
static void share_out(const kv_config *c, int n_heads, const heads *h, int *cap) {
    double exact[KV_MAX_HEADS], alpha = c->value[ALPHA];
    int sum = 0;
    for (int ih = 0; ih < n_heads; ih++) {
        exact[ih] = (1 - alpha) * h->count[ih] + floor(alpha * h->total / n_heads);
        cap[ih] = (int)floor(exact[ih] + 1e-9);
        exact[ih] -= cap[ih];
        cap[ih] = cap[ih] < h->n[ih] ? cap[ih] : h->n[ih];
        sum += cap[ih];
    }
    while (sum < h->total) { /* largest remainder first, equal ones (but for rounding) to the lower head; a full head
                                has none */
        int best = -1;
        for (int ih = 0; ih < n_heads; ih++)
            if (cap[ih] < h->n[ih] && (best < 0 || exact[ih] > exact[best] + 1e-9))
                best = ih;
        if (best < 0)
            return;
        exact[best] -= 1;
        cap[best]++;
        sum++;
    }
}

static void split_heads(const kv_config *c, const kv_view *view, const float *const *s, int budget, int *keep) {
    int n_heads = view->model->n_head_kv, n_forced = 0, n_slots = 0;
    heads h;
    for (int ih = 0; ih < n_heads; ih++)
        n_slots += view->n_slots[ih];
    float *work = kv_view_work(view, (size_t)n_slots);
    for (int ih = 0; ih < n_heads; ih++) {
        h.weight[ih] = 1;
        h.n[ih] = free_scores(view, ih, s[ih], 1, work, &h.n_forced[ih]);
        n_forced += h.n_forced[ih];
    }
    h.total = n_heads * budget - n_forced;
    if (h.total <= 0)
        return;
    for (int ih = 0; c->value[NORMALIZE] != 0 && ih < n_heads; ih++)
        h.weight[ih] = held_share(view, ih, s[ih], h.total / n_heads, work);
    count_best(view, s, &h, work);
    int cap[KV_MAX_HEADS];
    share_out(c, n_heads, &h, cap);
    for (int ih = 0; ih < n_heads; ih++)
        keep[ih] = h.n_forced[ih] + cap[ih];
}

const kv_split kv_split_adakv = {
    .name = "adakv",
    .paper = "arXiv 2407.11550",
    .summary = "heads of a layer share a budget by where its best scores lie",
    .params = params,
    .needs_head_scores = true,
    .heads = split_heads,
};
