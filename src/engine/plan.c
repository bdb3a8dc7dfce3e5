/* plan.c - how many bytes of the pool a request will take at most, before it starts. */
#include "engine/engine.h"
#include "kv/page_f16.h"
#include <limits.h>

static size_t pages(int n_tokens) {
    return ((size_t)n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

/* Sealed pages with the blocks of their runs: n_prompt of them in whole runs, the others sealed while decoding. */
static size_t sealed_bytes(const kv_coding *coding, kv_side side, int d, const kv_geometry *g, size_t n_pages,
                           size_t n_prompt) {
    size_t bytes = n_pages * g->page_bytes;
    if (!coding->format->run_bytes)
        return bytes;
    n_prompt = n_prompt < n_pages ? n_prompt : n_pages;
    int run = (size_t)g->run_pages < n_prompt + 1 ? g->run_pages : (int)n_prompt + 1;
    bytes += (n_prompt / (size_t)run + 2) * coding->format->run_bytes(&coding->config, side, d, run, false);
    return bytes + (n_pages - n_prompt) * coding->format->run_bytes(&coding->config, side, d, 1, true);
}

/* Bytes of one side of a lane that holds n live tokens in decode, n_prompt of them from a prompt: sealed pages (where
 * tokens are evicted, up to 1.4 times the ideal while holes wait for a rebuild), the fp16 tail and sinks, and the pages
 * that sealing or a rebuild takes before it gives others back. */
static size_t side_bytes(const kv_coding *coding, kv_side side, int d, const kv_geometry *g, int n, int n_prompt,
                         bool evicts) {
    size_t f16_bytes = page_f16_bytes(d);
    if (!g->page_bytes)
        return (pages(n) + 2) * f16_bytes;
    int n_tail = g->keep_tokens + (g->step_tokens > PAGE_TOKENS ? g->step_tokens : PAGE_TOKENS);
    n_tail = n < n_tail ? n : n_tail;
    size_t n_sealed = (evicts ? pages(n) * 14 / 10 : pages(n)) + 2;
    if (g->step_tokens > 1 && g->step_tokens < PAGE_TOKENS) /* pages filled in part */
        n_sealed += (size_t)(n - n_prompt > 0 ? (n - n_prompt) / g->step_tokens : 0);
    return sealed_bytes(coding, side, d, g, n_sealed, pages(n_prompt)) +
           (pages(n_tail) + 4 + (g->sink_tokens > 0)) * f16_bytes;
}

/* Most live tokens of a layer's lanes in decode, had all of them the same. */
static int kept_tokens(const kv_method *method, int il, int prompt_tokens, int new_tokens) {
    const kv_policy *policy = method->policy;
    int n_all = prompt_tokens + new_tokens, n = n_all;
    int bound = policy->bound_tokens ? policy->bound_tokens(&method->policy_config) : INT_MAX;
    if (method->pin)
        return n_all;
    if (bound != INT_MAX)
        n = bound + 1; /* a step's own token, before its event */
    else if (policy->kept_tokens)
        n = policy->kept_tokens(&method->policy_config, il, prompt_tokens, new_tokens) + new_tokens;
    n += method->sinks_tokens;
    return n < n_all ? n : n_all;
}

/* Of the bounds that decode picks by, for one lane. */
static size_t bound_bytes(const kv_wants *wants, int head_dim, int n) {
    if (!(wants->flags & KV_WANT_BOUNDS))
        return 0;
    size_t per_block = (size_t)(TILE * wants->bound_slots);
    return ((size_t)n + per_block - 1) / per_block * 2 * (size_t)head_dim * TILE * sizeof(f16);
}

size_t engine_plan_bytes(const pleat_model *model, const kv_method *method, int prompt_tokens, int new_tokens) {
    size_t f16_bytes = page_f16_bytes(model->head_dim), total = 0;
    int d = model->head_dim, n_all = prompt_tokens + new_tokens;
    kv_wants wants = kv_method_wants(method);
    /* A split gives layers and heads other shares of the same sum, so only the rounding up to pages differs. */
    int n_uneven = method->split->layer_budget || method->split->heads ? PAGE_TOKENS : 0;
    int n_exact =
        method->bounded ? method->grid_tokens + PAGE_TOKENS : prompt_tokens; /* prompt tokens in fp16 at a time */
    n_exact = n_exact < prompt_tokens ? n_exact : prompt_tokens;
    for (int il = 0; il < model->n_layer; il++) {
        int window = model->shape[il].window_tokens, n = kept_tokens(method, il, prompt_tokens, new_tokens) + n_uneven;
        n = n < n_all ? n : n_all;
        if (window)
            n = n_all < window + 2 * PAGE_TOKENS ? n_all : window + 2 * PAGE_TOKENS;
        size_t bytes = window ? 0 : bound_bytes(&wants, model->head_dim, n);
        for (int side = 0; side < 2; side++) {
            kv_geometry g;
            const kv_coding *coding = kv_method_coding(method, il, (kv_side)side);
            coding->format->geometry(&coding->config, (kv_side)side, d, &g);
            size_t decode = side_bytes(coding, (kv_side)side, d, &g, n, prompt_tokens < n ? prompt_tokens : n,
                                       window || method->policy->score);
            size_t prefill = (pages(n_exact) + 2) * f16_bytes;
            if (method->bounded)
                prefill += decode;
            else
                prefill +=
                    2 * f16_bytes + (g.page_bytes ? sealed_bytes(coding, (kv_side)side, d, &g, pages(n), pages(n)) : 0);
            bytes += prefill > decode ? prefill : decode;
        }
        total += bytes * (size_t)model->n_head_kv;
    }
    return total + kv_queries_bytes(&model->kv, &wants);
}
