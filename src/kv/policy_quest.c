/* policy_quest.c - Quest (arXiv 2406.10774, section 3): nothing is evicted, but a decode query reads only the pages
 * that may matter to it.
 *
 * A page of 16 tokens keeps the least and greatest key per channel. With U = sum over j of max(q_j min_j, q_j max_j),
 * which no score in the page can exceed, a query reads the k = budget / page pages (at least 3) of largest U, exactly.
 * The page of the newest token is always read and counts; the first `skip` layers read everything, and prompts attend
 * to everything. Ties go to the older page.
 *
 * Deviation: query heads that share a KV head share a choice, by the mean over the group of softmax(U / sqrt(d)) over
 * pages, so that each key is read once (the paper has no shared heads); select=head is the paper's own choice for each
 * head. Bounds hold for keys as their format gives them. Costs d / 4 bytes a token for the bounds, and one product with
 * them per step: a sixteenth of K. */
#include "kv/method.h"
#include <limits.h>
#include <math.h>
#include <string.h>

enum { BUDGET, PAGE, SKIP, SELECT };
enum { SELECT_GROUP, SELECT_HEAD };
enum { LEAST_PAGES = 3 };

static const kv_param params[] = {
    {"budget", "tokens that a query reads", NULL, 1024, 1, 1 << 24, true},
    {"page", "tokens that share bounds", "4|16", 1, 0, 1, true},
    {"skip", "first layers that read everything", NULL, 2, 0, KV_MAX_LAYERS, true},
    {"select", "pages for a group of query heads, or for each", "group|head", SELECT_GROUP, 0, 1, true},
    {0},
};

static int page_slots(const kv_config *c) {
    return c->value[PAGE] != 0 ? 16 : 4;
}

static int page_budget(const kv_config *c) {
    int n = (int)c->value[BUDGET] / page_slots(c);
    return n > LEAST_PAGES ? n : LEAST_PAGES;
}

static kv_wants wants(const kv_config *c) {
    return (kv_wants){.flags = KV_WANT_BOUNDS, .bound_slots = page_slots(c)};
}

static int budget(const kv_config *c, const kv_view *view) {
    (void)c;
    (void)view;
    return INT_MAX;
}

static int read_tokens(const kv_config *c) {
    return page_budget(c) * page_slots(c);
}

/* q's parts below and above zero; products; the group's mean; the best; live slots. */
static size_t work_floats(const kv_config *c, const kv_model *model, int n_slots) {
    size_t room = (size_t)(n_slots / page_slots(c) + 2 * PAGE_TOKENS),
           group = (size_t)(model->n_head / model->n_head_kv);
    return group * 2 * (size_t)model->head_dim + (group + 3) * room;
}

static void split_query(const float *q, int d, float *a) {
    for (int j = 0; j < d; j++) {
        a[j] = q[j] < 0 ? q[j] : 0;
        a[d + j] = q[j] > 0 ? q[j] : 0;
    }
}

static int newest_page(const kv_config *c, const kv_pick *pick) {
    int slot = pick->view->n_slots[pick->ih] - 1;
    while (slot > 0 && pick->view->pos[pick->ih][slot] != pick->view->n_seen - 1)
        slot--;
    return slot / page_slots(c);
}

static bool pick(const kv_config *c, const kv_pick *p, uint64_t *read) {
    const kv_model *m = p->view->model;
    int d = m->head_dim, group = m->n_head / m->n_head_kv, n = pick_count(p), k = page_budget(c);
    if (p->view->il < (int)c->value[SKIP] || n <= k)
        return false;
    int room = pick_room(p), newest = newest_page(c, p);
    float *a = kv_view_work(p->view, work_floats(c, m, p->view->n_slots[p->ih])), *u = a + group * 2 * d,
          *mean = u + group * room;
    int32_t *best = (int32_t *)(mean + room);
    uint16_t *live = (uint16_t *)(best + room);
    for (int g = 0; g < group; g++)
        split_query(p->q + g * d, d, a + g * 2 * d);
    pick_products(p, a, group, u, live);
    bool shared = c->value[SELECT] == SELECT_GROUP;
    memset(mean, 0, (size_t)room * sizeof(*mean));
    for (int g = 0; shared && g < group; g++)
        pick_shares(p, u + g * room, NULL, m->score_scale, mean);
    for (int g = 0; g < group; g++) {
        float *s = shared ? mean : u + g * room;
        s[newest] = INFINITY;
        if (!shared || g == 0)
            pick_best(p, s, n, k, best);
        for (int i = 0; i < k; i++)
            pick_read(p, g, best[i], live[best[i]], read);
    }
    return true;
}

const kv_policy kv_policy_quest = {
    .name = "quest",
    .paper = "arXiv 2406.10774",
    .summary = "keeps every token; a decode query reads the pages whose bounds promise most",
    .params = params,
    .wants = wants,
    .budget = budget,
    .read_tokens = read_tokens,
    .pick = pick,
    .work_floats = work_floats,
};
