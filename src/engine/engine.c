/* engine.c - opening and closing an engine, parsing methods against a model, sampling. */
#include "engine/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <assert.h>
#include <stdlib.h>

enum { MOST_STEP_TOKENS = 1 << 16, MOST_SEQUENCES = 4096 };

static pleat_status check_options(const pleat_engine_options *o, pleat_error *error) {
    if (o->n_threads < 0 || o->n_threads > 1024)
        return err_set(error, PLEAT_EINPUT, "%d threads; 0 to 1024 are possible", o->n_threads);
    if (o->max_step_tokens < 0 || o->max_step_tokens % 64 || o->max_step_tokens > MOST_STEP_TOKENS)
        return err_set(error, PLEAT_EINPUT, "steps of %d tokens; a multiple of 64, at most %d, is possible",
                       o->max_step_tokens, MOST_STEP_TOKENS);
    if (o->max_sequences < 0 || o->max_sequences > MOST_SEQUENCES)
        return err_set(error, PLEAT_EINPUT, "%d sequences; 0 to %d are possible", o->max_sequences, MOST_SEQUENCES);
    return PLEAT_OK;
}

size_t engine_pool_share(const pleat_model *model, size_t available_bytes) {
    size_t mapped = pleat_model_describe(model).mapped_bytes;
    return available_bytes > mapped ? (available_bytes - mapped) / 2 : 0;
}

static size_t default_pool_bytes(const pleat_model *model) {
    size_t available = mem_available_bytes(), share = engine_pool_share(model, available);
    return share ? share : available / 2;
}

static pleat_status open_parts(pleat_engine *e, const pleat_engine_options *o, pleat_error *error) {
    size_t pool_bytes = o->pool_bytes ? o->pool_bytes : default_pool_bytes(e->model);
    e->max_step_tokens = o->max_step_tokens ? o->max_step_tokens : ENGINE_STEP_TOKENS;
    e->max_sequences = o->max_sequences ? o->max_sequences : ENGINE_SEQUENCES;
    if (e->max_sequences > e->max_step_tokens)
        return err_set(error, PLEAT_EINPUT, "steps of %d tokens cannot hold one token of each of %d sequences",
                       e->max_step_tokens, e->max_sequences);
    e->item = calloc((size_t)e->max_sequences, sizeof(*e->item));
    e->logit_row = calloc((size_t)e->max_step_tokens, sizeof(*e->logit_row));
    e->logit_to = calloc((size_t)e->max_step_tokens, sizeof(*e->logit_to));
    if (!e->item || !e->logit_row || !e->logit_to)
        return err_set(error, PLEAT_EMEMORY, "no memory for an engine");
    pleat_status status = cpu_kernels_get(&e->kernels, error);
    status = status ? status : threads_open(o->n_threads, &e->pool, error);
    status = status ? status : kv_pool_open(pool_bytes, &e->pages, error);
    if (!status && o->prefix_bytes)
        status = prefix_open(&e->model->kv, e->pages, o->prefix_bytes, &e->prefix, error);
    status = status ? status : sampler_open(e->model->n_vocab, &e->sampler, error);
    return status ? status
                  : forward_open(e->model, e->max_step_tokens, e->max_sequences, e->pool, e->kernels, &e->pass, error);
}

pleat_status pleat_engine_open(const pleat_model *model, const pleat_engine_options *options, pleat_engine **out,
                               pleat_error *error) {
    pleat_engine_options o = options ? *options : (pleat_engine_options){0};
    pleat_status status = check_options(&o, error);
    if (status)
        return status;
    pleat_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return err_set(error, PLEAT_EMEMORY, "no memory for an engine");
    e->model = model;
    status = open_parts(e, &o, error);
    if (status) {
        pleat_engine_close(e);
        return status;
    }
    *out = e;
    return PLEAT_OK;
}

void pleat_engine_close(pleat_engine *e) {
    if (!e)
        return;
    assert(!e->first);
    forward_close(e->pass);
    sampler_close(e->sampler);
    prefix_close(e->prefix);
    kv_pool_close(e->pages);
    if (e->pool)
        threads_close(e->pool);
    free(e->item);
    free(e->logit_row);
    free(e->logit_to);
    free(e);
}

const char *pleat_engine_level(const pleat_engine *e) {
    return e->kernels->level;
}

const pleat_model *engine_model(const pleat_engine *e) {
    return e->model;
}

kv_pool *engine_pool(pleat_engine *e) {
    return e->pages;
}

int engine_threads(const pleat_engine *e) {
    return threads_count(e->pool);
}

int engine_max_step_tokens(const pleat_engine *e) {
    return e->max_step_tokens;
}

/* ---- methods and sampling of the public face ---- */

pleat_status pleat_method_parse(const char *spec, const pleat_model *model, pleat_method **out, pleat_error *error) {
    kv_method *method = malloc(sizeof(*method));
    if (!method)
        return err_set(error, PLEAT_EMEMORY, "no memory for a method");
    pleat_status status = kv_method_parse(spec, model ? &model->kv : NULL, method, error);
    if (status)
        free(method);
    else
        *out = method;
    return status;
}

void pleat_method_free(pleat_method *method) {
    free(method);
}

const char *pleat_method_spec(const pleat_method *method) {
    return method->spec;
}

pleat_status pleat_sample(pleat_engine *e, const pleat_sampling *sampling, float *logits, const int32_t *history,
                          int n_history, int32_t *token, pleat_error *error) {
    return sample_token(e->sampler, sampling, logits, history, n_history, token, error);
}
