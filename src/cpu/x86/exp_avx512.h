/* exp_avx512.h - e^x for 16 floats.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, so that r is exact), e^r = 1 + r + r^2 p(r) with p of degree
 * 4 fitted for the least largest relative error (3.1e-9 before rounding; 7.6e-8 measured with it), scaled by 2^k. */
#ifndef CPU_X86_EXP_AVX512_H
#define CPU_X86_EXP_AVX512_H
#include "cpu/inline.h"
#include <immintrin.h>

/* Any x but NaN; 0 below -87.33 (where floats lose digits, and instructions their speed), infinite above 88.72. */
INLINE __m512 exp16(__m512 x) {
    __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.33f), _CMP_GE_OQ);
    x = _mm512_min_ps(x, _mm512_set1_ps(128));
    __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(k, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(0x1.6a244cp-10f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.1239d4p-7f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.5558f2p-5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555492p-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fffffcp-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_maskz_scalef_ps(normal, p, k);
}
#endif
