/* pooling.h - votes of a window of queries for older slots, pooled over neighbours: the scores of SnapKV, RocketKV and
 * R-KV alike. */
#ifndef KV_POOLING_H
#define KV_POOLING_H
#include "kv/method.h"

enum { POOLING_MAX, POOLING_AVG };

typedef struct pooling {
    int window; /* newest queries that vote; their own tokens must stay */
    int kernel; /* neighbours, odd */
    bool average;
    bool sum; /* over the group's heads instead of their mean */
} pooling;

/* s[slot] for all slots of lane ih: pooled votes, INFINITY for the newest `window` positions. Ties are set to the votes
 * before pooling. Uses pooling_floats() of kv_view_work. */
void pooling_score(const kv_view *view, int ih, const pooling *how, float *s);
size_t pooling_floats(const kv_model *model, int window, int n_slots);
/* y[i] = the largest of x[i - kernel/2 ..= i + kernel/2], or their sum divided by kernel (beyond the ends: nothing). */
void pooling_run(const float *x, int n, int kernel, bool average, float *y);
#endif
