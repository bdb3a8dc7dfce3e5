/* quantise.h - ranges and codes of rows of floats: the inner loops of sealing, written so that a compiler makes vectors
 * of them. Rows x [n][d] are finite. */
#ifndef KV_QUANTISE_H
#define KV_QUANTISE_H
#include <stdint.h>

typedef struct quantise_levels { /* of codes, whole numbers: zero stands for low; cut to least..most */
    float zero, least, most;
} quantise_levels;

/* Least and greatest of x[0..n), n at least 1. */
void quantise_range(const float *x, int n, float *low, float *high);
/* The same for each of d columns of n rows: low, high [d]. */
void quantise_ranges(const float *x, int d, int n, float *low, float *high);

/* code = round((x - low) / scale) + zero, half to even; a scale of 0 gives zero. (x - low) / scale must lie within
 * 2^22: it does for finite rows and a scale among fp16's normal numbers. */
void quantise_row(const float *x, int n, float low, float scale, quantise_levels levels, uint8_t *code);
/* The same with a low and a scale for each of d columns: code [n][d]. */
void quantise_columns(const float *x, int d, int n, const float *low, const float *scale, quantise_levels levels,
                      uint8_t *code);
#endif
