/* tile_neon.c - attention products over KV tiles of halves and of pairs of bits (sweep_rows_neon.h). */
#include "cpu/arm/codes_neon.h"
#include "cpu/arm/sweep_rows_neon.h"
#include "cpu/fill.h"

INLINE void open_f16(const uint8_t *x, int half, const uint8x16_t *table, float32x4_t v[4]) {
    (void)table;
    for (int k = 0; k < 2; k++) {
        float16x8_t eight = vreinterpretq_f16_u8(vld1q_u8(x + half * 32 + k * 16));
        v[2 * k] = vcvt_f32_f16(vget_low_f16(eight));
        v[2 * k + 1] = vcvt_high_f32_f16(eight);
    }
}

INLINE void open_u2(const uint8_t *x, int half, const uint8x16_t *table, float32x4_t v[4]) {
    (void)table;
    codes_to_floats(codes_pairs(x, half), v);
}

#define KERNEL(name, row_bytes)                                                                                        \
    static void tile_##name(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,      \
                            const void *prefetch) {                                                                    \
        sweep_rows(open_##name, row_bytes, n_rows, (sweep_product){a, lda, ldo, x, n, out, prefetch, NULL});           \
    }

KERNEL(f16, 64)
KERNEL(u2, 8)

void tile_neon_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
}
