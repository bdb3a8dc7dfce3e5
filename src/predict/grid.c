/* grid.c - whole steps fitted on measured throughput.
 *
 *     decode  ms = a + b * batch + c * batch * reads              a: weights read once, launches; c: a token's K and V
 *     prefill ms = a + b * tokens + c * pairs of query and key    of the whole batch; pairs as in profile.c
 *
 * a, b, c are 0 or more and make the squared relative error of the time least, so that a short prompt at batch 1 counts
 * as much as a long one at batch 8. With three unknowns the non-negative optimum is found by trying every subset of
 * them: the best feasible one is the answer.
 *
 * As rows of a profile: the operators' curve holds decode's line to 32 tokens (or to the largest batch) and prefill's
 * from twice that on, attention one row each, which the profile goes on from in proportion.
 *
 * Cost: 8 solves of at most 3 x 3 a stage. */
#include "predict/grid.h"
#include "base/memory.h"
#include "base/status.h"
#include <math.h>
#include <string.h>

enum { N_TERMS = 3, FEW_TOKENS = 32, MOST_TOKENS = 1 << 22, FAR_TOKENS = 1 << 20 };

typedef struct whole { /* a stage's fit */
    double term[N_TERMS];
    int n; /* points it was fitted on */
    int most_batch;
} whole;

/* The three terms of a point, each as a share of its measured time. */
static void shares(const predict_point *p, int budget, double out[N_TERMS]) {
    double batch = p->batch, tokens = batch * p->prompt_tokens, work = 0;
    if (p->stage == PREDICT_PREFILL) {
        work = tokens * (p->prompt_tokens + 1) / 2;
    } else {
        for (int i = 1; i <= PREDICT_DECODE_TOKENS; i++)
            work += batch * (budget ? fmin(p->prompt_tokens + i, budget) : p->prompt_tokens + i);
        work /= PREDICT_DECODE_TOKENS;
        tokens = batch;
    }
    double ms = 1000 * tokens / p->rate;
    out[0] = 1 / ms;
    out[1] = tokens / ms;
    out[2] = work / ms;
}

/* Solves the normal equations over the terms in `set`; false: they do not tell them apart. Gauss, in place. */
static bool solve(const double m[N_TERMS][N_TERMS], const double v[N_TERMS], unsigned set, double x[N_TERMS]) {
    double a[N_TERMS][N_TERMS + 1];
    int at[N_TERMS], n = 0;
    for (int i = 0; i < N_TERMS; i++)
        if (set >> i & 1)
            at[n++] = i;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++)
            a[i][k] = m[at[i]][at[k]] / sqrt(m[at[i]][at[i]] * m[at[k]][at[k]]);
        a[i][n] = v[at[i]] / sqrt(m[at[i]][at[i]]);
    }
    for (int i = 0; i < n; i++) { /* positive semi-definite with ones on the diagonal: pivots may only vanish */
        if (a[i][i] < 1e-9)
            return false;
        for (int k = i + 1; k < n; k++)
            for (int j = n; j >= i; j--)
                a[k][j] -= a[k][i] / a[i][i] * a[i][j];
    }
    memset(x, 0, N_TERMS * sizeof(*x));
    for (int i = n - 1; i >= 0; i--) {
        double rest = a[i][n];
        for (int k = i + 1; k < n; k++)
            rest -= a[i][k] * x[at[k]] * sqrt(m[at[k]][at[k]]);
        x[at[i]] = rest / a[i][i] / sqrt(m[at[i]][at[i]]);
        if (x[at[i]] < 0)
            return false;
    }
    return true;
}

static whole fit_stage(const predict_points *points, predict_stage stage, int budget) {
    whole w = {.n = 0};
    double m[N_TERMS][N_TERMS] = {{0}}, v[N_TERMS] = {0}, best = -1;
    for (int i = 0; i < points->n; i++) {
        const predict_point *p = &points->point[i];
        double share[N_TERMS];
        if (p->stage != stage || !p->fitted)
            continue;
        shares(p, budget, share);
        for (int k = 0; k < N_TERMS; k++) {
            v[k] += share[k];
            for (int j = 0; j < N_TERMS; j++)
                m[k][j] += share[k] * share[j];
        }
        w.n++;
        w.most_batch = p->batch > w.most_batch ? p->batch : w.most_batch;
    }
    for (unsigned set = 1; w.n && set < 1u << N_TERMS; set++) {
        double x[N_TERMS], gain = 0; /* at an optimum over a set the squared error is n - v x */
        if (!solve(m, v, set, x))
            continue;
        for (int k = 0; k < N_TERMS; k++)
            gain += v[k] * x[k];
        if (gain > best) {
            best = gain;
            memcpy(w.term, x, sizeof(x));
        }
    }
    return w;
}

static pleat_status add(predict_rows *rows, predict_part part, predict_stage stage, int tokens, int context, double ms,
                        pleat_error *error) {
    return predict_rows_add(
        rows, &(predict_row){.part = part, .stage = stage, .batch = 1, .tokens = tokens, .context = context, .ms = ms},
        error);
}

static double line(const whole *w, double tokens) {
    return fmax(w->term[0] + w->term[1] * tokens, 1e-9);
}

pleat_status predict_grid_fit(const predict_points *points, int budget, predict_rows *rows, pleat_error *error) {
    whole prefill = fit_stage(points, PREDICT_PREFILL, budget), decode = fit_stage(points, PREDICT_DECODE, budget);
    if (prefill.n < PREDICT_GRID_LEAST || decode.n < PREDICT_GRID_LEAST)
        return err_set(
            error, PLEAT_EINPUT,
            "%d measured points of prefill and %d of decode are too few to fit a step on, %d each are needed",
            prefill.n, decode.n, PREDICT_GRID_LEAST);
    int until = decode.most_batch > FEW_TOKENS ? decode.most_batch : FEW_TOKENS;
    pleat_status status = add(rows, PREDICT_LAYER, PREDICT_DECODE, 1, 0, line(&decode, 1), error);
    status = status ? status : add(rows, PREDICT_LAYER, PREDICT_DECODE, until, 0, line(&decode, until), error);
    for (int tokens = 2 * until; tokens <= MOST_TOKENS && !status; tokens *= 2)
        status = add(rows, PREDICT_LAYER, PREDICT_PREFILL, tokens, 0, line(&prefill, tokens), error);
    status = status ? status : add(rows, PREDICT_ATTENTION, PREDICT_PREFILL, 1, 0, prefill.term[2], error);
    status = status ? status : add(rows, PREDICT_ATTENTION, PREDICT_DECODE, 1, 0, 0, error);
    return status ? status
                  : add(rows, PREDICT_ATTENTION, PREDICT_DECODE, 1, FAR_TOKENS, decode.term[2] * FAR_TOKENS, error);
}

/* Fits without one batch size or length, and adds the errors on it to *sum. */
static bool score_fold(predict_points *points, int budget, predict_stage stage, bool by_length, int without,
                       double *sum, int *n) {
    predict_rows rows = {0};
    predict_profile *profile = NULL;
    int scored;
    for (int i = 0; i < points->n; i++) {
        predict_point *p = &points->point[i];
        p->fitted = (by_length ? p->prompt_tokens : p->batch) != without;
    }
    bool ok = !predict_grid_fit(points, budget, &rows, NULL) &&
              !predict_profile_make(&rows, &(predict_profile_options){.n_layer = 1, .budget = budget}, &profile, NULL);
    if (ok) {
        double accuracy = predict_accuracy(profile, points, stage, &scored);
        *sum += accuracy * scored;
        *n += scored;
    }
    predict_profile_free(profile);
    predict_rows_free(&rows);
    return ok;
}

double predict_grid_held_out(predict_points *points, int budget, predict_stage stage, bool by_length) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < points->n; i++) {
        const predict_point *p = &points->point[i];
        bool seen = p->stage != stage;
        for (int k = 0; k < i && !seen; k++) {
            const predict_point *q = &points->point[k];
            seen = q->stage == stage && (by_length ? q->prompt_tokens == p->prompt_tokens : q->batch == p->batch);
        }
        if (!seen && !score_fold(points, budget, stage, by_length, by_length ? p->prompt_tokens : p->batch, &sum, &n)) {
            n = 0;
            break;
        }
    }
    for (int i = 0; i < points->n; i++)
        points->point[i].fitted = false;
    return n ? sum / n : 0;
}
