/* dot_avx2vnni.c - products of rows with integer codes by the 256-bit vpdpbusd (AVX-VNNI).
 *
 * A tile is swept twice, 16 columns wide: 3 rows x 2 planes x 2 vectors are 12 accumulators. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/codes_avx2.h"
#include "cpu/dot_tiles.h"
#include "cpu/x86/vnni_256.h"

enum { ROWS = 3 };

INLINE void half_block(code_type type, bool mapped, int n_rows, int half, const dot_place *at, int first, bool ahead) {
    const int parts = type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4;
    const dot_row *rows = at->tile->rows + first;
    __m256i sum[ROWS][2][2];
    for (int r = 0; r < n_rows; r++)
        sum[r][0][0] = sum[r][0][1] = sum[r][1][0] = sum[r][1][1] = _mm256_setzero_si256();
    for (int i = 0, line = half * 64; i < at->n; i += 4 * parts, line += 128) {
        if (ahead)
            _mm_prefetch(at->prefetch + line, _MM_HINT_T1);
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++) {
            __m256i code[2];
            for (int v = 0; v < 2; v++)
                code[v] =
                    codes_unpack(type, _mm256_load_si256((const __m256i *)(at->tile->codes + line + 32 * v)), part);
#pragma GCC unroll 3
            for (int r = 0; r < n_rows; r++) {
                __m256i a = four_bytes(rows[r].high + i + 4 * part);
                sum[r][0][0] = vnni_256(sum[r][0][0], code[0], a);
                sum[r][0][1] = vnni_256(sum[r][0][1], code[1], a);
                a = four_bytes(rows[r].low + i + 4 * part);
                sum[r][1][0] = vnni_256(sum[r][1][0], code[0], a);
                sum[r][1][1] = vnni_256(sum[r][1][1], code[1], a);
            }
        }
    }
#pragma GCC unroll 3
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < 2; v++) {
            int k = 16 * half + 8 * v;
            __m256i whole = _mm256_add_epi32(_mm256_slli_epi32(sum[r][0][v], 8), sum[r][1][v]);
            codes_finish(type, mapped, &rows[r], whole, at->tile->scale ? at->tile->scale + k : NULL,
                         at->tile->middle ? at->tile->middle + k : NULL,
                         at->tile->out + (size_t)(first + r) * at->ldo + k);
        }
}

INLINE void block(code_type type, bool mapped, int n_rows, const dot_place *at, int first, bool ahead) {
    half_block(type, mapped, n_rows, 0, at, first, ahead);
    half_block(type, mapped, n_rows, 1, at, first, ahead);
}

/* The first block asks for the lines to come. */
INLINE void tile(code_type type, bool mapped, const dot_place *at) {
    int r = 0;
    for (; r + ROWS <= at->n_rows; r += ROWS)
        block(type, mapped, ROWS, at, r, r == 0 && at->prefetch);
    for (; r < at->n_rows; r++)
        block(type, mapped, 1, at, r, r == 0 && at->prefetch);
}

DOT_TILES(dot_u8, CODE_U8, tile)
DOT_TILES(dot_u4, CODE_U4, tile)
DOT_TILES(dot_u2, CODE_U2, tile)

void dot_avx2vnni_fill(cpu_kernels *k) {
    k->dot[CODE_U8] = dot_u8;
    k->dot[CODE_U4] = dot_u4;
    k->dot[CODE_U2] = dot_u2;
}
#endif
