/* sparse_portable.c - products with a sparse matrix in plain C: the definition that faster levels are tested against. A
 * term is made float once for eight rows. */
#include "cpu/fill.h"

enum { ROWS = 8 };

static void sparse_rows(const sparse_matrix *w, const float *x, int n_rows, float *out) {
    float sum[ROWS][SPARSE_MOST] = {{0}};
    for (int i = 0; i < w->n_terms; i++) {
        int from = w->place ? w->place[i] & 255 : i / w->each, to = w->place ? w->place[i] >> 8 : w->to[i];
        float term = f16_to_f32(w->value[i]) - w->less[(to >> w->group_bits) * w->n + from];
        for (int r = 0; r < n_rows; r++)
            sum[r][to] += x[r * w->n + from] * term;
    }
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < w->m; t++)
            out[r * w->m + t] += sum[r][t];
}

static void sparse(const sparse_matrix *w, const float *x, int n_rows, float *out) {
    for (; n_rows > 0; n_rows -= ROWS, x += ROWS * w->n, out += ROWS * w->m)
        sparse_rows(w, x, n_rows < ROWS ? n_rows : ROWS, out);
}

void sparse_portable_fill(cpu_kernels *k) {
    k->sparse = sparse;
}
