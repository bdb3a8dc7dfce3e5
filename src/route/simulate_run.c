/* simulate_run.c - the event loop: arrivals in order, the routers' picks, what routers hear of the replicas.
 *
 * Between two arrivals the replicas do not touch each other, so there is no event queue: each is advanced to the next
 * moment that matters (an arrival, or with stale_s the next report), then the routers hear and one of them picks. */
#include "route/simulate_replica.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include <math.h>

enum { MOST_ROUTERS = 64, STREAM_ROUTER = 101 };

typedef struct run {
    const route_replica *pool;
    const sim_load *load;
    sim_run_options o;
    sim_answer *answer;
    int n_replicas;
    sim_replica *replica;
    route_table *router[MOST_ROUTERS];
    int32_t *ticket;   /* [load->n], -1: none */
    int8_t *router_of; /* [load->n] */
    int *requests;     /* [n_replicas] in flight over all routers */
    double *tokens;
} run;

void sim_load_free(sim_load *load) {
    mem_free(load->arrival_s);
    mem_free(load->prompt);
    mem_free(load->answer);
    mem_free(load->predicted);
    *load = (sim_load){0};
}

static void close_run(run *u) {
    for (int i = 0; u->replica && i < u->n_replicas; i++)
        sim_replica_close(&u->replica[i]);
    for (int i = 0; i < u->o.n_routers; i++)
        route_close(u->router[i]);
    mem_free(u->replica);
    mem_free(u->ticket);
    mem_free(u->router_of);
    mem_free(u->requests);
    mem_free(u->tokens);
}

static pleat_status open_run(run *u, pleat_error *error) {
    size_t n = (size_t)u->load->n, n_replicas = (size_t)u->n_replicas;
    for (int i = 0; i < u->o.n_routers; i++) {
        pleat_status status =
            route_open(u->pool, u->n_replicas, u->load->n, u->o.seed + (uint64_t)i * 7919, &u->router[i], error);
        if (status)
            return status;
    }
    u->replica = mem_alloc(n_replicas, sizeof(*u->replica));
    u->ticket = mem_alloc(n, sizeof(*u->ticket));
    u->router_of = mem_alloc(n, sizeof(*u->router_of));
    u->requests = mem_alloc(n_replicas, sizeof(*u->requests));
    u->tokens = mem_alloc(n_replicas, sizeof(*u->tokens));
    bool ok = u->replica && u->ticket && u->router_of && u->requests && u->tokens;
    for (size_t i = 0; ok && i < n_replicas; i++)
        ok = sim_replica_open(&u->replica[i], &u->pool[i], u->load, u->answer);
    return ok ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory to simulate %d requests", u->load->n);
}

/* ---- what the routers hear ---- */

static void hear_ends(run *u) {
    for (int r = 0; r < u->n_replicas; r++) {
        sim_replica *s = &u->replica[r];
        for (int k = 0; k < s->n_ended; k++) {
            int id = s->ended[k];
            route_end(u->router[u->router_of[id]], u->ticket[id], u->answer[id].tokens);
            u->ticket[id] = -1;
            u->requests[r]--;
        }
        s->n_ended = 0;
    }
}

static void hear_progress(run *u) {
    for (int r = 0; r < u->n_replicas; r++) {
        sim_replica *s = &u->replica[r];
        for (int i = 0; i < s->n; i++) {
            int id = s->id[i];
            int whole = u->load->answer[(size_t)id * (size_t)u->load->n_methods + (size_t)s->r->method];
            route_progress(u->router[u->router_of[id]], u->ticket[id], whole - s->left[i]);
        }
    }
}

static void hear_others(run *u) {
    for (int r = 0; r < u->n_replicas; r++) {
        double tokens = 0;
        for (int i = 0; i < u->o.n_routers; i++) {
            route_load load = route_load_of(u->router[i], r);
            tokens += load.prompt_tokens + load.answer_tokens;
        }
        for (int i = 0; i < u->o.n_routers; i++)
            route_observe(u->router[i], r, u->requests[r], tokens);
    }
}

static void hear(run *u) {
    hear_ends(u);
    if (u->o.policy == ROUTE_ROUND_ROBIN || u->o.policy == ROUTE_RANDOM)
        return;
    hear_progress(u);
    if (u->o.n_routers > 1 && !u->o.unshared)
        hear_others(u);
}

static void advance(run *u, double until_s) {
    for (int r = 0; r < u->n_replicas; r++)
        sim_replica_advance(&u->replica[r], until_s);
}

static void arrive(run *u, int id) {
    const sim_load *load = u->load;
    double now_s = load->arrival_s[id];
    int router = u->o.n_routers == 1 ? 0 : (int)(rng_uniform(u->o.seed, STREAM_ROUTER, (uint64_t)id) * u->o.n_routers);
    route_request request = {load->prompt[id], &load->predicted[(size_t)id * (size_t)load->n_methods],
                             load->most_answer};
    route_receipt receipt;
    u->router_of[id] = (int8_t)router;
    u->answer[id] = (sim_answer){.replica = -1};
    u->ticket[id] = route_pick(u->router[router], u->o.policy, &request, &receipt);
    if (u->ticket[id] < 0)
        return;
    u->answer[id].replica = receipt.replica;
    u->requests[receipt.replica]++;
    sim_replica_add(&u->replica[receipt.replica], id, now_s);
}

static void simulate(run *u) {
    double report_s = u->o.stale_s;
    for (int id = 0; id < u->load->n; id++) {
        double now_s = u->load->arrival_s[id];
        if (u->o.stale_s > 0)
            for (; report_s <= now_s; report_s += u->o.stale_s) {
                advance(u, report_s);
                hear(u);
            }
        advance(u, now_s);
        if (u->o.stale_s <= 0)
            hear(u);
        arrive(u, id);
    }
    advance(u, INFINITY);
}

pleat_status sim_run(const route_replica *pool, int n_replicas, const sim_load *load, const sim_run_options *options,
                     sim_answer *answers, pleat_error *error) {
    run u = {.pool = pool, .load = load, .o = *options, .answer = answers, .n_replicas = n_replicas};
    u.o.n_routers = u.o.n_routers < 1 ? 1 : u.o.n_routers > MOST_ROUTERS ? MOST_ROUTERS : u.o.n_routers;
    pleat_status status = open_run(&u, error);
    if (!status)
        simulate(&u);
    close_run(&u);
    return status;
}

pleat_status sim_capacity(const route_replica *replica, const sim_load *load, double *per_s, pleat_error *error) {
    sim_replica s;
    sim_answer *answer = mem_alloc((size_t)load->n, sizeof(*answer));
    bool ok = sim_replica_open(&s, replica, load, answer) && answer;
    if (ok) {
        for (int id = 0; id < load->n; id++)
            if (load->prompt[id] + 1 <= s.most_tokens &&
                (!replica->most_context_tokens || load->prompt[id] + 1 <= replica->most_context_tokens))
                s.queue[s.n_queue++] = id;
        int n = s.n_queue;
        s.busy = n > 0; /* an empty step at 0 begins the work */
        while (s.busy && (s.n_queue || s.n_ended < n / 2))
            sim_replica_advance(&s, s.end_s);
        *per_s = n ? s.n_ended / s.end_s * load->n / n : 0;
    }
    sim_replica_close(&s);
    mem_free(answer);
    return ok ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory to simulate %d requests", load->n);
}
