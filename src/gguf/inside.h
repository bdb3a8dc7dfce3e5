/* inside.h - the structs of an open GGUF file; for the files of this folder only. */
#ifndef GGUF_INSIDE_H
#define GGUF_INSIDE_H
#include "gguf/gguf.h"

typedef struct gguf_value {
    gguf_string key;
    gguf_type type;
    gguf_type element;   /* of an array */
    int64_t n;           /* elements of an array, else 1 */
    const uint8_t *data; /* the value's bytes; a string's and an array's after their lengths */
    size_t string_bytes; /* of a string */
    size_t offset;       /* of the key in the file, for sentences */
} gguf_value;

struct gguf {
    char *path;
    const uint8_t *map;
    size_t bytes;
    uint32_t version, alignment;
    gguf_value *key;
    int n_keys;
    gguf_tensor *tensor;
    int n_tensors;
    int *key_order, *tensor_order; /* by name */
};

/* As gguf_refuse, at a known byte. */
pleat_status gguf_refuse_at(const gguf *file, size_t at, pleat_error *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Bytes of one element; 0 for strings and arrays. */
size_t gguf_type_bytes(gguf_type type);
const char *gguf_type_name(gguf_type type);
int gguf_string_compare(gguf_string a, gguf_string b);
/* NULL: not there. */
const gguf_value *gguf_value_find(const gguf *file, const char *key);
#endif
