/* cache.c - the life of one sequence's cache: open, steps, fork, figures. The mechanism is in lane.c, plan.c, seal.c
 * and reserve.c.
 *
 * Events. Under prefill:exact a prompt's rows stay fp16 until its last token; then, layer by layer, the policy decides,
 * survivors are packed in the order of their positions and sealed by the format's windows. Under prefill:bounded the
 * same happens at every absolute multiple of the method's grid too, where every whole page is sealed. In decode the
 * policy is asked after every token, and what is due is sealed. Layers with a window keep their window: no policy,
 * pages wholly behind it are given back, formats seal as elsewhere. */
#include "kv/lane.h"
#include "kv/attend.h"
#include "base/memory.h"
#include "base/status.h"
#include "kv/page_f16.h"
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static size_t n_lanes(const kv_cache *cache) {
    return (size_t)cache->model->n_layer * (size_t)cache->model->n_head_kv;
}

/* Slots that a lane usually numbers at most: a context of live tokens, holes of a lane about to be rebuilt, one step.
 * Gaps, and files from elsewhere, may need more: kv_scratch_grow. */
static int max_slots(const kv_model *model) {
    return 2 * model->context_tokens + 4096;
}

/* Less than a page is sealed at once only where both sides do the same, since a gap follows, and where slots may move.
 */
static void adjust_steps(kv_keep keep[2], bool windowed) {
    const kv_geometry *k = &keep[KV_K].geometry, *v = &keep[KV_V].geometry;
    bool alike = k->step_tokens == v->step_tokens && k->keep_tokens == v->keep_tokens && !windowed;
    for (int side = 0; side < 2; side++) {
        kv_geometry *g = &keep[side].geometry;
        if (g->step_tokens > 1 && g->step_tokens < PAGE_TOKENS && !alike)
            g->step_tokens = PAGE_TOKENS;
    }
}

static void open_layer(kv_cache *cache, int il) {
    bool windowed = layer_windowed(cache, il);
    int sink_tokens = 0;
    for (int side = 0; side < 2; side++) {
        kv_keep *keep = &cache->keep[il][side];
        keep->coding = *kv_method_coding(&cache->method, il, (kv_side)side);
        keep->coding.format->geometry(&keep->coding.config, (kv_side)side, cache->model->head_dim, &keep->geometry);
        if (!windowed && keep->geometry.page_bytes && keep->geometry.sink_tokens > sink_tokens)
            sink_tokens = keep->geometry.sink_tokens;
    }
    adjust_steps(cache->keep[il], windowed);
    if (sink_tokens)
        cache->grid_from = PAGE_TOKENS;
    for (int ih = 0; ih < cache->model->n_head_kv; ih++) {
        kv_lane *lane = lane_of(cache, il, ih);
        lane->keep = cache->keep[il];
        lane->il = il;
        lane->ih = ih;
        lane->sink_tokens = sink_tokens;
        lane->windowed = windowed;
    }
}

pleat_status kv_cache_open(const kv_model *model, const kv_method *method, kv_pool *pool, kv_cache **out,
                           pleat_error *error) {
    assert(model->n_head_kv <= KV_MAX_HEADS && model->head_dim <= KV_MAX_HEAD_DIM);
    kv_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return err_set(error, PLEAT_EMEMORY, "no memory for a cache");
    cache->model = model;
    cache->method = *method;
    cache->pool = pool;
    cache->f16_bytes = page_f16_bytes(model->head_dim);
    cache->wants = kv_method_wants(method);
    cache->most_bytes = SIZE_MAX;
    if (method->policy->cache_positions)
        cache->segment_end = method->policy->cache_positions(&method->policy_config);
    if (cache->segment_end && cache->segment_end < method->sinks_tokens)
        cache->segment_end = method->sinks_tokens;
    cache->lane = calloc(n_lanes(cache), sizeof(*cache->lane));
    cache->keep = calloc((size_t)model->n_layer, sizeof(*cache->keep));
    if (!cache->lane || !cache->keep) {
        free(cache->lane);
        free(cache->keep);
        free(cache);
        return err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a cache");
    }
    for (int il = 0; il < model->n_layer; il++)
        open_layer(cache, il);
    *out = cache;
    return PLEAT_OK;
}

void kv_cache_close(kv_cache *cache) {
    if (!cache)
        return;
    for (size_t i = 0; i < n_lanes(cache); i++)
        lane_free(cache, &cache->lane[i]);
    assert(atomic_load(&cache->bytes) == 0);
    queries_free(cache);
    free(cache->pin);
    free(cache->lane);
    free(cache->keep);
    free(cache);
}

void kv_cache_want(kv_cache *cache, kv_wants wants) {
    assert(cache->n_seen == 0 && !cache->queries);
    if (wants.flags & KV_WANT_MOMENTS && !(cache->wants.flags & KV_WANT_MOMENTS))
        cache->wants.skip_tokens = wants.skip_tokens;
    cache->wants.flags |= wants.flags & KV_WANT_OF_PROMPT;
    if (wants.window_tokens > cache->wants.window_tokens)
        cache->wants.window_tokens = wants.window_tokens;
}

void kv_cache_expect(kv_cache *cache, int max_new_tokens) {
    cache->max_new = max_new_tokens;
}

pleat_status kv_cache_pin(kv_cache *cache, int first, int n, pleat_error *error) {
    if (first < 0 || n < 1 || n > INT_MAX - first)
        return err_set(error, PLEAT_EINPUT, "%d tokens from position %d on cannot be pinned", n, first);
    kv_span span = {first, first + n};
    if (!mem_grow(&cache->pin, &cache->cap_pins, cache->n_pins + 1, sizeof(*cache->pin)))
        return err_set(error, PLEAT_EMEMORY, "no memory for a list of pinned spans");
    int n_kept = 0, at = 0;
    for (int i = 0; i < cache->n_pins; i++) { /* spans that touch the new one melt into it */
        kv_span old = cache->pin[i];
        if (old.first <= span.end && old.end >= span.first) {
            span.first = old.first < span.first ? old.first : span.first;
            span.end = old.end > span.end ? old.end : span.end;
            continue;
        }
        cache->pin[n_kept++] = old;
    }
    while (at < n_kept && cache->pin[at].first < span.first)
        at++;
    memmove(cache->pin + at + 1, cache->pin + at, (size_t)(n_kept - at) * sizeof(*cache->pin));
    cache->pin[at] = span;
    cache->n_pins = n_kept + 1;
    return PLEAT_OK;
}

const kv_method *kv_cache_method(const kv_cache *cache) {
    return &cache->method;
}

int kv_cache_tokens(const kv_cache *cache) {
    return cache->n_seen;
}

bool kv_cache_in_prompt(const kv_cache *cache) {
    return cache->in_prompt;
}

/* ---- steps ---- */

int kv_cache_cut(const kv_cache *cache, int n_tokens) {
    if (!cache->method.bounded)
        return n_tokens;
    int grid = cache->method.grid_tokens, behind = cache->n_seen - cache->grid_from;
    int n_left = behind < 0 ? grid - behind : grid - behind % grid;
    return n_left < n_tokens ? n_left : n_tokens;
}

int kv_cache_room(const kv_cache *cache) {
    if (!cache->segment_end)
        return cache->model->context_tokens - cache->n_seen;
    if (cache->method.bounded)
        return INT_MAX;
    int most = 0;
    for (size_t i = 0; i < n_lanes(cache); i++)
        if (!cache->lane[i].windowed && cache->lane[i].n_live > most)
            most = cache->lane[i].n_live;
    return cache->model->context_tokens - most;
}

int cache_most_slots(const kv_cache *cache, int n_new) {
    int most = 0;
    for (size_t i = 0; i < n_lanes(cache); i++)
        most = cache->lane[i].n_slots > most ? cache->lane[i].n_slots : most;
    return page_count(most + n_new) * PAGE_TOKENS;
}

void kv_cache_begin(kv_cache *cache, int n_tokens, pleat_phase phase) {
    assert(cache->n_new == 0 && (phase != PLEAT_DECODE || (n_tokens == 1 && !cache->in_prompt)));
    if (phase != PLEAT_DECODE && !cache->in_prompt) {
        cache->in_prompt = true;
        cache->prompt_from = cache->n_seen;
        cache->n_steps = 0;
        for (int il = 0; cache->n_seen && il < cache->model->n_layer; il++)
            queries_restart(cache, il);
    }
    cache->n_new = n_tokens;
    cache->phase = phase;
    queries_charge(cache);
}

/* The slot of a decode step's token: a movable hole if there is one, else a new one. */
static int decode_slot(kv_lane *lane) {
    int slot = lane_movable_hole(lane);
    if (slot < 0)
        return lane->n_slots++;
    lane->unordered |= slot + 1 < lane->n_slots;
    return slot;
}

void kv_cache_append(kv_cache *cache, int il, int ih, const float *k, const float *v, size_t row_stride,
                     const cpu_kernels *kernels) {
    kv_lane *lane = lane_of(cache, il, ih);
    int d = cache->model->head_dim, slot = lane->n_slots;
    if (cache->phase == PLEAT_DECODE)
        slot = decode_slot(lane);
    else
        lane->n_slots += cache->n_new;
    assert(lane->n_slots <= lane->cap_slots);
    for (int i = 0, n; i < cache->n_new; i += n, slot += n) {
        f16 rows[16 * KV_MAX_HEAD_DIM];
        int page = slot / PAGE_TOKENS, first = slot % PAGE_TOKENS, left = cache->n_new - i;
        n = PAGE_TOKENS - first < left ? PAGE_TOKENS - first : left;
        n = n < 16 ? n : 16;
        lane_tail_ensure(cache, lane, page);
        for (int side = 1; side >= 0; side--) { /* K last: its rows go on to the bounds */
            const float *x = (side == KV_K ? k : v) + (size_t)i * row_stride;
            for (int r = 0; r < n; r++)
                kernels->f32_to_f16(x + (size_t)r * row_stride, d, rows + r * d);
            page_f16_put((kv_side)side, d, lane->tail[side][page], first, rows, n, (size_t)d);
        }
        for (int r = 0; r < n; r++) {
            lane->pos[slot + r] = cache->n_seen + i + r;
            if (lane->mass)
                lane->mass[slot + r] = 0;
            if (lane->norm)
                lane->norm[slot + r] = -1;
        }
        if (lane->bound)
            bounds_append(cache, lane, slot, n, rows);
    }
    lane->n_live += cache->n_new;
}

/* Gives back the pages that no later query of a windowed layer can see. */
static void release_behind_window(kv_cache *cache, kv_lane *lane, int window_tokens) {
    int n_gone =
        cache->n_seen + cache->n_new - window_tokens + 1; /* positions below it are behind the next query's window */
    for (; (lane->first_page + 1) * PAGE_TOKENS <= n_gone && (lane->first_page + 1) * PAGE_TOKENS <= lane->n_slots;
         lane->first_page++) {
        int page = lane->first_page;
        for (int i = 0; i < PAGE_TOKENS; i++)
            lane->pos[page * PAGE_TOKENS + i] = KV_DEAD;
        lane->n_live -= PAGE_TOKENS;
        for (int side = 0; side < 2; side++) {
            lane_give(cache, &lane->tail[side][page], cache->f16_bytes);
            lane_unseal(cache, lane, (kv_side)side, page);
        }
    }
}

static void event(kv_cache *cache, int il, kv_event event, kv_scratch *scratch, const cpu_kernels *kernels) {
    bool windowed = layer_windowed(cache, il);
    if (!windowed)
        plan_event(cache, il, event, scratch, kernels);
    for (int ih = 0; ih < cache->model->n_head_kv; ih++) {
        kv_lane *lane = lane_of(cache, il, ih);
        if (cache->shares && !windowed && lane_holes(lane))
            lane_tails_own(cache, lane);
        if (event != KV_AT_STEP && lane_holes(lane))
            seal_pack(cache, lane, scratch);
        seal_due(cache, lane, event == KV_AT_GRID, scratch, kernels);
        seal_rebuild_if_sparse(cache, lane, scratch, kernels);
        if (lane->bound && event != KV_AT_GRID)
            bounds_refresh(cache, lane, scratch);
    }
}

static bool at_grid(const kv_cache *cache) {
    return cache->phase != PLEAT_DECODE && cache->n_new > 0 && cache_grid_point(cache, cache->n_seen + cache->n_new);
}

void kv_cache_finish_layer(kv_cache *cache, int il, kv_scratch *scratch, const cpu_kernels *kernels) {
    if (layer_windowed(cache, il))
        for (int ih = 0; ih < cache->model->n_head_kv; ih++)
            release_behind_window(cache, lane_of(cache, il, ih), cache->model->layer[il].window_tokens);
    if (at_grid(cache))
        event(cache, il, KV_AT_GRID, scratch, kernels);
    if (cache->phase == PLEAT_PROMPT_END)
        event(cache, il, KV_AT_PROMPT_END, scratch, kernels);
    if (cache->phase == PLEAT_DECODE)
        event(cache, il, KV_AT_STEP, scratch, kernels);
}

void kv_cache_end(kv_cache *cache) {
    cache->evented |= at_grid(cache) || cache->phase != PLEAT_PROMPT;
    if (at_grid(cache) && cache->prompt_from == 0)
        cache->grid_sealed = cache->n_seen + cache->n_new;
    cache->n_seen += cache->n_new;
    cache->n_steps += cache->phase == PLEAT_DECODE;
    cache->n_new = 0;
    cache->most_bytes = SIZE_MAX;
    if (cache->phase == PLEAT_PROMPT_END)
        cache->in_prompt = false;
}

/* ---- fork ---- */

static bool fork_lane(kv_cache *cache, kv_lane *lane, const kv_lane *src) {
    if (!lane_grow(cache, lane, src->n_slots))
        return false;
    memcpy(lane->pos, src->pos, (size_t)src->n_slots * sizeof(*src->pos));
    size_t value_bytes = (size_t)src->n_slots * sizeof(float);
    if (lane->mass)
        memcpy(lane->mass, src->mass, value_bytes);
    if (lane->last)
        memcpy(lane->last, src->last, value_bytes);
    for (int slot = 0; lane->norm && slot < src->n_slots; slot++)
        lane->norm[slot] = -1;
    if (lane->bound)
        memset(lane->bound_old, 1, (size_t)page_count(src->n_slots));
    for (int side = 0; side < 2; side++) {
        for (int page = src->first_page; page < page_count(src->n_slots); page++) {
            lane->tail[side][page] = lane_take(cache, cache->f16_bytes);
            memcpy(lane->tail[side][page], src->tail[side][page], cache->f16_bytes);
        }
    }
    lane->n_slots = src->n_slots;
    lane->n_live = src->n_live;
    lane->first_page = src->first_page;
    return true;
}

pleat_status kv_cache_fork(const kv_cache *src, const kv_method *method, kv_cache **out, pleat_error *error) {
    if (src->evented || !src->in_prompt || method->bounded)
        return err_set(error, PLEAT_EINPUT, "only an open prompt under prefill:exact can be taken over by %s",
                       method->spec);
    kv_wants wants = kv_method_wants(method);
    bool moments = wants.flags & KV_WANT_MOMENTS;
    if (wants.flags & KV_WANT_OF_PROMPT & ~src->wants.flags || wants.window_tokens > src->wants.window_tokens ||
        (moments && wants.skip_tokens != src->wants.skip_tokens))
        return err_set(error, PLEAT_EINPUT, "the prompt was not run with what %s wants of it", method->spec);
    size_t bytes = atomic_load(&src->bytes);
    if (!kv_pool_reserve(src->pool, bytes))
        return err_set(error, PLEAT_EFULL, "a copy of the prompt for %s needs %zu bytes of the pool; %zu are free",
                       method->spec, bytes, kv_pool_budget_bytes(src->pool) - kv_pool_used_bytes(src->pool));
    kv_cache *cache;
    pleat_status status = kv_cache_open(src->model, method, src->pool, &cache, error);
    if (status)
        return status;
    cache->n_seen = src->n_seen;
    cache->prompt_from = src->prompt_from;
    cache->in_prompt = true;
    cache->max_new = src->max_new;
    bool ok = queries_ensure(cache);
    for (int i = 0; ok && i < src->n_pins; i++)
        ok = !kv_cache_pin(cache, src->pin[i].first, src->pin[i].end - src->pin[i].first, NULL);
    if (!ok) {
        kv_cache_close(cache);
        return err_set(error, PLEAT_EMEMORY, "no memory for a forked cache");
    }
    queries_copy(cache, src);
    for (size_t i = 0; i < n_lanes(cache); i++) {
        if (!fork_lane(cache, &cache->lane[i], &src->lane[i])) {
            kv_cache_close(cache);
            return err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a forked cache");
        }
    }
    *out = cache;
    return PLEAT_OK;
}

/* ---- figures ---- */

pleat_seq_stats kv_cache_stats(const kv_cache *cache) {
    pleat_seq_stats stats = {.n_tokens = cache->n_seen,
                             .kv_bytes = atomic_load(&cache->bytes),
                             .kv_peak_bytes = atomic_load(&cache->peak_bytes),
                             .n_lanes = (int)n_lanes(cache)};
    for (size_t i = 0; i < n_lanes(cache); i++) {
        stats.kept_tokens_total += cache->lane[i].n_live;
        stats.evicted += cache->lane[i].evicted;
        stats.seals += cache->lane[i].seals;
        stats.reseals += cache->lane[i].reseals;
    }
    return stats;
}

void kv_cache_open_rows(const kv_cache *cache, int il, int ih, kv_side side, float *x) {
    const kv_lane *lane = lane_of(cache, il, ih);
    int d = cache->model->head_dim;
    float rows[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    f16 half[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int page = 0; page < page_count(lane->n_slots); page++) {
        lane_rows_open(cache, lane, side, page, rows, half);
        for (int i = 0; i < PAGE_TOKENS && page * PAGE_TOKENS + i < lane->n_slots; i++) {
            float *row = x + (size_t)(page * PAGE_TOKENS + i) * (size_t)d;
            if (lane->pos[page * PAGE_TOKENS + i] == KV_DEAD)
                memset(row, 0, (size_t)d * sizeof(*row));
            else
                memcpy(row, rows + i * d, (size_t)d * sizeof(*row));
        }
    }
}

int kv_cache_slots(const kv_cache *cache, int il, int ih) {
    return lane_of(cache, il, ih)->n_slots;
}

const int32_t *kv_cache_positions(const kv_cache *cache, int il, int ih) {
    return lane_of(cache, il, ih)->pos;
}

const float *kv_cache_mass(const kv_cache *cache, int il, int ih) {
    return lane_of(cache, il, ih)->mass;
}

const float *kv_cache_last(const kv_cache *cache, int il, int ih) {
    return lane_of(cache, il, ih)->last;
}

int kv_cache_sealed(const kv_cache *cache, int il, int ih, kv_side side) {
    return lane_of(cache, il, ih)->n_sealed[side];
}

/* ---- scratch ---- */

void kv_scratch_close(kv_scratch *scratch) {
    if (!scratch)
        return;
    void *parts[] = {scratch->score,
                     scratch->order,
                     scratch->inverse,
                     scratch->rows[0],
                     scratch->rows[1],
                     scratch->half[0],
                     scratch->half[1],
                     scratch->q,
                     scratch->q_cached,
                     scratch->s,
                     scratch->s_part,
                     scratch->p_part,
                     scratch->out,
                     scratch->chunk_out,
                     scratch->max,
                     scratch->sum,
                     scratch->chunk_max,
                     scratch->chunk_sum,
                     scratch->cos_sin,
                     scratch->q_turned,
                     scratch->q_cached_turned,
                     scratch->out_turned,
                     scratch->ties,
                     scratch->work,
                     scratch->opened[0],
                     scratch->opened[1],
                     scratch->product,
                     scratch->wo,
                     scratch->of_run,
                     scratch->of_run_cached,
                     scratch->folded,
                     scratch->folded_cached};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        mem_free(parts[i]);
    mem_unmap(scratch->run_rows, scratch->run_rows_bytes);
    mem_unmap(scratch->run_work, scratch->run_work_bytes);
    free(scratch->has_ties);
    free(scratch->score_row);
    free(scratch);
}

bool scratch_slots(kv_scratch *s, const kv_model *model, int n_slots) {
    size_t heads = (size_t)model->n_head_kv, cap = (size_t)n_slots;
    float *score = mem_alloc(heads * cap, sizeof(*score)), *ties = mem_alloc(heads * cap, sizeof(*ties));
    int32_t *order = mem_alloc(cap, sizeof(*order)), *inverse = mem_alloc(cap, sizeof(*inverse));
    bool ok = score && ties && order && inverse;
    void *old[] = {s->score, s->ties, s->order, s->inverse}, *new[] = {score, ties, order, inverse};
    for (size_t i = 0; i < sizeof(old) / sizeof(*old); i++)
        mem_free(ok ? old[i] : new[i]);
    if (!ok)
        return false;
    s->score = score;
    s->ties = ties;
    s->order = order;
    s->inverse = inverse;
    s->cap_slots = n_slots;
    for (size_t ih = 0; ih < heads; ih++)
        s->score_row[ih] = score + ih * cap;
    return true;
}

pleat_status kv_scratch_open(const kv_model *model, kv_scratch **out, pleat_error *error) {
    kv_scratch *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(error, PLEAT_EMEMORY, "no memory for a worker's scratch");
    size_t d = (size_t)model->head_dim, heads = (size_t)model->n_head_kv,
           rows = 16 * (size_t)(model->n_head / model->n_head_kv);
    size_t cap = (size_t)max_slots(model);
    s->score_row = calloc(heads, sizeof(*s->score_row));
    s->has_ties = calloc(heads, sizeof(*s->has_ties));
    bool ok = s->score_row && s->has_ties && scratch_slots(s, model, max_slots(model));
    for (int side = 0; side < 2; side++) {
        s->rows[side] = mem_alloc(PAGE_TOKENS * d, sizeof(float));
        s->half[side] = mem_alloc(PAGE_TOKENS * d, sizeof(f16));
        ok = ok && s->rows[side] && s->half[side];
    }
    s->folded = mem_alloc(KV_FOLDED_ROWS * d / TILE, sizeof(dot_row));
    s->folded_cached = mem_alloc(KV_FOLDED_ROWS * d / TILE, sizeof(dot_row));
    ok = ok && s->folded && s->folded_cached;
    s->run_rows_bytes = cap * d * sizeof(float);
    s->run_work_bytes = kv_seal_work_floats(s->cap_slots, model->head_dim) * sizeof(float);
    s->run_rows = mem_map(s->run_rows_bytes);
    s->run_work = mem_map(s->run_work_bytes);
    ok = ok && s->run_rows && s->run_work;
    s->cos_sin = mem_alloc((size_t)model->n_rot + 2, sizeof(float));
    ok = ok && s->cos_sin;
    const struct {
        float **array;
        size_t floats; /* of a row */
    } by_row[] = {{&s->q, d},
                  {&s->q_cached, d},
                  {&s->out, d},
                  {&s->chunk_out, d},
                  {&s->q_turned, d},
                  {&s->q_cached_turned, d},
                  {&s->out_turned, d},
                  {&s->of_run, KV_OF_RUN_FLOATS},
                  {&s->of_run_cached, KV_OF_RUN_FLOATS},
                  {&s->s, ATTEND_BLOCK_PAGES * PAGE_TOKENS},
                  {&s->s_part, PAGE_TOKENS},
                  {&s->p_part, PAGE_TOKENS},
                  {&s->max, 1},
                  {&s->sum, 1},
                  {&s->chunk_max, 1},
                  {&s->chunk_sum, 1}};
    for (size_t i = 0; i < sizeof(by_row) / sizeof(*by_row); i++) {
        *by_row[i].array = mem_alloc(rows * by_row[i].floats, sizeof(float));
        ok = ok && *by_row[i].array;
    }
    if (!ok) {
        kv_scratch_close(s);
        return err_set(error, PLEAT_EMEMORY, "no memory for a worker's scratch");
    }
    *out = s;
    return PLEAT_OK;
}
