/* metrics.c - see metrics.h. Names: vLLM's metrics as its dashboards, routers and benchmark clients read them; where it
 * has renamed one, both names are given. */
#include "serve/metrics.h"
#include <stdio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BUCKETS = 24 };

typedef struct histogram {
    const double *bound; /* rising, ended by 0; the last bucket has none */
    _Atomic int64_t count[MOST_BUCKETS];
    _Atomic int64_t sum_millionths;
} histogram;

enum { TTFT, ITL, TPOT, WHOLE, QUEUE, PREFILL, DECODE, INFERENCE, PROMPT, ANSWER, N_HISTOGRAMS };

static const double waits[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                               1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  0};
static const double steps[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4,
                               0.5,   0.75,   1,     2.5,  5,     7.5,  10,    20,  40,   80,  0};
static const double spans[] = {0.05, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5, 10,
                               15,   20,  30,  40,  50,  60, 120, 240, 480, 0};
static const double sizes[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 0};

static const struct {
    const char *name, *old, *help;
    const double *bound;
} kinds[N_HISTOGRAMS] = {
    [TTFT] = {"time_to_first_token_seconds", NULL, "From submission to the first token.", waits},
    [ITL] = {"inter_token_latency_seconds", "time_per_output_token_seconds", "Between two tokens of an answer.", steps},
    [TPOT] = {"request_time_per_output_token_seconds", NULL, "Mean time per token after the first, by request.", steps},
    [WHOLE] = {"e2e_request_latency_seconds", NULL, "From submission to the end.", spans},
    [QUEUE] = {"request_queue_time_seconds", NULL, "From submission to admission.", spans},
    [PREFILL] = {"request_prefill_time_seconds", NULL, "From admission to the first token.", spans},
    [DECODE] = {"request_decode_time_seconds", NULL, "From the first token to the end.", spans},
    [INFERENCE] = {"request_inference_time_seconds", NULL, "From admission to the end.", spans},
    [PROMPT] = {"request_prompt_tokens", NULL, "Tokens of prompts.", sizes},
    [ANSWER] = {"request_generation_tokens", NULL, "Tokens of answers.", sizes},
};

struct metrics {
    histogram h[N_HISTOGRAMS];
    _Atomic int64_t answers[6]; /* by HTTP status / 100 */
    const shares *requests;
};

metrics *metrics_open(const shares *requests) {
    metrics *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    for (int i = 0; i < N_HISTOGRAMS; i++)
        m->h[i].bound = kinds[i].bound;
    m->requests = requests;
    return m;
}

void metrics_close(metrics *m) {
    free(m);
}

static void add(histogram *h, double x) {
    int i = 0;
    while (h->bound[i] > 0 && x > h->bound[i])
        i++;
    atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_millionths, (int64_t)(x * 1e6), memory_order_relaxed);
}

void metrics_first_token(metrics *m, double seconds) {
    add(&m->h[TTFT], seconds);
}

void metrics_next_token(metrics *m, double seconds) {
    add(&m->h[ITL], seconds);
}

void metrics_end(metrics *m, const request_usage *u, request_finish finish) {
    if (!finish_answers(finish))
        return;
    add(&m->h[WHOLE], u->queued_s + u->prefill_s + u->decode_s);
    add(&m->h[QUEUE], u->queued_s);
    add(&m->h[PREFILL], u->prefill_s);
    add(&m->h[DECODE], u->decode_s);
    add(&m->h[INFERENCE], u->prefill_s + u->decode_s);
    add(&m->h[PROMPT], u->prompt_tokens);
    add(&m->h[ANSWER], u->completion_tokens);
    if (u->completion_tokens > 1)
        add(&m->h[TPOT], u->decode_s / (u->completion_tokens - 1));
}

void metrics_answer(metrics *m, int status) {
    if (status >= 100 && status < 600)
        atomic_fetch_add_explicit(&m->answers[status / 100], 1, memory_order_relaxed);
}

/* ---- writing ---- */

typedef struct writer {
    text *out;
    const char *model;
    size_t f16_token_bytes;
} writer;

static void put_label(text *out, const char *value) {
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            text_append(out, "\\", 1);
        text_append(out, *value == '\n' ? " " : value, 1);
    }
}

static void head(const writer *w, const char *name, const char *type, const char *help) {
    text_printf(w->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void labels(const writer *w, const char *name, const char *key, const char *value) {
    text_printf(w->out, "%s{model_name=\"", name);
    put_label(w->out, w->model);
    if (key) {
        text_printf(w->out, "\",%s=\"", key);
        put_label(w->out, value);
    }
    text_puts(w->out, "\"} ");
}

static void one(const writer *w, const char *name, const char *type, const char *help, double value) {
    head(w, name, type, help);
    labels(w, name, NULL, NULL);
    text_printf(w->out, "%.17g\n", value);
}

static void write_histogram(const writer *w, const histogram *h, const char *name, const char *help) {
    char full[120], part[140], bound[32];
    int64_t sum = 0;
    snprintf(full, sizeof(full), "vllm:%s", name);
    head(w, full, "histogram", help);
    snprintf(part, sizeof(part), "%s_bucket", full);
    for (int i = 0;; i++) {
        sum += atomic_load(&h->count[i]);
        snprintf(bound, sizeof(bound), "%g", h->bound[i]);
        labels(w, part, "le", h->bound[i] > 0 ? bound : "+Inf");
        text_printf(w->out, "%lld\n", (long long)sum);
        if (!(h->bound[i] > 0))
            break;
    }
    snprintf(part, sizeof(part), "%s_sum", full);
    labels(w, part, NULL, NULL);
    text_printf(w->out, "%.9g\n", (double)atomic_load(&h->sum_millionths) / 1e6);
    snprintf(part, sizeof(part), "%s_count", full);
    labels(w, part, NULL, NULL);
    text_printf(w->out, "%lld\n", (long long)sum);
}

/* Blocks as they are counted elsewhere: of uncompressed tokens, as many as the pool holds. */
static void write_config(const writer *w, const scheduler_figures *f) {
    enum { BLOCK_TOKENS = 64 };
    head(w, "vllm:cache_config_info", "gauge", "The pool as blocks of uncompressed tokens.");
    text_puts(w->out, "vllm:cache_config_info{model_name=\"");
    put_label(w->out, w->model);
    text_printf(w->out, "\",block_size=\"%d\",num_gpu_blocks=\"%zu\"} 1\n", BLOCK_TOKENS,
                f->pool_budget_bytes / (BLOCK_TOKENS * w->f16_token_bytes));
}

/* By vLLM's reasons. */
static void write_ends(const writer *w, const scheduler_figures *f) {
    static const struct {
        const char *reason;
        request_finish finish, also;
    } list[] = {{"stop", REQUEST_STOP, REQUEST_GOES_ON},
                {"length", REQUEST_LENGTH, REQUEST_GOES_ON},
                {"abort", REQUEST_CANCELLED, REQUEST_GOES_ON},
                {"error", REQUEST_NO_ROOM, REQUEST_FAILED}};
    head(w, "vllm:request_success_total", "counter", "Requests that have ended, by reason.");
    for (int i = 0; i < 4; i++) {
        labels(w, "vllm:request_success_total", "finished_reason", list[i].reason);
        text_printf(w->out, "%lld\n", (long long)(f->requests_ended[list[i].finish] + f->requests_ended[list[i].also]));
    }
}

static void write_vllm(const writer *w, const scheduler_figures *f) {
    double used = f->pool_budget_bytes ? (double)f->pool_used_bytes / (double)f->pool_budget_bytes : 0;
    one(w, "vllm:num_requests_running", "gauge", "Requests in the batch.", f->running);
    one(w, "vllm:num_requests_waiting", "gauge", "Requests in the queue.", f->waiting);
    one(w, "vllm:num_requests_swapped", "gauge", "Requests moved out of the pool.", f->moved_out);
    one(w, "vllm:kv_cache_usage_perc", "gauge", "Share of the KV pool in use, 0 to 1.", used);
    one(w, "vllm:gpu_cache_usage_perc", "gauge", "The same under its older name.", used);
    one(w, "vllm:prompt_tokens_total", "counter", "Tokens of prompts, reused ones included.", (double)f->prompt_tokens);
    one(w, "vllm:generation_tokens_total", "counter", "Tokens of answers.", (double)f->generation_tokens);
    one(w, "vllm:num_preemptions_total", "counter", "Requests moved out of the pool.", (double)f->preemptions);
    const char *const queries[] = {"vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"};
    const char *const hits[] = {"vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"};
    for (int i = 0; i < 2; i++) {
        one(w, queries[i], "counter", "Prompt tokens looked up in the prefix cache.", (double)f->prefix_asked_tokens);
        one(w, hits[i], "counter", "Prompt tokens found there.", (double)f->prefix_found_tokens);
    }
    write_config(w, f);
    write_ends(w, f);
}

static void write_own(const writer *w, const metrics *m, const scheduler_figures *f, const metrics_method *method,
                      int n) {
    one(w, "pleat:kv_pool_used_bytes", "gauge", "Pool pages held, earlier prompts' included.",
        (double)f->pool_used_bytes);
    one(w, "pleat:kv_pool_budget_bytes", "gauge", "Most that the pool may hold.", (double)f->pool_budget_bytes);
    one(w, "pleat:request_bytes", "gauge", "Memory set aside for bodies, tokens and answers.",
        (double)atomic_load(&m->requests->used));
    one(w, "pleat:request_budget_bytes", "gauge", "Most that these may have; 0: no bound.", (double)m->requests->most);
    head(w, "pleat:kv_bytes", "gauge", "KV bytes of running requests by method, as of their last 16 tokens.");
    for (int i = 0; i < n; i++) {
        labels(w, "pleat:kv_bytes", "method", method[i].spec);
        text_printf(w->out, "%zu\n", method[i].kv_bytes);
    }
    head(w, "pleat:requests", "gauge", "Answers under way by method, queued ones included.");
    for (int i = 0; i < n; i++) {
        labels(w, "pleat:requests", "method", method[i].spec);
        text_printf(w->out, "%d\n", method[i].running);
    }
    one(w, "pleat:evictions_total", "counter", "Slots dropped, of requests that have ended.", (double)f->evictions);
    one(w, "pleat:seals_total", "counter", "Pages sealed, of requests that have ended.", (double)f->seals);
    one(w, "pleat:reseals_total", "counter", "Pages sealed again by rebuilds.", (double)f->reseals);
    one(w, "pleat:preemptions_total", "counter", "Caches moved out.", (double)f->preemptions);
    one(w, "pleat:steps_total", "counter", "Steps of the engine.", (double)f->steps);
    one(w, "pleat:cached_prompt_tokens_total", "counter", "Prompt tokens reused.", (double)f->cached_tokens);
    head(w, "pleat:http_answers_total", "counter", "HTTP answers by class of status.");
    for (int i = 2; i < 6; i++) {
        char class[16];
        snprintf(class, sizeof(class), "%dxx", i);
        labels(w, "pleat:http_answers_total", "status", class);
        text_printf(w->out, "%lld\n", (long long)atomic_load(&m->answers[i]));
    }
}

void metrics_write(const metrics *m, const scheduler_figures *f, const metrics_model *model,
                   const metrics_method *methods, int n_methods, text *out) {
    writer w = {out, model->name, model->f16_token_bytes};
    write_vllm(&w, f);
    for (int i = 0; i < N_HISTOGRAMS; i++) {
        write_histogram(&w, &m->h[i], kinds[i].name, kinds[i].help);
        if (kinds[i].old)
            write_histogram(&w, &m->h[i], kinds[i].old, kinds[i].help);
    }
    write_own(&w, m, f, methods, n_methods);
}
