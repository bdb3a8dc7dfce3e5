/* dot_neon.c - products of rows with integer codes by sdot.
 *
 * A tile is swept twice, 16 columns wide: 3 rows x 2 planes x 4 vectors are 24 accumulators. sdot wants signed bytes:
 * 8-bit codes are turned about their middle, which is what they count from anyway; smaller ones are bytes as they are,
 * and the middle times the row's sum is taken off at the end. */
#include "cpu/arm/sdot_neon.h"
#include "cpu/dot_tiles.h"
#include "cpu/fill.h"

enum { ROWS = 3 };

/* 4 columns of 4 elements, the quarter'th 4 of 16 whose codes begin at line. */
INLINE int8x16_t unpack(code_type type, const uint8_t *line, int quarter) {
    const int parts = type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4, bits = 8 / parts, part = quarter % parts;
    uint8x16_t code = vld1q_u8(line + quarter / parts * 128);
    if (type == CODE_U8)
        return centred(code);
    if (part)
        code = vshlq_u8(code, vdupq_n_s8((int8_t)(-bits * part)));
    if (part < parts - 1)
        code = vandq_u8(code, vdupq_n_u8((uint8_t)((1 << bits) - 1)));
    return vreinterpretq_s8_u8(code);
}

/* out[0..3] += unit * (whole - middle code * sum) * scale + offset * middle */
INLINE void finish(code_type type, bool mapped, const dot_row *row, int32x4_t whole, const float *scale,
                   const float *middle, float *out) {
    const int middle_code = type == CODE_U8 ? 0 : type == CODE_U4 ? 8 : 2;
    float32x4_t t = vcvtq_f32_s32(vsubq_s32(whole, vdupq_n_s32(row->sum * middle_code)));
    float32x4_t unit = vdupq_n_f32(row->unit), offset = vdupq_n_f32(row->offset);
    if (mapped && scale)
        unit = vmulq_f32(unit, vld1q_f32(scale));
    t = vfmaq_f32(vld1q_f32(out), t, unit);
    vst1q_f32(out, mapped && middle ? vfmaq_f32(t, offset, vld1q_f32(middle)) : vaddq_f32(t, offset));
}

INLINE void half_block(code_type type, bool mapped, int n_rows, int half, const dot_place *at, int first, bool ahead) {
    const int line_bytes = type == CODE_U8 ? 512 : type == CODE_U4 ? 256 : 128; /* of 16 elements */
    const dot_tile *tile = at->tile;
    const dot_row *rows = tile->rows + first;
    int32x4_t sum[ROWS][2][4];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < 4; v++)
            sum[r][0][v] = sum[r][1][v] = vdupq_n_s32(0);
    for (int i = 0, line = half * 64; i < at->n; i += 16, line += line_bytes) {
        for (int more = 0; ahead && more < line_bytes; more += 128)
            __builtin_prefetch(at->prefetch + line + more, 0, 2);
#pragma GCC unroll 8
        for (int quarter = 0; quarter < 4; quarter++) {
            int8x16_t code[4];
#pragma GCC unroll 8
            for (int v = 0; v < 4; v++)
                code[v] = unpack(type, tile->codes + line + 16 * v, quarter);
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++) {
                int8x16_t high = vld1q_s8(rows[r].high + i), low = vld1q_s8(rows[r].low + i);
#pragma GCC unroll 8
                for (int v = 0; v < 4; v++) {
                    sum[r][0][v] = add_dot(sum[r][0][v], code[v], high, quarter);
                    sum[r][1][v] = add_dot(sum[r][1][v], code[v], low, quarter);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < 4; v++) {
            int k = 16 * half + 4 * v;
            finish(type, mapped, &rows[r], vaddq_s32(vshlq_n_s32(sum[r][0][v], 8), sum[r][1][v]),
                   tile->scale ? tile->scale + k : NULL, tile->middle ? tile->middle + k : NULL,
                   tile->out + (size_t)(first + r) * at->ldo + k);
        }
}

/* The first block asks for the lines to come. */
INLINE void block(code_type type, bool mapped, int n_rows, const dot_place *at, int first) {
    half_block(type, mapped, n_rows, 0, at, first, first == 0 && at->prefetch);
    half_block(type, mapped, n_rows, 1, at, first, first == 0 && at->prefetch);
}

INLINE void tile(code_type type, bool mapped, const dot_place *at) {
    int r = 0;
    for (; r + ROWS <= at->n_rows; r += ROWS)
        block(type, mapped, ROWS, at, r);
    if (at->n_rows - r == 2)
        block(type, mapped, 2, at, r);
    else if (at->n_rows - r == 1)
        block(type, mapped, 1, at, r);
}

DOT_TILES(dot_u8, CODE_U8, tile)
DOT_TILES(dot_u4, CODE_U4, tile)
DOT_TILES(dot_u2, CODE_U2, tile)

void dot_neon_fill(cpu_kernels *k) {
    k->dot[CODE_U8] = dot_u8;
    k->dot[CODE_U4] = dot_u4;
    k->dot[CODE_U2] = dot_u2;
}
