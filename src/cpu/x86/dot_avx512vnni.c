/* dot_avx512vnni.c - products of rows with integer codes by vpdpbusd: 4 elements of 16 columns in one instruction.
 *
 * Up to 6 rows x 2 planes x 2 vectors of columns are 24 accumulators; each vector of codes is unpacked once for all of
 * them and each broadcast of a row meets two vectors. The instruction is asm because GCC 12 shuffles the intrinsic's
 * accumulators. The middle of the codes is taken off at the end: middle x the row's sum. No sum can overflow: a plane's
 * is at most 256 x 255 x 128 < 2^23, and the whole one, less the middle, at most 256 x 32639 x 128 < 2^31 (what lies
 * between wraps and comes back). */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/dot_tiles.h"
#include "cpu/inline.h"
#include <immintrin.h>
#include <string.h>

enum { ROWS = 6 };

INLINE __m512i add_dot(__m512i sum, __m512i code, __m512i a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(code), "v"(a));
    return sum;
}

INLINE __m512i four(const int8_t *a) {
    int32_t bytes;
    memcpy(&bytes, a, sizeof(bytes));
    return _mm512_set1_epi32(bytes);
}

/* Part `part` of the two vectors at 4 elements a part: all of a byte, a nibble, or a pair of bits. */
INLINE __m512i unpack(code_type type, __m512i codes, int part) {
    if (type == CODE_U8)
        return codes;
    if (type == CODE_U4)
        return _mm512_and_si512(part ? _mm512_srli_epi16(codes, 4) : codes, _mm512_set1_epi8(15));
    return _mm512_and_si512(part ? _mm512_srli_epi16(codes, 2 * part) : codes, _mm512_set1_epi8(3));
}

INLINE void finish(code_type type, bool mapped, const dot_row *row, __m512i high, __m512i low, const float *scale,
                   const float *middle, float *out) {
    const int bits = type == CODE_U8 ? 8 : type == CODE_U4 ? 4 : 2;
    __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
    whole = _mm512_sub_epi32(whole, _mm512_slli_epi32(_mm512_set1_epi32(row->sum), bits - 1));
    __m512 t = _mm512_cvtepi32_ps(whole), unit = _mm512_set1_ps(row->unit), offset = _mm512_set1_ps(row->offset);
    if (mapped && scale)
        unit = _mm512_mul_ps(unit, _mm512_loadu_ps(scale));
    t = _mm512_fmadd_ps(t, unit, _mm512_loadu_ps(out));
    t = mapped && middle ? _mm512_fmadd_ps(offset, _mm512_loadu_ps(middle), t) : _mm512_add_ps(t, offset);
    _mm512_storeu_ps(out, t);
}

INLINE void block(code_type type, bool mapped, int n_rows, const dot_place *at, int first, bool ahead) {
    const int parts = type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4;
    const dot_row *rows = at->tile->rows + first;
    const uint8_t *codes = at->tile->codes;
    const char *prefetch = at->prefetch;
    __m512i sum[ROWS][2][2];
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++)
        sum[r][0][0] = sum[r][0][1] = sum[r][1][0] = sum[r][1][1] = _mm512_setzero_si512();
    for (int i = 0; i < at->n; i += 4 * parts, codes += 128) {
        __m512i both[2] = {_mm512_load_si512(codes), _mm512_load_si512(codes + 64)};
        if (ahead) {
            _mm_prefetch(prefetch, _MM_HINT_T1);
            _mm_prefetch(prefetch + 64, _MM_HINT_T1);
            prefetch += 128;
        }
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++) {
            __m512i code[2] = {unpack(type, both[0], part), unpack(type, both[1], part)};
#pragma GCC unroll 6
            for (int r = 0; r < n_rows; r++) {
                __m512i a = four(rows[r].high + i + 4 * part);
                sum[r][0][0] = add_dot(sum[r][0][0], code[0], a);
                sum[r][0][1] = add_dot(sum[r][0][1], code[1], a);
                a = four(rows[r].low + i + 4 * part);
                sum[r][1][0] = add_dot(sum[r][1][0], code[0], a);
                sum[r][1][1] = add_dot(sum[r][1][1], code[1], a);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < n_rows; r++) {
        float *out = at->tile->out + (size_t)(first + r) * at->ldo;
        finish(type, mapped, &rows[r], sum[r][0][0], sum[r][1][0], at->tile->scale, at->tile->middle, out);
        finish(type, mapped, &rows[r], sum[r][0][1], sum[r][1][1], at->tile->scale ? at->tile->scale + 16 : NULL,
               at->tile->middle ? at->tile->middle + 16 : NULL, out + 16);
    }
}

INLINE void rows_of(code_type type, bool mapped, int n_rows, const dot_place *at, int first, bool ahead) {
    switch (n_rows) {
    case 1:
        block(type, mapped, 1, at, first, ahead);
        break;
    case 2:
        block(type, mapped, 2, at, first, ahead);
        break;
    case 3:
        block(type, mapped, 3, at, first, ahead);
        break;
    case 4:
        block(type, mapped, 4, at, first, ahead);
        break;
    case 5:
        block(type, mapped, 5, at, first, ahead);
        break;
    case 6:
        block(type, mapped, 6, at, first, ahead);
        break;
    }
}

/* Blocks of nearly equal size: 7 rows are 4 and 3. The first asks for the lines to come. */
INLINE void tile(code_type type, bool mapped, const dot_place *at) {
    int n_blocks = (at->n_rows + ROWS - 1) / ROWS;
    for (int r = 0, now; r < at->n_rows; r += now, n_blocks--) {
        now = (at->n_rows - r + n_blocks - 1) / n_blocks;
        if (r == 0 && at->prefetch)
            rows_of(type, mapped, now, at, 0, true);
        else
            rows_of(type, mapped, now, at, r, false);
    }
}

DOT_TILES(dot_u8, CODE_U8, tile)
DOT_TILES(dot_u4, CODE_U4, tile)
DOT_TILES(dot_u2, CODE_U2, tile)

void dot_avx512vnni_fill(cpu_kernels *k) {
    k->dot[CODE_U8] = dot_u8;
    k->dot[CODE_U4] = dot_u4;
    k->dot[CODE_U2] = dot_u2;
}
#endif
