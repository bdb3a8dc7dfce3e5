/* simulate_replica.h - one replica in simulated time. Inside route/. */
#ifndef ROUTE_SIMULATE_REPLICA_H
#define ROUTE_SIMULATE_REPLICA_H
#include "route/simulate.h"

typedef struct sim_part { /* of a prompt not done */
    int32_t id, done;
} sim_part;

typedef struct sim_replica {
    const route_replica *r;
    const sim_load *load;
    sim_answer *answer; /* [load->n] by request */
    double most_tokens; /* kept tokens that fit */
    double kept;        /* tokens held now: running ones, and whole prompts of those in prefill */
    bool busy;
    double end_s; /* of the step under way */
    int64_t n_admitted, n_steps;
    int32_t *queue; /* [load->n + 1] ring of waiting requests */
    int queue_head, n_queue, queue_cap;
    sim_part *part; /* [most_batch] in prefill, in the order of admission */
    int n_part;
    int n; /* decoding; arrays [most_batch] */
    int32_t *id, *left, *keeps;
    int64_t *order; /* of admission */
    int32_t *ended; /* [load->n] requests that ended since the caller last emptied it */
    int n_ended;
} sim_replica;

bool sim_replica_open(sim_replica *s, const route_replica *r, const sim_load *load, sim_answer *answer);
void sim_replica_close(sim_replica *s);
/* Request id arrives at now_s; the replica has been advanced to then. */
void sim_replica_add(sim_replica *s, int id, double now_s);
/* Carries out every step that ends by then. */
void sim_replica_advance(sim_replica *s, double until_s);
#endif
