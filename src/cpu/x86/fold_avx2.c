/* fold_avx2.c - rows of floats to whole numbers in two planes of bytes, 16 elements at a time. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/lanes_avx2.h"

INLINE __m256i number_of(const float *y, __m256 to_number) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(y), to_number));
}

/* 16 numbers, 8 in each of a and b. */
INLINE void store_16(__m256i a, __m256i b, dot_row *row, int i) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m256i low = _mm256_and_si256(words, _mm256_set1_epi16(255));
    __m256i high = _mm256_srai_epi16(_mm256_add_epi16(words, _mm256_set1_epi16(128)), 8);
    _mm_store_si128((__m128i *)(row->high + i),
                    _mm_packs_epi16(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
    _mm_store_si128((__m128i *)(row->low + i),
                    _mm_packus_epi16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

INLINE void fold_row(const float *x, int n, const float *scale, const float *middle, dot_row *row) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    _Alignas(32) float y[DOT_MOST];
    __m256 top = _mm256_setzero_ps(), offset = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i), w = v;
        if (scale)
            w = _mm256_mul_ps(v, _mm256_loadu_ps(scale + i));
        if (middle)
            offset = _mm256_fmadd_ps(v, _mm256_loadu_ps(middle + i), offset);
        top = _mm256_max_ps(top, _mm256_andnot_ps(sign, w));
        _mm256_store_ps(y + i, w);
    }
    float most = max8(top);
    bool none = most < 1e-30f;
    __m256 to_number = _mm256_set1_ps(none ? 0 : DOT_LIMIT / most);
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 16) {
        __m256i a = number_of(y + i, to_number), b = number_of(y + i + 8, to_number);
        sum = _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
        store_16(a, b, row, i);
    }
    row->unit = none ? 0 : most / DOT_LIMIT;
    row->offset = middle ? sum8(offset) : 0;
    row->sum = sum8_epi32(sum);
}

static void fold(const fold_item *items, int n_items, int n, dot_row *rows) {
    for (int r = 0; r < n_items; r++)
        fold_row(items[r].x, n, items[r].scale, items[r].middle, &rows[r]);
}

void fold_avx2_fill(cpu_kernels *k) {
    k->fold = fold;
}
#endif
