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
    if (kv_method_wants(method).flags & (KV_WANT_MASS | KV_WANT_MOMENTS))
        return KV_SHARE_NONE;
    if (!method->bounded || kv_method_is_f16(method))
        return KV_SHARE_F16;
    return method->policy == kv_policies[0] && !has_sinks(method, model) ? KV_SHARE_SEALED : KV_SHARE_NONE;
}

int kv_share_first_tokens(const kv_method *method, const kv_model *model, kv_share_kind kind) {
    int grid = kv_share_grid_tokens(method, kind);
    return grid && kind == KV_SHARE_NONE && has_sinks(method, model) ? PAGE_TOKENS + grid : grid;
}

int kv_share_grid_tokens(const kv_method *method, kv_share_kind kind) {
    return kind == KV_SHARE_F16 ? PAGE_TOKENS : method->bounded ? method->grid_tokens : 0;
}

int kv_share_most_tokens(const kv_method *method, int n_tokens) {
    int window = kv_method_wants(method).window_tokens;
    return n_tokens - (window > 1 ? window : 1);
}

size_t kv_share_pages(const kv_model *model, int n_pages) {
    return (size_t)model->n_layer * (size_t)model->n_head_kv * 2 * (size_t)n_pages;
}

/* ---- offering ---- */

void kv_cache_share(kv_cache *cache, bool offers) {
    cache->shares = true;
    cache->offers = offers;
}

bool kv_share_offers(const kv_cache *cache, kv_share_kind kind, int n_tokens) {
    if (n_tokens > cache->n_seen + cache->n_new)
        return false;
    if (kind == KV_SHARE_F16)
        return kv_method_is_f16(&cache->method) || !cache->evented;
    return kind == KV_SHARE_SEALED && cache->prompt_from == 0 && n_tokens <= cache->grid_sealed;
}

static kv_held page_at(const kv_lane *lane, int side, int page) {
    if (page < lane->first_page)
        return (kv_held){.sealed = false};
    if (lane_sealed_in(lane, side, page) == PAGE_TOKENS) {
        kv_held held = {.page = lane->sealed[side][page], .sealed = true};
        if (page - held.page.page_in_run < lane->first_page) /* who would hold the run's block? */
            held.page.bytes = NULL;
        return held;
    }
    return (kv_held){.page = {.bytes = lane->tail[side][page]}};
}

/* The pieces of the pool that a page holds; a run's block counts with its first page. */
static int pieces_of(const kv_held *held, void *piece[2]) {
    int n = 0;
    if (held->page.bytes)
        piece[n++] = held->page.bytes;
    if (held->page.bytes && held->page.run && held->page.page_in_run == 0)
        piece[n++] = held->page.run;
    return n;
}

static bool share_page(kv_pool *pool, const kv_held *held) {
    void *piece[2];
    int n = pieces_of(held, piece);
    for (int i = 0; i < n; i++)
        if (!kv_pool_share(pool, piece[i])) {
            if (i)
                kv_pool_give(pool, piece[0], kv_pool_page_bytes(piece[0]));
            return false;
        }
    return true;
}

bool kv_share_hold(kv_cache *cache, int first_page, int n_pages, kv_held *held) {
    size_t n = 0;
    assert(cache->shares);
    for (int il = 0; il < cache->model->n_layer; il++)
        for (int ih = 0; ih < cache->model->n_head_kv; ih++)
            for (int side = 0; side < 2; side++)
                for (int p = first_page; p < first_page + n_pages; p++) {
                    held[n] = page_at(lane_of(cache, il, ih), side, p);
                    if (!share_page(cache->pool, &held[n])) {
                        kv_share_drop(cache->pool, held, n);
                        return false;
                    }
                    n++;
                }
    return true;
}

void kv_share_drop(kv_pool *pool, const kv_held *held, size_t n) {
    for (size_t i = 0; i < n; i++) {
        void *piece[2];
        int n_pieces = pieces_of(&held[i], piece);
        for (int k = 0; k < n_pieces; k++)
            kv_pool_give(pool, piece[k], kv_pool_page_bytes(piece[k]));
    }
}

size_t kv_share_bytes(const kv_held *held, size_t n) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        void *piece[2];
        int n_pieces = pieces_of(&held[i], piece);
        for (int k = 0; k < n_pieces; k++)
            bytes += kv_pool_page_bytes(piece[k]);
    }
    return bytes;
}

/* ---- taking over ---- */

static const kv_held *block_page(const kv_model *model, const kv_held *const *blocks, int block_pages, int il, int ih,
                                 int side, int page) {
    size_t lane = (size_t)il * (size_t)model->n_head_kv + (size_t)ih;
    return &blocks[page / block_pages][(lane * 2 + (size_t)side) * (size_t)block_pages + (size_t)(page % block_pages)];
}

/* First page of a layer that is taken over: the first one that the query after n_pages sees, or the first of its run,
 * as a run's bytes are held with that. */
static int first_taken_page(const kv_model *model, const kv_held *const *blocks, int n_pages, int block_pages, int il) {
    int window = model->layer[il].window_tokens, first = n_pages * PAGE_TOKENS - window + 1, back = 0;
    if (!window || first <= 0)
        return 0;
    for (int side = 0; side < 2; side++) {
        const kv_held *held = block_page(model, blocks, block_pages, il, 0, side, first / PAGE_TOKENS);
        if (held->sealed && held->page.page_in_run > back)
            back = held->page.page_in_run;
    }
    return first / PAGE_TOKENS - back;
}

static bool fits(const kv_model *model, const kv_held *const *blocks, int n_blocks, int block_pages) {
    int n_pages = n_blocks * block_pages;
    for (int il = 0; il < model->n_layer; il++)
        for (int page = first_taken_page(model, blocks, n_pages, block_pages, il); page < n_pages; page++)
            for (int side = 0; side < 2; side++)
                if (!block_page(model, blocks, block_pages, il, 0, side, page)->page.bytes)
                    return false;
    return true;
}

int kv_share_fitting(const kv_model *model, const kv_held *const *blocks, int n_blocks, int block_pages) {
    while (n_blocks > 0 && !fits(model, blocks, n_blocks, block_pages))
        n_blocks--;
    return n_blocks;
}

static bool adopt_lane(kv_cache *cache, kv_lane *lane, kv_share_kind kind, const kv_held *const *blocks, int n_pages,
                       int block_pages) {
    int n_tokens = n_pages * PAGE_TOKENS;
    if (!lane_grow(cache, lane, n_tokens))
        return false;
    lane->first_page = first_taken_page(cache->model, blocks, n_pages, block_pages, lane->il);
    for (int side = 0; side < 2; side++) {
        for (int page = lane->first_page; page < n_pages; page++) {
            const kv_held *held = block_page(cache->model, blocks, block_pages, lane->il, lane->ih, side, page);
            if (!share_page(cache->pool, held))
                return false;
            if (held->sealed)
                lane->sealed[side][page] = held->page;
            else
                lane->tail[side][page] = held->page.bytes;
            lane_count(cache, kv_share_bytes(held, 1));
        }
        lane->n_sealed[side] = kind == KV_SHARE_SEALED && lane->keep[side].geometry.page_bytes ? n_tokens : 0;
    }
    for (int slot = 0; slot < n_tokens; slot++)
        lane->pos[slot] = slot < lane->first_page * PAGE_TOKENS ? KV_DEAD : slot;
    for (int slot = 0; slot < n_tokens; slot++) {
        if (lane->mass)
            lane->mass[slot] = 0;
        if (lane->last)
            lane->last[slot] = 0;
        if (lane->norm)
            lane->norm[slot] = -1;
    }
    if (lane->bound)
        memset(lane->bound_old, 1, (size_t)n_pages);
    lane->n_slots = n_tokens;
    lane->n_live = n_tokens - lane->first_page * PAGE_TOKENS;
    return true;
}

pleat_status kv_cache_adopt(kv_cache *cache, kv_share_kind kind, const kv_held *const *blocks, int n_blocks,
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
