/* reserve.c - what a step may take of the pool at most, before it starts. Changes nothing but the room in the lanes'
 * own arrays.
 *
 * A step takes pages in two ways. Its new rows take fp16 pages, all lanes of all layers before any event. Then, layer
 * by layer, the event gives fp16 pages back and takes sealed ones for them, so that a lane may stand above where it
 * began for a moment (passing) or for good (stays). As many layers are on their way at once as there are workers, one
 * lane of each at a time:
 *
 *   bytes = sum over lanes (new + stays)  +  sum over the n_workers layers with the largest (most of its lanes'
 * passing)
 *
 * Lanes whose tokens all stay are walked: the same runs in the same order as seal.c, on counts alone, so that sealing
 * in place asks for nothing but what it really holds at its highest point. Where a policy evicts, how many rows are
 * left is not known before; those lanes ask for the largest run, what runs can exceed their fp16 pages by, and, when
 * slots are sealed already, what a rebuild takes.
 *
 * An fp16 page that another cache or the prefix cache holds too gives nothing back to the pool. */
#include "kv/lane.h"
#include <stdlib.h>
#include <string.h>

typedef struct need {
    size_t new, stays, passing;
} need;

static bool evicts(const kv_cache *cache, const kv_lane *lane) {
    return !lane->windowed && cache->method.policy->score;
}

static size_t block_bytes(const kv_cache *cache, const kv_lane *lane, int side, int n_pages, bool decode) {
    const kv_coding *coding = &lane->keep[side].coding;
    if (!coding->format->run_bytes)
        return 0;
    return coding->format->run_bytes(&coding->config, (kv_side)side, cache->model->head_dim, n_pages, decode);
}

/* ---- pages with another holder ---- */

/* After a step that ends at n_seen: true when giving the fp16 page leaves its bytes with somebody else. */
static bool held_by_others(const kv_cache *cache, const kv_lane *lane, int side, int page, int n_seen) {
    if (!cache->shares)
        return false;
    const uint8_t *tail = lane->tail[side][page];
    return (tail && kv_pool_is_shared(cache->pool, tail)) ||
           (cache->offers && (page + 1) * PAGE_TOKENS <= n_seen); /* whole pages find a holder in the step itself */
}

/* Copies that an event makes before it moves rows. */
static size_t own_bytes(const kv_cache *cache, const kv_lane *lane, int n_slots, int n_seen) {
    size_t bytes = 0;
    for (int side = 0; side < 2; side++)
        for (int page = lane->first_page; page < page_count(n_slots); page++)
            bytes += held_by_others(cache, lane, side, page, n_seen) ? cache->f16_bytes : 0;
    return bytes;
}

/* ---- new rows ---- */

static size_t new_bytes(const kv_cache *cache, const kv_lane *lane, int n_tokens, pleat_phase phase) {
    size_t bytes = 0;
    if (phase == PLEAT_DECODE && lane_movable_hole(lane) >= 0)
        return 0;
    for (int page = lane->n_slots / PAGE_TOKENS; page < page_count(lane->n_slots + n_tokens) && n_tokens; page++)
        for (int side = 0; side < 2; side++)
            bytes += lane->tail[side][page] ? 0 : cache->f16_bytes;
    return bytes;
}

/* ---- lanes that keep all their tokens ---- */

typedef struct dry_run {
    const kv_cache *cache;
    kv_lane lane; /* a copy whose counts go on; its pages are those of the real one, before the step */
    int n_seen;   /* when the step has ended */
    bool decode;
    int64_t now, most; /* bytes above those after the new rows */
} dry_run;

static void dry_take(dry_run *r, size_t bytes) {
    r->now += (int64_t)bytes;
    r->most = r->now > r->most ? r->now : r->most;
}

static void dry_gap(dry_run *r, int n) {
    kv_lane *lane = &r->lane;
    dry_take(r, 2 * (size_t)(page_count(lane->n_slots + n) - page_count(lane->n_slots)) * r->cache->f16_bytes);
    lane->n_slots += n;
}

static void dry_seal_run(dry_run *r, int side, int slot, int n) {
    kv_lane *lane = &r->lane;
    const kv_geometry *g = &lane->keep[side].geometry;
    int first = slot / PAGE_TOKENS, n_pages = page_count(slot % PAGE_TOKENS + n);
    for (int page = first; page < first + n_pages; page++)
        if (((page + 1) * PAGE_TOKENS <= slot + n || !g->row_writable) &&
            !held_by_others(r->cache, lane, side, page, r->n_seen))
            r->now -= (int64_t)r->cache->f16_bytes;
    if (slot % PAGE_TOKENS == 0) /* else single rows go on in a page that is there */
        dry_take(r, (size_t)n_pages * g->page_bytes + block_bytes(r->cache, lane, side, n_pages, r->decode));
}

static void dry_seal_side(dry_run *r, int side, int n_due) {
    kv_lane *lane = &r->lane;
    for (int n; n_due > 0; n_due -= n) {
        int slot = lane->n_sealed[side], left;
        bool released = slot / PAGE_TOKENS < lane->first_page;
        left = released ? PAGE_TOKENS - slot % PAGE_TOKENS : seal_run_end(lane, side, slot) - slot;
        n = left < n_due ? left : n_due;
        if (!released)
            dry_seal_run(r, side, slot, n);
        lane->n_sealed[side] += n;
    }
    if (!lane->keep[side].geometry.row_writable)
        lane->n_sealed[side] = page_count(lane->n_sealed[side]) * PAGE_TOKENS;
}

/* seal_due */
static void dry_seal(dry_run *r, bool all) {
    kv_lane *lane = &r->lane;
    int n_due[2] = {seal_due_tokens(lane, KV_K, all), seal_due_tokens(lane, KV_V, all)};
    if (!n_due[KV_K] && !n_due[KV_V])
        return;
    int side = n_due[KV_K] ? KV_K : KV_V, rest = n_due[side] % PAGE_TOKENS;
    if (lane->sink_tokens && !lane->n_front) {
        dry_gap(r, PAGE_TOKENS - lane->sink_tokens);
        lane->n_front = PAGE_TOKENS;
        for (int i = 0; i < 2; i++)
            lane->n_sealed[i] = lane->keep[i].geometry.page_bytes ? lane->n_front : 0;
    }
    if (rest && !lane->keep[side].geometry.row_writable)
        dry_gap(r, PAGE_TOKENS - rest);
    for (side = 0; side < 2; side++)
        dry_seal_side(r, side, n_due[side]);
}

static void walk_events(const kv_cache *cache, const kv_lane *lane, int n_tokens, bool grid, pleat_phase phase,
                        need *out) {
    dry_run r = {.cache = cache, .lane = *lane, .n_seen = cache->n_seen + n_tokens, .decode = phase == PLEAT_DECODE};
    r.lane.n_slots += n_tokens;
    if (grid)
        dry_seal(&r, true);
    if (phase != PLEAT_PROMPT)
        dry_seal(&r, false);
    out->stays += r.now > 0 ? (size_t)r.now : 0;
    out->passing = (size_t)(r.most - (r.now > 0 ? r.now : 0));
}

/* ---- lanes that a policy evicts from ---- */

/* Sealing n_due tokens: pages and block of the largest run, and what runs exceed the fp16 pages by that are given back
 * for them before. */
static size_t seal_bytes(const kv_cache *cache, const kv_lane *lane, int side, int n_due, bool decode) {
    const kv_geometry *g = &lane->keep[side].geometry;
    int n_pages = page_count(n_due), whole = n_pages < g->run_pages ? n_pages : g->run_pages;
    size_t largest = 0, growth = 0;
    for (int i = 0; i < 2; i++) {
        int n = i ? whole : 1;
        size_t bytes = (size_t)n * g->page_bytes + block_bytes(cache, lane, side, n, decode);
        size_t given = (size_t)n * cache->f16_bytes;
        largest = bytes > largest ? bytes : largest;
        growth = bytes > given + growth ? bytes - given : growth;
    }
    return largest + growth * (size_t)(n_pages / whole + 2);
}

static size_t rebuild_bytes(const kv_cache *cache, const kv_lane *lane, int side) {
    int n_pages = page_count(lane->n_slots) + 1, whole = lane->keep[side].geometry.run_pages;
    whole = whole < n_pages ? whole : n_pages;
    return 2 * cache->f16_bytes + (size_t)(n_pages / whole + 2) * block_bytes(cache, lane, side, whole, false);
}

static size_t evicting_bytes(const kv_cache *cache, const kv_lane *lane, int n_tokens, bool grid, pleat_phase phase) {
    size_t bytes = 0;
    bool decode = phase == PLEAT_DECODE;
    for (int side = 0; side < 2; side++) {
        const kv_geometry *g = &lane->keep[side].geometry;
        bool gap = (lane->sink_tokens && !lane->n_front) || (g->step_tokens > 1 && g->step_tokens < PAGE_TOKENS);
        bytes += gap ? cache->f16_bytes : 0;
        if (!g->page_bytes)
            continue;
        int n_slots = lane->n_slots + n_tokens,
            n_due = n_slots - (lane->n_front ? lane->n_sealed[side] : lane->sink_tokens + lane->n_sealed[side]);
        if (decode)
            n_due = n_due - g->keep_tokens < g->step_tokens ? 0 : n_due - g->keep_tokens;
        if (n_due > 0)
            bytes += seal_bytes(cache, lane, side, n_due, decode);
        if (lane_lock(lane) > lane->n_front || (grid && phase == PLEAT_PROMPT_END))
            bytes += rebuild_bytes(cache, lane, side);
    }
    return bytes;
}

/* ---- lanes, layers, a step ---- */

static need lane_need(const kv_cache *cache, const kv_lane *lane, int n_tokens, pleat_phase phase) {
    int n_seen = cache->n_seen + n_tokens;
    bool grid = phase != PLEAT_DECODE && n_tokens > 0 && cache_grid_point(cache, n_seen);
    need n = {.new = new_bytes(cache, lane, n_tokens, phase) + bounds_step_bytes(cache, lane, n_tokens, phase)};
    if (!grid && phase == PLEAT_PROMPT)
        return n;
    if (cache->shares && !lane->windowed && lane_moves(cache, lane))
        n.stays = own_bytes(cache, lane, lane->n_slots + n_tokens, n_seen);
    if (evicts(cache, lane))
        n.stays += evicting_bytes(cache, lane, n_tokens, grid, phase);
    else
        walk_events(cache, lane, n_tokens, grid, phase, &n);
    return n;
}

bool reserve_layer(kv_cache *cache, int il, int n_tokens, pleat_phase phase, size_t *bytes, size_t *passing) {
    *passing = 0;
    for (int ih = 0; ih < cache->model->n_head_kv; ih++) {
        kv_lane *lane = lane_of(cache, il, ih);
        if (!lane_grow(cache, lane, lane->n_slots + n_tokens + 2 * PAGE_TOKENS)) /* gaps may open */
            return false;
        need n = lane_need(cache, lane, n_tokens, phase);
        *bytes += n.new + n.stays;
        *passing = n.passing > *passing ? n.passing : *passing;
    }
    return true;
}

static int larger_first(const void *a, const void *b) {
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

size_t kv_cache_step_bytes(kv_cache *cache, int n_tokens, pleat_phase phase, int n_workers) {
    size_t bytes = 0, passing[KV_MAX_LAYERS];
    int n_layer = cache->model->n_layer;
    if (!queries_ensure(cache))
        return SIZE_MAX;
    for (int il = 0; il < n_layer; il++)
        if (!reserve_layer(cache, il, n_tokens, phase, &bytes, &passing[il]))
            return SIZE_MAX;
    qsort(passing, (size_t)n_layer, sizeof(*passing), larger_first);
    for (int i = 0; i < n_workers && i < n_layer; i++)
        bytes += passing[i];
    cache->most_bytes = atomic_load(&cache->bytes) + bytes;
    return bytes + queries_uncharged(cache);
}
