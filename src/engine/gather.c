/* gather.c - keeps the memory behind the pool near its budget.
 *
 * Free places between pages in use cannot be given back. When these and the pages take more memory than the pool may
 * have, pages move closer together: those of all sequences and of earlier prompts. Where that is not enough the images
 * of earlier prompts go, which lie beside the pages. A try that gained nothing is not repeated for a while: pages that
 * several share cannot move. What one step moves is bounded, as the step waits for it. */
#include "engine/inside.h"
#include "kv/gather.h"

enum { REST_STEPS = 64, MOST_BYTES = 32 << 20 }; /* moved in one step */

static size_t excess(const pleat_engine *e) {
    size_t resident = kv_pool_resident_bytes(e->pages), budget = kv_pool_budget_bytes(e->pages);
    return resident > budget ? resident - budget : 0;
}

/* A 64th of the budget more than must be, so that the next steps have peace. false: nothing was gained. */
static bool move_pages(pleat_engine *e) {
    size_t before = kv_pool_resident_bytes(e->pages), want = excess(e) + kv_pool_budget_bytes(e->pages) / 64;
    if (!kv_pool_mark(e->pages, want < MOST_BYTES ? want : MOST_BYTES))
        return false;
    for (pleat_seq *seq = e->first; seq; seq = seq->next)
        kv_cache_gather(seq->cache);
    if (e->prefix)
        prefix_gather(e->prefix);
    return kv_pool_resident_bytes(e->pages) < before;
}

void engine_gather(pleat_engine *e) {
    if (!excess(e))
        return;
    if (e->gather_rest > 0)
        e->gather_rest--;
    else if (!move_pages(e))
        e->gather_rest = REST_STEPS;
    while (e->prefix && excess(e) && prefix_shrink_images(e->prefix))
        ;
}
