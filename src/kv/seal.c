/* seal.c - the order of a lane's rows, sealing and rebuilding: everything that moves bytes inside a lane after
 * attention.
 *
 * Sealing follows each side's geometry: of the slots not sealed yet the newest `keep` stay fp16, and of the others
 * `step` at a time are sealed, oldest first (KIVI's K: keep 0, step 128; its V: keep 128, step 64; int8: keep 0, step
 * 64). Before that the movable slots are packed in the order of their positions, so evicted tokens are never sealed.
 *
 * A hole (a dead slot among sealed ones) is filled with a row that is due for sealing when every sealed side can take a
 * single row; that is how int8 under h2o-512 stays at its pages. Other formats (KIVI's K shares scales among tokens)
 * keep their holes until the lane has more than 1.4 times the pages that its live tokens need, the tail's page not
 * counted; then it is rebuilt: opened, packed and sealed again, in place, page by page. Rebuilding is the one place
 * where a row is quantised twice. */
#include "kv/lane.h"
#include "kv/page_f16.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool side_seals(const kv_lane *lane, int side) {
    return lane->keep[side].geometry.page_bytes > 0;
}

static void move_slot(kv_cache *cache, kv_lane *lane, int dst, int src) {
    int d = cache->model->head_dim;
    for (int side = 0; side < 2; side++)
        page_f16_move((kv_side)side, d, lane->tail[side][dst / PAGE_TOKENS], dst % PAGE_TOKENS,
                      lane->tail[side][src / PAGE_TOKENS], src % PAGE_TOKENS);
    lane_slot_move(lane, dst, src);
}

static void swap_slots(kv_cache *cache, kv_lane *lane, int a, int b) {
    int d = cache->model->head_dim;
    f16 row_a[KV_MAX_HEAD_DIM], row_b[KV_MAX_HEAD_DIM];
    for (int side = 0; side < 2; side++) {
        uint8_t *page_a = lane->tail[side][a / PAGE_TOKENS], *page_b = lane->tail[side][b / PAGE_TOKENS];
        page_f16_get((kv_side)side, d, page_a, a % PAGE_TOKENS, 1, row_a);
        page_f16_get((kv_side)side, d, page_b, b % PAGE_TOKENS, 1, row_b);
        page_f16_put((kv_side)side, d, page_a, a % PAGE_TOKENS, row_b, 1, (size_t)d);
        page_f16_put((kv_side)side, d, page_b, b % PAGE_TOKENS, row_a, 1, (size_t)d);
    }
    lane_slot_swap(lane, a, b);
}

static int by_position(const void *a, const void *b, void *pos) {
    int32_t x = ((const int32_t *)pos)[*(const int32_t *)a], y = ((const int32_t *)pos)[*(const int32_t *)b];
    return (x > y) - (x < y);
}

void seal_pack(kv_cache *cache, kv_lane *lane, kv_scratch *scratch) {
    if (lane->windowed)
        return;
    int lock = lane_lock(lane), n = 0, n_span = lane->n_slots - lock;
    int32_t *order = scratch->order, *inverse = scratch->inverse;
    for (int slot = lock; slot < lane->n_slots; slot++)
        if (lane->pos[slot] != KV_DEAD)
            order[n++] = slot;
    if (n == n_span && !lane->unordered)
        return;
    if (lane->unordered && (side_seals(lane, KV_K) || side_seals(lane, KV_V))) {
        qsort_r(order, (size_t)n, sizeof(*order), by_position, lane->pos);
        lane->unordered = false;
    }
    /* inverse: which place of the new order wants the row that now stands at a slot; -1: none does. */
    for (int i = 0; i < n_span; i++)
        inverse[i] = -1;
    for (int i = 0; i < n; i++)
        inverse[order[i] - lock] = i;
    for (int i = 0; i < n; i++) {
        int dst = lock + i, src = order[i], wants_dst = inverse[i];
        if (src == dst)
            continue;
        if (wants_dst >= 0) {
            swap_slots(cache, lane, dst, src);
            order[wants_dst] = src;
        } else {
            move_slot(cache, lane, dst, src);
        }
        inverse[src - lock] = wants_dst;
        inverse[i] = i;
    }
    lane->n_slots = lock + n;
    lane_trim(cache, lane);
}

static int due_tokens(const kv_lane *lane, int side, bool all) {
    const kv_geometry *g = &lane->keep[side].geometry;
    if (!g->page_bytes)
        return 0;
    int n_tail = lane->n_slots - lane->n_sealed[side];
    if (all)
        return n_tail / PAGE_TOKENS * PAGE_TOKENS;
    int n_over = n_tail - g->keep_tokens;
    return n_over > 0 ? n_over / g->step_tokens * g->step_tokens : 0;
}

/* Gives dead rows among n the value of a live neighbour, so that they widen no group's range. */
static void mend_dead_rows(const kv_lane *lane, int slot, int n, int d, float *x) {
    int live = -1;
    for (int i = 0; i < n && live < 0; i++)
        if (lane->pos[slot + i] != KV_DEAD)
            live = i;
    for (int i = 0; i < n; i++) {
        if (lane->pos[slot + i] != KV_DEAD)
            live = i;
        else if (live >= 0)
            memcpy(x + i * d, x + live * d, (size_t)d * sizeof(*x));
        else
            memset(x + i * d, 0, (size_t)d * sizeof(*x));
    }
}

/* Of the run's place alone: a run's bits do not depend on what was sealed before it. */
static uint64_t run_seed(const kv_lane *lane, int side, int page) {
    return (uint64_t)lane->il << 48 ^ (uint64_t)lane->ih << 36 ^ (uint64_t)page << 1 ^ (uint64_t)side;
}

static void seal_rows(kv_cache *cache, kv_lane *lane, int side, int page, int first, int n, const float *x) {
    if (!lane->sealed[side][page]) {
        size_t bytes = lane->keep[side].geometry.page_bytes;
        lane->sealed[side][page] = lane_take(cache, bytes);
        memset(lane->sealed[side][page], 0,
               bytes); /* rows not sealed yet are read with weight 0: they must be finite */
    }
    kv_page view = lane_page(lane, (kv_side)side, page);
    const kv_coding *coding = &lane->keep[side].coding;
    kv_sealing how = {.seed = run_seed(lane, side, page), .il = lane->il, .n_layer = cache->model->n_layer};
    if (lane->bound_old && side == KV_K)
        lane->bound_old[page] = 1;
    coding->format->seal(&coding->config, (kv_side)side, cache->model->head_dim, x, first, n, &view, &how);
}

static void seal_side(kv_cache *cache, kv_lane *lane, int side, int n_due, kv_scratch *scratch) {
    int d = cache->model->head_dim;
    while (n_due > 0) {
        int slot = lane->n_sealed[side], page = slot / PAGE_TOKENS, first = slot % PAGE_TOKENS;
        int n = PAGE_TOKENS - first < n_due ? PAGE_TOKENS - first : n_due;
        if (lane->tail[side][page]) { /* a released page of a windowed layer has none */
            float *x = scratch->rows[side];
            page_f16_get((kv_side)side, d, lane->tail[side][page], first, n, scratch->half[side]);
            for (int i = 0; i < n * d; i++)
                x[i] = f16_to_f32(scratch->half[side][i]);
            mend_dead_rows(lane, slot, n, d, x);
            seal_rows(cache, lane, side, page, first, n, x);
            lane->seals++;
        }
        lane->n_sealed[side] += n;
        n_due -= n;
        if (first + n == PAGE_TOKENS)
            lane_give(cache, &lane->tail[side][page], cache->f16_bytes);
    }
}

/* Rows at the front of the movable slots that are due on every side that seals. */
static int due_on_all_sides(const kv_lane *lane, bool all) {
    int n = lane->n_slots - lane_lock(lane);
    for (int side = 0; side < 2; side++) {
        if (!side_seals(lane, side))
            continue;
        int n_side = due_tokens(lane, side, all) - (lane_lock(lane) - lane->n_sealed[side]);
        n = n_side < n ? n_side : n;
    }
    return n;
}

/* Puts rows that are due for sealing in holes among the sealed slots. */
static void fill_holes(kv_cache *cache, kv_lane *lane, bool all, kv_scratch *scratch) {
    int d = cache->model->head_dim, lock = lane_lock(lane), n_due = due_on_all_sides(lane, all);
    for (int side = 0; side < 2; side++)
        if (side_seals(lane, side) && !lane->keep[side].geometry.row_writable)
            return;
    int src = lock;
    for (int hole = 0; hole < lock && src < lock + n_due; hole++) {
        if (lane->pos[hole] != KV_DEAD)
            continue;
        for (int side = 0; side < 2; side++) {
            f16 *half = scratch->half[side];
            float *x = scratch->rows[side];
            page_f16_get((kv_side)side, d, lane->tail[side][src / PAGE_TOKENS], src % PAGE_TOKENS, 1, half);
            if (hole >= lane->n_sealed[side]) {
                page_f16_put((kv_side)side, d, lane->tail[side][hole / PAGE_TOKENS], hole % PAGE_TOKENS, half, 1,
                             (size_t)d);
                continue;
            }
            for (int j = 0; j < d; j++)
                x[j] = f16_to_f32(half[j]);
            seal_rows(cache, lane, side, hole / PAGE_TOKENS, hole % PAGE_TOKENS, 1, x);
        }
        lane_slot_move(lane, hole, src);
        lane->pos[src] = KV_DEAD;
        if (lane->mass)
            lane->mass[src] = 0;
        src++;
    }
    if (src > lock)
        seal_pack(cache, lane, scratch);
}

void seal_due(kv_cache *cache, kv_lane *lane, bool all, kv_scratch *scratch) {
    if (!due_tokens(lane, KV_K, all) && !due_tokens(lane, KV_V, all))
        return;
    if (!lane->windowed) {
        seal_pack(cache, lane, scratch);
        if (lane->n_live < lane->n_slots)
            fill_holes(cache, lane, all, scratch);
    }
    for (int side = 0; side < 2; side++)
        seal_side(cache, lane, side, due_tokens(lane, side, all), scratch);
}

/* ---- rebuilding ---- */

typedef struct rebuild {
    kv_cache *cache;
    kv_lane *lane;
    int side, new_sealed, n_written;
    float *packed; /* [64][d] rows on their way to page n_written / 64 */
    kv_scratch *scratch;
} rebuild;

/* Writes the gathered rows to their page: the first ones sealed, those from new_sealed on in fp16. */
static void rebuild_flush(rebuild *b) {
    int d = b->cache->model->head_dim, page = (b->n_written - 1) / PAGE_TOKENS, n = b->n_written - page * PAGE_TOKENS;
    int n_seal = b->new_sealed - page * PAGE_TOKENS;
    n_seal = n_seal < 0 ? 0 : n_seal > n ? n : n_seal;
    if (n_seal) {
        seal_rows(b->cache, b->lane, b->side, page, 0, n_seal, b->packed);
        b->lane->reseals++;
    }
    if (n_seal == n)
        return;
    uint8_t **tail = &b->lane->tail[b->side][page];
    if (!*tail) {
        *tail = lane_take(b->cache, b->cache->f16_bytes);
        memset(*tail, 0, b->cache->f16_bytes);
    }
    f16 *half = b->scratch->half[b->side];
    for (int i = n_seal * d; i < n * d; i++)
        half[i] = f16_from_f32(b->packed[i]);
    page_f16_put((kv_side)b->side, d, *tail, n_seal, half + n_seal * d, n - n_seal, (size_t)d);
}

/* Writes never overtake reads: the page being written is at most the one whose rows were all opened just before. */
static void rebuild_side(rebuild *b) {
    int d = b->cache->model->head_dim;
    float *x = b->scratch->rows[b->side];
    for (int page = 0; page < page_count(b->lane->n_slots); page++) {
        lane_rows_open(b->cache, b->lane, (kv_side)b->side, page, x, b->scratch->half[b->side]);
        int n = b->lane->n_slots - page * PAGE_TOKENS;
        for (int i = 0; i < (n < PAGE_TOKENS ? n : PAGE_TOKENS); i++) {
            if (b->lane->pos[page * PAGE_TOKENS + i] == KV_DEAD)
                continue;
            memcpy(b->packed + (size_t)(b->n_written % PAGE_TOKENS) * (size_t)d, x + (size_t)i * (size_t)d,
                   (size_t)d * sizeof(*x));
            if (++b->n_written % PAGE_TOKENS == 0)
                rebuild_flush(b);
        }
    }
    if (b->n_written % PAGE_TOKENS)
        rebuild_flush(b);
}

static int live_below(const kv_lane *lane, int end) {
    int n = 0;
    for (int slot = 0; slot < end; slot++)
        n += lane->pos[slot] != KV_DEAD;
    return n;
}

static void rebuild_lane(kv_cache *cache, kv_lane *lane, kv_scratch *scratch) {
    int new_sealed[2];
    for (int side = 0; side < 2; side++) {
        int n = live_below(lane, lane->n_sealed[side]);
        new_sealed[side] = lane->keep[side].geometry.row_writable ? n : n / PAGE_TOKENS * PAGE_TOKENS;
        rebuild b = {.cache = cache,
                     .lane = lane,
                     .side = side,
                     .new_sealed = new_sealed[side],
                     .packed = scratch->packed[side],
                     .scratch = scratch};
        rebuild_side(&b);
        assert(b.n_written == lane->n_live);
    }
    int n = 0;
    for (int slot = 0; slot < lane->n_slots; slot++) {
        if (lane->pos[slot] == KV_DEAD)
            continue;
        lane_slot_move(lane, n++, slot);
    }
    lane->n_slots = n;
    lane->n_sealed[0] = new_sealed[0];
    lane->n_sealed[1] = new_sealed[1];
    lane_trim(cache, lane);
}

static bool sparse(const kv_lane *lane) {
    return (page_count(lane->n_slots) - 1) * 10 > page_count(lane->n_live) * 14;
}

void seal_rebuild_if_sparse(kv_cache *cache, kv_lane *lane, kv_scratch *scratch) {
    if (lane->windowed || !sparse(lane))
        return;
    seal_pack(cache, lane, scratch);
    if (sparse(lane))
        rebuild_lane(cache, lane, scratch);
}
