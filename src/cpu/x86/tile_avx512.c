/* tile_avx512.c - attention products over KV tiles.
 *
 * 8 rows x 32 elements are 16 accumulators; each tile row is opened once per block of rows (halves by vcvtph2ps, pairs
 * of bits by vpermps in a table of their values, which looks at the low 4 bits of each lane alone). A row's chain of
 * fused multiply-adds starts from out and is the same in a block of 1 to 8 rows. */
#include "cpu/fill.h"
#ifdef __x86_64__
enum { ROWS = 8 };
#include "cpu/x86/tile_rows.h"

/* Codes as floats, four times: the upper 2 of a lane's 4 bits are another element's. */
static const float code4[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};

/* seeeemmm, bias 7, become halves with their exponent's bias 8 too low, which costs one multiplication. */
INLINE __m512 sixteen_e4m3(const uint8_t *x) {
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)x));
    __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(128)), 8);
    __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(127)), 7);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256));
}

/* Elements 0..15 and 16..31 of the tile row at x. */
INLINE void open_row(tile_type type, const uint8_t *x, __m512 v[2]) {
    if (type == TILE_F16) {
        v[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
        v[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + 32)));
    } else if (type == TILE_E4M3) {
        v[0] = sixteen_e4m3(x);
        v[1] = sixteen_e4m3(x + 16);
    } else {
        const __m512i low = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
        const __m512i high = _mm512_setr_epi32(4, 4, 4, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 6, 6);
        __m128i eight = _mm_loadl_epi64((const __m128i *)x);
        __m512i four = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(eight, eight));
        v[0] = _mm512_permutexvar_ps(_mm512_srlv_epi32(four, low), _mm512_loadu_ps(code4));
        v[1] = _mm512_permutexvar_ps(_mm512_srlv_epi32(four, high), _mm512_loadu_ps(code4));
    }
}

INLINE void rows(tile_type type, int n_rows, const float *a, size_t lda, const uint8_t *x, int n, float *out,
                 size_t ldo, const char *prefetch) {
    const size_t bytes = tile_row_bytes(type);
    __m512 acc[ROWS][2];
    for (int r = 0; r < n_rows; r++) {
        acc[r][0] = _mm512_loadu_ps(out + (size_t)r * ldo);
        acc[r][1] = _mm512_loadu_ps(out + (size_t)r * ldo + 16);
    }
    for (int i = 0; i < n; i++) {
        __m512 v[2];
        fetch_row(prefetch, i, bytes);
        open_row(type, x + (size_t)i * bytes, v);
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

ROWS_BLOCKS(8, halves, TILE_F16)
ROWS_BLOCKS(8, pairs, TILE_U2)
ROWS_BLOCKS(8, bytes, TILE_E4M3)

TILE_KERNEL(f16, halves)
TILE_KERNEL(u2, pairs)
TILE_KERNEL(e4m3, bytes)

void tile_avx512_fill(cpu_kernels *k) {
    k->tile[TILE_F16] = tile_f16;
    k->tile[TILE_U2] = tile_u2;
    k->tile[TILE_E4M3] = tile_e4m3;
}
#endif
