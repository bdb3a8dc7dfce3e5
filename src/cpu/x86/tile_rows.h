/* tile_rows.h - what the products over tile rows share (tile_*.c): a function for each number of rows of a block, and
 * the walk over more rows than one block has.
 *
 * The including file defines before it ROWS, the most rows of a block (6 or 8), and after it
 *   rows(type, n_rows, a, lda, x, n, out, ldo, prefetch)
 * for one block; type, whatever the file calls it, and n_rows are constant in it. */
#ifndef CPU_X86_TILE_ROWS_H
#define CPU_X86_TILE_ROWS_H
#include "cpu/inline.h"
#include "cpu/kernels.h"
#include <immintrin.h>

/* Asks for one line every 64 bytes of rows of so many bytes. */
INLINE void fetch_row(const char *prefetch, int i, size_t bytes) {
    if (prefetch && (size_t)i * bytes % 64 < bytes)
        _mm_prefetch(prefetch + (size_t)i * bytes, _MM_HINT_T1);
}

typedef void (*rows_function)(const float *a, size_t lda, const uint8_t *x, int n, float *out, size_t ldo,
                              const char *prefetch);

/* block: for 1 to ROWS rows. The first sweep over x asks for all of what comes next. */
INLINE void all_rows(const rows_function *block, const float *a, size_t lda, int n_rows, const void *x, int n,
                     float *out, size_t ldo, const void *prefetch) {
    for (int r = 0; r < n_rows; r += ROWS) {
        int now = n_rows - r < ROWS ? n_rows - r : ROWS;
        block[now - 1](a + (size_t)r * lda, lda, x, n, out + (size_t)r * ldo, ldo, r ? NULL : prefetch);
    }
}

#define ROWS_FUNCTION(name, type, r)                                                                                   \
    static void name##_##r(const float *a, size_t lda, const uint8_t *x, int n, float *out, size_t ldo,                \
                           const char *prefetch) {                                                                     \
        rows(type, r, a, lda, x, n, out, ldo, prefetch);                                                               \
    }
#define ROWS_FUNCTIONS_6(name, type)                                                                                   \
    ROWS_FUNCTION(name, type, 1)                                                                                       \
    ROWS_FUNCTION(name, type, 2)                                                                                       \
    ROWS_FUNCTION(name, type, 3)                                                                                       \
    ROWS_FUNCTION(name, type, 4)                                                                                       \
    ROWS_FUNCTION(name, type, 5)                                                                                       \
    ROWS_FUNCTION(name, type, 6)
#define ROWS_FUNCTIONS_8(name, type)                                                                                   \
    ROWS_FUNCTIONS_6(name, type)                                                                                       \
    ROWS_FUNCTION(name, type, 7)                                                                                       \
    ROWS_FUNCTION(name, type, 8)
#define ROWS_LIST_6(name) name##_1, name##_2, name##_3, name##_4, name##_5, name##_6
#define ROWS_LIST_8(name) ROWS_LIST_6(name), name##_7, name##_8

/* NAME, the blocks of a type; most: the file's ROWS. */
#define ROWS_BLOCKS(most, name, type)                                                                                  \
    _Static_assert((most) == ROWS, "what the file's blocks have room for");                                            \
    ROWS_FUNCTIONS_##most(name, type) static const rows_function name[ROWS] = {ROWS_LIST_##most(name)};
/* An entry of the table of kernels over such blocks. */
#define TILE_KERNEL(name, blocks)                                                                                      \
    static void tile_##name(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,      \
                            const void *prefetch) {                                                                    \
        all_rows(blocks, a, lda, n_rows, x, n, out, ldo, prefetch);                                                    \
    }
#endif
