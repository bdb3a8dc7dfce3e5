/* image.h - a cache as bytes: for preemption, saved conversations and the prefix cache of evicting methods. An image
 * holds everything that later steps depend on (positions, mass, windows, pages as they are), so a cache that was loaded
 * goes on bit for bit like the one that was saved. docs/cache_image.md has the bytes. */
#ifndef KV_IMAGE_H
#define KV_IMAGE_H
#include "kv/cache.h"

typedef struct kv_image {
    uint8_t *bytes; /* owned; NULL: none */
    size_t n_bytes;
} kv_image;

size_t kv_image_bytes(const kv_cache *cache); /* that kv_image_save would take now */
/* Between steps only. PLEAT_EMEMORY. */
pleat_status kv_image_save(const kv_cache *cache, kv_image *out, pleat_error *error);
/* Into a fresh cache of the same model and method (a model is known by kv_model.fingerprint). PLEAT_EINPUT: damaged, or
 * of another model, method or version: the sentence says which; PLEAT_EFULL: the pool lacks pages; PLEAT_EMEMORY. After
 * a failure the cache is as fresh as before. */
pleat_status kv_image_load(const kv_image *image, kv_cache *cache, pleat_error *error);
/* A cache in a file that this process alone can read and write: no header, and a sum that stays here. It passes through
 * a megabyte of memory. */
typedef struct kv_image_file {
    int fd;
    size_t n_bytes, page_bytes; /* of the file; of the pool, when it is read */
    uint64_t sum;
} kv_image_file;
/* Between steps only, into an empty file; fd stays the caller's. PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status kv_image_put(const kv_cache *cache, int fd, kv_image_file *out, pleat_error *error);
/* Into a fresh cache of the same model and method. PLEAT_EINPUT: the file is damaged; PLEAT_EFULL: the pool lacks
 * pages; PLEAT_EIO, PLEAT_EMEMORY. After a failure the cache is as fresh as before. */
pleat_status kv_image_get(const kv_image_file *file, kv_cache *cache, pleat_error *error);
/* The canonical method spec of an image (in its bytes), checked as far as that. PLEAT_EINPUT. */
pleat_status kv_image_spec(const kv_image *image, const char **spec, pleat_error *error);
void kv_image_free(kv_image *image);

/* A hash of what a cache was told apart from its tokens, as far as its images depend on it: pinned spans under `pin`,
 * and the tokens expected where the policy keeps so many the fewer. */
uint64_t kv_image_told(const kv_cache *cache);
/* True inside a first prompt, at a grid point whose event has just happened: what the image then holds depends on the
 * tokens so far and what kv_image_told says. */
bool kv_image_at_grid(const kv_cache *cache);
#endif
