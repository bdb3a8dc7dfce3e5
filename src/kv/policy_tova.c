/* policy_tova.c - TOVA (arXiv 2401.06104, section 3): what the newest query attends to least, leaves.
 *
 * The score of a token is its probability for the newest query alone, averaged over all query heads of the layer, so
 * that all heads of a layer keep one set. After the prompt the cache is cut to `keep` by the last prompt query; then
 * each step's own query decides which one token leaves. Nothing is remembered, there are no sinks and no window;
 * positions stay original. protect=1 keeps the newest token at its own step (kvpress); protect=0 lets it compete, as
 * published.
 *
 * Deviation: under prefill:bounded each grid point's last query decides too. Cost: the tile that holds the newest query
 * keeps its probabilities, once per step. */
#include "kv/method.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { KEEP, PROTECT };

static const kv_param params[] = {
    {"keep", "tokens kept", NULL, 512, 2, 1 << 24, true},
    {"protect", "1: the newest token stays at its own step", NULL, 1, 0, 1, true},
    {0},
};

static kv_wants wants(const kv_config *c) {
    (void)c;
    return (kv_wants){.flags = KV_WANT_LAST};
}

static int bound_tokens(const kv_config *c) {
    return (int)c->value[KEEP];
}

static int budget(const kv_config *c, const kv_view *view) {
    (void)view;
    return bound_tokens(c);
}

static int window_tokens(const kv_config *c) {
    return (int)c->value[PROTECT];
}

/* Every lane of the layer has the same tokens in the same slots, since all of them lose the same one. */
static void score(const kv_config *c, const kv_view *view, float *const *s) {
    int n_heads = view->model->n_head_kv, n = view->n_slots[0];
    size_t n_bytes = (size_t)n * sizeof(float);
    memset(s[0], 0, n_bytes);
    for (int ih = 0; ih < n_heads; ih++) {
        assert(view->n_slots[ih] == n && !memcmp(view->pos[ih], view->pos[0], (size_t)n * sizeof(int32_t)));
        view->kernels->add(s[0], view->last[ih], n);
    }
    view->kernels->scale(s[0], n, 1 / (float)view->model->n_head);
    for (int slot = 0; c->value[PROTECT] != 0 && slot < n; slot++)
        if (view->pos[0][slot] == view->n_seen - 1)
            s[0][slot] = INFINITY;
    for (int ih = 1; ih < n_heads; ih++)
        memcpy(s[ih], s[0], n_bytes);
}

const kv_policy kv_policy_tova = {
    .name = "tova",
    .paper = "arXiv 2401.06104",
    .summary = "what the newest query attends to, one set for all heads of a layer",
    .params = params,
    .attention_scores = true,
    .shares_budget = true,
    .one_set = true,
    .wants = wants,
    .budget = budget,
    .score = score,
    .bound_tokens = bound_tokens,
    .window_tokens = window_tokens,
};
