/* tile_neon.c - attention products over KV tiles of halves, of pairs of bits and of 8-bit floats (sweep_rows_neon.h).
 */
#include "cpu/arm/sweep_rows_neon.h"
#include "cpu/fill.h"

INLINE void open_f16(const uint8_t *x, int half, float32x4_t v[4]) {
    for (int k = 0; k < 2; k++) {
        float16x8_t eight = vreinterpretq_f16_u8(vld1q_u8(x + half * 32 + k * 16));
        v[2 * k] = vcvt_f32_f16(vget_low_f16(eight));
        v[2 * k + 1] = vcvt_high_f32_f16(eight);
    }
}

INLINE void open_u2(const uint8_t *x, int half, float32x4_t v[4]) {
    uint8x8_t four = vld1_u8(x);
    if (half)
        four = vshr_n_u8(four, 4);
    uint8x16_t code = vandq_u8(vcombine_u8(four, vshr_n_u8(four, 2)), vdupq_n_u8(3));
    uint16x8_t low = vmovl_u8(vget_low_u8(code)), high = vmovl_high_u8(code);
    v[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    v[1] = vcvtq_f32_u32(vmovl_high_u16(low));
    v[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    v[3] = vcvtq_f32_u32(vmovl_high_u16(high));
}

/* seeeemmm, bias 7, moved to the bits of a half, bias 15. */
INLINE void open_e4m3(const uint8_t *x, int half, float32x4_t v[4]) {
    for (int i = 0; i < 2; i++) {
        uint8x8_t eight = vld1_u8(x + half * 16 + i * 8);
        uint16x8_t sign = vshll_n_u8(vand_u8(eight, vdup_n_u8(128)), 8);
        float16x8_t y = vreinterpretq_f16_u16(vorrq_u16(sign, vshll_n_u8(vand_u8(eight, vdup_n_u8(127)), 7)));
        v[2 * i] = vmulq_n_f32(vcvt_f32_f16(vget_low_f16(y)), 256);
        v[2 * i + 1] = vmulq_n_f32(vcvt_high_f32_f16(y), 256);
    }
}

#define KERNEL(name, row_bytes)                                                                                        \
    static void tile_##name(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,      \
                            const void *prefetch) {                                                                    \
        sweep_rows(open_##name, row_bytes, n_rows, (sweep_product){a, lda, ldo, x, n, out, prefetch});                 \
    }

KERNEL(f16, 64)
KERNEL(u2, 8)
KERNEL(e4m3, 32)

void tile_neon_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
    k->tile[TILE_E4M3] = tile_e4m3;
}
