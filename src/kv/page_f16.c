/* page_f16.c - fp16 pages, laid out in the order of the sweep that reads them.
 *
 *   K   [2 halves of the page][d channels][32 tokens] f16    scores of 32 tokens grow channel by channel, side by side
 *   V   [d/32 groups][64 tokens][32 channels] f16            32 outputs grow token by token, side by side
 *
 * One sweep is one tile kernel call over contiguous memory; no horizontal sum anywhere. */
#include "kv/page_f16.h"
#include <string.h>

enum { HALVES = PAGE_TOKENS / TILE };

size_t page_f16_bytes(int d) {
    return (size_t)PAGE_TOKENS * (size_t)d * sizeof(f16);
}

static size_t k_index(int d, int slot, int j) {
    return ((size_t)(slot / TILE) * (size_t)d + (size_t)j) * TILE + (size_t)(slot % TILE);
}

static size_t v_index(int slot, int j) {
    return ((size_t)(j / TILE) * PAGE_TOKENS + (size_t)slot) * TILE + (size_t)(j % TILE);
}

void page_f16_put(kv_side side, int d, uint8_t *page, int slot, const f16 *rows, int n_rows, size_t row_stride) {
    f16 *to = (f16 *)page;
    for (int r = 0; r < n_rows; r++) {
        const f16 *row = rows + (size_t)r * row_stride;
        if (side == KV_K)
            for (int j = 0; j < d; j++)
                to[k_index(d, slot + r, j)] = row[j];
        else
            for (int j = 0; j < d; j += TILE)
                memcpy(to + v_index(slot + r, j), row + j, TILE * sizeof(f16));
    }
}

void page_f16_get(kv_side side, int d, const uint8_t *page, int slot, int n_rows, f16 *rows) {
    const f16 *from = (const f16 *)page;
    for (int r = 0; r < n_rows; r++) {
        f16 *row = rows + (size_t)r * (size_t)d;
        if (side == KV_K)
            for (int j = 0; j < d; j++)
                row[j] = from[k_index(d, slot + r, j)];
        else
            for (int j = 0; j < d; j += TILE)
                memcpy(row + j, from + v_index(slot + r, j), TILE * sizeof(f16));
    }
}

void page_f16_move(kv_side side, int d, uint8_t *dst_page, int dst_slot, const uint8_t *src_page, int src_slot) {
    f16 row[KV_MAX_HEAD_DIM];
    page_f16_get(side, d, src_page, src_slot, 1, row);
    page_f16_put(side, d, dst_page, dst_slot, row, 1, (size_t)d);
}

void page_f16_score(const cpu_kernels *kernels, int d, const uint8_t *page, const float *q, int n_rows, float *s,
                    const void *prefetch) {
    size_t half_bytes = page_f16_bytes(d) / HALVES;
    const uint8_t *next = prefetch;
    memset(s, 0, (size_t)n_rows * PAGE_TOKENS * sizeof(*s));
    for (int half = 0; half < HALVES; half++)
        kernels->tile[TILE_F16](q, (size_t)d, n_rows, page + (size_t)half * half_bytes, d, s + half * TILE, PAGE_TOKENS,
                                next ? next + (size_t)half * half_bytes : NULL);
}

void page_f16_mix(const cpu_kernels *kernels, int d, const uint8_t *page, const float *p, int n_rows, float *o,
                  const void *prefetch) {
    size_t group_bytes = (size_t)PAGE_TOKENS * TILE * sizeof(f16);
    const uint8_t *next = prefetch;
    for (int group = 0; group < d / TILE; group++)
        kernels->tile[TILE_F16](p, PAGE_TOKENS, n_rows, page + (size_t)group * group_bytes, PAGE_TOKENS,
                                o + group * TILE, (size_t)d, next ? next + (size_t)group * group_bytes : NULL);
}
