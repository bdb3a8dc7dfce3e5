/* policy_snapkv.c - SnapKV (arXiv 2404.14469, section 4): what the prompt's last queries look at stays.
 *
 * At the prompt's end, for each KV head: the probabilities of the newest `window` queries over all keys (causal, one
 * softmax over prompt and window), averaged over the queries and over the heads of the group, then pooled over
 * `kernel` neighbours; the window's own tokens stay, and of the others those with the largest pooled scores, `keep` in
 * all. A pool of maxima makes ties: they go by the score before pooling, then by position. Decode only adds tokens.
 *
 * Deviations: the group's mean is taken before pooling (the authors repeat the keys per query head and select for each;
 * kvpress pools first); the mean over queries, not the sum, so that CriticalKV's eps has its weight. Neighbours are the
 * next kept tokens, which differ from the next positions only at later events (bounded prefill, further turns).
 * decode=hold goes on evicting at every step down to `keep`, by accumulated attention as H2O does; nobody published
 * that. Cost: the window is two query tiles more of attention at the event. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/pooling.h"
#include <limits.h>
#include <math.h>

enum { KEEP, WINDOW, KERNEL, POOL, DECODE };
enum { DECODE_GROW, DECODE_HOLD };

static const kv_param params[] = {
    {"keep", "tokens kept, the window included", NULL, 512, 1, 1 << 24, true},
    {"window", "newest queries that vote, and tokens that stay", NULL, 32, 1, 512, true},
    {"kernel", "neighbours pooled, odd", NULL, 7, 1, 255, true},
    {"pool", "over the neighbours", "max|avg", POOLING_MAX, 0, 1, true},
    {"decode", "grow, or hold the budget by accumulated attention", "grow|hold", DECODE_GROW, 0, 1, true},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

static pleat_status check(const kv_config *c, pleat_error *error) {
    if (of(c, KERNEL) % 2 == 0)
        return err_set(error, PLEAT_EINPUT, "snapkv: kernel=%d is not odd", of(c, KERNEL));
    if (of(c, KEEP) < of(c, WINDOW))
        return err_set(error, PLEAT_EINPUT, "snapkv: keep=%d is less than its window of %d tokens", of(c, KEEP),
                       of(c, WINDOW));
    return PLEAT_OK;
}

static kv_wants wants(const kv_config *c) {
    return (kv_wants){.flags = KV_WANT_WINDOW_Q | (of(c, DECODE) == DECODE_HOLD ? KV_WANT_MASS : 0),
                      .window_tokens = of(c, WINDOW)};
}

static int budget(const kv_config *c, const kv_view *view) {
    return view->event == KV_AT_STEP && of(c, DECODE) == DECODE_GROW ? INT_MAX : of(c, KEEP);
}

static int bound_tokens(const kv_config *c) {
    return of(c, DECODE) == DECODE_HOLD ? of(c, KEEP) : INT_MAX;
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)il;
    (void)max_new;
    return n_prompt < of(c, KEEP) ? n_prompt : of(c, KEEP);
}

static int window_tokens(const kv_config *c) {
    return of(c, WINDOW);
}

static size_t work_floats(const kv_config *c, const kv_model *model, int n_slots) {
    return pooling_floats(model, of(c, WINDOW), n_slots);
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    int recent_from = view->n_seen - of(c, WINDOW);
    for (int ih = 0; ih < view->model->n_head_kv; ih++) {
        if (view->event == KV_AT_STEP) {
            for (int slot = 0; slot < view->n_slots[ih]; slot++)
                s[ih][slot] = view->pos[ih][slot] >= recent_from ? INFINITY : view->mass[ih][slot];
            continue;
        }
        pooling_score(
            view, ih,
            &(pooling){.window = of(c, WINDOW), .kernel = of(c, KERNEL), .average = of(c, POOL) == POOLING_AVG}, s[ih]);
    }
}

const kv_policy kv_policy_snapkv = {
    .name = "snapkv",
    .paper = "arXiv 2404.14469",
    .summary = "what the prompt's last queries attend to",
    .params = params,
    .per_head_scores = true,
    .attention_scores = true,
    .shares_budget = true,
    .check = check,
    .wants = wants,
    .budget = budget,
    .score = score,
    .bound_tokens = bound_tokens,
    .kept_tokens = kept_tokens,
    .window_tokens = window_tokens,
    .work_floats = work_floats,
};
