/* reuse.c - sequences and the prefix cache: a prompt takes over what is held, and offers what it computes. */
#include "engine/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <string.h>

bool engine_reserve(pleat_engine *e, size_t bytes) {
    while (!kv_pool_reserve(e->pages, bytes))
        if (!e->prefix || bytes > kv_pool_budget_bytes(e->pages) || !prefix_shrink(e->prefix))
            return false;
    return true;
}

static bool remember(pleat_seq *seq, const int32_t *tokens, int n) {
    if (n == 0)
        return true;
    if (!mem_grow(&seq->tokens, &seq->cap_tokens, seq->n_tokens + n, sizeof(*tokens)))
        return false;
    memcpy(seq->tokens + seq->n_tokens, tokens, (size_t)n * sizeof(*tokens));
    seq->n_tokens += n;
    return true;
}

pleat_status pleat_seq_reuse(pleat_seq *seq, const int32_t *tokens, int n_tokens, const char *salt, int *n_reused,
                             pleat_error *error) {
    pleat_engine *e = seq->engine;
    const kv_method *method = kv_cache_method(seq->cache);
    if (kv_cache_tokens(seq->cache) || seq->in_prompt)
        return err_set(error, PLEAT_EINPUT, "only an empty sequence can take over a prompt");
    *n_reused = 0;
    if (!e->prefix)
        return PLEAT_OK;
    prefix_root(seq->cache, &e->model->kv, salt, &seq->path);
    pleat_status status =
        prefix_find(e->prefix, &seq->path, tokens, kv_share_most_tokens(method, n_tokens), seq->cache, n_reused, error);
    if (status)
        return status;
    seq->in_prompt = *n_reused > 0;
    seq->offers = remember(seq, tokens, *n_reused);
    kv_cache_share(seq->cache, seq->offers && seq->path.kind == KV_SHARE_F16);
    return PLEAT_OK;
}

bool seq_stop_offering(pleat_seq *seq) {
    bool offered = seq->offers;
    seq->offers = false;
    if (offered)
        kv_cache_share(seq->cache, false);
    return offered;
}

static void offer(pleat_seq *seq) {
    prefix_offer(seq->engine->prefix, &seq->path, seq->tokens, seq->n_tokens, seq->cache);
}

void seq_offer_before_event(pleat_seq *seq, const int32_t *tokens, int n_tokens) {
    seq->offers = remember(seq, tokens, n_tokens);
    if (seq->offers && seq->path.kind == KV_SHARE_F16)
        offer(seq);
}

void seq_offer_after_event(pleat_seq *seq) {
    if (seq->path.kind != KV_SHARE_F16)
        offer(seq);
    /* Decoding through a compressed cache leaves nothing that a cold prompt would have computed. */
    if (!seq->in_prompt && !kv_method_is_f16(kv_cache_method(seq->cache)))
        seq_stop_offering(seq);
}
