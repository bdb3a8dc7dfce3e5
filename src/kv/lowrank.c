/* lowrank.c - subspace iteration (Halko, Martinsson, Tropp, SIAM Review 2011, algorithm 4.4): A = E B, B = E^T A, each
 * orthonormalised before the next product, so that the columns do not collapse into the first one. After the last round
 * A has orthonormal columns and B = E^T A.
 *
 * Sums run over rising indices, in float; dot products of columns in double. Cost: 2 n d rank multiplications a round.
 */
#include "kv/lowrank.h"
#include "base/rng.h"
#include <math.h>
#include <string.h>

enum { LANES = 4, START_STREAM = 0x6C72 };

/* Gram-Schmidt, twice for each column; a column that depends on those before becomes 0. x [n][stride]. */
static void orthonormalise(float *x, int n, int rank, int stride) {
    for (int k = 0; k < rank; k++) {
        double before = 0, after = 0;
        for (int i = 0; i < n; i++)
            before += (double)x[i * stride + k] * (double)x[i * stride + k];
        for (int pass = 0; pass < 2; pass++)
            for (int m = 0; m < k; m++) {
                double dot = 0;
                for (int i = 0; i < n; i++)
                    dot += (double)x[i * stride + k] * (double)x[i * stride + m];
                for (int i = 0; i < n; i++)
                    x[i * stride + k] -= (float)(dot * (double)x[i * stride + m]);
            }
        for (int i = 0; i < n; i++)
            after += (double)x[i * stride + k] * (double)x[i * stride + k];
        float scale = after > 1e-10 * before ? (float)(1 / sqrt(after)) : 0;
        for (int i = 0; i < n; i++)
            x[i * stride + k] *= scale;
    }
}

/* a = e b */
static void product(const float *e, int n, int d, const float *b, int stride, float *a) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < stride; k += LANES) {
            float sum[LANES] = {0};
            for (int j = 0; j < d; j++)
                for (int l = 0; l < LANES; l++)
                    sum[l] += e[i * d + j] * b[j * stride + k + l];
            memcpy(a + i * stride + k, sum, sizeof(sum));
        }
}

/* b = e^T a */
static void product_back(const float *e, int n, int d, const float *a, int stride, float *b) {
    memset(b, 0, (size_t)(d * stride) * sizeof(*b));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++)
            for (int k = 0; k < stride; k++)
                b[j * stride + k] += e[i * d + j] * a[i * stride + k];
}

void lowrank_fit(const float *e, int n, int d, int rank, int rounds, uint64_t seed, float *a, float *b) {
    int stride = lowrank_stride(rank);
    for (int j = 0; j < d; j++)
        for (int k = 0; k < stride; k++)
            b[j * stride + k] = k < rank ? (float)rng_normal(seed, START_STREAM, (uint64_t)(j * LOWRANK_MOST + k)) : 0;
    for (int round = 0; round < rounds; round++) {
        orthonormalise(b, d, rank, stride);
        product(e, n, d, b, stride, a);
        orthonormalise(a, n, rank, stride);
        product_back(e, n, d, a, stride, b);
    }
}
