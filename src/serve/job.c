/* job.c - from a checked request to the scheduler, and its tokens back.
 *
 * The sink runs on the engine's thread: it copies a token into the choice's log, publishes the count, and wakes the
 * connection (http_wake: no lock, no allocation). Stop strings are matched there too, over bytes, so that a request
 * ends with the very token that completes one. Text, JSON and sockets are the HTTP thread's work.
 *
 * A job lives as long as its exchange; each choice that the scheduler knows of holds the exchange until its END. */
#include "serve/job.h"
#include "base/clock.h"
#include "base/status.h"
#include "net/sse.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- logs ---- */

static bool log_open(token_log *log, int cap, bool logprobs, int n_top) {
    size_t n = (size_t)cap + 1, n_tops = (size_t)n_top * n + 1;
    *log = (token_log){.cap = cap, .n_top = n_top, .id = malloc(n * sizeof(*log->id))};
    if (logprobs) {
        log->logprob = malloc(n * sizeof(*log->logprob));
        log->top_id = malloc(n_tops * sizeof(*log->top_id));
        log->top_logprob = malloc(n_tops * sizeof(*log->top_logprob));
    }
    return log->id && (!logprobs || (log->logprob && log->top_id && log->top_logprob));
}

static void log_close(token_log *log) {
    free(log->id);
    free(log->logprob);
    free(log->top_id);
    free(log->top_logprob);
}

static void log_add(token_log *log, const token_logprob *t) {
    int n = atomic_load_explicit(&log->n, memory_order_relaxed);
    if (n == log->cap)
        return;
    log->id[n] = t->id;
    if (log->logprob) {
        size_t at = (size_t)n * (size_t)log->n_top;
        log->logprob[n] = t->logprob;
        for (int i = 0; i < log->n_top; i++) {
            log->top_id[at + (size_t)i] = i < t->n_top ? t->top_id[i] : -1;
            log->top_logprob[at + (size_t)i] = i < t->n_top ? t->top_logprob[i] : 0;
        }
    }
    atomic_store_explicit(&log->n, n + 1, memory_order_release);
}

/* ---- the engine's thread ---- */

static void stir(job *j) {
    atomic_store(&j->stirred, true);
    http_wake(j->x);
}

static bool take_token(choice *c, const request_event *e) {
    job *j = c->job;
    const ask *a = j->ask;
    double now = clock_seconds();
    int n = atomic_load_explicit(&c->log.n, memory_order_relaxed);
    if (n == 0)
        metrics_first_token(j->server->metrics, now - j->submitted);
    else
        metrics_next_token(j->server->metrics, now - c->last_at);
    c->last_at = now;
    if (e->usage) {
        atomic_store_explicit(&c->kv_bytes, e->usage->kv_bytes, memory_order_relaxed);
        atomic_store_explicit(&c->kv_peak_bytes, e->usage->kv_peak_bytes, memory_order_relaxed);
        atomic_store_explicit(&c->n_cached, e->usage->cached_tokens, memory_order_relaxed);
        atomic_store_explicit(&c->n_preemptions, e->usage->preemptions, memory_order_relaxed);
    }
    log_add(&c->log, e->token);
    size_t n_bytes;
    const char *bytes = pleat_token_bytes(j->server->world.model, e->token->id, false, &n_bytes);
    bool stops = stop_feed(&a->stops, &c->stop, bytes, n_bytes, n + 1 >= a->min_tokens);
    if (j->streams)
        stir(j);
    return !stops;
}

static void take_end(choice *c, const request_event *e) {
    job *j = c->job;
    http_exchange *x = j->x;
    c->usage = *e->usage;
    c->finish = e->finish;
    snprintf(c->sentence, sizeof(c->sentence), "%s", e->sentence ? e->sentence : "");
    atomic_store_explicit(&c->kv_bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&c->n_cached, e->usage->cached_tokens, memory_order_relaxed);
    metrics_end(j->server->metrics, e->usage, e->finish);
    atomic_store(&c->ended, true);
    int left = atomic_fetch_sub(&j->n_open, 1) - 1;
    if (j->streams || left == 0)
        stir(j);
    http_drop(x);
}

static bool sink(void *context, const request_event *e) {
    choice *c = context;
    switch (e->kind) {
    case REQUEST_STARTED:
        atomic_store(&c->job->started, true);
        if (c->job->streams)
            stir(c->job);
        return true;
    case REQUEST_PROMPT_TOKEN:
        log_add(&c->prompt_log, e->token);
        return true;
    case REQUEST_TOKEN:
        return take_token(c, e);
    case REQUEST_END:
        take_end(c, e);
    }
    return true;
}

/* ---- memory ---- */

/* Of an answer apart from its tokens; of a token's text, here and in the connection; of an alternative's part of an
 * event or answer, while that is put together and written; what a stream is written through. */
enum { CHOICE_BYTES = 4096, TEXT_BYTES = 32, NAMED_BYTES = 1000, STREAM_BYTES = 16 << 10 };

/* Bytes of one answer at most: token ids here and in the scheduler, log, text. n_tops: of log probabilities, the
 * token's own counted; 0 without. */
static size_t choice_bytes(size_t n_prompt, size_t n_new, size_t n_tops, bool echo) {
    size_t n_text = n_new + (echo ? n_prompt : 0), n_logged = n_new + (echo && n_tops ? n_prompt : 0);
    return CHOICE_BYTES + (n_prompt + n_new) * sizeof(int32_t) +
           n_logged * (sizeof(int32_t) + n_tops * (sizeof(int32_t) + sizeof(float))) +
           n_text * (TEXT_BYTES + n_tops * NAMED_BYTES);
}

size_t serve_request_bytes(int prompt_tokens, int new_tokens) {
    return (size_t)prompt_tokens * sizeof(int32_t) + choice_bytes((size_t)prompt_tokens, (size_t)new_tokens, 0, false);
}

/* Of a request from here until its answer has been read, at most; counted before any of it is taken. */
static size_t ask_bytes(const ask *a, int n_vocab) {
    size_t bytes = 0, n_tops = a->logprobs ? (size_t)a->n_top + 1 : 0,
           mask_bytes = a->allowed ? ((size_t)n_vocab + 7) / 8 : 0;
    for (int i = 0; i < a->n_prompts; i++) {
        const ask_prompt *p = &a->prompt[i];
        bytes += (size_t)p->n * sizeof(int32_t) + (size_t)p->n_pins * sizeof(token_span);
        bytes += (size_t)a->n *
                 (choice_bytes((size_t)p->n, (size_t)p->max_tokens, n_tops, a->echo) +
                  (size_t)a->n_bias * sizeof(token_bias) + (size_t)p->n_pins * sizeof(token_span) + mask_bytes);
    }
    return bytes + mask_bytes + (a->stream ? STREAM_BYTES : 0);
}

/* ---- life ---- */

static void cancel_all(job *j) {
    for (int i = 0; i < j->n_choices; i++)
        if (j->choice[i].id && !atomic_load(&j->choice[i].ended))
            scheduler_cancel(j->server->scheduler, j->choice[i].id);
}

static void job_free(job *j) {
    for (int i = 0; j->choice && i < j->n_choices; i++) {
        log_close(&j->choice[i].prompt_log);
        log_close(&j->choice[i].log);
        stop_text_free(&j->choice[i].text);
        text_free(&j->choice[i].shown);
    }
    free(j->choice);
    ask_free(j->ask);
    text_free(&j->out);
    serve_give(j->server, &j->held);
    free(j);
}

static bool open_choices(job *j) {
    const ask *a = j->ask;
    j->n_choices = a->n_prompts * a->n;
    j->choice = calloc((size_t)j->n_choices, sizeof(*j->choice));
    for (int i = 0; j->choice && i < j->n_choices; i++) {
        choice *c = &j->choice[i];
        c->job = j;
        c->index = i;
        c->prompt = &a->prompt[i / a->n];
        bool echoes = a->echo && a->logprobs;
        if (!log_open(&c->log, c->prompt->max_tokens, a->logprobs, a->n_top) ||
            !log_open(&c->prompt_log, echoes ? c->prompt->n : 0, echoes, a->n_top))
            return false;
    }
    return j->choice != NULL;
}

static job *job_new(server *s, http_exchange *x, ask *a, holding held) {
    job *j = calloc(1, sizeof(*j));
    if (!j) {
        ask_free(a);
        serve_give(s, &held);
        return NULL;
    }
    j->server = s;
    j->held = held;
    j->x = x;
    j->ask = a;
    j->streams = a->stream;
    j->created = time(NULL);
    j->submitted = clock_seconds();
    j->sent_at = -INFINITY; /* a stream that has nothing to say yet begins with a comment */
    snprintf(j->id, sizeof(j->id), "%s-%016llx%06llx", a->chat ? "chatcmpl" : "cmpl", (unsigned long long)s->id_salt,
             (unsigned long long)atomic_fetch_add(&s->next_id, 1));
    if (open_choices(j))
        return j;
    job_free(j);
    return NULL;
}

/* ---- the HTTP thread ---- */

static bool pending(void *context) {
    job *j = context;
    return atomic_load(&j->stirred);
}

bool job_failed(const job *j, refusal *r) {
    for (int i = 0; i < j->n_choices; i++) {
        const choice *c = &j->choice[i];
        if (!atomic_load(&c->ended) || finish_answers(c->finish))
            continue;
        refuse(r, "", "%s", c->sentence);
        r->status = c->finish == REQUEST_FAILED ? 500 : 503;
        r->retry_seconds = c->finish == REQUEST_FAILED ? 0 : 1;
        if (c->finish == REQUEST_CANCELLED)
            refuse_draining(r);
        return true;
    }
    return false;
}

static void ready(void *context, http_exchange *x) {
    job *j = context;
    refusal r = {0};
    atomic_store(&j->stirred, false);
    bool all = atomic_load(&j->n_open) == 0;
    if (job_failed(j, &r)) {
        cancel_all(j);
        serve_refuse(x, &r);
    } else if (j->streams && atomic_load(&j->started)) { /* refusals have a status: no head before admission */
        atomic_store(&j->stirred, true);                 /* for fill */
        http_set(x, "Cache-Control", "no-cache");
        http_set(x, "X-Accel-Buffering", "no");
        http_stream(x, SSE_TYPE);
    } else if (!j->streams && all) {
        char *body = answer_whole(j);
        if (body) {
            http_answer(x, 200, "application/json", body, strlen(body));
        } else {
            refuse_no_memory(&r);
            serve_refuse(x, &r);
        }
        free(body);
    }
}

static ssize_t fill(void *context, char *out, size_t most) {
    enum { PING_SECONDS = 15 };
    job *j = context;
    if (j->out_at == j->out.n) {
        j->out.n = j->out_at = 0;
        if (j->ends)
            return HTTP_END;
        atomic_store(&j->stirred, false);
        j->ends = answer_events(j);
        if (!j->out.n && !j->ends && clock_seconds() - j->sent_at >= PING_SECONDS)
            sse_ping(&j->out);
        if (j->out.failed)
            return HTTP_ABORT;
        if (!j->out.n)
            return j->ends ? HTTP_END : 0;
    }
    size_t n = j->out.n - j->out_at < most ? j->out.n - j->out_at : most;
    memcpy(out, j->out.bytes + j->out_at, n);
    j->out_at += n;
    j->sent_at = clock_seconds();
    return (ssize_t)n;
}

static void left(void *context) {
    cancel_all(context);
}

static void closed(void *context) {
    job *j = context;
    server *s = j->server;
    cancel_all(j);
    pthread_mutex_lock(&s->lock);
    *(j->prev ? &j->prev->next : &s->jobs) = j->next;
    if (j->next)
        j->next->prev = j->prev;
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_sub(&s->n_jobs, 1);
}

static void freed(void *context) {
    job_free(context);
}

static const http_work work = {pending, ready, fill, left, closed, freed};

/* ---- submission ---- */

static uint64_t seed_of(const ask *a, int which) {
    return a->sampling.seed + (uint64_t)which * 0x9E3779B97F4A7C15u; /* the first answer has the seed asked for */
}

static request_spec spec_of(const job *j, const choice *c, const char *tenant, const char *salt) {
    const ask *a = j->ask;
    request_spec spec = {.method = a->method,
                         .prompt = c->prompt->ids,
                         .n_prompt = c->prompt->n,
                         .max_tokens = c->prompt->max_tokens,
                         .min_tokens = a->min_tokens,
                         .ignore_end = a->ignore_end,
                         .stop = a->stop_id,
                         .n_stop = a->n_stop_id,
                         .sampling = a->sampling,
                         .bias = a->bias,
                         .n_bias = a->n_bias,
                         .allowed = a->allowed,
                         .logprobs = a->logprobs,
                         .n_top = a->n_top,
                         .prompt_logprobs = a->echo && a->logprobs,
                         .tenant = tenant,
                         .salt = salt,
                         .pin = c->prompt->pin,
                         .n_pins = c->prompt->n_pins};
    spec.sampling.seed = seed_of(a, c->index % a->n);
    return spec;
}

/* All choices or none. Each holds the exchange until its END. */
static pleat_status submit(job *j, const char *tenant, const char *salt, pleat_error *error) {
    int n = j->n_choices;
    request_spec *specs = malloc((size_t)n * sizeof(*specs));
    void **contexts = malloc((size_t)n * sizeof(*contexts));
    uint64_t *ids = malloc((size_t)n * sizeof(*ids));
    pleat_status status =
        specs && contexts && ids ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for a request");
    atomic_store(&j->n_open, n);
    for (int i = 0; i < n && !status; i++) {
        specs[i] = spec_of(j, &j->choice[i], tenant, salt);
        contexts[i] = &j->choice[i];
        http_hold(j->x);
    }
    if (!status && (status = scheduler_submit(j->server->scheduler, specs, n, sink, contexts, ids, error)))
        for (int i = 0; i < n; i++)
            http_drop(j->x);
    for (int i = 0; i < n && !status; i++)
        j->choice[i].id = ids[i];
    free(specs);
    free(contexts);
    free(ids);
    return status;
}

void job_start(server *s, http_exchange *x, ask *a, const char *tenant) {
    char salt[TENANT_BYTES + sizeof(a->salt)];
    pleat_error error = {""};
    refusal r = {0};
    holding held = {0};
    snprintf(salt, sizeof(salt), "%s/%s", tenant, a->salt);
    if (!serve_take(s, x, &held, ask_bytes(a, s->world.model->n_vocab), &r)) {
        serve_give(s, &held);
        ask_free(a);
        serve_refuse(x, &r);
        return;
    }
    job *j = job_new(s, x, a, held);
    if (!j) {
        refuse_no_memory(&r);
        serve_refuse(x, &r);
        return;
    }
    atomic_fetch_add(&s->n_jobs, 1);
    pthread_mutex_lock(&s->lock);
    j->next = s->jobs;
    if (j->next)
        j->next->prev = j;
    s->jobs = j;
    pthread_mutex_unlock(&s->lock);
    http_defer(x, &work, j);
    pleat_status status = submit(j, tenant, salt, &error);
    if (!status)
        return;
    atomic_store(&j->n_open, 0);
    for (int i = 0; i < j->n_choices; i++) {
        j->choice[i].finish = REQUEST_CANCELLED;
        atomic_store(&j->choice[i].ended, true);
    }
    refuse_status(&r, "", status, &error);
    if (atomic_load(&s->draining))
        refuse_draining(&r);
    serve_refuse(x, &r);
}

void jobs_kv_bytes(server *s, void (*see)(void *context, const char *method, size_t bytes), void *context) {
    pthread_mutex_lock(&s->lock);
    for (const job *j = s->jobs; j; j = j->next)
        for (int i = 0; i < j->n_choices; i++)
            see(context, pleat_method_spec(j->ask->method), atomic_load(&j->choice[i].kv_bytes));
    pthread_mutex_unlock(&s->lock);
}
