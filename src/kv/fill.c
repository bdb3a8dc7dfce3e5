/* fill.c - a cache of synthetic tokens, for timing decode without a long prefill.
 *
 * The rows are drawn, not computed, but everything after that is the real thing: they are appended as a prompt, and the
 * method's prompt-end event evicts and seals them layer by layer, so that at most one layer stands in fp16 at a time.
 * What decode reads (pages, formats, dead slots, lane lengths) is what a real prompt of this length leaves; only the
 * values differ, and no kernel's time depends on values. Keys get a fixed offset per channel with a few large channels,
 * as real keys have; mass is drawn, falling with position. */
#include "base/rng.h"
#include "base/status.h"
#include "kv/lane.h"
#include <math.h>
#include <stdlib.h>

enum { FILL_ROWS = 64 };

/* Four draws from one word: cheap, bounded, mean 0, about unit variance. */
static void draw_row(uint64_t seed, uint64_t stream, uint64_t counter, int d, float *x) {
    for (int j = 0; j < d; j += 4) {
        uint64_t u = rng_u64(seed, stream, counter * (KV_MAX_HEAD_DIM / 4) + (uint64_t)j / 4);
        for (int i = 0; i < 4 && j + i < d; i++)
            x[j + i] = ((float)(u >> (16 * i) & 0xff) + (float)(u >> (16 * i + 8) & 0xff) - 255) / 104;
    }
}

static void draw_mass(kv_lane *lane, uint64_t seed, uint64_t stream) {
    for (int slot = 0; slot < lane->n_slots; slot++) {
        float share = (float)(rng_uniform(seed, stream, (uint64_t)slot) / (1 + slot));
        if (lane->mass)
            lane->mass[slot] = share;
        if (lane->last)
            lane->last[slot] = share;
    }
}

/* The newest queries alone: moments of fewer tokens are moments too. */
static void fill_queries(kv_cache *cache, int il, int n_tokens, uint64_t seed, const cpu_kernels *kernels) {
    const kv_model *m = cache->model;
    int d = m->head_dim, group = m->n_head / m->n_head_kv, n_seen = cache->n_seen, n_new = cache->n_new;
    int n = n_tokens < FILL_ROWS ? n_tokens : FILL_ROWS;
    float q[KV_MAX_GROUP * KV_MAX_HEAD_DIM], cos_sin[KV_MAX_HEAD_DIM];
    if (!cache->queries)
        return;
    cache->n_new = 1;
    for (int t = n_tokens - n; t < n_tokens; t++) {
        cache->n_seen = n_seen + t;
        for (int i = 0; i < m->n_rot / 2; i++) {
            cos_sin[2 * i] = (float)cos((double)t * (double)m->layer[il].rope_inv[i]);
            cos_sin[2 * i + 1] = (float)sin((double)t * (double)m->layer[il].rope_inv[i]);
        }
        for (int ih = 0; ih < m->n_head_kv; ih++) {
            for (int g = 0; g < group; g++)
                draw_row(seed ^ 1, (uint64_t)(il * m->n_head + ih * group + g), (uint64_t)t, d, q + g * d);
            kv_cache_note_queries(cache, il, ih, q, (size_t)(group * d), cos_sin, kernels);
        }
    }
    cache->n_seen = n_seen;
    cache->n_new = n_new;
}

static void fill_lane(kv_cache *cache, int il, int ih, int n_tokens, uint64_t seed, const cpu_kernels *kernels) {
    int d = cache->model->head_dim;
    float k[FILL_ROWS * KV_MAX_HEAD_DIM], v[FILL_ROWS * KV_MAX_HEAD_DIM], offset[KV_MAX_HEAD_DIM];
    uint64_t stream = 4 * ((uint64_t)il * (uint64_t)cache->model->n_head_kv + (uint64_t)ih);
    draw_row(seed, stream, 0, d, offset);
    int n_seen = cache->n_seen, n_new = cache->n_new;
    for (int from = 0; from < n_tokens; from += FILL_ROWS) {
        int n = n_tokens - from < FILL_ROWS ? n_tokens - from : FILL_ROWS;
        for (int i = 0; i < n; i++) {
            draw_row(seed, stream + 1, (uint64_t)(from + i), d, k + i * d);
            draw_row(seed, stream + 2, (uint64_t)(from + i), d, v + i * d);
            for (int j = 0; j < d; j++)
                k[i * d + j] += offset[j] * (j % 16 == 0 ? 8 : 1);
        }
        cache->n_seen = n_seen + from;
        cache->n_new = n;
        kv_cache_append(cache, il, ih, k, v, (size_t)d, kernels);
    }
    cache->n_seen = n_seen;
    cache->n_new = n_new;
    draw_mass(lane_of(cache, il, ih), seed, stream + 3);
}

pleat_status kv_cache_fill(kv_cache *cache, int n_tokens, uint64_t seed, kv_scratch *scratch,
                           const cpu_kernels *kernels, pleat_error *error) {
    const kv_model *model = cache->model;
    if (!queries_ensure(cache) || !kv_scratch_grow(scratch, cache, n_tokens))
        return err_set(error, PLEAT_EMEMORY, "no memory for a cache of %d tokens", n_tokens);
    kv_cache_begin(cache, n_tokens, PLEAT_PROMPT_END);
    for (int il = 0; il < model->n_layer; il++) {
        size_t bytes = 0, passing;
        if (!reserve_layer(cache, il, n_tokens, PLEAT_PROMPT_END, &bytes, &passing))
            return err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a cache of %d tokens", n_tokens);
        bytes += passing;
        cache->most_bytes = atomic_load(&cache->bytes) + bytes;
        if (!kv_pool_reserve(cache->pool, bytes))
            return err_set(error, PLEAT_EFULL,
                           "layer %d of a cache of %d tokens needs %zu bytes of the pool; %zu are free", il, n_tokens,
                           bytes, kv_pool_budget_bytes(cache->pool) - kv_pool_used_bytes(cache->pool));
        for (int ih = 0; ih < model->n_head_kv; ih++)
            fill_lane(cache, il, ih, n_tokens, seed, kernels);
        fill_queries(cache, il, n_tokens, seed, kernels);
        kv_cache_finish_layer(cache, il, scratch, kernels);
    }
    kv_cache_end(cache);
    return PLEAT_OK;
}
