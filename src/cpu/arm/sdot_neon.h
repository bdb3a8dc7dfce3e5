/* sdot_neon.h - 4 x 4 bytes of one vector times 4 bytes of another, broadcast. */
#ifndef CPU_ARM_SDOT_NEON_H
#define CPU_ARM_SDOT_NEON_H
#include "cpu/arm/lanes_neon.h"

/* sum[k] += bytes 4k..4k+3 of code times bytes 4 at..4 at + 3 of a; at: 0 to 3. */
INLINE int32x4_t add_dot(int32x4_t sum, int8x16_t code, int8x16_t a, int at) {
    switch (at) { /* the instruction wants a constant */
    case 0:
        return vdotq_laneq_s32(sum, code, a, 0);
    case 1:
        return vdotq_laneq_s32(sum, code, a, 1);
    case 2:
        return vdotq_laneq_s32(sum, code, a, 2);
    default:
        return vdotq_laneq_s32(sum, code, a, 3);
    }
}

/* Codes 0..255 as -128..127: what they count from their middle. */
INLINE int8x16_t centred(uint8x16_t code) {
    return vreinterpretq_s8_u8(veorq_u8(code, vdupq_n_u8(128)));
}
#endif
