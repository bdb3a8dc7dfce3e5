/* exp_neon.h - e^x for 4 floats.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, so that r is exact), e^r = 1 + r + r^2 p(r) with p of degree
 * 4 fitted for the least largest relative error (3.1e-9 before rounding), times 2^k made from its bits: as in
 * x86/exp_avx2.h. */
#ifndef CPU_ARM_EXP_NEON_H
#define CPU_ARM_EXP_NEON_H
#include "cpu/inline.h"
#include <arm_neon.h>

/* Any x but NaN; 0 below -87.33 (where floats lose digits), 2.2e38 above 88.3. */
INLINE float32x4_t exp4(float32x4_t x) {
    const float32x4_t lowest = vdupq_n_f32(-87.33f);
    uint32x4_t normal = vcgeq_f32(x, lowest);
    x = vmaxq_f32(vminq_f32(x, vdupq_n_f32(88.3f)), lowest);
    float32x4_t k = vrndnq_f32(vmulq_n_f32(x, 1.44269504f));
    float32x4_t r = vfmsq_f32(x, k, vdupq_n_f32(0.693359375f));
    r = vfmsq_f32(r, k, vdupq_n_f32(-2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(0x1.6a244cp-10f);
    p = vfmaq_f32(vdupq_n_f32(0x1.1239d4p-7f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.5558f2p-5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.555492p-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(0x1.fffffcp-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1), p, r);
    p = vfmaq_f32(vdupq_n_f32(1), p, r);
    int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(k), vdupq_n_s32(127)), 23);
    p = vmulq_f32(p, vreinterpretq_f32_s32(power));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(p), normal));
}
#endif
