/* matmul_avx2.c - integer products without VNNI, 256 bits wide.
 *
 * 8-bit codes: vpmaddubsw would saturate for codes above 127, so codes are split into even and odd columns of 16 bits,
 * the activations of a tile once likewise, and multiplied by vpmaddwd. 4-bit codes: vpmaddubsw is exact (two products
 * are at most 2 x 15 x 127), and the 8 vectors of a block still fit in 16 bits (30,480). */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/expand_avx2.h"
#include "cpu/x86/lanes_avx2.h"
#include "cpu/sweep_blocks.h"

enum { TOKENS = 4, CHUNK = SWEEP_BLOCKS_MOST, ROWS = 8 };

/* One token's activations of a chunk as a tile wants them. Column group g holds 4 columns in 4 bytes. */
typedef struct token_rows {
    _Alignas(32) int32_t even[CHUNK * 8]; /* columns 4g, 4g + 2 as 16-bit numbers */
    _Alignas(32) int32_t odd[CHUNK * 8];  /* columns 4g + 1, 4g + 3 */
    float sums[CHUNK * 2];                /* of each block or group of 16 */
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

/* sum[t] += 8 rows x 4 n_groups columns from column group `first` of block b; code: the rows' part of the block. */
INLINE void dot_8bit(int n_tokens, const uint8_t *code, const token_rows *rows, int b, int first, int n_groups,
                     __m256i sum[TOKENS]) {
    const __m256i low_byte = _mm256_set1_epi16(255);
#pragma GCC unroll 8
    for (int g = first; g < first + n_groups; g++) {
        __m256i w = _mm256_load_si256((const __m256i *)(code + g * 64));
        __m256i even = _mm256_and_si256(w, low_byte), odd = _mm256_srli_epi16(w, 8);
        for (int t = 0; t < n_tokens; t++) {
            __m256i pairs = _mm256_madd_epi16(even, _mm256_set1_epi32(rows[t].even[b * 8 + g]));
            sum[t] = _mm256_add_epi32(sum[t], pairs);
            pairs = _mm256_madd_epi16(odd, _mm256_set1_epi32(rows[t].odd[b * 8 + g]));
            sum[t] = _mm256_add_epi32(sum[t], pairs);
        }
    }
}

INLINE void dot_4bit(int n_tokens, const uint8_t *code, const int8_t *a, size_t lda, __m256i sum[TOKENS]) {
    const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        __m256i both = _mm256_load_si256((const __m256i *)(code + g * 64));
        __m256i low = _mm256_and_si256(both, nibble), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        for (int t = 0; t < n_tokens; t++) {
            const int8_t *from = a + (size_t)t * lda + g * 4;
            sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(low, four_bytes(from)));
            sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(high, four_bytes(from + 16)));
        }
    }
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm256_madd_epi16(sum[t], _mm256_set1_epi16(1));
}

INLINE void dot_group(pack_form form, int n_tokens, const uint8_t *code, const token_rows *rows, const int8_t *a,
                      size_t lda, int b, int g, __m256i sum[TOKENS]) {
    if (form == FORM_4)
        dot_4bit(n_tokens, code, a, lda, sum);
    else if (form == FORM_8H)
        dot_8bit(n_tokens, code, rows, b, g * 4, 4, sum);
    else
        dot_8bit(n_tokens, code, rows, b, 0, 8, sum);
}

#include "cpu/x86/matmul_256.h"

SWEEP_BLOCKS(tile, 4)

void matmul_avx2_fill(cpu_kernels *k) {
    sweep_blocks_fill(k);
}
#endif
