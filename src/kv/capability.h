/* capability.h - what goes with what: format x policy x split x prefill, and what of a prompt can be reused. Nothing is
 * typed here: the parser and the rules of sharing are asked, so a new line of methods.def is in the table at once. */
#ifndef KV_CAPABILITY_H
#define KV_CAPABILITY_H
#include "kv/share.h"

/* What a prompt takes over of an earlier one that begins alike. */
typedef enum kv_reuse {
    KV_REUSE_NONE,
    KV_REUSE_F16,    /* fp16 pages from before any event, shared */
    KV_REUSE_SEALED, /* pages sealed at grid points, shared */
    KV_REUSE_COPY,   /* the whole cache as it stood at a grid point, copied */
} kv_reuse;

typedef struct kv_capability {
    pleat_error refusal; /* text "": possible, else why not, in one sentence */
    kv_reuse reuse;
    int first_tokens, grid_tokens; /* where: first_tokens + multiples of grid_tokens; 0: nowhere */
    bool windowed;                 /* also on models with sliding-window layers */
} kv_capability;

/* With the parts' default parameters; modifier: "critical", "pin", ... or NULL. */
kv_capability kv_capability_of(const kv_format *format, const kv_policy *policy, const kv_split *split, bool bounded,
                               const char *modifier);
/* The same of a parsed method on a model. */
kv_reuse kv_reuse_of(const kv_method *method, const kv_model *model, int *first_tokens, int *grid_tokens);
#endif
