/* serve_plan.h - the memory that `pleat serve` plans for before it serves, and says at its start. */
#ifndef CLI_SERVE_PLAN_H
#define CLI_SERVE_PLAN_H
#include "serve/serve.h"
#include <jansson.h>
#include <stdint.h>

#define PLAN_UNSAID SIZE_MAX

/* Bytes that the command line named; PLAN_UNSAID: the plan chooses. */
typedef struct plan_sizes {
    size_t pool, prefix, moved, requests;
} plan_sizes;

typedef struct serve_plan {                           /* bytes */
    size_t weights, pool, prefix, moved, work, total; /* resident once all has been in use */
    size_t mapped;                                    /* of the weights: pages of the model's file */
    size_t requests, connections;                     /* at most beside it, for as long as they are there */
    size_t available;
    int context_tokens;
    size_t context; /* of the pool, for a prompt that fills the context */
} serve_plan;

/* Reads a size: "4GB", "512M", "1.5g", bytes; decimal units. text NULL: *bytes stays. PLEAT_EINPUT names the option. */
pleat_status plan_size(const char *option, const char *text, size_t *bytes, pleat_error *error);
/* For an open model, the threads of its engine, and the method of requests that name none, as serve_method gives it.
 * PLEAT_EINPUT: a pool that is too small; PLEAT_EMEMORY: it does not fit the free memory. */
pleat_status plan_make(const serve_options *o, const plan_sizes *said, int n_threads, const pleat_model *model,
                       const pleat_method *method, serve_plan *p, pleat_error *error);
/* One sentence on standard error where the pool cannot hold a prompt that fills the context. */
void plan_warn(const char *command_name, const serve_options *o, const serve_plan *p);
void plan_print(const serve_plan *p);
json_t *plan_json(const serve_plan *p);
#endif
