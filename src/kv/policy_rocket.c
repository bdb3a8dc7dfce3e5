/* policy_rocket.c - RocketKV (arXiv 2502.14051 v2, sections 3 and 4): the prompt is evicted once, and each decode query
 * reads only some of what is left.
 *
 * Sizes for a budget b, a prompt of S tokens and `new` tokens to come (section 3.4): c = max(1, S / b), alpha =
 * min(.2 + .06 log2 c, .8), capacity = floor(S / c^alpha), at least min(2 new, S). The prompt keeps capacity - new
 * tokens; a query reads k = b / 2. Stage 1 is SnapKV's vote summed over window and group, pooled over 63 neighbours.
 *
 * Stage 2, per KV head: sign_j of the sum of the group's queries (0 counts as negative), the r channels J of largest
 * mean |q_j|; a page's score for a query head is the sum over J of q_j times the greatest key where sign_j > 0, else
 * the least; softmax over the tokens (each has its page's score) at the temperature sqrt(d * sum_J |q_j| / sum |q_j|);
 * mean over the group; the k best tokens are read exactly. With mixed signs in a group that is no upper bound (the
 * authors' choice). Ties go to the smaller position, also inside a page.
 *
 * Deviations: pages are of 4 tokens, where the paper takes ceil(sqrt(capacity / b)); the channels follow, r = floor(4 d
 * b / capacity), so that bounds are read for the same share of K as in the paper. All channels of a bound are read, the
 * left out ones with weight 0. Where more is to come than half of the prompt, capacity - new would leave little or
 * nothing of it: the prompt keeps half of the capacity then (elsewhere capacity - new is at least that). Without the
 * request's max_tokens (pleat_seq_expect) `new` is 0. */
#include "kv/policy_rocket.h"
#include "base/status.h"
#include "kv/method.h"
#include "kv/pooling.h"
#include <limits.h>
#include <math.h>
#include <string.h>

enum { BUDGET, WINDOW, KERNEL };
enum { PAGE_SLOTS = 4 };

static const kv_param params[] = {
    {"budget", "tokens: what a query reads is half of it", NULL, 512, 2, 1 << 24, true},
    {"window", "newest queries that vote, and tokens that stay", NULL, 32, 1, 512, true},
    {"kernel", "neighbours pooled, odd", NULL, 63, 1, 255, true},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

rocket_sizes rocket_sizes_of(int n_prompt, int budget, int max_new, int d) {
    double c = n_prompt > budget ? (double)n_prompt / budget : 1, alpha = 0.2 + 0.06 * log2(c);
    int least = 2 * (double)max_new < n_prompt ? 2 * max_new : n_prompt,
        capacity = (int)floor(n_prompt / pow(c, alpha < 0.8 ? alpha : 0.8));
    capacity = capacity > least ? capacity : least;
    double ratio = capacity > budget ? (double)capacity / budget : 1, page = ceil(sqrt(ratio));
    page = page > ratio ? 1 : page;
    int prompt = capacity - max_new > capacity / 2 ? capacity - max_new : capacity / 2;
    return (rocket_sizes){.prompt = prompt,
                          .read = budget / 2,
                          .ratio = ratio,
                          .page = (int)page,
                          .channels = (int)floor(d * page / ratio)};
}

static rocket_sizes sizes(const kv_config *c, const kv_view *view) {
    int n_decoded = view->event == KV_AT_STEP ? view->n_steps : 0;
    return rocket_sizes_of(view->n_seen - n_decoded, of(c, BUDGET), view->max_new, view->model->head_dim);
}

static pleat_status check(const kv_config *c, pleat_error *error) {
    if (of(c, KERNEL) % 2 == 0)
        return err_set(error, PLEAT_EINPUT, "rocket: kernel=%d is not odd", of(c, KERNEL));
    return PLEAT_OK;
}

static kv_wants wants(const kv_config *c) {
    return (kv_wants){
        .flags = KV_WANT_WINDOW_Q | KV_WANT_BOUNDS, .window_tokens = of(c, WINDOW), .bound_slots = PAGE_SLOTS};
}

static int at_least_window(const kv_config *c, int n) {
    return n > of(c, WINDOW) ? n : of(c, WINDOW);
}

static int budget(const kv_config *c, const kv_view *view) {
    return view->event == KV_AT_STEP ? INT_MAX : at_least_window(c, sizes(c, view).prompt);
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)il;
    int n = at_least_window(c, rocket_sizes_of(n_prompt, of(c, BUDGET), max_new, 1).prompt);
    return n < n_prompt ? n : n_prompt;
}

static int read_tokens(const kv_config *c) {
    return of(c, BUDGET) / 2;
}

static int window_tokens(const kv_config *c) {
    return of(c, WINDOW);
}

/* Rows of q, products, the group's mean, weights, best pages, live slots; or the votes of stage 1. */
static size_t work_floats(const kv_config *c, const kv_model *model, int n_slots) {
    size_t room = (size_t)(n_slots / PAGE_SLOTS + 2 * PAGE_TOKENS), group = (size_t)(model->n_head / model->n_head_kv),
           votes = pooling_floats(model, of(c, WINDOW), n_slots),
           picks = (2 * group + 2) * (size_t)model->head_dim + (group + 4) * room;
    return votes > picks ? votes : picks;
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    pooling how = {.window = of(c, WINDOW), .kernel = of(c, KERNEL), .sum = true};
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        pooling_score(view, ih, &how, s[ih]);
}

/* ---- stage 2 ---- */

/* a [group][2 d]: each query on the side of the bounds that its group's signs choose, r channels only. */
static void choose_channels(const kv_pick *p, int r, float *a, float *mean, int32_t *best) {
    const kv_model *m = p->view->model;
    int d = m->head_dim, group = m->n_head / m->n_head_kv;
    memset(a, 0, (size_t)(group * 2 * d) * sizeof(*a));
    memset(mean, 0, (size_t)d * sizeof(*mean));
    for (int g = 0; g < group; g++)
        for (int j = 0; j < d; j++)
            mean[j] += fabsf(p->q[g * d + j]);
    pick_best(p, mean, d, r, best);
    for (int i = 0; i < r; i++) {
        int j = best[i];
        float sum = 0;
        for (int g = 0; g < group; g++)
            sum += p->q[g * d + j];
        for (int g = 0; g < group; g++)
            a[g * 2 * d + (sum > 0 ? d : 0) + j] = p->q[g * d + j];
    }
}

static float temperature(const float *q, const float *a, int d) {
    double all = 0, chosen = 0;
    for (int j = 0; j < d; j++) {
        all += (double)fabsf(q[j]);
        chosen += (double)fabsf(a[j]) + (double)fabsf(a[d + j]);
    }
    return all > 0 ? (float)sqrt(d * chosen / all) : 1;
}

/* Of the best page that is left, what `left` tokens allow; returns how many that is. */
static int read_page(const kv_pick *p, int b, unsigned slots, int left, uint64_t *read) {
    int group = p->view->model->n_head / p->view->model->n_head_kv;
    while (__builtin_popcount(slots) > left)
        slots &= ~(1u << (31 - __builtin_clz(slots)));
    for (int g = 0; g < group; g++)
        pick_read(p, g, b, (uint16_t)slots, read);
    return __builtin_popcount(slots);
}

static int first_of_largest(const float *s, int n) {
    int best = 0;
    for (int b = 1; b < n; b++)
        best = s[b] > s[best] ? b : best;
    return best;
}

/* The best pages' live slots, `left` in all: as many pages as surely fit at once, the few others one by one. */
static void read_best(const kv_pick *p, float *mean, const uint16_t *live, int left, int32_t *best, uint64_t *read) {
    int n = pick_count(p), n_whole = left / PAGE_SLOTS < n ? left / PAGE_SLOTS : n;
    pick_best(p, mean, n, n_whole, best);
    for (int i = 0; i < n_whole; i++) {
        left -= read_page(p, best[i], live[best[i]], left, read);
        mean[best[i]] = -INFINITY;
    }
    for (int b = first_of_largest(mean, n); left > 0 && mean[b] > -INFINITY; b = first_of_largest(mean, n)) {
        left -= read_page(p, b, live[b], left, read);
        mean[b] = -INFINITY;
    }
}

static bool pick(const kv_config *c, const kv_pick *p, uint64_t *read) {
    const kv_model *m = p->view->model;
    int d = m->head_dim, group = m->n_head / m->n_head_kv, n = pick_count(p), room = pick_room(p);
    rocket_sizes sz = sizes(c, p->view);
    if (p->view->n_live[p->ih] <= sz.read)
        return false;
    int r = (int)floor(d * PAGE_SLOTS / sz.ratio);
    r = r < 1 ? 1 : r > d ? d : r;
    float *a = kv_view_work(p->view, work_floats(c, m, p->view->n_slots[p->ih])), *size = a + group * 2 * d,
          *u = size + 2 * d, *mean = u + group * room, *weight = mean + room;
    int32_t *best = (int32_t *)(weight + room);
    uint16_t *live = (uint16_t *)(best + room);
    choose_channels(p, r, a, size, (int32_t *)(size + d));
    pick_products(p, a, group, u, live);
    for (int b = 0; b < room; b++) {
        weight[b] = b < n ? (float)__builtin_popcount(live[b]) : 0;
        mean[b] = 0;
    }
    for (int g = 0; g < group; g++)
        pick_shares(p, u + g * room, weight, 1 / temperature(p->q + g * d, a + g * 2 * d, d), mean);
    read_best(p, mean, live, sz.read, best, read);
    return true;
}

const kv_policy kv_policy_rocket = {
    .name = "rocket",
    .paper = "arXiv 2502.14051",
    .summary = "evicts the prompt once by its last queries, then reads the best half budget of what is left",
    .params = params,
    .per_head_scores = true,
    .attention_scores = true,
    .shares_budget = true,
    .check = check,
    .wants = wants,
    .budget = budget,
    .score = score,
    .kept_tokens = kept_tokens,
    .read_tokens = read_tokens,
    .window_tokens = window_tokens,
    .pick = pick,
    .work_floats = work_floats,
};
