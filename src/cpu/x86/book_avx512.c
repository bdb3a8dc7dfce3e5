/* book_avx512.c - attention products over KV tiles of codes into a table, and of 8-bit floats.
 *
 * As tile_avx512.c: a tile row is opened once per block of 8 rows, each row is one chain of fused multiply-adds. A
 * table of 16 is one vpermps, which looks at the low 4 bits of each lane alone; tables of 4 are kept four times, so
 * that the bits above a pair do not matter. The upper bit of 3-bit codes is a mask that chooses between two tables
 * of 4. An e4m3 byte becomes a half with its exponent's bias 8 too low, which costs one multiplication. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include <string.h>

enum { ROWS = 8 };
#include "cpu/x86/tile_rows.h"

/* The table as vectors, made once per call. */
typedef struct tables {
    __m512 low, high;
} tables;

INLINE tables tables_of(book_type type, const float *book) {
    tables t = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    if (type == BOOK_4)
        t.low = _mm512_loadu_ps(book);
    if (type == BOOK_2 || type == BOOK_3)
        t.low = _mm512_broadcast_f32x4(_mm_loadu_ps(book));
    if (type == BOOK_3)
        t.high = _mm512_broadcast_f32x4(_mm_loadu_ps(book + 4));
    return t;
}

INLINE __m512 pairs(const uint8_t *x, __m512i shift, __m512 table, __m512i *index) {
    __m128i eight = _mm_loadl_epi64((const __m128i *)x);
    *index = _mm512_srlv_epi32(_mm512_cvtepu8_epi32(_mm_unpacklo_epi64(eight, eight)), shift);
    return _mm512_permutexvar_ps(*index, table);
}

INLINE __m512 halves(const uint8_t *x) {
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)x));
    __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(128)), 8);
    __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(127)), 7);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256));
}

/* Elements 0..15 and 16..31 of a tile row. */
INLINE void open_row(book_type type, const uint8_t *x, const tables *t, __m512 v[2]) {
    if (type == BOOK_E4M3) {
        v[0] = halves(x);
        v[1] = halves(x + 16);
    } else if (type == BOOK_4) {
        __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)x));
        v[0] = _mm512_permutexvar_ps(both, t->low);
        v[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), t->low);
    } else {
        const __m512i shift[2] = {_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2),
                                  _mm512_setr_epi32(4, 4, 4, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 6, 6)};
        uint32_t upper = 0;
        if (type == BOOK_3)
            memcpy(&upper, x + 8, sizeof(upper));
        for (int k = 0; k < 2; k++) {
            __m512i index;
            v[k] = pairs(x, shift[k], t->low, &index);
            if (type == BOOK_3)
                v[k] = _mm512_mask_permutexvar_ps(v[k], (__mmask16)(upper >> (16 * k)), index, t->high);
        }
    }
}

INLINE void rows(book_type type, int n_rows, const float *a, size_t lda, const uint8_t *x, int n, float *out,
                 size_t ldo, const char *prefetch, const float *book) {
    const size_t bytes = type == BOOK_E4M3 ? 32 : type == BOOK_4 ? 16 : type == BOOK_3 ? 12 : 8;
    tables t = tables_of(type, book);
    __m512 acc[ROWS][2];
    for (int r = 0; r < n_rows; r++) {
        acc[r][0] = _mm512_loadu_ps(out + (size_t)r * ldo);
        acc[r][1] = _mm512_loadu_ps(out + (size_t)r * ldo + 16);
    }
    for (int i = 0; i < n; i++) {
        __m512 v[2];
        fetch_row(prefetch, i, bytes);
        open_row(type, x + (size_t)i * bytes, &t, v);
        for (int r = 0; r < n_rows; r++) {
            __m512 c = _mm512_set1_ps(a[(size_t)r * lda + (size_t)i]);
            acc[r][0] = _mm512_fmadd_ps(c, v[0], acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(c, v[1], acc[r][1]);
        }
    }
    for (int r = 0; r < n_rows; r++) {
        _mm512_storeu_ps(out + (size_t)r * ldo, acc[r][0]);
        _mm512_storeu_ps(out + (size_t)r * ldo + 16, acc[r][1]);
    }
}

ROWS_BLOCKS(8, twos, BOOK_2)
ROWS_BLOCKS(8, threes, BOOK_3)
ROWS_BLOCKS(8, fours, BOOK_4)
ROWS_BLOCKS(8, floats, BOOK_E4M3)

BOOK_KERNEL(two, twos)
BOOK_KERNEL(three, threes)
BOOK_KERNEL(four, fours)
BOOK_KERNEL(e4m3, floats)

void book_avx512_fill(cpu_kernels *k) {
    k->book[BOOK_2] = book_two;
    k->book[BOOK_3] = book_three;
    k->book[BOOK_4] = book_four;
    k->book[BOOK_E4M3] = book_e4m3;
}
#endif
