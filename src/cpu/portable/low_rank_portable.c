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

static void low_rank(const low_rank_matrix *w, const float *x, int n_rows, float *out) {
    float left[SPARSE_MOST], right[SPARSE_MOST];
    for (int k = 0; k < w->rank; k++) {
        open_halves(w->left + k * w->n, w->n, left);
        open_halves(w->right + k * w->m, w->m, right);
        for (int r = 0; r < n_rows; r++) {
            float c = dot(x + r * w->n, left, w->n);
            for (int t = 0; t < w->m; t++)
                out[r * w->m + t] += c * right[t];
        }
    }
}

void low_rank_portable_fill(cpu_kernels *k) {
    k->low_rank = low_rank;
}
