/* page_mean.c - see page_mean.h. q . k = q . mean + q . (k - mean): one more dot product a page and row of queries, 2 d
 * bytes a page. */
#include "kv/page_mean.h"
#include "kv/page_affine.h"

enum { LANES = 16 };

void page_mean_take(int d, float *restrict x, f16 *restrict mean) {
    double sum[KV_MAX_HEAD_DIM] = {0};
    float m[KV_MAX_HEAD_DIM];
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (int j = 0; j < d; j++)
            sum[j] += (double)x[t * d + j];
    for (int j = 0; j < d; j++) {
        mean[j] = affine_nearest((float)(sum[j] / PAGE_TOKENS));
        m[j] = f16_to_f32(mean[j]);
    }
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (int j = 0; j < d; j++)
            x[t * d + j] -= m[j];
}

void page_mean_give(int d, float *restrict x, const f16 *restrict mean) {
    float m[KV_MAX_HEAD_DIM];
    for (int j = 0; j < d; j++)
        m[j] = f16_to_f32(mean[j]);
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (int j = 0; j < d; j++)
            x[t * d + j] += m[j];
}

void page_mean_score(const cpu_kernels *kernels, int d, const f16 *mean, const float *q, int n_rows, float *s) {
    float m[KV_MAX_HEAD_DIM];
    kernels->f16_to_f32(mean, d, m);
    for (int r = 0; r < n_rows; r++) {
        float lane[LANES] = {0}, sum = 0;
        for (int j = 0; j < d; j += LANES)
            for (int k = 0; k < LANES; k++)
                lane[k] += q[r * d + j + k] * m[j + k];
        for (int k = 0; k < LANES; k++)
            sum += lane[k];
        for (int t = 0; t < PAGE_TOKENS; t++)
            s[r * PAGE_TOKENS + t] += sum;
    }
}
