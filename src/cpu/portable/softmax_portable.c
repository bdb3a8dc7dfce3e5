/* softmax_portable.c - one page of the online softmax (Milakov and Gimelshein, arXiv 1805.02867) in plain C. */
#include "cpu/fill.h"
#include <math.h>

static float row(float *s, float *m, float *l) {
    float top = *m, before = *m, sum = 0;
    for (int t = 0; t < PAGE_TOKENS; t++)
        top = s[t] > top ? s[t] : top;
    if (top == -INFINITY) { /* nothing seen yet, nothing here */
        for (int t = 0; t < PAGE_TOKENS; t++)
            s[t] = 0;
        return 1;
    }
    for (int t = 0; t < PAGE_TOKENS; t++) {
        s[t] = expf(s[t] - top);
        sum += s[t];
    }
    float c = expf(before - top);
    *m = top;
    *l = *l * c + sum;
    return c;
}

static void softmax_page(float *s, int n_rows, float *m, float *l, float *c) {
    for (int r = 0; r < n_rows; r++)
        c[r] = row(s + r * PAGE_TOKENS, &m[r], &l[r]);
}

void softmax_portable_fill(cpu_kernels *k) {
    k->softmax_page = softmax_page;
}
