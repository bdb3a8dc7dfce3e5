/* page_affine.h - group quantisers with fp16 maps, and the pages made of them: what int8, int4, rot, gear and kitty
 * share.
 *
 * Codes of a group stand for scale * code + minimum. Both are rounded to fp16 first and codes are taken against the
 * rounded ones, half to even, so that `open` is what was chosen. A scale below fp16's normal numbers becomes 0 (all
 * codes 0), one above its range is cut to it: every result is finite. */
#ifndef KV_PAGE_AFFINE_H
#define KV_PAGE_AFFINE_H
#include "kv/page_codes.h"

typedef struct affine {
    int bits;       /* 8, 4 or 2 */
    bool symmetric; /* scale = max|x| / m, m = 2^(bits-1) - 1; codes -m..m stored plus 2^(bits-1); no minimum */
    bool by_token;  /* groups of K lie along channels; those of V always do */
    int group;      /* elements that share a map: divides d (by token) or 64 */
} affine;

enum { AFFINE_MOST_MAPS = 2 * KV_MAX_HEAD_DIM }; /* groups of 32 at least */

f16 affine_nearest(float x); /* rounded half to even, cut to fp16's finite range */
/* Of n elements: codes, and the map that they are taken against. minimum may be NULL when symmetric. */
void affine_quantise(const affine *a, const float *x, int n, uint8_t *code, f16 *scale, f16 *minimum);

/* The maps of d columns of n rows x [n][d] each: as stored [d], and what codes are taken against, low and scale [d];
 * then the codes of rows [n][d] of such columns. */
void affine_maps(const affine *a, int d, const float *x, int n, f16 *scale16, f16 *minimum16, float *low, float *scale);
void affine_codes(const affine *a, int d, const float *x, int n, const float *low, const float *scale, uint8_t *code);

/* Pages: codes [64 x d] (page_codes.c), then scales fp16 [n], then, unless symmetric, minima fp16 [n]. By token
 * n = d/group x 64, by channel 64/group x d. */
size_t affine_page_bytes(const affine *a, kv_side side, int d);
/* Rows x [n][d] as slots first.. of the page; by channel all 64. */
void affine_seal(const affine *a, kv_side side, int d, const float *x, int first, int n, uint8_t *page);
void affine_open(const affine *a, kv_side side, int d, const uint8_t *page, float *x);
void affine_score(const cpu_kernels *, const affine *a, int d, const uint8_t *page, kv_query_rows *q, float *s,
                  const void *prefetch);
void affine_mix(const cpu_kernels *, const affine *a, int d, const uint8_t *page, const float *p, int n_rows, float *o,
                const void *prefetch);
#endif
