/* gguf_writer.h - tests: builds a GGUF file in memory, well-formed or deliberately not.
 *
 * Everything is copied when it is added. Running out of memory ends the test program. A well-formed file needs only the
 * first half; the functions under "forging" write whatever they are told. */
#ifndef SUPPORT_GGUF_WRITER_H
#define SUPPORT_GGUF_WRITER_H
#include "gguf/gguf.h"

typedef struct gguf_writer gguf_writer;

/* version 2 or 3 (others for forging); alignment 32 until told otherwise. */
gguf_writer *gguf_writer_open(uint32_t version);
void gguf_writer_close(gguf_writer *w);

/* ---- metadata, in the order of the calls ---- */

/* Any integer type (GGUF_U8 to GGUF_I64, not float), cut to its width. */
void gguf_writer_int(gguf_writer *w, const char *key, gguf_type type, int64_t value);
void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t value);
void gguf_writer_f32(gguf_writer *w, const char *key, float value);
void gguf_writer_f64(gguf_writer *w, const char *key, double value);
void gguf_writer_bool(gguf_writer *w, const char *key, bool value);
void gguf_writer_string(gguf_writer *w, const char *key, const char *value);
/* data [n] elements of a fixed-size type, as they stand in memory. */
void gguf_writer_array(gguf_writer *w, const char *key, gguf_type type, const void *data, uint64_t n);
void gguf_writer_strings(gguf_writer *w, const char *key, const char *const *strings, uint64_t n);
/* Writes general.alignment and lays tensors out by it. */
void gguf_writer_alignment(gguf_writer *w, uint32_t alignment);

/* ---- tensors, in the order of the calls ---- */

/* data: the product of ne [n_dims] floats, row-major, quantised to type. ne[0] is a multiple of the type's block. */
void gguf_writer_tensor(gguf_writer *w, const char *name, block_type type, int n_dims, const int64_t *ne,
                        const float *data);
/* The same with the block bytes given. */
void gguf_writer_tensor_bytes(gguf_writer *w, const char *name, block_type type, int n_dims, const int64_t *ne,
                              const void *bytes, size_t n);

/* ---- the file ---- */

/* The whole file, malloc'ed, the caller frees. *header_bytes (may be NULL): where the padding before the data begins.
 */
uint8_t *gguf_writer_image(const gguf_writer *w, size_t *n, size_t *header_bytes);
/* false: the file could not be written (nothing is left behind). */
bool gguf_writer_save(const gguf_writer *w, const char *path);

/* ---- forging ---- */

/* A key of key_bytes bytes, said to be said_bytes long, a value type, and value_bytes raw bytes after it. */
void gguf_writer_raw(gguf_writer *w, const char *key, size_t key_bytes, uint64_t said_bytes, uint32_t type,
                     const void *value, size_t value_bytes);

typedef struct gguf_writer_entry { /* one tensor's entry as it will stand in the file */
    const char *name;
    size_t name_bytes;
    uint32_t n_dims, type;
    uint64_t ne[8];  /* the first n_dims (at most 8) are written */
    uint64_t offset; /* from the start of the data */
} gguf_writer_entry;
/* An entry without data. */
void gguf_writer_entry_raw(gguf_writer *w, const gguf_writer_entry *entry);
/* n zero bytes at the end of the data section. */
void gguf_writer_pad(gguf_writer *w, size_t n);
/* Overwrite the two counts of the file's head. */
void gguf_writer_say_tensors(gguf_writer *w, uint64_t n);
void gguf_writer_say_keys(gguf_writer *w, uint64_t n);
/* Lay data out by this alignment without saying so. */
void gguf_writer_layout(gguf_writer *w, uint32_t alignment);
#endif
