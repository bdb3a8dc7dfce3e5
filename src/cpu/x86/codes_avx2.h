/* codes_avx2.h - what both 256-bit products with integer codes share: unpacking, and from whole numbers to floats. */
#ifndef CPU_X86_CODES_AVX2_H
#define CPU_X86_CODES_AVX2_H
#include "cpu/kernels.h"
#include "cpu/x86/lanes_avx2.h"

/* Part `part` of a vector of codes, 4 elements of 8 columns: all of a byte, a nibble, or a pair of bits. */
INLINE __m256i codes_unpack(code_type type, __m256i codes, int part) {
    if (type == CODE_U8)
        return codes;
    if (type == CODE_U4)
        return _mm256_and_si256(part ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
    return _mm256_and_si256(part ? _mm256_srli_epi16(codes, 2 * part) : codes, _mm256_set1_epi8(3));
}

/* out[0..7] += unit * (whole - middle code * sum) * scale + offset * middle */
INLINE void codes_finish(code_type type, bool mapped, const dot_row *row, __m256i whole, const float *scale,
                         const float *middle, float *out) {
    const int bits = type == CODE_U8 ? 8 : type == CODE_U4 ? 4 : 2;
    whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(row->sum * (1 << (bits - 1))));
    __m256 t = _mm256_cvtepi32_ps(whole), unit = _mm256_set1_ps(row->unit), offset = _mm256_set1_ps(row->offset);
    if (mapped && scale)
        unit = _mm256_mul_ps(unit, _mm256_loadu_ps(scale));
    t = _mm256_fmadd_ps(t, unit, _mm256_loadu_ps(out));
    t = mapped && middle ? _mm256_fmadd_ps(offset, _mm256_loadu_ps(middle), t) : _mm256_add_ps(t, offset);
    _mm256_storeu_ps(out, t);
}
#endif
