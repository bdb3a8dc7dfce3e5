/* policy_reference.h - the policies, splits and CriticalKV again, slowly and in double, written from the papers'
 * formulas: what a cache must keep at an event, to be compared with what it kept.
 *
 * A scene holds one layer's rotated queries, keys and values of every position (keys and values as they are stored). A
 * reference runs beside a cache: it is told which tokens were added, attends with their queries to what is live, and
 * after an event says whether the cache's choice was the formula's. Two tokens may be exchanged only where their scores
 * differ by less than 1e-6 relative. */
#ifndef TESTS_POLICY_REFERENCE_H
#define TESTS_POLICY_REFERENCE_H
#include "kv/cache.h"

typedef struct scene {
    const kv_model *model;
    int il, n;        /* positions */
    float *q, *k, *v; /* [n][n_head][d], [n][n_head_kv][d] */
} scene;

scene scene_open(const kv_model *model, int il, int n);
void scene_close(scene *s);

typedef struct reference reference;
reference *reference_open(const scene *s, const kv_method *method);
void reference_close(reference *r);
/* The cache's lanes before a step are what is live; then tokens from..to-1 are added and attend. */
void reference_step(reference *r, const kv_cache *cache, int from, int to);
/* After the step and its event: NULL when the cache kept what the formula keeps, else a sentence. n_steps: decode steps
 * since the prompt's end, this one included. Counts events that evicted. */
const char *reference_check(reference *r, const kv_cache *cache, kv_event event, int n_prompt, int n_steps,
                            int max_new);
int reference_evictions(const reference *r);

/* ---- formulas, for the worked values ---- */

/* f [lag] of a partition x [lag][d] against the next one. */
void reference_lag(const double *x, const double *next, int lag, int d, double *f);
/* Column means of the cosines of k [n][d] with R-KV's rows left out. */
void reference_redundancy(const double *k, int n, int d, double tau, double *mean);
/* re, im of the mean of exp(i theta p) over p = from .. from + n - 1. */
void reference_rho(double theta, int from, int n, double *re, double *im);
/* z and p = softmax(z) for keys k [n][d] and queries of mean mu and covariance s, already rotated. */
void reference_expected(const double *k, int n, int d, const double *mu, const double *s, double *z, double *p);
/* score [n] of KeyDiff. */
void reference_keydiff(const double *k, int n, int d, double *score);
#endif
