/* lowrank.h - the best few rank-one terms of a matrix, by power iteration. */
#ifndef KV_LOWRANK_H
#define KV_LOWRANK_H
#include "cpu/kernels.h"
#include <stdint.h>

/* Floats of working memory for a matrix [n][d]: it twice, the rows rounded up to whole lanes. */
static inline size_t lowrank_work(int n, int d) {
    return (size_t)(2 * ((n + PACK_ROWS - 1) / PACK_ROWS * PACK_ROWS)) * (size_t)d;
}
/* a [rank][n], b [rank][d]: the sum of a_k b_k^T is the projection of e [n][d] on `rank` orthonormal a_k, after
 * `rounds` rounds from a start drawn by seed. rank 1 to LOW_RANK_MOST, d a multiple of PACK_ROWS and at most
 * DOT_MOST. What e has no direction for is 0. work: lowrank_work(n, d) floats, 64-byte aligned. */
void lowrank_fit(const cpu_kernels *kernels, const float *e, int n, int d, int rank, int rounds, uint64_t seed,
                 float *work, float *a, float *b);
#endif
