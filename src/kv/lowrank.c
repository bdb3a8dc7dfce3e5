/* lowrank.c - subspace iteration (Halko, Martinsson, Tropp, SIAM Review 2011, section 4.5): each round orthonormalises
 * B, A = E B, B = E^T A. In the last round A is orthonormalised before the second product. (In the others that would
 * not change the subspace: the columns of E^T A are orthonormalised next.)
 *
 * E is packed twice, by tokens and by channels, so that both products are the float product of cpu/pack.h: chains of
 * multiply-adds over rising indices. Dot products of columns are in double (dots.h). Cost: 2 n d rank multiplications a
 * round, and a draw of d rank normal numbers. */
#include "kv/lowrank.h"
#include "base/rng.h"
#include "kv/dots.h"
#include <math.h>
#include <string.h>

enum { LANES = PACK_ROWS, START_STREAM = 0x6C72 };

static void subtract(float *restrict x, const float *restrict y, int n, float factor) {
    for (int i = 0; i < n; i++)
        x[i] -= factor * y[i];
}

/* Gram-Schmidt, twice for each vector; one that depends on those before becomes 0. x [rank][n]. */
static void orthonormalise(float *x, int rank, int n) {
    for (int k = 0; k < rank; k++) {
        float *v = x + (size_t)k * (size_t)n;
        double before = dot_double(v, v, n);
        for (int pass = 0; pass < 2; pass++)
            for (int m = 0; m < k; m++) {
                const float *u = x + (size_t)m * (size_t)n;
                subtract(v, u, n, (float)dot_double(v, u, n));
            }
        double after = dot_double(v, v, n);
        float scale = after > 1e-10 * before ? (float)(1 / sqrt(after)) : 0;
        for (int i = 0; i < n; i++)
            v[i] *= scale;
    }
}

/* Tokens side by side, [n/16][d][16], rows of zeros behind the last. */
static void pack_tokens(const cpu_kernels *kernels, const float *e, int n, int d, float *to) {
    for (int t = 0; t < n; t += LANES, to += (size_t)d * LANES) {
        int n_rows = n - t < LANES ? n - t : LANES;
        if (n_rows < LANES)
            memset(to, 0, (size_t)d * LANES * sizeof(*to));
        kernels->transpose(e + t * d, (size_t)d, n_rows, d, to, LANES);
    }
}

/* Channels side by side, [d/16][n][16]. */
static void pack_channels(const float *restrict e, int n, int d, float *restrict to) {
    for (int t = 0; t < n; t++)
        for (int j = 0; j < d; j += LANES)
            memcpy(to + ((size_t)(j / LANES) * (size_t)n + (size_t)t) * LANES, e + t * d + j, LANES * sizeof(*e));
}

/* out[k][i] = sum over j of x[k][j] * element i, j of the packed matrix. */
static void product(const cpu_kernels *kernels, const float *packed, int n_rows, int n_cols, const float *x, int rank,
                    float *out) {
    pack_matrix w = {.type = PACK_F32,
                     .n_rows = n_rows,
                     .n_cols = n_cols,
                     .panel_bytes = (size_t)n_cols * LANES * sizeof(float),
                     .data = (const uint8_t *)packed};
    act_rows rows = {.n_cols = n_cols, .x = x};
    kernels->matmul[PACK_F32](&w, 0, (n_rows + LANES - 1) / LANES, &rows, rank, out, (size_t)n_rows);
}

void lowrank_fit(const cpu_kernels *kernels, const float *e, int n, int d, int rank, int rounds, uint64_t seed,
                 float *work, float *a, float *b) {
    float *by_token = work, *by_channel = work + lowrank_work(n, d) / 2;
    pack_tokens(kernels, e, n, d, by_token);
    pack_channels(e, n, d, by_channel);
    for (int k = 0; k < rank; k++)
        for (int j = 0; j < d; j++)
            b[k * d + j] = (float)rng_normal(seed, START_STREAM, (uint64_t)(j * LOW_RANK_MOST + k));
    for (int round = 0; round < rounds; round++) {
        orthonormalise(b, rank, d);
        product(kernels, by_token, n, d, b, rank, a);
        if (round + 1 == rounds)
            orthonormalise(a, rank, n);
        product(kernels, by_channel, d, n, a, rank, b);
    }
}
