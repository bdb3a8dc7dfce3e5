/* split_pyramid.c - PyramidKV (arXiv 2406.02069, section 4): layers get less the deeper they are.
 *
 * Of a budget C with a window W, B = C - W is shared: min = B / beta, max = 2 B - min, clamped to T - W with min raised
 * by what max lost; layer l of L gets max - l (max - min) / (L - 1), and its window. The sum over layers is exactly L
 * B: shares are rounded down and what is left over goes to the largest remainders, then to lower layers. T is what the
 * sequence has seen; layers with a sliding window do not count.
 *
 * Deviations: the authors' integer floors sum to more than the budget (16,576 for 16,128 of their defaults), and below
 * T = 2 B they share evenly; here the formula holds for every T > C. */
#include "kv/method.h"
#include <math.h>
#include <stdlib.h>

enum { BETA };

static const kv_param params[] = {
    {"beta", "how much more the first layer gets: (2 beta - 1) times the last", NULL, 20, 1, 1000, false},
    {0},
};

typedef struct share {
    double rest;
    int layer;
} share;

static int by_rest(const void *a, const void *b) {
    const share *x = a, *y = b;
    return x->rest != y->rest ? (x->rest < y->rest) - (x->rest > y->rest)
                              : (x->layer > y->layer) - (x->layer < y->layer);
}

static int layer_budget(const kv_config *c, const kv_view *view, int budget) {
    int n_layers = view->n_full_layers, b = budget - view->n_newest, room = view->n_seen - view->n_newest, sum = 0;
    if (n_layers < 2 || b < 1 || room < b || view->n_seen <= budget)
        return budget;
    double low = b / c->value[BETA], high = 2 * b - low;
    if (high > room) {
        high = room;
        low = 2 * b - high;
    }
    int tokens[KV_MAX_LAYERS];
    share left[KV_MAX_LAYERS];
    for (int il = 0; il < n_layers; il++) {
        double exact = high - il * (high - low) / (n_layers - 1);
        tokens[il] = (int)floor(exact + 1e-9);
        left[il] = (share){exact - tokens[il], il};
        sum += tokens[il];
    }
    qsort(left, (size_t)n_layers, sizeof(*left), by_rest);
    for (int i = 0; i < n_layers && sum < n_layers * b; i++, sum++)
        tokens[left[i].layer]++;
    return tokens[view->i_full] + view->n_newest;
}

const kv_split kv_split_pyramid = {
    .name = "pyramid",
    .paper = "arXiv 2406.02069",
    .summary = "fewer tokens the deeper the layer",
    .params = params,
    .layer_budget = layer_budget,
};
