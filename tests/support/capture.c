/* capture.c - see capture.h. Queries are seen by standing in for the kernel that rotates them: one thread calls it row
 * by row, for each row head by head, the query heads first. */
#include "support/capture.h"
#include "model/forward.h"
#include "support/env.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { STEP_TOKENS = 512 };

static struct {
    const kv_model *model;
    capture *to;
    void (*rope)(float *x, int n_rot, bool neox, const float *cos_sin);
    int first, n_rows; /* of this step */
    long n_calls;      /* in this step */
} seen;

static void note_rope(float *x, int n_rot, bool neox, const float *cos_sin) {
    seen.rope(x, n_rot, neox, cos_sin);
    const kv_model *m = seen.model;
    long heads = m->n_head + m->n_head_kv, call = seen.n_calls++;
    int head = (int)(call % heads), row = (int)(call / heads % seen.n_rows), layer = (int)(call / heads / seen.n_rows);
    int query = seen.first + row - (seen.to->n_tokens - seen.to->n_queries), d = m->head_dim;
    if (head >= m->n_head || query < 0)
        return;
    float *q =
        seen.to->q +
        (((size_t)layer * (size_t)seen.to->n_queries + (size_t)query) * (size_t)m->n_head + (size_t)head) * (size_t)d;
    for (int j = 0; j < d; j++)
        q[j] = x[j] * m->score_scale;
}

static void run_text(const pleat_model *model, const cpu_kernels *kernels, threads *pool, kv_cache *cache,
                     kv_pool *pages, int n_tokens) {
    size_t n_bytes;
    char *text = env_data("shakespeare-40k.txt", &n_bytes);
    int32_t *ids;
    int n_ids;
    forward *pass;
    assert_int_equal(tokenizer_encode(model->tok, text, n_bytes, TOKENIZER_PLAIN, &ids, &n_ids, NULL), PLEAT_OK);
    assert_true(n_ids >= n_tokens);
    assert_int_equal(forward_open(model, STEP_TOKENS, 1, pool, kernels, &pass, NULL), PLEAT_OK);
    for (int from = 0; from < n_tokens; from += STEP_TOKENS) {
        forward_item item = {.cache = cache, .tokens = ids + from, .n_tokens = n_tokens - from};
        item.n_tokens = item.n_tokens < STEP_TOKENS ? item.n_tokens : STEP_TOKENS;
        seen.first = from;
        seen.n_rows = item.n_tokens;
        seen.n_calls = 0;
        assert_true(kv_pool_reserve(pages, kv_cache_step_bytes(cache, item.n_tokens, PLEAT_PROMPT, 1)));
        assert_int_equal(forward_plan(pass, &item, 1, NULL), PLEAT_OK);
        kv_cache_begin(cache, item.n_tokens, PLEAT_PROMPT);
        forward_run(pass, &item, 1);
        forward_finish(pass, NULL, NULL, 0);
        kv_cache_end(cache);
    }
    forward_close(pass);
    free(ids);
    free(text);
}

capture capture_run(const char *model_path, int n_tokens, int n_queries) {
    capture c = {.n_tokens = n_tokens, .n_queries = n_queries};
    const cpu_kernels *kernels;
    pleat_model *model;
    threads *pool;
    kv_pool *pages;
    kv_cache *cache;
    kv_method method;
    assert_int_equal(cpu_kernels_get(&kernels, NULL), PLEAT_OK);
    assert_int_equal(pleat_model_open(model_path, 0, &model, NULL), PLEAT_OK);
    assert_int_equal(threads_open(1, &pool, NULL), PLEAT_OK);
    assert_int_equal(kv_pool_open((size_t)8 << 30, &pages, NULL), PLEAT_OK);
    assert_int_equal(kv_method_parse("f16", &model->kv, &method, NULL), PLEAT_OK);
    assert_int_equal(kv_cache_open(&model->kv, &method, pages, &cache, NULL), PLEAT_OK);
    c.shape = model->kv;
    size_t layers = (size_t)c.shape.n_layer, d = (size_t)c.shape.head_dim, lanes = layers * (size_t)c.shape.n_head_kv;
    c.q = calloc(layers * (size_t)n_queries * (size_t)c.shape.n_head * d, sizeof(float));
    for (int side = 0; side < 2; side++)
        c.rows[side] = calloc(lanes * (size_t)n_tokens * d, sizeof(float));
    assert_true(c.q && c.rows[0] && c.rows[1]);
    cpu_kernels noting = *kernels;
    noting.rope = note_rope;
    seen.model = &c.shape;
    seen.to = &c;
    seen.rope = kernels->rope;
    run_text(model, &noting, pool, cache, pages, n_tokens);
    for (int il = 0; il < c.shape.n_layer; il++)
        for (int ih = 0; ih < c.shape.n_head_kv && !c.shape.layer[il].window_tokens; ih++)
            for (int side = 0; side < 2; side++)
                kv_cache_open_rows(cache, il, ih, (kv_side)side,
                                   c.rows[side] +
                                       ((size_t)il * (size_t)c.shape.n_head_kv + (size_t)ih) * (size_t)n_tokens * d);
    kv_cache_close(cache);
    kv_pool_close(pages);
    threads_close(pool);
    for (int i = 0; i < c.shape.n_rot / 2; i++)
        c.rope_inv[i] = model->rope_inv[0][i];
    pleat_model_close(model);
    c.shape.layer = NULL;
    return c;
}

void capture_free(capture *c) {
    free(c->q);
    free(c->rows[0]);
    free(c->rows[1]);
}
