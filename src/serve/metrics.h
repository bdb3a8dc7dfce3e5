/* metrics.h - counts and histograms, written without locks from the engine's and HTTP threads. */
#ifndef SERVE_METRICS_H
#define SERVE_METRICS_H
#include "base/shares.h"
#include "base/text.h"
#include "engine/scheduler.h"

typedef struct metrics metrics;

/* Whether a request that ended so has its answer. */
static inline bool finish_answers(request_finish finish) {
    return finish == REQUEST_STOP || finish == REQUEST_LENGTH;
}

/* requests: the memory that they take, which is read when metrics are written. NULL: no memory */
metrics *metrics_open(const shares *requests);
void metrics_close(metrics *m);
void metrics_first_token(metrics *m, double seconds); /* since submission */
void metrics_next_token(metrics *m, double seconds);  /* since the token before */
void metrics_end(metrics *m, const request_usage *usage, request_finish finish);
void metrics_answer(metrics *m, int status); /* HTTP's */

typedef struct metrics_model {
    const char *name;
    size_t f16_token_bytes; /* of an uncompressed cache, all layers */
} metrics_model;
typedef struct metrics_method {
    const char *spec;
    size_t kv_bytes;
    int running;
} metrics_method;
/* Prometheus' text format 0.0.4, under vLLM's names (old and new spellings) and pleat's own. */
void metrics_write(const metrics *m, const scheduler_figures *f, const metrics_model *model,
                   const metrics_method *methods, int n_methods, text *out);
#endif
