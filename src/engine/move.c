/* move.c - caches out of the pool and back: to memory, to a file of the moment, to a file that is kept.
 *
 * A file of the moment has no name, so a process that is killed leaves none; it is not flushed, as nobody reads it
 * after a crash, and passes through a megabyte of memory.
 *
 * A kept file is a small head (magic, number of tokens, the tokens, their hash) and the image (kv/image.h). It is
 * written under another name, flushed, and renamed: a reader sees a whole file or none. */
#include "engine/inside.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "PLEATSQ";

typedef struct head {
    char magic[8];
    uint64_t n_tokens, tokens_hash;
} head;

/* ---- files ---- */

typedef struct piece {
    const void *bytes;
    size_t n;
} piece;

static pleat_status write_file(const char *path, const piece *pieces, int n_pieces, pleat_error *error) {
    char part[4200];
    if ((size_t)snprintf(part, sizeof(part), "%s.%ld.part", path, (long)getpid()) >= sizeof(part))
        return err_set(error, PLEAT_EINPUT, "the path of a saved cache is too long");
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", part, strerror(errno));
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < n_pieces && !status; i++)
        status = file_write_all(fd, pieces[i].bytes, pieces[i].n, path, error);
    if (!status && fsync(fd))
        status = err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", path, strerror(errno));
    if (close(fd) && !status)
        status = err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", path, strerror(errno));
    if (!status && rename(part, path))
        status = err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", path, strerror(errno));
    if (status)
        unlink(part);
    return status;
}

static pleat_status read_file(const char *path, uint8_t **bytes, size_t *n_bytes, pleat_error *error) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        pleat_status status = err_set(error, PLEAT_EIO, "%.300s cannot be read: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return status;
    }
    pleat_status status = PLEAT_OK;
    *n_bytes = (size_t)st.st_size;
    *bytes = S_ISREG(st.st_mode) ? malloc(*n_bytes + 1) : NULL;
    if (!S_ISREG(st.st_mode))
        status = err_set(error, PLEAT_EINPUT, "%.300s is not a file", path);
    else if (!*bytes)
        status = err_set(error, PLEAT_EMEMORY, "no memory for %.300s of %zu bytes", path, *n_bytes);
    status = status ? status : file_read_all(fd, *bytes, *n_bytes, path, error);
    close(fd);
    if (status) {
        free(*bytes);
        *bytes = NULL;
    }
    return status;
}

/* ---- out of the pool and back ---- */

void move_forget(pleat_seq *seq) {
    kv_image_free(&seq->image);
    if (seq->file.n_bytes)
        close(seq->file.fd);
    seq->file.n_bytes = 0;
}

/* Not every file system makes files without a name: there it loses its name at once. */
static pleat_status open_nameless(const char *folder, int *fd, pleat_error *error) {
    char path[4200];
    *fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        errno = ENAMETOOLONG;
        if ((size_t)snprintf(path, sizeof(path), "%s/pleat-XXXXXX", folder) < sizeof(path))
            *fd = mkostemp(path, O_CLOEXEC);
        if (*fd >= 0)
            unlink(path);
    }
    return *fd >= 0 ? PLEAT_OK
                    : err_set(error, PLEAT_EIO, "%.300s: no file can be made there: %s", folder, strerror(errno));
}

pleat_status move_try(const char *folder, pleat_error *error) {
    int fd;
    pleat_status status = open_nameless(folder, &fd, error);
    if (!status)
        close(fd);
    return status;
}

/* The file is open after success only. */
static pleat_status save_nameless(const kv_cache *cache, const char *folder, kv_image_file *file, pleat_error *error) {
    int fd;
    pleat_status status = open_nameless(folder, &fd, error);
    if (status)
        return status;
    status = kv_image_put(cache, fd, file, error);
    if (status)
        close(fd);
    return status;
}

static pleat_status fresh_cache(pleat_seq *seq, kv_cache **out, pleat_error *error) {
    kv_method method = *kv_cache_method(seq->cache);
    pleat_status status = kv_cache_open(&seq->engine->model->kv, &method, seq->engine->pages, out, error);
    if (!status && seq->offers)
        kv_cache_share(*out, seq->path.kind == KV_SHARE_F16);
    return status;
}

pleat_status pleat_seq_move_out(pleat_seq *seq, const char *folder, pleat_error *error) {
    kv_image image = {0};
    kv_image_file file = {0};
    kv_cache *fresh;
    if (seq_is_out(seq))
        return err_set(error, PLEAT_EINPUT, "the sequence is moved out already");
    pleat_status status = fresh_cache(seq, &fresh, error);
    if (status)
        return status;
    status = folder ? save_nameless(seq->cache, folder, &file, error) : kv_image_save(seq->cache, &image, error);
    if (status) {
        kv_cache_close(fresh);
        return status;
    }
    seq->file = file;
    seq->image = image;
    kv_cache_close(seq->cache);
    seq->cache = fresh;
    return PLEAT_OK;
}

pleat_status pleat_seq_move_in(pleat_seq *seq, pleat_error *error) {
    pleat_status status;
    if (!seq_is_out(seq))
        return err_set(error, PLEAT_EINPUT, "the sequence is not moved out");
    do
        status = seq->file.n_bytes ? kv_image_get(&seq->file, seq->cache, error)
                                   : kv_image_load(&seq->image, seq->cache, error);
    while (status == PLEAT_EFULL && seq->engine->prefix && prefix_shrink(seq->engine->prefix));
    if (!status)
        move_forget(seq);
    return status;
}

/* ---- kept files ---- */

pleat_status pleat_seq_save(const pleat_seq *seq, const int32_t *tokens, int n_tokens, const char *path,
                            pleat_error *error) {
    if (seq_is_out(seq))
        return err_set(error, PLEAT_EINPUT, "a sequence that is moved out cannot be saved");
    if (n_tokens < kv_cache_tokens(seq->cache))
        return err_set(error, PLEAT_EINPUT, "%d tokens are named for a cache that has seen %d", n_tokens,
                       kv_cache_tokens(seq->cache));
    kv_image image;
    pleat_status status = kv_image_save(seq->cache, &image, error);
    if (status)
        return status;
    size_t n = (size_t)n_tokens * sizeof(*tokens);
    head h = {.n_tokens = (uint64_t)n_tokens, .tokens_hash = hash_bytes(tokens, n, 0)};
    memcpy(h.magic, magic, sizeof(magic));
    status = write_file(path, (piece[]){{&h, sizeof(h)}, {tokens, n}, {image.bytes, image.n_bytes}}, 3, error);
    kv_image_free(&image);
    return status;
}

static pleat_status split_file(uint8_t *bytes, size_t n_bytes, const char *path, const pleat_model *model,
                               const int32_t **tokens, int *n_tokens, kv_image *image, pleat_error *error) {
    head h;
    if (n_bytes < sizeof(h))
        return err_set(error, PLEAT_EINPUT, "%.300s is too short for a saved sequence", path);
    memcpy(&h, bytes, sizeof(h));
    if (memcmp(h.magic, magic, sizeof(magic)))
        return err_set(error, PLEAT_EINPUT, "%.300s is not a saved sequence", path);
    if (h.n_tokens > (n_bytes - sizeof(h)) / sizeof(int32_t) || h.n_tokens > INT32_MAX)
        return err_set(error, PLEAT_EINPUT, "%.300s says %llu tokens and is too short for them", path,
                       (unsigned long long)h.n_tokens);
    *tokens = (const int32_t *)(bytes + sizeof(h));
    *n_tokens = (int)h.n_tokens;
    size_t n = (size_t)*n_tokens * sizeof(**tokens);
    if (hash_bytes(*tokens, n, 0) != h.tokens_hash)
        return err_set(error, PLEAT_EINPUT, "%.300s is damaged: the hash of its tokens does not match", path);
    for (int i = 0; i < *n_tokens; i++)
        if ((*tokens)[i] < 0 || (*tokens)[i] >= model->n_vocab)
            return err_set(error, PLEAT_EINPUT, "%.300s: token %d is %d; the vocabulary has %d tokens", path, i,
                           (int)(*tokens)[i], model->n_vocab);
    *image = (kv_image){bytes + sizeof(h) + n, n_bytes - sizeof(h) - n};
    return PLEAT_OK;
}

static pleat_status seq_from(pleat_engine *e, const kv_image *image, int n_tokens, pleat_seq **out,
                             pleat_error *error) {
    const char *spec;
    kv_method method;
    kv_cache *cache;
    pleat_status status = kv_image_spec(image, &spec, error);
    status = status ? status : kv_method_parse(spec, &e->model->kv, &method, error);
    status = status ? status : kv_cache_open(&e->model->kv, &method, e->pages, &cache, error);
    if (status)
        return status;
    status = kv_image_load(image, cache, error);
    if (!status && kv_cache_tokens(cache) > n_tokens)
        status = err_set(error, PLEAT_EINPUT, "the saved cache has seen %d tokens, the file names %d",
                         kv_cache_tokens(cache), n_tokens);
    if (status) {
        kv_cache_close(cache);
        return status;
    }
    return seq_of(e, cache, kv_cache_in_prompt(cache), out, error);
}

pleat_status pleat_seq_load(pleat_engine *e, const char *path, pleat_seq **out, int32_t **tokens, int *n_tokens,
                            pleat_error *error) {
    uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    const int32_t *saved = NULL;
    int32_t *copy = NULL;
    int n_saved = 0;
    kv_image image;
    pleat_seq *seq;
    pleat_status status = read_file(path, &bytes, &n_bytes, error);
    if (status)
        return status;
    status = split_file(bytes, n_bytes, path, e->model, &saved, &n_saved, &image, error);
    if (!status) {
        copy = malloc((size_t)n_saved * sizeof(*copy) + 1);
        status = copy ? seq_from(e, &image, n_saved, &seq, error)
                      : err_set(error, PLEAT_EMEMORY, "no memory for the tokens of %.300s", path);
    }
    if (status) {
        free(copy);
    } else {
        memcpy(copy, saved, (size_t)n_saved * sizeof(*copy));
        *out = seq;
        *tokens = copy;
        *n_tokens = n_saved;
    }
    free(bytes);
    return status;
}
