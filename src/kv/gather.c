/* gather.c - see gather.h. Knows where a cache keeps the addresses of its pages, and nothing else.
 *
 * A run's block is named by each of its pages and held with the first of them (share.c), which moves it for all. Blocks
 * whose pages lie in part with other holders have another holder themselves, so the pool leaves them where they are. */
#include "kv/gather.h"
#include "kv/lane.h"

static void move_page(kv_pool *pool, uint8_t **page) {
    uint8_t *to = *page ? kv_pool_gather(pool, *page) : NULL;
    if (to)
        *page = to;
}

/* The block of a run whose first page is the lane's page p. */
static void move_run(kv_cache *cache, kv_lane *lane, int side, int p) {
    kv_page *first = &lane->sealed[side][p];
    uint8_t *from = first->run, *to = kv_pool_gather(cache->pool, from);
    for (int i = 0; to && i < first->n_run_pages && p + i < lane->cap_pages; i++)
        if (first[i].run == from)
            first[i].run = to;
}

static void gather_lane(kv_cache *cache, kv_lane *lane) {
    for (int side = 0; side < 2; side++)
        for (int p = 0; p < lane->cap_pages; p++) {
            kv_page *sealed = &lane->sealed[side][p];
            move_page(cache->pool, &lane->tail[side][p]);
            move_page(cache->pool, &sealed->bytes);
            if (sealed->run && sealed->page_in_run == 0)
                move_run(cache, lane, side, p);
        }
    for (int i = 0; i < lane->cap_bound; i++) {
        uint8_t *block = (uint8_t *)lane->bound[i];
        move_page(cache->pool, &block);
        lane->bound[i] = (f16 *)block;
    }
}

void kv_cache_gather(kv_cache *cache) {
    for (int il = 0; il < cache->model->n_layer; il++)
        for (int ih = 0; ih < cache->model->n_head_kv; ih++)
            gather_lane(cache, lane_of(cache, il, ih));
}

void kv_held_gather(kv_pool *pool, kv_held *held, size_t n) {
    for (size_t i = 0; i < n; i++)
        move_page(pool, &held[i].page.bytes);
}
