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

enum { TOKENS = 4, CHUNK = SWEEP_BLOCKS_MOST, FETCHES = 0 };

/* One token's activations of a chunk as a tile wants them. Column group g holds 4 columns in 4 bytes. */
typedef struct token_rows {
    _Alignas(64) int32_t even[CHUNK * 8]; /* columns 4g, 4g + 2 as 16-bit numbers */
    _Alignas(64) int32_t odd[CHUNK * 8];  /* columns 4g + 1, 4g + 3 */
    _Alignas(64) float sums[32];          /* of each block or group of 16 */
} token_rows;

INLINE void open_columns(pack_form form, const int8_t *a, int n, token_rows *rows) {
    if (form == FORM_4)
        return; /* its products take them as they are */
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

INLINE void dot_group(pack_form form, int n_panels, int n_tokens, const uint8_t *const code[2], const token_rows *rows,
                      const int8_t *a, size_t lda, int b, int g, __m512i sum[2][TOKENS]) {
    if (form == FORM_4)
        dot_4bit(n_panels, n_tokens, code, a, lda, sum);
    else
        dot_8bit(n_panels, n_tokens, code, rows, b, g * 4, 8 / form_groups(form), sum);
}

#define GROUPS_PRAGMA
#include "cpu/x86/matmul_512.h"

SWEEP_BLOCKS(tile, 4)

void matmul_avx512_fill(cpu_kernels *k) {
    sweep_blocks_fill(k);
}
#endif
