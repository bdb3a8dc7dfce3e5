/* gguf_writer.c - tests: a GGUF file as four growing byte strings, joined when the file is made.
 *
 *     "GGUF"  version  n_tensors  n_keys | keys ... | tensor entries ... | padding | data, each tensor padded
 *      4 B     u32      u64        u64     strings are a u64 length and bytes; little-endian throughout
 *
 * A key is its name, a u32 type, a value; a tensor entry its name, u32 n_dims, u64 ne [n_dims], u32 type, u64 offset
 * from the start of the data. Source: the GGUF specification (ggml/docs/gguf.md). */
#include "support/gguf_writer.h"
#include "support/quantise.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes {
    uint8_t *at;
    size_t n, cap;
} bytes;

struct gguf_writer {
    uint32_t version, alignment;
    uint64_t n_tensors, n_keys;
    bytes keys, entries, data;
};

static void need(bool good) {
    if (!good) {
        fprintf(stderr, "gguf_writer: out of memory\n");
        exit(1);
    }
}

/* NULL source: zeros. */
static void put(bytes *b, const void *source, size_t n) {
    if (n == 0)
        return;
    if (b->n + n > b->cap) {
        b->cap = 2 * b->cap + n + 256;
        b->at = realloc(b->at, b->cap);
        need(b->at != NULL);
    }
    if (source)
        memcpy(b->at + b->n, source, n);
    else
        memset(b->at + b->n, 0, n);
    b->n += n;
}

static void put_u32(bytes *b, uint32_t v) {
    put(b, &v, sizeof v);
}

static void put_u64(bytes *b, uint64_t v) {
    put(b, &v, sizeof v);
}

static void put_string(bytes *b, const char *s, size_t n) {
    put_u64(b, n);
    put(b, s, n);
}

gguf_writer *gguf_writer_open(uint32_t version) {
    gguf_writer *w = calloc(1, sizeof *w);
    need(w != NULL);
    w->version = version;
    w->alignment = 32;
    return w;
}

void gguf_writer_close(gguf_writer *w) {
    if (!w)
        return;
    free(w->keys.at);
    free(w->entries.at);
    free(w->data.at);
    free(w);
}

/* ---- metadata ---- */

static size_t width_of(gguf_type type) {
    static const uint8_t width[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    assert(type < sizeof width && width[type] > 0);
    return width[type];
}

void gguf_writer_raw(gguf_writer *w, const char *key, size_t key_bytes, uint64_t said_bytes, uint32_t type,
                     const void *value, size_t value_bytes) {
    put_u64(&w->keys, said_bytes);
    put(&w->keys, key, key_bytes);
    put_u32(&w->keys, type);
    put(&w->keys, value, value_bytes);
    w->n_keys++;
}

static void begin_key(gguf_writer *w, const char *key, gguf_type type) {
    gguf_writer_raw(w, key, strlen(key), strlen(key), type, NULL, 0);
}

void gguf_writer_int(gguf_writer *w, const char *key, gguf_type type, int64_t value) {
    assert(type != GGUF_F32 && type != GGUF_F64);
    begin_key(w, key, type);
    put(&w->keys, &value, width_of(type)); /* little-endian: the low bytes come first */
}

void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t value) {
    gguf_writer_int(w, key, GGUF_U32, value);
}

void gguf_writer_f32(gguf_writer *w, const char *key, float value) {
    begin_key(w, key, GGUF_F32);
    put(&w->keys, &value, sizeof value);
}

void gguf_writer_f64(gguf_writer *w, const char *key, double value) {
    begin_key(w, key, GGUF_F64);
    put(&w->keys, &value, sizeof value);
}

void gguf_writer_bool(gguf_writer *w, const char *key, bool value) {
    gguf_writer_int(w, key, GGUF_BOOL, value);
}

void gguf_writer_string(gguf_writer *w, const char *key, const char *value) {
    begin_key(w, key, GGUF_STRING);
    put_string(&w->keys, value, strlen(value));
}

void gguf_writer_array(gguf_writer *w, const char *key, gguf_type type, const void *data, uint64_t n) {
    begin_key(w, key, GGUF_ARRAY);
    put_u32(&w->keys, type);
    put_u64(&w->keys, n);
    put(&w->keys, data, n * width_of(type));
}

void gguf_writer_strings(gguf_writer *w, const char *key, const char *const *strings, uint64_t n) {
    begin_key(w, key, GGUF_ARRAY);
    put_u32(&w->keys, GGUF_STRING);
    put_u64(&w->keys, n);
    for (uint64_t i = 0; i < n; i++)
        put_string(&w->keys, strings[i], strlen(strings[i]));
}

void gguf_writer_alignment(gguf_writer *w, uint32_t alignment) {
    gguf_writer_u32(w, "general.alignment", alignment);
    w->alignment = alignment;
}

void gguf_writer_layout(gguf_writer *w, uint32_t alignment) {
    w->alignment = alignment;
}

void gguf_writer_say_tensors(gguf_writer *w, uint64_t n) {
    w->n_tensors = n;
}

void gguf_writer_say_keys(gguf_writer *w, uint64_t n) {
    w->n_keys = n;
}

/* ---- tensors ---- */

static void pad_to(bytes *b, size_t alignment) {
    if (alignment && b->n % alignment)
        put(b, NULL, alignment - b->n % alignment);
}

void gguf_writer_entry_raw(gguf_writer *w, const gguf_writer_entry *entry) {
    put_string(&w->entries, entry->name, entry->name_bytes);
    put_u32(&w->entries, entry->n_dims);
    for (uint32_t d = 0; d < entry->n_dims && d < 8; d++)
        put_u64(&w->entries, entry->ne[d]);
    put_u32(&w->entries, entry->type);
    put_u64(&w->entries, entry->offset);
    w->n_tensors++;
}

void gguf_writer_pad(gguf_writer *w, size_t n) {
    put(&w->data, NULL, n);
}

static void add_entry(gguf_writer *w, const char *name, block_type type, int n_dims, const int64_t *ne) {
    pad_to(&w->data, w->alignment);
    gguf_writer_entry entry = {
        .name = name, .name_bytes = strlen(name), .n_dims = (uint32_t)n_dims, .type = type, .offset = w->data.n};
    assert(n_dims >= 1 && n_dims <= 4);
    for (int d = 0; d < n_dims; d++)
        entry.ne[d] = (uint64_t)ne[d];
    gguf_writer_entry_raw(w, &entry);
}

void gguf_writer_tensor_bytes(gguf_writer *w, const char *name, block_type type, int n_dims, const int64_t *ne,
                              const void *source, size_t n) {
    add_entry(w, name, type, n_dims, ne);
    put(&w->data, source, n);
}

void gguf_writer_tensor(gguf_writer *w, const char *name, block_type type, int n_dims, const int64_t *ne,
                        const float *data) {
    assert(ne[0] % block_traits_of(type)->elements == 0);
    int64_t n = 1;
    for (int d = 0; d < n_dims; d++)
        n *= ne[d];
    add_entry(w, name, type, n_dims, ne);
    const size_t at = w->data.n;
    put(&w->data, NULL, quantise_bytes(type, n));
    quantise(type, data, n, w->data.at + at);
}

/* ---- the file ---- */

uint8_t *gguf_writer_image(const gguf_writer *w, size_t *n, size_t *header_bytes) {
    bytes image = {0};
    put(&image, "GGUF", 4);
    put_u32(&image, w->version);
    put_u64(&image, w->n_tensors);
    put_u64(&image, w->n_keys);
    put(&image, w->keys.at, w->keys.n);
    put(&image, w->entries.at, w->entries.n);
    if (header_bytes)
        *header_bytes = image.n;
    if (w->entries.n > 0) {
        pad_to(&image, w->alignment);
        put(&image, w->data.at, w->data.n);
        pad_to(&image, w->alignment);
    }
    *n = image.n;
    return image.at;
}

bool gguf_writer_save(const gguf_writer *w, const char *path) {
    size_t n;
    uint8_t *image = gguf_writer_image(w, &n, NULL);
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(image, 1, n, f) == n;
    if (f && fclose(f) != 0)
        good = false;
    if (f && !good)
        remove(path);
    free(image);
    return good;
}
