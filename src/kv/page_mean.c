/* page_mean.c - see page_mean.h. q . k = q . mean + q . (k - mean): one more dot product a page and row of queries, 2 d
 * bytes a page. */
#include "kv/page_mean.h"

enum { LANES = 16 };

void page_mean_take(int d, float *x, f16 *mean) {
    for (int j = 0; j < d; j++) {
        double sum = 0;
        for (int t = 0; t < PAGE_TOKENS; t++)
            sum += (double)x[t * d + j];
        sum /= PAGE_TOKENS;
        mean[j] = f16_from_f32((float)(sum > 65504 ? 65504 : sum < -65504 ? -65504 : sum));
        for (int t = 0; t < PAGE_TOKENS; t++)
            x[t * d + j] -= f16_to_f32(mean[j]);
    }
}

void page_mean_give(int d, float *x, const f16 *mean) {
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (int j = 0; j < d; j++)
            x[t * d + j] += f16_to_f32(mean[j]);
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
