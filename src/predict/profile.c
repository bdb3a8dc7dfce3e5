/* profile.c - from profiled rows to the time of a step. Owns the tables and the one formula; knows no method by name.
 *
 *     step = once(n) + layers * (operators(n) + attention_prefill(each chunk) + attention_decode(batch, reads))
 *
 * n is the step's tokens, all sequences together: matrix products share their weights. Operators are piecewise linear
 * in n. They keep the profile's steps (a GPU's products jump where a tile fills up), so no smooth curve is laid through
 * them. Attention is piecewise linear along context within a row of one batch (decode) or one chunk length (prefill);
 * between rows decode's time is linear in batch, prefill's time per pair of query and key in tokens. Prefill rows of
 * several sequences count as that many, one after the other.
 *
 * Outside the grid: below it the nearest point holds (a launch costs what it costs). Above it operators and decode go
 * on in a line, whose slope is taken from half of the grid, not from its last, noisy interval; prefill goes on with its
 * work, n * (context + (n + 1) / 2) pairs.
 *
 * The sum of operators is Vidur's (arXiv 2405.05465), which the study used (arXiv 2503.24000); pairs, half-grid slopes,
 * the reads of an evicting method and the decode mean over a growing context are ours.
 * Cost: bench/predict; four to six look-ups in tables that start near the place. */
#include "predict/throughput.h"
#include "base/memory.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct axis { /* rising places, found in a step or two from the start of a bucket */
    double *at;       /* [n] */
    int n;
    int32_t *from; /* [n_buckets] the last place that is not beyond the bucket's begin */
    double buckets_per_unit;
} axis;

typedef struct curve { /* ms over y */
    const axis *y;
    const double *ms; /* [y->n] */
} curve;

typedef struct surface { /* curves over x */
    axis x;
    curve *along; /* [x.n] */
    axis *y;      /* [n_y]; neighbours with the same places share one */
    int n_y;
    double *ms; /* all curves' */
} surface;

struct predict_profile {
    surface once, layer; /* a single curve over tokens; once may be empty */
    surface prefill;     /* x: new tokens, y: context before; ms of one sequence */
    surface decode;      /* x: batch, y: tokens read */
    predict_profile_options options;
};

/* ---- rows ---- */

pleat_status predict_rows_add(predict_rows *rows, const predict_row *row, pleat_error *error) {
    if (!mem_grow(&rows->row, &rows->cap, rows->n + 1, sizeof(*row)))
        return err_set(error, PLEAT_EMEMORY, "no memory for a profile of %d rows", rows->n);
    rows->row[rows->n++] = *row;
    return PLEAT_OK;
}

void predict_rows_free(predict_rows *rows) {
    free(rows->row);
    *rows = (predict_rows){0};
}

/* ---- tables ---- */

typedef struct node {
    double x, y, ms;
} node;

static int by_place(const void *a, const void *b) {
    const node *p = a, *q = b;
    return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : (p->y > q->y) - (p->y < q->y);
}

/* Sorted, one node a place, each with the mean of its rows. */
static int merge(node *list, int n) {
    int kept = 0;
    qsort(list, (size_t)n, sizeof(*list), by_place);
    for (int i = 0, k; i < n; i = k) {
        double sum = 0;
        for (k = i; k < n && by_place(&list[k], &list[i]) == 0; k++)
            sum += list[k].ms;
        list[kept++] = (node){list[i].x, list[i].y, sum / (k - i)};
    }
    return kept;
}

/* The n places at list[0], list[stride], ...: x's or y's. */
static bool axis_make(axis *a, const double *list, size_t stride, int n) {
    int n_buckets = 2 * n + 16;
    a->at = mem_alloc((size_t)n + 1, sizeof(*a->at));
    a->from = mem_alloc((size_t)n_buckets + 1, sizeof(*a->from));
    if (!a->at || !a->from)
        return false;
    for (int i = 0; i < n; i++)
        if (a->n == 0 || list[(size_t)i * stride] != a->at[a->n - 1])
            a->at[a->n++] = list[(size_t)i * stride];
    double width = a->n > 1 ? a->at[a->n - 1] - a->at[0] : 1;
    a->buckets_per_unit = n_buckets / width;
    for (int bucket = 0, i = 0; bucket <= n_buckets && a->n; bucket++) {
        while (i + 1 < a->n && a->at[i + 1] <= a->at[0] + bucket / a->buckets_per_unit)
            i++;
        a->from[bucket] = i;
    }
    return true;
}

static void axis_free(axis *a) {
    mem_free(a->at);
    mem_free(a->from);
}

static const size_t node_stride = sizeof(node) / sizeof(double);

/* The axis of a row's nodes: the row's before, if its places are the same. */
static const axis *row_axis(surface *s, const node *list, int n) {
    const axis *before = s->n_y ? &s->y[s->n_y - 1] : NULL;
    bool same = before && before->n == n;
    for (int i = 0; i < n && same; i++)
        same = before->at[i] == list[i].y;
    if (same)
        return before;
    return axis_make(&s->y[s->n_y++], &list->y, node_stride, n) ? &s->y[s->n_y - 1] : NULL;
}

static bool surface_make(surface *s, node *list, int n) {
    n = merge(list, n);
    s->y = mem_alloc((size_t)n + 1, sizeof(*s->y));
    s->ms = mem_alloc((size_t)n + 1, sizeof(*s->ms));
    s->along = mem_alloc((size_t)n + 1, sizeof(*s->along));
    if (!s->y || !s->ms || !s->along || !axis_make(&s->x, &list->x, node_stride, n))
        return false;
    for (int i = 0, end, row = 0; i < n; i = end, row++) {
        for (end = i; end < n && list[end].x == list[i].x; end++)
            s->ms[end] = list[end].ms;
        s->along[row] = (curve){row_axis(s, list + i, end - i), s->ms + i};
        if (!s->along[row].y)
            return false;
    }
    return true;
}

static void surface_free(surface *s) {
    for (int i = 0; i < s->n_y; i++)
        axis_free(&s->y[i]);
    axis_free(&s->x);
    mem_free(s->y);
    mem_free(s->ms);
    mem_free(s->along);
}

typedef enum which { ONCE, LAYER, PREFILL, DECODE } which;

static which which_of(const predict_row *r) {
    if (r->part != PREDICT_ATTENTION)
        return r->part == PREDICT_ONCE ? ONCE : LAYER;
    return r->stage == PREDICT_PREFILL ? PREFILL : DECODE;
}

static node node_of(const predict_row *r) {
    switch (which_of(r)) {
    case PREFILL:
        return (node){r->tokens, r->context, r->ms / r->batch};
    case DECODE:
        return (node){r->batch, r->context, r->ms};
    default:
        return (node){0, r->tokens, r->ms};
    }
}

static const double most_ms = 1e20; /* sums and extrapolations stay finite */

static pleat_status check(const predict_rows *rows, pleat_error *error) {
    int n[4] = {0};
    for (int i = 0; i < rows->n; i++) {
        const predict_row *r = &rows->row[i];
        which w = which_of(r);
        n[w]++;
        if (!(r->ms >= 0 && r->ms <= most_ms) || (w == LAYER && r->ms <= 0))
            return err_set(error, PLEAT_EINPUT, "row %d of the profile has a time of %g ms", i + 1, r->ms);
        if ((w != DECODE && r->tokens < 1) || (w >= PREFILL && (r->batch < 1 || r->context < 0)))
            return err_set(error, PLEAT_EINPUT, "row %d of the profile has batch %d, tokens %d, context %d", i + 1,
                           r->batch, r->tokens, r->context);
    }
    const char *lacks = !n[LAYER]     ? "operators"
                        : !n[PREFILL] ? "attention rows for prefill"
                        : !n[DECODE]  ? "attention rows for decode"
                                      : NULL;
    return lacks ? err_set(error, PLEAT_EINPUT, "the profile holds no %s", lacks) : PLEAT_OK;
}

pleat_status predict_profile_make(const predict_rows *rows, const predict_profile_options *options,
                                  predict_profile **profile, pleat_error *error) {
    pleat_status status = check(rows, error);
    if (status)
        return status;
    predict_profile *p = calloc(1, sizeof(*p));
    node *list = mem_alloc((size_t)rows->n + 1, sizeof(*list));
    surface *table[] = {p ? &p->once : NULL, p ? &p->layer : NULL, p ? &p->prefill : NULL, p ? &p->decode : NULL};
    bool ok = p && list;
    for (int w = 0; ok && w < 4; w++) {
        int n = 0;
        for (int i = 0; i < rows->n; i++)
            if ((int)which_of(&rows->row[i]) == w)
                list[n++] = node_of(&rows->row[i]);
        ok = surface_make(table[w], list, n);
    }
    mem_free(list);
    if (!ok) {
        predict_profile_free(p);
        return err_set(error, PLEAT_EMEMORY, "no memory for a profile of %d rows", rows->n);
    }
    predict_profile_tune(p, options ? options : &(predict_profile_options){.n_layer = 0});
    *profile = p;
    return PLEAT_OK;
}

void predict_profile_free(predict_profile *p) {
    if (!p)
        return;
    surface_free(&p->once);
    surface_free(&p->layer);
    surface_free(&p->prefill);
    surface_free(&p->decode);
    free(p);
}

predict_profile_options predict_profile_options_of(const predict_profile *p) {
    return p->options;
}

void predict_profile_tune(predict_profile *p, const predict_profile_options *options) {
    p->options = *options;
    if (!p->options.n_layer)
        p->options.n_layer = 32;
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        predict_terms *t = &p->options.terms[stage];
        *t = (predict_terms){t->operators ? t->operators : 1, t->attention ? t->attention : 1};
    }
}

/* ---- reading the tables ---- */

/* The last place at or before v, which lies on the axis. */
static int find(const axis *a, double v) {
    int i = a->from[(int)((v - a->at[0]) * a->buckets_per_unit)];
    while (i + 1 < a->n && a->at[i + 1] <= v)
        i++;
    while (i > 0 && a->at[i] > v) /* rounding at a bucket's edge */
        i--;
    return i;
}

static double end_of(const axis *a) {
    return a->at[a->n - 1];
}

/* Where the slope past the end is taken from. */
static int half_of(const axis *a) {
    return a->n / 2 < a->n - 1 ? a->n / 2 : a->n - 2;
}

static double between(double x0, double v0, double x1, double v1, double x) {
    return v0 + (v1 - v0) * (x - x0) / (x1 - x0);
}

/* ms past the end: a line of the slope of the grid's upper half, never falling; of one point, in proportion. */
static double curve_past(const curve *c, double y) {
    const double *at = c->y->at;
    int last = c->y->n - 1, half = half_of(c->y);
    double slope = last > 0 ? (c->ms[last] - c->ms[half]) / (at[last] - at[half]) : at[0] > 0 ? c->ms[0] / at[0] : 0;
    return c->ms[last] + fmax(slope, 0) * (y - at[last]);
}

static double curve_inside(const curve *c, double y) {
    const double *at = c->y->at;
    if (y <= at[0])
        return c->ms[0];
    int i = find(c->y, y);
    return i == c->y->n - 1 ? c->ms[i] : between(at[i], c->ms[i], at[i + 1], c->ms[i + 1], y);
}

static double curve_at(const curve *c, double y) {
    return y > end_of(c->y) ? curve_past(c, y) : curve_inside(c, y);
}

static double by_tokens(const surface *s, double tokens) {
    return s->x.n ? curve_at(&s->along[0], tokens) : 0;
}

static double pairs(double tokens, double context) {
    return tokens * (context + (tokens + 1) / 2);
}

/* One chunk length's row at a context; past its end with the work. */
static double prefill_row(const surface *s, int i, double context) {
    const curve *c = &s->along[i];
    double last = end_of(c->y);
    return context <= last ? curve_inside(c, context)
                           : c->ms[c->y->n - 1] * pairs(s->x.at[i], context) / pairs(s->x.at[i], last);
}

/* Between rows the time per pair is what changes evenly, so that one row alone gives the quadratic. */
static double prefill_at(const surface *s, double tokens, double context) {
    const double *at = s->x.at;
    int last = s->x.n - 1, i = tokens >= at[last] ? last : tokens <= at[0] ? 0 : find(&s->x, tokens);
    double here = prefill_row(s, i, context);
    if (tokens <= at[i])
        return here;
    here /= pairs(at[i], context);
    if (i < last)
        here = between(at[i], here, at[i + 1], prefill_row(s, i + 1, context) / pairs(at[i + 1], context), tokens);
    return here * pairs(tokens, context);
}

static double decode_at(const surface *s, double batch, double reads) {
    const double *at = s->x.at;
    int last = s->x.n - 1;
    if (batch > at[last]) {
        double end = curve_at(&s->along[last], reads);
        int half = half_of(&s->x);
        double slope = last > 0 ? (end - curve_at(&s->along[half], reads)) / (at[last] - at[half]) : end / at[last];
        return end + fmax(slope, 0) * (batch - at[last]);
    }
    int i = batch <= at[0] ? 0 : find(&s->x, batch);
    double here = curve_at(&s->along[i], reads);
    return batch <= at[i] ? here : between(at[i], here, at[i + 1], curve_at(&s->along[i + 1], reads), batch);
}

/* ---- steps ---- */

double predict_reads(const predict_profile *p, double context_tokens) {
    return p->options.budget ? fmin(context_tokens, p->options.budget) : context_tokens;
}

predict_parts predict_step_parts(const predict_profile *p, const predict_step *step) {
    predict_parts parts = {0};
    double tokens = step->decode_batch;
    for (int i = 0; i < step->n_chunk; i++) {
        const predict_chunk *c = &step->chunk[i];
        if (c->n_seq < 1 || c->tokens < 1)
            continue;
        tokens += (double)c->n_seq * c->tokens;
        parts.attention_ms[PREDICT_PREFILL] += c->n_seq * prefill_at(&p->prefill, c->tokens, c->context);
    }
    if (tokens <= 0)
        return parts;
    if (step->decode_batch > 0)
        parts.attention_ms[PREDICT_DECODE] = decode_at(&p->decode, step->decode_batch, step->decode_reads);
    parts.attention_ms[PREDICT_PREFILL] *= p->options.n_layer;
    parts.attention_ms[PREDICT_DECODE] *= p->options.n_layer;
    parts.operators_ms = by_tokens(&p->once, tokens) + p->options.n_layer * by_tokens(&p->layer, tokens);
    parts.decode_share = step->decode_batch / tokens;
    return parts;
}

static double parts_ms(const predict_profile *p, const predict_parts *parts) {
    const predict_terms *prefill = &p->options.terms[PREDICT_PREFILL], *decode = &p->options.terms[PREDICT_DECODE];
    double operators = decode->operators * parts->decode_share + prefill->operators * (1 - parts->decode_share);
    return operators * parts->operators_ms + prefill->attention * parts->attention_ms[PREDICT_PREFILL] +
           decode->attention * parts->attention_ms[PREDICT_DECODE];
}

double predict_step_ms(const predict_profile *p, const predict_step *step) {
    predict_parts parts = predict_step_parts(p, step);
    return parts_ms(p, &parts);
}

predict_parts predict_rate_parts(const predict_profile *p, predict_stage stage, int batch, int prompt_tokens) {
    if (stage == PREDICT_PREFILL) {
        predict_chunk chunk = {batch, prompt_tokens, 0};
        return predict_step_parts(p, &(predict_step){.chunk = &chunk, .n_chunk = 1});
    }
    predict_parts mean = {0};
    for (int i = 1; i <= PREDICT_DECODE_TOKENS; i++) {
        predict_step step = {.decode_batch = batch, .decode_reads = predict_reads(p, prompt_tokens + i)};
        predict_parts one = predict_step_parts(p, &step);
        mean.operators_ms += one.operators_ms / PREDICT_DECODE_TOKENS;
        mean.attention_ms[PREDICT_DECODE] += one.attention_ms[PREDICT_DECODE] / PREDICT_DECODE_TOKENS;
        mean.decode_share = one.decode_share;
    }
    return mean;
}

double predict_rate(const predict_profile *p, predict_stage stage, int batch, int prompt_tokens) {
    predict_parts parts = predict_rate_parts(p, stage, batch, prompt_tokens);
    double tokens = stage == PREDICT_PREFILL ? (double)batch * prompt_tokens : batch;
    return 1000 * tokens / parts_ms(p, &parts);
}
