/* expand_avx2.h - one packed block opened for the products (sweep_blocks.h): 8 rows in a vector. */
#ifndef CPU_X86_EXPAND_AVX2_H
#define CPU_X86_EXPAND_AVX2_H
#include "cpu/pack.h"
#include <immintrin.h>

static inline __m256 expand_halves(const uint8_t *at) {
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)at));
}

static inline __m256 expand_unsigned(const uint8_t *at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at)));
}

static inline __m256 expand_signed(const uint8_t *at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
}

/* Rows r..r+7; step: from scales to minima. */
static inline void expand_eight(pack_type type, const uint8_t *map, const uint8_t *super, int r, int step, float *to) {
    const pack_parts parts = pack_parts_of(type);
    __m256 scale = expand_halves((parts.super ? super : map) + r * 2), minimum;
    if (type == PACK_K6)
        scale = _mm256_mul_ps(scale, expand_signed(map + r));
    else if (parts.super)
        scale = _mm256_mul_ps(scale, expand_unsigned(map + r));
    if (parts.centre) {
        minimum = _mm256_mul_ps(scale, _mm256_set1_ps((float)-parts.centre));
    } else if (parts.super) {
        __m256 minus = _mm256_xor_ps(expand_halves(super + 32 + r * 2), _mm256_set1_ps(-0.0f));
        minimum = _mm256_mul_ps(minus, expand_unsigned(map + PACK_ROWS + r));
    } else {
        minimum = expand_halves(map + 32 + r * 2);
    }
    _mm256_store_ps(to + r, scale);
    _mm256_store_ps(to + step + r, minimum);
}

static inline void expand_maps(pack_type type, const uint8_t *map, const uint8_t *super, float *to) {
    const int n_groups = type == PACK_K6 ? 2 : 1;
    for (int g = 0; g < n_groups; g++)
        for (int r = 0; r < PACK_ROWS; r += 8)
            expand_eight(type, map + g * PACK_ROWS, super, r, n_groups * PACK_ROWS, to + g * PACK_ROWS);
}

static inline void expand_codes(const uint8_t *from, uint8_t *to) {
    const __m256i nibble = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(48);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* half of the rows of column groups i / 2 and 4 + i / 2 */
        __m256i code = _mm256_load_si256((const __m256i *)(from + i * 32));
        __m256i upper = _mm256_load_si256((const __m256i *)(from + 256 + i % 4 * 32));
        __m256i low = _mm256_and_si256(code, nibble), high = _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble);
        __m256i low_pair = i < 4 ? _mm256_slli_epi16(upper, 4) : _mm256_slli_epi16(upper, 2);
        __m256i high_pair = i < 4 ? upper : _mm256_srli_epi16(upper, 2);
        low = _mm256_or_si256(low, _mm256_and_si256(low_pair, pair));
        high = _mm256_or_si256(high, _mm256_and_si256(high_pair, pair));
        _mm256_store_si256((__m256i *)(to + i * 32), low);
        _mm256_store_si256((__m256i *)(to + 256 + i * 32), high);
    }
}
#endif
