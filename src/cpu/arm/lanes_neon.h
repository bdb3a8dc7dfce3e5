/* lanes_neon.h - loads and stores of the first 1 to 4 lanes of a vector, nothing beyond them touched. */
#ifndef CPU_ARM_LANES_NEON_H
#define CPU_ARM_LANES_NEON_H
#include "cpu/inline.h"
#include <arm_neon.h>
#include <string.h>

/* The first `left` lanes (all when left >= 4, none when left <= 0), the others zero. */
INLINE float32x4_t load4(const float *x, int left) {
    float four[4] = {0};
    if (left >= 4)
        return vld1q_f32(x);
    for (int i = 0; i < left; i++)
        four[i] = x[i];
    return vld1q_f32(four);
}

INLINE void store4(float *x, int left, float32x4_t v) {
    float four[4];
    if (left >= 4) {
        vst1q_f32(x, v);
        return;
    }
    vst1q_f32(four, v);
    for (int i = 0; i < left; i++)
        x[i] = four[i];
}

/* Four halves as floats. */
INLINE float32x4_t load4_f16(const uint16_t *x, int left) {
    uint16_t four[4] = {0};
    if (left >= 4)
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
    for (int i = 0; i < left; i++)
        four[i] = x[i];
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(four)));
}

INLINE void store4_f16(uint16_t *x, int left, float32x4_t v) {
    uint16_t four[4];
    uint16x4_t half = vreinterpret_u16_f16(vcvt_f16_f32(v));
    if (left >= 4) {
        vst1_u16(x, half);
        return;
    }
    vst1_u16(four, half);
    for (int i = 0; i < left; i++)
        x[i] = four[i];
}
#endif
