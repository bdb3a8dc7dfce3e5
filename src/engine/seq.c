/* seq.c - the life of one sequence: open, fork, fill, end of a prompt, figures. */
#include "engine/inside.h"
#include "base/status.h"
#include <stdlib.h>

pleat_status seq_of(pleat_engine *e, kv_cache *cache, bool in_prompt, pleat_seq **out, pleat_error *error) {
    pleat_seq *seq = malloc(sizeof(*seq));
    if (!seq) {
        kv_cache_close(cache);
        return err_set(error, PLEAT_EMEMORY, "no memory for a sequence");
    }
    *seq = (pleat_seq){.engine = e, .cache = cache, .in_prompt = in_prompt};
    seq->next = e->first;
    if (e->first)
        e->first->prev = seq;
    e->first = seq;
    *out = seq;
    return PLEAT_OK;
}

pleat_status pleat_seq_open(pleat_engine *e, const pleat_method *method, pleat_seq **out, pleat_error *error) {
    kv_cache *cache;
    pleat_status status = kv_cache_open(&e->model->kv, method, e->pages, &cache, error);
    return status ? status : seq_of(e, cache, false, out, error);
}

pleat_status pleat_seq_fork(pleat_engine *e, const pleat_seq *src, const pleat_method *method, pleat_seq **out,
                            pleat_error *error) {
    kv_cache *cache;
    if (src->engine != e)
        return err_set(error, PLEAT_EINPUT, "the sequence to fork belongs to another engine");
    pleat_status status = kv_cache_fork(src->cache, method, &cache, error);
    return status ? status : seq_of(e, cache, true, out, error);
}

pleat_status engine_seq_fill(pleat_engine *e, const pleat_method *method, int n_tokens, int max_new, uint64_t seed,
                             pleat_seq **out, pleat_error *error) {
    kv_cache *cache;
    pleat_status status = kv_cache_open(&e->model->kv, method, e->pages, &cache, error);
    if (status)
        return status;
    kv_cache_expect(cache, max_new);
    status = kv_cache_fill(cache, n_tokens, seed, forward_scratch(e->pass, 0), e->kernels, error);
    if (status) {
        kv_cache_close(cache);
        return status;
    }
    return seq_of(e, cache, false, out, error);
}

void pleat_seq_close(pleat_seq *seq) {
    if (!seq)
        return;
    *(seq->prev ? &seq->prev->next : &seq->engine->first) = seq->next;
    if (seq->next)
        seq->next->prev = seq->prev;
    kv_cache_close(seq->cache);
    move_forget(seq);
    free(seq->tokens);
    free(seq);
}

pleat_status pleat_seq_expect(pleat_seq *seq, int max_new_tokens, pleat_error *error) {
    if (max_new_tokens < 0)
        return err_set(error, PLEAT_EINPUT, "%d tokens to be generated", max_new_tokens);
    kv_cache_expect(seq->cache, max_new_tokens);
    return PLEAT_OK;
}

pleat_status pleat_seq_pin(pleat_seq *seq, int first, int n, pleat_error *error) {
    return kv_cache_pin(seq->cache, first, n, error);
}

pleat_seq_stats pleat_seq_describe(const pleat_seq *seq) {
    pleat_seq_stats stats = kv_cache_stats(seq->cache);
    stats.method = kv_cache_method(seq->cache)->spec;
    return stats;
}

int pleat_seq_room(const pleat_seq *seq) {
    return kv_cache_room(seq->cache);
}

void engine_seq_want(pleat_seq *seq, const pleat_method *method) {
    kv_cache_want(seq->cache, kv_method_wants(method));
}

kv_cache *engine_seq_cache(pleat_seq *seq) {
    return seq->cache;
}

typedef struct end_job {
    pleat_engine *engine;
    kv_cache *cache;
} end_job;

static void end_task(void *context, int il, int worker) {
    const end_job *job = context;
    kv_cache_finish_layer(job->cache, il, forward_scratch(job->engine->pass, worker), job->engine->kernels);
}

pleat_status engine_seq_end_prompt(pleat_engine *e, pleat_seq *seq, pleat_error *error) {
    if (!seq->in_prompt)
        return err_set(error, PLEAT_EINPUT, "the sequence has no open prompt to end");
    size_t bytes = kv_cache_step_bytes(seq->cache, 0, PLEAT_PROMPT_END, threads_count(e->pool));
    if (bytes == SIZE_MAX)
        return err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a sequence");
    if (!engine_reserve(e, bytes))
        return err_set(error, PLEAT_EFULL, "the end of a prompt needs %zu bytes of the KV pool; %zu are free", bytes,
                       kv_pool_budget_bytes(e->pages) - kv_pool_used_bytes(e->pages));
    for (int w = 0; w < threads_count(e->pool); w++)
        if (!kv_scratch_grow(forward_scratch(e->pass, w), seq->cache, 0))
            return err_set(error, PLEAT_EMEMORY, "no memory for the end of a prompt");
    end_job job = {.engine = e, .cache = seq->cache};
    kv_cache_begin(seq->cache, 0, PLEAT_PROMPT_END);
    threads_run(e->pool, e->model->n_layer, end_task, &job);
    kv_cache_end(seq->cache);
    seq->in_prompt = false;
    return PLEAT_OK;
}
