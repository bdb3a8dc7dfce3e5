/* scheduler.h - continuous batching: requests come in from any thread, one engine thread moves all of them forward.
 *
 * A step holds one token of every request that decodes, and as much of the prompts that wait as the token budget leaves
 * (chunked prefill). A request is admitted when the pool can hold its prompt and all its new tokens under its method
 * (engine_plan_bytes), in turn by tenant. If the pool runs out nevertheless (overcommit above 1), the youngest request
 * is moved out, to memory within a bound, then to files, and comes back before any new one is admitted; its text is the
 * same to the bit. What a step does not do: take a lock that a submitting thread may hold for long, or allocate for
 * each token: a request's arrays are made when it is submitted; what may grow during a step is a lane's lists, by
 * doubling, and the prefix cache, by a record for a page of 64 tokens.
 *
 * Which file does what: scheduler.c opens, closes, takes requests in and runs the thread; tenants.c counts places in
 * the queue; admit.c decides who runs; turn.c makes a step, samples and delivers. */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H
#include "engine/engine.h"

typedef struct scheduler scheduler;

enum { SCHEDULER_WAITING = 256 };

typedef struct scheduler_options {
    int max_running;       /* 0: the engine's max_sequences */
    int max_waiting;       /* requests in the queue; 0: SCHEDULER_WAITING */
    int step_tokens;       /* budget of a step; 0: the engine's max_step_tokens */
    double overcommit;     /* admitted bytes over the pool's; 0: 1 */
    size_t moved_bytes;    /* memory for caches that are moved out; 0: a quarter of the pool's budget */
    const char *moved_dir; /* where the rest goes; NULL: there is no rest, requests stay */
} scheduler_options;

typedef struct token_bias {
    int32_t id;
    float bias;
} token_bias;

enum { REQUEST_MOST_TOP = 20 };

/* What a request asks for. Everything is copied. */
typedef struct request_spec {
    const pleat_method *method;
    const int32_t *prompt; /* [n_prompt], at least one */
    int n_prompt;
    int max_tokens, min_tokens;
    bool ignore_end;
    const int32_t *stop; /* [n_stop] further tokens that end the answer, also with ignore_end; not delivered */
    int n_stop;
    pleat_sampling sampling;
    const token_bias *bias; /* [n_bias] added to logits, also when greedy */
    int n_bias;
    const uint8_t *allowed; /* [(n_vocab + 7) / 8] a bit for each token that may come; NULL: all may */
    bool logprobs;          /* of the tokens that come */
    int n_top;              /* and of so many alternatives, at most REQUEST_MOST_TOP */
    bool prompt_logprobs;   /* of the prompt's tokens too: such a prompt is not reused */
    const char *tenant;     /* who shares the batch fairly with others; NULL: "" */
    const char *salt;       /* prompts are reused among those with the same one; NULL: "" */
    const token_span *pin;  /* [n_pins] of the prompt, never evicted by methods with `pin`; none is empty */
    int n_pins;
} request_spec;

typedef struct token_logprob {
    int32_t id;
    float logprob; /* of the raw softmax, before temperature, penalties and bias */
    int n_top;
    int32_t top_id[REQUEST_MOST_TOP]; /* falling, ties by id */
    float top_logprob[REQUEST_MOST_TOP];
} token_logprob;

typedef struct request_usage {
    int prompt_tokens, cached_tokens, completion_tokens;
    size_t kv_bytes, kv_peak_bytes;
    double queued_s, prefill_s, decode_s; /* from submission to admission, to the first token, to the end */
    int preemptions;
} request_usage;

typedef enum request_finish {
    REQUEST_GOES_ON,   /* it has not ended */
    REQUEST_STOP,      /* a token that ends an answer, or the sink's word */
    REQUEST_LENGTH,    /* its tokens, or the context, are used up */
    REQUEST_CANCELLED, /* by scheduler_cancel or scheduler_stop */
    REQUEST_NO_ROOM,   /* an error: memory ran out, or a full pool with no place to move to; later it may do */
    REQUEST_FAILED,    /* any other error */
    REQUEST_FINISHES   /* how many there are */
} request_finish;
/* "stop", "length", "cancelled", or "error"; static. */
const char *request_finish_name(request_finish finish);

typedef enum request_event_kind {
    REQUEST_STARTED,      /* admitted: the first event, unless it is the END of a request that never was */
    REQUEST_PROMPT_TOKEN, /* with prompt_logprobs: token (id and logprobs) of each prompt position from 1 on */
    REQUEST_TOKEN,
    REQUEST_END, /* the last event; the request is gone afterwards */
} request_event_kind;

typedef struct request_event {
    request_event_kind kind;
    const token_logprob *token; /* of a token; logprobs are filled when they were asked for */
    request_finish finish;      /* END */
    const char *sentence;       /* of an error: what happened */
    const request_usage *usage; /* END, and some REQUEST_TOKENs: the first, and every 16th with KV bytes of now */
} request_event;

/* Called on the engine's thread; must not block. false: the request has what it needs (REQUEST_STOP). */
typedef bool (*request_sink)(void *context, const request_event *event);

/* Least budget of a step, a multiple of 64: beside a token of every other request, a prompt that waits always gets on.
 */
int scheduler_least_step(int max_running);
/* PLEAT_EINPUT names the option that is out of range; PLEAT_EMEMORY. */
pleat_status scheduler_open(pleat_engine *engine, const scheduler_options *options, scheduler **out,
                            pleat_error *error);
/* Stops the thread if there is one and ends what is left with REQUEST_CANCELLED; figures can still be read. */
void scheduler_stop(scheduler *s);
/* Stops, and frees. */
void scheduler_close(scheduler *s);

/* Any thread. Would n requests of this tenant be refused, because the queue is full for them? (tenants.h) */
bool scheduler_full(scheduler *s, const char *tenant_name, int n);
/* Any thread. n requests of the first one's tenant, all of them or none; ids [n] name them for scheduler_cancel, and
 * are written before any event comes. PLEAT_EINPUT: a field is wrong, or one could never fit the context or the pool;
 * PLEAT_EFULL: not now, the queue is full or the scheduler drains; PLEAT_EMEMORY. Then nothing was taken in. After
 * PLEAT_OK the sink will get exactly one END with each of contexts [n]. */
pleat_status scheduler_submit(scheduler *s, const request_spec *specs, int n, request_sink sink, void *const *contexts,
                              uint64_t *ids, pleat_error *error);
/* Any thread: the request ends with REQUEST_CANCELLED within a step and its pages are free. An id that is gone is
 * ignored. */
void scheduler_cancel(scheduler *s, uint64_t id);

/* One turn on the calling thread: intake, admission, a step. false: there is nothing to do. */
bool scheduler_turn(scheduler *s);
/* A thread of its own that takes turns while there is work and sleeps otherwise. */
pleat_status scheduler_start(scheduler *s, pleat_error *error);
/* No new requests are taken in (PLEAT_EFULL, "shutting down"); true when those there have ended within the time. */
bool scheduler_drain(scheduler *s, double seconds);

/* Figures for metrics; any thread, no lock. */
typedef struct scheduler_figures {
    int running, waiting, moved_out;
    size_t pool_used_bytes, pool_budget_bytes;
    int64_t prompt_tokens, cached_tokens, generation_tokens, preemptions, steps, requests_ended[REQUEST_FINISHES];
    int64_t prefix_asked_tokens, prefix_found_tokens;
    int64_t evictions, seals, reseals; /* of requests that have ended */
} scheduler_figures;
scheduler_figures scheduler_describe(const scheduler *s);
#endif
