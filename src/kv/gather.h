/* gather.h - moves pages closer together, so that the pool's slabs run empty (kv_pool_mark). */
#ifndef KV_GATHER_H
#define KV_GATHER_H
#include "kv/share.h"

/* Between steps: the pages of the cache that lie in marked slabs and have no other holder get another place, as long as
 * there are places; but not a run's block whose first page is gone. No bit of the cache changes. */
void kv_cache_gather(kv_cache *cache);
/* The same of n pages that are held for later prompts; their runs' blocks stay. */
void kv_held_gather(kv_pool *pool, kv_held *held, size_t n);
#endif
