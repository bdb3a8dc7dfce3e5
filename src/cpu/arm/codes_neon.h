/* codes_neon.h - half a tile row of packed codes, 16 of them, as bytes; bytes as floats. */
#ifndef CPU_ARM_CODES_NEON_H
#define CPU_ARM_CODES_NEON_H
#include "cpu/arm/lanes_neon.h"

/* Byte k of 16 holds element k (low nibble) and k + 16 (high). */
INLINE uint8x16_t codes_nibbles(const uint8_t *x, int half) {
    uint8x16_t both = vld1q_u8(x);
    return half ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
}

/* Byte k of 8 holds elements k, k + 8, k + 16, k + 24 from the low bits up. */
INLINE uint8x16_t codes_pairs(const uint8_t *x, int half) {
    uint8x8_t four = vld1_u8(x);
    if (half)
        four = vshr_n_u8(four, 4);
    return vandq_u8(vcombine_u8(four, vshr_n_u8(four, 2)), vdupq_n_u8(3));
}

INLINE void codes_to_floats(uint8x16_t code, float32x4_t v[4]) {
    uint16x8_t low = vmovl_u8(vget_low_u8(code)), high = vmovl_high_u8(code);
    v[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    v[1] = vcvtq_f32_u32(vmovl_high_u16(low));
    v[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    v[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}
#endif
