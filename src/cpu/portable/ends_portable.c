/* ends_portable.c - the smallest and largest elements of columns in plain C. Eight columns at a time keep their c
 * smallest and c largest values in order, by exchanges with the row that goes by: no branch but the one that skips rows
 * which no column keeps, so a compiler makes vectors of it. */
#include "cpu/fill.h"
#include <math.h>
#include <string.h>

enum { SIDE_BY_SIDE = 8 };

typedef struct lists { /* of neighbouring columns, smallest and largest first */
    float low[ENDS_MOST][SIDE_BY_SIDE], high[ENDS_MOST][SIDE_BY_SIDE];
} lists;

static int any_enters(const float *restrict row, const float *restrict low, const float *restrict high) {
    int any = 0;
    for (int k = 0; k < SIDE_BY_SIDE; k++)
        any |= (row[k] < low[k]) | (row[k] > high[k]);
    return any;
}

static void enter(lists *l, int c, const float *restrict row) {
    float low[SIDE_BY_SIDE], high[SIDE_BY_SIDE];
    memcpy(low, row, sizeof(low));
    memcpy(high, row, sizeof(high));
    for (int i = 0; i < c; i++)
        for (int k = 0; k < SIDE_BY_SIDE; k++) {
            float a = l->low[i][k], b = l->high[i][k];
            l->low[i][k] = low[k] < a ? low[k] : a;
            low[k] = low[k] < a ? a : low[k];
            l->high[i][k] = high[k] > b ? high[k] : b;
            high[k] = high[k] > b ? b : high[k];
        }
}

static void column_ends(const float *x, int n, int n_columns, int c, float *low, float *high, float *mean) {
    lists l;
    for (int first = 0; first < n_columns; first += SIDE_BY_SIDE) {
        double sum[SIDE_BY_SIDE] = {0};
        for (int i = 0; i < c; i++)
            for (int k = 0; k < SIDE_BY_SIDE; k++) {
                l.low[i][k] = INFINITY;
                l.high[i][k] = -INFINITY;
            }
        for (int i = 0; i < n; i++) {
            const float *row = x + i * n_columns + first;
            for (int k = 0; k < SIDE_BY_SIDE; k++)
                sum[k] += (double)row[k];
            if (any_enters(row, l.low[c - 1], l.high[c - 1]))
                enter(&l, c, row);
        }
        for (int k = 0; k < SIDE_BY_SIDE; k++)
            mean[first + k] = (float)(sum[k] / n);
        memcpy(low + first, l.low[c - 1], sizeof(l.low[c - 1]));
        memcpy(high + first, l.high[c - 1], sizeof(l.high[c - 1]));
    }
}

static void mark_ends(const float *restrict x, int n, int n_columns, const float *restrict low,
                      const float *restrict high, uint32_t *restrict mark) {
    memset(mark, 0, (size_t)n_columns * sizeof(*mark));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n_columns; j++) {
            float v = x[i * n_columns + j];
            mark[j] |= (uint32_t)((v <= low[j]) | (v >= high[j])) << i;
        }
}

void ends_portable_fill(cpu_kernels *k) {
    k->column_ends = column_ends;
    k->mark_ends = mark_ends;
}
