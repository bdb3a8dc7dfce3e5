/* route.c - the table and its ledger. A replica's part of the ledger is dense: an ended request's place is taken by the
 * last one's, and the ticket finds the place. Sums are whole numbers, so they never drift. */
#include "route/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <assert.h>
#include <math.h>

static pleat_status check_replica(const route_replica *r, int i, pleat_error *error) {
    const char *field = NULL;
    double value = 0;
    if (!r->profile)
        return err_set(error, PLEAT_EINPUT, "replica %d has no profile", i);
    if (r->method < 0 || r->method >= ROUTE_MOST_METHODS)
        field = "method", value = r->method;
    else if (!(r->kv_bytes > 0 && isfinite(r->kv_bytes)))
        field = "kv_bytes", value = r->kv_bytes;
    else if (!(r->token_bytes > 0 && isfinite(r->token_bytes)))
        field = "token_bytes", value = r->token_bytes;
    else if (!(r->most_kept_tokens >= 0))
        field = "most_kept_tokens", value = r->most_kept_tokens;
    else if (r->most_context_tokens < 0)
        field = "most_context_tokens", value = r->most_context_tokens;
    else if (r->most_batch < 1)
        field = "most_batch", value = r->most_batch;
    else if (r->step_tokens < 1)
        field = "step_tokens", value = r->step_tokens;
    return field ? err_set(error, PLEAT_EINPUT, "replica %d: %s is %g, which is out of range", i, field, value)
                 : PLEAT_OK;
}

static bool open_lane(route_lane *l, const route_replica *r, int most_in_flight) {
    size_t cap = (size_t)most_in_flight + ROUTE_PADDING;
    l->replica = *r;
    l->ready = true;
    l->prompt = mem_alloc(cap, sizeof(*l->prompt));
    l->done = mem_alloc(cap, sizeof(*l->done));
    l->predicted = mem_alloc(cap, sizeof(*l->predicted));
    l->told = mem_alloc(cap, sizeof(*l->told));
    l->ticket = mem_alloc(cap, sizeof(*l->ticket));
    return l->prompt && l->done && l->predicted && l->told && l->ticket;
}

/* ---- what a profile says ---- */

double route_decode_s(const route_lane *l, int batch, double context) {
    predict_step step = {.decode_batch = batch, .decode_reads = predict_reads(l->replica.profile, context)};
    return predict_step_ms(l->replica.profile, &step) / 1e3;
}

double route_prompt_s(const route_lane *l, double tokens) {
    double at = tokens / ROUTE_PROMPT_STEP;
    int i = at < ROUTE_PROMPT_KNOTS - 2 ? (int)at : ROUTE_PROMPT_KNOTS - 2;
    return l->prompt_s[i] + (l->prompt_s[i + 1] - l->prompt_s[i]) * (at - i);
}

static void read_profile(route_lane *l) {
    l->single_s = route_decode_s(l, 1, 256);
    for (int i = 1; i < ROUTE_PROMPT_KNOTS; i++) {
        predict_chunk chunk = {1, i * ROUTE_PROMPT_STEP, 0};
        predict_step step = {.chunk = &chunk, .n_chunk = 1};
        double more_s = predict_step_ms(l->replica.profile, &step) / 1e3 - l->single_s;
        l->prompt_s[i] = more_s > l->prompt_s[i - 1] ? more_s : l->prompt_s[i - 1];
    }
}

pleat_status route_open(const route_replica *replicas, int n, int most_in_flight, uint64_t seed, route_table **table,
                        pleat_error *error) {
    if (n < 1 || n > ROUTE_MOST_REPLICAS)
        return err_set(error, PLEAT_EINPUT, "a router has 1 to %d replicas, not %d", ROUTE_MOST_REPLICAS, n);
    if (most_in_flight < 1)
        return err_set(error, PLEAT_EINPUT, "a router's ledger holds at least 1 request, not %d", most_in_flight);
    for (int i = 0; i < n; i++) {
        pleat_status status = check_replica(&replicas[i], i, error);
        if (status)
            return status;
    }
    route_table *t = mem_alloc(1, sizeof(*t));
    bool ok = t && (t->lane = mem_alloc((size_t)n, sizeof(*t->lane)));
    if (ok) {
        *t = (route_table){.n = n, .most_in_flight = most_in_flight, .seed = seed, .turn = n - 1, .lane = t->lane};
        t->replica_of = mem_alloc((size_t)most_in_flight, sizeof(int32_t));
        t->place_of = mem_alloc((size_t)most_in_flight, sizeof(int32_t));
        t->free_ticket = mem_alloc((size_t)most_in_flight, sizeof(int32_t));
        ok = t->replica_of && t->place_of && t->free_ticket;
    }
    for (int i = 0; ok && i < n; i++) {
        ok = open_lane(&t->lane[i], &replicas[i], most_in_flight);
        read_profile(&t->lane[i]);
        t->n_methods = replicas[i].method >= t->n_methods ? replicas[i].method + 1 : t->n_methods;
    }
    if (!ok) {
        route_close(t);
        return err_set(error, PLEAT_EMEMORY, "no memory for a router of %d replicas and %d requests", n,
                       most_in_flight);
    }
    for (int i = 0; i < most_in_flight; i++) {
        t->replica_of[i] = -1;
        t->free_ticket[i] = most_in_flight - 1 - i;
    }
    *table = t;
    return PLEAT_OK;
}

void route_close(route_table *t) {
    if (!t)
        return;
    for (int i = 0; t->lane && i < t->n; i++) {
        mem_free(t->lane[i].prompt);
        mem_free(t->lane[i].done);
        mem_free(t->lane[i].predicted);
        mem_free(t->lane[i].told);
        mem_free(t->lane[i].ticket);
    }
    mem_free(t->lane);
    mem_free(t->replica_of);
    mem_free(t->place_of);
    mem_free(t->free_ticket);
    mem_free(t);
}

/* ---- the ledger ---- */

static int64_t waiting_ns(const route_lane *l, int prompt) {
    return (int64_t)(route_prompt_s(l, prompt) * 1e9);
}

static void leave_waiting(route_lane *l, int prompt) {
    l->n_waiting--;
    l->waiting_tokens -= prompt;
    l->waiting_ns -= waiting_ns(l, prompt);
}

int route_count(route_table *t, int replica, const route_request *request, const route_belief *belief) {
    assert(t->n_in_flight < t->most_in_flight);
    route_lane *l = &t->lane[replica];
    int ticket = t->free_ticket[t->most_in_flight - ++t->n_in_flight], at = l->n++;
    t->replica_of[ticket] = replica;
    t->place_of[ticket] = at;
    l->prompt[at] = request->prompt_tokens;
    l->done[at] = 0;
    l->predicted[at] = belief->tokens[l->replica.method];
    l->told[at][0] = belief->told[l->replica.method];
    l->told[at][1] = belief->told_mean;
    l->ticket[at] = ticket;
    l->n_waiting++;
    l->prompt_tokens += request->prompt_tokens;
    l->waiting_tokens += request->prompt_tokens;
    l->waiting_ns += waiting_ns(l, request->prompt_tokens);
    l->kept_tokens += (int64_t)route_kept(&l->replica, request->prompt_tokens);
    return ticket;
}

static route_lane *find(route_table *t, int ticket, int *at) {
    assert(ticket >= 0 && ticket < t->most_in_flight && t->replica_of[ticket] >= 0);
    *at = t->place_of[ticket];
    return &t->lane[t->replica_of[ticket]];
}

void route_progress(route_table *t, int ticket, int answer_tokens) {
    int at;
    route_lane *l = find(t, ticket, &at);
    int before = l->done[at], prompt = l->prompt[at];
    assert(answer_tokens >= before);
    if (!before && answer_tokens)
        leave_waiting(l, prompt);
    l->answer_tokens += answer_tokens - before;
    l->kept_tokens += (int64_t)route_kept(&l->replica, (double)prompt + answer_tokens) -
                      (int64_t)route_kept(&l->replica, (double)prompt + before);
    l->done[at] = answer_tokens;
}

void route_end(route_table *t, int ticket, int answer_tokens) {
    int at;
    route_lane *l = find(t, ticket, &at);
    int prompt = l->prompt[at], done = l->done[at], last = --l->n;
    if (answer_tokens >= 0)
        route_trust_learn(&t->trust[l->replica.method], l->told[at], answer_tokens);
    if (!done)
        leave_waiting(l, prompt);
    l->prompt_tokens -= prompt;
    l->answer_tokens -= done;
    l->kept_tokens -= (int64_t)route_kept(&l->replica, (double)prompt + done);
    l->prompt[at] = l->prompt[last];
    l->done[at] = l->done[last];
    l->predicted[at] = l->predicted[last];
    l->told[at][0] = l->told[last][0];
    l->told[at][1] = l->told[last][1];
    l->ticket[at] = l->ticket[last];
    l->prompt[last] = l->done[last] = 0;
    l->predicted[last] = 0;
    t->place_of[l->ticket[at]] = at;
    t->replica_of[ticket] = -1;
    t->free_ticket[t->most_in_flight - t->n_in_flight--] = ticket;
}

void route_ready(route_table *t, int replica, bool ready) {
    assert(replica >= 0 && replica < t->n);
    t->lane[replica].ready = ready;
}

void route_observe(route_table *t, int replica, int requests, double tokens) {
    assert(replica >= 0 && replica < t->n);
    route_lane *l = &t->lane[replica];
    double own = (double)(l->prompt_tokens + l->answer_tokens);
    l->other_requests = requests > l->n ? requests - l->n : 0;
    l->other_tokens = tokens > own ? tokens - own : 0;
}

route_load route_load_of(const route_table *t, int replica) {
    assert(replica >= 0 && replica < t->n);
    const route_lane *l = &t->lane[replica];
    route_load load = {.requests = l->n,
                       .waiting = l->n_waiting,
                       .prompt_tokens = (double)l->prompt_tokens,
                       .answer_tokens = (double)l->answer_tokens,
                       .left_tokens = (double)l->waiting_tokens,
                       .kv_bytes = (double)l->kept_tokens * l->replica.token_bytes,
                       .other_requests = l->other_requests,
                       .other_tokens = l->other_tokens};
    for (int i = 0; i < l->n; i++)
        load.left_tokens += (double)route_left(l->predicted[i], (float)l->done[i], t->trust[l->replica.method].spread);
    return load;
}
