/* dot_avx2.c - products of rows with integer codes without VNNI: vpmaddubsw would saturate (two products of 255 x 127),
 * so codes are split into even and odd elements of 16 bits, a row's two planes are joined to 16-bit numbers, and
 * vpmaddwd multiplies them: one product does both planes. A tile is swept twice, 16 columns wide, 4 rows at a time. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/codes_avx2.h"
#include "cpu/dot_tiles.h"

enum { ROWS = 4 };

/* Four elements are one lane: the first and third as words of even, the second and fourth of odd. */
typedef struct wide_row {
    _Alignas(32) int32_t even[DOT_MOST / 4], odd[DOT_MOST / 4];
} wide_row;

INLINE void widen(const dot_row *row, int n, wide_row *wide) {
    for (int i = 0; i < n; i += 16) {
        __m128i low = _mm_load_si128((const __m128i *)(row->low + i));
        __m128i high = _mm_load_si128((const __m128i *)(row->high + i));
        __m128i even = _mm_add_epi16(_mm_srai_epi16(_mm_slli_epi16(low, 8), 8), _mm_slli_epi16(high, 8));
        __m128i odd = _mm_add_epi16(_mm_srai_epi16(low, 8), _mm_and_si128(high, _mm_set1_epi16((short)0xff00)));
        _mm_store_si128((__m128i *)(wide->even + i / 4), even);
        _mm_store_si128((__m128i *)(wide->odd + i / 4), odd);
    }
}

INLINE void half_block(code_type type, bool mapped, int n_rows, int half, const dot_place *at, int first,
                       const wide_row *wide, bool ahead) {
    const int parts = type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4;
    const __m256i low_byte = _mm256_set1_epi16(255);
    __m256i sum[ROWS][2];
    for (int r = 0; r < n_rows; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (int i = 0, line = half * 64; i < at->n / 4; i += parts, line += 128) {
        if (ahead)
            _mm_prefetch(at->prefetch + line, _MM_HINT_T1);
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++)
            for (int v = 0; v < 2; v++) {
                __m256i code = _mm256_load_si256((const __m256i *)(at->tile->codes + line + 32 * v));
                code = codes_unpack(type, code, part);
                __m256i even = _mm256_and_si256(code, low_byte), odd = _mm256_srli_epi16(code, 8);
#pragma GCC unroll 4
                for (int r = 0; r < n_rows; r++) {
                    __m256i pairs = _mm256_madd_epi16(even, _mm256_set1_epi32(wide[r].even[i + part]));
                    sum[r][v] = _mm256_add_epi32(sum[r][v], pairs);
                    pairs = _mm256_madd_epi16(odd, _mm256_set1_epi32(wide[r].odd[i + part]));
                    sum[r][v] = _mm256_add_epi32(sum[r][v], pairs);
                }
            }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < 2; v++) {
            int k = 16 * half + 8 * v;
            codes_finish(type, mapped, &at->tile->rows[first + r], sum[r][v],
                         at->tile->scale ? at->tile->scale + k : NULL, at->tile->middle ? at->tile->middle + k : NULL,
                         at->tile->out + (size_t)(first + r) * at->ldo + k);
        }
}

INLINE void block(code_type type, bool mapped, int n_rows, const dot_place *at, int first, bool ahead) {
    wide_row wide[ROWS];
    for (int r = 0; r < n_rows; r++)
        widen(&at->tile->rows[first + r], at->n, &wide[r]);
    half_block(type, mapped, n_rows, 0, at, first, wide, ahead);
    half_block(type, mapped, n_rows, 1, at, first, wide, ahead);
}

/* The first block asks for the lines to come. */
INLINE void tile(code_type type, bool mapped, const dot_place *at) {
    int r = 0;
    for (; r + ROWS <= at->n_rows; r += ROWS)
        block(type, mapped, ROWS, at, r, r == 0 && at->prefetch);
    if (at->n_rows - r == 3)
        block(type, mapped, 3, at, r, r == 0 && at->prefetch);
    for (; at->n_rows - r < 3 && r < at->n_rows; r++)
        block(type, mapped, 1, at, r, r == 0 && at->prefetch);
}

DOT_TILES(dot_u8, CODE_U8, tile)
DOT_TILES(dot_u4, CODE_U4, tile)
DOT_TILES(dot_u2, CODE_U2, tile)

void dot_avx2_fill(cpu_kernels *k) {
    k->dot[CODE_U8] = dot_u8;
    k->dot[CODE_U4] = dot_u4;
    k->dot[CODE_U2] = dot_u2;
}
#endif
