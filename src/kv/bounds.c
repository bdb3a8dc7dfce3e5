/* bounds.c - least and greatest key of neighbouring slots, for policies that pick what a decode query reads.
 *
 * A bound covers bound_slots (4 or 16) neighbouring slots of a lane, live ones only, and holds for the rows as `open`
 * gives them: halves, rounded outwards. 32 bounds stand side by side in one block, so that the product of a query with
 * all of them is the tile kernel's:
 *
 *   block   [least d][32 bounds] halves, [greatest d][32 bounds] halves      128 d bytes for 32 x bound_slots slots
 *
 * Blocks are pages of the pool, counted like any other. In decode a new key widens its bound at once (the step's own
 * queries see it); whatever else happens to a page (sealing, moves, evictions) marks it, and at the event's end marked
 * pages are opened and their bounds made anew. While a prompt runs nobody picks, so blocks are first made at its end.
 * Cost: d / 4 bytes a token for 16 slots beside fp16's 4 d; opening one page of 64 rows when it is sealed. */
#include "kv/lane.h"
#include "base/memory.h"
#include <limits.h>
#include <string.h>

enum { BOUNDS_SIDE_BY_SIDE = TILE };

int bounds_blocks(const kv_cache *cache, int n_slots) {
    int per_block = BOUNDS_SIDE_BY_SIDE * cache->wants.bound_slots;
    return (n_slots + per_block - 1) / per_block;
}

size_t bounds_block_bytes(const kv_cache *cache) {
    return 2 * (size_t)cache->model->head_dim * BOUNDS_SIDE_BY_SIDE * sizeof(f16);
}

bool bounds_grow(const kv_cache *cache, kv_lane *lane, int n_slots) {
    int n_blocks = bounds_blocks(cache, n_slots), n_pages = page_count(n_slots), cap = lane->cap_bound,
        cap_old = lane->cap_bound_old;
    if (!mem_grow(&lane->bound, &cap, n_blocks, sizeof(*lane->bound)))
        return false;
    memset(lane->bound + lane->cap_bound, 0, (size_t)(cap - lane->cap_bound) * sizeof(*lane->bound));
    lane->cap_bound = cap;
    if (!mem_grow(&lane->bound_old, &cap_old, n_pages, sizeof(*lane->bound_old)))
        return false;
    memset(lane->bound_old + lane->cap_bound_old, 0, (size_t)(cap_old - lane->cap_bound_old));
    lane->cap_bound_old = cap_old;
    return true;
}

int bounds_room(const kv_cache *cache, const kv_lane *lane) {
    int64_t slots = (int64_t)lane->cap_bound * BOUNDS_SIDE_BY_SIDE * cache->wants.bound_slots,
            old = (int64_t)lane->cap_bound_old * PAGE_TOKENS;
    slots = slots < old ? slots : old;
    return slots < INT_MAX ? (int)slots : INT_MAX;
}

void bounds_trim(kv_cache *cache, kv_lane *lane, int n_slots) {
    if (!lane->bound)
        return;
    for (int block = bounds_blocks(cache, n_slots); block < lane->cap_bound; block++) {
        uint8_t *page = (uint8_t *)lane->bound[block];
        lane->n_bound -= page != NULL;
        lane_give(cache, &page, bounds_block_bytes(cache));
        lane->bound[block] = NULL;
    }
}

size_t bounds_step_bytes(const kv_cache *cache, const kv_lane *lane, int n_tokens, pleat_phase phase) {
    if (!lane->bound || phase == PLEAT_PROMPT)
        return 0;
    return (size_t)(bounds_blocks(cache, lane->n_slots + n_tokens) - lane->n_bound) * bounds_block_bytes(cache);
}

/* The first element of a slot's bound, channels BOUNDS_SIDE_BY_SIDE apart; takes the block. */
static f16 *bound_of(kv_cache *cache, kv_lane *lane, int slot) {
    int bound = slot / cache->wants.bound_slots, block = bound / BOUNDS_SIDE_BY_SIDE;
    if (!lane->bound[block]) {
        lane->bound[block] = (f16 *)lane_take(cache, bounds_block_bytes(cache));
        memset(lane->bound[block], 0, bounds_block_bytes(cache));
        lane->n_bound++;
    }
    return lane->bound[block] + bound % BOUNDS_SIDE_BY_SIDE;
}

/* Halves in rising order as integers. */
static int rank(f16 h) {
    return h & 0x8000 ? -(h & 0x7fff) : h;
}

static void widen(int d, f16 *bound, const f16 *row, bool first) {
    f16 *least = bound, *most = bound + d * BOUNDS_SIDE_BY_SIDE;
    for (int j = 0; j < d; j++) {
        f16 *low = &least[j * BOUNDS_SIDE_BY_SIDE], *high = &most[j * BOUNDS_SIDE_BY_SIDE];
        *low = first || rank(row[j]) < rank(*low) ? row[j] : *low;
        *high = first || rank(row[j]) > rank(*high) ? row[j] : *high;
    }
}

/* No slot but this one is live under its bound. */
static bool alone(const kv_cache *cache, const kv_lane *lane, int slot) {
    int from = slot / cache->wants.bound_slots * cache->wants.bound_slots;
    for (int i = from; i < from + cache->wants.bound_slots && i < lane->n_slots; i++)
        if (i != slot && lane->pos[i] != KV_DEAD)
            return false;
    return true;
}

void bounds_append(kv_cache *cache, kv_lane *lane, int slot, int n, const f16 *rows) {
    if (cache->phase != PLEAT_DECODE) {
        lane->bound_old[slot / PAGE_TOKENS] = 1;
        return;
    }
    int d = cache->model->head_dim;
    for (int i = 0; i < n; i++)
        widen(d, bound_of(cache, lane, slot + i), rows + i * d, alone(cache, lane, slot + i));
}

static f16 round_down(float x) {
    f16 h = f16_from_f32(x < -F16_MOST ? -F16_MOST : x > F16_MOST ? F16_MOST : x);
    if (f16_to_f32(h) <= x || x < -F16_MOST)
        return h;
    return h == 0 || h == 0x8000 ? 0x8001 : (f16)(h & 0x8000 ? h + 1 : h - 1);
}

static f16 round_up(float x) {
    return round_down(-x) ^ 0x8000;
}

static void refresh_bound(kv_cache *cache, kv_lane *lane, int slot, const float *rows) {
    int d = cache->model->head_dim, n = lane->n_slots - slot;
    n = n < cache->wants.bound_slots ? n : cache->wants.bound_slots;
    float least[KV_MAX_HEAD_DIM], most[KV_MAX_HEAD_DIM];
    bool any = false;
    for (int i = 0; i < n; i++) {
        if (lane->pos[slot + i] == KV_DEAD)
            continue;
        const float *row = rows + (slot % PAGE_TOKENS + i) * d;
        for (int j = 0; j < d; j++) {
            least[j] = any && least[j] < row[j] ? least[j] : row[j];
            most[j] = any && most[j] > row[j] ? most[j] : row[j];
        }
        any = true;
    }
    f16 *bound = bound_of(cache, lane, slot);
    for (int j = 0; any && j < d; j++) {
        bound[j * BOUNDS_SIDE_BY_SIDE] = round_down(least[j]);
        bound[(d + j) * BOUNDS_SIDE_BY_SIDE] = round_up(most[j]);
    }
}

void bounds_refresh(kv_cache *cache, kv_lane *lane, kv_scratch *scratch) {
    for (int page = 0; page < page_count(lane->n_slots); page++) {
        if (!lane->bound_old[page])
            continue;
        lane_rows_open(cache, lane, KV_K, page, scratch->rows[KV_K], scratch->half[KV_K]);
        for (int slot = page * PAGE_TOKENS; slot < (page + 1) * PAGE_TOKENS && slot < lane->n_slots;
             slot += cache->wants.bound_slots)
            refresh_bound(cache, lane, slot, scratch->rows[KV_K]);
        lane->bound_old[page] = 0;
    }
}
