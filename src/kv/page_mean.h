/* page_mean.h - a page's mean key, kept apart in fp16 so that only differences from it are quantised: what takes a key
 * bias out of formats that quantise by token. */
#ifndef KV_PAGE_MEAN_H
#define KV_PAGE_MEAN_H
#include "kv/method.h"

/* mean [d] of rows x [64][d], subtracted from them as it was rounded; and added again. */
void page_mean_take(int d, float *x, f16 *mean);
void page_mean_give(int d, float *x, const f16 *mean);
/* Adds q . mean to the 64 scores of each row. */
void page_mean_score(const cpu_kernels *, int d, const f16 *mean, const float *q, int n_rows, float *s);
#endif
