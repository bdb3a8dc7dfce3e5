/* matmul_256.h - the 256-bit integer products but for the dot product itself: 8 rows (half a panel) x 4 tokens in
 * registers.
 *
 * The including file defines before it what it keeps of a token, and how it multiplies:
 *   token_rows    with float sums[CHUNK * 2], of each block or group of 16
 *   open_columns  fills the rest of it from a chunk of n blocks
 *   dot_group     sum[t] = whole numbers of group g of block b for 8 rows; code: the rows' part of the block's, a: its
 *                 activations, lda from token to token */
#ifndef CPU_X86_MATMUL_256_H
#define CPU_X86_MATMUL_256_H
#include "cpu/x86/lanes_avx2.h"

INLINE void open_sums(const int16_t *sum16, int n, bool halves, float *sums) {
    if (halves)
        for (int i = 0; i < 2 * n; i++)
            sums[i] = sum16[i];
    else
        for (int b = 0; b < n; b++)
            sums[b] = (float)(sum16[2 * b] + sum16[2 * b + 1]);
}

/* Group g of block b of a chunk for 8 rows: integer sums, then acc by pack.h's formula. */
INLINE void tile_group(pack_form form, int n_tokens, const uint8_t *code, const float *maps, const token_rows *rows,
                       const int8_t *a, size_t lda, const float *a_scale, size_t lds, int b, int g,
                       __m256 acc[TOKENS]) {
    const int n_groups = form_groups(form);
    __m256i sum[TOKENS];
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm256_setzero_si256();
    dot_group(form, n_tokens, code, rows, a, lda, b, g, sum);
    __m256 scale = _mm256_load_ps(maps + g * PACK_ROWS);
    __m256 minimum = _mm256_load_ps(maps + (n_groups + g) * PACK_ROWS);
    for (int t = 0; t < n_tokens; t++) {
        __m256 part = _mm256_mul_ps(minimum, _mm256_set1_ps(rows[t].sums[b * n_groups + g]));
        part = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum[t]), part);
        acc[t] = _mm256_fmadd_ps(_mm256_set1_ps(a_scale[(size_t)t * lds]), part, acc[t]);
    }
}

typedef struct place { /* of a tile in the operands; constant over its rows */
    const int8_t *a;   /* [tokens][n_cols] */
    const float *a_scale;
    size_t n_cols, n_blocks;
} place;

/* A chunk of n blocks for 8 rows of a panel; code, maps: the rows' parts; left: how many of these rows there are. */
INLINE void half_panel(pack_form form, int n_tokens, const uint8_t *code, const float *maps, int left, int first, int n,
                       const place *at, const token_rows *rows, float *out, size_t ldo) {
    const int n_groups = form_groups(form);
    const int8_t *a = at->a;
    const float *a_scale = at->a_scale;
    __m256 acc[TOKENS];
    for (int t = 0; t < n_tokens; t++)
        acc[t] = first == 0 ? _mm256_setzero_ps() : load8(out + (size_t)t * ldo, left);
    for (int b = 0; b < n; b++, a += PACK_BLOCK, a_scale++, code += form_code_bytes(form))
        for (int g = 0; g < n_groups; g++)
            tile_group(form, n_tokens, code, maps + b * n_groups * SWEEP_MAP_FLOATS, rows, a, at->n_cols, a_scale,
                       at->n_blocks, b, g, acc);
    for (int t = 0; t < n_tokens; t++)
        store8(out + (size_t)t * ldo, left, acc[t]);
}

INLINE void tile(pack_form form, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    size_t n_cols = (size_t)s->w->n_cols, n_blocks = n_cols / PACK_BLOCK, at_token = (size_t)token;
    place at = {s->x->code + at_token * n_cols + (size_t)first * PACK_BLOCK,
                s->x->scale + at_token * n_blocks + (size_t)first, n_cols, n_blocks};
    const int16_t *sum16 = s->x->sum16 + (at_token * n_blocks + (size_t)first) * 2;
    token_rows rows[TOKENS];
    for (int t = 0; t < n_tokens; t++) {
        open_sums(sum16 + (size_t)t * n_blocks * 2, n, form == FORM_8H, rows[t].sums);
        open_columns(form, at.a + (size_t)t * n_cols, n, &rows[t]);
    }
    for (int p = panel; p < panel + n_panels; p++) {
        const uint8_t *code = s->code[p - panel];
        const float *maps = s->maps[p - panel];
        float *out = s->out + at_token * s->ldo + (size_t)p * PACK_ROWS;
        for (int row = 0; row < PACK_ROWS && p * PACK_ROWS + row < s->w->n_rows; row += ROWS)
            half_panel(form, n_tokens, code + row * 4, maps + row, s->w->n_rows - p * PACK_ROWS - row, first, n, &at,
                       rows, out + row, s->ldo);
    }
}

#endif
