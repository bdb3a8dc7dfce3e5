/* matmul_avx512.c - integer products without VNNI.
 *
 * 8-bit codes: vpmaddubsw would saturate for codes above 127, so codes are split into even and odd columns of 16 bits,
 * the activations of a tile once likewise, and multiplied by vpmaddwd. 4-bit codes: vpmaddubsw is exact (two products
 * are at most 2 x 15 x 127), and the 8 vectors of a block still fit in 16 bits (30,480). Tile: 2 panels x 4 tokens. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/expand_avx512.h"
#include "cpu/x86/panels_avx512.h"
#include "cpu/sweep_blocks.h"
#include <immintrin.h>
#include <string.h>

enum { TOKENS = 4, CHUNK = SWEEP_BLOCKS_MOST };

/* One token's activations of a chunk as a tile wants them. Column group g holds 4 columns in 4 bytes. */
typedef struct token_rows {
    _Alignas(64) int32_t even[CHUNK * 8]; /* columns 4g, 4g + 2 as 16-bit numbers */
    _Alignas(64) int32_t odd[CHUNK * 8];  /* columns 4g + 1, 4g + 3 */
    _Alignas(64) float sums[32];          /* of each block or group of 16 */
} token_rows;

INLINE void open_columns(const int8_t *a, int n, token_rows *rows) {
    for (int b = 0; b < n; b++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(a + b * PACK_BLOCK));
        _mm256_store_si256((__m256i *)(rows->even + b * 8), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        _mm256_store_si256((__m256i *)(rows->odd + b * 8), _mm256_srai_epi16(v, 8));
    }
}

/* sum[p][t] += 4 x n_groups columns from column group `first` of block b. */
INLINE void dot_8bit(int n_panels, int n_tokens, const uint8_t *const code[2], const token_rows *rows, int b, int first,
                     int n_groups, __m512i sum[2][TOKENS]) {
    const __m512i low_byte = _mm512_set1_epi16(255);
#pragma GCC unroll 8
    for (int g = first; g < first + n_groups; g++) {
        __m512i even[2], odd[2];
        for (int p = 0; p < n_panels; p++) {
            __m512i w = _mm512_load_si512(code[p] + g * 64);
            even[p] = _mm512_and_si512(w, low_byte);
            odd[p] = _mm512_srli_epi16(w, 8);
        }
        for (int t = 0; t < n_tokens; t++) {
            __m512i a_even = _mm512_set1_epi32(rows[t].even[b * 8 + g]),
                    a_odd = _mm512_set1_epi32(rows[t].odd[b * 8 + g]);
            for (int p = 0; p < n_panels; p++) {
                sum[p][t] = _mm512_add_epi32(sum[p][t], _mm512_madd_epi16(even[p], a_even));
                sum[p][t] = _mm512_add_epi32(sum[p][t], _mm512_madd_epi16(odd[p], a_odd));
            }
        }
    }
}

INLINE void dot_4bit(int n_panels, int n_tokens, const uint8_t *const code[2], const int8_t *a, size_t lda,
                     __m512i sum[2][TOKENS]) {
    const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        __m512i low[2], high[2];
        for (int p = 0; p < n_panels; p++) {
            __m512i both = _mm512_load_si512(code[p] + g * 64);
            low[p] = _mm512_and_si512(both, nibble);
            high[p] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        }
        for (int t = 0; t < n_tokens; t++) {
            __m512i four = four_bytes(a + (size_t)t * lda + g * 4), far = four_bytes(a + (size_t)t * lda + g * 4 + 16);
            for (int p = 0; p < n_panels; p++) {
                sum[p][t] = _mm512_add_epi16(sum[p][t], _mm512_maddubs_epi16(low[p], four));
                sum[p][t] = _mm512_add_epi16(sum[p][t], _mm512_maddubs_epi16(high[p], far));
            }
        }
    }
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            sum[p][t] = _mm512_madd_epi16(sum[p][t], _mm512_set1_epi16(1));
}

/* Group g of block b of a chunk, for all rows and tokens of the tile: integer sums, then acc by pack.h's formula. */
INLINE void tile_group(pack_form form, int n_panels, int n_tokens, const uint8_t *const code[2],
                       const float *const maps[2], const token_rows *rows, const int8_t *a, size_t lda,
                       const float *a_scale, size_t lds, int b, int g, __m512 acc[2][TOKENS]) {
    const int n_groups = form_groups(form);
    __m512i sum[2][TOKENS];
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            sum[p][t] = _mm512_setzero_si512();
    if (form == FORM_4)
        dot_4bit(n_panels, n_tokens, code, a, lda, sum);
    else
        dot_8bit(n_panels, n_tokens, code, rows, b, g * 4, 8 / n_groups, sum);
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
    const size_t code_bytes = form_code_bytes(form);
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
        if (form != FORM_4)
            open_columns(a + (size_t)t * n_cols, n, &rows[t]);
    }
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            acc[p][t] = first == 0
                            ? _mm512_setzero_ps()
                            : _mm512_maskz_loadu_ps(live_rows(s->w, panel + p), out + (size_t)t * s->ldo + p * 16);
    for (int b = 0; b < n; b++, a += PACK_BLOCK, a_scale++) {
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

SWEEP_BLOCKS(tile, 4)

void matmul_avx512_fill(cpu_kernels *k) {
    sweep_blocks_fill(k);
}
#endif
