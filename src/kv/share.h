/* share.h - pages of a prompt that several caches hold at once: what may be shared under a method, and how a cache
 * offers pages and takes them over. Which prompt has which pages is the engine's business (engine/prefix.h).
 *
 * Only what a cold run would have written bit for bit is shared (design: purity in the prefix). A page shared is never
 * written again: a cache that is about to move rows copies its fp16 pages first (lane_tails_own). */
#ifndef KV_SHARE_H
#define KV_SHARE_H
#include "kv/cache.h"

typedef enum kv_share_kind {
    KV_SHARE_NONE,
    KV_SHARE_F16,    /* whole fp16 pages as they stand before any event: the same for every method of this kind */
    KV_SHARE_SEALED, /* pages sealed at grid points: for one method */
} kv_share_kind;

/* What prompts under this method may share. NONE: an evicting method under prefill:bounded, one whose event needs every
 * query of the prompt (H2O's mass, Expected Attention's moments), and Kitty under prefill:bounded, whose sinks shift
 * its pages off the grid. */
kv_share_kind kv_share_kind_of(const kv_method *method, const kv_model *model);
int kv_share_grid_tokens(const kv_method *method, kv_share_kind kind); /* a hit is a multiple of it; 0: none */
/* The first place where a prompt may be taken over: the grid, or with sinks in a page of their own 64 tokens later. */
int kv_share_first_tokens(const kv_method *method, const kv_model *model, kv_share_kind kind);
/* Tokens of a prompt of n that may come from others: some must be computed, for logits and for what the method wants.
 */
int kv_share_most_tokens(const kv_method *method, int n_tokens);
/* A page as it is shared: an fp16 page, or a sealed one with its place in a run (whose block the run's first page
 * holds). page.bytes NULL: a windowed layer has let it go. */
typedef struct kv_held {
    kv_page page;
    bool sealed;
} kv_held;

/* Pages of a block of n_pages: [n_layer][n_head_kv][2][n_pages]. */
size_t kv_share_pages(const kv_model *model, int n_pages);

/* The cache's pages may have other holders from now on, and, while it offers, its whole fp16 pages get one in each step
 * before the event: its steps reserve what that costs. Before a step. */
void kv_cache_share(kv_cache *cache, bool offers);
/* True when the cache's first n_tokens (a multiple of the grid) may be offered now: for F16 before its prompt's end
 * event (also between a step's last layer and that event), or any time under f16; for SEALED when they were sealed at
 * grid points. */
bool kv_share_offers(const kv_cache *cache, kv_share_kind kind, int n_tokens);
/* held[] = the pages of tokens [64 * first_page, 64 * (first_page + n_pages)) with one holder more each. false: no
 * memory for the counts; nothing is held. */
bool kv_share_hold(kv_cache *cache, int first_page, int n_pages, kv_held *held);
/* The holder gives n pages back. */
void kv_share_drop(kv_pool *pool, const kv_held *held, size_t n);
size_t kv_share_bytes(const kv_held *held, size_t n); /* of the pool */

/* How many of the blocks' tokens an empty cache could take over: windowed layers must still have the pages that the
 * next query sees. blocks [n_blocks] of block_pages pages, in order from position 0. */
int kv_share_fitting(const kv_model *model, const kv_held *const *blocks, int n_blocks, int block_pages);
/* An empty cache takes over the blocks as the beginning of its prompt, with a holder more for each page.
 * PLEAT_EMEMORY: it can only be closed. */
pleat_status kv_cache_adopt(kv_cache *cache, kv_share_kind kind, const kv_held *const *blocks, int n_blocks,
                            int block_pages, pleat_error *error);
#endif
