/* sparse_portable.c - products with a low-rank matrix and with a sparse one in plain C: the definition that faster
 * levels are tested against. */
#include "cpu/fill.h"

static float dot(const float *restrict x, const f16 *restrict y, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * f16_to_f32(y[i]);
    return sum;
}

static void low_rank(const low_rank_matrix *w, const float *x, int n_rows, float *out) {
    for (int k = 0; k < w->rank; k++)
        for (int r = 0; r < n_rows; r++) {
            float c = dot(x + r * w->n, w->left + k * w->n, w->n);
            for (int t = 0; t < w->m; t++)
                out[r * w->m + t] += c * f16_to_f32(w->right[k * w->m + t]);
        }
}

static void sparse(const sparse_matrix *w, const float *x, int n_rows, float *out) {
    for (int r = 0; r < n_rows; r++, x += w->n, out += w->m) {
        float sum[SPARSE_MOST] = {0};
        for (int i = 0; i < w->n_terms; i++) {
            int from = w->place ? w->place[i] & 255 : i / w->each, to = w->place ? w->place[i] >> 8 : w->to[i];
            sum[to] += x[from] * (f16_to_f32(w->value[i]) - w->less[(to >> w->group_bits) * w->n + from]);
        }
        for (int t = 0; t < w->m; t++)
            out[t] += sum[t];
    }
}

void sparse_portable_fill(cpu_kernels *k) {
    k->low_rank = low_rank;
    k->sparse = sparse;
}
