/* tile_narrow_avx512.c - the products of tile_avx512.c for processors that work on 512-bit vectors in two passes
 * (Zen 4): there vcvtph2ps and the permutes of 512 bits cost more than two of 256 each.
 *
 * Up to 4 rows: all 32 elements of a tile row, 4 vectors, stand beside 4 x rows accumulators. 5 to 8 rows: the tile is
 * swept twice, 16 elements wide; the second sweep reads from L1. Pairs of bits are looked up in a table, twice: vpermps
 * looks at 3 bits. 8-bit floats are not here: they open no faster. A row's chain of fused multiply-adds is that of the
 * wide kernels, so their bits are equal. */
#include "cpu/fill.h"
#ifdef __x86_64__
enum { ROWS = 8, FEW = 4, LANES = 8, VECTORS = TILE / LANES };
#include "cpu/x86/tile_rows.h"

INLINE __m256i eight_bytes(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

/* Elements 8 k .. 8 k + 7 of a tile row. A pair has bits of other elements above its own. */
INLINE __m256 open_vector(tile_type type, const uint8_t *x, int k) {
    const __m256 code4 = _mm256_setr_ps(0, 1, 2, 3, 0, 1, 2, 3);
    if (type == TILE_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + k * 16)));
    return _mm256_permutexvar_ps(_mm256_srli_epi32(eight_bytes(x), 2 * k), code4);
}

/* Vectors first..first + wide - 1 of n_rows rows. */
INLINE void rows_of(tile_type type, int n_rows, int first, int wide, const float *a, size_t lda, const uint8_t *x,
                    int n, float *out, size_t ldo, const char *prefetch) {
    const size_t bytes = tile_row_bytes(type);
    __m256 acc[ROWS][VECTORS];
    out += first * LANES;
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < wide; k++)
            acc[r][k] = _mm256_loadu_ps(out + (size_t)r * ldo + k * LANES);
    for (int i = 0; i < n; i++) {
        __m256 v[VECTORS];
        fetch_row(prefetch, i, bytes);
        for (int k = 0; k < wide; k++)
            v[k] = open_vector(type, x + (size_t)i * bytes, first + k);
        for (int r = 0; r < n_rows; r++) {
            __m256 c = _mm256_set1_ps(a[(size_t)r * lda + (size_t)i]);
            for (int k = 0; k < wide; k++)
                acc[r][k] = _mm256_fmadd_ps(c, v[k], acc[r][k]);
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < wide; k++)
            _mm256_storeu_ps(out + (size_t)r * ldo + k * LANES, acc[r][k]);
}

INLINE void rows(tile_type type, int n_rows, const float *a, size_t lda, const uint8_t *x, int n, float *out,
                 size_t ldo, const char *prefetch) {
    if (n_rows <= FEW) {
        rows_of(type, n_rows, 0, VECTORS, a, lda, x, n, out, ldo, prefetch);
        return;
    }
    rows_of(type, n_rows, 0, VECTORS / 2, a, lda, x, n, out, ldo, prefetch);
    rows_of(type, n_rows, VECTORS / 2, VECTORS / 2, a, lda, x, n, out, ldo, NULL);
}

ROWS_BLOCKS(8, halves, TILE_F16)
ROWS_BLOCKS(8, pairs, TILE_U2)

TILE_KERNEL(f16, halves)
TILE_KERNEL(u2, pairs)

void tile_narrow_avx512_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
}
#endif
