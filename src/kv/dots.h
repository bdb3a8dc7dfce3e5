/* dots.h - sums of floats and of their products in double, in eight chains that are added up in order: what a single
 * chain of additions would make a compiler wait for, it makes vectors of. */
#ifndef KV_DOTS_H
#define KV_DOTS_H

enum { DOT_CHAINS = 8 };

static inline double dot_double(const float *restrict x, const float *restrict y, int n) {
    double chain[DOT_CHAINS] = {0}, sum = 0;
    int i = 0;
    for (; i + DOT_CHAINS <= n; i += DOT_CHAINS)
        for (int k = 0; k < DOT_CHAINS; k++)
            chain[k] += (double)x[i + k] * (double)y[i + k];
    for (; i < n; i++)
        chain[0] += (double)x[i] * (double)y[i];
    for (int k = 0; k < DOT_CHAINS; k++)
        sum += chain[k];
    return sum;
}

static inline double sum_double(const float *x, int n) {
    double chain[DOT_CHAINS] = {0}, sum = 0;
    int i = 0;
    for (; i + DOT_CHAINS <= n; i += DOT_CHAINS)
        for (int k = 0; k < DOT_CHAINS; k++)
            chain[k] += (double)x[i + k];
    for (; i < n; i++)
        chain[0] += (double)x[i];
    for (int k = 0; k < DOT_CHAINS; k++)
        sum += chain[k];
    return sum;
}
#endif
