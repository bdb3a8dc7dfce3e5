/* prefix.c - a hash table of blocks, chained by key, and a list of them by last use. */
#include "engine/prefix.h"
#include "base/status.h"
#include "kv/gather.h"
#include "kv/image.h"
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>

enum { N_BUCKETS = 4096 };

typedef struct block {
    uint8_t key[PREFIX_KEY_BYTES];
    struct block *parent, *chain, *older, *newer;
    int n_children;
    size_t bytes;
    kv_held *held; /* [n_held], or NULL with an image */
    size_t n_held;
    kv_image image;
} block;

struct prefix {
    const kv_model *model;
    kv_pool *pool;
    size_t budget_bytes;
    block *bucket[N_BUCKETS];
    block *oldest, *newest;
    prefix_figures figures;
};

pleat_status prefix_open(const kv_model *model, kv_pool *pool, size_t budget_bytes, prefix **out, pleat_error *error) {
    prefix *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(error, PLEAT_EMEMORY, "no memory for a prefix cache");
    *p = (prefix){.model = model, .pool = pool, .budget_bytes = budget_bytes};
    *out = p;
    return PLEAT_OK;
}

void prefix_close(prefix *p) {
    if (!p)
        return;
    while (prefix_shrink(p))
        ;
    free(p);
}

prefix_figures prefix_describe(const prefix *p) {
    return p->figures;
}

/* ---- keys ---- */

void prefix_root(const kv_cache *cache, const kv_model *model, const char *salt, prefix_path *path) {
    const kv_method *method = kv_cache_method(cache);
    struct sha256_ctx sha;
    const char *what = "f16";
    *path = (prefix_path){.kind = kv_share_kind_of(method, model)};
    path->block_tokens = kv_share_grid_tokens(method, path->kind);
    path->first_tokens = kv_share_first_tokens(method, model, path->kind);
    if (path->kind != KV_SHARE_F16)
        what = method->spec;
    sha256_init(&sha);
    sha256_update(&sha, strlen(what) + 1, (const uint8_t *)what);
    if (path->kind == KV_SHARE_NONE) {
        uint64_t told = kv_image_told(cache);
        sha256_update(&sha, sizeof(told), (const uint8_t *)&told);
    }
    if (salt)
        sha256_update(&sha, strlen(salt), (const uint8_t *)salt);
    sha256_digest(&sha, sizeof(path->key), path->key);
}

static void child_key(const uint8_t *parent, const int32_t *tokens, int n, uint8_t *key) {
    struct sha256_ctx sha;
    sha256_init(&sha);
    sha256_update(&sha, PREFIX_KEY_BYTES, parent);
    sha256_update(&sha, (size_t)n * sizeof(*tokens), (const uint8_t *)tokens);
    sha256_digest(&sha, PREFIX_KEY_BYTES, key);
}

/* Tokens of the block that begins at n_tokens. */
static int block_at(const prefix_path *path, int n_tokens) {
    return n_tokens ? path->block_tokens : path->first_tokens;
}

static block **bucket_of(prefix *p, const uint8_t *key) {
    return &p->bucket[(key[0] | key[1] << 8) % N_BUCKETS];
}

static block *look_up(prefix *p, const uint8_t *key) {
    block *b = *bucket_of(p, key);
    while (b && memcmp(b->key, key, PREFIX_KEY_BYTES))
        b = b->chain;
    return b;
}

/* ---- the list by use ---- */

static void unlist(prefix *p, block *b) {
    *(b->older ? &b->older->newer : &p->oldest) = b->newer;
    *(b->newer ? &b->newer->older : &p->newest) = b->older;
}

static void list_newest(prefix *p, block *b) {
    b->older = p->newest;
    b->newer = NULL;
    *(p->newest ? &p->newest->newer : &p->oldest) = b;
    p->newest = b;
}

static void touch(prefix *p, block *b) {
    unlist(p, b);
    list_newest(p, b);
}

static void forget(prefix *p, block *b) {
    block **at = bucket_of(p, b->key);
    while (*at != b)
        at = &(*at)->chain;
    *at = b->chain;
    unlist(p, b);
    if (b->parent)
        b->parent->n_children--;
    kv_share_drop(p->pool, b->held, b->n_held);
    p->figures.n_blocks--;
    p->figures.bytes -= b->bytes;
    kv_pool_discharge(p->pool, b->image.n_bytes);
    kv_image_free(&b->image);
    free(b->held);
    free(b);
}

/* The oldest one that can go. */
static bool shrink(prefix *p, bool images_only) {
    for (block *b = p->oldest; b; b = b->newer)
        if (b->n_children == 0 && (b->image.bytes || !images_only)) {
            forget(p, b);
            return true;
        }
    return false;
}

bool prefix_shrink(prefix *p) {
    return shrink(p, false);
}

bool prefix_shrink_images(prefix *p) {
    return shrink(p, true);
}

void prefix_gather(prefix *p) {
    for (block *b = p->oldest; b; b = b->newer)
        kv_held_gather(p->pool, b->held, b->n_held);
}

/* ---- finding ---- */

typedef struct found {
    block **block; /* [n] along the path */
    uint8_t (*key)[PREFIX_KEY_BYTES];
    int n;
} found;

static void walk(prefix *p, const prefix_path *path, const int32_t *tokens, int n_most, found *f) {
    const uint8_t *parent = path->key;
    for (int from = 0, n; n = block_at(path, from), from + n <= n_most; from += n) {
        child_key(parent, tokens + from, n, f->key[f->n]);
        f->block[f->n] = look_up(p, f->key[f->n]);
        if (!f->block[f->n])
            return;
        parent = f->key[f->n++];
    }
}

static pleat_status take_pages(prefix *p, const prefix_path *path, found *f, kv_cache *cache, pleat_error *error) {
    int block_pages = path->block_tokens / PAGE_TOKENS;
    const kv_held **blocks = calloc((size_t)f->n, sizeof(*blocks));
    if (!blocks)
        return err_set(error, PLEAT_EMEMORY, "no memory to take over a prompt's pages");
    for (int i = 0; i < f->n; i++)
        blocks[i] = f->block[i]->held;
    f->n = kv_share_fitting(p->model, blocks, f->n, block_pages);
    pleat_status status = PLEAT_OK;
    if (f->n)
        status = kv_cache_adopt(cache, path->kind, blocks, f->n, block_pages, error);
    free(blocks);
    return status;
}

/* The newest image on the way, copied. PLEAT_EFULL is no hit. */
static pleat_status take_image(found *f, kv_cache *cache, pleat_error *error) {
    while (f->n && !f->block[f->n - 1]->image.bytes)
        f->n--;
    pleat_status status = f->n ? kv_image_load(&f->block[f->n - 1]->image, cache, error) : PLEAT_OK;
    if (status == PLEAT_EFULL) {
        f->n = 0;
        status = PLEAT_OK;
    }
    return status;
}

pleat_status prefix_find(prefix *p, prefix_path *path, const int32_t *tokens, int n_most, kv_cache *cache, int *n_found,
                         pleat_error *error) {
    *n_found = 0;
    p->figures.asked_tokens += n_most > 0 ? n_most : 0;
    if (!path->block_tokens || n_most < path->first_tokens)
        return PLEAT_OK;
    size_t most = (size_t)(n_most / path->block_tokens) + 1;
    found f = {.block = calloc(most, sizeof(*f.block)), .key = calloc(most, sizeof(*f.key))};
    pleat_status status = PLEAT_OK;
    if (!f.block || !f.key)
        status = err_set(error, PLEAT_EMEMORY, "no memory to look up a prompt of %d tokens", n_most);
    if (!status) {
        walk(p, path, tokens, n_most, &f);
        status = path->kind == KV_SHARE_NONE ? take_image(&f, cache, error) : take_pages(p, path, &f, cache, error);
    }
    if (!status && f.n) {
        for (int i = f.n - 1; i >= 0; i--) /* parents last: they are the newest */
            touch(p, f.block[i]);
        memcpy(path->key, f.key[f.n - 1], PREFIX_KEY_BYTES);
        *n_found = path->n_tokens = path->first_tokens + (f.n - 1) * path->block_tokens;
        p->figures.found_tokens += *n_found;
    }
    free(f.block);
    free(f.key);
    return status;
}

/* ---- offering ---- */

static bool hold(prefix *p, const prefix_path *path, int n_tokens, kv_cache *cache, block *b) {
    if (path->kind == KV_SHARE_NONE) {
        b->bytes = kv_image_bytes(cache);
        if (kv_pool_resident_bytes(p->pool) + b->bytes > kv_pool_budget_bytes(p->pool))
            return false;
        if (!kv_pool_charge(p->pool, b->bytes))
            return false;
        if (!kv_image_save(cache, &b->image, NULL))
            return true;
        kv_pool_discharge(p->pool, b->bytes);
        return false;
    }
    int n_pages = n_tokens / PAGE_TOKENS;
    b->n_held = kv_share_pages(p->model, n_pages);
    b->held = calloc(b->n_held, sizeof(*b->held));
    if (!b->held || !kv_share_hold(cache, path->n_tokens / PAGE_TOKENS, n_pages, b->held)) {
        free(b->held);
        return false;
    }
    b->bytes = kv_share_bytes(b->held, b->n_held);
    return true;
}

static bool add(prefix *p, const prefix_path *path, const uint8_t *key, int n_tokens, kv_cache *cache) {
    block *b = calloc(1, sizeof(*b));
    if (!b)
        return false;
    if (!hold(p, path, n_tokens, cache, b)) {
        free(b);
        return false;
    }
    memcpy(b->key, key, PREFIX_KEY_BYTES);
    b->parent = path->n_tokens ? look_up(p, path->key) : NULL;
    if (b->parent)
        b->parent->n_children++;
    b->chain = *bucket_of(p, key);
    *bucket_of(p, key) = b;
    list_newest(p, b);
    p->figures.n_blocks++;
    p->figures.bytes += b->bytes;
    return true;
}

static bool offers(const prefix_path *path, const kv_cache *cache, int n_tokens) {
    if (path->kind != KV_SHARE_NONE)
        return kv_share_offers(cache, path->kind, n_tokens);
    return kv_image_at_grid(cache) && kv_cache_tokens(cache) == n_tokens;
}

void prefix_offer(prefix *p, prefix_path *path, const int32_t *tokens, int n, kv_cache *cache) {
    uint8_t key[PREFIX_KEY_BYTES];
    if (!path->block_tokens)
        return;
    for (int more; more = block_at(path, path->n_tokens), path->n_tokens + more <= n; path->n_tokens += more) {
        child_key(path->key, tokens + path->n_tokens, more, key);
        block *b = look_up(p, key);
        if (b)
            touch(p, b);
        else if (!offers(path, cache, path->n_tokens + more) || !add(p, path, key, more, cache))
            break;
        memcpy(path->key, key, sizeof(key));
    }
    while (p->figures.bytes > p->budget_bytes && prefix_shrink(p))
        ;
}
