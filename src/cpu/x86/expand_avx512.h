/* expand_avx512.h - one packed block opened for the products (sweep_blocks.h): 16 rows in a vector. */
#ifndef CPU_X86_EXPAND_AVX512_H
#define CPU_X86_EXPAND_AVX512_H
#include "cpu/inline.h"
#include "cpu/pack.h"
#include <immintrin.h>

static inline __m512 expand_halves(const uint8_t *at) {
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)at));
}

static inline __m512 expand_unsigned(const uint8_t *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)at)));
}

static inline __m512 expand_signed(const uint8_t *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)at)));
}

static inline void expand_maps(pack_type type, const uint8_t *map, const uint8_t *super, float *to) {
    const pack_parts parts = pack_parts_of(type);
    const __m512 centre = _mm512_set1_ps((float)-parts.centre);
    if (type == PACK_K6) {
        __m512 d = expand_halves(super);
        for (int g = 0; g < 2; g++) {
            __m512 scale = _mm512_mul_ps(d, expand_signed(map + g * PACK_ROWS));
            _mm512_store_ps(to + g * PACK_ROWS, scale);
            _mm512_store_ps(to + (2 + g) * PACK_ROWS, _mm512_mul_ps(scale, centre));
        }
    } else if (parts.super) {
        __m512 minus = _mm512_xor_ps(expand_halves(super + 32), _mm512_set1_ps(-0.0f));
        _mm512_store_ps(to, _mm512_mul_ps(expand_halves(super), expand_unsigned(map)));
        _mm512_store_ps(to + PACK_ROWS, _mm512_mul_ps(minus, expand_unsigned(map + PACK_ROWS)));
    } else {
        __m512 scale = expand_halves(map);
        _mm512_store_ps(to, scale);
        _mm512_store_ps(to + PACK_ROWS, parts.centre ? _mm512_mul_ps(scale, centre) : expand_halves(map + 32));
    }
}

/* Codes of column group g of a block of 6 bits, as bytes. */
INLINE __m512i expand_group(const uint8_t *from, int g) {
    enum { OR_OF_AND = 0xf8 }; /* a | (b & c) */
    const __m512i nibble = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(48);
    __m512i lower = _mm512_load_si512(from + g % 4 * 64), upper = _mm512_load_si512(from + 256 + g % 2 * 64);
    lower = _mm512_and_si512(g < 4 ? lower : _mm512_srli_epi16(lower, 4), nibble);
    if (g < 4)
        upper = g < 2 ? _mm512_slli_epi16(upper, 4) : _mm512_slli_epi16(upper, 2);
    else if (g >= 6)
        upper = _mm512_srli_epi16(upper, 2);
    return _mm512_ternarylogic_epi32(lower, upper, pair, OR_OF_AND);
}

static inline void expand_codes(const uint8_t *from, uint8_t *to) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++)
        _mm512_store_si512(to + g * 64, expand_group(from, g));
}
#endif
