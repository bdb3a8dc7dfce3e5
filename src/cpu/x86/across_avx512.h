/* across_avx512.h - what four vectors come to over their lanes, by one transposition: lane r of a result belongs to
 * v[r], and is made in the same order for every r. */
#ifndef CPU_X86_ACROSS_AVX512_H
#define CPU_X86_ACROSS_AVX512_H
#include "cpu/inline.h"
#include <immintrin.h>

#define ACROSS_ADD_WHOLE(a, b) _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
#define ACROSS_FUNCTION(name, op)                                                                                      \
    INLINE __m128 name(const __m512 v[4]) {                                                                            \
        __m512d a = _mm512_castps_pd(op(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1])));              \
        __m512d b = _mm512_castps_pd(op(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3])));              \
        __m512 all = op(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));       \
        all = op(all, _mm512_shuffle_f32x4(all, all, 0x4e));                                                           \
        all = op(all, _mm512_shuffle_f32x4(all, all, 0xb1));                                                           \
        return _mm512_castps512_ps128(all);                                                                            \
    }

ACROSS_FUNCTION(across_max, _mm512_max_ps)
ACROSS_FUNCTION(across_sum, _mm512_add_ps)
ACROSS_FUNCTION(across_whole_sum, ACROSS_ADD_WHOLE) /* of 32-bit integers, seen as floats */
#endif
