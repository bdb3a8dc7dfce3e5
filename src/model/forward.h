/* forward.h - rows of a batch through the layers: the one forward pass for prefill, decode and any mix of both.
 *
 * Owns the activations of a step. Knows caches only through cache.h and attend.h; sequences and phases are the
 * engine's. */
#ifndef MODEL_FORWARD_H
#define MODEL_FORWARD_H
#include "kv/attend.h"
#include "model/model.h"

typedef struct forward forward;

/* Room for steps of max_rows rows over max_items caches. The model, threads and kernels must outlive it. PLEAT_EMEMORY.
 */
pleat_status forward_open(const pleat_model *model, int max_rows, int max_items, threads *pool, const cpu_kernels *,
                          forward **out, pleat_error *error);
void forward_close(forward *f);
/* What each thread packs panels of a mapped model in; 0 of others. */
size_t forward_panels_bytes(const pleat_model *model);

typedef struct forward_item {
    kv_cache *cache;       /* its new tokens were begun (kv_cache_begin) */
    const int32_t *tokens; /* [n_tokens], in range */
    int n_tokens;
} forward_item;

/* Takes the memory that the attention of this step needs; before kv_cache_begin. PLEAT_EMEMORY: nothing has changed. */
pleat_status forward_plan(forward *f, const forward_item *items, int n_items, pleat_error *error);
/* All rows through all layers: keys and values are appended, and attended to. Cannot fail. */
void forward_run(forward *f, const forward_item *items, int n_items);
/* The end of the same step: events are carried out (kv_cache_finish_layer), and logits[i] [n_vocab] = those of row
 * row[i] (rows are numbered over the items in order). Cannot fail. */
void forward_finish(forward *f, const int *row, float *const *logits, int n_logits);

/* The scratch of a worker, for work between steps. */
kv_scratch *forward_scratch(forward *f, int worker);
#endif
