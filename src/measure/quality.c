/* quality.c - perplexity and KL, see quality.h.
 *
 * Log-softmax sums are double over float logits. The 99th percentile is the value at rank ceil(0.99 n) of the sorted
 * positions. KL(p_f16 || p_method) is over the whole vocabulary at every scored position, both runs teacher-forced with
 * the same text (a single forward pass would measure nothing, because a prompt attends exactly). */
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

/* ---- sums over positions ---- */

typedef struct tally {
    double nll, nll_squared;
    int n;
} tally;

static void count(tally *t, double nll) {
    t->nll += nll;
    t->nll_squared += nll * nll;
    t->n++;
}

static quality_result figures_of(const tally *t, int windows) {
    double mean = t->nll / t->n, variance = t->nll_squared / t->n - mean * mean;
    quality_result r = {.windows = windows, .tokens = t->n, .perplexity = exp(mean), .top1_agreement = 1};
    if (variance > 0 && t->n > 1)
        r.error = sqrt(variance / (t->n - 1)) * r.perplexity;
    return r;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

pleat_status quality_join(const store_window *w, int n, quality_result *out, pleat_error *error) {
    tally t = {0};
    int n_all = 0, n_kl = 0, same_best = 0;
    double kl_sum = 0;
    for (int i = 0; i < n; i++)
        n_all += w[i].n;
    float *kl = malloc((size_t)n_all * sizeof(*kl) + 1);
    if (!kl)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d positions", n_all);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < w[i].n; k++) {
            count(&t, (double)w[i].nll[k]);
            kl_sum += (double)(kl[n_kl++] = w[i].kl[k]);
        }
        same_best += w[i].same_best;
    }
    qsort(kl, (size_t)n_kl, sizeof(*kl), by_size);
    *out = figures_of(&t, n);
    out->kl_mean = kl_sum / n_kl;
    out->kl_p99 = (double)kl[(int)ceil(0.99 * n_kl) - 1];
    out->top1_agreement = (double)same_best / n_kl;
    out->kept_share = w[n - 1].kept_share;
    out->kv_bytes = w[n - 1].kv_bytes;
    out->kv_peak_bytes = w[n - 1].kv_peak_bytes;
    free(kl);
    return PLEAT_OK;
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
        *out = figures_of(&t, w.n);
    }
    pleat_method_free(f16_method);
    mem_free(logits);
    free(w.ids);
    return status;
}

/* ---- methods side by side ---- */

struct quality_text {
    windows w;
    int n_prompt; /* tokens of a window that are prefilled */
};

/* Tokens of a prompt of n that a lane keeps, or that its queries read; 0: the policy leaves out none. */
static int acts_on(const kv_method *m, int n) {
    const kv_policy *p = m->policy;
    int least = INT_MAX;
    if (p->bound_tokens &&
        p->bound_tokens(&m->policy_config) != INT_MAX) /* between steps; where positions lie inside the
                                                        * cache the next token is one of the budget */
        least = p->bound_tokens(&m->policy_config) + (p->cache_positions != NULL);
    if (p->kept_tokens && p->kept_tokens(&m->policy_config, KV_MAX_LAYERS, n, n) < least)
        least = p->kept_tokens(&m->policy_config, KV_MAX_LAYERS, n, n);
    if (p->some_kept_tokens && p->some_kept_tokens(&m->policy_config) < least)
        least = p->some_kept_tokens(&m->policy_config);
    if (p->read_tokens && p->read_tokens(&m->policy_config) < least)
        least = p->read_tokens(&m->policy_config);
    return least == INT_MAX ? 0 : least;
}

static pleat_status check_budgets(const measure_methods *methods, int n_prompt, int ctx, pleat_error *error) {
    for (int i = 0; i < methods->n; i++) {
        const kv_method *m = methods->method[i];
        int n = acts_on(m, n_prompt);
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

pleat_status quality_text_open(const pleat_model *model, const measure_methods *methods, const char *text,
                               size_t text_bytes, int ctx, int n_scored, int most_windows, quality_text **out,
                               int *n_windows, pleat_error *error) {
    windows w;
    int n_prompt = n_scored ? ctx - 1 - n_scored : ctx / 2;
    if (n_scored && n_prompt < ctx / 2)
        return err_set(error, PLEAT_EINPUT,
                       "%d scored positions of a window of %d tokens; at most half of it, %d, are possible", n_scored,
                       ctx, ctx - 1 - ctx / 2);
    pleat_status status = check_budgets(methods, n_prompt, ctx, error);
    status = status ? status : cut_windows(model, text, text_bytes, ctx, most_windows, &w, error);
    if (status)
        return status;
    quality_text *t = malloc(sizeof(*t));
    if (!t) {
        free(w.ids);
        return err_set(error, PLEAT_EMEMORY, "no memory for the windows of a text");
    }
    t->w = w;
    t->n_prompt = n_prompt;
    *n_windows = w.n;
    *out = t;
    return PLEAT_OK;
}

void quality_text_close(quality_text *t) {
    if (!t)
        return;
    free(t->w.ids);
    free(t);
}

void quality_window_free(store_window *w) {
    free(w->nll);
    free(w->kl);
    w->nll = w->kl = NULL;
}

typedef struct race {
    pleat_engine *engine;
    const measure_methods *methods;
    pleat_seq *seq[MEASURE_MOST_METHODS];
    float *logits; /* [methods->n][n_vocab] */
    store_window *out;
    const int32_t *ids; /* [ctx] */
    int ctx, n_prompt, n_vocab;
} race;

static pleat_status open_race(race *r, int window, pleat_error *error) {
    int n = r->methods->n, n_scored = r->ctx - 1 - r->n_prompt;
    bool ok = true;
    for (int i = 0; i < n; i++) {
        r->out[i] = (store_window){.label = r->methods->label[i],
                                   .spec = pleat_method_spec(r->methods->method[i]),
                                   .ctx = r->ctx,
                                   .window = window,
                                   .nll = malloc((size_t)n_scored * sizeof(float)),
                                   .kl = malloc((size_t)n_scored * sizeof(float))};
        ok = ok && r->out[i].nll && r->out[i].kl;
    }
    r->logits = mem_alloc((size_t)n * (size_t)r->n_vocab, sizeof(float));
    return ok && r->logits ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the logits of %d methods", n);
}

static pleat_status open_seqs(race *r, pleat_error *error) {
    pleat_seq *prompt;
    pleat_status status = pleat_seq_open(r->engine, r->methods->method[0], &prompt, error);
    if (status)
        return status;
    status = pleat_seq_expect(prompt, r->ctx - 1 - r->n_prompt, error);
    for (int i = 0; i < r->methods->n; i++)
        engine_seq_want(prompt, r->methods->method[i]);
    status =
        status ? status : pleat_prefill(r->engine, prompt, r->ids, r->n_prompt, false, PLEAT_LOGITS_NONE, NULL, error);
    for (int i = 0; i < r->methods->n && !status; i++) {
        status = pleat_seq_fork(r->engine, prompt, r->methods->method[i], &r->seq[i], error);
        status = status ? status : engine_seq_end_prompt(r->engine, r->seq[i], error);
    }
    pleat_seq_close(prompt);
    return status;
}

static void score_position(race *r, int32_t next) {
    double base = log_sum(r->logits, r->n_vocab);
    int top = best(r->logits, r->n_vocab);
    for (int i = 0; i < r->methods->n; i++) {
        const float *logits = r->logits + (size_t)i * (size_t)r->n_vocab;
        double sum = i ? log_sum(logits, r->n_vocab) : base;
        store_window *w = &r->out[i];
        w->kl[w->n] = i ? (float)divergence(r->logits, base, logits, sum, r->n_vocab) : 0;
        w->same_best += i == 0 || best(logits, r->n_vocab) == top;
        w->nll[w->n++] = (float)(sum - (double)logits[next]);
    }
}

static pleat_status decode(race *r, const measure_watch *watch, pleat_error *error) {
    pleat_item items[MEASURE_MOST_METHODS];
    int n = r->methods->n, first = r->n_prompt;
    pleat_status status = PLEAT_OK;
    for (int i = first; i < r->ctx - 1 && !status; i++) {
        for (int k = 0; k < n; k++)
            items[k] = (pleat_item){.seq = r->seq[k],
                                    .tokens = &r->ids[i],
                                    .n_tokens = 1,
                                    .phase = PLEAT_DECODE,
                                    .want = PLEAT_LOGITS_LAST,
                                    .logits = r->logits + (size_t)k * (size_t)r->n_vocab};
        status = pleat_step(r->engine, items, n, error);
        if (!status)
            score_position(r, r->ids[i + 1]);
        measure_tell(watch, i - first, r->ctx - 1 - first, "text, all methods side by side");
    }
    return status;
}

pleat_status quality_window_measure(pleat_engine *engine, const measure_methods *methods, const quality_text *t,
                                    int window, store_window *out, const measure_watch *watch, pleat_error *error) {
    race r = {.engine = engine,
              .methods = methods,
              .out = out,
              .ids = t->w.ids + (size_t)window * (size_t)t->w.ctx,
              .ctx = t->w.ctx,
              .n_prompt = t->n_prompt,
              .n_vocab = engine_model(engine)->n_vocab};
    measure_tell(watch, 0, 1, "text, one prefill for all methods");
    pleat_status status = open_race(&r, window, error);
    status = status ? status : open_seqs(&r, error);
    status = status ? status : decode(&r, watch, error);
    for (int i = 0; i < methods->n; i++) {
        if (!status) {
            pleat_seq_stats stats = pleat_seq_describe(r.seq[i]);
            out[i].kv_bytes = stats.kv_bytes;
            out[i].kv_peak_bytes = stats.kv_peak_bytes;
            out[i].kept_share = (double)stats.kept_tokens_total / ((double)stats.n_lanes * stats.n_tokens);
        } else {
            quality_window_free(&out[i]);
        }
        pleat_seq_close(r.seq[i]);
    }
    mem_free(r.logits);
    return status;
}

/* A watch on one window of several. */
typedef struct window_watch {
    const measure_watch *watch;
    int window, n;
} window_watch;

static void tell_window(void *context, double done, double total, const char *detail) {
    const window_watch *w = context;
    measure_tell(w->watch, w->window + done / total, w->n, detail);
}

pleat_status quality_methods(pleat_engine *engine, const measure_methods *methods, const char *text, size_t text_bytes,
                             int ctx, int most_windows, quality_result *out, const measure_watch *watch,
                             pleat_error *error) {
    quality_text *t = NULL;
    int n = 0;
    pleat_status status =
        quality_text_open(engine_model(engine), methods, text, text_bytes, ctx, 0, most_windows, &t, &n, error);
    if (status)
        return status;
    store_window *all = calloc((size_t)n * MEASURE_MOST_METHODS, sizeof(*all)); /* [method][window] */
    store_window one[MEASURE_MOST_METHODS];
    if (!all)
        status = err_set(error, PLEAT_EMEMORY, "no memory for %d windows", n);
    for (int w = 0; w < n && !status; w++) {
        window_watch part = {watch, w, n};
        measure_watch tell = {tell_window, &part};
        status = quality_window_measure(engine, methods, t, w, one, &tell, error);
        for (int i = 0; i < methods->n && !status; i++)
            all[i * n + w] = one[i];
    }
    for (int i = 0; i < methods->n && !status; i++)
        status = quality_join(&all[i * n], n, &out[i], error);
    for (int i = 0; all && i < n * methods->n; i++)
        quality_window_free(&all[i]);
    free(all);
    quality_text_close(t);
    return status;
}
