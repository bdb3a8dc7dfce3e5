/* inside.h - the table, as route.c keeps it and the policies read it. */
#ifndef ROUTE_INSIDE_H
#define ROUTE_INSIDE_H
#include "route/route.h"

/* trust.c: how far a method's predicted lengths are to be believed, learned from answers that have ended. */
typedef struct route_trust {
    double xx[3][3], xy[3]; /* normal equations, old answers fading */
    double fit[3];
    double square, weight; /* of residuals */
    float spread;          /* their standard deviation, of the logarithm */
} route_trust;

enum { ROUTE_PROMPT_STEP = 64, ROUTE_PROMPT_KNOTS = 65 };
enum { ROUTE_PADDING = 8 }; /* places past the last request that are 0, so that sums may run over whole vectors */

typedef struct route_lane { /* one replica with its part of the ledger */
    route_replica replica;
    bool ready;
    int n, n_waiting;                                  /* in flight; of them without a first token */
    int64_t prompt_tokens, answer_tokens, kept_tokens; /* sums */
    int64_t waiting_tokens, waiting_ns;                /* prompts without a first token: tokens, time to prefill them */
    int32_t *prompt, *done;                            /* [n] */
    float *predicted;                                  /* [n] the whole answer, as far as it is trusted */
    float (*told)[2];                                  /* [n] logarithms of what was predicted: here, mean of methods */
    int32_t *ticket;                                   /* [n] */
    int other_requests;
    double other_tokens;
    /* read off the profile once */
    double single_s;                     /* a decode step of one */
    double prompt_s[ROUTE_PROMPT_KNOTS]; /* what a prompt adds to a step, at multiples of ROUTE_PROMPT_STEP tokens */
} route_lane;

struct route_table {
    int n, n_methods, most_in_flight, n_in_flight;
    uint64_t seed, n_picks;         /* picks made: the counter of random numbers */
    int turn;                       /* round-robin: who was last */
    int32_t *replica_of, *place_of; /* [most_in_flight] by ticket */
    int32_t *free_ticket;           /* [most_in_flight - n_in_flight] stack */
    route_lane *lane;               /* [n] */
    route_trust trust[ROUTE_MOST_METHODS];
};

/* ---- trust.c ---- */

typedef struct route_belief {       /* of one request's answer, by method */
    float told[ROUTE_MOST_METHODS]; /* logarithm of the prediction */
    float told_mean;
    float tokens[ROUTE_MOST_METHODS]; /* what is believed */
} route_belief;
/* Only methods that the table's replicas have, and 0, are filled. */
void route_trust_believe(const route_table *t, const route_request *request, route_belief *belief);
void route_trust_learn(route_trust *trust, const float told[2], int answer_tokens);

/* Believed tokens still to come of an answer; one that has outgrown its prediction goes on for longer the less
 * predictions are worth. */
static inline float route_left(float predicted, float done, float spread) {
    float left = predicted - done, more = spread * done + 1;
    return left > more ? left : more;
}

/* ---- lanes ---- */

static inline double route_kept(const route_replica *r, double tokens) {
    return r->most_kept_tokens > 0 && tokens > r->most_kept_tokens ? r->most_kept_tokens : tokens;
}

static inline int route_requests(const route_lane *l) {
    return l->n + l->other_requests;
}

/* What a prompt adds to a step, seconds. */
double route_prompt_s(const route_lane *l, double tokens);
/* A step that decodes so many, each with so many tokens in context, seconds. */
double route_decode_s(const route_lane *l, int batch, double context);
/* Counts a request at a replica; its ticket. There is room in the ledger. */
int route_count(route_table *t, int replica, const route_request *request, const route_belief *belief);

typedef struct route_delay { /* what a request would cost at a replica, seconds */
    double wait_s, prefill_s, decode_s, tail_s, harm_s;
} route_delay;
/* state.c. `both`, and `throughput` with the uncompressed length: prefill and decode alone. */
route_delay route_delay_static(const route_lane *l, double prompt_tokens, double answer_tokens);
/* `state`: of n replicas, scores and delays [n]. */
void route_state_scores(const route_table *t, const int *able, int n, double prompt_tokens, const route_belief *belief,
                        double *scores, route_delay *delays);
#endif
