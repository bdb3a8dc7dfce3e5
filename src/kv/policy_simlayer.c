/* policy_simlayer.c - SimLayerKV (arXiv 2410.13846; its authors' SimLayerKV_qwen.py, sail-sg/SimLayerKV @fc51ae1):
 * layers that look at nothing but the first and the newest tokens keep nothing else.
 *
 * The prompt is attended to exactly. At the first decode step every layer is judged by that step's query: the share of
 * attention, averaged over all query heads of the layer, that falls on the first `initial` and the newest `recent`
 * tokens. A layer whose share exceeds `threshold` is lazy and is cut to those tokens, all heads alike; the others keep
 * everything. Afterwards every layer grows by each token, as the authors' code does, and their last layer is never cut.
 * A prompt shorter than initial + recent is left as it is.
 *
 * No state is kept: the first decode step is known by its number, which counts from the end of the newest prompt. So a
 * later turn is judged anew, at its own first step and on what is there by then. How many layers turn out lazy is only
 * known then, so plans of memory count every layer whole.
 *
 * Deviations: a threshold of 0.9 by default (the authors' code takes it as an argument); original positions; layers
 * with a window are not judged; under prefill:bounded each grid point's last query judges too, on what is there by
 * then, so only lazy layers are bounded. Cost: the newest query's probabilities, which attention has at hand anyway. */
#include "kv/method.h"
#include <limits.h>
#include <math.h>

enum { THRESHOLD, INITIAL, RECENT };

static const kv_param params[] = {
    {"threshold", "share of attention above which a layer is lazy", NULL, 0.9, 0, 1, false},
    {"initial", "first tokens that a lazy layer keeps", NULL, 4, 0, 1 << 20, true},
    {"recent", "newest tokens that a lazy layer keeps", NULL, 1024, 1, 1 << 24, true},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

static kv_wants wants(const kv_config *c) {
    (void)c;
    return (kv_wants){.flags = KV_WANT_LAST};
}

static int lazy_tokens(const kv_config *c) {
    return of(c, INITIAL) + of(c, RECENT);
}

static bool stays(const kv_config *c, const kv_view *view, int32_t pos) {
    return pos != KV_DEAD && (pos < of(c, INITIAL) || pos >= view->n_seen - of(c, RECENT));
}

static bool lazy(const kv_config *c, const kv_view *view) {
    double share = 0;
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        for (int slot = 0; slot < view->n_slots[ih]; slot++)
            if (stays(c, view, view->pos[ih][slot]))
                share += (double)view->last[ih][slot];
    return share / view->model->n_head > c->value[THRESHOLD];
}

static int budget(const kv_config *c, const kv_view *view) {
    bool judged = view->event == KV_AT_GRID || (view->event == KV_AT_STEP && view->n_steps == 1);
    bool last_layer = view->i_full == view->n_full_layers - 1;
    return judged && !last_layer && lazy(c, view) ? lazy_tokens(c) : INT_MAX;
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        for (int slot = 0; slot < view->n_slots[ih]; slot++)
            s[ih][slot] = stays(c, view, view->pos[ih][slot]) ? INFINITY : (float)(view->pos[ih][slot] - view->n_seen);
}

const kv_policy kv_policy_simlayer = {
    .name = "simlayer",
    .paper = "arXiv 2410.13846",
    .summary = "layers that attend to the first and the newest tokens alone keep nothing else",
    .params = params,
    .one_set = true,
    .wants = wants,
    .budget = budget,
    .score = score,
    .some_kept_tokens = lazy_tokens,
};
