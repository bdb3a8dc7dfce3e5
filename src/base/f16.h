/* f16.h - IEEE half, bfloat16 and 8-bit floats to float and back, portable, nearest even; subnormals, infinities and
 * NaN included. */
#ifndef BASE_F16_H
#define BASE_F16_H
#include <stdint.h>
#include <string.h>
typedef uint16_t f16;
#define F16_MOST 65504.0f /* the largest finite half */
/* Without a branch, so that loops over it become vectors: a subnormal is its mantissa, an exact float, times 2^-24. */
static inline float f16_to_f32(f16 h) {
    uint32_t exponent = h & 0x7C00u, mantissa = h & 0x3FFu, bits = (h & 0x7FFFu) << 13, tiny;
    float subnormal = (float)(int32_t)mantissa * 0x1p-24f, x;
    memcpy(&tiny, &subnormal, sizeof tiny);
    uint32_t special = exponent == 0x7C00u ? 0x38000000u : 0, quiet = special && mantissa ? 0x00400000u : 0;
    bits = (bits + 0x38000000u + special) | quiet;
    bits = (exponent ? bits : tiny) | (uint32_t)(h & 0x8000u) << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}
/* seeeemmm, bias 7, finite ones only: the bits of a half, bias 15. */
static inline float e4m3_to_f32(uint8_t x) {
    return f16_to_f32((f16)((x & 128) << 8 | (x & 127) << 7)) * 256;
}
f16 f16_from_f32(float x);
float bf16_to_f32(uint16_t h);
#endif
