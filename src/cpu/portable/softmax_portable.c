/* softmax_portable.c - pages of the online softmax (Milakov and Gimelshein, arXiv 1805.02867) in plain C. */
#include "cpu/fill.h"
#include <math.h>

/* s: the row in the first page; its pages are `apart` floats apart. */
static float row(float *s, int n_pages, size_t apart, float *m, float *l) {
    float top = *m, before = *m, sum = 0;
    for (int page = 0; page < n_pages; page++)
        for (int t = 0; t < PAGE_TOKENS; t++)
            top = s[(size_t)page * apart + (size_t)t] > top ? s[(size_t)page * apart + (size_t)t] : top;
    float from = top == -INFINITY ? 0 : top; /* nothing seen yet, nothing here: exp(-inf - 0) is 0 */
    for (int page = 0; page < n_pages; page++)
        for (int t = 0; t < PAGE_TOKENS; t++) {
            float *x = &s[(size_t)page * apart + (size_t)t];
            *x = expf(*x - from);
            sum += *x;
        }
    float c = top == -INFINITY ? 1 : expf(before - top);
    *m = top;
    *l = *l * c + sum;
    return c;
}

static void softmax_pages(float *s, int n_pages, int n_rows, float *m, float *l, float *c) {
    for (int r = 0; r < n_rows; r++)
        c[r] = row(s + r * PAGE_TOKENS, n_pages, (size_t)n_rows * PAGE_TOKENS, &m[r], &l[r]);
}

void softmax_portable_fill(cpu_kernels *k) {
    k->softmax_pages = softmax_pages;
}
