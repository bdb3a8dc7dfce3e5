/* book_portable.c - attention products over KV tiles of codes into a table, and of 8-bit floats, in plain C: the
 * definition that faster levels are tested against. Order as in tile_portable.c. */
#include "cpu/fill.h"

static void open_2(const uint8_t *x, const float *book, float v[TILE]) {
    for (int j = 0; j < TILE; j++)
        v[j] = book[x[j % 8] >> (j / 8 * 2) & 3];
}

static void open_3(const uint8_t *x, const float *book, float v[TILE]) {
    for (int j = 0; j < TILE; j++)
        v[j] = book[(x[j % 8] >> (j / 8 * 2) & 3) | (x[8 + j / 8] >> (j % 8) & 1) << 2];
}

static void open_4(const uint8_t *x, const float *book, float v[TILE]) {
    for (int j = 0; j < TILE; j++)
        v[j] = book[j < TILE / 2 ? x[j] & 15 : x[j - TILE / 2] >> 4];
}

/* seeeemmm, bias 7, moved to the bits of a half, bias 15. */
static void open_e4m3(const uint8_t *x, const float *book, float v[TILE]) {
    (void)book;
    for (int j = 0; j < TILE; j++)
        v[j] = f16_to_f32((f16)((x[j] & 128) << 8 | (x[j] & 127) << 7)) * 256;
}

static inline void product(void (*open)(const uint8_t *, const float *, float *), int tile_bytes, const float *a,
                           size_t lda, int n_rows, const uint8_t *x, int n, float *out, size_t ldo,
                           const char *prefetch, const float *book) {
    for (int i = 0; i < n; i++) {
        float v[TILE];
        if (prefetch)
            __builtin_prefetch(prefetch + (size_t)i * (size_t)tile_bytes, 0, 2);
        open(x + (size_t)i * (size_t)tile_bytes, book, v);
        for (int r = 0; r < n_rows; r++) {
            float c = a[(size_t)r * lda + (size_t)i], *o = out + (size_t)r * ldo;
            for (int j = 0; j < TILE; j++)
                o[j] += c * v[j];
        }
    }
}

static void book_2(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                   const void *prefetch, const float *book) {
    product(open_2, 8, a, lda, n_rows, x, n, out, ldo, prefetch, book);
}

static void book_3(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                   const void *prefetch, const float *book) {
    product(open_3, 12, a, lda, n_rows, x, n, out, ldo, prefetch, book);
}

static void book_4(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                   const void *prefetch, const float *book) {
    product(open_4, 16, a, lda, n_rows, x, n, out, ldo, prefetch, book);
}

static void e4m3(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                 const void *prefetch, const float *book) {
    product(open_e4m3, 32, a, lda, n_rows, x, n, out, ldo, prefetch, book);
}

void book_portable_fill(cpu_kernels *k) {
    k->book[BOOK_2] = book_2;
    k->book[BOOK_3] = book_3;
    k->book[BOOK_4] = book_4;
    k->book[BOOK_E4M3] = e4m3;
}
