/* tile_avx2.c - attention products over KV tiles.
 *
 * A tile is swept twice, 16 elements wide, so that 6 rows fit in 12 accumulators: the second sweep reads from L1, and
 * of pairs of bits a half is two planes. A row's chain of fused multiply-adds starts from out and is the same in a
 * block of 1 to 6 rows. */
#include "cpu/fill.h"
#ifdef __x86_64__
enum { ROWS = 6, HALF = 16 };
#include "cpu/x86/tile_rows.h"

INLINE __m256i eight_bytes(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

/* seeeemmm, bias 7, become halves with their exponent's bias 8 too low, which costs one multiplication. */
INLINE __m256 eight_e4m3(const uint8_t *p) {
    __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(128)), 8);
    __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(127)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256));
}

/* Elements 16 half .. +15 of the tile row at x. */
INLINE void open_half(tile_type type, const uint8_t *x, int half, __m256 v[2]) {
    for (int k = 0; k < 2; k++) {
        if (type == TILE_F16) {
            v[k] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + half * 32 + k * 16)));
        } else if (type == TILE_E4M3) {
            v[k] = eight_e4m3(x + half * 16 + k * 8);
        } else {
            __m256i code = _mm256_srli_epi32(eight_bytes(x), half * 4 + k * 2);
            v[k] = _mm256_cvtepi32_ps(_mm256_and_si256(code, _mm256_set1_epi32(3)));
        }
    }
}

INLINE void rows_half(tile_type type, int n_rows, int half, const float *a, size_t lda, const uint8_t *x, int n,
                      float *out, size_t ldo, const char *prefetch) {
    const size_t bytes = tile_row_bytes(type);
    __m256 acc[ROWS][2];
    out += half * HALF;
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < 2; k++)
            acc[r][k] = _mm256_loadu_ps(out + (size_t)r * ldo + k * 8);
    for (int i = 0; i < n; i++) {
        __m256 v[2];
        fetch_row(prefetch, i, bytes);
        open_half(type, x + (size_t)i * bytes, half, v);
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

INLINE void rows(tile_type type, int n_rows, const float *a, size_t lda, const uint8_t *x, int n, float *out,
                 size_t ldo, const char *prefetch) {
    rows_half(type, n_rows, 0, a, lda, x, n, out, ldo, prefetch);
    rows_half(type, n_rows, 1, a, lda, x, n, out, ldo, NULL);
}

ROWS_BLOCKS(6, halves, TILE_F16)
ROWS_BLOCKS(6, pairs, TILE_U2)
ROWS_BLOCKS(6, bytes, TILE_E4M3)

TILE_KERNEL(f16, halves)
TILE_KERNEL(u2, pairs)
TILE_KERNEL(e4m3, bytes)

void tile_avx2_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
    k->tile[TILE_E4M3] = tile_e4m3;
}
#endif
