/* tile.c - flash attention (arXiv 2205.14135) over pages of 64 slots: per row a running maximum, sum and output; per
 * page the scores of all rows of the tile, the exponentials, and the product with V. So each KV byte comes from memory
 * once for all query heads of its group and all tokens of the tile: codes are unpacked from the cache again for every
 * few rows (of a decode step: once), and a page of a format without products of its own is opened once. Masked slots
 * add exact zeros: a lane with dead slots, a window or pages skipped gives the bits of one without them.
 *
 * Mass (H2O): the unnormalised probabilities of a tile are stored with the maximum they were taken at, and corrected
 * once the row's end is known: no second pass over K. Each tile sums its rows in order.
 *
 * Positions inside the cache (streaming): the query is rotated by the number of evicted tokens for the pages of the
 * first segment; stored keys are never touched. */
#include "kv/tile.h"
#include "kv/page_f16.h"
#include <math.h>
#include <string.h>

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

static void sealed_score(tile *t, int page, bool cached, float *s, const void *prefetch) {
    const kv_coding *coding = &t->lane->keep[KV_K].coding;
    const kv_page *view = &t->lane->sealed[KV_K][page];
    if (coding->format->score) {
        coding->format->score(t->kernels, &coding->config, t->d, view, cached ? &t->rows_cached : &t->rows, s,
                              prefetch);
        return;
    }
    coding->format->open(&coding->config, KV_K, t->d, view, t->scratch->rows[KV_K]);
    score_open(t, t->scratch->rows[KV_K], cached ? t->scratch->q_cached : t->scratch->q, s);
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
static void page_score(tile *t, int page, bool cached, float *s, const void *prefetch) {
    int n_sealed = lane_sealed_in(t->lane, KV_K, page);
    const uint8_t *tail = t->lane->tail[KV_K][page];
    const float *q = cached ? t->scratch->q_cached : t->scratch->q;
    if (n_sealed == 0) {
        page_f16_score(t->kernels, t->d, tail, q, t->n_rows, s, prefetch);
        return;
    }
    sealed_score(t, page, cached, s, prefetch);
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
static void page_score_masked(tile *t, int page, const page_span *span, float *s, const void *prefetch) {
    kv_scratch *w = t->scratch;
    bool cached = t->shifted && span->low < t->cache->segment_end;
    if (!cached || span->high >= t->cache->segment_end)
        page_score(t, page, false, s, prefetch);
    if (cached && span->high < t->cache->segment_end) {
        page_score(t, page, true, s, prefetch);
    } else if (cached) {
        page_score(t, page, true, w->s_part, NULL);
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
static int block_score(tile *t, int first, int end, float *s, int seen[ATTEND_BLOCK_PAGES]) {
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

void tile_chunk(tile *t, int chunk, float *max, float *sum, float *out) {
    for (int r = 0; r < t->n_rows; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(out, 0, (size_t)(t->n_rows * t->d) * sizeof(*out));
    int end = page_count(t->lane->n_slots);
    end = end < chunk_first_page(chunk + 1) ? end : chunk_first_page(chunk + 1);
    t->out_turned = NULL;
    for (int first = chunk_first_page(chunk); first < end; first += ATTEND_BLOCK_PAGES) {
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

/* The scratch's queries as sealed pages are scored with them: in another basis where the format wants it. */
static void turn_queries(tile *t) {
    kv_scratch *w = t->scratch;
    const kv_coding *coding = &t->lane->keep[KV_K].coding;
    size_t bytes = (size_t)(t->n_rows * t->d) * sizeof(*w->q);
    for (int side = 0; side < 2; side++)
        t->turns[side] = t->lane->keep[side].coding.format->turn && t->lane->n_sealed[side] > 0;
    t->rows = kv_query_rows_of(t->turns[KV_K] ? w->q_turned : w->q, t->n_rows, w->of_run, w->folded);
    t->rows_cached = kv_query_rows_of(t->turns[KV_K] ? w->q_cached_turned : w->q_cached, t->n_rows, w->of_run_cached,
                                      w->folded_cached);
    if (!t->turns[KV_K])
        return;
    memcpy(w->q_turned, w->q, bytes);
    coding->format->turn(&coding->config, t->d, false, w->q_turned, t->n_rows);
    if (!t->shifted)
        return;
    memcpy(w->q_cached_turned, w->q_cached, bytes);
    coding->format->turn(&coding->config, t->d, false, w->q_cached_turned, t->n_rows);
}

void tile_mass(const tile *t, int from, const float *max, const float *sum, float *mass, int n) {
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

tile tile_begin(const kv_attend_item *item, int il, int ih, int first, int n_tokens, kv_scratch *scratch,
                const cpu_kernels *kernels) {
    const kv_cache *cache = item->cache;
    const kv_model *model = cache->model;
    kv_lane *lane = lane_of(cache, il, ih);
    int group = model->n_head / model->n_head_kv;
    tile t = {.cache = cache,
              .lane = lane,
              .kernels = kernels,
              .scratch = scratch,
              .d = model->head_dim,
              .group = group,
              .n_rows = n_tokens * group,
              .window = model->layer[il].window_tokens,
              .t_first = cache->n_seen + first,
              .t_last = cache->n_seen + first + n_tokens - 1};
    load_queries(&t, item, first, ih);
    int shift = lane->n_live - cache->n_new - cache->n_seen; /* minus the tokens evicted so far */
    t.shifted = cache->segment_end > 0 && !lane->windowed && shift != 0;
    if (t.shifted)
        load_cached_queries(&t, il, shift);
    turn_queries(&t);
    return t;
}

tile tile_of_rows(const kv_lane *lane, const cpu_kernels *kernels, kv_scratch *scratch, int d, int n_rows) {
    tile t = {.lane = lane, .kernels = kernels, .scratch = scratch, .d = d, .n_rows = n_rows};
    turn_queries(&t);
    return t;
}

void tile_page_score(tile *t, int page, float *s) {
    page_score(t, page, false, s, NULL);
}
