/* share.c - offering and taking over pages. A block is a list of page pointers in a fixed order; nothing is copied. */
#include "kv/share.h"
#include "base/status.h"
#include "kv/lane.h"
#include <assert.h>
#include <string.h>

/* ---- what may be shared ---- */

static bool has_sinks(const kv_method *method, const kv_model *model) {
    for (int il = 0; il < model->n_layer; il++)
        for (int side = 0; side < 2; side++) {
            kv_geometry g;
            const kv_coding *coding = kv_method_coding(method, il, (kv_side)side);
            coding->format->geometry(&coding->config, (kv_side)side, model->head_dim, &g);
            if (g.sink_tokens)
                return true;
        }
    return false;
}

kv_share_kind kv_share_kind_of(const kv_method *method, const kv_model *model) {
    if (kv_method_wants(method, NULL) & (KV_WANT_MASS | KV_WANT_MOMENTS))
        return KV_SHARE_NONE;
    if (!method->bounded || kv_method_is_f16(method))
        return KV_SHARE_F16;
    return method->policy == kv_policies[0] && !has_sinks(method, model) ? KV_SHARE_SEALED : KV_SHARE_NONE;
}

int kv_share_grid_tokens(const kv_method *method, kv_share_kind kind) {
    return kind == KV_SHARE_SEALED ? method->grid_tokens : PAGE_TOKENS;
}

int kv_share_most_tokens(const kv_method *method, int n_tokens) {
    int window = 0;
    kv_method_wants(method, &window);
    return n_tokens - (window > 1 ? window : 1);
}

size_t kv_share_pages(const kv_model *model, int n_pages) {
    return (size_t)model->n_layer * (size_t)model->n_head_kv * 2 * (size_t)n_pages;
}

/* ---- offering ---- */

void kv_cache_share(kv_cache *cache) {
    cache->shares = true;
}

bool kv_share_offers(const kv_cache *cache, kv_share_kind kind, int n_tokens) {
    if (n_tokens > cache->n_seen + cache->n_new)
        return false;
    if (kind == KV_SHARE_F16)
        return kv_method_is_f16(&cache->method) || !cache->evented;
    return kind == KV_SHARE_SEALED && cache->prompt_from == 0 && n_tokens <= cache->grid_sealed;
}

static uint8_t *page_at(const kv_lane *lane, int side, int page) {
    return (page + 1) * PAGE_TOKENS <= lane->n_sealed[side] ? lane->sealed[side][page] : lane->tail[side][page];
}

bool kv_share_hold(kv_cache *cache, int first_page, int n_pages, void **page) {
    size_t n = 0;
    assert(cache->shares);
    for (int il = 0; il < cache->model->n_layer; il++)
        for (int ih = 0; ih < cache->model->n_head_kv; ih++)
            for (int side = 0; side < 2; side++)
                for (int p = first_page; p < first_page + n_pages; p++) {
                    page[n] = page_at(lane_of(cache, il, ih), side, p);
                    if (page[n] && !kv_pool_share(cache->pool, page[n])) {
                        kv_share_drop(cache->pool, page, n);
                        return false;
                    }
                    n++;
                }
    return true;
}

void kv_share_drop(kv_pool *pool, void **page, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (page[i])
            kv_pool_give(pool, page[i], kv_pool_page_bytes(page[i]));
}

/* ---- taking over ---- */

/* First page of a layer that the query at position n_tokens sees. */
static int first_seen_page(const kv_model *model, int il, int n_tokens) {
    int window = model->layer[il].window_tokens, first = n_tokens - window + 1;
    return window && first > 0 ? first / PAGE_TOKENS : 0;
}

static void *block_page(const kv_model *model, void *const *const *blocks, int block_pages, int il, int ih, int side,
                        int page) {
    size_t lane = (size_t)il * (size_t)model->n_head_kv + (size_t)ih;
    return blocks[page / block_pages][(lane * 2 + (size_t)side) * (size_t)block_pages + (size_t)(page % block_pages)];
}

static bool fits(const kv_model *model, void *const *const *blocks, int n_blocks, int block_pages) {
    for (int il = 0; il < model->n_layer; il++)
        for (int page = first_seen_page(model, il, n_blocks * block_pages * PAGE_TOKENS); page < n_blocks * block_pages;
             page++)
            if (!block_page(model, blocks, block_pages, il, 0, KV_K, page))
                return false;
    return true;
}

int kv_share_fitting(const kv_model *model, void *const *const *blocks, int n_blocks, int block_pages) {
    while (n_blocks > 0 && !fits(model, blocks, n_blocks, block_pages))
        n_blocks--;
    return n_blocks;
}

static bool adopt_lane(kv_cache *cache, kv_lane *lane, kv_share_kind kind, void *const *const *blocks, int n_pages,
                       int block_pages) {
    int n_tokens = n_pages * PAGE_TOKENS;
    if (!lane_grow(cache, lane, n_tokens))
        return false;
    lane->first_page = first_seen_page(cache->model, lane->il, n_tokens);
    for (int side = 0; side < 2; side++) {
        bool sealed = kind == KV_SHARE_SEALED && lane->keep[side].geometry.page_bytes;
        uint8_t **to = sealed ? lane->sealed[side] : lane->tail[side];
        for (int page = lane->first_page; page < n_pages; page++) {
            uint8_t *held = block_page(cache->model, blocks, block_pages, lane->il, lane->ih, side, page);
            if (!kv_pool_share(cache->pool, held))
                return false;
            to[page] = held;
            lane_count(cache, kv_pool_page_bytes(held));
        }
        lane->n_sealed[side] = sealed ? n_tokens : 0;
    }
    for (int slot = 0; slot < n_tokens; slot++)
        lane->pos[slot] = slot < lane->first_page * PAGE_TOKENS ? KV_DEAD : slot;
    if (lane->mass)
        memset(lane->mass, 0, (size_t)n_tokens * sizeof(*lane->mass));
    lane->n_slots = n_tokens;
    lane->n_live = n_tokens - lane->first_page * PAGE_TOKENS;
    return true;
}

pleat_status kv_cache_adopt(kv_cache *cache, kv_share_kind kind, void *const *const *blocks, int n_blocks,
                            int block_pages, pleat_error *error) {
    assert(cache->n_seen == 0 && !cache->in_prompt && kind != KV_SHARE_NONE);
    int n_pages = n_blocks * block_pages;
    cache->shares = true;
    for (int il = 0; il < cache->model->n_layer; il++)
        for (int ih = 0; ih < cache->model->n_head_kv; ih++)
            if (!adopt_lane(cache, lane_of(cache, il, ih), kind, blocks, n_pages, block_pages))
                return err_set(error, PLEAT_EMEMORY, "no memory to take over a prompt's pages");
    cache->n_seen = n_pages * PAGE_TOKENS;
    cache->in_prompt = true;
    cache->prompt_from = 0;
    cache->evented = kind == KV_SHARE_SEALED;
    cache->grid_sealed = kind == KV_SHARE_SEALED ? cache->n_seen : 0;
    return PLEAT_OK;
}
