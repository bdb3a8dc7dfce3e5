/* matmul_512.h - the 512-bit integer products but for the dot product itself: 2 panels x TOKENS tokens in registers.
 *
 * The including file defines before it what it keeps of a token, how it multiplies, and
 *   TOKENS, FETCHES  the most tokens of a tile; 1: the first tokens of a sweep ask for the codes to come
 *   GROUPS_PRAGMA    what stands before the loop over a block's groups, or nothing
 *   token_rows       with float sums[32], aligned to 64 bytes, of each block or group of 16
 *   open_columns     fills the rest of it from a chunk of n blocks
 *   dot_group        sum[p][t] = whole numbers of group g of block b; code: the panels' codes of the block, a: its
 *                    activations, lda from token to token */
#ifndef CPU_X86_MATMUL_512_H
#define CPU_X86_MATMUL_512_H
#include "cpu/sweep_blocks.h"
#include "cpu/x86/panels_avx512.h"

/* Group g of block b of a chunk, for all rows and tokens of the tile: integer sums, then acc by pack.h's formula. */
INLINE void tile_group(pack_form form, int n_panels, int n_tokens, const uint8_t *const code[2],
                       const float *const maps[2], const token_rows *rows, const int8_t *a, size_t lda,
                       const float *a_scale, size_t lds, int b, int g, __m512 acc[2][TOKENS]) {
    const int n_groups = form_groups(form);
    __m512i sum[2][TOKENS];
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            sum[p][t] = _mm512_setzero_si512();
    dot_group(form, n_panels, n_tokens, code, rows, a, lda, b, g, sum);
    for (int p = 0; p < n_panels; p++) {
        __m512 scale = _mm512_load_ps(maps[p] + g * 16);
        __m512 minimum = _mm512_load_ps(maps[p] + (n_groups + g) * 16);
        for (int t = 0; t < n_tokens; t++) {
            __m512 part = _mm512_mul_ps(minimum, _mm512_set1_ps(rows[t].sums[b * n_groups + g]));
            part = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum[p][t]), part);
            acc[p][t] = _mm512_fmadd_ps(_mm512_set1_ps(a_scale[(size_t)t * lds]), part, acc[p][t]);
        }
    }
}

INLINE void tile(pack_form form, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    const int n_groups = form_groups(form);
    const size_t code_bytes = form_code_bytes(form), packed_bytes = form_packed_bytes(form);
    size_t n_cols = (size_t)s->w->n_cols, n_blocks = n_cols / PACK_BLOCK, row = (size_t)token;
    const int8_t *a = s->x->code + row * n_cols + (size_t)first * PACK_BLOCK;
    const float *a_scale = s->x->scale + row * n_blocks + (size_t)first;
    const int16_t *sum16 = s->x->sum16 + (row * n_blocks + (size_t)first) * 2;
    float *out = s->out + row * s->ldo + (size_t)panel * PACK_ROWS;
    const uint8_t *code[2] = {s->code[0], s->code[1]};
    const float *maps[2] = {s->maps[0], s->maps[1]};
    token_rows rows[TOKENS];
    __m512 acc[2][TOKENS];
    for (int t = 0; t < n_tokens; t++) {
        open_sums(sum16 + (size_t)t * n_blocks * 2, n, n_groups == 2, rows[t].sums);
        open_columns(form, a + (size_t)t * n_cols, n, &rows[t]);
    }
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            acc[p][t] = first == 0
                            ? _mm512_setzero_ps()
                            : _mm512_maskz_loadu_ps(live_rows(s->w, panel + p), out + (size_t)t * s->ldo + p * 16);
    for (int b = 0; b < n; b++, a += PACK_BLOCK, a_scale++) {
        for (int p = 0; FETCHES && p < n_panels && token == 0; p++)
            sweep_fetch(s->ahead[p] + (size_t)b * packed_bytes, packed_bytes);
        GROUPS_PRAGMA
        for (int g = 0; g < n_groups; g++)
            tile_group(form, n_panels, n_tokens, code, maps, rows, a, n_cols, a_scale, n_blocks, b, g, acc);
        for (int p = 0; p < n_panels; p++) {
            code[p] += code_bytes;
            maps[p] += n_groups * SWEEP_MAP_FLOATS;
        }
    }
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            _mm512_mask_storeu_ps(out + (size_t)t * s->ldo + p * 16, live_rows(s->w, panel + p), acc[p][t]);
}
#endif
