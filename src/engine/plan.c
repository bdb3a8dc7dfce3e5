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

size_t engine_plan_bytes(const pleat_model *model, const kv_method *method, int prompt_tokens, int new_tokens) {
    size_t f16_bytes = page_f16_bytes(model->head_dim), total = 0;
    int d = model->head_dim, n_all = prompt_tokens + new_tokens;
    int n_kept = method->policy->bound_tokens ? method->policy->bound_tokens(&method->policy_config) : INT_MAX;
    int n_exact =
        method->bounded ? method->grid_tokens + PAGE_TOKENS : prompt_tokens; /* prompt tokens in fp16 at a time */
    n_exact = n_exact < prompt_tokens ? n_exact : prompt_tokens;
    for (int il = 0; il < model->n_layer; il++) {
        int window = model->shape[il].window_tokens, n = n_all < n_kept ? n_all : n_kept;
        if (window)
            n = n_all < window + 2 * PAGE_TOKENS ? n_all : window + 2 * PAGE_TOKENS;
        size_t bytes = 0;
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
    return total;
}
