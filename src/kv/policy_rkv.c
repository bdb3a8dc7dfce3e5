/* policy_rkv.c - R-KV (arXiv 2505.24133, section 3): importance against redundancy, while a long answer is written.
 *
 * Every `buffer` generated tokens each head is cut to `keep`: the newest `window` stay, the others by
 * Z = lambda I - (1 - lambda) R.
 *   I: scores of the newest `window` queries, the greatest over the group's heads taken before one softmax over the
 * older keys only; mean over the queries; pooled by maximum over `kernel` neighbours. R: cosines between all keys of
 * the head, a key's own left out; in each row the newest key whose cosine is above tau is left out too, so that of
 * several alike the newest is not punished; column means; softmax over all slots. The prompt is cut by the same rule if
 * it is longer than `keep`.
 *
 * Deviations: lambda 0.1 as in the paper (the authors' code has 0.07); a row without any cosine above tau leaves
 * nothing out (in their code it leaves out column 0, which shields slot 0 by accident). Cost: n^2 d multiply-adds per
 * head for n slots: for keep + buffer slots little, for a long prompt much. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/dots.h"
#include "kv/pooling.h"
#include <limits.h>
#include <math.h>
#include <string.h>

enum { KEEP, WINDOW, BUFFER, LAMBDA, TAU, KERNEL };
enum { ROWS = 64 };

static const kv_param params[] = {
    {"keep", "tokens kept, the window included", NULL, 512, 1, 1 << 24, true},
    {"window", "newest queries that vote, and tokens that stay", NULL, 8, 1, 512, true},
    {"buffer", "generated tokens between two cuts", NULL, 128, 1, 1 << 20, true},
    {"lambda", "weight of importance", NULL, 0.1, 0, 1, false},
    {"tau", "cosine above which keys are alike", NULL, 0.5, -1, 1, false},
    {"kernel", "neighbours pooled, odd", NULL, 7, 1, 255, true},
    {0},
};

static int of(const kv_config *c, int param) {
    return (int)c->value[param];
}

static pleat_status check(const kv_config *c, pleat_error *error) {
    if (of(c, KERNEL) % 2 == 0)
        return err_set(error, PLEAT_EINPUT, "rkv: kernel=%d is not odd", of(c, KERNEL));
    if (of(c, KEEP) < of(c, WINDOW))
        return err_set(error, PLEAT_EINPUT, "rkv: keep=%d is less than its window of %d tokens", of(c, KEEP),
                       of(c, WINDOW));
    return PLEAT_OK;
}

static kv_wants wants(const kv_config *c) {
    return (kv_wants){.flags = KV_WANT_WINDOW_Q | KV_WANT_ROWS, .window_tokens = of(c, WINDOW)};
}

static int budget(const kv_config *c, const kv_view *view) {
    return view->event == KV_AT_STEP && view->n_steps % of(c, BUFFER) ? INT_MAX : of(c, KEEP);
}

static int bound_tokens(const kv_config *c) {
    return of(c, KEEP) + of(c, BUFFER) - 1;
}

static int kept_tokens(const kv_config *c, int il, int n_prompt, int max_new) {
    (void)il;
    (void)max_new;
    return n_prompt < of(c, KEEP) ? n_prompt : of(c, KEEP);
}

static int window_tokens(const kv_config *c) {
    return of(c, WINDOW);
}

/* Column sums (double), order, importance, redundancy, one row; then logits, or unit keys and a block of cosines. */
static size_t work_floats(const kv_config *c, const kv_model *model, int n_slots) {
    size_t n = (size_t)n_slots, logits = (size_t)(model->n_head / model->n_head_kv * of(c, WINDOW));
    size_t cosines = (size_t)model->head_dim + ROWS;
    return n * (6 + (logits > cosines ? logits : cosines));
}

static void softmax(float *x, int n) {
    float max = -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++)
        sum += (double)(x[i] = expf(x[i] - max));
    for (int i = 0; i < n; i++)
        x[i] = (float)((double)x[i] / sum);
}

/* out[i] of the n_old older slots in order. */
static void importance(const kv_config *c, const kv_view *view, int ih, const int32_t *order, int n_old, float *logits,
                       float *row, float *out) {
    int n_slots = view->n_slots[ih], group = view->model->n_head / view->model->n_head_kv;
    int n = of(c, WINDOW) < view->n_window_q ? of(c, WINDOW) : view->n_window_q;
    kv_view_logits(view, ih, n, logits);
    memset(out, 0, (size_t)n_old * sizeof(*out));
    for (int w = 0; w < n; w++) {
        for (int i = 0; i < n_old; i++) {
            row[i] = -INFINITY;
            for (int g = 0; g < group; g++) {
                float s = logits[(size_t)(g * n + w) * (size_t)n_slots + (size_t)order[i]];
                row[i] = s > row[i] ? s : row[i];
            }
        }
        softmax(row, n_old);
        view->kernels->add_scaled(out, row, n_old, 1 / (float)n);
    }
    memcpy(row, out, (size_t)n_old * sizeof(*row));
    pooling_run(row, n_old, of(c, KERNEL), false, out);
}

/* left_out[i] = the newest key whose cosine with row i of the block is above tau, or -1. cosine [n][m] */
static void find_left_out(const kv_config *c, const float *restrict cosine, int m, int n, int *restrict left_out) {
    float tau = (float)c->value[TAU]; /* no float lies between it and the double */
    if ((double)tau > c->value[TAU])
        tau = nextafterf(tau, -INFINITY);
    for (int i = 0; i < m; i++)
        left_out[i] = -1;
    for (int j = n - 1, searching = 1; j >= 0 && searching; j--) {
        const float *restrict row = cosine + (size_t)j * (size_t)m;
        searching = 0;
        for (int i = 0; i < m; i++) {
            left_out[i] = left_out[i] < 0 && row[i] > tau ? j : left_out[i];
            searching |= left_out[i] < 0;
        }
    }
}

/* Adds the cosines of rows first..first+m-1 to the column sums. cosine [n][m], which is spoilt. */
static void add_rows(const kv_config *c, float *restrict cosine, int first, int m, int n, double *restrict column) {
    int left_out[ROWS];
    for (int i = 0; i < m; i++)
        cosine[(size_t)(first + i) * (size_t)m + (size_t)i] = -INFINITY;
    find_left_out(c, cosine, m, n, left_out);
    for (int i = 0; i < m; i++) {
        cosine[(size_t)(first + i) * (size_t)m + (size_t)i] = 0;
        if (left_out[i] >= 0)
            cosine[(size_t)left_out[i] * (size_t)m + (size_t)i] = 0;
    }
    for (int j = 0; j < n; j++)
        column[j] += sum_double(cosine + (size_t)j * (size_t)m, m);
}

/* out[i] of the n slots in order; unit: [n][d]. */
static void redundancy(const kv_config *c, const kv_view *view, int ih, const int32_t *order, int n, float *unit,
                       float *cosine, double *column, float *out) {
    int d = view->model->head_dim;
    const float *k = kv_view_rows(view, ih, KV_K);
    for (int i = 0; i < n; i++) {
        const float *row = k + (size_t)order[i] * (size_t)d;
        double square = dot_double(row, row, d), over = square > 0 ? 1 / sqrt(square) : 0;
        for (int j = 0; j < d; j++)
            unit[(size_t)i * (size_t)d + (size_t)j] = (float)((double)row[j] * over);
    }
    memset(column, 0, (size_t)n * sizeof(*column));
    for (int first = 0; first < n; first += ROWS) {
        int m = n - first < ROWS ? n - first : ROWS;
        kv_view_product(view, unit, n, unit + (size_t)first * (size_t)d, m, d, cosine);
        add_rows(c, cosine, first, m, n, column);
    }
    for (int i = 0; i < n; i++)
        out[i] = (float)(column[i] / n);
    softmax(out, n);
}

static void score_lane(const kv_config *c, const kv_view *view, int ih, float *s) {
    size_t n_slots = (size_t)view->n_slots[ih];
    double *column = (double *)kv_view_work(view, work_floats(c, view->model, (int)n_slots));
    int32_t *order = (int32_t *)(column + n_slots);
    float *alike = (float *)(order + n_slots), *important = alike + n_slots, *row = important + n_slots,
          *rest = row + n_slots;
    int n = kv_view_order(view, ih, order), n_old = 0;
    while (n_old < n && view->pos[ih][order[n_old]] < view->n_seen - of(c, WINDOW))
        n_old++;
    importance(c, view, ih, order, n_old, rest, row, important);
    redundancy(c, view, ih, order, n, rest, rest + n_slots * (size_t)view->model->head_dim, column, alike);
    float lambda = (float)c->value[LAMBDA];
    for (int i = 0; i < n; i++)
        s[order[i]] = i < n_old ? lambda * important[i] - (1 - lambda) * alike[i] : INFINITY;
}

static void score(const kv_config *c, const kv_view *view, float *const *s) {
    for (int ih = 0; ih < view->model->n_head_kv; ih++)
        score_lane(c, view, ih, s[ih]);
}

const kv_policy kv_policy_rkv = {
    .name = "rkv",
    .paper = "arXiv 2505.24133",
    .summary = "what late queries attend to, less what is said twice; cut while decoding",
    .params = params,
    .per_head_scores = true,
    .shares_budget = true,
    .check = check,
    .wants = wants,
    .budget = budget,
    .score = score,
    .bound_tokens = bound_tokens,
    .kept_tokens = kept_tokens,
    .window_tokens = window_tokens,
    .work_floats = work_floats,
};
