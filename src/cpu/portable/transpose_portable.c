/* transpose_portable.c - the transposition of a matrix in plain C. */
#include "cpu/fill.h"

static void transpose(const float *restrict x, size_t ldx, int n_rows, int n_columns, float *restrict y, size_t ldy) {
    for (int i = 0; i < n_rows; i++)
        for (int j = 0; j < n_columns; j++)
            y[(size_t)j * ldy + (size_t)i] = x[(size_t)i * ldx + (size_t)j];
}

void transpose_portable_fill(cpu_kernels *k) {
    k->transpose = transpose;
}
