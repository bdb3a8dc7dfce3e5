/* page_codes.c - pages of integer codes, laid out like fp16 pages: what stands side by side is what one vector works
 * on.
 *
 *   K   [2 halves][d channels][32 tokens]    V   [d/32 groups][64 tokens][32 channels]
 *   32 codes: 8 bits 32 bytes; 4 bits 16 bytes (byte k: code k low, k + 16 high); 2 bits 8 bytes (byte k: codes k, k +
 * 8, k + 16, k + 24)
 *
 * Fused products never make a float page. K by channel: q . (s * c + m) = sum of (q s) c + sum of q m, so the scales go
 * into the query once per group ("fold") and the codes run through the tile kernel as they are. V: the token's scale
 * goes into p likewise. K by token: the tile kernel runs over each group of channels, then the token's scale multiplies
 * the sum.
 *
 * Rows are worked on in blocks of FOLD_ROWS, each row's chain of additions is its own, so its bits do not depend on the
 * others. */
#include "kv/page_codes.h"
#include <assert.h>
#include <string.h>

enum { FOLD_ROWS = 32, HALVES = PAGE_TOKENS / TILE };

tile_type page_codes_tile(int bits) {
    return bits == 8 ? TILE_U8 : bits == 4 ? TILE_U4 : TILE_U2;
}

size_t page_codes_bytes(int bits, int d) {
    return (size_t)PAGE_TOKENS * (size_t)d * (size_t)bits / 8;
}

static size_t place(int bits, int d, kv_side side, int tile, int i) {
    int per_tile = side == KV_K ? d : PAGE_TOKENS;
    return ((size_t)tile * (size_t)per_tile + (size_t)i) * (size_t)(TILE * bits / 8);
}

void page_codes_put(int bits, int d, kv_side side, uint8_t *codes, int tile, int i, const uint8_t code[TILE]) {
    uint8_t *to = codes + place(bits, d, side, tile, i);
    if (bits == 8)
        memcpy(to, code, TILE);
    for (int k = 0; bits == 4 && k < 16; k++)
        to[k] = (uint8_t)(code[k] | code[k + 16] << 4);
    for (int k = 0; bits == 2 && k < 8; k++)
        to[k] = (uint8_t)(code[k] | code[k + 8] << 2 | code[k + 16] << 4 | code[k + 24] << 6);
}

void page_codes_get(int bits, int d, kv_side side, const uint8_t *codes, int tile, int i, uint8_t code[TILE]) {
    const uint8_t *from = codes + place(bits, d, side, tile, i);
    if (bits == 8)
        memcpy(code, from, TILE);
    for (int k = 0; bits == 4 && k < 16; k++) {
        code[k] = from[k] & 15;
        code[k + 16] = from[k] >> 4;
    }
    for (int k = 0; bits == 2 && k < 8; k++)
        for (int part = 0; part < 4; part++)
            code[k + 8 * part] = from[k] >> (2 * part) & 3;
}

void page_codes_open(int bits, int d, kv_side side, const uint8_t *codes, const page_maps *maps, float *x) {
    uint8_t code[TILE];
    int n_tiles = side == KV_K ? HALVES : d / TILE, per_tile = side == KV_K ? d : PAGE_TOKENS;
    bool by_token = side == KV_V || maps->by_token;
    for (int tile = 0; tile < n_tiles; tile++)
        for (int i = 0; i < per_tile; i++) {
            page_codes_get(bits, d, side, codes, tile, i, code);
            for (int k = 0; k < TILE; k++) {
                int t = side == KV_K ? tile * TILE + k : i, j = side == KV_K ? i : tile * TILE + k;
                int map =
                    by_token ? j * maps->n_groups / d * PAGE_TOKENS + t : t * maps->n_groups / PAGE_TOKENS * d + j;
                x[t * d + j] = maps->scale[map] * (float)code[k] + maps->minimum[map];
            }
        }
}

/* a[r][i] = x[r][i] * scale[i], c[r] = sum of x[r][i] * minimum[i] in 16 lanes, added up in order. n is a multiple
 * of 32. */
static void fold(const float *x, size_t ldx, int n_rows, const float *scale, const float *minimum, int n, float *a,
                 float *c) {
    for (int r = 0; r < n_rows; r++) {
        const float *row = x + (size_t)r * ldx;
        float lane[16] = {0}, sum = 0;
        for (int i = 0; i < n; i += 16)
            for (int k = 0; k < 16; k++) {
                a[r * n + i + k] = row[i + k] * scale[i + k];
                lane[k] += row[i + k] * minimum[i + k];
            }
        for (int k = 0; k < 16; k++)
            sum += lane[k];
        c[r] = sum;
    }
}

static const uint8_t *ahead(const uint8_t *prefetch, size_t offset) {
    return prefetch ? prefetch + offset : NULL;
}

static void score_by_channel(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                             const float *q, int n_rows, float *s, const uint8_t *prefetch) {
    float a[FOLD_ROWS * KV_MAX_HEAD_DIM], c[FOLD_ROWS];
    for (int half = 0; half < HALVES; half++) {
        int g = half * maps->n_groups / HALVES;
        if (half == 0 || maps->n_groups == HALVES)
            fold(q, (size_t)d, n_rows, maps->scale + g * d, maps->minimum + g * d, d, a, c);
        for (int r = 0; r < n_rows; r++)
            for (int t = 0; t < TILE; t++)
                s[r * PAGE_TOKENS + half * TILE + t] = c[r];
        size_t at = place(bits, d, KV_K, half, 0);
        kernels->tile[page_codes_tile(bits)](a, (size_t)d, n_rows, codes + at, d, s + half * TILE, PAGE_TOKENS,
                                             ahead(prefetch, at));
    }
}

static void score_by_token(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                           const float *q, int n_rows, float *s, const uint8_t *prefetch) {
    float part[FOLD_ROWS * TILE];
    int wide = d / maps->n_groups;
    memset(s, 0, (size_t)n_rows * PAGE_TOKENS * sizeof(*s));
    for (int half = 0; half < HALVES; half++)
        for (int g = 0; g < maps->n_groups; g++) {
            size_t at = place(bits, d, KV_K, half, g * wide);
            const float *scale = maps->scale + g * PAGE_TOKENS + half * TILE;
            const float *minimum = maps->minimum + g * PAGE_TOKENS + half * TILE;
            memset(part, 0, (size_t)n_rows * TILE * sizeof(*part));
            kernels->tile[page_codes_tile(bits)](q + g * wide, (size_t)d, n_rows, codes + at, wide, part, TILE,
                                                 ahead(prefetch, at));
            for (int r = 0; r < n_rows; r++) {
                float sum = 0, *to = s + r * PAGE_TOKENS + half * TILE;
                for (int j = 0; j < wide; j++)
                    sum += q[r * d + g * wide + j];
                for (int t = 0; t < TILE; t++)
                    to[t] += part[r * TILE + t] * scale[t] + sum * minimum[t];
            }
        }
}

void page_codes_score(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                      const float *q, int n_rows, float *s, const uint8_t *prefetch) {
    for (int r = 0; r < n_rows; r += FOLD_ROWS) {
        int n = n_rows - r < FOLD_ROWS ? n_rows - r : FOLD_ROWS;
        (maps->by_token ? score_by_token : score_by_channel)(kernels, bits, d, codes, maps, q + r * d, n,
                                                             s + r * PAGE_TOKENS, r ? NULL : prefetch);
    }
}

static void mix_block(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                      const float *p, int n_rows, float *o, const uint8_t *prefetch) {
    float a[FOLD_ROWS * PAGE_TOKENS], c[FOLD_ROWS];
    for (int tile = 0; tile < d / TILE; tile++) {
        int g = tile * TILE * maps->n_groups / d;
        if (tile == 0 || g != (tile - 1) * TILE * maps->n_groups / d)
            fold(p, PAGE_TOKENS, n_rows, maps->scale + g * PAGE_TOKENS, maps->minimum + g * PAGE_TOKENS, PAGE_TOKENS, a,
                 c);
        for (int r = 0; r < n_rows; r++)
            for (int j = 0; j < TILE; j++)
                o[r * d + tile * TILE + j] += c[r];
        size_t at = place(bits, d, KV_V, tile, 0);
        kernels->tile[page_codes_tile(bits)](a, PAGE_TOKENS, n_rows, codes + at, PAGE_TOKENS, o + tile * TILE,
                                             (size_t)d, ahead(prefetch, at));
    }
}

void page_codes_mix(const cpu_kernels *kernels, int bits, int d, const uint8_t *codes, const page_maps *maps,
                    const float *p, int n_rows, float *o, const uint8_t *prefetch) {
    for (int r = 0; r < n_rows; r += FOLD_ROWS) {
        int n = n_rows - r < FOLD_ROWS ? n_rows - r : FOLD_ROWS;
        mix_block(kernels, bits, d, codes, maps, p + r * PAGE_TOKENS, n, o + r * d, r ? NULL : prefetch);
    }
}
