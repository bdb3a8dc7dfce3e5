/* view.c - what a policy sees of a layer at an event, and the arithmetic that policies share: rows, scores of the
 * window's queries, order by position, products.
 *
 * Window scores go through the same page kernels as attention (a page's scores do not depend on who else is scored),
 * then one softmax per query in float over the slots it can see: a first pass leaves scores and each row's maximum, a
 * second one exponentials against it and their sum in slot order. Working memory belongs to the worker's scratch and is
 * grown before a step (kv_scratch_grow), so nothing here can fail. */
#include "kv/lane.h"
#include "base/memory.h"
#include "kv/tile.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

kv_view view_open(const kv_cache *cache, int il, kv_event event, kv_scratch *scratch, const cpu_kernels *kernels,
                  view_store *store) {
    const kv_policy *policy = cache->method.policy;
    int n_heads = cache->model->n_head_kv, n_seen = cache->n_seen + cache->n_new;
    for (int ih = 0; ih < n_heads; ih++) {
        const kv_lane *lane = lane_of(cache, il, ih);
        store->n_slots[ih] = lane->n_slots;
        store->n_live[ih] = lane->n_live;
        store->pos[ih] = lane->pos;
        store->mass[ih] = lane->mass;
        store->last[ih] = lane->last;
    }
    int i_full = 0, n_full = 0;
    for (int i = 0; i < cache->model->n_layer; i++) {
        i_full += i < il && !layer_windowed(cache, i);
        n_full += !layer_windowed(cache, i);
    }
    return (kv_view){.model = cache->model,
                     .il = il,
                     .n_full_layers = n_full,
                     .i_full = i_full,
                     .event = event,
                     .n_seen = n_seen,
                     .n_prompt = n_seen - cache->prompt_from,
                     .max_new = cache->max_new,
                     .n_steps = cache->n_steps + (event == KV_AT_STEP),
                     .n_slots = store->n_slots,
                     .n_live = store->n_live,
                     .pos = store->pos,
                     .mass = store->mass[0] ? store->mass : NULL,
                     .last = store->last[0] ? store->last : NULL,
                     .n_window_q = n_seen < cache->wants.window_tokens ? n_seen : cache->wants.window_tokens,
                     .n_newest = policy->window_tokens ? policy->window_tokens(&cache->method.policy_config) : 0,
                     .critical = cache->method.critical,
                     .cache = cache,
                     .scratch = scratch,
                     .kernels = kernels};
}

/* ---- working memory ---- */

static bool grow(float **array, size_t *cap, size_t n) {
    if (n <= *cap)
        return true;
    float *more = mem_alloc(n + n / 4, sizeof(**array));
    if (!more)
        return false;
    mem_free(*array);
    *array = more;
    *cap = n + n / 4;
    return true;
}

static size_t product_floats(int n_cols) {
    return (size_t)(KV_PRODUCT_ROWS * n_cols);
}

bool kv_scratch_grow(kv_scratch *scratch, const kv_cache *cache, int n_new) {
    const kv_method *method = &cache->method;
    const kv_model *model = cache->model;
    size_t n_heads = (size_t)model->n_head_kv;
    int n_slots = cache_most_slots(cache, n_new);
    if (n_slots > scratch->cap_slots && !scratch_slots(scratch, model, n_slots + n_slots / 4))
        return false;
    if (method->policy == kv_policies[0])
        return true;
    size_t n_work = 0, n_split = method->split->heads ? n_heads * (size_t)n_slots : 0;
    if (method->policy->work_floats)
        n_work = method->policy->work_floats(&method->policy_config, model, n_slots);
    bool ok = grow(&scratch->work, &scratch->cap_work, n_work > n_split ? n_work : n_split);
    int widest = model->head_dim > PACK_ROWS ? model->head_dim : PACK_ROWS;
    if (cache->wants.flags & KV_WANT_ROWS)
        ok = ok && grow(&scratch->product, &scratch->cap_product, product_floats(widest));
    if (method->critical)
        ok = ok && grow(&scratch->wo, &scratch->cap_wo, (size_t)model->n_embd * (size_t)model->head_dim);
    for (int side = 0; ok && side < 2 && cache->wants.flags & KV_WANT_ROWS && n_slots > scratch->cap_opened; side++) {
        size_t cap = (size_t)scratch->cap_opened * (size_t)model->head_dim;
        ok = grow(&scratch->opened[side], &cap, (size_t)n_slots * (size_t)model->head_dim);
        if (side == 1 && ok)
            scratch->cap_opened = n_slots;
    }
    return ok;
}

float *kv_view_work(const kv_view *view, size_t n) {
    assert(n <= view->scratch->cap_work);
    return view->scratch->work;
}

float *kv_view_ties(const kv_view *view, int ih) {
    kv_scratch *scratch = view->scratch;
    float *ties = scratch->ties + (size_t)ih * (size_t)scratch->cap_slots;
    memset(ties, 0, (size_t)view->n_slots[ih] * sizeof(*ties));
    scratch->has_ties[ih] = true;
    return ties;
}

/* ---- rows and order ---- */

const float *kv_view_rows(const kv_view *view, int ih, kv_side side) {
    assert(view->n_slots[ih] <= view->scratch->cap_opened);
    kv_cache_open_rows(view->cache, view->il, ih, side, view->scratch->opened[side]);
    return view->scratch->opened[side];
}

static int by_position(const void *a, const void *b, void *pos) {
    int32_t x = ((const int32_t *)pos)[*(const int32_t *)a], y = ((const int32_t *)pos)[*(const int32_t *)b];
    return (x > y) - (x < y);
}

int kv_view_order(const kv_view *view, int ih, int32_t *slot) {
    const int32_t *pos = view->pos[ih];
    int n = 0;
    bool sorted = true;
    for (int i = 0; i < view->n_slots[ih]; i++) {
        if (pos[i] == KV_DEAD)
            continue;
        sorted = sorted && (n == 0 || pos[slot[n - 1]] < pos[i]);
        slot[n++] = i;
    }
    if (!sorted)
        qsort_r(slot, (size_t)n, sizeof(*slot), by_position, (void *)pos);
    return n;
}

/* ---- the window's queries ---- */

typedef struct window {
    const kv_view *view;
    const kv_lane *lane;
    int ih, n, group, d; /* n queries */
    float *s;            /* [group][n][n_slots] */
} window;

/* Queries first..first+m-1 of the window as rows [m][group][d] of the scratch, scaled. */
static void load_queries(const window *w, int first, int m) {
    const kv_view *view = w->view;
    for (int i = 0; i < m; i++) {
        const float *q = query_row(view->cache, view->il, view->n_seen - w->n + first + i) + w->ih * w->group * w->d;
        for (int j = 0; j < w->group * w->d; j++)
            view->scratch->q[i * w->group * w->d + j] = q[j] * view->model->score_scale;
    }
}

/* Scores of one page for those queries, a tile of them, into their places. */
static void score_page(const window *w, tile *queries, int page, int first) {
    const kv_view *view = w->view;
    float *page_s = view->scratch->s;
    int n_slots = w->lane->n_slots, n = n_slots - page * PAGE_TOKENS;
    n = n < PAGE_TOKENS ? n : PAGE_TOKENS;
    tile_page_score(queries, page, page_s);
    for (int r = 0; r < queries->n_rows; r++) {
        int i = first + r / w->group, position = view->n_seen - w->n + i;
        float *to =
            w->s + ((size_t)(r % w->group) * (size_t)w->n + (size_t)i) * (size_t)n_slots + (size_t)(page * PAGE_TOKENS);
        for (int t = 0; t < n; t++)
            to[t] = w->lane->pos[page * PAGE_TOKENS + t] <= position ? page_s[r * PAGE_TOKENS + t] : -INFINITY;
    }
}

void kv_view_logits(const kv_view *view, int ih, int n, float *s) {
    assert(n <= view->n_window_q);
    window w = {.view = view,
                .lane = lane_of(view->cache, view->il, ih),
                .ih = ih,
                .n = n,
                .group = view->model->n_head / view->model->n_head_kv,
                .d = view->model->head_dim,
                .s = s};
    for (int first = 0, m; first < n; first += m) {
        m = n - first < ATTEND_TILE_TOKENS ? n - first : ATTEND_TILE_TOKENS;
        load_queries(&w, first, m);
        tile queries = tile_of_rows(w.lane, view->kernels, view->scratch, w.d, m * w.group);
        for (int page = 0; page < page_count(w.lane->n_slots); page++)
            score_page(&w, &queries, page, first);
    }
}

static void softmax_row(const cpu_kernels *kernels, float *s, int n) {
    float max = -INFINITY, sum = 0, correction, page[PAGE_TOKENS];
    for (int i = 0; i < n; i++)
        max = s[i] > max ? s[i] : max;
    for (int from = 0; from < n; from += PAGE_TOKENS) {
        int m = n - from < PAGE_TOKENS ? n - from : PAGE_TOKENS;
        for (int i = 0; i < PAGE_TOKENS; i++)
            page[i] = i < m ? s[from + i] : -INFINITY;
        kernels->softmax_pages(page, 1, 1, &max, &sum, &correction);
        memcpy(s + from, page, (size_t)m * sizeof(*s));
    }
    kernels->scale(s, n, 1 / sum);
}

void kv_view_window(const kv_view *view, int ih, int n, float *p) {
    int group = view->model->n_head / view->model->n_head_kv;
    kv_view_logits(view, ih, n, p);
    for (int r = 0; r < group * n; r++)
        softmax_row(view->kernels, p + (size_t)r * (size_t)view->n_slots[ih], view->n_slots[ih]);
}

/* ---- products ---- */

pack_matrix product_pack(const kv_view *view, const float *w, int n_rows, int n_cols) {
    assert(n_rows <= KV_PRODUCT_ROWS && product_floats(n_cols) <= view->scratch->cap_product);
    uint8_t *panels = (uint8_t *)view->scratch->product;
    pack_panels(BLOCK_F32, (const uint8_t *)w, n_rows, n_cols, 0, pack_panel_count(n_rows), panels);
    return (pack_matrix){.type = PACK_F32,
                         .n_rows = n_rows,
                         .n_cols = n_cols,
                         .panel_bytes = pack_bytes(PACK_F32, PACK_ROWS, n_cols),
                         .data = panels};
}

void product_run(const kv_view *view, const pack_matrix *w, const float *x, int n, float *out, int ldo) {
    act_rows rows = {.n_cols = w->n_cols, .x = x};
    view->kernels->matmul[PACK_F32](w, 0, pack_panel_count(w->n_rows), &rows, n, out, (size_t)ldo);
}

void kv_view_product(const kv_view *view, const float *x, int n, const float *w, int m, int n_cols, float *out) {
    for (int first = 0; first < m; first += KV_PRODUCT_ROWS) {
        int n_rows = m - first < KV_PRODUCT_ROWS ? m - first : KV_PRODUCT_ROWS;
        pack_matrix matrix = product_pack(view, w + (size_t)first * (size_t)n_cols, n_rows, n_cols);
        product_run(view, &matrix, x, n, out + first, m);
    }
}
