/* policy_streaming.c - StreamingLLM (arXiv 2309.17453): the first `sinks` tokens and the newest `recent`, at positions
 * inside the cache.
 *
 * No scores are needed: sinks must stay, the others go oldest first. At a step the new token attends over sinks +
 * recent tokens, itself included, so the events leave one place free: a budget of sinks + recent - 1 (the authors evict
 * before they append; the sets that queries see are the same).
 *
 * Positions (section 3.2 of the paper): the authors cache keys before their rotation and rotate all of them by their
 * index in the cache at every step. Here keys stay rotated at their true positions and the query is rotated twice: at
 * its true position for the recent segment, where distances are unchanged, and at its index in the cache for the sinks,
 * whose index is their position. That is the same to 1e-7 at position 20,000 and never touches a stored key.
 * pos=original leaves that out.
 *
 * Deviations: the study's settings are the default (64 + 448; the paper has 4 + the rest); a prompt longer than the
 * cache is attended to exactly and cut at its end under prefill:exact, and streamed in grid steps under
 * prefill:bounded. */
#include "kv/method.h"
#include "base/status.h"
#include <limits.h>
#include <math.h>

enum { SINKS, RECENT, POS };
enum { POS_CACHE, POS_ORIGINAL };

static const kv_param params[] = {
    {"sinks", "first tokens that always stay", NULL, 64, 0, 1 << 20, true},
    {"recent", "newest tokens that stay", NULL, 448, 1, 1 << 24, true},
    {"pos", "positions seen by the query", "cache|original", POS_CACHE, 0, 1, true},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

static int bound_tokens(const kv_config *c) {
    return of(c, SINKS) + of(c, RECENT) - 1;
}

static int budget(const kv_config *c, const kv_view *view) {
    (void)view;
    return bound_tokens(c);
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        for (int slot = 0; slot < view->n_slots[ih]; slot++) {
            int32_t pos = view->pos[ih][slot];
            s[ih][slot] = pos < of(c, SINKS) ? INFINITY : (float)(pos - view->n_seen);
        }
}

static int cache_positions(const kv_config *c) {
    return of(c, POS) == POS_CACHE ? of(c, SINKS) : 0;
}

static pleat_status check(const kv_config *c, pleat_error *error) {
    if (of(c, SINKS) + of(c, RECENT) < 2)
        return err_set(error, PLEAT_EINPUT, "streaming: sinks=%d and recent=%d leave no token to attend to",
                       of(c, SINKS), of(c, RECENT));
    return PLEAT_OK;
}

const kv_policy kv_policy_streaming = {
    .name = "streaming",
    .paper = "arXiv 2309.17453",
    .summary = "attention sinks and the newest tokens, at positions inside the cache",
    .params = params,
    .check = check,
    .one_set = true,
    .budget = budget,
    .score = score,
    .cache_positions = cache_positions,
    .bound_tokens = bound_tokens,
};
