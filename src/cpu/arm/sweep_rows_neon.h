/* sweep_rows_neon.h - out[r][0..31] += sum over i of a[r][i] * x[i][0..31], whatever a tile row x[i] looks like in
 * memory.
 *
 * A tile is swept twice, 16 elements wide, so that 6 rows fit in 24 accumulators: the second sweep reads from L1, and
 * of pairs of bits a half is two planes. A row's chain of fused multiply-adds starts from out and is the same in a
 * block of 1 to 6 rows. */
#ifndef CPU_ARM_SWEEP_ROWS_NEON_H
#define CPU_ARM_SWEEP_ROWS_NEON_H
#include "cpu/arm/lanes_neon.h"
#include "cpu/kernels.h"

enum { SWEEP_ROWS = 6, SWEEP_HALF = 16 };

/* Elements 16 half .. +15 of the tile row at x. */
typedef void (*sweep_open)(const uint8_t *x, int half, float32x4_t v[4]);

typedef struct sweep_product {
    const float *a;
    size_t lda, ldo;
    const uint8_t *x;
    int n;
    float *out;
    const char *prefetch; /* or NULL */
} sweep_product;

INLINE void sweep_half(sweep_open open, size_t row_bytes, int n_rows, int half, const sweep_product *p,
                       const char *prefetch) {
    float *out = p->out + half * SWEEP_HALF;
    float32x4_t acc[SWEEP_ROWS][4];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int k = 0; k < 4; k++)
            acc[r][k] = vld1q_f32(out + (size_t)r * p->ldo + k * 4);
    for (size_t i = 0; i < (size_t)p->n; i++) {
        float32x4_t v[4];
        if (prefetch && i * row_bytes % 64 < row_bytes)
            __builtin_prefetch(prefetch + i * row_bytes, 0, 2);
        open(p->x + i * row_bytes, half, v);
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            float c = p->a[(size_t)r * p->lda + i];
#pragma GCC unroll 8
            for (int k = 0; k < 4; k++)
                acc[r][k] = vfmaq_n_f32(acc[r][k], v[k], c);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int k = 0; k < 4; k++)
            vst1q_f32(out + (size_t)r * p->ldo + k * 4, acc[r][k]);
}

INLINE void sweep_block(sweep_open open, size_t row_bytes, int n_rows, const sweep_product *p) {
    sweep_half(open, row_bytes, n_rows, 0, p, p->prefetch);
    sweep_half(open, row_bytes, n_rows, 1, p, NULL);
}

INLINE void sweep_rows(sweep_open open, size_t row_bytes, int n_rows, sweep_product p) {
    for (int r = 0; r < n_rows; r += SWEEP_ROWS) {
        switch (n_rows - r) {
        case 1:
            sweep_block(open, row_bytes, 1, &p);
            break;
        case 2:
            sweep_block(open, row_bytes, 2, &p);
            break;
        case 3:
            sweep_block(open, row_bytes, 3, &p);
            break;
        case 4:
            sweep_block(open, row_bytes, 4, &p);
            break;
        case 5:
            sweep_block(open, row_bytes, 5, &p);
            break;
        default:
            sweep_block(open, row_bytes, 6, &p);
        }
        p.a += SWEEP_ROWS * p.lda;
        p.out += SWEEP_ROWS * p.ldo;
        p.prefetch = NULL; /* the first sweep over x has asked for all of it */
    }
}
#endif
