/* exp_avx2.h - e^x for 8 floats.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, so that r is exact), e^r = 1 + r + r^2 p(r) with p of degree
 * 4 fitted for the least largest relative error (3.1e-9 before rounding; 7.6e-8 measured with it), times 2^k made from
 * its bits. */
#ifndef CPU_X86_EXP_AVX2_H
#define CPU_X86_EXP_AVX2_H
#include "cpu/inline.h"
#include <immintrin.h>

/* Any x but NaN; 0 below -87.33 (where floats lose digits), 2.2e38 above 88.3. */
INLINE __m256 exp8(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(-87.33f);
    __m256 normal = _mm256_cmp_ps(x, lowest, _CMP_GE_OQ);
    x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(88.3f)), lowest);
    __m256 k = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(k, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(0x1.6a244cp-10f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.1239d4p-7f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.5558f2p-5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.555492p-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.fffffcp-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), normal);
}
#endif
