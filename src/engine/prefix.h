/* prefix.h - prompts that begin alike: which leading tokens of which method are still held, and their pages.
 *
 * A tree of blocks. A block's key is SHA-256 over its parent's key and its tokens; a root's key is over what may be
 * shared with whom: the kind of sharing, the method for sealed pages, and the tenant's salt. So two prompts meet
 * exactly as far as their tokens agree, and one tenant never meets another's. Blocks hold their pages in the pool
 * (kv_pool_share), within a budget; the ones that were not used for longest go first, leaves before their parents. A
 * block can go at any time: who took pages over holds them on its own.
 *
 * Evicting methods under prefill:bounded have no pages that are pure in the prefix; their blocks hold an image of the
 * whole cache at that grid point instead (kv/image.h), and a hit is a copy. */
#ifndef ENGINE_PREFIX_H
#define ENGINE_PREFIX_H
#include "kv/share.h"

typedef struct prefix prefix;

enum { PREFIX_KEY_BYTES = 32 };

/* A sequence's place in the tree. */
typedef struct prefix_path {
    kv_share_kind kind;
    int first_tokens, block_tokens; /* of the first block, and of the others */
    int n_tokens;                   /* offered or found so far: where a block ends */
    uint8_t key[PREFIX_KEY_BYTES];  /* of the block that ends there; the root's at 0 */
} prefix_path;

pleat_status prefix_open(const kv_model *model, kv_pool *pool, size_t budget_bytes, prefix **out, pleat_error *error);
void prefix_close(prefix *p); /* gives every page back; NULL is fine */

/* The path of the beginning of the prompt that an empty cache will take. salt NULL: "". */
void prefix_root(const kv_cache *cache, const kv_model *model, const char *salt, prefix_path *path);
/* The most of tokens [0, n_most) that is held: an empty cache takes it over and the path goes there. Returns the tokens
 * taken over, 0 for none. When memory ran out on the way the cache is left empty. */
pleat_status prefix_find(prefix *p, prefix_path *path, const int32_t *tokens, int n_most, kv_cache *cache, int *n_found,
                         pleat_error *error);
/* Offers what the cache (of tokens [0, n)) holds beyond the path, as far as it may be shared. Never fails: what does
 * not fit is not offered. */
void prefix_offer(prefix *p, prefix_path *path, const int32_t *tokens, int n, kv_cache *cache);
/* Lets the block go that was not used for longest; false: there is none. */
bool prefix_shrink(prefix *p);
/* The same of those that are held as images, beside the pool's pages. */
bool prefix_shrink_images(prefix *p);

/* kv_cache_gather for the pages that are held. */
void prefix_gather(prefix *p);

typedef struct prefix_figures {
    int64_t asked_tokens, found_tokens; /* of prompts */
    int n_blocks;
    size_t bytes;
} prefix_figures;
prefix_figures prefix_describe(const prefix *p);
#endif
