/* policy_lagkv.c - LagKV (arXiv 2504.04704): each partition of tokens is judged by the spread of the next one.
 *
 * Behind the first `sinks` positions the sequence is cut in partitions of `lag` tokens. With the least and greatest
 * value of each channel in partition p + 1, the rows of partition p are scaled to z = (x - min) / (max - min); a token
 * scores f = softmax over the partition of the standard deviation of z over its channels (n - 1), for K and V alike,
 * and the two are added. Each head keeps the floor(ratio lag) best of a partition, ties to the smaller position. The
 * last whole partition, which only serves as reference, and what lies behind it stay whole; as soon as a new partition
 * is full the one before it is cut, in decode too, after the step's attention. So the cache grows by `ratio`.
 *
 * Partitions are absolute positions, so the kept set depends on keys and values alone, not on cuts or events. Whether a
 * partition was cut is read off its number of live tokens. A channel with max = min gives z = 0 (the authors' code
 * divides by zero). Deviation: lag 128, not the authors' 1,024. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/dots.h"
#include <limits.h>
#include <math.h>
#include <string.h>

enum { SINKS, LAG, RATIO };

static const kv_param params[] = {
    {"sinks", "first tokens that always stay", NULL, 16, 0, 1 << 20, true},
    {"lag", "tokens of a partition", NULL, 128, 2, 1 << 20, true},
    {"ratio", "share of a partition that stays", NULL, 0.5, 0, 1, false},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

static int kept_of_lag(const kv_config *c) {
    return (int)floor(c->value[RATIO] * of(c, LAG));
}

static pleat_status check(const kv_config *c, pleat_error *error) {
    if (kept_of_lag(c) < 1)
        return err_set(error, PLEAT_EINPUT, "lagkv: ratio=%g of lag=%d leaves no token", c->value[RATIO], of(c, LAG));
    return PLEAT_OK;
}

static kv_wants wants(const kv_config *c) {
    (void)c;
    return (kv_wants){.flags = KV_WANT_ROWS};
}

/* Partitions with a whole one behind them, once n tokens have been seen. */
static int cut_partitions(const kv_config *c, int n) {
    int n_whole = (n - of(c, SINKS)) / of(c, LAG);
    return n_whole > 1 ? n_whole - 1 : 0;
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)il;
    (void)max_new;
    return n_prompt - cut_partitions(c, n_prompt) * (of(c, LAG) - kept_of_lag(c));
}

static int partition_of(const kv_config *c, int32_t pos) {
    return pos < of(c, SINKS) ? -1 : (pos - of(c, SINKS)) / of(c, LAG);
}

static size_t work_floats(const kv_config *c, const kv_model *model, int n_slots) {
    (void)model;
    return (size_t)(n_slots + 2 * of(c, LAG));
}

static int budget(const kv_config *c, const kv_view *view) {
    if (view->event == KV_AT_STEP && (view->n_seen - of(c, SINKS)) % of(c, LAG))
        return INT_MAX;
    return cut_partitions(c, view->n_seen) ? 0 : INT_MAX; /* every token that must stay is forced */
}

/* The standard deviation of z = (row - low) * over. */
static float deviation(const float *restrict row, int d, const float *restrict low, const double *restrict over) {
    double z[KV_MAX_HEAD_DIM];
    for (int j = 0; j < d; j++)
        z[j] = ((double)row[j] - (double)low[j]) * over[j];
    double mean = sum_doubles(z, d) / d;
    for (int j = 0; j < d; j++)
        z[j] -= mean;
    return (float)sqrt(dot_doubles(z, z, d) / (d - 1));
}

/* sum[i] += f of the partition's tokens for one side; slot[0..lag) are theirs, slot[lag..2 lag) the reference's. */
static void add_spread(const kv_config *c, const float *x, int d, const int32_t *slot, float *sum) {
    int lag = of(c, LAG);
    float low[KV_MAX_HEAD_DIM], high[KV_MAX_HEAD_DIM];
    double f[2] = {0, -INFINITY}; /* sum of exponentials, greatest deviation */
    for (int i = 0; i < lag; i++) {
        const float *row = x + (size_t)slot[lag + i] * (size_t)d;
        for (int j = 0; j < d; j++) {
            low[j] = i && low[j] < row[j] ? low[j] : row[j];
            high[j] = i && high[j] > row[j] ? high[j] : row[j];
        }
    }
    float *spread = sum + lag;
    double over[KV_MAX_HEAD_DIM];
    for (int j = 0; j < d; j++)
        over[j] = high[j] > low[j] ? 1 / ((double)high[j] - (double)low[j]) : 0;
    for (int i = 0; i < lag; i++) {
        spread[i] = deviation(x + (size_t)slot[i] * (size_t)d, d, low, over);
        f[1] = (double)spread[i] > f[1] ? (double)spread[i] : f[1];
    }
    for (int i = 0; i < lag; i++)
        f[0] += exp((double)spread[i] - f[1]);
    for (int i = 0; i < lag; i++)
        sum[i] += (float)(exp((double)spread[i] - f[1]) / f[0]);
}

/* Forces the partition's best; the others keep their scores and leave. */
static void cut_partition(const kv_config *c, const int32_t *slot, const float *sum, float *s) {
    int lag = of(c, LAG), keep = kept_of_lag(c);
    for (int i = 0; i < lag; i++) {
        int n_better = 0;
        for (int k = 0; k < lag; k++)
            n_better += sum[k] > sum[i] || (sum[k] == sum[i] && k < i);
        s[slot[i]] = n_better < keep ? INFINITY : sum[i];
    }
}

/* Of the n slots in order, how many belong to the first one's partition. */
static int count_partition(const kv_config *c, const int32_t *pos, const int32_t *slot, int n) {
    int m = 0;
    while (m < n && partition_of(c, pos[slot[m]]) == partition_of(c, pos[slot[0]]))
        m++;
    return m;
}

static void score_lane(const kv_config *c, const kv_view *view, int ih, float *s) {
    int lag = of(c, LAG), d = view->model->head_dim, n_cut = cut_partitions(c, view->n_seen);
    const int32_t *pos = view->pos[ih];
    float *sum = kv_view_work(view, work_floats(c, view->model, view->n_slots[ih]));
    int32_t *slot = (int32_t *)(sum + 2 * lag);
    const float *k = kv_view_rows(view, ih, KV_K), *v = kv_view_rows(view, ih, KV_V);
    int n = kv_view_order(view, ih, slot);
    for (int i = 0; i < n; i++)
        s[slot[i]] = INFINITY;
    for (int i = 0, m; i < n; i += m) {
        int part = partition_of(c, pos[slot[i]]);
        m = count_partition(c, pos, slot + i, n - i);
        bool due = part >= 0 && part < n_cut && m == lag;
        if (!due || count_partition(c, pos, slot + i + m, n - i - m) != lag)
            continue; /* was cut before */
        memset(sum, 0, (size_t)lag * sizeof(*sum));
        add_spread(c, k, d, slot + i, sum);
        add_spread(c, v, d, slot + i, sum);
        cut_partition(c, slot + i, sum, s);
    }
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        score_lane(c, view, ih, s[ih]);
}

const kv_policy kv_policy_lagkv = {
    .name = "lagkv",
    .paper = "arXiv 2504.04704",
    .summary = "of each partition the tokens that spread most, judged by the next one",
    .params = params,
    .check = check,
    .wants = wants,
    .budget = budget,
    .score = score,
    .kept_tokens = kept_tokens,
    .work_floats = work_floats,
};
