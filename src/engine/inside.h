/* inside.h - the structs of an engine; for the files of this folder only. */
#ifndef ENGINE_INSIDE_H
#define ENGINE_INSIDE_H
#include "engine/engine.h"
#include "model/forward.h"
#include "model/sample.h"

struct pleat_engine {
    const pleat_model *model;
    const cpu_kernels *kernels;
    threads *pool;
    kv_pool *pages;
    forward *pass;
    sampler *sampler;
    int max_step_tokens, max_sequences, n_sequences;
    /* of a step: [max_sequences], [max_step_tokens] */
    forward_item *item;
    int *logit_row;
    float **logit_to;
};

struct pleat_seq {
    pleat_engine *engine;
    kv_cache *cache;
    bool in_prompt; /* a prompt was begun and not ended */
};
#endif
