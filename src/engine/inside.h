/* inside.h - the structs of an engine; for the files of this folder only. */
#ifndef ENGINE_INSIDE_H
#define ENGINE_INSIDE_H
#include "engine/engine.h"
#include "engine/prefix.h"
#include "kv/image.h"
#include "model/forward.h"
#include "model/sample.h"

struct pleat_engine {
    const pleat_model *model;
    const cpu_kernels *kernels;
    threads *pool;
    kv_pool *pages;
    forward *pass;
    prefix *prefix; /* NULL: nothing is held of earlier prompts */
    sampler *sampler;
    int max_step_tokens, max_sequences;
    pleat_seq *first; /* list of all its sequences */
    int gather_rest;  /* steps until gather.c tries again */
    /* of a step: [max_sequences], [max_step_tokens] */
    forward_item *item;
    int *logit_row;
    float **logit_to;
};

struct pleat_seq {
    pleat_engine *engine;
    pleat_seq *next, *prev; /* in its list */
    kv_cache *cache;
    bool in_prompt; /* a prompt was begun and not ended */
    /* offering its prompt to later ones; tokens [n_tokens] so far */
    bool offers;
    prefix_path path;
    int32_t *tokens;
    int n_tokens, cap_tokens;
    /* moved out of the pool: to memory, or to a file (n_bytes > 0) */
    kv_image image;
    kv_image_file file;
};

static inline bool seq_is_out(const pleat_seq *seq) {
    return seq->image.bytes || seq->file.n_bytes;
}

/* reuse.c. Makes room for `bytes` in the pool, from what is held of earlier prompts if it must be. */
bool engine_reserve(pleat_engine *engine, size_t bytes);
/* gather.c. Before a step, when it has its room: moves pages closer together when the memory behind the pool is above
 * its budget. */
void engine_gather(pleat_engine *engine);
/* In a step of a sequence that offers, with its new tokens in the cache: between the last layer and the event, and
 * after the step. */
void seq_offer_before_event(pleat_seq *seq, const int32_t *tokens, int n_tokens);
void seq_offer_after_event(pleat_seq *seq);
bool seq_stop_offering(pleat_seq *seq); /* true: it did until now */
/* seq.c: takes over cache, which is closed on failure. */
pleat_status seq_of(pleat_engine *engine, kv_cache *cache, bool in_prompt, pleat_seq **out, pleat_error *error);
/* move.c: lets go of what was moved out. */
void move_forget(pleat_seq *seq);
/* Can files be made in the folder? PLEAT_EIO. */
pleat_status move_try(const char *folder, pleat_error *error);
#endif
