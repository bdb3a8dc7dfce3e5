/* gguf.c - maps a model file and indexes it, believing nothing.
 *
 *   "GGUF" u32 version u64 n_tensors u64 n_keys
 *   n_keys    x [string key] u32 type [value]         string: u64 length, bytes; array: u32 element type, u64 count,
 * elements n_tensors x [string name] u32 n_dims u64 ne[n_dims] u32 type u64 offset padding to the alignment, then the
 * data: offsets count from here
 *
 * Every count is compared with the bytes that are left before anything is allocated for it, every product and sum is
 * checked, and the two index arrays are bounded by MOST_ENTRIES: no allocation exceeds the file's size plus 16 MB. The
 * mapping is read-only and private; a file that another process truncates while it is open raises SIGBUS, as with every
 * mapped file.
 *
 * Format: the GGUF specification of ggml, versions 2 and 3. */
#include "gguf/inside.h"
#include "base/status.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MOST_ENTRIES = 1 << 16, /* tensors, and keys */
    MOST_NAME_BYTES = 63,   /* of a tensor: the format's 64 with a final 0 */
    MOST_KEY_BYTES = 65535,
    LEAST_KEY_BYTES = 8 + 1 + 4 + 1, /* a key of one letter and a byte */
    LEAST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
    DEFAULT_ALIGNMENT = 32,
    MOST_ALIGNMENT = 1 << 20,
};

/* ---- reading with checks ---- */

typedef struct cursor {
    gguf *file;
    size_t at;
    pleat_error *error;
} cursor;

#define bad(c, at, ...) gguf_refuse_at((c)->file, at, (c)->error, __VA_ARGS__)

static size_t left(const cursor *c) {
    return c->file->bytes - c->at;
}

static pleat_status read_bytes(cursor *c, void *to, size_t n, const char *what) {
    if (left(c) < n)
        return bad(c, c->at, "the file ends inside %s", what);
    memcpy(to, c->file->map + c->at, n);
    c->at += n;
    return PLEAT_OK;
}

static pleat_status read_string(cursor *c, gguf_string *s, const char *what) {
    uint64_t n = 0;
    size_t start = c->at;
    pleat_status status = read_bytes(c, &n, sizeof(n), what);
    if (status)
        return status;
    if (n > left(c))
        return bad(c, start, "%s is said to have %llu bytes; %zu are left in the file", what, (unsigned long long)n,
                   left(c));
    *s = (gguf_string){.bytes = (const char *)c->file->map + c->at, .n = (size_t)n};
    c->at += (size_t)n;
    return PLEAT_OK;
}

/* Names are printable ASCII, so that they can stand in a sentence and compare equal to what we look for. */
static pleat_status read_name(cursor *c, gguf_string *s, size_t most, const char *what) {
    size_t start = c->at;
    pleat_status status = read_string(c, s, what);
    if (status)
        return status;
    if (s->n == 0 || s->n > most)
        return bad(c, start, "%s has %zu bytes; 1 to %zu are possible", what, s->n, most);
    for (size_t i = 0; i < s->n; i++)
        if (s->bytes[i] < 0x20 || s->bytes[i] > 0x7e)
            return bad(c, start, "%s holds the byte 0x%02x, which is not printable", what, (uint8_t)s->bytes[i]);
    return PLEAT_OK;
}

/* ---- head ---- */

static pleat_status read_head(cursor *c, uint64_t *n_tensors, uint64_t *n_keys) {
    char magic[4];
    pleat_status status = read_bytes(c, magic, 4, "the head");
    if (!status && memcmp(magic, "GGUF", 4))
        return bad(c, 0, "this is not a GGUF file (it does not begin with \"GGUF\")");
    status = status ? status : read_bytes(c, &c->file->version, 4, "the head");
    if (status)
        return status;
    uint32_t version = c->file->version;
    if (version == 0x02000000 || version == 0x03000000)
        return bad(c, 4, "the file is big-endian; only little-endian files are read");
    if (version != 2 && version != 3)
        return bad(c, 4, "version %u; versions 2 and 3 are read", version);
    status = read_bytes(c, n_tensors, 8, "the head");
    status = status ? status : read_bytes(c, n_keys, 8, "the head");
    if (status)
        return status;
    if (*n_tensors > MOST_ENTRIES || *n_tensors * LEAST_TENSOR_BYTES > left(c))
        return bad(c, 8, "the number of tensors, %llu, is more than the file can hold or than %d",
                   (unsigned long long)*n_tensors, MOST_ENTRIES);
    if (*n_keys > MOST_ENTRIES || *n_keys * LEAST_KEY_BYTES > left(c))
        return bad(c, 16, "the number of keys, %llu, is more than the file can hold or than %d",
                   (unsigned long long)*n_keys, MOST_ENTRIES);
    return PLEAT_OK;
}

/* ---- metadata ---- */

static pleat_status read_array(cursor *c, gguf_value *v) {
    uint32_t element = 0;
    uint64_t n = 0;
    size_t start = c->at, bytes;
    pleat_status status = read_bytes(c, &element, 4, "an array");
    status = status ? status : read_bytes(c, &n, 8, "an array");
    if (status)
        return status;
    if (element == GGUF_ARRAY)
        return bad(c, start, "%.*s is an array of arrays, which no model needs", (int)v->key.n, v->key.bytes);
    if (element > GGUF_F64)
        return bad(c, start, "%.*s is an array of the unknown type %u", (int)v->key.n, v->key.bytes, element);
    size_t least = element == GGUF_STRING ? 8 : gguf_type_bytes(element);
    if (__builtin_mul_overflow((size_t)n, least, &bytes) || bytes > left(c))
        return bad(c, start, "%.*s is said to have %llu elements, more than the %zu bytes left in the file can hold",
                   (int)v->key.n, v->key.bytes, (unsigned long long)n, left(c));
    v->element = element;
    v->n = (int64_t)n;
    v->data = c->file->map + c->at;
    if (element != GGUF_STRING) {
        c->at += bytes;
        return PLEAT_OK;
    }
    gguf_string unused;
    for (uint64_t i = 0; i < n && !status; i++)
        status = read_string(c, &unused, "a string of an array");
    return status;
}

static pleat_status read_value(cursor *c, gguf_value *v) {
    uint32_t type = 0;
    size_t start = c->at;
    pleat_status status = read_bytes(c, &type, 4, "the type of a value");
    if (status)
        return status;
    if (type > GGUF_F64)
        return bad(c, start, "%.*s is of the unknown type %u", (int)v->key.n, v->key.bytes, type);
    v->type = type;
    v->n = 1;
    if (type == GGUF_ARRAY)
        return read_array(c, v);
    if (type == GGUF_STRING) {
        gguf_string s = {0};
        status = read_string(c, &s, "a string");
        if (status)
            return status;
        v->data = (const uint8_t *)s.bytes;
        v->string_bytes = s.n;
        return PLEAT_OK;
    }
    v->data = c->file->map + c->at;
    if (left(c) < gguf_type_bytes(v->type))
        return bad(c, start, "the file ends inside the value of %.*s", (int)v->key.n, v->key.bytes);
    c->at += gguf_type_bytes(v->type);
    if (type == GGUF_BOOL && *v->data > 1)
        return bad(c, start, "%.*s is a truth value of %u", (int)v->key.n, v->key.bytes, *v->data);
    return PLEAT_OK;
}

static int key_order(const void *a, const void *b, void *file) {
    const gguf_value *key = ((const gguf *)file)->key;
    return gguf_string_compare(key[*(const int *)a].key, key[*(const int *)b].key);
}

static int tensor_order(const void *a, const void *b, void *file) {
    const gguf_tensor *tensor = ((const gguf *)file)->tensor;
    return gguf_string_compare(tensor[*(const int *)a].name, tensor[*(const int *)b].name);
}

static void sort_index(gguf *file, int *order, int n, int (*compare)(const void *, const void *, void *)) {
    for (int i = 0; i < n; i++)
        order[i] = i;
    qsort_r(order, (size_t)n, sizeof(*order), compare, file);
}

static pleat_status read_keys(cursor *c, int n_keys) {
    gguf *file = c->file;
    for (int i = 0; i < n_keys; i++) {
        gguf_value *v = &file->key[i];
        v->offset = c->at;
        pleat_status status = read_name(c, &v->key, MOST_KEY_BYTES, "a key");
        status = status ? status : read_value(c, v);
        if (status)
            return status;
    }
    file->n_keys = n_keys;
    sort_index(file, file->key_order, n_keys, key_order);
    for (int i = 1; i < n_keys; i++) {
        const gguf_value *a = &file->key[file->key_order[i - 1]], *b = &file->key[file->key_order[i]];
        if (!gguf_string_compare(a->key, b->key))
            return bad(c, a->offset > b->offset ? a->offset : b->offset, "the key %.*s stands in the file twice",
                       (int)(b->key.n < 80 ? b->key.n : 80), b->key.bytes);
    }
    return PLEAT_OK;
}

static pleat_status check_keys(cursor *c) {
    c->file->alignment = DEFAULT_ALIGNMENT;
    const gguf_value *v = gguf_value_find(c->file, "general.alignment");
    if (v) {
        if (v->type != GGUF_U32)
            return bad(c, v->offset, "general.alignment is of type %s; it must be u32", gguf_type_name(v->type));
        memcpy(&c->file->alignment, v->data, 4);
        uint32_t a = c->file->alignment;
        if (a < 8 || a > MOST_ALIGNMENT || (a & (a - 1)))
            return bad(c, v->offset, "general.alignment is %u; a power of two between 8 and %d is expected", a,
                       MOST_ALIGNMENT);
    }
    int64_t n_parts = 1;
    bool found;
    pleat_status status = gguf_get_int(c->file, "split.count", 0, INT64_MAX, &n_parts, &found, c->error);
    if (!status && n_parts > 1)
        return gguf_refuse(c->file, "split.count", c->error,
                           "split.count: this is one of %lld parts of a model; join the parts first",
                           (long long)n_parts);
    return status;
}

/* ---- tensors ---- */

static pleat_status read_shape(cursor *c, gguf_tensor *t, const char *name) {
    uint32_t n_dims = 0, type = 0;
    uint64_t ne = 0;
    size_t start = c->at;
    pleat_status status = read_bytes(c, &n_dims, 4, "a tensor's shape");
    if (status)
        return status;
    if (n_dims < 1 || n_dims > 4)
        return bad(c, start, "tensor %s has %u dimensions; 1 to 4 are possible", name, n_dims);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < 4; i++)
        t->ne[i] = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        status = read_bytes(c, &ne, 8, "a tensor's shape");
        if (status)
            return status;
        if (ne < 1 || ne > INT64_MAX)
            return bad(c, c->at - 8, "tensor %s: dimension %u is %lld", name, i, (long long)ne);
        t->ne[i] = (int64_t)ne;
    }
    status = read_bytes(c, &type, 4, "a tensor's type");
    if (status)
        return status;
    const block_traits *traits = block_traits_of(type);
    if (!traits->name)
        return bad(
            c, c->at - 4,
            "tensor %s is of type %u; known are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K",
            name, type);
    t->type = (block_type)type;
    int64_t n;
    bool wraps = __builtin_mul_overflow(t->ne[0], t->ne[1], &n) || __builtin_mul_overflow(n, t->ne[2], &n) ||
                 __builtin_mul_overflow(n, t->ne[3], &n);
    if (wraps)
        return bad(c, start, "tensor %s: the product of its dimensions overflows", name);
    if (t->ne[0] % traits->elements)
        return bad(c, start, "tensor %s: rows of %lld elements are no whole blocks of %s (%d)", name,
                   (long long)t->ne[0], traits->name, traits->elements);
    if (__builtin_mul_overflow((size_t)(n / traits->elements), (size_t)traits->bytes, &t->bytes))
        return bad(c, start, "tensor %s: its size in bytes overflows", name);
    return PLEAT_OK;
}

/* end: where the padded tensor before it ended, counted from the data's start; this one must begin there, which leaves
 * no room for overlaps, gaps and an alignment that is not the one of the layout. */
static pleat_status read_tensor(cursor *c, gguf_tensor *t, uint64_t *end) {
    char name[MOST_NAME_BYTES + 1];
    uint64_t offset = 0;
    pleat_status status = read_name(c, &t->name, MOST_NAME_BYTES, "a tensor's name");
    if (status)
        return status;
    snprintf(name, sizeof(name), "%.*s", (int)t->name.n, t->name.bytes);
    status = read_shape(c, t, name);
    status = status ? status : read_bytes(c, &offset, 8, "a tensor's offset");
    if (status)
        return status;
    if (offset != *end)
        return bad(c, c->at - 8, "tensor %s: offset %llu; it must be %llu, where the padded tensor before it ends",
                   name, (unsigned long long)offset, (unsigned long long)*end);
    uint64_t mask = c->file->alignment - 1;
    if (__builtin_add_overflow(offset, (uint64_t)t->bytes, end) || __builtin_add_overflow(*end, mask, end))
        return bad(c, c->at - 8, "tensor %s: offset %llu plus %zu bytes overflows", name, (unsigned long long)offset,
                   t->bytes);
    *end &= ~mask;
    t->file_offset = offset; /* from the data's start, until that is known */
    return PLEAT_OK;
}

static pleat_status place_tensors(cursor *c) {
    gguf *file = c->file;
    size_t align = file->alignment, start = (c->at + align - 1) / align * align;
    for (int i = 0; i < file->n_tensors; i++) {
        gguf_tensor *t = &file->tensor[i];
        uint64_t room = start > file->bytes ? 0 : file->bytes - start;
        if (t->file_offset > room || t->bytes > room - t->file_offset)
            return bad(
                c, start, "tensor %.*s needs %zu bytes at offset %llu of the data; the file has %llu bytes of data",
                (int)t->name.n, t->name.bytes, t->bytes, (unsigned long long)t->file_offset, (unsigned long long)room);
        t->file_offset += start;
        t->data = file->map + t->file_offset;
    }
    return PLEAT_OK;
}

static pleat_status read_tensors(cursor *c, int n_tensors) {
    gguf *file = c->file;
    uint64_t end = 0;
    for (int i = 0; i < n_tensors; i++) {
        pleat_status status = read_tensor(c, &file->tensor[i], &end);
        if (status)
            return status;
    }
    file->n_tensors = n_tensors;
    sort_index(file, file->tensor_order, n_tensors, tensor_order);
    for (int i = 1; i < n_tensors; i++) {
        const gguf_tensor *a = &file->tensor[file->tensor_order[i - 1]], *b = &file->tensor[file->tensor_order[i]];
        if (!gguf_string_compare(a->name, b->name))
            return bad(c,
                       (size_t)((const uint8_t *)(a->name.bytes > b->name.bytes ? a : b)->name.bytes - file->map) - 8,
                       "the tensor %.*s stands in the file twice", (int)b->name.n, b->name.bytes);
    }
    return place_tensors(c);
}

/* ---- opening ---- */

static pleat_status read_index(gguf *file, pleat_error *error) {
    cursor c = {.file = file, .error = error};
    uint64_t n_tensors = 0, n_keys = 0;
    pleat_status status = read_head(&c, &n_tensors, &n_keys);
    if (status)
        return status;
    file->key = calloc(n_keys + 1, sizeof(*file->key));
    file->tensor = calloc(n_tensors + 1, sizeof(*file->tensor));
    file->key_order = calloc(n_keys + 1, sizeof(*file->key_order));
    file->tensor_order = calloc(n_tensors + 1, sizeof(*file->tensor_order));
    if (!file->key || !file->tensor || !file->key_order || !file->tensor_order)
        return err_set(error, PLEAT_EMEMORY, "%s: no memory for an index of %llu tensors and %llu keys", file->path,
                       (unsigned long long)n_tensors, (unsigned long long)n_keys);
    status = read_keys(&c, (int)n_keys);
    status = status ? status : check_keys(&c);
    return status ? status : read_tensors(&c, (int)n_tensors);
}

static pleat_status map_file(gguf *file, pleat_error *error) {
    struct stat info;
    int fd = open(file->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO without a writer must not hang */
    if (fd < 0)
        return err_set(error, PLEAT_EIO, "%.200s: cannot be opened: %s", file->path, strerror(errno));
    pleat_status status = PLEAT_OK;
    if (fstat(fd, &info))
        status = err_set(error, PLEAT_EIO, "%.200s: %s", file->path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = err_set(error, PLEAT_EIO, "%.200s: is not a regular file", file->path);
    else if (info.st_size == 0)
        status = err_set(error, PLEAT_EINPUT, "%.200s: byte 0: the file is empty", file->path);
    if (!status) {
        file->bytes = (size_t)info.st_size;
        void *map = mmap(NULL, file->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
            status = err_set(error, PLEAT_EIO, "%.200s: cannot be mapped: %s", file->path, strerror(errno));
        else
            file->map = map;
    }
    close(fd);
    return status;
}

pleat_status gguf_open(const char *path, gguf **out, pleat_error *error) {
    gguf *file = calloc(1, sizeof(*file));
    if (file)
        file->path = strdup(path);
    if (!file || !file->path) {
        free(file);
        return err_set(error, PLEAT_EMEMORY, "no memory to open %.200s", path);
    }
    pleat_status status = map_file(file, error);
    status = status ? status : read_index(file, error);
    if (status) {
        gguf_close(file);
        return status;
    }
    *out = file;
    return PLEAT_OK;
}

void gguf_close(gguf *file) {
    if (!file)
        return;
    if (file->map)
        munmap((void *)file->map, file->bytes);
    free(file->key);
    free(file->tensor);
    free(file->key_order);
    free(file->tensor_order);
    free(file->path);
    free(file);
}

const char *gguf_path(const gguf *file) {
    return file->path;
}

size_t gguf_file_bytes(const gguf *file) {
    return file->bytes;
}

void gguf_let_go(const gguf *file) {
    madvise((void *)file->map, file->bytes, MADV_DONTNEED);
}

int gguf_n_tensors(const gguf *file) {
    return file->n_tensors;
}

const gguf_tensor *gguf_tensor_at(const gguf *file, int index) {
    return &file->tensor[index];
}

const gguf_tensor *gguf_tensor_find(const gguf *file, const char *name) {
    gguf_string wanted = {.bytes = name, .n = strlen(name)};
    int low = 0, high = file->n_tensors;
    while (low < high) {
        int middle = low + (high - low) / 2;
        const gguf_tensor *t = &file->tensor[file->tensor_order[middle]];
        int order = gguf_string_compare(t->name, wanted);
        if (order == 0)
            return t;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
