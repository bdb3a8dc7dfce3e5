/* simulate.h - the router core under a load, in simulated time.
 *
 * A *pool* is the replicas, a *load* the requests of one seed (arrivals, prompts, the answer's length under each
 * method, and what a router predicts of it), a *run* one policy over one load. A load does not depend on the policy:
 * policies are compared over the same requests. Everything is a pure function of its arguments, whatever the thread
 * count. */
#ifndef ROUTE_SIMULATE_H
#define ROUTE_SIMULATE_H
#include "route/route.h"

/* ---- loads ---- */

typedef struct sim_load { /* requests in the order of their arrival */
    int n, n_methods;
    int most_answer;   /* tokens that an answer may have; 0: no limit */
    double *arrival_s; /* [n] rising */
    int32_t *prompt;   /* [n] tokens */
    int32_t *answer;   /* [n][n_methods] tokens, at least 1 */
    float *predicted;  /* [n][n_methods] what routers believe */
} sim_load;
void sim_load_free(sim_load *load);

/* ---- a run ---- */

typedef struct sim_run_options {
    route_policy policy;
    uint64_t seed;  /* of the routers' own random choices */
    int n_routers;  /* each with its own ledger; a request goes to one of them at random; 0: 1 */
    double stale_s; /* routers hear of first tokens, progress and ends only at multiples of this; 0: at once */
    bool unshared;  /* routers do not hear of each other's requests */
} sim_run_options;

typedef struct sim_answer { /* one request's fate */
    int32_t replica;        /* -1: refused, nothing below has a meaning */
    int32_t tokens;         /* of the answer */
    int32_t n_preempted;
    bool cut;              /* memory ended before the answer */
    double first_s, end_s; /* of its first token, of its last */
} sim_answer;

/* Simulates until every request has ended; answers [load->n]. PLEAT_EINPUT (from route_open), PLEAT_EMEMORY. */
pleat_status sim_run(const route_replica *pool, int n_replicas, const sim_load *load, const sim_run_options *options,
                     sim_answer *answers, pleat_error *error);

/* Requests per second that a replica takes while it never lacks work: the load's requests all at once, until the last
 * one has been admitted (and half of them have ended). Those that it would refuse count as taken; 0: it takes none. */
pleat_status sim_capacity(const route_replica *replica, const sim_load *load, double *per_s, pleat_error *error);
#endif
