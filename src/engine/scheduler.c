/* scheduler.c - a scheduler's life: requests in, ends out, its thread. */
#include "engine/scheduler_inside.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "model/sample.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- open and close ---- */

static void write_figures(scheduler *s);

static pleat_status list_ends(scheduler *s, pleat_error *error) {
    int cap = 0;
    for (int32_t id = 0; id < s->engine->model->n_vocab; id++) {
        if (!pleat_token_ends(s->engine->model, id))
            continue;
        if (!mem_grow(&s->end_id, &cap, s->n_end + 1, sizeof(*s->end_id)))
            return err_set(error, PLEAT_EMEMORY, "no memory for a scheduler");
        s->end_id[s->n_end++] = id;
    }
    return PLEAT_OK;
}

int scheduler_least_step(int max_running) {
    return (max_running - 1 + PIECE_TOKENS + 63) / 64 * 64;
}

static pleat_status check_options(const pleat_engine *e, scheduler_options *o, pleat_error *error) {
    if (!o->max_running)
        o->max_running = e->max_sequences;
    if (!o->max_waiting)
        o->max_waiting = SCHEDULER_WAITING;
    if (!o->step_tokens)
        o->step_tokens = e->max_step_tokens;
    if (o->overcommit == 0)
        o->overcommit = 1;
    if (!o->moved_bytes)
        o->moved_bytes = kv_pool_budget_bytes(e->pages) / 4;
    if (o->max_running < 1 || o->max_running > e->max_sequences)
        return err_set(error, PLEAT_EINPUT, "%d running requests; 1 to %d are possible", o->max_running,
                       e->max_sequences);
    if (o->max_waiting < 1)
        return err_set(error, PLEAT_EINPUT, "a queue of %d requests; at least 1 is possible", o->max_waiting);
    if (o->step_tokens % 64 || o->step_tokens < scheduler_least_step(o->max_running) ||
        o->step_tokens > e->max_step_tokens)
        return err_set(
            error, PLEAT_EINPUT,
            "steps of %d tokens; a multiple of 64 from %d (64 of a prompt beside a token of each of %d other "
            "requests) to %d is possible",
            o->step_tokens, scheduler_least_step(o->max_running), o->max_running - 1, e->max_step_tokens);
    if (!(o->overcommit >= 1 && o->overcommit <= 100))
        return err_set(error, PLEAT_EINPUT, "an overcommitment of %g; 1 to 100 is possible", o->overcommit);
    return PLEAT_OK;
}

pleat_status scheduler_open(pleat_engine *engine, const scheduler_options *options, scheduler **out,
                            pleat_error *error) {
    scheduler_options o = options ? *options : (scheduler_options){0};
    pleat_status status = check_options(engine, &o, error);
    if (status)
        return status;
    scheduler *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(error, PLEAT_EMEMORY, "no memory for a scheduler");
    s->engine = engine;
    s->options = o;
    s->options.moved_dir = NULL;
    atomic_store(&s->next_id, 1);
    tenants_open(&s->tenants, o.max_waiting);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    s->running = calloc((size_t)o.max_running, sizeof(*s->running));
    s->of_item = calloc((size_t)o.max_running, sizeof(*s->of_item));
    s->item = calloc((size_t)o.max_running, sizeof(*s->item));
    s->row = mem_alloc((size_t)o.max_running * (size_t)engine->model->n_vocab, sizeof(*s->row));
    s->raw = mem_alloc((size_t)engine->model->n_vocab, sizeof(*s->raw));
    if (o.moved_dir) {
        s->options.moved_dir = strdup(o.moved_dir);
        status = move_try(o.moved_dir, error);
    }
    if (!s->running || !s->of_item || !s->item || !s->row || !s->raw || (o.moved_dir && !s->options.moved_dir))
        status = err_set(error, PLEAT_EMEMORY, "no memory for a scheduler");
    status = status ? status : list_ends(s, error);
    if (status)
        scheduler_close(s);
    else
        *out = s;
    return status;
}

void scheduler_stop(scheduler *s) {
    atomic_store(&s->draining, true);
    if (s->has_thread) {
        atomic_store(&s->stop, true);
        pthread_mutex_lock(&s->lock);
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        s->has_thread = false;
    }
    admit_take_in(s);
    while (s->n_running)
        admit_end(s, s->n_running - 1, REQUEST_CANCELLED, NULL);
    request **lists[] = {&s->waiting, &s->moved};
    for (int i = 0; i < 2; i++)
        while (*lists[i]) {
            request *r = *lists[i];
            *lists[i] = r->next;
            request_end(s, r, REQUEST_CANCELLED, NULL);
        }
    write_figures(s);
}

void scheduler_close(scheduler *s) {
    if (!s)
        return;
    scheduler_stop(s);
    admit_take_in(s); /* cancellations that came since */
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    tenants_close(&s->tenants);
    free((char *)s->options.moved_dir);
    free(s->running);
    free(s->of_item);
    free(s->item);
    mem_free(s->row);
    mem_free(s->raw);
    mem_free(s->prompt_row);
    free(s->end_id);
    free(s);
}

/* ---- requests ---- */

static void request_free(request *r) {
    pleat_seq_close(r->seq);
    free(r->tokens);
    free(r->bias);
    free(r->allowed);
    free(r->stop);
    free(r->pin);
    free(r->salt);
    free(r);
}

const char *request_finish_name(request_finish finish) {
    static const char *const names[REQUEST_FINISHES] = {[REQUEST_GOES_ON] = "",      [REQUEST_STOP] = "stop",
                                                        [REQUEST_LENGTH] = "length", [REQUEST_CANCELLED] = "cancelled",
                                                        [REQUEST_NO_ROOM] = "error", [REQUEST_FAILED] = "error"};
    return names[finish];
}

void request_end(scheduler *s, request *r, request_finish finish, const char *sentence) {
    double now = clock_seconds();
    if (r->state == REQUEST_WAITING)
        tenants_give(&s->tenants, r->tenant);
    figure_add(s, FIGURE_ENDED + (int)finish, 1);
    if (r->seq && r->state != REQUEST_MOVED) {
        pleat_seq_stats stats = pleat_seq_describe(r->seq);
        r->usage.kv_bytes = stats.kv_bytes;
        r->usage.kv_peak_bytes = stats.kv_peak_bytes;
        figure_add(s, FIGURE_EVICTIONS, stats.evicted);
        figure_add(s, FIGURE_SEALS, stats.seals);
        figure_add(s, FIGURE_RESEALS, stats.reseals);
    }
    s->moved_bytes -= r->moved_bytes;
    r->usage.queued_s = (r->admitted > 0 ? r->admitted : now) - r->submitted;
    r->usage.prefill_s = r->admitted > 0 ? (r->first > 0 ? r->first : now) - r->admitted : 0;
    r->usage.decode_s = r->first > 0 ? now - r->first : 0;
    request_usage usage = r->usage;
    request_sink sink = r->sink;
    void *context = r->context;
    tenants_leave(r->tenant);
    request_free(r); /* pages are free before the client hears of it */
    sink(context, &(request_event){.kind = REQUEST_END, .finish = finish, .sentence = sentence, .usage = &usage});
}

static pleat_status check_spec(const scheduler *s, const request_spec *spec, pleat_error *error) {
    const pleat_model *m = s->engine->model;
    if (spec->n_prompt < 1)
        return err_set(error, PLEAT_EINPUT, "the prompt is empty");
    if (spec->max_tokens < 0 || spec->min_tokens < 0 || spec->min_tokens > spec->max_tokens)
        return err_set(error, PLEAT_EINPUT, "%d to %d new tokens are not possible", spec->min_tokens, spec->max_tokens);
    if (spec->n_top < 0 || spec->n_top > REQUEST_MOST_TOP)
        return err_set(error, PLEAT_EINPUT, "%d alternatives; 0 to %d are possible", spec->n_top, REQUEST_MOST_TOP);
    for (int i = 0; i < spec->n_prompt; i++)
        if (spec->prompt[i] < 0 || spec->prompt[i] >= m->n_vocab)
            return err_set(error, PLEAT_EINPUT, "token %d of the prompt is %d; the vocabulary has %d tokens", i,
                           (int)spec->prompt[i], m->n_vocab);
    for (int i = 0; i < spec->n_bias; i++)
        if (spec->bias[i].id < 0 || spec->bias[i].id >= m->n_vocab)
            return err_set(error, PLEAT_EINPUT, "logit_bias names token %d; the vocabulary has %d tokens",
                           (int)spec->bias[i].id, m->n_vocab);
    for (int i = 0; i < spec->n_stop; i++)
        if (spec->stop[i] < 0 || spec->stop[i] >= m->n_vocab)
            return err_set(error, PLEAT_EINPUT, "a stop token is %d; the vocabulary has %d tokens", (int)spec->stop[i],
                           m->n_vocab);
    if (spec->n_prompt > m->context_tokens && !kv_method_is_endless(spec->method))
        return err_set(error, PLEAT_EINPUT, "the prompt has %d tokens; the context has %d", spec->n_prompt,
                       m->context_tokens);
    return sample_check(&spec->sampling, error);
}

static request *request_new(const request_spec *spec, int n_vocab, request_sink sink, void *context) {
    request *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    *r = (request){.method = *spec->method,
                   .n_prompt = spec->n_prompt,
                   .n_tokens = spec->n_prompt,
                   .max_tokens = spec->max_tokens,
                   .min_tokens = spec->min_tokens,
                   .n_top = spec->n_top,
                   .ignore_end = spec->ignore_end,
                   .logprobs = spec->logprobs,
                   .prompt_logprobs = spec->prompt_logprobs,
                   .sampling = spec->sampling,
                   .n_bias = spec->n_bias,
                   .n_stop = spec->n_stop,
                   .n_pins = spec->n_pins,
                   .sink = sink,
                   .context = context,
                   .submitted = clock_seconds(),
                   .usage = {.prompt_tokens = spec->n_prompt}};
    r->tokens = malloc(((size_t)spec->n_prompt + (size_t)spec->max_tokens) * sizeof(*r->tokens));
    size_t mask_bytes = spec->allowed ? ((size_t)n_vocab + 7) / 8 : 0;
    r->bias = malloc((size_t)spec->n_bias * sizeof(*r->bias) + 1);
    r->allowed = spec->allowed ? malloc(mask_bytes) : NULL;
    r->stop = malloc((size_t)spec->n_stop * sizeof(*r->stop) + 1);
    r->pin = malloc((size_t)spec->n_pins * sizeof(*r->pin) + 1);
    r->salt = strdup(spec->salt ? spec->salt : "");
    if (!r->tokens || !r->bias || (spec->allowed && !r->allowed) || !r->stop || !r->pin || !r->salt) {
        request_free(r);
        return NULL;
    }
    memcpy(r->tokens, spec->prompt, (size_t)spec->n_prompt * sizeof(*r->tokens));
    if (spec->n_bias)
        memcpy(r->bias, spec->bias, (size_t)spec->n_bias * sizeof(*r->bias));
    if (spec->allowed)
        memcpy(r->allowed, spec->allowed, mask_bytes);
    if (spec->n_stop)
        memcpy(r->stop, spec->stop, (size_t)spec->n_stop * sizeof(*r->stop));
    if (spec->n_pins)
        memcpy(r->pin, spec->pin, (size_t)spec->n_pins * sizeof(*r->pin));
    return r;
}

static void wake(scheduler *s) {
    if (!atomic_load(&s->asleep))
        return;
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

bool scheduler_full(scheduler *s, const char *tenant_name, int n) {
    return tenants_full(&s->tenants, tenant_name, n);
}

static pleat_status check_plan(const scheduler *s, const request_spec *spec, size_t *plan_bytes, pleat_error *error) {
    size_t budget = kv_pool_budget_bytes(s->engine->pages);
    *plan_bytes = engine_plan_bytes(s->engine->model, spec->method, spec->n_prompt, spec->max_tokens);
    return *plan_bytes <= budget
               ? PLEAT_OK
               : err_set(
                     error, PLEAT_EINPUT,
                     "%d prompt and %d new tokens need up to %zu bytes of the KV pool under this method; it has %zu",
                     spec->n_prompt, spec->max_tokens, *plan_bytes, budget);
}

/* A list of requests, the newest first, as the mailbox has them. */
static pleat_status make_all(scheduler *s, const request_spec *specs, int n, request_sink sink, void *const *contexts,
                             request **list, pleat_error *error) {
    for (int i = 0; i < n; i++) {
        size_t plan;
        pleat_status status = check_spec(s, &specs[i], error);
        status = status ? status : check_plan(s, &specs[i], &plan, error);
        request *r = status ? NULL : request_new(&specs[i], s->engine->model->n_vocab, sink, contexts[i]);
        if (!r)
            return status ? status
                          : err_set(error, PLEAT_EMEMORY, "no memory for a request of %d tokens", specs[i].n_prompt);
        r->plan_bytes = plan;
        r->next = *list;
        *list = r;
    }
    return PLEAT_OK;
}

static pleat_status enter_all(scheduler *s, request *list, int n, const char *name, pleat_error *error) {
    tenant *t;
    if (!tenants_enter(&s->tenants, name, n, &t))
        return err_set(error, PLEAT_EFULL, "the queue is full: %d requests are waiting", s->options.max_waiting);
    for (request *r = list; r; r = r->next)
        r->tenant = t;
    return t ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for a place in the queue");
}

static void mail(scheduler *s, request *list, int n, uint64_t *ids) {
    uint64_t first = atomic_fetch_add(&s->next_id, (uint64_t)n);
    request *oldest = list;
    for (request *r = list; r; r = r->next) {
        n--;
        r->id = ids[n] = first + (uint64_t)n;
        oldest = r;
    }
    oldest->next = atomic_load(&s->mailbox);
    while (!atomic_compare_exchange_weak(&s->mailbox, &oldest->next, list))
        ;
    wake(s);
}

pleat_status scheduler_submit(scheduler *s, const request_spec *specs, int n, request_sink sink, void *const *contexts,
                              uint64_t *ids, pleat_error *error) {
    request *list = NULL, *next;
    if (atomic_load(&s->draining))
        return err_set(error, PLEAT_EFULL, "the server is shutting down");
    pleat_status status = make_all(s, specs, n, sink, contexts, &list, error);
    status = status ? status : enter_all(s, list, n, specs->tenant ? specs->tenant : "", error);
    if (!status) {
        mail(s, list, n, ids);
        return PLEAT_OK;
    }
    for (; list; list = next) {
        next = list->next;
        request_free(list);
    }
    return status;
}

void scheduler_cancel(scheduler *s, uint64_t id) {
    cancellation *c = malloc(sizeof(*c));
    if (!c) /* it will end by itself */
        return;
    c->id = id;
    c->next = atomic_load(&s->cancelled);
    while (!atomic_compare_exchange_weak(&s->cancelled, &c->next, c))
        ;
    wake(s);
}

/* ---- turns ---- */

static void write_figures(scheduler *s) {
    int n_moved = 0;
    for (const request *r = s->moved; r; r = r->next)
        n_moved++;
    atomic_store(&s->figure_running, s->n_running);
    atomic_store(&s->figure_moved, n_moved);
    atomic_store(&s->figure_used, kv_pool_used_bytes(s->engine->pages));
    if (s->engine->prefix) {
        prefix_figures p = prefix_describe(s->engine->prefix);
        atomic_store(&s->figure[FIGURE_ASKED], p.asked_tokens);
        atomic_store(&s->figure[FIGURE_FOUND], p.found_tokens);
    }
}

bool scheduler_turn(scheduler *s) {
    s->turn++;
    admit_take_in(s);
    admit_resume_and_start(s);
    if (s->n_running)
        turn_step(s);
    write_figures(s);
    return s->n_running || s->waiting || s->moved || atomic_load(&s->mailbox);
}

static void *run(void *context) {
    scheduler *s = context;
    while (!atomic_load(&s->stop)) {
        if (scheduler_turn(s))
            continue;
        pthread_mutex_lock(&s->lock);
        atomic_store(&s->asleep, true);
        while (!atomic_load(&s->mailbox) && !atomic_load(&s->cancelled) && !atomic_load(&s->stop))
            pthread_cond_wait(&s->wake, &s->lock);
        atomic_store(&s->asleep, false);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

pleat_status scheduler_start(scheduler *s, pleat_error *error) {
    int code = pthread_create(&s->thread, NULL, run, s);
    if (code)
        return err_set(error, PLEAT_EMEMORY, "the engine's thread cannot be started: %s", strerror(code));
    s->has_thread = true;
    return PLEAT_OK;
}

bool scheduler_drain(scheduler *s, double seconds) {
    double end = clock_seconds() + seconds;
    atomic_store(&s->draining, true);
    for (;;) {
        bool more = s->has_thread ? atomic_load(&s->tenants.n_waiting) || atomic_load(&s->figure_running) ||
                                        atomic_load(&s->figure_moved) || atomic_load(&s->mailbox)
                                  : scheduler_turn(s);
        if (!more)
            return true;
        if (clock_seconds() >= end)
            return false;
        if (s->has_thread)
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

scheduler_figures scheduler_describe(const scheduler *s) {
    scheduler_figures f = {.running = atomic_load(&s->figure_running),
                           .waiting = atomic_load(&s->tenants.n_waiting),
                           .moved_out = atomic_load(&s->figure_moved),
                           .pool_used_bytes = atomic_load(&s->figure_used),
                           .pool_budget_bytes = kv_pool_budget_bytes(s->engine->pages),
                           .prompt_tokens = atomic_load(&s->figure[FIGURE_PROMPT]),
                           .cached_tokens = atomic_load(&s->figure[FIGURE_CACHED]),
                           .generation_tokens = atomic_load(&s->figure[FIGURE_GENERATION]),
                           .preemptions = atomic_load(&s->figure[FIGURE_PREEMPTIONS]),
                           .steps = atomic_load(&s->figure[FIGURE_STEPS]),
                           .prefix_asked_tokens = atomic_load(&s->figure[FIGURE_ASKED]),
                           .prefix_found_tokens = atomic_load(&s->figure[FIGURE_FOUND]),
                           .evictions = atomic_load(&s->figure[FIGURE_EVICTIONS]),
                           .seals = atomic_load(&s->figure[FIGURE_SEALS]),
                           .reseals = atomic_load(&s->figure[FIGURE_RESEALS])};
    for (int i = 0; i < REQUEST_FINISHES; i++)
        f.requests_ended[i] = atomic_load(&s->figure[FIGURE_ENDED + i]);
    return f;
}
