/* outliers.c - see outliers.h. The kernels find the last elements that belong to either end of each column, and mark
 * what is at or beyond them; columns in which more elements are equal to these than there is room for are then looked
 * at one by one, which is rare. */
#include "kv/outliers.h"
#include <stdbool.h>

enum { WORD = OUTLIERS_WORD };

static inline uint32_t count_bits(uint32_t x) {
    x = x - (x >> 1 & 0x55555555);
    x = (x & 0x33333333) + (x >> 2 & 0x33333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f;
    x += x >> 8;
    return (x + (x >> 16)) & 63;
}

/* Takes marks away from a column, elements n_columns apart, until it has c on either side: the first of those equal to
 * the low end stay, and the last of those equal to the high end. */
static void unmark_surplus(const float *x, int n, int n_columns, int c, float low, float high, uint32_t *mark) {
    int low_left = c, high_skipped = -c;
    for (int i = 0; i < n; i++) {
        low_left -= x[i * n_columns] < low;
        high_skipped += x[i * n_columns] >= high;
    }
    for (int i = 0; i < n; i++) {
        float v = x[i * n_columns];
        bool is_low = v < low || (v == low && low_left-- > 0);
        bool is_high = v > high || (v == high && high_skipped-- <= 0);
        if (!is_low && !is_high)
            mark[i / WORD * n_columns] &= ~(1u << i % WORD);
    }
}

void outliers_mark(const cpu_kernels *kernels, const float *x, int n, int n_columns, int c, uint32_t *mark,
                   float *mean) {
    float low[OUTLIERS_MOST_COLUMNS], high[OUTLIERS_MOST_COLUMNS];
    uint32_t n_marked[OUTLIERS_MOST_COLUMNS] = {0};
    kernels->column_ends(x, n, n_columns, c, low, high, mean);
    for (int i = 0; i < n; i += WORD) {
        uint32_t *word = mark + i / WORD * n_columns;
        kernels->mark_ends(x + i * n_columns, n - i < WORD ? n - i : WORD, n_columns, low, high, word);
        for (int j = 0; j < n_columns; j++)
            n_marked[j] += count_bits(word[j]);
    }
    for (int j = 0; j < n_columns; j++)
        if (n_marked[j] > (uint32_t)(2 * c))
            unmark_surplus(x + j, n, n_columns, c, low[j], high[j], mark + j);
}
