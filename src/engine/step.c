/* step.c - one step of a static batch: everything is checked and reserved first, then nothing can fail.
 *
 * A prompt may be cut at absolute multiples of 64 tokens only, so that tiles of 16 queries are never torn: mass is
 * summed tile by tile and would otherwise depend on the cut in its last bits. The last piece of a prompt may end
 * anywhere; an open prompt that ends off a multiple of 64 can be ended or forked, not continued. */
#include "engine/inside.h"
#include "base/status.h"
#include <assert.h>
#include <limits.h>

enum { CUT_TOKENS = 64 };

static pleat_status check_tokens(const pleat_engine *e, const pleat_item *item, int i, pleat_error *error) {
    for (int t = 0; t < item->n_tokens; t++)
        if (item->tokens[t] < 0 || item->tokens[t] >= e->model->n_vocab)
            return err_set(error, PLEAT_EINPUT, "item %d: token %d is %d; the vocabulary has %d tokens", i, t,
                           (int)item->tokens[t], e->model->n_vocab);
    return PLEAT_OK;
}

static pleat_status check_phase(const pleat_item *item, int i, pleat_error *error) {
    const pleat_seq *seq = item->seq;
    int n_seen = kv_cache_tokens(seq->cache);
    if (item->phase == PLEAT_DECODE) {
        if (seq->in_prompt || n_seen == 0)
            return err_set(error, PLEAT_EINPUT, "item %d decodes, but its prompt has not ended", i);
        if (item->n_tokens != 1)
            return err_set(error, PLEAT_EINPUT, "item %d decodes %d tokens; one at a time is possible", i,
                           item->n_tokens);
        return PLEAT_OK;
    }
    if (seq->in_prompt && n_seen % CUT_TOKENS)
        return err_set(error, PLEAT_EINPUT, "item %d: the prompt was cut at token %d, which is not a multiple of %d", i,
                       n_seen, CUT_TOKENS);
    if (kv_cache_cut(seq->cache, item->n_tokens) < item->n_tokens)
        return err_set(error, PLEAT_EINPUT, "item %d: %d tokens at position %d pass a grid point of %s", i,
                       item->n_tokens, n_seen, kv_cache_method(seq->cache)->spec);
    return PLEAT_OK;
}

static pleat_status check_item(const pleat_engine *e, const pleat_item *items, int i, pleat_error *error) {
    const pleat_item *item = &items[i];
    if (item->seq->engine != e)
        return err_set(error, PLEAT_EINPUT, "item %d: its sequence belongs to another engine", i);
    for (int j = 0; j < i; j++)
        if (items[j].seq == item->seq)
            return err_set(error, PLEAT_EINPUT, "items %d and %d are the same sequence", j, i);
    if (seq_is_out(item->seq))
        return err_set(error, PLEAT_EINPUT, "item %d: its sequence is moved out", i);
    if (item->n_tokens < 1)
        return err_set(error, PLEAT_EINPUT, "item %d has %d tokens", i, item->n_tokens);
    if (item->want != PLEAT_LOGITS_NONE && !item->logits)
        return err_set(error, PLEAT_EINPUT, "item %d wants logits and gives no place for them", i);
    pleat_status status = check_phase(item, i, error);
    status = status ? status : check_tokens(e, item, i, error);
    if (status)
        return status;
    int room = kv_cache_room(item->seq->cache);
    if (item->n_tokens > room)
        return err_set(error, PLEAT_EFULL, "item %d: %d more tokens after %d do not fit the context of %d tokens", i,
                       item->n_tokens, kv_cache_tokens(item->seq->cache), e->model->context_tokens);
    return PLEAT_OK;
}

static pleat_status check_items(const pleat_engine *e, const pleat_item *items, int n_items, pleat_error *error) {
    if (n_items < 1 || n_items > e->max_sequences)
        return err_set(error, PLEAT_EINPUT, "a step of %d sequences; 1 to %d are possible", n_items, e->max_sequences);
    int64_t n_rows = 0;
    for (int i = 0; i < n_items; i++) {
        pleat_status status = check_item(e, items, i, error);
        if (status)
            return status;
        n_rows += items[i].n_tokens;
    }
    if (n_rows > e->max_step_tokens)
        return err_set(error, PLEAT_EINPUT, "a step of %lld tokens; at most %d are possible", (long long)n_rows,
                       e->max_step_tokens);
    return PLEAT_OK;
}

/* SIZE_MAX: no memory. */
static size_t step_bytes(const pleat_engine *e, const pleat_item *items, int n_items) {
    size_t bytes = 0;
    for (int i = 0; i < n_items; i++) {
        size_t more =
            kv_cache_step_bytes(items[i].seq->cache, items[i].n_tokens, items[i].phase, threads_count(e->pool));
        if (more == SIZE_MAX)
            return SIZE_MAX;
        bytes += more;
    }
    return bytes;
}

/* Pages that are offered cost more when they are sealed. When the pool is short of that, nobody offers any more. */
static bool stop_offering(pleat_engine *e, const pleat_item *items, int n_items) {
    bool any = false;
    for (int i = 0; i < n_items; i++)
        any |= seq_stop_offering(items[i].seq);
    while (any && prefix_shrink(e->prefix))
        ;
    return any;
}

static pleat_status reserve(pleat_engine *e, const pleat_item *items, int n_items, pleat_error *error) {
    for (int i = 0; i < n_items; i++)
        e->item[i] =
            (forward_item){.cache = items[i].seq->cache, .tokens = items[i].tokens, .n_tokens = items[i].n_tokens};
    size_t bytes = step_bytes(e, items, n_items);
    bool ok = bytes != SIZE_MAX && engine_reserve(e, bytes);
    if (!ok && bytes != SIZE_MAX && stop_offering(e, items, n_items)) {
        bytes = step_bytes(e, items, n_items);
        ok = bytes != SIZE_MAX && engine_reserve(e, bytes);
    }
    if (bytes == SIZE_MAX)
        return err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a sequence");
    if (!ok)
        return err_set(error, PLEAT_EFULL, "the step needs %zu bytes of the KV pool; %zu of %zu are free", bytes,
                       kv_pool_budget_bytes(e->pages) - kv_pool_used_bytes(e->pages), kv_pool_budget_bytes(e->pages));
    return forward_plan(e->pass, e->item, n_items, error);
}

/* Which rows give logits, and where to. */
static int list_logits(pleat_engine *e, const pleat_item *items, int n_items) {
    int n = 0;
    for (int i = 0, row = 0; i < n_items; row += items[i++].n_tokens) {
        int first = items[i].want == PLEAT_LOGITS_ALL ? 0 : items[i].n_tokens - 1;
        for (int t = first; items[i].want != PLEAT_LOGITS_NONE && t < items[i].n_tokens; t++, n++) {
            e->logit_row[n] = row + t;
            e->logit_to[n] = items[i].logits + (size_t)(t - first) * (size_t)e->model->n_vocab;
        }
    }
    return n;
}

pleat_status pleat_step(pleat_engine *e, const pleat_item *items, int n_items, pleat_error *error) {
    pleat_status status = check_items(e, items, n_items, error);
    status = status ? status : reserve(e, items, n_items, error);
    if (status)
        return status;
    engine_gather(e);
    int n_logits = list_logits(e, items, n_items);
    for (int i = 0; i < n_items; i++)
        kv_cache_begin(items[i].seq->cache, items[i].n_tokens, items[i].phase);
    forward_run(e->pass, e->item, n_items);
    for (int i = 0; i < n_items; i++)
        if (items[i].seq->offers)
            seq_offer_before_event(items[i].seq, items[i].tokens, items[i].n_tokens);
    forward_finish(e->pass, e->logit_row, e->logit_to, n_logits);
    for (int i = 0; i < n_items; i++) {
        kv_cache_end(items[i].seq->cache);
        items[i].seq->in_prompt = items[i].phase == PLEAT_PROMPT;
        if (items[i].seq->offers)
            seq_offer_after_event(items[i].seq);
    }
    return PLEAT_OK;
}

int pleat_seq_cut(const pleat_engine *e, const pleat_seq *seq, int n_tokens) {
    int n_seen = kv_cache_tokens(seq->cache);
    int n = kv_cache_cut(seq->cache, n_tokens < e->max_step_tokens ? n_tokens : e->max_step_tokens);
    return n == n_tokens ? n : (n_seen + n) / CUT_TOKENS * CUT_TOKENS - n_seen;
}

pleat_status pleat_prefill(pleat_engine *e, pleat_seq *seq, const int32_t *tokens, int n_tokens, bool end,
                           pleat_logits want, float *logits, pleat_error *error) {
    if (n_tokens < 1)
        return err_set(error, PLEAT_EINPUT, "a prompt of %d tokens", n_tokens);
    if (n_tokens > kv_cache_room(seq->cache))
        return err_set(error, PLEAT_EFULL, "a prompt of %d tokens after %d does not fit the context of %d tokens",
                       n_tokens, kv_cache_tokens(seq->cache), e->model->context_tokens);
    for (int from = 0, n; from < n_tokens; from += n) {
        n = pleat_seq_cut(e, seq, n_tokens - from);
        bool last = from + n == n_tokens;
        pleat_item item = {.seq = seq,
                           .tokens = tokens + from,
                           .n_tokens = n,
                           .phase = last && end ? PLEAT_PROMPT_END : PLEAT_PROMPT,
                           .want = want == PLEAT_LOGITS_LAST && !last ? PLEAT_LOGITS_NONE : want,
                           .logits = logits};
        if (want == PLEAT_LOGITS_ALL && logits)
            item.logits = logits + (size_t)from * (size_t)e->model->n_vocab;
        pleat_status status = pleat_step(e, &item, 1, error);
        if (status)
            return status;
    }
    return PLEAT_OK;
}
