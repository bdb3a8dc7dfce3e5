/* sparse_avx2.c - products with a sparse matrix.
 *
 * Where a term stands changes from term to term, but is the same for all rows: rows are laid side by side, [n][4 or 8],
 * and a term is one multiplication-addition of all of them. The sums begin at zero and are turned back at the end. A
 * row meets the same operations among 4 or 8, and rows that are missing are the first one again.
 *
 * Reads and writes of memory bound it, two a cycle on Zen 4, so values are read by fours and spread in registers. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/lanes_avx2.h"

/* Eight bytes at p. */
INLINE uint64_t word_of(const void *p) {
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

INLINE double double_of(const void *p) {
    double word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* ---- rows side by side ---- */

/* Columns of 4 x 4 floats become rows, in either half. */
INLINE void turn(__m256 v[4]) {
    __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1])), b = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3])), d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}

INLINE __m256 both(const float *low, const float *high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

/* y [n][4] = x [4][n] */
INLINE void open_4(const float *const x[4], int n, float *y) {
    for (int i = 0; i < n; i += 8) {
        __m256 v[4];
        for (int r = 0; r < 4; r++)
            v[r] = _mm256_loadu_ps(x[r] + i);
        turn(v);
        for (int k = 0; k < 2; k++) {
            _mm256_store_ps(y + 4 * i + 8 * k, _mm256_permute2f128_ps(v[2 * k], v[2 * k + 1], 0x20));
            _mm256_store_ps(y + 4 * i + 8 * k + 16, _mm256_permute2f128_ps(v[2 * k], v[2 * k + 1], 0x31));
        }
    }
}

INLINE void open_8(const float *const x[8], int n, float *y) {
    for (int i = 0; i < n; i += 4) {
        __m256 v[4];
        for (int r = 0; r < 4; r++)
            v[r] = both(x[r] + i, x[r + 4] + i);
        turn(v);
        for (int k = 0; k < 4; k++)
            _mm256_store_ps(y + 8 * (i + k), v[k]);
    }
}

/* out [n_rows][n] += y [n][4] */
INLINE void close_4(const float *y, int n, int n_rows, float *out) {
    for (int i = 0; i < n; i += 8) {
        __m256 v[4];
        for (int k = 0; k < 4; k++)
            v[k] = both(y + 4 * (i + k), y + 4 * (i + k + 4));
        turn(v);
        for (int r = 0; r < n_rows; r++)
            _mm256_storeu_ps(out + r * n + i, _mm256_add_ps(_mm256_loadu_ps(out + r * n + i), v[r]));
    }
}

INLINE void add_row_4(float *out, __m128 v) {
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), v));
}

INLINE void close_8(const float *y, int n, int n_rows, float *out) {
    for (int i = 0; i < n; i += 4) {
        __m256 v[4];
        for (int k = 0; k < 4; k++)
            v[k] = _mm256_load_ps(y + 8 * (i + k));
        turn(v);
        for (int r = 0; r < 4; r++) {
            add_row_4(out + r * n + i, _mm256_castps256_ps128(v[r]));
            if (r + 4 < n_rows)
                add_row_4(out + (r + 4) * n + i, _mm256_extractf128_ps(v[r], 1));
        }
    }
}

/* ---- terms of up to so many rows ---- */

/* Four values, in either half. */
INLINE __m128 four_4(const f16 *value) {
    return _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)value));
}

INLINE __m256 four_8(const f16 *value) {
    return _mm256_cvtph_ps(_mm_set1_epi64x((long long)word_of(value)));
}

/* Two floats, each twice, in either half. */
INLINE __m128 pairs_4(const float *x) {
    return _mm_permute_ps(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)x)), 0x50);
}

INLINE __m256 pairs_8(const float *x) {
    return _mm256_permute_ps(_mm256_castpd_ps(_mm256_set1_pd(double_of(x))), 0x50);
}

#define load_4(p)     _mm_load_ps(p)
#define load_8(p)     _mm256_load_ps(p)
#define store_4(p, v) _mm_store_ps(p, v)
#define store_8(p, v) _mm256_store_ps(p, v)
#define all_4(p)      _mm_broadcast_ss(p)
#define all_8(p)      _mm256_broadcast_ss(p)
#define one_4(v, i)   _mm_permute_ps(v, (i)*0x55)
#define one_8(v, i)   _mm256_permute_ps(v, (i)*0x55)
#define sub_4         _mm_sub_ps
#define sub_8         _mm256_sub_ps
#define fma_4         _mm_fmadd_ps
#define fma_8         _mm256_fmadd_ps

#define SPARSE(lanes, vector)                                                                                          \
    INLINE void add_##lanes(vector x, vector value, float *sum, size_t to) {                                           \
        store_##lanes(sum + lanes * to, fma_##lanes(x, value, load_##lanes(sum + lanes * to)));                        \
    }                                                                                                                  \
    INLINE void listed_one_##lanes(vector value, const float *less, size_t place, const float *x, float *sum) {        \
        size_t from = place & 255, to = place >> 8 & 255;                                                              \
        add_##lanes(load_##lanes(x + lanes * from), sub_##lanes(value, all_##lanes(less + from)), sum, to);            \
    }                                                                                                                  \
    /* Fours of terms in one group; returns how many terms. */                                                         \
    INLINE int listed_##lanes(const sparse_matrix *w, const float *x, float *sum) {                                    \
        int i = 0;                                                                                                     \
        for (; i + 4 <= w->n_terms; i += 4) {                                                                          \
            vector value = four_##lanes(w->value + i);                                                                 \
            uint64_t places = word_of(w->place + i);                                                                   \
            listed_one_##lanes(one_##lanes(value, 0), w->less, places, x, sum);                                        \
            listed_one_##lanes(one_##lanes(value, 1), w->less, places >> 16, x, sum);                                  \
            listed_one_##lanes(one_##lanes(value, 2), w->less, places >> 32, x, sum);                                  \
            listed_one_##lanes(one_##lanes(value, 3), w->less, places >> 48, x, sum);                                  \
        }                                                                                                              \
        return i;                                                                                                      \
    }                                                                                                                  \
    /* Two terms of each element of x. */                                                                              \
    INLINE int paired_##lanes(const sparse_matrix *w, const float *x, float *sum) {                                    \
        for (int k = 0; k < w->n; k += 2) {                                                                            \
            vector value = sub_##lanes(four_##lanes(w->value + 2 * k), pairs_##lanes(w->less + k));                    \
            vector at = load_##lanes(x + lanes * k), next = load_##lanes(x + lanes * k + lanes);                       \
            add_##lanes(at, one_##lanes(value, 0), sum, w->to[2 * k]);                                                 \
            add_##lanes(at, one_##lanes(value, 1), sum, w->to[2 * k + 1]);                                             \
            add_##lanes(next, one_##lanes(value, 2), sum, w->to[2 * k + 2]);                                           \
            add_##lanes(next, one_##lanes(value, 3), sum, w->to[2 * k + 3]);                                           \
        }                                                                                                              \
        return 2 * w->n;                                                                                               \
    }                                                                                                                  \
    INLINE void any_##lanes(const sparse_matrix *w, int i, const float *x, float *sum) {                               \
        int from = w->place ? w->place[i] & 255 : i / w->each, to = w->place ? w->place[i] >> 8 : w->to[i];            \
        float value = _cvtsh_ss(w->value[i]) - w->less[(to >> w->group_bits) * w->n + from];                           \
        add_##lanes(load_##lanes(x + lanes * from), all_##lanes(&value), sum, (size_t)to);                             \
    }                                                                                                                  \
    static void rows_##lanes(const sparse_matrix *w, const float *x, int n_rows, float *out) {                         \
        _Alignas(32) float turned[2 * SPARSE_MOST * lanes], *sum = turned + w->n * lanes;                              \
        const float *row[lanes];                                                                                       \
        bool one_group = 1 << w->group_bits >= w->m;                                                                   \
        int i = 0;                                                                                                     \
        for (int r = 0; r < lanes; r++)                                                                                \
            row[r] = r < n_rows ? x + r * w->n : x;                                                                    \
        open_##lanes(row, w->n, turned);                                                                               \
        for (int k = 0; k < w->m * lanes; k += 8)                                                                      \
            _mm256_store_ps(sum + k, _mm256_setzero_ps());                                                             \
        if (one_group && w->place)                                                                                     \
            i = listed_##lanes(w, turned, sum);                                                                        \
        else if (one_group && w->each == 2)                                                                            \
            i = paired_##lanes(w, turned, sum);                                                                        \
        for (; i < w->n_terms; i++)                                                                                    \
            any_##lanes(w, i, turned, sum);                                                                            \
        close_##lanes(sum, w->m, n_rows, out);                                                                         \
    }

SPARSE(4, __m128)
SPARSE(8, __m256)

static void sparse(const sparse_matrix *w, const float *x, int n_rows, float *out) {
    for (; n_rows > 4; n_rows -= 8, x += 8 * w->n, out += 8 * w->m)
        rows_8(w, x, n_rows < 8 ? n_rows : 8, out);
    if (n_rows > 0)
        rows_4(w, x, n_rows, out);
}

void sparse_avx2_fill(cpu_kernels *k) {
    k->sparse = sparse;
}
#endif
