/* lane.c - the pages and rows of one lane. Knows no method by name; decides nothing. */
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
    for (int i = 0; i < 4; i++) {
        uint8_t ***table = i < 2 ? &lane->sealed[i] : &lane->tail[i - 2];
        cap_pages = lane->cap_pages;
        if (!mem_grow(table, &cap_pages, n_pages, sizeof(**table)))
            return false;
        memset(*table + lane->cap_pages, 0, (size_t)(cap_pages - lane->cap_pages) * sizeof(**table));
    }
    if (!mem_grow(&lane->pos, &cap_slots, n_slots, sizeof(*lane->pos)))
        return false;
    /* Arrays may have grown by different shares; slots exist where all of them reach. */
    cap_slots = cap_slots < cap_pages * PAGE_TOKENS ? cap_slots : cap_pages * PAGE_TOKENS;
    lane->cap_slots = cap_slots < lane->cap_values ? cap_slots : lane->cap_values;
    lane->cap_pages = cap_pages;
    return true;
}

uint8_t *lane_take(kv_cache *cache, size_t page_bytes) {
    uint8_t *page = kv_pool_take(cache->pool, page_bytes);
    assert(page && "the step reserved its pages");
    size_t now = atomic_fetch_add(&cache->bytes, page_bytes) + page_bytes, peak = atomic_load(&cache->peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&cache->peak_bytes, &peak, now))
        ;
    return page;
}

void lane_give(kv_cache *cache, uint8_t **page, size_t page_bytes) {
    if (!*page)
        return;
    kv_pool_give(cache->pool, *page, page_bytes);
    atomic_fetch_sub(&cache->bytes, page_bytes);
    *page = NULL;
}

void lane_free(kv_cache *cache, kv_lane *lane) {
    for (int side = 0; side < 2; side++) {
        for (int p = 0; p < lane->cap_pages; p++) {
            lane_give(cache, &lane->sealed[side][p], lane->keep[side].geometry.page_bytes);
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
        if (lane->tail[side][page] || (page + 1) * PAGE_TOKENS <= lane->n_sealed[side])
            continue;
        lane->tail[side][page] = lane_take(cache, cache->f16_bytes);
        memset(lane->tail[side][page], 0, cache->f16_bytes);
    }
}

void lane_rows_open(const kv_cache *cache, const kv_lane *lane, kv_side side, int page, float *x, f16 *half) {
    int d = cache->model->head_dim;
    int n_sealed = lane->n_sealed[side] - page * PAGE_TOKENS;
    n_sealed = n_sealed < 0 ? 0 : n_sealed > PAGE_TOKENS ? PAGE_TOKENS : n_sealed;
    memset(x, 0, (size_t)PAGE_TOKENS * (size_t)d * sizeof(*x));
    if (n_sealed && lane->sealed[side][page]) {
        kv_page view = lane_page(lane, side, page);
        const kv_coding *coding = &lane->keep[side].coding;
        coding->format->open(&coding->config, side, d, &view, x);
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
                lane_give(cache, &lane->sealed[side][p], lane->keep[side].geometry.page_bytes);
            if (p >= n_pages || (p + 1) * PAGE_TOKENS <= lane->n_sealed[side])
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
