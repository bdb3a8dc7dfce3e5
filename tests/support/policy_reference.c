/* policy_reference.c - see policy_reference.h. Plain loops over positions; nothing is shared with the code under test
 * but the structs that describe a method. */
#include "support/policy_reference.h"
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reference {
    const scene *s;
    kv_method method;
    bool *live[KV_MAX_HEADS];    /* [n] by position, new tokens included */
    double *acc[KV_MAX_HEADS];   /* [n] H2O's mass */
    double *last[KV_MAX_HEADS];  /* [n] of the newest query */
    double *score[KV_MAX_HEADS]; /* [n] INFINITY: stays */
    double *tie[KV_MAX_HEADS];
    bool *either[KV_MAX_HEADS]; /* [n] CriticalKV: as good as another at the edge of its first stage */
    int keep[KV_MAX_HEADS];
    double rho[KV_MAX_HEAD_DIM]; /* of this event's mean rotation */
    int moment_from, seen, evictions;
    char said[300];
};

scene scene_open(const kv_model *model, int il, int n) {
    size_t d = (size_t)model->head_dim;
    return (scene){.model = model,
                   .il = il,
                   .n = n,
                   .q = calloc((size_t)n * (size_t)model->n_head * d, sizeof(float)),
                   .k = calloc((size_t)n * (size_t)model->n_head_kv * d, sizeof(float)),
                   .v = calloc((size_t)n * (size_t)model->n_head_kv * d, sizeof(float))};
}

void scene_close(scene *s) {
    free(s->q);
    free(s->k);
    free(s->v);
}

static const float *q_of(const scene *s, int t, int h) {
    return s->q + ((size_t)t * (size_t)s->model->n_head + (size_t)h) * (size_t)s->model->head_dim;
}

static const float *k_of(const scene *s, int t, int ih) {
    return s->k + ((size_t)t * (size_t)s->model->n_head_kv + (size_t)ih) * (size_t)s->model->head_dim;
}

static const float *v_of(const scene *s, int t, int ih) {
    return s->v + ((size_t)t * (size_t)s->model->n_head_kv + (size_t)ih) * (size_t)s->model->head_dim;
}

static int group_of(const reference *r) {
    return r->s->model->n_head / r->s->model->n_head_kv;
}

/* A parameter of the policy, split or modifier by its name. */
static double param(const kv_param *params, const kv_config *c, const char *name) {
    for (int i = 0; params[i].name; i++)
        if (!strcmp(params[i].name, name))
            return c->value[i];
    assert(!"a parameter of this name");
    return 0;
}

static double of(const reference *r, const char *name) {
    return param(r->method.policy->params, &r->method.policy_config, name);
}

static bool is(const reference *r, const char *policy) {
    return !strcmp(r->method.policy->name, policy);
}

reference *reference_open(const scene *s, const kv_method *method) {
    reference *r = calloc(1, sizeof(*r));
    r->s = s;
    r->method = *method;
    r->moment_from = !strcmp(method->policy->name, "expected") ? (int)of(r, "sinks") : 0;
    for (int ih = 0; ih < s->model->n_head_kv; ih++) {
        r->live[ih] = calloc((size_t)s->n, sizeof(bool));
        r->acc[ih] = calloc((size_t)s->n, sizeof(double));
        r->last[ih] = calloc((size_t)s->n, sizeof(double));
        r->score[ih] = calloc((size_t)s->n, sizeof(double));
        r->tie[ih] = calloc((size_t)s->n, sizeof(double));
        r->either[ih] = calloc((size_t)s->n, sizeof(bool));
    }
    return r;
}

void reference_close(reference *r) {
    for (int ih = 0; ih < r->s->model->n_head_kv; ih++) {
        free(r->live[ih]);
        free(r->acc[ih]);
        free(r->last[ih]);
        free(r->score[ih]);
        free(r->tie[ih]);
        free(r->either[ih]);
    }
    free(r);
}

int reference_evictions(const reference *r) {
    return r->evictions;
}

/* ---- attention ---- */

static double logit(const reference *r, int h, int i, int t) {
    const float *q = q_of(r->s, i, h), *k = k_of(r->s, t, h / group_of(r));
    double sum = 0;
    for (int j = 0; j < r->s->model->head_dim; j++)
        sum += (double)q[j] * (double)k[j];
    return sum * (double)r->s->model->score_scale;
}

/* p[t] of query i on the live positions up to itself. */
static void probabilities(const reference *r, int h, int i, double *p) {
    double max = -INFINITY, sum = 0;
    const bool *live = r->live[h / group_of(r)];
    for (int t = 0; t <= i; t++) {
        p[t] = live[t] ? logit(r, h, i, t) : -INFINITY;
        max = p[t] > max ? p[t] : max;
    }
    for (int t = 0; t <= i; t++)
        sum += p[t] = exp(p[t] - max);
    for (int t = 0; t <= i; t++)
        p[t] /= sum;
}

static void take_live(reference *r, const kv_cache *cache, int ih) {
    const int32_t *pos = kv_cache_positions(cache, r->s->il, ih);
    memset(r->live[ih], 0, (size_t)r->s->n);
    for (int slot = 0; slot < kv_cache_slots(cache, r->s->il, ih); slot++)
        if (pos[slot] != KV_DEAD)
            r->live[ih][pos[slot]] = true;
}

void reference_step(reference *r, const kv_cache *cache, int from, int to) {
    double *p = malloc((size_t)r->s->n * sizeof(*p));
    bool mass = kv_method_wants(&r->method).flags & (KV_WANT_MASS | KV_WANT_LAST);
    for (int ih = 0; ih < r->s->model->n_head_kv; ih++) {
        take_live(r, cache, ih);
        memset(r->last[ih], 0, (size_t)r->s->n * sizeof(double));
        for (int t = from; t < to; t++)
            r->live[ih][t] = true;
        for (int g = 0; mass && g < group_of(r); g++)
            for (int i = from; i < to; i++) {
                probabilities(r, ih * group_of(r) + g, i, p);
                for (int t = 0; t <= i; t++) {
                    r->acc[ih][t] += p[t];
                    r->last[ih][t] += i + 1 == to ? p[t] : 0;
                }
            }
    }
    free(p);
    r->seen = to;
}

/* ---- formulas ---- */

void reference_lag(const double *x, const double *next, int lag, int d, double *f) {
    double sum = 0;
    for (int i = 0; i < lag; i++) {
        double z[KV_MAX_HEAD_DIM], mean = 0, square = 0;
        for (int j = 0; j < d; j++) {
            double low = INFINITY, high = -INFINITY;
            for (int k = 0; k < lag; k++) {
                low = fmin(low, next[k * d + j]);
                high = fmax(high, next[k * d + j]);
            }
            z[j] = high > low ? (x[i * d + j] - low) / (high - low) : 0;
            mean += z[j] / d;
        }
        for (int j = 0; j < d; j++)
            square += pow(z[j] - mean, 2);
        f[i] = exp(sqrt(square / (d - 1)));
        sum += f[i];
    }
    for (int i = 0; i < lag; i++)
        f[i] /= sum;
}

static double dot(const double *x, const double *y, int d) {
    double sum = 0;
    for (int j = 0; j < d; j++)
        sum += x[j] * y[j];
    return sum;
}

void reference_redundancy(const double *k, int n, int d, double tau, double *mean) {
    double *c = malloc((size_t)n * (size_t)n * sizeof(*c)), *size = malloc((size_t)n * sizeof(*size));
    for (int i = 0; i < n; i++)
        size[i] = sqrt(dot(k + i * d, k + i * d, d));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            c[i * n + j] = i == j ? 0 : dot(k + i * d, k + j * d, d) / (size[i] * size[j]);
    for (int i = 0; i < n; i++)
        for (int j = n - 1; j >= 0; j--)
            if (c[i * n + j] > tau) {
                c[i * n + j] = 0;
                break;
            }
    for (int j = 0; j < n; j++) {
        mean[j] = 0;
        for (int i = 0; i < n; i++)
            mean[j] += c[i * n + j] / n;
    }
    free(c);
    free(size);
}

void reference_rho(double theta, int from, int n, double *re, double *im) {
    *re = *im = 0;
    for (int p = from; p < from + n; p++) {
        *re += cos(theta * p) / n;
        *im += sin(theta * p) / n;
    }
}

void reference_expected(const double *k, int n, int d, const double *mu, const double *s, double *z, double *p) {
    double max = -INFINITY, sum = 0;
    for (int t = 0; t < n; t++) {
        z[t] = dot(k + t * d, mu, d) / sqrt(d);
        for (int i = 0; i < d; i++)
            z[t] += k[t * d + i] * dot(s + i * d, k + t * d, d) / (2.0 * d);
        max = fmax(max, z[t]);
    }
    for (int t = 0; t < n; t++)
        sum += p[t] = exp(z[t] - max);
    for (int t = 0; t < n; t++)
        p[t] /= sum;
}

void reference_keydiff(const double *k, int n, int d, double *score) {
    double anchor[KV_MAX_HEAD_DIM] = {0};
    for (int t = 0; t < n; t++)
        for (int j = 0; j < d; j++)
            anchor[j] += k[t * d + j] / sqrt(dot(k + t * d, k + t * d, d)) / n;
    for (int t = 0; t < n; t++)
        score[t] = -dot(k + t * d, anchor, d) / sqrt(dot(k + t * d, k + t * d, d) * dot(anchor, anchor, d));
}

/* ---- scores by policy ---- */

/* Live positions of a head and their keys (or values) in double. */
static int gather(const reference *r, int ih, bool values, int *pos, double *x) {
    int n = 0, d = r->s->model->head_dim;
    for (int t = 0; t < r->seen; t++) {
        if (!r->live[ih][t])
            continue;
        for (int j = 0; x && j < d; j++)
            x[n * d + j] = (double)(values ? v_of : k_of)(r->s, t, ih)[j];
        pos[n++] = t;
    }
    return n;
}

static void pool(const double *x, int n, int kernel, bool average, double *y) {
    for (int i = 0; i < n; i++) {
        double most = -INFINITY, sum = 0;
        for (int k = i - kernel / 2; k <= i + kernel / 2; k++) {
            most = k >= 0 && k < n ? fmax(most, x[k]) : most;
            sum += k >= 0 && k < n ? x[k] : 0;
        }
        y[i] = average ? sum / kernel : most;
    }
}

static void score_votes(reference *r, int ih, int window, int kernel, bool average, bool sum) {
    int *pos = malloc((size_t)r->seen * sizeof(*pos)), n = gather(r, ih, false, pos, NULL), n_old = 0;
    double *p = malloc((size_t)r->seen * sizeof(*p)), *vote = calloc((size_t)r->seen, sizeof(*vote)),
           *pooled = malloc((size_t)r->seen * sizeof(*pooled));
    int w = window < r->seen ? window : r->seen;
    for (int g = 0; g < group_of(r); g++)
        for (int i = r->seen - w; i < r->seen; i++) {
            probabilities(r, ih * group_of(r) + g, i, p);
            for (int k = 0; k < n && pos[k] <= i; k++)
                vote[k] += p[pos[k]] / (sum ? w : w * group_of(r));
        }
    while (n_old < n && pos[n_old] < r->seen - window)
        n_old++;
    pool(vote, n_old, kernel, average, pooled);
    for (int k = 0; k < n; k++) {
        r->score[ih][pos[k]] = k < n_old ? pooled[k] : INFINITY;
        r->tie[ih][pos[k]] = vote[k];
    }
    free(pos);
    free(p);
    free(vote);
    free(pooled);
}

static void score_h2o(reference *r, int ih) {
    for (int t = 0; t < r->seen; t++) {
        r->score[ih][t] = r->acc[ih][t] / (of(r, "norm") != 0 ? r->seen - t : 1);
        if (t >= r->seen - of(r, "recent"))
            r->score[ih][t] = INFINITY;
    }
}

static void score_tova(reference *r, int ih) {
    for (int t = 0; t < r->seen; t++) {
        r->score[ih][t] = 0;
        for (int other = 0; other < r->s->model->n_head_kv; other++)
            r->score[ih][t] += r->last[other][t] / r->s->model->n_head;
        if (of(r, "protect") != 0 && t == r->seen - 1)
            r->score[ih][t] = INFINITY;
    }
}

/* The query of a head before its rotation. */
static void unrotated(const reference *r, int t, int h, double *q) {
    const kv_model *m = r->s->model;
    const float *x = q_of(r->s, t, h);
    for (int j = 0; j < m->head_dim; j++)
        q[j] = (double)x[j];
    for (int i = 0; i < m->n_rot / 2; i++) {
        int a = m->rope_neox ? i : 2 * i, b = m->rope_neox ? i + m->n_rot / 2 : 2 * i + 1;
        double angle = (double)m->layer[r->s->il].rope_inv[i] * t, c = cos(angle), s = sin(angle), qa = q[a], qb = q[b];
        q[a] = (qa * c + qb * s) / (double)m->rope_magnitude;
        q[b] = (-qa * s + qb * c) / (double)m->rope_magnitude;
    }
}

/* x := R x, elements stride apart. */
static void turn(const reference *r, double *x, int stride) {
    const kv_model *m = r->s->model;
    for (int i = 0; i < m->n_rot / 2; i++) {
        int a = (m->rope_neox ? i : 2 * i) * stride, b = (m->rope_neox ? i + m->n_rot / 2 : 2 * i + 1) * stride;
        double re = r->rho[2 * i], im = r->rho[2 * i + 1], xa = x[a], xb = x[b], magnitude = (double)m->rope_magnitude;
        x[a] = magnitude * (re * xa - im * xb);
        x[b] = magnitude * (im * xa + re * xb);
    }
}

static void query_moments(const reference *r, int h, double *mu, double *s) {
    int d = r->s->model->head_dim, n = r->seen - r->moment_from;
    double q[KV_MAX_HEAD_DIM];
    memset(mu, 0, (size_t)d * sizeof(*mu));
    memset(s, 0, (size_t)(d * d) * sizeof(*s));
    for (int t = r->moment_from; t < r->seen; t++) {
        unrotated(r, t, h, q);
        for (int i = 0; i < d; i++)
            mu[i] += q[i] / n;
    }
    for (int t = r->moment_from; t < r->seen && of(r, "cov") != 0; t++) {
        unrotated(r, t, h, q);
        for (int i = 0; i < d; i++)
            for (int j = 0; j < d; j++)
                s[i * d + j] += (q[i] - mu[i]) * (q[j] - mu[j]) / n;
    }
    turn(r, mu, 1);
    for (int i = 0; i < d; i++)
        turn(r, s + i * d, 1);
    for (int i = 0; i < d; i++)
        turn(r, s + i, d);
}

static void score_expected(reference *r, int ih) {
    int d = r->s->model->head_dim, sinks = (int)of(r, "sinks"), n, n_sinks = 0;
    int *pos = malloc((size_t)r->seen * sizeof(*pos));
    double *k = malloc((size_t)(r->seen * d) * sizeof(*k)), *z = malloc((size_t)r->seen * sizeof(*z)),
           *p = malloc((size_t)r->seen * sizeof(*p)), mu[KV_MAX_HEAD_DIM], *s = malloc((size_t)(d * d) * sizeof(*s));
    for (int i = 0; ih == 0 && i < r->s->model->n_rot / 2; i++)
        reference_rho((double)r->s->model->layer[r->s->il].rope_inv[i], r->seen, (int)of(r, "future"), &r->rho[2 * i],
                      &r->rho[2 * i + 1]);
    n = gather(r, ih, false, pos, k);
    while (n_sinks < n && pos[n_sinks] < sinks)
        n_sinks++;
    for (int t = 0; t < r->seen; t++)
        r->score[ih][t] = t < sinks ? INFINITY : 0;
    for (int g = 0; g < group_of(r); g++) {
        query_moments(r, ih * group_of(r) + g, mu, s);
        reference_expected(k + n_sinks * d, n - n_sinks, d, mu, s, z, p);
        for (int i = n_sinks; i < n; i++)
            r->score[ih][pos[i]] += p[i - n_sinks] / group_of(r);
    }
    for (int i = n_sinks; i < n; i++) {
        double size = 0;
        for (int j = 0; j < d; j++)
            size += pow((double)v_of(r->s, pos[i], ih)[j], 2);
        bool weighed = of(r, "vnorm") != 0 && !r->method.critical;
        r->score[ih][pos[i]] = (r->score[ih][pos[i]] + of(r, "eps")) * (weighed ? sqrt(size) : 1);
    }
    free(pos);
    free(k);
    free(z);
    free(p);
    free(s);
}

static void score_keys(reference *r, int ih) {
    int d = r->s->model->head_dim, *pos = malloc((size_t)r->seen * sizeof(*pos));
    double *k = malloc((size_t)(r->seen * d) * sizeof(*k)), *score = malloc((size_t)r->seen * sizeof(*score));
    int n = gather(r, ih, false, pos, k);
    if (is(r, "keydiff"))
        reference_keydiff(k, n, d, score);
    for (int i = 0; i < n; i++)
        r->score[ih][pos[i]] = is(r, "keydiff") ? score[i] : -sqrt(dot(k + i * d, k + i * d, d));
    for (int t = 0; is(r, "knorm") && t < r->seen; t++)
        if (t >= r->seen - of(r, "recent"))
            r->score[ih][t] = INFINITY;
    free(pos);
    free(k);
    free(score);
}

static void score_lag(reference *r, int ih) {
    int d = r->s->model->head_dim, lag = (int)of(r, "lag"), sinks = (int)of(r, "sinks"),
        keep = (int)floor(of(r, "ratio") * lag);
    double *x = malloc((size_t)(2 * lag * d) * sizeof(*x)), *f = malloc((size_t)(2 * lag) * sizeof(*f));
    for (int t = 0; t < r->seen; t++)
        r->score[ih][t] = INFINITY;
    for (int from = sinks; from + 2 * lag <= r->seen; from += lag) {
        int n_live = 0;
        for (int t = from; t < from + lag; t++)
            n_live += r->live[ih][t];
        if (n_live < lag)
            continue;
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < 2 * lag * d; i++)
                x[i] = (double)(side ? v_of : k_of)(r->s, from + i / d, ih)[i % d];
            reference_lag(x, x + lag * d, lag, d, f + side * lag);
        }
        for (int i = 0; i < lag; i++) {
            int better = 0;
            for (int k = 0; k < lag; k++)
                better += f[k] + f[lag + k] > f[i] + f[lag + i];
            r->score[ih][from + i] = better < keep ? 2 : f[i] + f[lag + i]; /* 2: above any score */
        }
    }
    free(x);
    free(f);
}

static void score_rkv(reference *r, int ih) {
    int d = r->s->model->head_dim, window = (int)of(r, "window"), *pos = malloc((size_t)r->seen * sizeof(*pos));
    double *k = malloc((size_t)(r->seen * d) * sizeof(*k)), *mean = malloc((size_t)r->seen * sizeof(*mean)),
           *vote = calloc((size_t)r->seen, sizeof(*vote)), *row = malloc((size_t)r->seen * sizeof(*row)),
           *pooled = malloc((size_t)r->seen * sizeof(*pooled)), lambda = of(r, "lambda"), sum = 0;
    int n = gather(r, ih, false, pos, k), n_old = 0, w = window < r->seen ? window : r->seen;
    while (n_old < n && pos[n_old] < r->seen - window)
        n_old++;
    for (int i = r->seen - w; i < r->seen; i++) {
        double max = -INFINITY, all = 0;
        for (int t = 0; t < n_old; t++) {
            row[t] = -INFINITY;
            for (int g = 0; g < group_of(r); g++)
                row[t] = fmax(row[t], logit(r, ih * group_of(r) + g, i, pos[t]));
            max = fmax(max, row[t]);
        }
        for (int t = 0; t < n_old; t++)
            all += row[t] = exp(row[t] - max);
        for (int t = 0; t < n_old; t++)
            vote[t] += row[t] / all / w;
    }
    pool(vote, n_old, (int)of(r, "kernel"), false, pooled);
    reference_redundancy(k, n, d, of(r, "tau"), mean);
    for (int t = 0; t < n; t++)
        sum += exp(mean[t]);
    for (int t = 0; t < n; t++)
        r->score[ih][pos[t]] = t < n_old ? lambda * pooled[t] - (1 - lambda) * exp(mean[t]) / sum : INFINITY;
    free(pos);
    free(k);
    free(mean);
    free(vote);
    free(row);
    free(pooled);
}

/* Sinks stay, of the others the newest: when there are too many, the oldest that is no sink leaves. */
static void score_streaming(reference *r, int ih) {
    for (int t = 0; t < r->seen; t++)
        r->score[ih][t] = t < of(r, "sinks") ? INFINITY : t + 1;
}

static void score_lane(reference *r, int ih, kv_event event) {
    memset(r->tie[ih], 0, (size_t)r->s->n * sizeof(double));
    memset(r->either[ih], 0, (size_t)r->s->n * sizeof(bool));
    if (is(r, "h2o"))
        score_h2o(r, ih);
    else if (is(r, "snapkv") && event == KV_AT_STEP)
        for (int t = 0; t < r->seen; t++)
            r->score[ih][t] = t >= r->seen - of(r, "window") ? INFINITY : r->acc[ih][t];
    else if (is(r, "snapkv"))
        score_votes(r, ih, (int)of(r, "window"), (int)of(r, "kernel"), of(r, "pool") != 0, false);
    else if (is(r, "rocket"))
        score_votes(r, ih, (int)of(r, "window"), (int)of(r, "kernel"), false, true);
    else if (is(r, "tova"))
        score_tova(r, ih);
    else if (is(r, "expected"))
        score_expected(r, ih);
    else if (is(r, "keydiff") || is(r, "knorm"))
        score_keys(r, ih);
    else if (is(r, "lagkv"))
        score_lag(r, ih);
    else if (is(r, "rkv"))
        score_rkv(r, ih);
    else if (is(r, "streaming"))
        score_streaming(r, ih);
    else
        assert(!"a policy that the reference knows");
}

/* ---- budgets ---- */

/* What is left per lane; INT_MAX: no event. */
static int budget(const reference *r, kv_event event, int n_steps, int max_new) {
    bool step = event == KV_AT_STEP;
    if (is(r, "h2o"))
        return (int)(of(r, "heavy") + of(r, "recent"));
    if (is(r, "streaming")) /* with the next token it is sinks + recent, as where room is made before appending */
        return (int)(of(r, "sinks") + of(r, "recent")) - 1;
    if (is(r, "tova"))
        return (int)of(r, "keep");
    if (is(r, "snapkv"))
        return step && of(r, "decode") == 0 ? INT_MAX : (int)of(r, "keep");
    if (is(r, "knorm"))
        return step || r->s->il < of(r, "skip") ? INT_MAX : (int)of(r, "keep");
    if (is(r, "keydiff"))
        return step && n_steps % 64 ? INT_MAX : (int)of(r, "keep");
    if (is(r, "expected"))
        return step && n_steps % (int)of(r, "every") ? INT_MAX : (int)of(r, "keep");
    if (is(r, "rkv"))
        return step && n_steps % (int)of(r, "buffer") ? INT_MAX : (int)of(r, "keep");
    if (is(r, "rocket")) {
        double b = of(r, "budget"), s = r->seen, c = fmax(1, s / b), alpha = fmin(0.2 + 0.06 * log2(c), 0.8);
        double capacity = fmax(floor(s / pow(c, alpha)), fmin(2 * max_new, s));
        return step ? INT_MAX : (int)fmax(of(r, "window"), fmax(capacity - max_new, floor(capacity / 2)));
    }
    return 0; /* lagkv: what is not forced */
}

/* Newest tokens that stay whatever they score, which Pyramid leaves out of what it shares. */
static int newest(const reference *r) {
    static const struct {
        const char *policy, *parameter;
    } list[] = {{"h2o", "recent"},    {"snapkv", "window"}, {"rkv", "window"},
                {"rocket", "window"}, {"knorm", "recent"},  {"tova", "protect"}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        if (is(r, list[i].policy))
            return (int)of(r, list[i].parameter);
    return 0;
}

static int pyramid(const reference *r, int budget_tokens) {
    const kv_model *m = r->s->model;
    int layer = 0, n_layers = 0, sum = 0, b = budget_tokens - newest(r);
    for (int il = 0; il < m->n_layer; il++) {
        layer += il < r->s->il && !m->layer[il].window_tokens;
        n_layers += !m->layer[il].window_tokens;
    }
    if (r->seen <= budget_tokens || n_layers < 2)
        return budget_tokens;
    double low = b / param(r->method.split->params, &r->method.split_config, "beta"), high = 2.0 * b - low;
    if (high > r->seen - newest(r)) {
        high = r->seen - newest(r);
        low = 2.0 * b - high;
    }
    double rest[KV_MAX_LAYERS];
    int tokens[KV_MAX_LAYERS];
    for (int i = 0; i < n_layers; i++) {
        rest[i] = high - i * (high - low) / (n_layers - 1);
        tokens[i] = (int)floor(rest[i] + 1e-9);
        rest[i] -= tokens[i];
        sum += tokens[i];
    }
    for (; sum < n_layers * b; sum++) {
        int best = 0;
        for (int i = 1; i < n_layers; i++)
            best = rest[i] > rest[best] + 1e-12 ? i : best;
        tokens[best]++;
        rest[best] = -1;
    }
    return tokens[layer] + newest(r);
}

/* Caps of Ada-KV. A head of fewer tokens than its cap keeps them all; the others share the rest in turn. */
static void adakv(reference *r, int budget_tokens) {
    int n_heads = r->s->model->n_head_kv, total = n_heads * budget_tokens, sum = 0, forced[KV_MAX_HEADS] = {0},
        free_tokens[KV_MAX_HEADS] = {0};
    double weight[KV_MAX_HEADS], exact[KV_MAX_HEADS],
        alpha = param(r->method.split->params, &r->method.split_config, "alpha");
    for (int ih = 0; ih < n_heads; ih++)
        for (int t = 0; t < r->seen; t++) {
            forced[ih] += r->live[ih][t] && r->score[ih][t] == INFINITY;
            free_tokens[ih] += r->live[ih][t] && r->score[ih][t] != INFINITY;
        }
    for (int ih = 0; ih < n_heads; ih++)
        total -= forced[ih];
    for (int ih = 0; ih < n_heads; ih++) {
        double all = 0, held = 0;
        weight[ih] = 1;
        if (param(r->method.split->params, &r->method.split_config, "normalize") == 0)
            continue;
        for (int t = 0; t < r->seen; t++) {
            int better = 0;
            if (!r->live[ih][t] || r->score[ih][t] == INFINITY)
                continue;
            for (int k = 0; k < r->seen; k++)
                better += r->live[ih][k] && r->score[ih][k] != INFINITY &&
                          (r->score[ih][k] > r->score[ih][t] || (r->score[ih][k] == r->score[ih][t] && k < t));
            all += r->score[ih][t];
            held += better < total / n_heads ? r->score[ih][t] : 0;
        }
        weight[ih] = held / all;
    }
    for (int ih = 0; ih < n_heads; ih++) {
        int count = 0;
        for (int t = 0; t < r->seen; t++) {
            int better = 0;
            if (!r->live[ih][t] || r->score[ih][t] == INFINITY)
                continue;
            double x = r->score[ih][t] * weight[ih];
            for (int o = 0; o < n_heads; o++)
                for (int k = 0; k < r->seen; k++)
                    if (r->live[o][k] && r->score[o][k] != INFINITY) {
                        double y = r->score[o][k] * weight[o];
                        better += y > x || (y == x && (o < ih || (o == ih && k < t)));
                    }
            count += better < total;
        }
        exact[ih] = (1 - alpha) * count + floor(alpha * total / n_heads);
        r->keep[ih] = (int)floor(exact[ih] + 1e-9);
        exact[ih] -= r->keep[ih];
        r->keep[ih] = r->keep[ih] < free_tokens[ih] ? r->keep[ih] : free_tokens[ih];
        sum += r->keep[ih];
    }
    for (; sum < total; sum++) {
        int best = -1;
        for (int ih = 0; ih < n_heads; ih++)
            if (r->keep[ih] < free_tokens[ih] && (best < 0 || exact[ih] > exact[best] + 1e-9))
                best = ih;
        if (best < 0)
            break;
        r->keep[best]++;
        exact[best] -= 1;
    }
    for (int ih = 0; ih < n_heads; ih++)
        r->keep[ih] += forced[ih];
}

/* ---- CriticalKV ---- */

#define FIRST_STAGE 1e38

static double value_norm(const reference *r, int ih, int t, const double *wo) {
    int d = r->s->model->head_dim, e = r->s->model->n_embd;
    const float *v = v_of(r->s, t, ih);
    double sum = 0;
    if (param(kv_critical_params, &r->method.critical_config, "vnorm") != 0) {
        for (int j = 0; j < d; j++)
            sum += (double)v[j] * (double)v[j];
        return sqrt(sum);
    }
    for (int g = 0; g < group_of(r); g++)
        for (int i = 0; i < e; i++) {
            double y = 0;
            for (int j = 0; j < d; j++)
                y += (double)v[j] * wo[(g * e + i) * d + j];
            sum += fabs(y) / group_of(r);
        }
    return sum;
}

/* t should stay before k, by more than rounding. */
static bool clearly_better(const reference *r, int ih, int t, int k) {
    double a = r->score[ih][t], b = r->score[ih][k], size = fmax(fabs(a), fabs(b));
    if (a == INFINITY || b == INFINITY)
        return a == INFINITY && b != INFINITY;
    if (fabs(a - b) > 1e-6 * size)
        return a > b;
    if (a != b)
        return false;
    a = r->tie[ih][t];
    b = r->tie[ih][k];
    if (fabs(a - b) > 1e-6 * fmax(fabs(a), fabs(b)))
        return a > b;
    return a == b && t < k;
}

/* Turns scores into the two stages' order. */
static void critical(reference *r, int ih) {
    const kv_model *m = r->s->model;
    size_t part = (size_t)(m->n_embd * m->head_dim);
    double *wo = malloc((size_t)group_of(r) * part * sizeof(*wo)),
           *weighed = malloc((size_t)r->seen * sizeof(*weighed)),
           alpha = param(kv_critical_params, &r->method.critical_config, "alpha"),
           eps = param(kv_critical_params, &r->method.critical_config, "eps");
    float *rows = malloc(part * sizeof(*rows));
    int n_forced = 0, n_free = 0, last_in = -1, first_out = -1;
    for (int g = 0; g < group_of(r); g++) {
        m->open_wo(m->owner, r->s->il, ih * group_of(r) + g, rows);
        for (size_t i = 0; i < part; i++)
            wo[(size_t)g * part + i] = (double)rows[i];
    }
    for (int t = 0; t < r->seen; t++) {
        n_forced += r->live[ih][t] && r->score[ih][t] == INFINITY;
        n_free += r->live[ih][t] && r->score[ih][t] != INFINITY;
    }
    int b = r->keep[ih] - n_forced, n_first = (int)floor(alpha * b);
    for (int t = 0; b > 0 && b < n_free && t < r->seen; t++) {
        int better = 0;
        weighed[t] = r->score[ih][t];
        if (!r->live[ih][t] || r->score[ih][t] == INFINITY)
            continue;
        for (int k = 0; k < r->seen; k++)
            if (r->live[ih][k] && r->score[ih][k] != INFINITY && k != t) {
                double a = r->score[ih][k] - r->score[ih][t], tie = r->tie[ih][k] - r->tie[ih][t];
                better += a > 0 || (a == 0 && (tie > 0 || (tie == 0 && k < t)));
            }
        weighed[t] = better < n_first ? FIRST_STAGE : (r->score[ih][t] + eps) * value_norm(r, ih, t, wo);
        last_in = better == n_first - 1 ? t : last_in;
        first_out = better == n_first ? t : first_out;
    }
    for (int t = 0; last_in >= 0 && first_out >= 0 && t < r->seen; t++)
        if (r->live[ih][t] && r->score[ih][t] != INFINITY) {
            bool in = weighed[t] == FIRST_STAGE;
            r->either[ih][t] = in ? !clearly_better(r, ih, t, first_out) : !clearly_better(r, ih, last_in, t);
            if (in && r->either[ih][t])
                weighed[t] = (r->score[ih][t] + eps) * value_norm(r, ih, t, wo);
        }
    if (b > 0 && b < n_free)
        memcpy(r->score[ih], weighed, (size_t)r->seen * sizeof(*weighed));
    free(wo);
    free(weighed);
    free(rows);
}

/* ---- judgement ---- */

static const char *judge(reference *r, const kv_cache *cache, int ih) {
    const int32_t *pos = kv_cache_positions(cache, r->s->il, ih);
    bool *kept = calloc((size_t)r->seen, sizeof(*kept));
    int n_kept = 0, n_live = 0, n_forced = 0, worst = -1, best = -1;
    for (int slot = 0; slot < kv_cache_slots(cache, r->s->il, ih); slot++)
        if (pos[slot] != KV_DEAD) {
            kept[pos[slot]] = true;
            n_kept++;
        }
    for (int t = 0; t < r->seen; t++) {
        if (!r->live[ih][t])
            continue;
        if (r->either[ih][t] && kept[t])
            r->score[ih][t] = FIRST_STAGE;
        n_live++;
        n_forced += r->score[ih][t] == INFINITY || r->score[ih][t] == 2;
        if (kept[t] && (worst < 0 || clearly_better(r, ih, worst, t)))
            worst = t;
        if (!kept[t] && (best < 0 || clearly_better(r, ih, t, best)))
            best = t;
    }
    int want = r->keep[ih] > n_forced ? r->keep[ih] : n_forced;
    want = want < n_live ? want : n_live;
    r->evictions += n_kept < n_live;
    free(kept);
    if (n_kept != want) {
        snprintf(r->said, sizeof(r->said), "layer %d, head %d, %d seen: %d of %d tokens are kept, not %d", r->s->il, ih,
                 r->seen, n_kept, n_live, want);
        return r->said;
    }
    if (best >= 0 && worst >= 0 && clearly_better(r, ih, best, worst)) {
        snprintf(r->said, sizeof(r->said),
                 "layer %d, head %d, %d seen: token %d (%.9g, %.9g) left, token %d (%.9g, %.9g) stayed", r->s->il, ih,
                 r->seen, best, r->score[ih][best], r->tie[ih][best], worst, r->score[ih][worst], r->tie[ih][worst]);
        return r->said;
    }
    return NULL;
}

const char *reference_check(reference *r, const kv_cache *cache, kv_event event, int n_prompt, int n_steps,
                            int max_new) {
    int n_heads = r->s->model->n_head_kv, b = budget(r, event, n_steps, max_new), evictions = r->evictions;
    const char *said = NULL;
    (void)n_prompt;
    for (int ih = 0; ih < n_heads; ih++) {
        for (int t = 0; t < r->seen; t++)
            r->score[ih][t] = b == INT_MAX ? INFINITY : 0;
        if (b != INT_MAX)
            score_lane(r, ih, event);
    }
    if (b != INT_MAX && !strcmp(r->method.split->name, "pyramid"))
        b = pyramid(r, b);
    for (int ih = 0; ih < n_heads; ih++)
        r->keep[ih] = b;
    if (b != INT_MAX && !strcmp(r->method.split->name, "adakv"))
        adakv(r, b);
    for (int ih = 0; ih < n_heads && !said; ih++) {
        if (r->method.critical && b != INT_MAX)
            critical(r, ih);
        said = judge(r, cache, ih);
        for (int t = 0; t < r->seen; t++) /* mass of what left is gone */
            r->acc[ih][t] = r->live[ih][t] ? r->acc[ih][t] : 0;
    }
    if (r->evictions > evictions && event != KV_AT_GRID)
        r->moment_from = r->seen;
    return said;
}
