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
#include <limits.h>
#include <math.h>
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

int seal_due_tokens(const kv_lane *lane, int side, bool all) {
    const kv_geometry *g = &lane->keep[side].geometry;
    if (!g->page_bytes)
        return 0;
    int n_tail = lane->n_slots - lane->n_sealed[side] - (lane->n_front ? 0 : lane->sink_tokens);
    if (n_tail <= 0)
        return 0;
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

/* What a model that has gone wrong may leave: formats count on finite rows. */
static void tame(float *x, int n) {
    for (int i = 0; i < n; i++) {
        float y = x[i] > F16_MOST ? F16_MOST : x[i] < -F16_MOST ? -F16_MOST : x[i];
        x[i] = isnan(y) ? 0 : y;
    }
}

/* Of the run's place alone: a run's bits do not depend on what was sealed before it. */
static uint64_t run_seed(const kv_lane *lane, int side, int page) {
    return (uint64_t)lane->il << 48 ^ (uint64_t)lane->ih << 36 ^ (uint64_t)page << 1 ^ (uint64_t)side;
}

/* Rows x as slots slot.. of pages that the run has or, rows of one page that can be written singly, may have. */
static void seal_rows(kv_cache *cache, kv_lane *lane, int side, int slot, int n, bool decode, float *x,
                      kv_scratch *scratch, const cpu_kernels *kernels) {
    const kv_coding *coding = &lane->keep[side].coding;
    int page = slot / PAGE_TOKENS, first = slot % PAGE_TOKENS, n_pages = page_count(first + n);
    if (!lane->keep[side].geometry.row_writable || !lane->sealed[side][page].bytes)
        lane_run_take(cache, lane, (kv_side)side, page, n_pages, decode);
    kv_sealing how = {.seed = run_seed(lane, side, page),
                      .il = lane->il,
                      .n_layer = cache->model->n_layer,
                      .kernels = kernels,
                      .work = scratch->run_work};
    for (int i = 0; lane->bound_old && side == KV_K && i < n_pages; i++)
        lane->bound_old[page + i] = 1;
    coding->format->seal(&coding->config, (kv_side)side, cache->model->head_dim, x, first, n, &lane->sealed[side][page],
                         &how);
}

int seal_run_end(const kv_lane *lane, int side, int slot) {
    int64_t run_slots = (int64_t)lane->keep[side].geometry.run_pages * PAGE_TOKENS, behind = slot - lane->n_front;
    int64_t end = lane->n_front + (behind / run_slots + 1) * run_slots;
    return end > INT_MAX ? INT_MAX : (int)end;
}

/* Seals n slots of one run. Their fp16 pages are given back before the sealed ones are taken. */
static void seal_run(kv_cache *cache, kv_lane *lane, int side, int slot, int n, bool decode, kv_scratch *scratch,
                     const cpu_kernels *kernels) {
    int d = cache->model->head_dim;
    float *x = scratch->run_rows;
    for (int i = 0, m; i < n; i += m) {
        int page = (slot + i) / PAGE_TOKENS, first = (slot + i) % PAGE_TOKENS;
        m = PAGE_TOKENS - first < n - i ? PAGE_TOKENS - first : n - i;
        page_f16_get((kv_side)side, d, lane->tail[side][page], first, m, scratch->half[side]);
        kernels->f16_to_f32(scratch->half[side], m * d, x + i * d);
        tame(x + i * d, m * d);
        if (first + m == PAGE_TOKENS || !lane->keep[side].geometry.row_writable)
            lane_give(cache, &lane->tail[side][page], cache->f16_bytes);
    }
    mend_dead_rows(lane, slot, n, d, x);
    seal_rows(cache, lane, side, slot, n, decode, x, scratch, kernels);
    lane->seals += page_count(slot % PAGE_TOKENS + n);
}

static void seal_side(kv_cache *cache, kv_lane *lane, int side, int n_due, kv_scratch *scratch,
                      const cpu_kernels *kernels) {
    bool decode = cache->phase == PLEAT_DECODE;
    for (int n; n_due > 0; n_due -= n) {
        int slot = lane->n_sealed[side], page = slot / PAGE_TOKENS;
        if (lane->tail[side][page]) {
            n = seal_run_end(lane, side, slot) - slot;
            n = n < n_due ? n : n_due;
            seal_run(cache, lane, side, slot, n, decode, scratch, kernels);
        } else { /* a released page of a windowed layer */
            n = PAGE_TOKENS - slot % PAGE_TOKENS;
            n = n < n_due ? n : n_due;
        }
        lane->n_sealed[side] += n;
    }
    if (!lane->keep[side].geometry.row_writable)
        lane->n_sealed[side] = page_count(lane->n_sealed[side]) * PAGE_TOKENS;
}

/* Moves the slots from `from` on up by n and leaves a gap. */
static void open_gap(kv_cache *cache, kv_lane *lane, int from, int n) {
    for (int page = from / PAGE_TOKENS; page < page_count(lane->n_slots + n); page++)
        lane_tail_ensure(cache, lane, page);
    for (int slot = lane->n_slots - 1; slot >= from; slot--)
        move_slot(cache, lane, slot + n, slot);
    for (int slot = from; slot < from + n; slot++) {
        lane->pos[slot] = KV_DEAD;
        if (lane->mass)
            lane->mass[slot] = 0;
    }
    lane->n_slots += n;
    lane->n_gap += n;
}

/* The sinks' page, at the first seal. */
static void open_front(kv_cache *cache, kv_lane *lane) {
    open_gap(cache, lane, lane->sink_tokens, PAGE_TOKENS - lane->sink_tokens);
    lane->n_front = PAGE_TOKENS;
    for (int side = 0; side < 2; side++)
        lane->n_sealed[side] = side_seals(lane, side) ? lane->n_front : 0;
}

/* Rows at the front of the movable slots that are due on every side that seals. */
static int due_on_all_sides(const kv_lane *lane, bool all) {
    int n = lane->n_slots - lane_lock(lane);
    for (int side = 0; side < 2; side++) {
        if (!side_seals(lane, side))
            continue;
        int n_side = seal_due_tokens(lane, side, all) - (lane_lock(lane) - lane->n_sealed[side]);
        n = n_side < n ? n_side : n;
    }
    return n;
}

/* Puts rows that are due for sealing in holes among the sealed slots. */
static void fill_holes(kv_cache *cache, kv_lane *lane, bool all, kv_scratch *scratch, const cpu_kernels *kernels) {
    int d = cache->model->head_dim, lock = lane_lock(lane), n_due = due_on_all_sides(lane, all);
    for (int side = 0; side < 2; side++)
        if (side_seals(lane, side) && !lane->keep[side].geometry.row_writable)
            return;
    int src = lock;
    for (int hole = 0; hole < lock && src < lock + n_due; hole++) {
        if (lane->pos[hole] != KV_DEAD || (hole >= lane->sink_tokens && hole < lane->n_front))
            continue;
        for (int side = 0; side < 2; side++) {
            f16 *half = scratch->half[side];
            float *x = scratch->rows[side];
            page_f16_get((kv_side)side, d, lane->tail[side][src / PAGE_TOKENS], src % PAGE_TOKENS, 1, half);
            if (hole < lane->n_front || hole >= lane->n_sealed[side]) {
                page_f16_put((kv_side)side, d, lane->tail[side][hole / PAGE_TOKENS], hole % PAGE_TOKENS, half, 1,
                             (size_t)d);
                continue;
            }
            kernels->f16_to_f32(half, d, x);
            tame(x, d);
            seal_rows(cache, lane, side, hole, 1, false, x, scratch, kernels);
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

void seal_due(kv_cache *cache, kv_lane *lane, bool all, kv_scratch *scratch, const cpu_kernels *kernels) {
    if (!seal_due_tokens(lane, KV_K, all) && !seal_due_tokens(lane, KV_V, all))
        return;
    if (!lane->windowed) {
        seal_pack(cache, lane, scratch);
        if (lane_holes(lane))
            fill_holes(cache, lane, all, scratch, kernels);
    }
    int n_due[2] = {seal_due_tokens(lane, KV_K, all), seal_due_tokens(lane, KV_V, all)};
    if (!n_due[KV_K] && !n_due[KV_V])
        return;
    int side = n_due[KV_K] ? KV_K : KV_V, rest = n_due[side] % PAGE_TOKENS;
    if (cache->shares && !lane->windowed && lane_moves(cache, lane))
        lane_tails_own(cache, lane);
    if (lane->sink_tokens && !lane->n_front)
        open_front(cache, lane);
    if (rest && !lane->keep[side].geometry.row_writable) /* both sides seal alike: kv_cache_open saw to that */
        open_gap(cache, lane, lane->n_sealed[side] + n_due[side], PAGE_TOKENS - rest);
    for (side = 0; side < 2; side++)
        seal_side(cache, lane, side, n_due[side], scratch, kernels);
}

/* ---- rebuilding ---- */

typedef struct rebuild {
    kv_cache *cache;
    kv_lane *lane;
    int side, new_sealed;
    int from, n; /* slots from.. are gathered in scratch->run_rows, n of them so far */
    kv_scratch *scratch;
    const cpu_kernels *kernels;
} rebuild;

/* Writes the gathered rows to their pages: the first ones sealed, those from new_sealed on in fp16. */
static void rebuild_flush(rebuild *b) {
    kv_lane *lane = b->lane;
    int d = b->cache->model->head_dim, n_seal = b->new_sealed - b->from;
    n_seal = n_seal < 0 ? 0 : n_seal > b->n ? b->n : n_seal;
    float *x = b->scratch->run_rows;
    if (n_seal) {
        seal_rows(b->cache, lane, b->side, b->from, n_seal, false, x, b->scratch, b->kernels);
        lane->reseals += page_count(n_seal);
    }
    int slot = b->from + n_seal, n = b->n - n_seal, page = slot / PAGE_TOKENS;
    b->from += b->n;
    b->n = 0;
    if (!n)
        return;
    uint8_t **tail = &lane->tail[b->side][page];
    if (!*tail) {
        *tail = lane_take(b->cache, b->cache->f16_bytes);
        memset(*tail, 0, b->cache->f16_bytes);
    }
    f16 *half = b->scratch->half[b->side];
    for (int i = 0; i < n * d; i++)
        half[i] = f16_from_f32(x[n_seal * d + i]);
    page_f16_put((kv_side)b->side, d, *tail, slot % PAGE_TOKENS, half, n, (size_t)d);
}

/* Where the rows that are being gathered go to their pages: the end of their run, or of their page. */
static int flush_end(const rebuild *b) {
    int page_end = (b->from / PAGE_TOKENS + 1) * PAGE_TOKENS;
    if (b->lane->keep[b->side].geometry.run_pages == 1 || b->from >= b->new_sealed)
        return page_end;
    int end = seal_run_end(b->lane, b->side, b->from);
    return end < b->new_sealed ? end : b->new_sealed;
}

/* Writes never overtake reads: a run's rows were all opened, and lay in its pages or in later ones. */
static void rebuild_side(rebuild *b) {
    int d = b->cache->model->head_dim;
    float *x = b->scratch->rows[b->side];
    for (int page = b->from / PAGE_TOKENS; page < page_count(b->lane->n_slots); page++) {
        lane_rows_open(b->cache, b->lane, (kv_side)b->side, page, x, b->scratch->half[b->side]);
        int n = b->lane->n_slots - page * PAGE_TOKENS;
        for (int i = 0; i < (n < PAGE_TOKENS ? n : PAGE_TOKENS); i++) {
            if (b->lane->pos[page * PAGE_TOKENS + i] == KV_DEAD)
                continue;
            memcpy(b->scratch->run_rows + (size_t)b->n * (size_t)d, x + (size_t)i * (size_t)d, (size_t)d * sizeof(*x));
            if (b->from + ++b->n == flush_end(b))
                rebuild_flush(b);
        }
    }
    if (b->n)
        rebuild_flush(b);
}

static int live_between(const kv_lane *lane, int from, int end) {
    int n = 0;
    for (int slot = from; slot < end; slot++)
        n += lane->pos[slot] != KV_DEAD;
    return n;
}

/* The front stays as it is. */
static void rebuild_lane(kv_cache *cache, kv_lane *lane, kv_scratch *scratch, const cpu_kernels *kernels) {
    int new_sealed[2], front = lane->n_front;
    for (int side = 0; side < 2; side++) {
        int n = live_between(lane, front, lane->n_sealed[side]);
        new_sealed[side] = front + (lane->keep[side].geometry.row_writable ? n : n / PAGE_TOKENS * PAGE_TOKENS);
        if (!side_seals(lane, side))
            new_sealed[side] = 0;
        rebuild b = {.cache = cache,
                     .lane = lane,
                     .side = side,
                     .new_sealed = new_sealed[side],
                     .from = front,
                     .scratch = scratch,
                     .kernels = kernels};
        rebuild_side(&b);
        assert(b.from == front + live_between(lane, front, lane->n_slots));
    }
    int n = front;
    for (int slot = front; slot < lane->n_slots; slot++)
        if (lane->pos[slot] != KV_DEAD)
            lane_slot_move(lane, n++, slot);
    lane->n_slots = n;
    lane->n_gap = front ? front - lane->sink_tokens : 0;
    lane->n_sealed[0] = new_sealed[0];
    lane->n_sealed[1] = new_sealed[1];
    lane_trim(cache, lane);
}

static bool sparse(const kv_lane *lane) {
    return (page_count(lane->n_slots) - 1) * 10 > page_count(lane->n_live + lane->n_gap) * 14;
}

void seal_rebuild_if_sparse(kv_cache *cache, kv_lane *lane, kv_scratch *scratch, const cpu_kernels *kernels) {
    if (lane->windowed || !sparse(lane))
        return;
    seal_pack(cache, lane, scratch);
    if (sparse(lane))
        rebuild_lane(cache, lane, scratch, kernels);
}
