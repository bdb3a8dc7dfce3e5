/* panels_avx512.h - what the 512-bit products share: which rows of a panel are there, the same bytes in all lanes, and
 * sums of activations as floats. */
#ifndef CPU_X86_PANELS_AVX512_H
#define CPU_X86_PANELS_AVX512_H
#include "cpu/inline.h"
#include "cpu/pack.h"
#include <immintrin.h>
#include <string.h>

INLINE __mmask16 live_rows(const pack_matrix *w, int panel) {
    int left = w->n_rows - panel * PACK_ROWS;
    return left >= PACK_ROWS ? 0xffff : (__mmask16)((1u << left) - 1);
}

/* Four bytes in each lane. */
INLINE __m512i four_bytes(const int8_t *a) {
    int32_t bytes;
    memcpy(&bytes, a, sizeof(bytes));
    return _mm512_set1_epi32(bytes);
}

/* The sums of activations of n <= 16 blocks as floats: 16 of them, or 32 for groups of 16 columns. */
INLINE void open_sums(const int16_t *sum16, int n, bool halves, float *sums) {
    __m512i s = _mm512_maskz_loadu_epi16(n == 16 ? ~0u : (1u << (2 * n)) - 1, sum16);
    if (halves) {
        _mm512_store_ps(sums, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(s))));
        _mm512_store_ps(sums + 16, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(s, 1))));
    } else {
        _mm512_store_ps(sums, _mm512_cvtepi32_ps(_mm512_madd_epi16(s, _mm512_set1_epi16(1))));
    }
}
#endif
