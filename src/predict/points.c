/* points.c - measured points: averaging, accuracy, and fitting a profile's terms on them.
 *
 * Calibration. With the plain prediction p and the measured rate m of each point, a = p / m, the factor r on rates that
 * makes sum |a r - 1| = sum a |r - 1 / a| least is the median of 1 / a weighted by a: exact, and deaf to a slow run.
 *
 * Correction. A method's attention profile may be off by a constant (the published ones are the base's times one), the
 * engine's operators hardly: so a stage gets its own two terms. Least squares of the relative error of the time, each
 * term drawn to where it stands by a normal prior:
 *     least sum ((f operators + g attention) / t - 1)^2 / noise^2 + ((f - f0) / sd_f)^2 + ((g - g0) / sd_g)^2
 * The widths were set from what they mean, not from scores: repeated rows of the study's base scatter by 4.4 %, the
 * points' means by 2.2 %, the sum itself misses some; attention is known to half of itself. */
#include "predict/points.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double noise = 0.03, sd_attention = 0.5, sd_operators = 0.05, sd_operators_calibrated = 0.02;
static const double least_term = 0.02; /* whatever the points say, time stays above 0 */

static bool same_place(const predict_point *a, const predict_point *b) {
    return a->stage == b->stage && a->batch == b->batch && a->prompt_tokens == b->prompt_tokens;
}

pleat_status predict_points_add(predict_points *points, const predict_point *row, pleat_error *error) {
    for (int i = 0; i < points->n; i++) {
        predict_point *p = &points->point[i];
        if (!same_place(p, row))
            continue;
        if (p->n_rows < PREDICT_MOST_ROWS)
            p->row[p->n_rows] = row->rate;
        p->rate += (row->rate - p->rate) / ++p->n_rows;
        return PLEAT_OK;
    }
    if (!mem_grow(&points->point, &points->cap, points->n + 1, sizeof(*row)))
        return err_set(error, PLEAT_EMEMORY, "no memory for %d measured points", points->n);
    predict_point *p = &points->point[points->n++];
    *p = *row;
    p->row[0] = row->rate;
    p->n_rows = 1;
    return PLEAT_OK;
}

void predict_points_free(predict_points *points) {
    free(points->point);
    *points = (predict_points){0};
}

bool predict_points_equal(const predict_points *a, const predict_points *b) {
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++)
        if (!same_place(&a->point[i], &b->point[i]) || a->point[i].rate != b->point[i].rate)
            return false;
    return true;
}

static void add_size(int list[PREDICT_MOST_SIZES], int *n, int value) {
    int i = 0;
    while (i < *n && list[i] < value)
        i++;
    if ((i < *n && list[i] == value) || *n == PREDICT_MOST_SIZES)
        return;
    memmove(list + i + 1, list + i, (size_t)(*n - i) * sizeof(*list));
    list[i] = value;
    ++*n;
}

void predict_points_sizes(const predict_points *points, predict_stage stage, int batch[PREDICT_MOST_SIZES],
                          int *n_batch, int prompt[PREDICT_MOST_SIZES], int *n_prompt) {
    *n_batch = *n_prompt = 0;
    for (int i = 0; i < points->n; i++) {
        if (points->point[i].stage != stage)
            continue;
        add_size(batch, n_batch, points->point[i].batch);
        add_size(prompt, n_prompt, points->point[i].prompt_tokens);
    }
}

const predict_point *predict_points_find(const predict_points *points, predict_stage stage, int batch,
                                         int prompt_tokens) {
    predict_point wanted = {.stage = stage, .batch = batch, .prompt_tokens = prompt_tokens};
    for (int i = 0; i < points->n; i++)
        if (same_place(&points->point[i], &wanted))
            return &points->point[i];
    return NULL;
}

static double rate_of(const predict_profile *profile, const predict_point *p) {
    return predict_rate(profile, p->stage, p->batch, p->prompt_tokens);
}

double predict_accuracy(const predict_profile *profile, const predict_points *points, predict_stage stage, int *n) {
    double error = 0;
    *n = 0;
    for (int i = 0; i < points->n; i++) {
        const predict_point *p = &points->point[i];
        if (p->stage != stage || p->fitted)
            continue;
        error += fabs(rate_of(profile, p) / p->rate - 1);
        ++*n;
    }
    return *n ? 1 - error / *n : 0;
}

/* ---- calibration ---- */

typedef struct quotient {
    double a;  /* predicted / measured */
    int group; /* its batch or length, for held_out */
} quotient;

static int falling(const void *x, const void *y) {
    const quotient *p = x, *q = y;
    return (p->a < q->a) - (p->a > q->a);
}

/* The factor on rates, from all quotients but one group's (0: all of them); they fall, so that 1 / a rises. */
static double best_factor(const quotient *list, int n, int without) {
    double all = 0, so_far = 0;
    for (int i = 0; i < n; i++)
        all += list[i].group == without ? 0 : list[i].a;
    for (int i = 0; i < n; i++) {
        so_far += list[i].group == without ? 0 : list[i].a;
        if (so_far >= all / 2 && all > 0)
            return 1 / list[i].a;
    }
    return 1;
}

static quotient *quotients(const predict_profile *profile, const predict_points *points, predict_stage stage,
                           bool by_length, int *n) {
    quotient *list = mem_alloc((size_t)points->n + 1, sizeof(*list));
    *n = 0;
    for (int i = 0; list && i < points->n; i++) {
        const predict_point *p = &points->point[i];
        if (p->stage == stage)
            list[(*n)++] = (quotient){rate_of(profile, p) / p->rate, by_length ? p->prompt_tokens : p->batch};
    }
    if (list)
        qsort(list, (size_t)*n, sizeof(*list), falling);
    return list;
}

void predict_calibrate(predict_profile *profile, const predict_points *points) {
    predict_profile_options options = predict_profile_options_of(profile);
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        int n;
        quotient *list = quotients(profile, points, stage, false, &n);
        double factor = n ? best_factor(list, n, 0) : 1;
        options.terms[stage].operators /= factor;
        options.terms[stage].attention /= factor;
        mem_free(list);
    }
    predict_profile_tune(profile, &options);
}

double predict_held_out(const predict_profile *profile, const predict_points *points, predict_stage stage,
                        bool by_length) {
    int n;
    bool several = false;
    double error = 0;
    quotient *list = quotients(profile, points, stage, by_length, &n);
    for (int i = 0; i < n; i++) {
        several = several || list[i].group != list[0].group;
        error += fabs(list[i].a * best_factor(list, n, list[i].group) - 1);
    }
    mem_free(list);
    return several ? 1 - error / n : 0;
}

/* ---- correction ---- */

typedef struct place {
    double share;
    predict_point *point;
} place;

static int by_share(const void *a, const void *b) {
    const place *p = a, *q = b;
    if (p->share != q->share)
        return (p->share > q->share) - (p->share < q->share);
    return p->point->batch != q->point->batch ? p->point->batch - q->point->batch
                                              : p->point->prompt_tokens - q->point->prompt_tokens;
}

pleat_status predict_points_pick(predict_points *points, const predict_profile *profile, uint64_t seed,
                                 pleat_error *error) {
    place *list = mem_alloc((size_t)points->n + 1, sizeof(*list));
    if (!list)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d measured points", points->n);
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        int n = 0;
        for (int i = 0; i < points->n; i++) {
            predict_point *p = &points->point[i];
            if ((int)p->stage != stage)
                continue;
            predict_parts parts = predict_rate_parts(profile, p->stage, p->batch, p->prompt_tokens);
            p->fitted = false;
            list[n++] = (place){parts.attention_ms[stage] / (parts.attention_ms[stage] + parts.operators_ms), p};
        }
        qsort(list, (size_t)n, sizeof(*list), by_share);
        int fifth = n > 1 && n < 5 ? 1 : (n + 2) / 5;
        for (int i = 0; i < fifth; i++) {
            int from = n * i / fifth, to = n * (i + 1) / fifth;
            double u = rng_uniform(seed, (uint64_t)stage, (uint64_t)i);
            list[from + (int)(u * (to - from))].point->fitted = true;
        }
    }
    mem_free(list);
    return PLEAT_OK;
}

static predict_terms corrected(const predict_profile *profile, const predict_points *points, predict_stage stage,
                               predict_terms prior, double sd) {
    double wf = noise * noise / (sd * sd), wg = noise * noise / (sd_attention * sd_attention);
    double ff = wf, fg = 0, gg = wg, f1 = wf * prior.operators, g1 = wg * prior.attention; /* normal equations */
    for (int i = 0; i < points->n; i++) {
        const predict_point *p = &points->point[i];
        if (p->stage != stage || !p->fitted)
            continue;
        predict_parts parts = predict_rate_parts(profile, stage, p->batch, p->prompt_tokens);
        double tokens = stage == PREDICT_PREFILL ? (double)p->batch * p->prompt_tokens : p->batch;
        double ms = 1000 * tokens / p->rate, f = parts.operators_ms / ms, g = parts.attention_ms[stage] / ms;
        ff += f * f;
        fg += f * g;
        gg += g * g;
        f1 += f;
        g1 += g;
    }
    double d = ff * gg - fg * fg; /* above 0: the prior is on the diagonal */
    return (predict_terms){fmax((f1 * gg - g1 * fg) / d, least_term), fmax((g1 * ff - f1 * fg) / d, least_term)};
}

void predict_correct(predict_profile *profile, const predict_points *points, bool calibrated) {
    predict_profile_options options = predict_profile_options_of(profile);
    for (int stage = 0; stage < PREDICT_STAGES; stage++)
        options.terms[stage] = corrected(profile, points, stage, options.terms[stage],
                                         calibrated ? sd_operators_calibrated : sd_operators);
    predict_profile_tune(profile, &options);
}
