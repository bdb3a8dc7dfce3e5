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
 * Cost: four to six binary searches, 100 ns a step of mixed chunks and batches. */
#include "predict/throughput.h"
#include "base/memory.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct curve { /* ms over y; y rises */
    const double *y, *ms;
    int n;
} curve;

typedef struct surface { /* curves over x; x rises */
    double *x;           /* [n] */
    curve *along;        /* [n] */
    int n;
    double *y, *ms; /* all curves' points */
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

static bool surface_make(surface *s, node *list, int n) {
    n = merge(list, n);
    s->x = mem_alloc((size_t)n + 1, sizeof(*s->x));
    s->y = mem_alloc((size_t)n + 1, sizeof(*s->y));
    s->ms = mem_alloc((size_t)n + 1, sizeof(*s->ms));
    s->along = mem_alloc((size_t)n + 1, sizeof(*s->along));
    if (!s->x || !s->y || !s->ms || !s->along)
        return false;
    for (int i = 0; i < n; i++) {
        if (i == 0 || list[i].x != list[i - 1].x) {
            s->x[s->n] = list[i].x;
            s->along[s->n++] = (curve){s->y + i, s->ms + i, 0};
        }
        s->along[s->n - 1].n++;
        s->y[i] = list[i].y;
        s->ms[i] = list[i].ms;
    }
    return true;
}

static void surface_free(surface *s) {
    mem_free(s->x);
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

static pleat_status check(const predict_rows *rows, pleat_error *error) {
    int n[4] = {0};
    for (int i = 0; i < rows->n; i++) {
        const predict_row *r = &rows->row[i];
        which w = which_of(r);
        n[w]++;
        if (!(r->ms >= 0 && isfinite(r->ms)) || (w == LAYER && r->ms <= 0))
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

/* The last i with at[i] <= v; v lies within at[0]..at[n-1]. */
static int find(const double *at, int n, double v) {
    int low = 0;
    for (int high = n; high - low > 1;) {
        int middle = (low + high) / 2;
        if (at[middle] <= v)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static double between(double x0, double v0, double x1, double v1, double x) {
    return v0 + (v1 - v0) * (x - x0) / (x1 - x0);
}

/* ms past the end: a line of the slope of the grid's upper half, never falling; of one point, in proportion. */
static double curve_past(const curve *c, double y) {
    int last = c->n - 1, half = c->n / 2 < last ? c->n / 2 : last - 1;
    double slope =
        c->n > 1 ? (c->ms[last] - c->ms[half]) / (c->y[last] - c->y[half]) : (c->y[0] > 0 ? c->ms[0] / c->y[0] : 0);
    return c->ms[last] + fmax(slope, 0) * (y - c->y[last]);
}

static double curve_inside(const curve *c, double y) {
    if (y <= c->y[0])
        return c->ms[0];
    int i = find(c->y, c->n, y);
    return i == c->n - 1 ? c->ms[i] : between(c->y[i], c->ms[i], c->y[i + 1], c->ms[i + 1], y);
}

static double curve_at(const curve *c, double y) {
    return y > c->y[c->n - 1] ? curve_past(c, y) : curve_inside(c, y);
}

static double by_tokens(const surface *s, double tokens) {
    return s->n ? curve_at(&s->along[0], tokens) : 0;
}

static double pairs(double tokens, double context) {
    return tokens * (context + (tokens + 1) / 2);
}

/* One chunk length's row at a context; past its end with the work. */
static double prefill_row(const surface *s, int i, double context) {
    const curve *c = &s->along[i];
    double last = c->y[c->n - 1];
    return context <= last ? curve_inside(c, context)
                           : c->ms[c->n - 1] * pairs(s->x[i], context) / pairs(s->x[i], last);
}

/* Between rows the time per pair is what changes evenly, so that one row alone gives the quadratic. */
static double prefill_at(const surface *s, double tokens, double context) {
    int i = tokens >= s->x[s->n - 1] ? s->n - 1 : find(s->x, s->n, tokens);
    double here = prefill_row(s, i, context);
    if (tokens <= s->x[i])
        return here;
    here /= pairs(s->x[i], context);
    if (i < s->n - 1)
        here =
            between(s->x[i], here, s->x[i + 1], prefill_row(s, i + 1, context) / pairs(s->x[i + 1], context), tokens);
    return here * pairs(tokens, context);
}

static double decode_at(const surface *s, double batch, double reads) {
    int last = s->n - 1;
    if (batch <= s->x[0])
        return curve_at(&s->along[0], reads);
    if (batch >= s->x[last]) {
        int half = s->n / 2 < last ? s->n / 2 : last - 1;
        double end = curve_at(&s->along[last], reads);
        if (batch == s->x[last])
            return end;
        double slope =
            last > 0 ? (end - curve_at(&s->along[half], reads)) / (s->x[last] - s->x[half]) : end / s->x[last];
        return end + fmax(slope, 0) * (batch - s->x[last]);
    }
    int i = find(s->x, s->n, batch);
    double here = curve_at(&s->along[i], reads);
    return batch == s->x[i] ? here : between(s->x[i], here, s->x[i + 1], curve_at(&s->along[i + 1], reads), batch);
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
