/* quantise.c - see quantise.h. Eight running minima side by side, whose order of comparison does not matter, and
 * rounding by adding and taking away 1.5 * 2^23: what is left of a float there is its whole number, rounded half to
 * even, which is rintf's result without its call. */
#include "kv/quantise.h"
#include "kv/method.h"
#include <math.h>

enum { SIDE_BY_SIDE = 8 };
#define ROUNDER 12582912.0f

void quantise_range(const float *x, int n, float *low, float *high) {
    float least[SIDE_BY_SIDE], most[SIDE_BY_SIDE];
    int i = 0;
    for (int k = 0; k < SIDE_BY_SIDE; k++)
        least[k] = most[k] = x[k < n ? k : 0];
    for (; i + SIDE_BY_SIDE <= n; i += SIDE_BY_SIDE)
        for (int k = 0; k < SIDE_BY_SIDE; k++) {
            least[k] = x[i + k] < least[k] ? x[i + k] : least[k];
            most[k] = x[i + k] > most[k] ? x[i + k] : most[k];
        }
    for (; i < n; i++) {
        least[0] = x[i] < least[0] ? x[i] : least[0];
        most[0] = x[i] > most[0] ? x[i] : most[0];
    }
    *low = least[0];
    *high = most[0];
    for (int k = 1; k < SIDE_BY_SIDE; k++) {
        *low = least[k] < *low ? least[k] : *low;
        *high = most[k] > *high ? most[k] : *high;
    }
}

void quantise_ranges(const float *restrict x, int d, int n, float *restrict low, float *restrict high) {
    for (int j = 0; j < d; j++)
        low[j] = high[j] = x[j];
    for (int i = 1; i < n; i++)
        for (int j = 0; j < d; j++) {
            float v = x[i * d + j];
            low[j] = v < low[j] ? v : low[j];
            high[j] = v > high[j] ? v : high[j];
        }
}

/* Of a distance in scales. */
static inline uint8_t code_of(float distance, quantise_levels l) {
    float q = (distance + ROUNDER) - ROUNDER + l.zero;
    q = q > l.least ? q : l.least;
    q = q < l.most ? q : l.most;
    return (uint8_t)(int)q;
}

void quantise_row(const float *restrict x, int n, float low, float scale, quantise_levels levels,
                  uint8_t *restrict code) {
    float over = scale > 0 ? scale : INFINITY;
    for (int i = 0; i < n; i++)
        code[i] = code_of((x[i] - low) / over, levels);
}

void quantise_columns(const float *restrict x, int d, int n, const float *restrict low, const float *restrict scale,
                      quantise_levels levels, uint8_t *restrict code) {
    float over[KV_MAX_HEAD_DIM];
    for (int j = 0; j < d; j++)
        over[j] = scale[j] > 0 ? scale[j] : INFINITY;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++)
            code[i * d + j] = code_of((x[i * d + j] - low[j]) / over[j], levels);
}
