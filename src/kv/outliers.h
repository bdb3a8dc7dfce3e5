/* outliers.h - the smallest and largest elements of each column of a matrix. */
#ifndef KV_OUTLIERS_H
#define KV_OUTLIERS_H
#include "cpu/kernels.h"
#include <stdint.h>

enum { OUTLIERS_MOST_COLUMNS = 256, OUTLIERS_WORD = 32 };
/* Words of marks for n rows. */
static inline int outliers_words(int n) {
    return (n + OUTLIERS_WORD - 1) / OUTLIERS_WORD;
}
/* Of each column of x [n][n_columns], finite, its n elements in the order of their values, equal ones in the order of
 * their rows: marks the first c and the last c, row i's in bit i % 32 of mark[i / 32 * n_columns + column]. mean
 * [n_columns] of all elements. n_columns is a multiple of 8 and at most OUTLIERS_MOST_COLUMNS; c is at least 1, at most
 * n / 2 and ENDS_MOST. mark: outliers_words(n) * n_columns. */
void outliers_mark(const cpu_kernels *kernels, const float *x, int n, int n_columns, int c, uint32_t *mark,
                   float *mean);
#endif
