/* scheduler_inside.h - the structs of a scheduler; for scheduler.c, admit.c and turn.c only. */
#ifndef ENGINE_SCHEDULER_INSIDE_H
#define ENGINE_SCHEDULER_INSIDE_H
#include "engine/inside.h"
#include "engine/scheduler.h"
#include "engine/tenants.h"
#include <pthread.h>
#include <stdatomic.h>

typedef enum request_state { REQUEST_WAITING, REQUEST_PROMPT, REQUEST_DECODE, REQUEST_MOVED } request_state;

typedef struct request {
    uint64_t id;
    request_state state;
    kv_method method;
    int32_t *tokens;                /* [n_prompt + max_tokens] */
    int n_prompt, n_tokens, n_done; /* n_done: tokens in the cache */
    int max_tokens, min_tokens, n_top;
    bool ignore_end, logprobs, prompt_logprobs, cancelled;
    bool held; /* found no room for long: it is next */
    pleat_sampling sampling;
    token_bias *bias;
    int n_bias;
    uint8_t *allowed; /* as in the spec, or NULL */
    int32_t *stop;
    int n_stop;
    token_span *pin;
    int n_pins;
    tenant *tenant;
    char *salt;
    request_sink sink;
    void *context;
    pleat_seq *seq;
    size_t plan_bytes;  /* of the pool, at most */
    size_t moved_bytes; /* of memory, while moved out to it */
    int64_t turn;       /* of its admission: a larger one is younger */
    double submitted, admitted, first;
    request_usage usage;
    struct request *next; /* in the mailbox, the queue, or the list of those moved out */
} request;

typedef struct cancellation {
    uint64_t id;
    struct cancellation *next;
} cancellation;

enum {
    PIECE_TOKENS = 64, /* least of a prompt that goes into a step: it is cut at multiples of this */
    PROMPT_ROWS = 64   /* of a step, whose prompt logprobs are wanted */
};

enum {
    FIGURE_PROMPT,
    FIGURE_CACHED,
    FIGURE_GENERATION,
    FIGURE_PREEMPTIONS,
    FIGURE_STEPS,
    FIGURE_ASKED,
    FIGURE_FOUND,
    FIGURE_EVICTIONS,
    FIGURE_SEALS,
    FIGURE_RESEALS,
    FIGURE_ENDED, /* of each request_finish */
    N_FIGURES = FIGURE_ENDED + REQUEST_FINISHES
};

struct scheduler {
    pleat_engine *engine;
    scheduler_options options;
    int32_t *end_id; /* tokens that end an answer */
    int n_end;
    /* from other threads */
    _Atomic(request *) mailbox; /* newest first */
    _Atomic(cancellation *) cancelled;
    _Atomic uint64_t next_id;
    tenants tenants;
    atomic_bool draining;
    /* the engine thread's own */
    request *waiting, *moved; /* oldest first */
    request **running;        /* [max_running] in the order of admission */
    int n_running;
    size_t committed_bytes, moved_bytes;
    int64_t turn;
    pleat_item *item;
    request **of_item; /* [max_running] */
    float *row;        /* [max_running][n_vocab] logits of a step's items */
    float *raw;        /* [n_vocab] those of one item as the model gave them */
    float *prompt_row; /* [PROMPT_ROWS][n_vocab]; NULL until a request wants its prompt's */
    /* figures */
    atomic_int figure_running, figure_moved;
    atomic_size_t figure_used;
    _Atomic int64_t figure[N_FIGURES];
    /* its thread */
    pthread_t thread;
    pthread_mutex_t lock; /* of sleeping only */
    pthread_cond_t wake;
    bool has_thread;
    atomic_bool stop, asleep;
};

static inline void figure_add(scheduler *s, int which, int64_t n) {
    atomic_fetch_add_explicit(&s->figure[which], n, memory_order_relaxed);
}

/* How a request ends that cannot go on. */
static inline request_finish finish_of(pleat_status status) {
    return status == PLEAT_EMEMORY || status == PLEAT_EFULL ? REQUEST_NO_ROOM : REQUEST_FAILED;
}

/* scheduler.c: tells the sink and frees the request, which is in no list any more. */
void request_end(scheduler *s, request *r, request_finish finish, const char *sentence);

/* admit.c */
void admit_take_in(scheduler *s);          /* the mailbox into the queue, cancelled requests out of everything */
void admit_resume_and_start(scheduler *s); /* who may run now */
/* Moves the youngest running request out, or ends it when there is no place for it; false: at most one runs. */
bool admit_preempt(scheduler *s);
void admit_end(scheduler *s, int running, request_finish finish, const char *sentence); /* of running[...] */

/* turn.c */
void turn_step(scheduler *s);
#endif
