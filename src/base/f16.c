/* f16.c - IEEE 754 binary16 and bfloat16 by integer arithmetic, so that no rounding mode, flush-to-zero bit or compiler
 * flag changes a result. NaN comes out quiet with its payload's upper bits kept, as the F16C instructions do it. (Halves
 * to floats: f16.h.)
 *
 *   binary16   s eeeee mmmmmmmmmm                       bias 15
 *   bfloat16   s eeeeeeee mmmmmmm                       bias 127, the upper half of a float
 *   float      s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm       bias 127 */
#include "base/f16.h"

#include <string.h>

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

f16 f16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u)
        return (f16)(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    if (magnitude >= 0x477FF000u)
        return (f16)(sign | 0x7C00u); /* 65520, half way to the first number above the range */
    if (magnitude >= 0x38800000u) {   /* 2^-14: normal; a carry may run into the exponent */
        uint32_t odd = magnitude >> 13 & 1u;
        return (f16)(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
    }
    if (magnitude < 0x33000000u)
        return (f16)sign; /* below 2^-25, half of the smallest subnormal */
    uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    int shift = 126 - (int)(magnitude >> 23); /* 14..24: so many bits fall off */
    uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1u));
    return (f16)(sign | kept);
}

float bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    if ((bits & 0x7F800000u) == 0x7F800000u && (bits & 0x7FFFFFu))
        bits |= 0x00400000u;
    return from_bits(bits);
}
