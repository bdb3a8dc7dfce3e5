/* fold_avx512.c - rows of floats to whole numbers in two planes of bytes.
 *
 * Four rows go together, so that their sums over lanes are taken by one transposition and their divisions by one
 * instruction. 64 elements at a time are packed to words, split, and packed to bytes; packing works inside 128-bit
 * lanes, a permutation of dwords per plane puts that right. A row meets the same operations in a block of 1 to 4 rows.
 */
#include "cpu/fill.h"
#ifdef __x86_64__
#include <immintrin.h>

enum { ROWS = 4 };

#define INLINE static inline __attribute__((always_inline))

/* Lane r of the result: what `op` makes of all lanes of v[r], in the same order for every r. */
#define ACROSS(name, vector, quarter, op, ps, quarter_of)                                                              \
    INLINE quarter name(const vector v[ROWS]) {                                                                        \
        __m512 ab[2] = {_mm512_unpacklo_ps(ps(v[0]), ps(v[1])), _mm512_unpackhi_ps(ps(v[0]), ps(v[1]))};               \
        __m512 cd[2] = {_mm512_unpacklo_ps(ps(v[2]), ps(v[3])), _mm512_unpackhi_ps(ps(v[2]), ps(v[3]))};               \
        __m512d low = _mm512_castps_pd(op(ab[0], ab[1])), high = _mm512_castps_pd(op(cd[0], cd[1]));                   \
        __m512 all =                                                                                                   \
            op(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));      \
        all = op(all, _mm512_shuffle_f32x4(all, all, 0x4e));                                                           \
        all = op(all, _mm512_shuffle_f32x4(all, all, 0xb1));                                                           \
        return quarter_of(all);                                                                                        \
    }
#define SAME(x)          (x)
#define ADD_WHOLE(a, b)  _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
#define QUARTER_WHOLE(x) _mm_castps_si128(_mm512_castps512_ps128(x))

ACROSS(most_of, __m512, __m128, _mm512_max_ps, SAME, _mm512_castps512_ps128)
ACROSS(sum_of, __m512, __m128, _mm512_add_ps, SAME, _mm512_castps512_ps128)
ACROSS(whole_sum_of, __m512i, __m128i, ADD_WHOLE, _mm512_castsi512_ps, QUARTER_WHOLE)

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

/* scaled, shifted: there are a scale and a middle. */
INLINE void block(int n_rows, bool scaled, bool shifted, const float *x, size_t ldx, int n, const float *scale,
                  const float *middle, dot_row *rows) {
    _Alignas(64) float y[ROWS][DOT_MOST], to_number[4], unit[4], offset[4];
    int32_t sum[4];
    __m512 top[ROWS], shift[ROWS];
    __m512i whole[ROWS];
    for (int r = 0; r < ROWS; r++) {
        top[r] = shift[r] = _mm512_setzero_ps();
        whole[r] = _mm512_setzero_si512();
    }
    for (int i = 0; i < n; i += 16) {
        __m512 s = scaled ? _mm512_loadu_ps(scale + i) : _mm512_setzero_ps();
        __m512 m = shifted ? _mm512_loadu_ps(middle + i) : _mm512_setzero_ps();
        for (int r = 0; r < n_rows; r++) {
            __m512 v = _mm512_loadu_ps(x + (size_t)r * ldx + i), w = scaled ? _mm512_mul_ps(v, s) : v;
            if (shifted)
                shift[r] = _mm512_fmadd_ps(v, m, shift[r]);
            top[r] = _mm512_range_ps(top[r], w, 0xb); /* the larger magnitude */
            _mm512_store_ps(y[r] + i, w);
        }
    }
    __m128 most = most_of(top), enough = _mm_cmpge_ps(most, _mm_set1_ps(1e-30f)), limit = _mm_set1_ps(DOT_LIMIT);
    _mm_store_ps(to_number, _mm_and_ps(_mm_div_ps(limit, most), enough));
    _mm_store_ps(unit, _mm_and_ps(_mm_div_ps(most, limit), enough));
    _mm_store_ps(offset, sum_of(shift));
    for (int r = 0; r < n_rows; r++)
        whole[r] = store_row(y[r], n, to_number[r], &rows[r]);
    _mm_storeu_si128((__m128i *)sum, whole_sum_of(whole));
    for (int r = 0; r < n_rows; r++) {
        rows[r].unit = unit[r];
        rows[r].offset = offset[r];
        rows[r].sum = sum[r];
    }
}

#define FOLD(name, scaled, shifted)                                                                                    \
    static void name(const float *x, size_t ldx, int n_rows, int n, const float *scale, const float *middle,           \
                     dot_row *rows) {                                                                                  \
        int r = 0;                                                                                                     \
        for (; r + 4 <= n_rows; r += 4)                                                                                \
            block(4, scaled, shifted, x + (size_t)r * ldx, ldx, n, scale, middle, rows + r);                           \
        if (n_rows - r == 3)                                                                                           \
            block(3, scaled, shifted, x + (size_t)r * ldx, ldx, n, scale, middle, rows + r);                           \
        else if (n_rows - r == 2)                                                                                      \
            block(2, scaled, shifted, x + (size_t)r * ldx, ldx, n, scale, middle, rows + r);                           \
        else if (n_rows - r == 1)                                                                                      \
            block(1, scaled, shifted, x + (size_t)r * ldx, ldx, n, scale, middle, rows + r);                           \
    }

FOLD(fold_plain, false, false)
FOLD(fold_scaled, true, false)
FOLD(fold_shifted, false, true)
FOLD(fold_both, true, true)

static void fold(const float *x, size_t ldx, int n_rows, int n, const float *scale, const float *middle,
                 dot_row *rows) {
    if (scale && middle)
        fold_both(x, ldx, n_rows, n, scale, middle, rows);
    else if (scale)
        fold_scaled(x, ldx, n_rows, n, scale, middle, rows);
    else if (middle)
        fold_shifted(x, ldx, n_rows, n, scale, middle, rows);
    else
        fold_plain(x, ldx, n_rows, n, scale, middle, rows);
}

void fold_avx512_fill(cpu_kernels *k) {
    k->fold = fold;
}
#endif
