/* policy_expected.c - Expected Attention (arXiv 2510.00636): what future queries are expected to attend to stays.
 *
 * Future queries of a head are taken as normal, with the mean mu and covariance S of the queries seen so far (before
 * their rotation, the first `sinks` positions left out), turned by the mean rotation R of the next `future` positions:
 * pair i is multiplied by rho_i = mean over p of exp(i theta_i p). With mu' = R mu and S' = R S R^T the expected weight
 * of a key is exp(z), z = k.mu' / sqrt(d) + k^T S' k / (2 d); a softmax over all but the sinks and the mean over the
 * group give p, and a token scores (p + eps) || v ||. Sinks stay; there is no recent window. In decode the cache is cut
 * every `every` steps by the queries since the last cut.
 *
 * The mean of R is taken before S' is formed, as published, which leaves out the spread that rotation adds. Keys are
 * taken from their mean before z is formed (a constant of z has no part in the softmax), since the large key biases of
 * some models would cost float its last digits. Under the modifier critical || v || is left out, as its own norm
 * weighs. Deviations: the queries of the whole span since the last cut, where kvpress keeps the newest 128 to 256.
 * Cost: d multiply-adds per element of K and query head at an event, d / 2 per element of Q all along. */
#include "kv/dots.h"
#include "kv/method.h"
#include <limits.h>
#include <math.h>
#include <string.h>

enum { KEEP, FUTURE, SINKS, EPS, COV, VNORM, EVERY };
enum { ROWS = 32 };

static const kv_param params[] = {
    {"keep", "tokens kept, the sinks included", NULL, 512, 1, 1 << 24, true},
    {"future", "positions ahead that queries are expected at", NULL, 512, 1, 1 << 20, true},
    {"sinks", "first positions that stay", NULL, 4, 0, 1 << 16, true},
    {"eps", "added to the expected attention", NULL, 0.01, 0, 1, false},
    {"cov", "1: with the queries' covariance", NULL, 1, 0, 1, true},
    {"vnorm", "1: weighed by the values' norms", NULL, 1, 0, 1, true},
    {"every", "steps between cuts while decoding; 0: none", NULL, 512, 0, 1 << 20, true},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

static kv_wants wants(const kv_config *c) {
    return (kv_wants){.flags = KV_WANT_MOMENTS | KV_WANT_ROWS, .skip_tokens = of(c, SINKS)};
}

static int budget(const kv_config *c, const kv_view *view) {
    bool rests = view->event == KV_AT_STEP && (of(c, EVERY) == 0 || view->n_steps % of(c, EVERY));
    return rests ? INT_MAX : of(c, KEEP);
}

static int bound_tokens(const kv_config *c) {
    return of(c, EVERY) ? of(c, KEEP) + of(c, EVERY) - 1 : INT_MAX;
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)il;
    (void)max_new;
    return n_prompt < of(c, KEEP) ? n_prompt : of(c, KEEP);
}

typedef struct work {
    double *mu, *linear, *s;     /* [d], [d], [d][d] */
    double rho[KV_MAX_HEAD_DIM]; /* pairs: real, imaginary */
    float *quadratic;            /* [d][d] */
    double *centre;              /* [d] mean key */
    float *k;                    /* [n][d] less the centre, in place of the opened rows */
    double *z, *p;               /* [n_slots] */
    float *product;              /* [ROWS][d] */
    int32_t *slot;               /* [n_slots] those that take part */
} work;

static size_t work_floats(const kv_config *c, const kv_model *model, int n_slots) {
    (void)c;
    size_t d = (size_t)model->head_dim;
    return 2 * (3 * d + d * d) + d * d + 5 * (size_t)n_slots + ROWS * d;
}

static work lay_out(const kv_config *c, const kv_view *view, int n_slots) {
    size_t d = (size_t)view->model->head_dim;
    double *base = (double *)kv_view_work(view, work_floats(c, view->model, n_slots));
    work w = {.mu = base, .linear = base + d, .centre = base + 2 * d, .s = base + 3 * d};
    w.z = w.s + d * d;
    w.p = w.z + n_slots;
    w.quadratic = (float *)(w.p + n_slots);
    w.product = w.quadratic + d * d;
    w.slot = (int32_t *)(w.product + ROWS * d);
    return w;
}

/* rho_i over the next `future` positions, magnitude included. */
static void mean_rotation(const kv_config *c, const kv_view *view, double *rho) {
    const kv_model *m = view->model;
    for (int i = 0; i < m->n_rot / 2; i++) {
        double theta = (double)m->layer[view->il].rope_inv[i], re = 0, im = 0;
        for (int p = view->n_seen; p < view->n_seen + of(c, FUTURE); p++) {
            re += cos(theta * p);
            im += sin(theta * p);
        }
        rho[2 * i] = re / of(c, FUTURE) * (double)m->rope_magnitude;
        rho[2 * i + 1] = im / of(c, FUTURE) * (double)m->rope_magnitude;
    }
}

/* x' = R x over elements `stride` apart. */
static void rotate(const kv_model *m, const double *rho, double *x, int stride) {
    for (int i = 0; i < m->n_rot / 2; i++) {
        int a = m->rope_neox ? i : 2 * i, b = m->rope_neox ? i + m->n_rot / 2 : 2 * i + 1;
        double xa = x[a * stride], xb = x[b * stride];
        x[a * stride] = xa * rho[2 * i] - xb * rho[2 * i + 1];
        x[b * stride] = xa * rho[2 * i + 1] + xb * rho[2 * i];
    }
}

/* Mean and covariance of a query head, turned; then the linear and quadratic parts of z for keys less their mean. */
static void expect_queries(const kv_config *c, const kv_view *view, int h, work *w) {
    const kv_model *m = view->model;
    int d = m->head_dim, n = view->moments.n > 0 ? view->moments.n : 1;
    const float *sum = view->moments.sum + (size_t)h * (size_t)d,
                *outer = view->moments.outer + (size_t)h * (size_t)(d * d);
    double scale = (double)m->score_scale;
    for (int i = 0; i < d; i++)
        w->mu[i] = (double)sum[i] / n;
    for (int i = 0; i < d; i++)
        for (int j = 0; j < d; j++)
            w->s[i * d + j] = of(c, COV) ? (double)outer[i * d + j] / n - w->mu[i] * w->mu[j] : 0;
    rotate(m, w->rho, w->mu, 1);
    for (int i = 0; i < d; i++)
        rotate(m, w->rho, w->s + i * d, 1);
    for (int j = 0; j < d; j++)
        rotate(m, w->rho, w->s + j, d);
    for (int i = 0; i < d; i++) {
        w->linear[i] = scale * w->mu[i];
        for (int j = 0; j < d; j++) {
            w->linear[i] += scale * scale * w->s[i * d + j] * w->centre[j];
            w->quadratic[i * d + j] = (float)(scale * scale / 2 * w->s[i * d + j]);
        }
    }
}

static void expect_scores(const kv_view *view, int n, work *w) {
    int d = view->model->head_dim;
    for (int from = 0, m; from < n; from += m) {
        m = n - from < ROWS ? n - from : ROWS;
        const float *k = w->k + (size_t)from * (size_t)d;
        kv_view_product(view, k, m, w->quadratic, d, d, w->product);
        for (int t = 0; t < m; t++) {
            double z = 0;
            for (int j = 0; j < d; j++)
                z += (double)k[t * d + j] * (w->linear[j] + (double)w->product[t * d + j]);
            w->z[from + t] = z;
        }
    }
}

/* Rows of the listed slots, less their mean, to the front of x. */
static void centre_rows(float *x, int d, const int32_t *slot, int n, double *centre) {
    memset(centre, 0, (size_t)d * sizeof(*centre));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++)
            centre[j] += (double)x[(size_t)slot[i] * (size_t)d + (size_t)j] / n;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++)
            x[(size_t)i * (size_t)d + (size_t)j] =
                (float)((double)x[(size_t)slot[i] * (size_t)d + (size_t)j] - centre[j]);
}

static void add_softmax(const double *z, int n, double share, double *p) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = z[i] > max ? z[i] : max;
    for (int i = 0; i < n; i++)
        sum += exp(z[i] - max);
    for (int i = 0; i < n; i++)
        p[i] += share * exp(z[i] - max) / sum;
}

static void score_lane(const kv_config *c, const kv_view *view, int ih, work *w, float *s) {
    int d = view->model->head_dim, group = view->model->n_head / view->model->n_head_kv, n = 0;
    int32_t *slot = w->slot;
    for (int i = 0; i < view->n_slots[ih]; i++)
        if (view->pos[ih][i] != KV_DEAD && view->pos[ih][i] >= of(c, SINKS))
            slot[n++] = i;
    w->k = (float *)kv_view_rows(view, ih, KV_K);
    centre_rows(w->k, d, slot, n, w->centre);
    memset(w->p, 0, (size_t)n * sizeof(*w->p));
    for (int g = 0; g < group; g++) {
        expect_queries(c, view, ih * group + g, w);
        expect_scores(view, n, w);
        add_softmax(w->z, n, 1.0 / group, w->p);
    }
    const float *v = of(c, VNORM) && !view->critical ? kv_view_rows(view, ih, KV_V) : NULL;
    for (int i = 0; i < view->n_slots[ih]; i++)
        s[i] = INFINITY;
    for (int i = 0; i < n; i++) {
        const float *value = v ? v + (size_t)slot[i] * (size_t)d : NULL;
        double weight = value ? sqrt(dot_double(value, value, d)) : 1;
        s[slot[i]] = (float)((w->p[i] + c->value[EPS]) * weight);
    }
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    int most = 0;
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        most = view->n_slots[ih] > most ? view->n_slots[ih] : most;
    work w = lay_out(c, view, most);
    mean_rotation(c, view, w.rho);
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        score_lane(c, view, ih, &w, s[ih]);
}

const kv_policy kv_policy_expected = {
    .name = "expected",
    .paper = "arXiv 2510.00636",
    .summary = "what future queries are expected to attend to",
    .params = params,
    .per_head_scores = true,
    .attention_scores = true,
    .shares_budget = true,
    .wants = wants,
    .budget = budget,
    .score = score,
    .bound_tokens = bound_tokens,
    .kept_tokens = kept_tokens,
    .work_floats = work_floats,
};
