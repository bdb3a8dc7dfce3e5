/* quality.c - perplexity and KL, see quality.h.
 *
 * Log-softmax sums are double over float logits. The 99th percentile is the value at rank ceil(0.99 n) of the sorted
 * positions. KL(p_f16 || p_method) is over the whole vocabulary at every scored position, both runs teacher-forced with
 * the same text (methods.md, section D: a single forward pass would measure nothing, because a prompt attends exactly).
 */
#include "measure/quality.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/engine.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_TOKENS = 128, LEAST_CTX = 8 };

/* ---- sums over a vocabulary ---- */

static double log_sum(const float *x, int n) {
    enum { LANES = 8 };
    float max = x[0];
    double lane[LANES] = {0}, sum = 0;
    for (int i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += (double)expf(x[i + k] - max);
    for (; i < n; i++)
        sum += (double)expf(x[i] - max);
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return (double)max + log(sum);
}

static int best(const float *x, int n) {
    int at = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[at])
            at = i;
    return at;
}

/* KL(p || q) of two rows of logits with their log-sums. */
static double divergence(const float *p, double p_sum, const float *q, double q_sum, int n) {
    double kl = 0;
    for (int i = 0; i < n; i++) {
        float lp = (float)((double)p[i] - p_sum);
        if (lp > -40)
            kl += (double)expf(lp) * (((double)p[i] - p_sum) - ((double)q[i] - q_sum));
    }
    return kl > 0 ? kl : 0;
}

/* ---- running figures ---- */

typedef struct tally {
    double nll, nll_squared;
    double *kl; /* of every position; NULL for plain perplexity */
    int n, cap_kl, same_best;
} tally;

static void count(tally *t, double nll) {
    t->nll += nll;
    t->nll_squared += nll * nll;
    t->n++;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void finish(tally *t, int windows, quality_result *out) {
    double mean = t->nll / t->n, variance = t->nll_squared / t->n - mean * mean;
    *out = (quality_result){.windows = windows, .tokens = t->n, .perplexity = exp(mean), .top1_agreement = 1};
    if (variance > 0 && t->n > 1)
        out->error = sqrt(variance / (t->n - 1)) * out->perplexity;
    if (!t->kl)
        return;
    qsort(t->kl, (size_t)t->n, sizeof(*t->kl), by_size);
    for (int i = 0; i < t->n; i++)
        out->kl_mean += t->kl[i] / t->n;
    out->kl_p99 = t->kl[(int)ceil(0.99 * t->n) - 1];
    out->top1_agreement = (double)t->same_best / t->n;
}

/* ---- windows ---- */

typedef struct windows {
    int32_t *ids;
    int n, ctx;
} windows;

static pleat_status cut_windows(const pleat_model *model, const char *text, size_t text_bytes, int ctx, int most,
                                windows *out, pleat_error *error) {
    int32_t *ids = NULL;
    int n = 0;
    if (ctx < LEAST_CTX || ctx > model->context_tokens)
        return err_set(error, PLEAT_EINPUT, "a window of %d tokens; %d to %d (the model's context) are possible", ctx,
                       LEAST_CTX, model->context_tokens);
    pleat_status status = tokenizer_encode(model->tok, text, text_bytes, TOKENIZER_PLAIN, &ids, &n, error);
    if (status)
        return status;
    bool bos = tokenizer_adds_bos(model->tok);
    int32_t *all = malloc(((size_t)n + 1) * sizeof(*all));
    if (!all) {
        free(ids);
        return err_set(error, PLEAT_EMEMORY, "no memory for %d tokens", n);
    }
    all[0] = tokenizer_bos(model->tok);
    memcpy(all + bos, ids, (size_t)n * sizeof(*ids));
    free(ids);
    n += bos;
    *out = (windows){.ids = all, .n = n / ctx, .ctx = ctx};
    if (out->n == 0) {
        free(all);
        return err_set(error, PLEAT_EINPUT, "the text has %d tokens, fewer than one window of %d", n, ctx);
    }
    out->n = most && most < out->n ? most : out->n;
    for (int w = 0; bos && w < out->n; w++)
        all[(size_t)w * (size_t)ctx] = tokenizer_bos(model->tok);
    return PLEAT_OK;
}

/* ---- plain perplexity ---- */

/* One window in pieces; only pieces with scored positions give logits [PIECE_TOKENS][n_vocab]. */
static pleat_status score_window(pleat_engine *engine, const pleat_method *f16_method, const int32_t *ids, int ctx,
                                 float *logits, tally *t, pleat_error *error) {
    int n_vocab = engine_model(engine)->n_vocab;
    pleat_seq *seq;
    pleat_status status = pleat_seq_open(engine, f16_method, &seq, error);
    if (status)
        return status;
    for (int from = 0, n; from < ctx && !status; from += n) {
        int left = ctx - from;
        n = pleat_seq_cut(engine, seq, left);
        n = n > PIECE_TOKENS ? PIECE_TOKENS : n;
        bool scored = from + n > ctx / 2;
        pleat_item item = {.seq = seq,
                           .tokens = ids + from,
                           .n_tokens = n,
                           .phase = n == left ? PLEAT_PROMPT_END : PLEAT_PROMPT,
                           .want = scored ? PLEAT_LOGITS_ALL : PLEAT_LOGITS_NONE,
                           .logits = logits};
        status = pleat_step(engine, &item, 1, error);
        for (int i = 0; !status && scored && i < n; i++) {
            const float *row = logits + (size_t)i * (size_t)n_vocab;
            if (from + i >= ctx / 2 && from + i < ctx - 1)
                count(t, log_sum(row, n_vocab) - (double)row[ids[from + i + 1]]);
        }
    }
    pleat_seq_close(seq);
    return status;
}

pleat_status quality_perplexity(pleat_engine *engine, const char *text, size_t text_bytes, int ctx, int most_windows,
                                quality_result *out, const measure_watch *watch, pleat_error *error) {
    const pleat_model *model = engine_model(engine);
    windows w;
    tally t = {0};
    pleat_method *f16_method = NULL;
    pleat_status status = cut_windows(model, text, text_bytes, ctx, most_windows, &w, error);
    if (status)
        return status;
    float *logits = mem_alloc(PIECE_TOKENS * (size_t)model->n_vocab, sizeof(*logits));
    status = pleat_method_parse("f16", model, &f16_method, error);
    if (!status && !logits)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the logits of %d tokens", PIECE_TOKENS);
    for (int i = 0; i < w.n && !status; i++) {
        measure_tell(watch, i, w.n, "windows");
        status = score_window(engine, f16_method, w.ids + (size_t)i * (size_t)ctx, ctx, logits, &t, error);
    }
    if (!status) {
        measure_tell(watch, w.n, w.n, "windows");
        finish(&t, w.n, out);
    }
    pleat_method_free(f16_method);
    mem_free(logits);
    free(w.ids);
    return status;
}

/* ---- methods side by side ---- */

typedef struct race {
    pleat_engine *engine;
    const measure_methods *methods;
    pleat_seq *seq[MEASURE_MOST_METHODS];
    float *logits[MEASURE_MOST_METHODS];
    tally tally[MEASURE_MOST_METHODS];
    const windows *w;
    const measure_watch *watch;
    int n_vocab;
} race;

/* Tokens of a prompt of n that a lane keeps, or that its queries read; 0: the policy leaves out none. */
static int acts_on(const kv_method *m, int n) {
    const kv_policy *p = m->policy;
    int least = INT_MAX;
    if (p->bound_tokens)
        least = p->bound_tokens(&m->policy_config);
    if (p->kept_tokens && p->kept_tokens(&m->policy_config, KV_MAX_LAYERS, n, n) < least)
        least = p->kept_tokens(&m->policy_config, KV_MAX_LAYERS, n, n);
    if (p->read_tokens && p->read_tokens(&m->policy_config) < least)
        least = p->read_tokens(&m->policy_config);
    return least == INT_MAX ? 0 : least;
}

static pleat_status check_budgets(const measure_methods *methods, int ctx, pleat_error *error) {
    for (int i = 0; i < methods->n; i++) {
        const kv_method *m = methods->method[i];
        int n = acts_on(m, ctx / 2);
        if (n >= ctx / 2)
            return err_set(
                error, PLEAT_EINPUT,
                "%s keeps or reads %d tokens, half of the window of %d or more: it would hardly act, and the figure "
                "would say nothing; take a larger --ctx",
                methods->label[i], n, ctx);
        if (m->bounded)
            return err_set(error, PLEAT_EINPUT, "%s compresses inside the prompt, so it cannot share one exact prefill",
                           methods->label[i]);
    }
    return PLEAT_OK;
}

static pleat_status open_seqs(race *r, const int32_t *ids, pleat_error *error) {
    pleat_seq *prompt;
    pleat_status status = pleat_seq_open(r->engine, r->methods->method[0], &prompt, error);
    if (status)
        return status;
    status = pleat_seq_expect(prompt, r->w->ctx / 2, error);
    for (int i = 0; i < r->methods->n; i++)
        engine_seq_want(prompt, r->methods->method[i]);
    status =
        status ? status : pleat_prefill(r->engine, prompt, ids, r->w->ctx / 2, false, PLEAT_LOGITS_NONE, NULL, error);
    for (int i = 0; i < r->methods->n && !status; i++) {
        status = pleat_seq_fork(r->engine, prompt, r->methods->method[i], &r->seq[i], error);
        status = status ? status : engine_seq_end_prompt(r->engine, r->seq[i], error);
    }
    pleat_seq_close(prompt);
    return status;
}

static void close_seqs(race *r) {
    for (int i = 0; i < r->methods->n; i++) {
        pleat_seq_close(r->seq[i]);
        r->seq[i] = NULL;
    }
}

static void score_position(race *r, int32_t next) {
    double base = log_sum(r->logits[0], r->n_vocab);
    int top = best(r->logits[0], r->n_vocab);
    for (int i = 0; i < r->methods->n; i++) {
        double sum = i ? log_sum(r->logits[i], r->n_vocab) : base;
        tally *t = &r->tally[i];
        t->kl[t->n] = i ? divergence(r->logits[0], base, r->logits[i], sum, r->n_vocab) : 0;
        t->same_best += i == 0 || best(r->logits[i], r->n_vocab) == top;
        count(t, sum - (double)r->logits[i][next]);
    }
}

static pleat_status race_window(race *r, int window, pleat_error *error) {
    int ctx = r->w->ctx, n = r->methods->n;
    const int32_t *ids = r->w->ids + (size_t)window * (size_t)ctx;
    pleat_item items[MEASURE_MOST_METHODS];
    pleat_status status = open_seqs(r, ids, error);
    for (int i = ctx / 2; i < ctx - 1 && !status; i++) {
        for (int k = 0; k < n; k++)
            items[k] = (pleat_item){.seq = r->seq[k],
                                    .tokens = &ids[i],
                                    .n_tokens = 1,
                                    .phase = PLEAT_DECODE,
                                    .want = PLEAT_LOGITS_LAST,
                                    .logits = r->logits[k]};
        status = pleat_step(r->engine, items, n, error);
        if (!status)
            score_position(r, ids[i + 1]);
        measure_tell(r->watch, window + 2.0 * (i - ctx / 2) / ctx, r->w->n, "positions");
    }
    return status;
}

static bool alloc_race(race *r) {
    int scored = r->w->n * r->w->ctx;
    bool ok = true;
    for (int i = 0; i < r->methods->n; i++) {
        r->logits[i] = mem_alloc((size_t)r->n_vocab, sizeof(float));
        ok = ok && r->logits[i] && mem_grow(&r->tally[i].kl, &r->tally[i].cap_kl, scored, sizeof(double));
    }
    return ok;
}

pleat_status quality_methods(pleat_engine *engine, const measure_methods *methods, const char *text, size_t text_bytes,
                             int ctx, int most_windows, quality_result *out, const measure_watch *watch,
                             pleat_error *error) {
    const pleat_model *model = engine_model(engine);
    windows w;
    race r = {.engine = engine, .methods = methods, .w = &w, .watch = watch, .n_vocab = model->n_vocab};
    pleat_status status = check_budgets(methods, ctx, error);
    status = status ? status : cut_windows(model, text, text_bytes, ctx, most_windows, &w, error);
    if (status)
        return status;
    if (!alloc_race(&r))
        status = err_set(error, PLEAT_EMEMORY, "no memory for the logits of %d methods", methods->n);
    for (int i = 0; i < w.n && !status; i++) {
        status = race_window(&r, i, error);
        for (int k = 0; k < methods->n && !status && i + 1 == w.n; k++) {
            pleat_seq_stats stats = pleat_seq_describe(r.seq[k]);
            finish(&r.tally[k], w.n, &out[k]);
            out[k].kv_bytes = stats.kv_bytes;
            out[k].kept_share = (double)stats.kept_tokens_total / ((double)stats.n_lanes * stats.n_tokens);
        }
        close_seqs(&r);
    }
    for (int i = 0; i < methods->n; i++) {
        mem_free(r.logits[i]);
        free(r.tally[i].kl);
    }
    free(w.ids);
    return status;
}
