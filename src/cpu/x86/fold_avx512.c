/* fold_avx512.c - rows of floats to whole numbers in two planes of bytes.
 *
 * Four rows go together, so that their sums over lanes are taken by one transposition and their divisions by one
 * instruction. 64 elements at a time are packed to words, split, and packed to bytes; packing works inside 128-bit
 * lanes, a permutation of dwords per plane puts that right. A row meets the same operations in a block of 1 to 4 rows.
 */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/inline.h"
#include "cpu/x86/across_avx512.h"

enum { ROWS = 4 };

/* 64 numbers as two planes of bytes; returns their sums by lanes. */
INLINE __m512i store_64(const __m512i number[4], dot_row *row, int i) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i byte = _mm512_set1_epi16(255), half = _mm512_set1_epi16(128), one = _mm512_set1_epi16(1);
    __m512i a = _mm512_packs_epi32(number[0], number[1]), b = _mm512_packs_epi32(number[2], number[3]);
    __m512i low = _mm512_packus_epi16(_mm512_and_si512(a, byte), _mm512_and_si512(b, byte));
    __m512i high = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(a, half), 8),
                                      _mm512_srai_epi16(_mm512_add_epi16(b, half), 8));
    _mm512_store_si512(row->high + i, _mm512_permutexvar_epi32(order, high));
    _mm512_store_si512(row->low + i, _mm512_permutexvar_epi32(order, low));
    return _mm512_add_epi32(_mm512_madd_epi16(a, one), _mm512_madd_epi16(b, one));
}

INLINE void store_16(__m512i number, dot_row *row, int i) {
    __m512i high = _mm512_srai_epi32(_mm512_add_epi32(number, _mm512_set1_epi32(128)), 8);
    _mm_store_si128((__m128i *)(row->high + i), _mm512_cvtepi32_epi8(high));
    _mm_store_si128((__m128i *)(row->low + i), _mm512_cvtepi32_epi8(number));
}

INLINE __m512i number_of(const float *y, __m512 to_number) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(y), to_number));
}

INLINE __m512i store_row(const float *y, int n, float to_number, dot_row *row) {
    __m512 factor = _mm512_set1_ps(to_number);
    __m512i sum = _mm512_setzero_si512(), number[4];
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int k = 0; k < 4; k++)
            number[k] = number_of(y + i + 16 * k, factor);
        sum = _mm512_add_epi32(sum, store_64(number, row, i));
    }
    for (; i < n; i += 16) {
        number[0] = number_of(y + i, factor);
        sum = _mm512_add_epi32(sum, number[0]);
        store_16(number[0], row, i);
    }
    return sum;
}

typedef struct sums { /* of up to four rows over their elements, still by lanes */
    __m512 top[ROWS], shift[ROWS];
} sums;

/* y = x * scale of four vectors from element i on, and what they add to the sums of row r. */
INLINE void fold_64(const fold_item *item, int i, bool scaled, bool shifted, __m512 y[4], sums *s, int r) {
    for (int k = 0; k < 4; k++) {
        __m512 v = _mm512_loadu_ps(item->x + i + 16 * k);
        y[k] = scaled ? _mm512_mul_ps(v, _mm512_loadu_ps(item->scale + i + 16 * k)) : v;
        if (shifted)
            s->shift[r] = _mm512_fmadd_ps(v, _mm512_loadu_ps(item->middle + i + 16 * k), s->shift[r]);
        s->top[r] = _mm512_range_ps(s->top[r], y[k], 0xb); /* the larger magnitude */
    }
}

INLINE void fold_16(const fold_item *item, int i, bool scaled, bool shifted, float *y, sums *s, int r) {
    __m512 v = _mm512_loadu_ps(item->x + i), w = scaled ? _mm512_mul_ps(v, _mm512_loadu_ps(item->scale + i)) : v;
    if (shifted)
        s->shift[r] = _mm512_fmadd_ps(v, _mm512_loadu_ps(item->middle + i), s->shift[r]);
    s->top[r] = _mm512_range_ps(s->top[r], w, 0xb);
    _mm512_store_ps(y, w);
}

/* Units and offsets of the rows; factor: what makes numbers of y. */
INLINE void finish(int n_rows, const sums *s, float factor[ROWS], dot_row *rows) {
    _Alignas(16) float unit[ROWS], offset[ROWS];
    __m128 most = across_max(s->top), enough = _mm_cmpge_ps(most, _mm_set1_ps(1e-30f)), limit = _mm_set1_ps(DOT_LIMIT);
    _mm_store_ps(factor, _mm_and_ps(_mm_div_ps(limit, most), enough));
    _mm_store_ps(unit, _mm_and_ps(_mm_div_ps(most, limit), enough));
    _mm_store_ps(offset, across_sum(s->shift));
    for (int r = 0; r < n_rows; r++) {
        rows[r].unit = unit[r];
        rows[r].offset = offset[r];
    }
}

INLINE void finish_sums(int n_rows, const __m512i whole[ROWS], dot_row *rows) {
    _Alignas(16) int32_t sum[ROWS];
    __m512 seen[ROWS];
    for (int r = 0; r < ROWS; r++)
        seen[r] = _mm512_castsi512_ps(whole[r]);
    _mm_store_si128((__m128i *)sum, _mm_castps_si128(across_whole_sum(seen)));
    for (int r = 0; r < n_rows; r++)
        rows[r].sum = sum[r];
}

INLINE void block(int n_rows, bool scaled, bool shifted, const fold_item *items, int n, dot_row *rows) {
    _Alignas(64) float y[ROWS][DOT_MOST], factor[ROWS];
    sums s;
    __m512i whole[ROWS];
    for (int r = 0; r < ROWS; r++) {
        s.top[r] = s.shift[r] = _mm512_setzero_ps();
        whole[r] = _mm512_setzero_si512();
    }
    for (int i = 0; i < n; i += 16)
        for (int r = 0; r < n_rows; r++)
            fold_16(&items[r], i, scaled, shifted, y[r] + i, &s, r);
    finish(n_rows, &s, factor, rows);
    for (int r = 0; r < n_rows; r++)
        whole[r] = store_row(y[r], n, factor[r], &rows[r]);
    finish_sums(n_rows, whole, rows);
}

/* The same for rows of 64, which stay in registers. */
INLINE void block_64(int n_rows, bool scaled, bool shifted, const fold_item *items, dot_row *rows) {
    _Alignas(16) float factor[ROWS];
    __m512 y[ROWS][4];
    sums s;
    __m512i whole[ROWS];
    for (int r = 0; r < ROWS; r++) {
        s.top[r] = s.shift[r] = _mm512_setzero_ps();
        whole[r] = _mm512_setzero_si512();
    }
    for (int r = 0; r < n_rows; r++)
        fold_64(&items[r], 0, scaled, shifted, y[r], &s, r);
    finish(n_rows, &s, factor, rows);
    for (int r = 0; r < n_rows; r++) {
        __m512i number[4];
        for (int k = 0; k < 4; k++)
            number[k] = _mm512_cvtps_epi32(_mm512_mul_ps(y[r][k], _mm512_set1_ps(factor[r])));
        whole[r] = store_64(number, &rows[r], 0);
    }
    finish_sums(n_rows, whole, rows);
}

INLINE void blocks(int n_rows, bool scaled, bool shifted, const fold_item *items, int n, dot_row *rows) {
    if (n == 64)
        block_64(n_rows, scaled, shifted, items, rows);
    else
        block(n_rows, scaled, shifted, items, n, rows);
}

#define FOLD(name, scaled, shifted)                                                                                    \
    static void name(const fold_item *items, int n_items, int n, dot_row *rows) {                                      \
        for (; n_items >= ROWS; items += ROWS, rows += ROWS, n_items -= ROWS)                                          \
            blocks(ROWS, scaled, shifted, items, n, rows);                                                             \
        if (n_items == 3)                                                                                              \
            blocks(3, scaled, shifted, items, n, rows);                                                                \
        else if (n_items == 2)                                                                                         \
            blocks(2, scaled, shifted, items, n, rows);                                                                \
        else if (n_items == 1)                                                                                         \
            blocks(1, scaled, shifted, items, n, rows);                                                                \
    }

FOLD(fold_plain, false, false)
FOLD(fold_scaled, true, false)
FOLD(fold_shifted, false, true)
FOLD(fold_both, true, true)

static void fold(const fold_item *items, int n_items, int n, dot_row *rows) {
    static void (*const of[2][2])(const fold_item *, int, int, dot_row *) = {{fold_plain, fold_shifted},
                                                                             {fold_scaled, fold_both}};
    if (n_items > 0)
        of[items->scale != NULL][items->middle != NULL](items, n_items, n, rows);
}

void fold_avx512_fill(cpu_kernels *k) {
    k->fold = fold;
}
#endif
