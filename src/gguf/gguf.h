/* gguf.h - a GGUF file (v2, v3), mapped read-only, every count, size, offset, type and name checked before use.
 *
 * Owns the mapping and an index of metadata and tensors. Knows nothing of architectures. After gguf_open has said
 * PLEAT_OK every pointer handed out lies inside the file; nothing was allocated beyond the file's size plus a fixed
 * margin. */
#ifndef GGUF_GGUF_H
#define GGUF_GGUF_H
#include "pleat.h"
#include "cpu/blocks.h" /* block_type */

typedef enum gguf_type { /* the file's own numbers */
                         GGUF_U8,
                         GGUF_I8,
                         GGUF_U16,
                         GGUF_I16,
                         GGUF_U32,
                         GGUF_I32,
                         GGUF_F32,
                         GGUF_BOOL,
                         GGUF_STRING,
                         GGUF_ARRAY,
                         GGUF_U64,
                         GGUF_I64,
                         GGUF_F64,
} gguf_type;

typedef struct gguf_string {
    const char *bytes; /* inside the mapping, not ended by 0 */
    size_t n;
} gguf_string;

typedef struct gguf_tensor {
    gguf_string name;
    block_type type;
    int n_dims;
    int64_t ne[4]; /* ne[0]: elements of a row, contiguous; unused ones are 1 */
    const uint8_t *data;
    size_t bytes;
    uint64_t file_offset; /* of data, for error sentences */
} gguf_tensor;

typedef struct gguf gguf;

/* PLEAT_EINPUT (file, field, byte offset, reason), PLEAT_EIO (not a regular file, unreadable), PLEAT_EMEMORY. */
pleat_status gguf_open(const char *path, gguf **out, pleat_error *error);
void gguf_close(gguf *file);
const char *gguf_path(const gguf *file);
size_t gguf_file_bytes(const gguf *file);
/* What was read of the file leaves this process's memory; what is read again comes back. */
void gguf_let_go(const gguf *file);

int gguf_n_tensors(const gguf *file);
const gguf_tensor *gguf_tensor_at(const gguf *file, int index);
const gguf_tensor *gguf_tensor_find(const gguf *file, const char *name); /* NULL: not there */

/* PLEAT_EINPUT with "FILE: byte N: SENTENCE", N being where the key or tensor `field` stands (left out when the file
 * has neither): how everything that reads a model file says what is wrong in it. */
pleat_status gguf_refuse(const gguf *file, const char *field, pleat_error *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Metadata, in file order, for printing. */
int gguf_n_keys(const gguf *file);
gguf_string gguf_key_at(const gguf *file, int index, gguf_type *type);
/* Value as text for a person (arrays: type, length and the first few), at most cap - 1 bytes; returns out. */
const char *gguf_value_text(const gguf *file, int index, char *out, size_t cap);

/* Typed look-ups. found = false and PLEAT_OK when the key is not there (*value untouched); PLEAT_EINPUT when it is
 * there with another type or out of [low, high]. Integers of any width and sign are accepted where they fit. */
pleat_status gguf_get_int(const gguf *file, const char *key, int64_t low, int64_t high, int64_t *value, bool *found,
                          pleat_error *error);
pleat_status gguf_get_float(const gguf *file, const char *key, double *value, bool *found, pleat_error *error);
pleat_status gguf_get_bool(const gguf *file, const char *key, bool *value, bool *found, pleat_error *error);
pleat_status gguf_get_string(const gguf *file, const char *key, gguf_string *value, bool *found, pleat_error *error);

typedef struct gguf_array {
    gguf_type type; /* of the elements; never GGUF_ARRAY (nested arrays are refused at open) */
    int64_t n;
    const uint8_t *data; /* fixed-size elements, unaligned; strings: use gguf_array_strings */
} gguf_array;
bool gguf_is_array(const gguf *file, const char *key); /* false also when it is not there */
pleat_status gguf_get_array(const gguf *file, const char *key, gguf_array *value, bool *found, pleat_error *error);
/* Integers and floats of any width from an array. */
int64_t gguf_array_int(const gguf_array *array, int64_t index);
double gguf_array_float(const gguf_array *array, int64_t index);
/* All strings of a string array, by one walk: strings [n], caller's. */
void gguf_array_strings(const gguf_array *array, gguf_string *strings);
#endif
