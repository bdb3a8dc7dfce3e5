/* route.h - the router's core: which replica gets a request. Pure: no I/O, no clock, and after route_open no
 * allocation.
 *
 * Three nouns. A *table* holds the replicas: each has a profile of its step times, its memory, and the requests that
 * this router has sent there and that have not ended: the *ledger*. A *pick* chooses a replica by a policy and counts
 * the request in the ledger at once, before anybody answers: a count that comes late sends a burst to one replica. A
 * *receipt* says what was chosen and why.
 *
 * The same code runs in the simulator, in a proxy and inside another proxy's worker. A table is used by one thread at a
 * time; the same calls in the same order with the same seed give the same picks. */
#ifndef ROUTE_ROUTE_H
#define ROUTE_ROUTE_H
#include "pleat.h"
#include "predict/throughput.h"

typedef enum route_policy {
    /* the paper's (Gao et al., MLSys 2025, section 5 and Table 8) */
    ROUTE_LEAST_MEMORY, /* fewest bytes of KV cache */
    ROUTE_THROUGHPUT,   /* least time at the replica's present batch, the answer's length taken as uncompressed */
    ROUTE_LENGTH,       /* shortest predicted answer */
    ROUTE_BOTH,         /* argmin prompt / prefill throughput + predicted length / decode throughput */
    /* the usual ones */
    ROUTE_ROUND_ROBIN,
    ROUTE_RANDOM,
    ROUTE_POWER_OF_TWO,   /* two at random, then the one with fewer requests */
    ROUTE_LEAST_REQUESTS, /* fewest requests in flight */
    ROUTE_LEAST_TOKENS,   /* fewest tokens in flight: prompts and what has been answered of them */
    /* ours */
    ROUTE_LEAST_WORK, /* least predicted tokens left to do, the request's own among them: what length alone can do */
    ROUTE_STATE,      /* least predicted delay to the request, to those running there and to those still to come */
    ROUTE_POLICIES
} route_policy;

const char *route_policy_name(route_policy policy);
bool route_policy_find(const char *name, route_policy *policy);

typedef struct route_replica {
    const predict_profile *profile; /* the caller's, must outlive the table */
    int method;                     /* index into route_request.answer_tokens */
    double kv_bytes;                /* memory for KV pages */
    double token_bytes;             /* of one kept token */
    double most_kept_tokens;        /* an evicting method keeps at most so many of a request; 0: all */
    int most_context_tokens;        /* a prompt and its first token; 0: no limit */
    int most_batch;                 /* requests that a step takes at most */
    int step_tokens;                /* tokens that a step takes at most: chunked prefill */
} route_replica;

typedef struct route_request {
    int prompt_tokens;
    const float *answer_tokens; /* [n_methods] predicted, above 0; [0] is the uncompressed answer's. The caller's */
    int most_answer_tokens;     /* the request's own limit; 0: none */
} route_request;

enum { ROUTE_MOST_REPLICAS = 256, ROUTE_MOST_METHODS = 16 };
typedef struct route_table route_table;

/* A table of n replicas (copied), all ready, nothing in flight; at most most_in_flight requests in all. seed keys the
 * random policies and the breaking of ties. PLEAT_EINPUT (a field of a replica out of range), PLEAT_EMEMORY. */
pleat_status route_open(const route_replica *replicas, int n, int most_in_flight, uint64_t seed, route_table **table,
                        pleat_error *error);
void route_close(route_table *table);

/* ---- picking ---- */

typedef enum route_reason {
    ROUTE_BEST,     /* least score */
    ROUTE_TIED,     /* several had it, one of them at random */
    ROUTE_ONLY,     /* no other replica could take it */
    ROUTE_BLIND,    /* a policy without scores: round-robin, random */
    ROUTE_NO_READY, /* no replica is ready */
    ROUTE_NO_ROOM,  /* ready ones exist, but the request fits in none, even alone */
    ROUTE_FULL,     /* the ledger is full */
} route_reason;

typedef struct route_receipt {
    route_policy policy;
    route_reason reason;
    int replica;              /* -1: none */
    int n_able;               /* replicas that are ready and have room for it at all */
    double score, next_score; /* of the chosen and of the best other one, in the policy's unit; NaN without */
    int next;                 /* the best other one; -1: none */
    /* of the chosen one, in seconds: `throughput` and `both` have prefill and decode, `state` all; 0 elsewhere. tail:
     * what its delay counts more than once; harm: what it costs those there, weighted likewise */
    double wait_s, prefill_s, decode_s, tail_s, harm_s;
} route_receipt;

/* Chooses a replica, counts the request there, and returns its ticket; -1: none, the receipt's reason says why.
 * receipt may be NULL. */
int route_pick(route_table *table, route_policy policy, const route_request *request, route_receipt *receipt);
/* "both: replica 2, 2.95 s = prefill 0.05 + decode 2.9; next best replica 0, 3.9 s". 300 bytes are enough for any.
 * Returns out. */
const char *route_receipt_text(const route_receipt *receipt, char *out, size_t cap);

/* ---- the ledger ---- */

/* The request has so many tokens of its answer; the first one also says that its prompt is done. */
void route_progress(route_table *table, int ticket, int answer_tokens);
/* It ended; the ticket is free. answer_tokens: of the whole answer, from which the table learns how far predictions
 * hold
 * (`state`, `least-work`); -1: it broke off, and nothing is learned. */
void route_end(route_table *table, int ticket, int answer_tokens);
/* Not ready: gets nothing new; what runs there stays in the ledger. */
void route_ready(route_table *table, int replica, bool ready);
/* What the replica itself says that it holds, requests and tokens: what exceeds the ledger at this moment is other
 * routers' and counts besides it until the next call. */
void route_observe(route_table *table, int replica, int requests, double tokens);

typedef struct route_load {              /* ledger, and what others put there */
    int requests;                        /* in flight */
    int waiting;                         /* of them without a first token */
    double prompt_tokens, answer_tokens; /* of those in flight; answer: what has come */
    double left_tokens;                  /* predicted answers still to come, and prompts not done */
    double kv_bytes;
    int other_requests;
    double other_tokens;
} route_load;
route_load route_load_of(const route_table *table, int replica);
#endif
