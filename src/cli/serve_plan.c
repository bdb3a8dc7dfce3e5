/* serve_plan.c - see serve_plan.h. What will be resident once everything has been in use: docs/server.md compares it
 * with the process's size. */
#include "cli/serve_plan.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
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

/* Activations of a step; logits of its rows, of running requests and of prompts; the tokenizer; positions and scores of
 * the pool's tokens; stacks, buffers and the rest. */
static size_t work_bytes(const serve_options *o, const pleat_model *model, size_t pool_bytes) {
    enum { LOGIT_ROWS = 32 + 64 + 1, TOKEN_BYTES = 80, POOL_SHARE = 50, REST_BYTES = 12 << 20 };
    int d = model->head_dim, heads = model->n_head + model->n_head_kv;
    size_t row = (size_t)(2 * model->n_embd + 2 * heads * d + 2 * model->n_ff + 2 * model->kv.n_rot) * sizeof(float) +
                 (size_t)model->n_ff * 5 / 4; /* its int8 form, with scales and sums */
    return (size_t)o->scheduler.step_tokens * row +
           (size_t)(LOGIT_ROWS + o->scheduler.max_running) * (size_t)model->n_vocab * sizeof(float) +
           (size_t)model->n_vocab * TOKEN_BYTES + pool_bytes / POOL_SHARE + REST_BYTES;
}

/* A share of the pool, unless the command line said. */
static size_t size_of(size_t said, size_t otherwise) {
    return said == PLAN_UNSAID ? otherwise : said;
}

pleat_status plan_make(const serve_options *o, const plan_sizes *said, const pleat_model *model, serve_plan *p,
                       pleat_error *error) {
    char needed[16], there[16];
    size_t taken = mem_available_bytes();
    p->pool = size_of(said->pool, taken / 2);
    p->prefix = size_of(said->prefix, p->pool / 4);
    /* what is admitted fits the pool unless more than its bytes are */
    p->moved = size_of(said->moved, o->scheduler.overcommit > 1 ? p->pool / 4 : 0);
    if (p->pool < 1 << 20)
        return err_set(error, PLEAT_EINPUT, "--pool is %zu bytes; at least 1MB is possible", p->pool);
    pleat_model_info m = pleat_model_describe(model);
    p->weights = m.packed_bytes + model->embed->bytes; /* the embedding is read from the file's mapping */
    p->work = work_bytes(o, model, p->pool);
    p->total = p->weights + p->pool + p->moved + p->work;
    p->available = taken + m.packed_bytes; /* the packed weights are there already */
    if (p->total > p->available)
        return err_set(error, PLEAT_EMEMORY,
                       "weights, KV pool, moved-out caches and working memory need %s; %s are free (lower --pool, "
                       "--moved or --max-running)",
                       text_bytes(p->total, needed), text_bytes(p->available, there));
    return PLEAT_OK;
}

void plan_print(const serve_plan *p) {
    char a[16], b[16], c[16], d[16], e[16], f[16];
    printf(
        "memory: weights %s + KV pool %s (of it for earlier prompts at most %s) + moved-out caches %s + working memory "
        "%s = %s\n",
        text_bytes(p->weights, a), text_bytes(p->pool, b), text_bytes(p->prefix, c), text_bytes(p->moved, d),
        text_bytes(p->work, e), text_bytes(p->total, f));
}

json_t *plan_json(const serve_plan *p) {
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "weights_bytes", (json_int_t)p->weights, "pool_bytes",
                     (json_int_t)p->pool, "prefix_bytes", (json_int_t)p->prefix, "moved_bytes", (json_int_t)p->moved,
                     "work_bytes", (json_int_t)p->work, "total_bytes", (json_int_t)p->total);
}
