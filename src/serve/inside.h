/* inside.h - the structs of a server; for the files of this folder only. */
#ifndef SERVE_INSIDE_H
#define SERVE_INSIDE_H
#include "serve/ask.h"
#include "serve/metrics.h"
#include "serve/serve.h"
#include <pthread.h>
#include <stdatomic.h>

enum { KEY_BYTES = 32, TENANT_BYTES = HTTP_HOLDER_BYTES };

typedef struct job job;

struct server {
    serve_options options; /* strings are owned */
    ask_world world;
    char no_chat[600];
    pleat_engine *engine;
    scheduler *scheduler;
    http_server *http;
    metrics *metrics;
    shares requests;           /* memory of bodies, jobs and lists of tokens */
    uint8_t (*key)[KEY_BYTES]; /* [n_keys] SHA-256 of each */
    int64_t created;           /* seconds since 1970 */
    atomic_bool draining;
    atomic_int n_jobs;
    _Atomic uint64_t next_id;
    uint64_t id_salt;
    pthread_mutex_t lock; /* of the list of jobs; not taken for a token */
    job *jobs;
};

/* serve.c: answers with r's status, headers and error object. */
void serve_refuse(http_exchange *x, const refusal *r);
/* What a request holds of the memory for all of them, as part of its tenant's share. */
typedef struct holding {
    share *share;
    size_t bytes;
} holding;
/* Takes bytes more for x; the first time h is zeros. false: r says 503, or 400 when that much is never there. */
bool serve_take(server *s, const http_exchange *x, holding *h, size_t n_bytes, refusal *r);
void serve_give(server *s, holding *h); /* everything back; a holding of zeros is fine */

/* job.c */
/* Takes the ask over; answers or defers. tenant: see serve.c. */
void job_start(server *s, http_exchange *x, ask *a, const char *tenant);
/* Calls `see` for each of the running choices: its method and the KV bytes it held last. */
void jobs_kv_bytes(server *s, void (*see)(void *context, const char *method, size_t bytes), void *context);

/* tell.c */
void tell_models(server *s, http_exchange *x);
void tell_methods(server *s, http_exchange *x);
void tell_tokens(server *s, http_exchange *x);
void tell_text(server *s, http_exchange *x);
void tell_tokenizer(server *s, http_exchange *x); /* what lm-eval asks before it tokenises here */
void tell_live(server *s, http_exchange *x);
void tell_ready(server *s, http_exchange *x);
void tell_metrics(server *s, http_exchange *x);
/* What should be known of a method before it is used on this model: a list of sentences. */
json_t *tell_warnings(const server *s, const pleat_method *method);
void tell_version(server *s, http_exchange *x);

/* page.c */
void tell_page(server *s, http_exchange *x);
#endif
