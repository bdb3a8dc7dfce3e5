/* gather.c - keeps the memory behind the pool near its budget.
 *
 * Free places between pages in use cannot be given back. When these and the pages take more memory than the pool may
 * have, pages move closer together: those of all sequences and of earlier prompts. Where that is not enough the images
 * of earlier prompts go, which lie beside the pages. A try that gained nothing is not repeated for a while: pages that
 * several share cannot move. */
#include "engine/inside.h"
#include "kv/gather.h"

enum { REST_STEPS = 64, WORTH = 128 }; /* worth the walk: a 128th of the budget */

static bool over(const pleat_engine *e) {
    return kv_pool_resident_bytes(e->pages) > kv_pool_budget_bytes(e->pages);
}

void engine_gather(pleat_engine *e) {
    if (!over(e) || e->gather_rest-- > 0)
        return;
    size_t before = kv_pool_resident_bytes(e->pages);
    e->gather_rest = 0;
    if (kv_pool_mark(e->pages) > kv_pool_budget_bytes(e->pages) / WORTH) {
        for (pleat_seq *seq = e->first; seq; seq = seq->next)
            kv_cache_gather(seq->cache);
        if (e->prefix)
            prefix_gather(e->prefix);
    }
    if (kv_pool_resident_bytes(e->pages) == before)
        e->gather_rest = REST_STEPS;
    while (e->prefix && over(e) && prefix_shrink_images(e->prefix))
        ;
}
