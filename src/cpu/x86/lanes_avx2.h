/* lanes_avx2.h - loads and stores of the first 1 to 8 lanes of a vector, nothing beyond them touched; the same bytes in
 * all lanes; sums over lanes. */
#ifndef CPU_X86_LANES_AVX2_H
#define CPU_X86_LANES_AVX2_H
#include "cpu/inline.h"
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* The first `left` lanes (all when left >= 8, none when left <= 0). */
INLINE __m256i lanes8(int left) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE __m256 load8(const float *x, int left) {
    return left >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lanes8(left));
}

INLINE void store8(float *x, int left, __m256 v) {
    if (left >= 8)
        _mm256_storeu_ps(x, v);
    else
        _mm256_maskstore_ps(x, lanes8(left), v);
}

/* Four bytes in each lane. */
INLINE __m256i four_bytes(const int8_t *a) {
    int32_t bytes;
    memcpy(&bytes, a, sizeof(bytes));
    return _mm256_set1_epi32(bytes);
}

INLINE float max8(__m256 v) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

INLINE int32_t max8_epi32(__m256i v) {
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}

INLINE float sum8(__m256 v) {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

INLINE int32_t sum8_epi32(__m256i v) {
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
#endif
