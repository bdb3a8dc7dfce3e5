/* book_avx2.c - attention products over KV tiles of codes into a table, and of 8-bit floats.
 *
 * As tile_avx2.c: a tile is swept twice, 16 elements wide, 6 rows at a time. vpermps has tables of 8 and looks at the
 * low 3 bits of each lane: a table of 16 is two of them and a blend by bit 3, the upper bit of 3-bit codes is put in
 * its place. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include <string.h>

enum { ROWS = 6, HALF = 16 };
#include "cpu/x86/tile_rows.h"

typedef struct tables {
    __m256 low, high;
} tables;

INLINE tables tables_of(book_type type, const float *book) {
    tables t = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    if (type == BOOK_2)
        t.low = _mm256_broadcast_ps((const __m128 *)book);
    if (type == BOOK_3 || type == BOOK_4)
        t.low = _mm256_loadu_ps(book);
    if (type == BOOK_4)
        t.high = _mm256_loadu_ps(book + 8);
    return t;
}

INLINE __m256i eight_bytes(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

INLINE __m256 eight_halves(const uint8_t *p) {
    __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(128)), 8);
    __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(127)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256));
}

/* Elements 16 half + 8 k .. +7 of a tile row. */
INLINE __m256 open_eight(book_type type, const uint8_t *x, const tables *t, int half, int k) {
    if (type == BOOK_E4M3)
        return eight_halves(x + half * 16 + k * 8);
    if (type == BOOK_4) {
        __m256i index = eight_bytes(x + k * 8);
        if (half)
            index = _mm256_srli_epi32(index, 4);
        __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t->low, index), _mm256_permutevar8x32_ps(t->high, index),
                                upper);
    }
    __m256i index = _mm256_srli_epi32(eight_bytes(x), half * 4 + k * 2);
    if (type == BOOK_3) {
        const __m256i bit = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i upper = _mm256_srlv_epi32(_mm256_set1_epi32(x[8 + half * 2 + k]), bit);
        upper = _mm256_slli_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), 2);
        index = _mm256_or_si256(_mm256_and_si256(index, _mm256_set1_epi32(3)), upper);
    }
    return _mm256_permutevar8x32_ps(t->low, index);
}

INLINE void rows_half(book_type type, int n_rows, int half, const float *a, size_t lda, const uint8_t *x, int n,
                      float *out, size_t ldo, const char *prefetch, const float *book) {
    const size_t bytes = type == BOOK_E4M3 ? 32 : type == BOOK_4 ? 16 : type == BOOK_3 ? 12 : 8;
    tables t = tables_of(type, book);
    __m256 acc[ROWS][2];
    out += half * HALF;
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < 2; k++)
            acc[r][k] = _mm256_loadu_ps(out + (size_t)r * ldo + k * 8);
    for (int i = 0; i < n; i++) {
        __m256 v[2];
        fetch_row(prefetch, i, bytes);
        for (int k = 0; k < 2; k++)
            v[k] = open_eight(type, x + (size_t)i * bytes, &t, half, k);
        for (int r = 0; r < n_rows; r++) {
            __m256 c = _mm256_set1_ps(a[(size_t)r * lda + (size_t)i]);
            acc[r][0] = _mm256_fmadd_ps(c, v[0], acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(c, v[1], acc[r][1]);
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < 2; k++)
            _mm256_storeu_ps(out + (size_t)r * ldo + k * 8, acc[r][k]);
}

INLINE void rows(book_type type, int n_rows, const float *a, size_t lda, const uint8_t *x, int n, float *out,
                 size_t ldo, const char *prefetch, const float *book) {
    rows_half(type, n_rows, 0, a, lda, x, n, out, ldo, prefetch, book);
    rows_half(type, n_rows, 1, a, lda, x, n, out, ldo, NULL, book);
}

ROWS_BLOCKS(6, twos, BOOK_2)
ROWS_BLOCKS(6, threes, BOOK_3)
ROWS_BLOCKS(6, fours, BOOK_4)
ROWS_BLOCKS(6, floats, BOOK_E4M3)

BOOK_KERNEL(two, twos)
BOOK_KERNEL(three, threes)
BOOK_KERNEL(four, fours)
BOOK_KERNEL(e4m3, floats)

void book_avx2_fill(cpu_kernels *k) {
    k->book[BOOK_2] = book_two;
    k->book[BOOK_3] = book_three;
    k->book[BOOK_4] = book_four;
    k->book[BOOK_E4M3] = book_e4m3;
}
#endif
