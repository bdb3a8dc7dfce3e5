/* attend.c - attention over pages: one online softmax for every format, policy and phase.
 *
 * Flash attention (arXiv 2205.14135) over pages of 64 slots: per row a running maximum, sum and output; per page the
 * scores of all rows of the tile, the exponentials, and the product with V, so each sealed page is unpacked once per
 * tile and each KV byte is read once for all query heads of its group. Chunks of 1,024 slots are finished on their own
 * and merged in rising order (flash decoding), always, so that splitting a lane over threads changes no bit. Masked
 * slots add exact zeros: a lane with dead slots, a window or pages skipped gives the bits of one without them.
 *
 * Mass (H2O): the unnormalised probabilities of a tile are stored with the maximum they were taken at, and corrected
 * once the row's end is known: no second pass over K. Each tile sums its rows in order, tiles are added in order, so
 * mass does not depend on cuts (multiples of 16 tokens) or threads.
 *
 * The same for the newest query alone (LAST): only the tile that holds it keeps its rows. Picks (Quest): a decode tile
 * asks the policy which slots each query head reads; pages that nobody reads are skipped, other slots are masked.
 *
 * Positions inside the cache (streaming): the query is rotated by the number of evicted tokens for the pages of the
 * first segment; stored keys are never touched. */
#include "kv/attend.h"
#include "base/memory.h"
#include "base/status.h"
#include "kv/lane.h"
#include "kv/page_f16.h"
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_PAGES = ATTEND_CHUNK_TOKENS / PAGE_TOKENS, SPLIT_TASKS_PER_WORKER = 8 };

typedef struct task {
    int item, ih, first, n_tokens; /* first: token of the item */
    int chunk_from, chunk_to;
    int partial;        /* index of chunk_from's partial; -1: the task merges and writes its own output */
    size_t mass_offset; /* of the tile's mass row */
} task;

typedef struct kept_page { /* a page whose probabilities are kept, and the block of pages that it was seen in */
    int page, block;
} kept_page;

/* What is left when the tasks are done: the partials of one tile, or the mass of one lane. */
typedef struct merge {
    int item, ih, first, n_tokens, partial, n_partials, n_tiles;
    size_t mass_offset;
} merge;

struct kv_attend {
    const kv_model *model;
    int group, tile_rows, n_workers;
    const kv_attend_item *items;
    int il;
    task *task;
    merge *merge;
    int n_tasks, n_merges, cap_tasks, cap_merges;
    float *partial; /* [n_partials][tile_rows][2 + d]: maximum, sum, output */
    int cap_partial;
    float *mass; /* tiles x slots, at the offsets of the tasks */
    int cap_mass;
    float **p, **p_max; /* [n_workers]: [cap_p / 64][tile_rows][64], [cap_p / 64][tile_rows] */
    kept_page **p_kept; /* [n_workers]: [cap_p / 64] */
    int cap_p;
};

/* ---- memory ---- */

pleat_status kv_attend_open(const kv_model *model, int max_items, int max_tokens, int n_workers, kv_attend **out,
                            pleat_error *error) {
    kv_attend *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(error, PLEAT_EMEMORY, "no memory for attention");
    a->model = model;
    a->group = model->n_head / model->n_head_kv;
    a->tile_rows = ATTEND_TILE_TOKENS * a->group;
    a->n_workers = n_workers;
    int n_tiles = max_items + max_tokens / ATTEND_TILE_TOKENS + max_items + 1;
    int n_chunks = (2 * model->context_tokens + 4096) / ATTEND_CHUNK_TOKENS + 1;
    a->p = calloc((size_t)n_workers, sizeof(*a->p));
    a->p_max = calloc((size_t)n_workers, sizeof(*a->p_max));
    a->p_kept = calloc((size_t)n_workers, sizeof(*a->p_kept));
    int n_lane_tiles = n_tiles * model->n_head_kv, n_split = SPLIT_TASKS_PER_WORKER * n_workers * n_chunks;
    bool ok = a->p && a->p_max && a->p_kept &&
              mem_grow(&a->task, &a->cap_tasks, n_lane_tiles + n_split, sizeof(*a->task)) &&
              mem_grow(&a->merge, &a->cap_merges, n_lane_tiles, sizeof(*a->merge));
    if (!ok) {
        kv_attend_close(a);
        return err_set(error, PLEAT_EMEMORY, "no memory for attention");
    }
    *out = a;
    return PLEAT_OK;
}

void kv_attend_close(kv_attend *a) {
    if (!a)
        return;
    for (int w = 0; a->p && a->p_max && a->p_kept && w < a->n_workers; w++) {
        mem_free(a->p[w]);
        mem_free(a->p_max[w]);
        mem_free(a->p_kept[w]);
    }
    free(a->p);
    free(a->p_max);
    free(a->p_kept);
    free(a->task);
    free(a->merge);
    free(a->partial);
    free(a->mass);
    free(a);
}

static bool grow_probabilities(kv_attend *a, int n_slots) {
    if (n_slots <= a->cap_p)
        return true;
    int cap = page_count(n_slots + n_slots / 4) * PAGE_TOKENS;
    a->cap_p = 0;
    for (int w = 0; w < a->n_workers; w++) {
        mem_free(a->p[w]);
        mem_free(a->p_max[w]);
        mem_free(a->p_kept[w]);
        a->p[w] = mem_alloc((size_t)a->tile_rows * (size_t)cap, sizeof(float));
        a->p_max[w] = mem_alloc((size_t)a->tile_rows * (size_t)cap / PAGE_TOKENS, sizeof(float));
        a->p_kept[w] = mem_alloc((size_t)cap / PAGE_TOKENS, sizeof(kept_page));
        if (!a->p[w] || !a->p_max[w] || !a->p_kept[w])
            return false;
    }
    a->cap_p = cap;
    return true;
}

static int tile_count(int position, int n_tokens) {
    return (position + n_tokens - 1) / ATTEND_TILE_TOKENS - position / ATTEND_TILE_TOKENS + 1;
}

/* Most slots of any lane of the cache once this step's tokens are in. */
static int most_slots(const kv_cache *cache, int n_tokens) {
    int most = 0;
    for (int il = 0; il < cache->model->n_layer; il++)
        for (int ih = 0; ih < cache->model->n_head_kv; ih++)
            most = lane_of(cache, il, ih)->n_slots > most ? lane_of(cache, il, ih)->n_slots : most;
    return page_count(most + n_tokens) * PAGE_TOKENS;
}

pleat_status kv_attend_plan(kv_attend *a, const kv_attend_item *items, int n_items, pleat_error *error) {
    int n_lane_tiles = 0, mass_slots = 0, most_chunks = 1;
    size_t n_mass = 0;
    for (int i = 0; i < n_items; i++) {
        const kv_cache *cache = items[i].cache;
        int n_slots = most_slots(cache, items[i].n_tokens), n_tiles = tile_count(cache->n_seen, items[i].n_tokens);
        int n_chunks = n_slots / ATTEND_CHUNK_TOKENS + 1;
        n_lane_tiles += n_tiles * a->model->n_head_kv;
        most_chunks = n_chunks > most_chunks ? n_chunks : most_chunks;
        if (cache->wants.flags & (KV_WANT_MASS | KV_WANT_LAST))
            mass_slots = n_slots > mass_slots ? n_slots : mass_slots;
        if (cache->wants.flags & KV_WANT_MASS) {
            n_mass += (size_t)n_tiles * (size_t)a->model->n_head_kv * (size_t)n_slots;
        }
    }
    int n_split = n_lane_tiles < SPLIT_TASKS_PER_WORKER * a->n_workers ? n_lane_tiles * most_chunks : 0;
    size_t partial_floats = (size_t)a->tile_rows * (size_t)(2 + a->model->head_dim);
    bool ok = n_mass <= INT_MAX && mem_grow(&a->task, &a->cap_tasks, n_lane_tiles + n_split, sizeof(*a->task)) &&
              mem_grow(&a->merge, &a->cap_merges, n_lane_tiles, sizeof(*a->merge)) &&
              mem_grow(&a->partial, &a->cap_partial, n_split, partial_floats * sizeof(float)) &&
              mem_grow(&a->mass, &a->cap_mass, (int)n_mass, sizeof(float)) && grow_probabilities(a, mass_slots);
    return ok ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the attention of this step");
}

/* ---- which tasks ---- */

/* Chunks that some query from position `first` on can see. */
static void chunk_range(const kv_cache *cache, const kv_lane *lane, int first, int window, int *from, int *to) {
    int page = lane->first_page;
    if (window && (first - window + 1) / PAGE_TOKENS > page)
        page = (first - window + 1) / PAGE_TOKENS;
    (void)cache;
    *from = page / CHUNK_PAGES;
    *to = (page_count(lane->n_slots) - 1) / CHUNK_PAGES + 1;
}

static void add_tile(kv_attend *a, int i, int ih, int first, int n_tokens, bool split, size_t mass_offset,
                     int *n_partials) {
    const kv_cache *cache = a->items[i].cache;
    task t = {.item = i, .ih = ih, .first = first, .n_tokens = n_tokens, .partial = -1, .mass_offset = mass_offset};
    chunk_range(cache, lane_of(cache, a->il, ih), cache->n_seen + first, a->model->layer[a->il].window_tokens,
                &t.chunk_from, &t.chunk_to);
    if (!split || t.chunk_to - t.chunk_from < 2) {
        a->task[a->n_tasks++] = t;
        return;
    }
    merge m = {.item = i,
               .ih = ih,
               .first = first,
               .n_tokens = n_tokens,
               .partial = *n_partials,
               .n_partials = t.chunk_to - t.chunk_from};
    for (int chunk = t.chunk_from, chunk_to = t.chunk_to; chunk < chunk_to; chunk++) {
        t.chunk_from = chunk;
        t.chunk_to = chunk + 1;
        t.partial = (*n_partials)++;
        a->task[a->n_tasks++] = t;
    }
    a->merge[a->n_merges++] = m;
}

/* The lane's queries read what the policy picks. */
static bool picks(const kv_cache *cache, const kv_lane *lane) {
    return cache->method.policy->pick && cache->phase == PLEAT_DECODE && !lane->windowed;
}

/* The tiles of one lane, last one first: it sees most. */
static void add_lane(kv_attend *a, int i, int ih, bool split, size_t *mass_offset, int *n_partials) {
    const kv_cache *cache = a->items[i].cache;
    const kv_lane *lane = lane_of(cache, a->il, ih);
    bool mass = lane->mass && !lane->windowed, whole = mass || picks(cache, lane);
    int n_tiles = tile_count(cache->n_seen, cache->n_new), n_padded = page_count(lane->n_slots) * PAGE_TOKENS;
    int tile0 = cache->n_seen / ATTEND_TILE_TOKENS;
    for (int tile = n_tiles - 1; tile >= 0; tile--) {
        int from = (tile0 + tile) * ATTEND_TILE_TOKENS - cache->n_seen, to = from + ATTEND_TILE_TOKENS;
        from = from < 0 ? 0 : from;
        to = to > cache->n_new ? cache->n_new : to;
        bool last = lane->last && tile == n_tiles - 1;
        add_tile(a, i, ih, from, to - from, split && !whole && !last, *mass_offset + (size_t)tile * (size_t)n_padded,
                 n_partials);
    }
    if (!mass)
        return;
    a->merge[a->n_merges++] = (merge){.item = i, .ih = ih, .n_tiles = n_tiles, .mass_offset = *mass_offset};
    *mass_offset += (size_t)n_tiles * (size_t)n_padded;
}

int kv_attend_layer(kv_attend *a, const kv_attend_item *items, int n_items, int il) {
    int n_lane_tiles = 0, n_partials = 0;
    size_t mass_offset = 0;
    a->items = items;
    a->il = il;
    a->n_tasks = a->n_merges = 0;
    for (int i = 0; i < n_items; i++)
        if (items[i].cache->n_new)
            n_lane_tiles += tile_count(items[i].cache->n_seen, items[i].cache->n_new) * a->model->n_head_kv;
    bool split = n_lane_tiles < SPLIT_TASKS_PER_WORKER * a->n_workers;
    for (int i = 0; i < n_items; i++)
        for (int ih = 0; items[i].cache->n_new && ih < a->model->n_head_kv; ih++)
            add_lane(a, i, ih, split, &mass_offset, &n_partials);
    assert(a->n_tasks <= a->cap_tasks && a->n_merges <= a->cap_merges && n_partials <= a->cap_partial);
    assert(mass_offset <= (size_t)a->cap_mass);
    return a->n_tasks;
}

/* ---- one tile ---- */

typedef struct tile {
    const kv_cache *cache;
    const kv_lane *lane;
    const cpu_kernels *kernels;
    kv_scratch *scratch;
    int d, group, n_rows, window;
    int t_first, t_last; /* positions of its queries */
    bool shifted;        /* the first segment is read with q_cached */
    bool turns[2];       /* sealed K is read with turned queries, sealed V is summed up in out_turned */
    float *out_turned;   /* of the chunk, or NULL while there is nothing in it */
    float *p, *p_max;    /* the worker's, or NULL when no probabilities are kept */
    kept_page *p_kept;
    int n_kept, n_blocks; /* pages and blocks of pages that were seen so far */
    const uint64_t *read; /* [group][pages] slots that each query head reads; NULL: all */
} tile;

static int lane_pages(const tile *t) {
    return page_count(t->lane->n_slots);
}

static bool page_is_read(const tile *t, int page) {
    bool any = !t->read;
    for (int g = 0; !any && g < t->group; g++)
        any = t->read[g * lane_pages(t) + page] != 0;
    return any;
}

/* What is added to four scores, by the four bits that say which are read. */
#define NO (-INFINITY)
static const float read_mask[16][4] = {
    {NO, NO, NO, NO}, {0, NO, NO, NO}, {NO, 0, NO, NO}, {0, 0, NO, NO}, {NO, NO, 0, NO}, {0, NO, 0, NO},
    {NO, 0, 0, NO},   {0, 0, 0, NO},   {NO, NO, NO, 0}, {0, NO, NO, 0}, {NO, 0, NO, 0},  {0, 0, NO, 0},
    {NO, NO, 0, 0},   {0, NO, 0, 0},   {NO, 0, 0, 0},   {0, 0, 0, 0},
};
#undef NO

static void mask_unread(const tile *t, int page, float *s) {
    for (int r = 0; t->read && r < t->n_rows; r++) {
        uint64_t read = t->read[r % t->group * lane_pages(t) + page];
        float *row = s + r * PAGE_TOKENS;
        for (int i = 0; ~read && i < PAGE_TOKENS; i += 4)
            for (int k = 0; k < 4; k++)
                row[i + k] += read_mask[read >> i & 15][k];
    }
}

typedef struct page_span { /* what a page's positions say */
    const int32_t *pos;    /* [64] */
    int32_t low, high;     /* of all 64, dead ones are KV_DEAD */
    int32_t padded[PAGE_TOKENS];
} page_span;

static void span_read(const cpu_kernels *kernels, const kv_lane *lane, int page, page_span *span) {
    int n = lane->n_slots - page * PAGE_TOKENS;
    span->pos = lane->pos + page * PAGE_TOKENS;
    if (n < PAGE_TOKENS) {
        memcpy(span->padded, span->pos, (size_t)n * sizeof(*span->pos));
        for (int i = n; i < PAGE_TOKENS; i++)
            span->padded[i] = KV_DEAD;
        span->pos = span->padded;
    }
    kernels->bounds(span->pos, PAGE_TOKENS, &span->low, &span->high);
}

/* Score and mix for formats without their own: the page is opened once per tile. */
static void score_open(const tile *t, const float *rows, const float *q, float *s) {
    for (int r = 0; r < t->n_rows; r++)
        for (int i = 0; i < PAGE_TOKENS; i++) {
            float dot = 0;
            for (int j = 0; j < t->d; j++)
                dot += q[r * t->d + j] * rows[i * t->d + j];
            s[r * PAGE_TOKENS + i] = dot;
        }
}

static void mix_open(const tile *t, const float *rows, const float *p, float *o) {
    for (int r = 0; r < t->n_rows; r++)
        for (int i = 0; i < PAGE_TOKENS; i++)
            for (int j = 0; j < t->d; j++)
                o[r * t->d + j] += p[r * PAGE_TOKENS + i] * rows[i * t->d + j];
}

static void sealed_score(const tile *t, int page, const float *q, float *s, const void *prefetch) {
    const kv_coding *coding = &t->lane->keep[KV_K].coding;
    const kv_page *view = &t->lane->sealed[KV_K][page];
    if (coding->format->score) {
        if (t->turns[KV_K])
            q = q == t->scratch->q ? t->scratch->q_turned : t->scratch->q_cached_turned;
        coding->format->score(t->kernels, &coding->config, t->d, view, q, t->n_rows, s, prefetch);
        return;
    }
    coding->format->open(&coding->config, KV_K, t->d, view, t->scratch->rows[KV_K]);
    score_open(t, t->scratch->rows[KV_K], q, s);
}

static void sealed_mix(tile *t, int page, const float *p, float *o, const void *prefetch) {
    const kv_coding *coding = &t->lane->keep[KV_V].coding;
    const kv_page *view = &t->lane->sealed[KV_V][page];
    if (coding->format->mix) {
        if (t->turns[KV_V] && !t->out_turned) {
            t->out_turned = t->scratch->out_turned;
            memset(t->out_turned, 0, (size_t)(t->n_rows * t->d) * sizeof(*o));
        }
        o = t->turns[KV_V] ? t->out_turned : o;
        coding->format->mix(t->kernels, &coding->config, t->d, view, p, t->n_rows, o, prefetch);
        return;
    }
    coding->format->open(&coding->config, KV_V, t->d, view, t->scratch->rows[KV_V]);
    mix_open(t, t->scratch->rows[KV_V], p, o);
}

/* s [rows][64] of one page under one rotation of the queries; a page may be sealed in its first slots only. */
static void page_score(const tile *t, int page, const float *q, float *s, const void *prefetch) {
    int n_sealed = lane_sealed_in(t->lane, KV_K, page);
    const uint8_t *tail = t->lane->tail[KV_K][page];
    if (n_sealed == 0) {
        page_f16_score(t->kernels, t->d, tail, q, t->n_rows, s, prefetch);
        return;
    }
    sealed_score(t, page, q, s, prefetch);
    if (n_sealed == PAGE_TOKENS || !tail)
        return;
    page_f16_score(t->kernels, t->d, tail, q, t->n_rows, t->scratch->p_part, NULL);
    for (int r = 0; r < t->n_rows; r++)
        memcpy(s + r * PAGE_TOKENS + n_sealed, t->scratch->p_part + r * PAGE_TOKENS + n_sealed,
               (size_t)(PAGE_TOKENS - n_sealed) * sizeof(*s));
}

static void page_mix(tile *t, int page, const float *p, float *o, const void *prefetch) {
    int n_sealed = lane_sealed_in(t->lane, KV_V, page);
    const uint8_t *tail = t->lane->tail[KV_V][page];
    if (n_sealed == 0) {
        page_f16_mix(t->kernels, t->d, tail, p, t->n_rows, o, prefetch);
        return;
    }
    if (n_sealed == PAGE_TOKENS || !tail) {
        sealed_mix(t, page, p, o, prefetch);
        return;
    }
    float *part = t->scratch->p_part;
    size_t bytes = (size_t)t->n_rows * PAGE_TOKENS * sizeof(*p);
    memcpy(part, p, bytes);
    for (int r = 0; r < t->n_rows; r++)
        memset(part + r * PAGE_TOKENS + n_sealed, 0, (size_t)(PAGE_TOKENS - n_sealed) * sizeof(*p));
    sealed_mix(t, page, part, o, prefetch);
    memcpy(part, p, bytes);
    for (int r = 0; r < t->n_rows; r++)
        memset(part + r * PAGE_TOKENS, 0, (size_t)n_sealed * sizeof(*p));
    page_f16_mix(t->kernels, t->d, tail, part, t->n_rows, o, NULL);
}

/* Scores of one page, s [rows][64], with the right rotation per slot, masked. */
static void page_score_masked(const tile *t, int page, const page_span *span, float *s, const void *prefetch) {
    kv_scratch *w = t->scratch;
    bool cached = t->shifted && span->low < t->cache->segment_end;
    if (!cached || span->high >= t->cache->segment_end)
        page_score(t, page, w->q, s, prefetch);
    if (cached && span->high < t->cache->segment_end) {
        page_score(t, page, w->q_cached, s, prefetch);
    } else if (cached) {
        page_score(t, page, w->q_cached, w->s_part, NULL);
        for (int r = 0; r < t->n_rows; r++)
            for (int i = 0; i < PAGE_TOKENS; i++)
                if (span->pos[i] < t->cache->segment_end)
                    s[r * PAGE_TOKENS + i] = w->s_part[r * PAGE_TOKENS + i];
    }
    if (span->high <= t->t_first && (!t->window || span->low > t->t_last - t->window))
        return;
    for (int r = 0; r < t->n_rows; r++) {
        int position = t->t_first + r / t->group, behind = t->window ? position - t->window : -1;
        for (int i = 0; i < PAGE_TOKENS; i++)
            if (span->pos[i] > position || span->pos[i] <= behind)
                s[r * PAGE_TOKENS + i] = -INFINITY;
    }
}

static const void *next_page_bytes(const tile *t, int side, int page) {
    do
        page++;
    while (page < lane_pages(t) && !page_is_read(t, page));
    if (page >= lane_pages(t))
        return NULL;
    return lane_sealed_in(t->lane, side, page) ? t->lane->sealed[side][page].bytes : t->lane->tail[side][page];
}

/* No query of the tile sees a slot of the page. */
static bool page_unseen(const tile *t, const page_span *span) {
    if (span->low > t->t_last || !t->window)
        return span->low > t->t_last;
    int32_t high = -1; /* of the live ones */
    for (int i = 0; i < PAGE_TOKENS; i++)
        high = span->pos[i] != KV_DEAD && span->pos[i] > high ? span->pos[i] : high;
    return high <= t->t_first - t->window;
}

/* The scores s of the pages from first to end that are seen, one behind the other; which pages these are. */
static int block_score(const tile *t, int first, int end, float *s, int seen[ATTEND_BLOCK_PAGES]) {
    int n = 0;
    for (int page = first; page < end; page++) {
        page_span span;
        span_read(t->kernels, t->lane, page, &span);
        if (page_unseen(t, &span) || !page_is_read(t, page))
            continue;
        float *scores = s + n * t->n_rows * PAGE_TOKENS;
        page_score_masked(t, page, &span, scores, next_page_bytes(t, KV_K, page));
        mask_unread(t, page, scores);
        seen[n++] = page;
    }
    return n;
}

/* Probabilities that stay where they were made, and the maxima that they are relative to. */
static void keep_block(tile *t, const int *seen, int n, const float *max) {
    memcpy(t->p_max + t->n_blocks * t->n_rows, max, (size_t)t->n_rows * sizeof(*max));
    for (int i = 0; i < n; i++)
        t->p_kept[t->n_kept++] = (kept_page){.page = seen[i], .block = t->n_blocks};
    t->n_blocks++;
}

/* A block of pages into the running softmax of the chunk: together, because the exponentials of few rows would wait for
 * one another. */
static void block_attend(tile *t, int first, int end, float *max, float *sum, float *out) {
    float correction[ATTEND_TILE_TOKENS * KV_MAX_GROUP];
    float *s = t->p ? t->p + (size_t)t->n_kept * (size_t)t->n_rows * PAGE_TOKENS : t->scratch->s;
    int seen[ATTEND_BLOCK_PAGES], n = block_score(t, first, end, s, seen);
    if (n == 0)
        return;
    t->kernels->softmax_pages(s, n, t->n_rows, max, sum, correction);
    for (int r = 0; r < t->n_rows; r++) {
        if (correction[r] != 1)
            t->kernels->scale(out + r * t->d, t->d, correction[r]);
        if (correction[r] != 1 && t->out_turned)
            t->kernels->scale(t->out_turned + r * t->d, t->d, correction[r]);
    }
    for (int i = 0; i < n; i++)
        page_mix(t, seen[i], s + i * t->n_rows * PAGE_TOKENS, out, next_page_bytes(t, KV_V, seen[i]));
    if (t->p)
        keep_block(t, seen, n, max);
}

static void chunk_attend(tile *t, int chunk, float *max, float *sum, float *out) {
    for (int r = 0; r < t->n_rows; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(out, 0, (size_t)(t->n_rows * t->d) * sizeof(*out));
    int end = page_count(t->lane->n_slots);
    end = end < (chunk + 1) * CHUNK_PAGES ? end : (chunk + 1) * CHUNK_PAGES;
    t->out_turned = NULL;
    for (int first = chunk * CHUNK_PAGES; first < end; first += ATTEND_BLOCK_PAGES) {
        int from = first > t->lane->first_page ? first : t->lane->first_page;
        int to = first + ATTEND_BLOCK_PAGES < end ? first + ATTEND_BLOCK_PAGES : end;
        block_attend(t, from, to, max, sum, out);
    }
    if (!t->out_turned)
        return;
    const kv_coding *coding = &t->lane->keep[KV_V].coding;
    coding->format->turn(&coding->config, t->d, true, t->out_turned, t->n_rows);
    t->kernels->add(out, t->out_turned, t->n_rows * t->d);
}

/* Row `part` merged into row `all` by log-sum-exp. */
static void merge_row(const cpu_kernels *kernels, int d, float *max, float *sum, float *out, float part_max,
                      float part_sum, const float *part_out) {
    if (part_max == -INFINITY)
        return;
    if (*max == -INFINITY) {
        *max = part_max;
        *sum = part_sum;
        memcpy(out, part_out, (size_t)d * sizeof(*out));
        return;
    }
    float high = part_max > *max ? part_max : *max, keep = expf(*max - high), add = expf(part_max - high);
    *max = high;
    *sum = *sum * keep + part_sum * add;
    kernels->scale(out, d, keep);
    kernels->add_scaled(out, part_out, d, add);
}

static void write_row(const tile *t, const kv_attend_item *item, int first, int ih, int r, float sum,
                      const float *out) {
    float *to =
        item->out + (size_t)(first + r / t->group) * item->out_stride + (size_t)((ih * t->group + r % t->group) * t->d);
    memcpy(to, out, (size_t)t->d * sizeof(*to));
    t->kernels->scale(to, t->d, 1 / sum);
}

/* mass [n] = the tile's probabilities per slot from row `from` on, added up in the order of the rows. */
static void tile_mass(const tile *t, int from, const float *max, const float *sum, float *mass, int n) {
    float factor[ATTEND_TILE_TOKENS * KV_MAX_GROUP];
    memset(mass, 0, (size_t)n * sizeof(*mass));
    for (int i = 0, block = -1; i < t->n_kept; i++) {
        const float *p = t->p + (size_t)i * (size_t)t->n_rows * PAGE_TOKENS;
        int at = t->p_kept[i].page * PAGE_TOKENS, left = n - at;
        if (t->p_kept[i].block != block) {
            block = t->p_kept[i].block;
            for (int r = from; r < t->n_rows; r++)
                factor[r] = expf(t->p_max[block * t->n_rows + r] - max[r]) / sum[r];
        }
        for (int r = from; r < t->n_rows; r++)
            t->kernels->add_scaled(mass + at, p + r * PAGE_TOKENS, left < PAGE_TOKENS ? left : PAGE_TOKENS, factor[r]);
    }
}

static void load_queries(tile *t, const kv_attend_item *item, int first, int ih) {
    kv_scratch *w = t->scratch;
    float scale = t->cache->model->score_scale;
    for (int r = 0; r < t->n_rows; r++) {
        const float *q =
            item->q + (size_t)(first + r / t->group) * item->q_stride + (size_t)((ih * t->group + r % t->group) * t->d);
        for (int j = 0; j < t->d; j++)
            w->q[r * t->d + j] = q[j] * scale;
    }
}

/* Rotates the queries from their true positions to those inside the cache. */
static void load_cached_queries(const tile *t, int il, int shift) {
    kv_scratch *w = t->scratch;
    const kv_model *model = t->cache->model;
    const float *rope = model->layer[il].rope_inv;
    if (w->cos_sin_rope != rope || w->cos_sin_shift != shift) {
        for (int i = 0; i < model->n_rot / 2; i++) {
            w->cos_sin[2 * i] = (float)cos((double)shift * (double)rope[i]);
            w->cos_sin[2 * i + 1] = (float)sin((double)shift * (double)rope[i]);
        }
        w->cos_sin_rope = rope;
        w->cos_sin_shift = shift;
    }
    memcpy(w->q_cached, w->q, (size_t)(t->n_rows * t->d) * sizeof(*w->q));
    for (int r = 0; r < t->n_rows; r++)
        t->kernels->rope(w->q_cached + r * t->d, model->n_rot, model->rope_neox, w->cos_sin);
}

/* For sealed pages in another basis. */
static void turn_queries(tile *t) {
    kv_scratch *w = t->scratch;
    const kv_coding *coding = &t->lane->keep[KV_K].coding;
    size_t bytes = (size_t)(t->n_rows * t->d) * sizeof(*w->q);
    for (int side = 0; side < 2; side++)
        t->turns[side] = t->lane->keep[side].coding.format->turn && t->lane->n_sealed[side] > 0;
    if (!t->turns[KV_K])
        return;
    memcpy(w->q_turned, w->q, bytes);
    coding->format->turn(&coding->config, t->d, false, w->q_turned, t->n_rows);
    if (!t->shifted)
        return;
    memcpy(w->q_cached_turned, w->q_cached, bytes);
    coding->format->turn(&coding->config, t->d, false, w->q_cached_turned, t->n_rows);
}

/* Which slots the policy lets each query head of the lane read; NULL: all. */
static const uint64_t *read_slots(const tile *t, int il, int ih, const float *q) {
    const kv_method *method = &t->cache->method;
    view_store store;
    kv_view view = view_open(t->cache, il, KV_AT_STEP, t->scratch, t->kernels, &store);
    kv_pick pick = {.view = &view,
                    .ih = ih,
                    .q = q + ih * t->group * t->d,
                    .bound = (const f16 *const *)t->lane->bound,
                    .bound_slots = t->cache->wants.bound_slots,
                    .n_pages = lane_pages(t)};
    memset(t->scratch->read, 0, (size_t)(t->group * pick.n_pages) * sizeof(*t->scratch->read));
    return method->policy->pick(&method->policy_config, &pick, t->scratch->read) ? t->scratch->read : NULL;
}

static tile tile_begin(kv_attend *a, const task *job, int worker, kv_scratch *scratch, const cpu_kernels *kernels) {
    const kv_attend_item *item = &a->items[job->item];
    kv_lane *lane = lane_of(item->cache, a->il, job->ih);
    tile t = {.cache = item->cache,
              .lane = lane,
              .kernels = kernels,
              .scratch = scratch,
              .d = a->model->head_dim,
              .group = a->group,
              .n_rows = job->n_tokens * a->group,
              .window = a->model->layer[a->il].window_tokens,
              .t_first = item->cache->n_seen + job->first,
              .t_last = item->cache->n_seen + job->first + job->n_tokens - 1};
    bool last = lane->last && job->first + job->n_tokens == item->cache->n_new;
    if ((lane->mass && !lane->windowed) || last) {
        t.p = a->p[worker];
        t.p_max = a->p_max[worker];
        t.p_kept = a->p_kept[worker];
    }
    if (picks(item->cache, lane))
        t.read = read_slots(&t, a->il, job->ih, item->q + (size_t)job->first * item->q_stride);
    load_queries(&t, item, job->first, job->ih);
    int shift = lane->n_live - item->cache->n_new - item->cache->n_seen; /* minus the tokens evicted so far */
    t.shifted = item->cache->segment_end > 0 && !lane->windowed && shift != 0;
    if (t.shifted)
        load_cached_queries(&t, a->il, shift);
    turn_queries(&t);
    return t;
}

void kv_attend_task(kv_attend *a, int index, int worker, kv_scratch *w, const cpu_kernels *kernels) {
    const task *job = &a->task[index];
    tile t = tile_begin(a, job, worker, w, kernels);
    if (job->partial >= 0) {
        float *part = a->partial + (size_t)job->partial * (size_t)a->tile_rows * (size_t)(2 + t.d);
        chunk_attend(&t, job->chunk_from, part, part + a->tile_rows, part + 2 * a->tile_rows);
        return;
    }
    for (int r = 0; r < t.n_rows; r++)
        w->max[r] = -INFINITY;
    for (int chunk = job->chunk_from; chunk < job->chunk_to; chunk++) {
        chunk_attend(&t, chunk, w->chunk_max, w->chunk_sum, w->chunk_out);
        for (int r = 0; r < t.n_rows; r++)
            merge_row(kernels, t.d, &w->max[r], &w->sum[r], w->out + r * t.d, w->chunk_max[r], w->chunk_sum[r],
                      w->chunk_out + r * t.d);
    }
    for (int r = 0; r < t.n_rows; r++)
        write_row(&t, &a->items[job->item], job->first, job->ih, r, w->sum[r], w->out + r * t.d);
    if (t.p && t.lane->mass)
        tile_mass(&t, 0, w->max, w->sum, a->mass + job->mass_offset, page_count(t.lane->n_slots) * PAGE_TOKENS);
    if (t.p && t.lane->last && job->first + job->n_tokens == t.cache->n_new)
        tile_mass(&t, t.n_rows - t.group, w->max, w->sum, t.lane->last, t.lane->n_slots);
}

void attend_page_score(const kv_lane *lane, const cpu_kernels *kernels, kv_scratch *scratch, int d, int page,
                       const float *q, int n_rows, float *s) {
    tile t = {.lane = lane, .kernels = kernels, .scratch = scratch, .d = d, .n_rows = n_rows};
    const kv_coding *coding = &lane->keep[KV_K].coding;
    t.turns[KV_K] = coding->format->turn && lane_sealed_in(lane, KV_K, page) > 0;
    if (t.turns[KV_K]) {
        float *turned = q == scratch->q ? scratch->q_turned : scratch->q_cached_turned;
        memcpy(turned, q, (size_t)(n_rows * d) * sizeof(*q));
        coding->format->turn(&coding->config, d, false, turned, n_rows);
    }
    page_score(&t, page, q, s, NULL);
}

int kv_attend_merges(const kv_attend *a) {
    return a->n_merges;
}

static void merge_partials(kv_attend *a, const merge *m, const cpu_kernels *kernels) {
    int d = a->model->head_dim;
    tile t = {.kernels = kernels, .d = d, .group = a->group};
    for (int r = 0; r < m->n_tokens * a->group; r++) {
        float max = -INFINITY, sum = 0, out[KV_MAX_HEAD_DIM];
        for (int i = 0; i < m->n_partials; i++) {
            const float *part = a->partial + (size_t)(m->partial + i) * (size_t)a->tile_rows * (size_t)(2 + d);
            merge_row(kernels, d, &max, &sum, out, part[r], part[a->tile_rows + r], part + 2 * a->tile_rows + r * d);
        }
        write_row(&t, &a->items[m->item], m->first, m->ih, r, sum, out);
    }
}

void kv_attend_merge(kv_attend *a, int index, const cpu_kernels *kernels) {
    const merge *m = &a->merge[index];
    if (!m->n_tiles) {
        merge_partials(a, m, kernels);
        return;
    }
    kv_lane *lane = lane_of(a->items[m->item].cache, a->il, m->ih);
    int n_padded = page_count(lane->n_slots) * PAGE_TOKENS;
    for (int i = 0; i < m->n_tiles; i++)
        kernels->add_scaled(lane->mass, a->mass + m->mass_offset + (size_t)i * (size_t)n_padded, lane->n_slots, 1);
}
