/* lane.c - the pages and rows of one lane. Knows no method by name; decides nothing. What a step may take of the pool:
 * reserve.c. */
#include "kv/lane.h"
#include "base/memory.h"
#include "kv/page_f16.h"
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The arrays of single values per slot, as far as somebody wants them, and the table of bounds. */
static bool grow_values(const kv_cache *cache, kv_lane *lane, int n_slots) {
    unsigned flags = lane->windowed ? 0 : cache->wants.flags;
    const struct {
        float **value;
        bool wanted;
    } list[] = {{&lane->mass, flags & KV_WANT_MASS},
                {&lane->last, flags & KV_WANT_LAST},
                {&lane->norm, flags & KV_WANT_VALUES}};
    int cap_values = INT_MAX;
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        int cap = lane->cap_values == INT_MAX ? 0 : lane->cap_values;
        if (list[i].wanted && !mem_grow(list[i].value, &cap, n_slots, sizeof(float)))
            return false;
        cap_values = list[i].wanted && cap < cap_values ? cap : cap_values;
    }
    lane->cap_values = cap_values;
    return !(flags & KV_WANT_BOUNDS) || bounds_grow(cache, lane, n_slots);
}

bool lane_grow(kv_cache *cache, kv_lane *lane, int n_slots) {
    int cap_slots = lane->cap_slots;
    if (n_slots <= cap_slots)
        return true;
    n_slots = page_count(n_slots) * PAGE_TOKENS;
    if (!grow_values(cache, lane, n_slots))
        return false;
    int n_pages = page_count(n_slots), cap_pages = lane->cap_pages;
    for (int side = 0; side < 2; side++) {
        int old = lane->cap_pages, cap_tail = old, cap_sealed = old;
        if (!mem_grow(&lane->tail[side], &cap_tail, n_pages, sizeof(*lane->tail[side])))
            return false;
        memset(lane->tail[side] + old, 0, (size_t)(cap_tail - old) * sizeof(*lane->tail[side]));
        if (!mem_grow(&lane->sealed[side], &cap_sealed, n_pages, sizeof(*lane->sealed[side])))
            return false;
        memset(lane->sealed[side] + old, 0, (size_t)(cap_sealed - old) * sizeof(*lane->sealed[side]));
        cap_pages = cap_tail < cap_sealed ? cap_tail : cap_sealed;
    }
    if (!mem_grow(&lane->pos, &cap_slots, n_slots, sizeof(*lane->pos)))
        return false;
    /* Arrays may have grown by different shares; slots exist where all of them reach. */
    cap_slots = cap_slots < cap_pages * PAGE_TOKENS ? cap_slots : cap_pages * PAGE_TOKENS;
    lane->cap_slots = cap_slots < lane->cap_values ? cap_slots : lane->cap_values;
    if (lane->bound && lane->cap_slots > bounds_room(cache, lane))
        lane->cap_slots = bounds_room(cache, lane);
    lane->cap_pages = cap_pages;
    return true;
}

void lane_count(kv_cache *cache, size_t page_bytes) {
    size_t now = atomic_fetch_add(&cache->bytes, page_bytes) + page_bytes, peak = atomic_load(&cache->peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&cache->peak_bytes, &peak, now))
        ;
    assert(now <= cache->most_bytes && "kv_cache_step_bytes is an upper bound");
}

uint8_t *lane_take(kv_cache *cache, size_t page_bytes) {
    uint8_t *page = kv_pool_take(cache->pool, page_bytes);
    assert(page && "the step reserved its pages");
    lane_count(cache, page_bytes);
    return page;
}

void lane_give(kv_cache *cache, uint8_t **page, size_t page_bytes) {
    if (!*page)
        return;
    kv_pool_give(cache->pool, *page, page_bytes);
    atomic_fetch_sub(&cache->bytes, page_bytes);
    *page = NULL;
}

/* Takes a page's hand off its run's block. */
static void leave_run(kv_cache *cache, kv_lane *lane, kv_side side, int page) {
    kv_page *p = &lane->sealed[side][page];
    uint8_t *run = p->run;
    p->run = NULL;
    for (int i = 0; run && i < p->n_run_pages; i++)
        if (page - p->page_in_run + i < lane->cap_pages && lane->sealed[side][page - p->page_in_run + i].run == run)
            return;
    const kv_coding *coding = &lane->keep[side].coding;
    if (run)
        lane_give(cache, &run,
                  coding->format->run_bytes(&coding->config, side, cache->model->head_dim, p->n_run_pages, p->decode));
}

void lane_unseal(kv_cache *cache, kv_lane *lane, kv_side side, int page) {
    leave_run(cache, lane, side, page);
    lane_give(cache, &lane->sealed[side][page].bytes, lane->keep[side].geometry.page_bytes);
}

void lane_run_take(kv_cache *cache, kv_lane *lane, kv_side side, int page, int n, bool decode) {
    const kv_keep *keep = &lane->keep[side];
    const kv_format *format = keep->coding.format;
    size_t bytes =
        format->run_bytes ? format->run_bytes(&keep->coding.config, side, cache->model->head_dim, n, decode) : 0;
    uint8_t *run = bytes ? lane_take(cache, bytes) : NULL;
    if (run)
        memset(run, 0, bytes);
    for (int i = 0; i < n; i++) {
        kv_page *p = &lane->sealed[side][page + i];
        leave_run(cache, lane, side, page + i);
        if (!p->bytes) {
            p->bytes = lane_take(cache, keep->geometry.page_bytes);
            memset(p->bytes, 0, keep->geometry.page_bytes); /* rows not sealed yet are read with weight 0 */
        }
        *p = (kv_page){.bytes = p->bytes, .run = run, .page_in_run = i, .n_run_pages = n, .decode = decode};
    }
}

void lane_free(kv_cache *cache, kv_lane *lane) {
    for (int side = 0; side < 2; side++) {
        for (int p = 0; p < lane->cap_pages; p++) {
            lane_unseal(cache, lane, (kv_side)side, p);
            lane_give(cache, &lane->tail[side][p], cache->f16_bytes);
        }
        free(lane->sealed[side]);
        free(lane->tail[side]);
    }
    bounds_trim(cache, lane, 0);
    free(lane->bound);
    free(lane->bound_old);
    free(lane->pos);
    free(lane->mass);
    free(lane->last);
    free(lane->norm);
    memset(lane, 0, sizeof(*lane));
}

void lane_tail_ensure(kv_cache *cache, kv_lane *lane, int page) {
    for (int side = 0; side < 2; side++) {
        if (lane->tail[side][page] || lane_sealed_in(lane, side, page) == PAGE_TOKENS)
            continue;
        lane->tail[side][page] = lane_take(cache, cache->f16_bytes);
        memset(lane->tail[side][page], 0, cache->f16_bytes);
    }
}

void lane_tails_own(kv_cache *cache, kv_lane *lane) {
    for (int side = 0; side < 2; side++) {
        for (int p = lane->first_page; p < page_count(lane->n_slots); p++) {
            uint8_t *page = lane->tail[side][p];
            if (!page || !kv_pool_is_shared(cache->pool, page))
                continue;
            lane->tail[side][p] = lane_take(cache, cache->f16_bytes);
            memcpy(lane->tail[side][p], page, cache->f16_bytes);
            lane_give(cache, &page, cache->f16_bytes);
        }
    }
}

void lane_rows_open(const kv_cache *cache, const kv_lane *lane, kv_side side, int page, float *x, f16 *half) {
    int d = cache->model->head_dim;
    int n_sealed = lane_sealed_in(lane, side, page);
    memset(x, 0, (size_t)PAGE_TOKENS * (size_t)d * sizeof(*x));
    if (n_sealed && lane->sealed[side][page].bytes) {
        const kv_coding *coding = &lane->keep[side].coding;
        coding->format->open(&coding->config, side, d, &lane->sealed[side][page], x);
    }
    if (n_sealed == PAGE_TOKENS || !lane->tail[side][page])
        return;
    page_f16_get(side, d, lane->tail[side][page], n_sealed, PAGE_TOKENS - n_sealed, half);
    for (int i = 0; i < (PAGE_TOKENS - n_sealed) * d; i++)
        x[n_sealed * d + i] = f16_to_f32(half[i]);
}

void lane_trim(kv_cache *cache, kv_lane *lane) {
    for (int side = 0; side < 2; side++) {
        int n_sealed_pages = page_count(lane->n_sealed[side]), n_pages = page_count(lane->n_slots);
        for (int p = 0; p < lane->cap_pages; p++) {
            if (p >= n_sealed_pages)
                lane_unseal(cache, lane, (kv_side)side, p);
            if (p >= n_pages || lane_sealed_in(lane, side, p) == PAGE_TOKENS)
                lane_give(cache, &lane->tail[side][p], cache->f16_bytes);
        }
    }
    bounds_trim(cache, lane, lane->n_slots);
}

void lane_slot_move(kv_lane *lane, int dst, int src) {
    lane->pos[dst] = lane->pos[src];
    if (lane->mass)
        lane->mass[dst] = lane->mass[src];
    if (lane->last)
        lane->last[dst] = lane->last[src];
    if (lane->norm)
        lane->norm[dst] = lane->norm[src];
    if (lane->bound_old)
        lane->bound_old[dst / PAGE_TOKENS] = lane->bound_old[src / PAGE_TOKENS] = 1;
}

static void swap(float *value, int a, int b) {
    if (!value)
        return;
    float x = value[a];
    value[a] = value[b];
    value[b] = x;
}

void lane_slot_swap(kv_lane *lane, int a, int b) {
    int32_t pos = lane->pos[a];
    lane->pos[a] = lane->pos[b];
    lane->pos[b] = pos;
    swap(lane->mass, a, b);
    swap(lane->last, a, b);
    swap(lane->norm, a, b);
    if (lane->bound_old)
        lane->bound_old[a / PAGE_TOKENS] = lane->bound_old[b / PAGE_TOKENS] = 1;
}

int lane_movable_hole(const kv_lane *lane) {
    if (!lane->windowed && lane_holes(lane))
        for (int slot = lane->n_slots - 1; slot >= lane_lock(lane); slot--)
            if (lane->pos[slot] == KV_DEAD)
                return slot;
    return -1;
}

void lane_kill(kv_lane *lane, int slot) {
    assert(lane->pos[slot] != KV_DEAD);
    lane->pos[slot] = KV_DEAD;
    if (lane->mass)
        lane->mass[slot] = 0;
    if (lane->bound_old)
        lane->bound_old[slot / PAGE_TOKENS] = 1;
    lane->n_live--;
    lane->evicted++;
}
