/* dots.h - sums in double of floats, of doubles and of their products, in eight chains that are added up in order: what
 * a single chain of additions would make a compiler wait for, it makes vectors of. */
#ifndef KV_DOTS_H
#define KV_DOTS_H

enum { DOT_CHAINS = 8 };

/* name(arguments, n): the sum over i < n of term. */
#define DOT_SUM(name, arguments, term)                                                                                 \
    static inline double name(arguments, int n) {                                                                      \
        double chain[DOT_CHAINS] = {0}, sum = 0;                                                                       \
        int from = 0;                                                                                                  \
        for (; from + DOT_CHAINS <= n; from += DOT_CHAINS)                                                             \
            for (int k = 0, i = from; k < DOT_CHAINS; k++, i++)                                                        \
                chain[k] += term;                                                                                      \
        for (int i = from; i < n; i++)                                                                                 \
            chain[0] += term;                                                                                          \
        for (int k = 0; k < DOT_CHAINS; k++)                                                                           \
            sum += chain[k];                                                                                           \
        return sum;                                                                                                    \
    }
#define DOT_TWO(type) const type *restrict x, const type *restrict y

DOT_SUM(dot_double, DOT_TWO(float), (double)x[i] * (double)y[i])
DOT_SUM(sum_double, const float *x, (double)x[i])
DOT_SUM(dot_doubles, DOT_TWO(double), x[i] * y[i])
DOT_SUM(sum_doubles, const double *x, x[i])
#undef DOT_SUM
#undef DOT_TWO
#endif
