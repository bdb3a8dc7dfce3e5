/* low_rank_portable.c - products with a low-rank matrix in plain C: the definition that the faster levels are tested
 * by. What is stored as halves is made float once for all rows of a call. */
#include "cpu/fill.h"

enum { LANES = 16 };

static void open_halves(const f16 *x, int n, float *y) {
    for (int i = 0; i < n; i++)
        y[i] = f16_to_f32(x[i]);
}

/* In LANES chains, added up by halves. */
static float dot(const float *restrict x, const float *restrict y, int n) {
    float lane[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += x[i + k] * y[i + k];
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++)
            lane[k] += lane[k + half];
    return lane[0];
}

static void low_rank_dots(const low_rank_factor *left, const float *x, int n_rows, float *c) {
    float column[SPARSE_MOST];
    for (int k = 0; k < left->rank; k++) {
        open_halves(left->x + k * left->n, left->n, column);
        for (int r = 0; r < n_rows; r++)
            c[r * left->rank + k] = dot(x + r * left->n, column, left->n);
    }
}

static void low_rank_add(const low_rank_factor *right, const float *c, int n_rows, float *out) {
    float column[SPARSE_MOST];
    for (int k = 0; k < right->rank; k++) {
        open_halves(right->x + k * right->n, right->n, column);
        for (int r = 0; r < n_rows; r++)
            for (int t = 0; t < right->n; t++)
                out[r * right->n + t] += c[r * right->rank + k] * column[t];
    }
}

void low_rank_portable_fill(cpu_kernels *k) {
    k->low_rank_dots = low_rank_dots;
    k->low_rank_add = low_rank_add;
}
