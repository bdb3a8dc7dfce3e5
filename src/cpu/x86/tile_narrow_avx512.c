/* tile_narrow_avx512.c - the products of tile_avx512.c and book_avx512.c for processors that work on 512-bit vectors in
 * two passes (Zen 4): there vcvtph2ps and the permutes of 512 bits cost more than two of 256 each.
 *
 * Up to 4 rows: all 32 elements of a tile row, 4 vectors, stand beside 4 x rows accumulators. 5 to 8 rows: the tile is
 * swept twice, 16 elements wide; the second sweep reads from L1. Tables of 8 and less are one vpermps, whose index
 * looks at 3 bits alone, a table of 16 is one vpermt2ps. 8-bit floats are not here: they open no faster. A row's chain
 * of fused multiply-adds is that of the wide kernels, so their bits are equal. */
#include "cpu/fill.h"
#ifdef __x86_64__
enum { ROWS = 8, FEW = 4, LANES = 8, VECTORS = TILE / LANES };
#include "cpu/x86/tile_rows.h"

typedef enum kind { HALVES, PAIRS, THREES, NIBBLES } kind;

/* Pairs of bits as floats. */
static const float code4[4] = {0, 1, 2, 3};

INLINE size_t bytes_of(kind k) { /* of a tile row */
    return k == HALVES ? 64 : k == NIBBLES ? 16 : k == THREES ? 12 : 8;
}

typedef struct tables { /* made once per call */
    __m256 low, high;
} tables;

INLINE tables tables_of(kind k, const float *book) {
    tables t = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    if (k == NIBBLES)
        t = (tables){_mm256_loadu_ps(book), _mm256_loadu_ps(book + 8)};
    if (k == PAIRS || k == THREES)
        t.low = _mm256_broadcast_ps((const __m128 *)book);
    if (k == THREES)
        t.high = _mm256_broadcast_ps((const __m128 *)(book + 4));
    return t;
}

INLINE __m256i eight_bytes(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

/* Elements 8 k .. 8 k + 7 of a tile row. Fields may have bits of other elements above their own. */
INLINE __m256 open_vector(kind type, const uint8_t *x, int k, const tables *t) {
    if (type == HALVES)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + k * 16)));
    if (type == NIBBLES) {
        __m256i both = eight_bytes(x + k % 2 * LANES);
        return _mm256_permutex2var_ps(t->low, k < 2 ? both : _mm256_srli_epi32(both, 4), t->high);
    }
    __m256i index = _mm256_srli_epi32(eight_bytes(x), 2 * k);
    __m256 v = _mm256_permutexvar_ps(index, t->low);
    return type == THREES ? _mm256_mask_permutexvar_ps(v, (__mmask8)x[8 + k], index, t->high) : v;
}

/* Vectors first..first + wide - 1 of n_rows rows. */
INLINE void rows_of(kind type, int n_rows, int first, int wide, const float *a, size_t lda, const uint8_t *x, int n,
                    float *out, size_t ldo, const char *prefetch, const tables *t) {
    const size_t bytes = bytes_of(type);
    __m256 acc[ROWS][VECTORS];
    out += first * LANES;
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < wide; k++)
            acc[r][k] = _mm256_loadu_ps(out + (size_t)r * ldo + k * LANES);
    for (int i = 0; i < n; i++) {
        __m256 v[VECTORS];
        fetch_row(prefetch, i, bytes);
        for (int k = 0; k < wide; k++)
            v[k] = open_vector(type, x + (size_t)i * bytes, first + k, t);
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

INLINE void rows(kind type, int n_rows, const float *a, size_t lda, const uint8_t *x, int n, float *out, size_t ldo,
                 const char *prefetch, const float *book) {
    tables t = tables_of(type, book);
    if (n_rows <= FEW) {
        rows_of(type, n_rows, 0, VECTORS, a, lda, x, n, out, ldo, prefetch, &t);
        return;
    }
    rows_of(type, n_rows, 0, VECTORS / 2, a, lda, x, n, out, ldo, prefetch, &t);
    rows_of(type, n_rows, VECTORS / 2, VECTORS / 2, a, lda, x, n, out, ldo, NULL, &t);
}

ROWS_BLOCKS(8, halves, HALVES)
ROWS_BLOCKS(8, pairs, PAIRS)
ROWS_BLOCKS(8, threes, THREES)
ROWS_BLOCKS(8, nibbles, NIBBLES)

TILE_KERNEL(f16, halves, NULL)
TILE_KERNEL(u2, pairs, code4)
BOOK_KERNEL(two, pairs)
BOOK_KERNEL(three, threes)
BOOK_KERNEL(four, nibbles)

void tile_narrow_avx512_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
    k->book[BOOK_2] = book_two;
    k->book[BOOK_3] = book_three;
    k->book[BOOK_4] = book_four;
}
#endif
