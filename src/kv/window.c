/* window.c - the queries that policies look at: the newest ones of each layer, and moments of all.
 *
 * The window is a ring by absolute position, so it does not depend on how a prompt was cut. It is held in memory of its
 * own, whose bytes are charged to the pool with the first step: n_layer x window x n_head x d floats (SmolLM2, 32
 * queries: 2.2 MB).
 *
 * Moments are sums over the queries before their rotation: each query is turned back by its own angle (exact to float
 * rounding: the rotation is orthogonal, its magnitude is divided out). Outer products are made 64 positions at a time,
 * between absolute multiples of 64, as one product of the transposed block with itself, lower triangle only; blocks are
 * added in rising order, so the sums are the same for any cut at multiples of 64 and any number of threads. Queries of
 * decoding wait until an absolute multiple of 16 or until somebody asks, so that the matrices are not read and written
 * for each of them; a row that does not wait is zero. Cost of moments: d / 2 multiply-adds per element of q, about 2 %
 * of a prefill of SmolLM2. */
#include "kv/lane.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK_TOKENS = 64 };

static int group_of(const kv_model *m) {
    return m->n_head / m->n_head_kv;
}

static size_t sum_floats(const kv_cache *cache) {
    return (size_t)cache->model->n_head * (size_t)cache->model->head_dim;
}

static size_t ring_floats(const kv_cache *cache) {
    return (size_t)cache->wants.window_tokens * sum_floats(cache);
}

static size_t outer_floats(const kv_cache *cache) {
    return sum_floats(cache) * (size_t)cache->model->head_dim;
}

size_t kv_queries_bytes(const kv_model *m, const kv_wants *wants) {
    size_t rows = 0, n_layer = 0, row = (size_t)m->n_head * (size_t)m->head_dim * sizeof(float);
    if (wants->flags & KV_WANT_WINDOW_Q)
        rows += (size_t)wants->window_tokens;
    if (wants->flags & KV_WANT_MOMENTS)
        rows += 1 + (size_t)m->head_dim + QUERIES_LATE;
    for (int il = 0; il < m->n_layer; il++)
        n_layer += m->layer[il].window_tokens == 0;
    return n_layer * rows * row;
}

size_t queries_uncharged(const kv_cache *cache) {
    return cache->queries && !cache->charged_bytes ? kv_queries_bytes(cache->model, &cache->wants) : 0;
}

void queries_charge(kv_cache *cache) {
    size_t bytes = queries_uncharged(cache);
    if (bytes && kv_pool_charge(cache->pool, bytes))
        cache->charged_bytes = bytes;
}

void queries_free(kv_cache *cache) {
    if (cache->charged_bytes)
        kv_pool_discharge(cache->pool, cache->charged_bytes);
    cache->charged_bytes = 0;
    for (int il = 0; cache->queries && il < cache->model->n_layer; il++) {
        mem_free(cache->queries[il].ring);
        mem_free(cache->queries[il].sum);
        mem_free(cache->queries[il].outer);
        mem_free(cache->queries[il].late);
    }
    free(cache->queries);
    cache->queries = NULL;
}

static bool alloc_layer(const kv_cache *cache, kv_queries *q) {
    q->from = cache->wants.skip_tokens;
    if (cache->wants.flags & KV_WANT_WINDOW_Q && !(q->ring = mem_alloc(ring_floats(cache), sizeof(float))))
        return false;
    if (!(cache->wants.flags & KV_WANT_MOMENTS))
        return true;
    q->sum = mem_alloc(sum_floats(cache), sizeof(float));
    q->outer = mem_alloc(outer_floats(cache), sizeof(float));
    q->late = mem_alloc(QUERIES_LATE * sum_floats(cache), sizeof(float));
    return q->sum && q->outer && q->late;
}

bool queries_ensure(kv_cache *cache) {
    if (cache->queries || !(cache->wants.flags & (KV_WANT_WINDOW_Q | KV_WANT_MOMENTS)))
        return true;
    cache->queries = calloc((size_t)cache->model->n_layer, sizeof(*cache->queries));
    bool ok = cache->queries != NULL;
    for (int il = 0; ok && il < cache->model->n_layer; il++)
        ok = layer_windowed(cache, il) || alloc_layer(cache, &cache->queries[il]);
    if (!ok)
        queries_free(cache);
    return ok;
}

/* src keeps at least what cache wants of it (kv_cache_fork checks). */
void queries_copy(kv_cache *cache, const kv_cache *src) {
    size_t row_bytes = sum_floats(cache) * sizeof(float);
    for (int il = 0; cache->queries && il < cache->model->n_layer; il++) {
        kv_queries *q = &cache->queries[il];
        const kv_queries *from = &src->queries[il];
        int n = src->n_seen < cache->wants.window_tokens ? src->n_seen : cache->wants.window_tokens;
        for (int i = 0; q->ring && i < n; i++)
            memcpy(query_row(cache, il, src->n_seen - n + i), query_row(src, il, src->n_seen - n + i), row_bytes);
        if (!q->sum)
            continue;
        memcpy(q->sum, from->sum, row_bytes);
        memcpy(q->outer, from->outer, outer_floats(cache) * sizeof(float));
        q->from = from->from;
    }
}

static void note_window(kv_cache *cache, int il, int ih, const float *q, size_t q_stride) {
    int d = cache->model->head_dim, group = group_of(cache->model), n = cache->n_new;
    int skip = n > cache->wants.window_tokens ? n - cache->wants.window_tokens : 0;
    for (int i = skip; i < n; i++)
        memcpy(query_row(cache, il, cache->n_seen + i) + (size_t)(ih * group) * (size_t)d, q + (size_t)i * q_stride,
               (size_t)(group * d) * sizeof(*q));
}

/* back [n][d] = queries of one head before their rotation. */
static void turn_back(const kv_model *m, const float *q, size_t q_stride, int n, const float *cos_sin, float *back,
                      const cpu_kernels *kernels) {
    int d = m->head_dim;
    float angle[KV_MAX_HEAD_DIM] = {0}, magnitude = m->rope_magnitude != 0 ? m->rope_magnitude : 1;
    for (int t = 0; t < n; t++) {
        const float *forth = cos_sin + (size_t)t * (size_t)m->n_rot;
        for (int i = 0; i < m->n_rot; i += 2) {
            angle[i] = forth[i];
            angle[i + 1] = -forth[i + 1];
        }
        memcpy(back + t * d, q + (size_t)t * q_stride, (size_t)d * sizeof(*back));
        kernels->rope(back + t * d, m->n_rot, m->rope_neox, angle);
        if (magnitude != 1)
            kernels->scale(back + t * d, m->n_rot, 1 / (magnitude * magnitude));
    }
}

/* Adds n (at most 64) queries of one head. */
static void add_block(int d, const float *back, int n, float *sum, float *outer, const cpu_kernels *kernels) {
    float across[KV_MAX_HEAD_DIM * BLOCK_TOKENS], part[KV_MAX_HEAD_DIM * PACK_ROWS];
    _Alignas(64) float panel[BLOCK_TOKENS * PACK_ROWS];
    for (int j = 0; j < d; j++)
        for (int t = 0; t < n; t++)
            across[j * n + t] = back[t * d + j];
    for (int t = 0; t < n; t++)
        kernels->add(sum, back + t * d, d);
    pack_matrix w = {.type = PACK_F32, .n_rows = PACK_ROWS, .n_cols = n, .data = (const uint8_t *)panel};
    for (int j = 0; j < d; j += PACK_ROWS) {
        for (int t = 0; t < n; t++)
            memcpy(panel + t * PACK_ROWS, back + t * d + j, PACK_ROWS * sizeof(*panel));
        act_rows x = {.n_cols = n, .x = across + j * n};
        kernels->matmul[PACK_F32](&w, 0, 1, &x, d - j, part, PACK_ROWS);
        for (int i = j; i < d; i++)
            kernels->add(outer + i * d + j, part + (i - j) * PACK_ROWS, PACK_ROWS);
    }
}

/* The waiting queries of one head. */
static void add_late(const kv_cache *cache, kv_queries *to, int head, const cpu_kernels *kernels) {
    int d = cache->model->head_dim;
    size_t at = (size_t)head * (size_t)d, row_bytes = (size_t)d * sizeof(float);
    float back[QUERIES_LATE * KV_MAX_HEAD_DIM];
    for (int i = 0; i < QUERIES_LATE; i++) {
        float *row = to->late + (size_t)i * sum_floats(cache) + at;
        memcpy(back + i * d, row, row_bytes);
        memset(row, 0, row_bytes);
    }
    add_block(d, back, QUERIES_LATE, to->sum + at, to->outer + at * (size_t)d, kernels);
}

static void note_late(kv_cache *cache, int il, int ih, const float *q, const float *cos_sin,
                      const cpu_kernels *kernels) {
    const kv_model *m = cache->model;
    kv_queries *to = &cache->queries[il];
    int row = cache->n_seen % QUERIES_LATE, group = group_of(m);
    if (cache->n_seen < to->from)
        return;
    float *back = to->late + (size_t)row * sum_floats(cache);
    for (int g = 0; g < group; g++) {
        turn_back(m, q + g * m->head_dim, 0, 1, cos_sin, back + (ih * group + g) * m->head_dim, kernels);
        if (row + 1 == QUERIES_LATE)
            add_late(cache, to, ih * group + g, kernels);
    }
}

static void note_moments(kv_cache *cache, int il, int ih, const float *q, size_t q_stride, const float *cos_sin,
                         const cpu_kernels *kernels) {
    const kv_model *m = cache->model;
    kv_queries *to = &cache->queries[il];
    int d = m->head_dim, group = group_of(m);
    float back[BLOCK_TOKENS * KV_MAX_HEAD_DIM];
    int first = to->from > cache->n_seen ? to->from - cache->n_seen : 0;
    for (int i = first, n; i < cache->n_new; i += n) {
        n = BLOCK_TOKENS - (cache->n_seen + i) % BLOCK_TOKENS;
        n = n < cache->n_new - i ? n : cache->n_new - i;
        for (int g = 0; g < group; g++) {
            size_t head = (size_t)(ih * group + g), at = head * (size_t)d;
            turn_back(m, q + (size_t)i * q_stride + g * d, q_stride, n, cos_sin + (size_t)i * (size_t)m->n_rot, back,
                      kernels);
            add_block(d, back, n, to->sum + at, to->outer + at * (size_t)d, kernels);
        }
    }
}

void kv_cache_note_queries(kv_cache *cache, int il, int ih, const float *q, size_t q_stride, const float *cos_sin,
                           const cpu_kernels *kernels) {
    if (!cache->queries || layer_windowed(cache, il))
        return;
    if (cache->queries[il].ring)
        note_window(cache, il, ih, q, q_stride);
    if (cache->queries[il].sum && cache->phase == PLEAT_DECODE)
        note_late(cache, il, ih, q, cos_sin, kernels);
    else if (cache->queries[il].sum)
        note_moments(cache, il, ih, q, q_stride, cos_sin, kernels);
}

kv_moments queries_moments(kv_cache *cache, int il, const cpu_kernels *kernels) {
    if (!cache->queries || !cache->queries[il].sum)
        return (kv_moments){0};
    kv_queries *q = &cache->queries[il];
    int d = cache->model->head_dim, n = cache->n_seen + cache->n_new - q->from;
    for (int h = 0; h < cache->model->n_head; h++) {
        float *outer = q->outer + (size_t)h * (size_t)(d * d);
        add_late(cache, q, h, kernels);
        for (int i = 0; i < d; i++)
            for (int j = i + 1; j < d; j++)
                outer[i * d + j] = outer[j * d + i];
    }
    return (kv_moments){.n = n > 0 ? n : 0, .sum = q->sum, .outer = q->outer};
}

void queries_restart(kv_cache *cache, int il) {
    if (!cache->queries || !cache->queries[il].sum)
        return;
    kv_queries *q = &cache->queries[il];
    memset(q->sum, 0, sum_floats(cache) * sizeof(float));
    memset(q->outer, 0, outer_floats(cache) * sizeof(float));
    memset(q->late, 0, QUERIES_LATE * sum_floats(cache) * sizeof(float));
    q->from = cache->n_seen + cache->n_new;
}
