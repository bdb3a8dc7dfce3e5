/* tile_portable.c - attention products over KV tiles in plain C: the definition that faster levels are tested against.
 *
 * Each tile row is opened to 32 floats once and then used by all query rows; out itself is the accumulator, so one
 * output element is a chain over rising i whatever n_rows is. */
#include "cpu/fill.h"

static void open_f16(const void *x, int i, float v[TILE]) {
    const f16 *p = (const f16 *)x + (size_t)i * TILE;
    for (int j = 0; j < TILE; j++)
        v[j] = f16_to_f32(p[j]);
}

static void open_u2(const void *x, int i, float v[TILE]) {
    const uint8_t *p = (const uint8_t *)x + (size_t)i * (TILE / 4);
    for (int j = 0; j < TILE; j++)
        v[j] = (float)(p[j % 8] >> (j / 8 * 2) & 3);
}

static void open_e4m3(const void *x, int i, float v[TILE]) {
    const uint8_t *p = (const uint8_t *)x + (size_t)i * TILE;
    for (int j = 0; j < TILE; j++)
        v[j] = e4m3_to_f32(p[j]);
}

static inline void tile(void (*open)(const void *, int, float *), int tile_bytes, const float *a, size_t lda,
                        int n_rows, const void *x, int n, float *out, size_t ldo, const void *prefetch) {
    for (int i = 0; i < n; i++) {
        float v[TILE];
        if (prefetch)
            __builtin_prefetch((const char *)prefetch + (size_t)i * (size_t)tile_bytes, 0, 2);
        open(x, i, v);
        for (int r = 0; r < n_rows; r++) {
            float c = a[(size_t)r * lda + (size_t)i], *o = out + (size_t)r * ldo;
            for (int j = 0; j < TILE; j++)
                o[j] += c * v[j];
        }
    }
}

static void tile_f16(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                     const void *prefetch) {
    tile(open_f16, 64, a, lda, n_rows, x, n, out, ldo, prefetch);
}

static void tile_u2(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                    const void *prefetch) {
    tile(open_u2, 8, a, lda, n_rows, x, n, out, ldo, prefetch);
}

static void tile_e4m3(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                      const void *prefetch) {
    tile(open_e4m3, 32, a, lda, n_rows, x, n, out, ldo, prefetch);
}

void tile_portable_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
    k->tile[TILE_E4M3] = tile_e4m3;
}
