/* job.h - a completion request on its way: the tokens of its answers between the engine's thread, which writes them,
 * and an HTTP thread, which reads them. For job.c and answer.c. */
#ifndef SERVE_JOB_H
#define SERVE_JOB_H
#include "serve/inside.h"
#include "serve/stop.h"

/* Tokens of one answer in the order in which they come. One thread adds, another reads what is below n; there is room
 * for all that the request can give, so that adding neither waits nor fails, however slow the client reads. */
typedef struct token_log {
    int cap, n_top;
    atomic_int n;
    int32_t *id;     /* [cap] */
    float *logprob;  /* [cap], NULL without logprobs */
    int32_t *top_id; /* [cap][n_top] */
    float *top_logprob;
} token_log;

/* One answer: a prompt's j-th. */
typedef struct choice {
    job *job;
    const ask_prompt *prompt;
    int index;
    uint64_t id; /* the scheduler's */
    token_log prompt_log, log;
    /* the engine's thread */
    stop_state stop;
    double last_at; /* of its last token */
    /* written by the engine's thread, read by others */
    atomic_size_t kv_bytes, kv_peak_bytes;
    atomic_int n_cached, n_preemptions;
    atomic_bool ended;
    /* written before `ended` */
    request_usage usage;
    request_finish finish;
    char sentence[512];
    /* the HTTP thread */
    stop_text text;
    text shown;           /* not sent yet */
    int n_read, n_unsent; /* tokens taken into text; of those, not in an event yet */
    int offset;           /* characters of the tokens whose logprobs were written */
    bool begun, done;
} choice;

struct job {
    server *server;
    http_exchange *x;
    ask *ask;
    choice *choice; /* [n_choices] */
    int n_choices;
    atomic_int n_open;   /* choices that have not ended */
    atomic_bool stirred; /* something came since an HTTP thread looked */
    atomic_bool started; /* a choice was admitted */
    char id[48];
    int64_t created;
    double submitted;
    holding held; /* of the memory for requests */
    /* of a stream */
    text out; /* events; sent up to out_at */
    size_t out_at;
    bool streams, ends;
    double sent_at;
    job *prev, *next;
};

/* job.c: why a choice gave no answer; false: none failed. */
bool job_failed(const job *j, refusal *r);
/* answer.c: the whole answer as JSON, malloc'ed; NULL: no memory. Every choice has ended. */
char *answer_whole(job *j);
/* Appends the events of what has come since the last call. true: that was the end. */
bool answer_events(job *j);
#endif
