/* pool.h - memory for KV pages with an exact byte budget. Pages of any size that is a multiple of 64; a freed page is
 * reused by the next of its size. Thread safe. Huge pages where the system gives them. */
#ifndef KV_POOL_H
#define KV_POOL_H
#include "pleat.h"

typedef struct kv_pool kv_pool;

enum { KV_POOL_PAGE_BYTES = 256 << 10 }; /* of the largest page */

pleat_status kv_pool_open(size_t budget_bytes, kv_pool **out, pleat_error *error);
/* Every page must have been given back (asserted). */
void kv_pool_close(kv_pool *pool);
/* 64-byte aligned, contents undefined; NULL when the budget or the system is at its end. */
void *kv_pool_take(kv_pool *pool, size_t page_bytes);
void kv_pool_give(kv_pool *pool, void *page, size_t page_bytes);
/* One holder more: the page goes back when each of its holders has given it. It is counted once. false: no memory for
 * the count, or 65,535 holders. */
bool kv_pool_share(kv_pool *pool, void *page);
/* True while another holder has the page too: it must not be written. */
bool kv_pool_is_shared(const kv_pool *pool, const void *page);
/* Counts bytes that the caller holds elsewhere as used, until they are discharged; false: the budget does not have
 * them. */
bool kv_pool_charge(kv_pool *pool, size_t bytes);
void kv_pool_discharge(kv_pool *pool, size_t bytes);
/* The size that the page was taken with. */
size_t kv_pool_page_bytes(const void *page);
size_t kv_pool_used_bytes(const kv_pool *pool); /* exact sum of pages taken and bytes charged */
size_t kv_pool_budget_bytes(const kv_pool *pool);
/* What is backed by memory for it, free pages in slabs that serve others included, and the bytes charged. */
size_t kv_pool_resident_bytes(const kv_pool *pool);
/* Marks slabs that would run empty if the pages of their size lay closer together, of most_bytes in all, and returns
 * how many bytes they are. A mark holds until the next call, or until its slab is full or empty. Cheap: it looks at
 * slabs, not at pages. */
size_t kv_pool_mark(kv_pool *pool, size_t most_bytes);
/* A page of a marked slab moves to one that is not: returns where its bytes are now, and the old place is free. NULL:
 * it stays, as its slab is not marked, somebody else holds it too, or there is no place. Not while other threads take.
 */
void *kv_pool_gather(kv_pool *pool, void *page);
/* Makes the next takes of up to `bytes` succeed: true when budget and system allow that now. Only one holder at a time
 * may reserve; pages given back meanwhile only add. */
bool kv_pool_reserve(kv_pool *pool, size_t bytes);
#endif
