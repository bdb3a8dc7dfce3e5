/* page_book.c - see page_book.h. Laid out like every page, in the order of the sweep:
 *
 *   K   [2 halves][d channels][32 tokens]    V   [d/32 groups][64 tokens][32 channels]    gains fp16 [64]
 *   32 codes: 4 bits and 2 bits as in page_codes.c; 3 bits 12 bytes (8 of lower bit pairs, 4 of upper bits); fp8 32
 *
 * K's gain multiplies a token's sum, V's goes into p. A row's bits do not depend on n_rows. */
#include "kv/page_book.h"
#include "kv/page_codes.h"
#include <string.h>

enum { BLOCK_ROWS = 32, HALVES = PAGE_TOKENS / TILE };

static size_t row_bytes(book_type type) {
    return type == BOOK_E4M3 ? 32 : type == BOOK_4 ? 16 : type == BOOK_3 ? 12 : 8;
}

static size_t codes_bytes(book_type type, int d) {
    return row_bytes(type) * (size_t)d * HALVES;
}

size_t book_page_bytes(book_type type, int d) {
    return (codes_bytes(type, d) + PAGE_TOKENS * sizeof(f16) + 63) / 64 * 64;
}

static f16 *gains_of(book_type type, int d, const uint8_t *page) {
    return (f16 *)(page + codes_bytes(type, d));
}

static void put_row(book_type type, uint8_t *to, const uint8_t code[TILE]) {
    memset(to, 0, row_bytes(type));
    if (type == BOOK_E4M3)
        memcpy(to, code, TILE);
    for (int k = 0; type == BOOK_4 && k < TILE; k++)
        to[k % 16] |= (uint8_t)(code[k] << (k / 16 * 4));
    for (int k = 0; type <= BOOK_3 && k < TILE; k++)
        to[k % 8] |= (uint8_t)((code[k] & 3) << (k / 8 * 2));
    for (int k = 0; type == BOOK_3 && k < TILE; k++)
        to[8 + k / 8] |= (uint8_t)(code[k] >> 2 << (k % 8));
}

static void get_row(book_type type, const uint8_t *from, uint8_t code[TILE]) {
    for (int k = 0; k < TILE; k++) {
        if (type == BOOK_E4M3)
            code[k] = from[k];
        else if (type == BOOK_4)
            code[k] = from[k % 16] >> (k / 16 * 4) & 15;
        else
            code[k] = from[k % 8] >> (k / 8 * 2) & 3;
        if (type == BOOK_3)
            code[k] |= (uint8_t)((from[8 + k / 8] >> (k % 8) & 1) << 2);
    }
}

static uint8_t *row_at(book_type type, kv_side side, int d, const uint8_t *page, int tile, int i) {
    int per_tile = side == KV_K ? d : PAGE_TOKENS;
    return (uint8_t *)page + ((size_t)tile * (size_t)per_tile + (size_t)i) * row_bytes(type);
}

void book_put(book_type type, kv_side side, int d, uint8_t *page, const uint8_t *code, const f16 *gain, int first,
              int n) {
    memcpy(gains_of(type, d, page) + first, gain, (size_t)n * sizeof(*gain));
    for (int i = 0; side == KV_V && i < n; i++)
        for (int j = 0; j < d; j += TILE)
            put_row(type, row_at(type, side, d, page, j / TILE, first + i), code + i * d + j);
    for (int half = 0; side == KV_K && half < HALVES; half++) {
        int from = first - half * TILE, to = from + n;
        from = from < 0 ? 0 : from;
        to = to > TILE ? TILE : to;
        for (int j = 0; from < to && j < d; j++) {
            uint8_t run[TILE], *at = row_at(type, side, d, page, half, j);
            get_row(type, at, run);
            for (int k = from; k < to; k++)
                run[k] = code[(half * TILE + k - first) * d + j];
            put_row(type, at, run);
        }
    }
}

static float value_of(const book *b, uint8_t code) {
    if (b->type == BOOK_E4M3)
        return f16_to_f32((f16)((code & 128) << 8 | (code & 127) << 7)) * 256;
    return b->value[code];
}

void book_open(const book *b, kv_side side, int d, const uint8_t *page, float *x) {
    const f16 *gain = gains_of(b->type, d, page);
    int n_tiles = side == KV_K ? HALVES : d / TILE, per_tile = side == KV_K ? d : PAGE_TOKENS;
    uint8_t code[TILE];
    for (int tile = 0; tile < n_tiles; tile++)
        for (int i = 0; i < per_tile; i++) {
            get_row(b->type, row_at(b->type, side, d, page, tile, i), code);
            for (int k = 0; k < TILE; k++) {
                int t = side == KV_K ? tile * TILE + k : i, j = side == KV_K ? i : tile * TILE + k;
                x[t * d + j] = f16_to_f32(gain[t]) * value_of(b, code[k]);
            }
        }
}

static const uint8_t *ahead(const void *prefetch, const uint8_t *page, const uint8_t *at) {
    return prefetch ? (const uint8_t *)prefetch + (at - page) : NULL;
}

/* The kernels ask for the codes. */
static void fetch_gains(const book *b, int d, const void *page) {
    size_t from = codes_bytes(b->type, d);
    page_codes_fetch(page, from, from + PAGE_TOKENS * sizeof(f16));
}

void book_score(const cpu_kernels *kernels, const book *b, int d, const uint8_t *page, const float *q, int n_rows,
                float *s, const void *prefetch) {
    float gain[PAGE_TOKENS];
    fetch_gains(b, d, prefetch);
    kernels->f16_to_f32(gains_of(b->type, d, page), PAGE_TOKENS, gain);
    memset(s, 0, (size_t)n_rows * PAGE_TOKENS * sizeof(*s));
    for (int half = 0; half < HALVES; half++) {
        const uint8_t *at = row_at(b->type, KV_K, d, page, half, 0);
        kernels->book[b->type](q, (size_t)d, n_rows, at, d, s + half * TILE, PAGE_TOKENS, ahead(prefetch, page, at),
                               b->value);
    }
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < PAGE_TOKENS; t++)
            s[r * PAGE_TOKENS + t] *= gain[t];
}

static void mix_block(const cpu_kernels *kernels, const book *b, int d, const uint8_t *page, const float *gain,
                      const float *p, int n_rows, float *o, const void *prefetch) {
    float a[BLOCK_ROWS * PAGE_TOKENS];
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < PAGE_TOKENS; t++)
            a[r * PAGE_TOKENS + t] = p[r * PAGE_TOKENS + t] * gain[t];
    for (int tile = 0; tile < d / TILE; tile++) {
        const uint8_t *at = row_at(b->type, KV_V, d, page, tile, 0);
        kernels->book[b->type](a, PAGE_TOKENS, n_rows, at, PAGE_TOKENS, o + tile * TILE, (size_t)d,
                               ahead(prefetch, page, at), b->value);
    }
}

void book_mix(const cpu_kernels *kernels, const book *b, int d, const uint8_t *page, const float *p, int n_rows,
              float *o, const void *prefetch) {
    float gain[PAGE_TOKENS];
    fetch_gains(b, d, prefetch);
    kernels->f16_to_f32(gains_of(b->type, d, page), PAGE_TOKENS, gain);
    for (int r = 0; r < n_rows; r += BLOCK_ROWS) {
        int n = n_rows - r < BLOCK_ROWS ? n_rows - r : BLOCK_ROWS;
        mix_block(kernels, b, d, page, gain, p + r * PAGE_TOKENS, n, o + r * d, r ? NULL : prefetch);
    }
}
