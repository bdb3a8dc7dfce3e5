/* serve_plan.c - see serve_plan.h. What will be resident once everything has been in use: docs/server.md compares it
 * with the process's size. */
#include "cli/serve_plan.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "model/forward.h"
#include "model/model.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pleat_status plan_size(const char *name, const char *value, size_t *bytes, pleat_error *error) {
    char *end;
    if (!value)
        return PLEAT_OK;
    double x = strtod(value, &end);
    const char *units = "kmgt", *unit = *end ? strchr(units, tolower((unsigned char)*end)) : NULL;
    for (const char *u = units; unit && u <= unit; u++)
        x *= 1000;
    end += unit != NULL;
    end += *end == 'b' || *end == 'B';
    if (end == value || *end || !(x >= 0 && x < 1e15))
        return err_set(error, PLEAT_EINPUT, "--%s is \"%.60s\"; a size such as 512MB or 4GB is expected", name, value);
    *bytes = (size_t)x;
    return PLEAT_OK;
}

/* Activations of a step; panels of mapped weights; logits of its rows, of running requests and of prompts; the
 * tokenizer; positions and scores of the pool's tokens; pages that are free between others in use; stacks, buffers and
 * the rest. */
static size_t work_bytes(const serve_options *o, const pleat_model *model, int n_threads, size_t pool_bytes) {
    enum { LOGIT_ROWS = 32 + 64 + 1, TOKEN_BYTES = 80, POOL_SHARE = 50, FREE_SHARE = 16, REST_BYTES = 12 << 20 };
    int d = model->head_dim, heads = model->n_head + model->n_head_kv;
    size_t row = (size_t)(2 * model->n_embd + 2 * heads * d + 2 * model->n_ff + 2 * model->kv.n_rot) * sizeof(float) +
                 (size_t)model->n_ff * 5 / 4; /* its int8 form, with scales and sums */
    return (size_t)o->scheduler.step_tokens * row + (size_t)n_threads * forward_panels_bytes(model) +
           (size_t)(LOGIT_ROWS + o->scheduler.max_running) * (size_t)model->n_vocab * sizeof(float) +
           (size_t)model->n_vocab * TOKEN_BYTES + pool_bytes / POOL_SHARE + pool_bytes / FREE_SHARE + REST_BYTES;
}

static size_t most_bytes(const serve_plan *p) {
    return p->total + p->requests + p->connections;
}

static size_t size_of(size_t said, size_t otherwise) {
    return said == PLAN_UNSAID ? otherwise : said;
}

/* As serve_open takes it; that refuses more than the model's. */
static int context_of(const serve_options *o, const pleat_model *model) {
    int n = o->context_tokens;
    return n && n < model->context_tokens ? n : model->context_tokens;
}

/* Prompts and answers of a full queue and batch whose contexts are full, but no more than a quarter of the pool where
 * that is enough for one, and a few whole bodies; and a seventh more, which one client leaves to others. */
static size_t request_bytes(const serve_options *o, const pleat_model *model, size_t pool_bytes) {
    enum { BODIES = 8 };
    int context = context_of(o, model);
    size_t one = serve_request_bytes(1, context - 1);
    size_t all = one * (size_t)(o->scheduler.max_waiting + o->scheduler.max_running);
    size_t most = pool_bytes / 4 > one ? pool_bytes / 4 : one;
    size_t bytes = BODIES * o->http.body_bytes + (all < most ? all : most);
    return bytes + bytes / 7;
}

pleat_status plan_make(const serve_options *o, const plan_sizes *said, int n_threads, const pleat_model *model,
                       const pleat_method *method, serve_plan *p, pleat_error *error) {
    char needed[16], there[16];
    pleat_model_info m = pleat_model_describe(model);
    size_t taken = mem_available_bytes();
    p->mapped = m.mapped_bytes;
    p->pool = size_of(said->pool, engine_pool_share(model, taken));
    p->prefix = size_of(said->prefix, p->pool / 4);
    /* what is admitted fits the pool unless more than its bytes are */
    p->moved = size_of(said->moved, o->scheduler.overcommit > 1 ? p->pool / 4 : 0);
    if (said->pool == PLAN_UNSAID && p->pool < 1000000)
        return err_set(error, PLEAT_EMEMORY, "the weights leave no memory for a KV pool: %s are free",
                       text_bytes(taken, there));
    if (p->pool < 1000000)
        return err_set(error, PLEAT_EINPUT, "--pool is %zu bytes; at least 1MB is possible", p->pool);
    p->weights = m.packed_bytes + p->mapped;
    p->work = work_bytes(o, model, n_threads, p->pool);
    p->total = p->weights + p->pool + p->moved + p->work;
    p->requests = size_of(said->requests, request_bytes(o, model, p->pool));
    p->connections = (size_t)o->http.connections * HTTP_CONNECTION_BYTES;
    p->context_tokens = context_of(o, model);
    int n_prompt = p->context_tokens > 1 ? p->context_tokens - 1 : 1;
    p->context = engine_plan_bytes(model, method, n_prompt, 1);
    p->available = taken + m.packed_bytes; /* the packed weights are there already */
    if (p->requests - p->requests / 8 < o->http.body_bytes)
        return err_set(error, PLEAT_EINPUT,
                       "--requests is %zu bytes, of which one client can have seven eighths; one body alone may have "
                       "%zu (--body)",
                       p->requests, o->http.body_bytes);
    if (most_bytes(p) > p->available)
        return err_set(error, PLEAT_EMEMORY,
                       "weights, KV pool, moved-out caches, working memory, requests and connections need up to %s; %s "
                       "are free (lower --pool, --moved, --requests, --connections or --max-running)",
                       text_bytes(most_bytes(p), needed), text_bytes(p->available, there));
    return PLEAT_OK;
}

void plan_warn(const char *command_name, const serve_options *o, const serve_plan *p) {
    char needed[16], pool[16];
    if (p->context <= p->pool)
        return;
    fprintf(stderr, "pleat %s: warning: a prompt that fills the context (%d tokens) needs up to %s under %s, ",
            command_name, p->context_tokens, text_bytes(p->context, needed), o->method);
    fprintf(stderr, "and the KV pool has %s: it will be refused (raise --pool or lower --ctx)\n",
            text_bytes(p->pool, pool));
}

void plan_print(const serve_plan *p) {
    char a[16], b[16], c[16], d[16], e[16], f[16], g[16];
    printf(
        "memory: weights %s (of it pages of the mapped file %s) + KV pool %s (of it for earlier prompts at most %s) + "
        "moved-out caches %s + working memory %s = %s\n",
        text_bytes(p->weights, a), text_bytes(p->mapped, g), text_bytes(p->pool, b), text_bytes(p->prefix, c),
        text_bytes(p->moved, d), text_bytes(p->work, e), text_bytes(p->total, f));
    printf("beside it at most: requests (bodies, tokens, answers) %s + connections %s; so %s in all\n",
           text_bytes(p->requests, a), text_bytes(p->connections, b), text_bytes(most_bytes(p), c));
}

json_t *plan_json(const serve_plan *p) {
    const struct {
        const char *name;
        size_t bytes;
    } list[] = {{"weights_bytes", p->weights},
                {"mapped_bytes", p->mapped},
                {"pool_bytes", p->pool},
                {"prefix_bytes", p->prefix},
                {"moved_bytes", p->moved},
                {"work_bytes", p->work},
                {"total_bytes", p->total},
                {"requests_bytes", p->requests},
                {"connections_bytes", p->connections},
                {"most_bytes", most_bytes(p)},
                {"context_tokens", (size_t)p->context_tokens},
                {"context_bytes", p->context}};
    json_t *memory = json_object();
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        json_object_set_new(memory, list[i].name, json_integer((json_int_t)list[i].bytes));
    return memory;
}
