/* lowrank.h - the best few rank-one terms of a matrix, by power iteration. */
#ifndef KV_LOWRANK_H
#define KV_LOWRANK_H
#include <stdint.h>

enum { LOWRANK_MOST = 16 };
/* Floats between rows of a and b. */
static inline int lowrank_stride(int rank) {
    return (rank + 3) / 4 * 4;
}
/* a [n][stride], b [d][stride], b on 16 x d floats of the caller: a b^T is the projection of e [n][d] on `rank`
 * orthonormal columns a, after `rounds` rounds from a start drawn by seed. rank 1 to LOWRANK_MOST. Columns that e has
 * no direction for are 0. */
void lowrank_fit(const float *e, int n, int d, int rank, int rounds, uint64_t seed, float *a, float *b);
#endif
