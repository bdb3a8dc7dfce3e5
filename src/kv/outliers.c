/* outliers.c - see outliers.h. Eight columns at a time keep their c smallest and c largest values in order, by
 * exchanges with the row that goes by: no branch but the one that skips rows which no column keeps, so a compiler makes
 * vectors of it. A second pass marks what is at or beyond the last ones kept; columns in which more elements are equal
 * to these than there is room for are then looked at one by one, which is rare.
 *
 * Cost: a few instructions an element for small c; c exchanges for about one row in two at most. */
#include "kv/outliers.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { SIDE_BY_SIDE = 8, WORD = OUTLIERS_WORD };

typedef struct ends {    /* of each column */
    float *low, *high;   /* the c-th smallest and the c-th largest value */
    int *n_low, *n_high; /* how many of those kept are equal to it */
} ends;

typedef struct lists { /* of neighbouring columns, smallest and largest first */
    float low[OUTLIERS_MOST][SIDE_BY_SIDE], high[OUTLIERS_MOST][SIDE_BY_SIDE];
} lists;

static bool any_enters(const float *restrict row, const float *restrict low, const float *restrict high) {
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

/* Columns first..first+7. */
static void find_ends(const float *x, int n, int n_columns, int c, int first, lists *l, const ends *e, float *mean) {
    double sum[SIDE_BY_SIDE] = {0};
    for (int i = 0; i < c; i++)
        for (int k = 0; k < SIDE_BY_SIDE; k++) {
            l->low[i][k] = INFINITY;
            l->high[i][k] = -INFINITY;
        }
    for (int i = 0; i < n; i++) {
        const float *row = x + i * n_columns + first;
        for (int k = 0; k < SIDE_BY_SIDE; k++)
            sum[k] += (double)row[k];
        if (any_enters(row, l->low[c - 1], l->high[c - 1]))
            enter(l, c, row);
    }
    for (int k = 0; k < SIDE_BY_SIDE; k++) {
        int j = first + k;
        mean[j] = (float)(sum[k] / n);
        e->low[j] = l->low[c - 1][k];
        e->high[j] = l->high[c - 1][k];
        e->n_low[j] = e->n_high[j] = 0;
        for (int i = 0; i < c; i++) {
            e->n_low[j] += l->low[i][k] == e->low[j];
            e->n_high[j] += l->high[i][k] == e->high[j];
        }
    }
}

static void mark_rows(const float *restrict x, int n, int n_columns, const float *restrict low,
                      const float *restrict high, uint32_t *restrict mark) {
    memset(mark, 0, (size_t)n_columns * sizeof(*mark));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n_columns; j++) {
            float v = x[i * n_columns + j];
            mark[j] |= (uint32_t)((v <= low[j]) | (v >= high[j])) << i;
        }
}

static inline uint32_t count_bits(uint32_t x) {
    x = x - (x >> 1 & 0x55555555);
    x = (x & 0x33333333) + (x >> 2 & 0x33333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f;
    x += x >> 8;
    return (x + (x >> 16)) & 63;
}

/* Takes marks away from column j until it has c on either side: the first of those equal to the low end stay, and the
 * last of those equal to the high end. */
static void unmark_surplus(const float *x, int n, int n_columns, int j, const ends *e, uint32_t *mark) {
    int low_left = e->n_low[j], high_skipped = -e->n_high[j];
    for (int i = 0; i < n; i++)
        high_skipped += x[i * n_columns + j] == e->high[j];
    for (int i = 0; i < n; i++) {
        float v = x[i * n_columns + j];
        bool low = v < e->low[j] || (v == e->low[j] && low_left-- > 0);
        bool high = v > e->high[j] || (v == e->high[j] && high_skipped-- <= 0);
        if (!low && !high)
            mark[i / WORD * n_columns + j] &= ~(1u << i % WORD);
    }
}

void outliers_mark(const float *x, int n, int n_columns, int c, uint32_t *mark, float *mean) {
    float low[OUTLIERS_MOST_COLUMNS], high[OUTLIERS_MOST_COLUMNS];
    int n_low[OUTLIERS_MOST_COLUMNS], n_high[OUTLIERS_MOST_COLUMNS];
    uint32_t n_marked[OUTLIERS_MOST_COLUMNS] = {0};
    ends e = {low, high, n_low, n_high};
    lists l;
    for (int j = 0; j < n_columns; j += SIDE_BY_SIDE)
        find_ends(x, n, n_columns, c, j, &l, &e, mean);
    for (int i = 0; i < n; i += WORD) {
        uint32_t *word = mark + i / WORD * n_columns;
        mark_rows(x + i * n_columns, n - i < WORD ? n - i : WORD, n_columns, low, high, word);
        for (int j = 0; j < n_columns; j++)
            n_marked[j] += count_bits(word[j]);
    }
    for (int j = 0; j < n_columns; j++)
        if (n_marked[j] > (uint32_t)(2 * c))
            unmark_surplus(x, n, n_columns, j, &e, mark);
}
