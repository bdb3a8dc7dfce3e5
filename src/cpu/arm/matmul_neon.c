/* matmul_neon.c - integer products by sdot: 8 rows (half a panel) x 4 tokens in registers: 8 integer sums, 8 float sums
 * and 8 vectors of weights.
 *
 * sdot wants signed bytes. 4-bit codes are such; 8-bit codes are turned about 128, and the integer sums start from 128
 * times the sum of the activations, which makes up for it exactly. */
#include "cpu/arm/panel_sums_neon.h"
#include "cpu/arm/sdot_neon.h"
#include "cpu/fill.h"

enum { TOKENS = 4, CHUNK = 16, ROWS = 8 };

typedef struct place { /* of a tile's tokens at one block */
    const int8_t *a;
    const float *a_scale;
    const int16_t *sum16;
    size_t n_cols, n_blocks; /* from one token to the next */
} place;

/* sum[t] += 8 rows x 16 columns; code: the rows' part of the codes of the first 4 columns. */
INLINE void dot_16(pack_type type, int n_tokens, const uint8_t *code, bool high, const int8_t *a, size_t lda,
                   int32x4_t sum[TOKENS][2]) {
    int8x16_t w[4][2];
#pragma GCC unroll 8
    for (int g = 0; g < 4; g++)
#pragma GCC unroll 8
        for (int v = 0; v < 2; v++) {
            uint8x16_t bytes = vld1q_u8(code + g * 64 + v * 16);
            if (type == PACK_I4)
                w[g][v] = vreinterpretq_s8_u8(high ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15)));
            else
                w[g][v] = centred(bytes);
        }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) {
        int8x16_t columns = vld1q_s8(a + (size_t)t * lda);
#pragma GCC unroll 8
        for (int g = 0; g < 4; g++)
#pragma GCC unroll 8
            for (int v = 0; v < 2; v++)
                sum[t][v] = add_dot(sum[t][v], w[g][v], columns, g);
    }
}

/* Group g of a block for 8 rows: integer sums, then acc by pack.h's formula. row: 0 or 8. */
INLINE void group(pack_type type, int n_tokens, const uint8_t *block, int row, int g, const place *at,
                  float32x4_t acc[TOKENS][2]) {
    const int n_groups = type == PACK_I8H ? 2 : 1;
    const uint8_t *code = block + n_groups * 128 + row * 4;
    int32x4_t sum[TOKENS][2];
    int a_sum[TOKENS];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) {
        const int16_t *sum16 = at->sum16 + (size_t)t * at->n_blocks * 2;
        a_sum[t] = type == PACK_I8H ? sum16[g] : sum16[0] + sum16[1];
        sum[t][0] = sum[t][1] = vdupq_n_s32(type == PACK_I4 ? 0 : 128 * a_sum[t]);
    }
    if (type == PACK_I8H) {
        dot_16(type, n_tokens, code + g * 256, false, at->a + g * 16, at->n_cols, sum);
    } else {
        dot_16(type, n_tokens, code, false, at->a, at->n_cols, sum);
        dot_16(type, n_tokens, type == PACK_I4 ? code : code + 256, true, at->a + 16, at->n_cols, sum);
    }
#pragma GCC unroll 8
    for (int v = 0; v < 2; v++) {
        float32x4_t scale = vld1q_f32((const float *)block + g * 16 + row + v * 4);
        float32x4_t minimum = vld1q_f32((const float *)block + (n_groups + g) * 16 + row + v * 4);
#pragma GCC unroll 8
        for (int t = 0; t < n_tokens; t++) {
            float32x4_t part = vmulq_n_f32(minimum, (float)a_sum[t]);
            part = vfmaq_f32(part, scale, vcvtq_f32_s32(sum[t][v]));
            acc[t][v] = vfmaq_n_f32(acc[t][v], part, at->a_scale[(size_t)t * at->n_blocks]);
        }
    }
}

/* A chunk of n blocks for rows row..row+7 of a panel. */
INLINE void half_panel(pack_type type, int n_tokens, const uint8_t *block, int row, bool fresh, int n, place at,
                       float *sums, size_t ld) {
    const int n_groups = type == PACK_I8H ? 2 : 1;
    const size_t block_bytes = pack_block_bytes(type);
    float32x4_t acc[TOKENS][2];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (int v = 0; v < 2; v++)
            acc[t][v] = fresh ? vdupq_n_f32(0) : vld1q_f32(sums + (size_t)t * ld + row + v * 4);
    for (int b = 0; b < n; b++, block += block_bytes) {
        for (int g = 0; g < n_groups; g++)
            group(type, n_tokens, block, row, g, &at, acc);
        at.a += PACK_BLOCK;
        at.a_scale++;
        at.sum16 += 2;
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (int v = 0; v < 2; v++)
            vst1q_f32(sums + (size_t)t * ld + row + v * 4, acc[t][v]);
}

INLINE void tile(pack_type type, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    const size_t block_bytes = pack_block_bytes(type);
    size_t n_cols = (size_t)s->w->n_cols, n_blocks = n_cols / PACK_BLOCK;
    size_t at_block = (size_t)token * n_blocks + (size_t)first;
    place at = {.a = s->x->code + at_block * PACK_BLOCK,
                .a_scale = s->x->scale + at_block,
                .sum16 = s->x->sum16 + at_block * 2,
                .n_cols = n_cols,
                .n_blocks = n_blocks};
    for (int p = panel; p < panel + n_panels; p++) {
        const uint8_t *block = s->w->data + (size_t)p * s->w->panel_bytes + (size_t)first * block_bytes;
        panel_sums sums;
        panel_sums_open(&sums, s, p, token, n_tokens, first == 0);
        for (int row = 0; row < sums.n_live; row += ROWS)
            half_panel(type, n_tokens, block, row, first == 0, n, at, sums.at, sums.ld);
        panel_sums_close(&sums);
    }
}

SWEEP_BLOCKS(i8, PACK_I8, tile, 4, CHUNK)
SWEEP_BLOCKS(i4, PACK_I4, tile, 4, CHUNK)
SWEEP_BLOCKS(i8h, PACK_I8H, tile, 4, CHUNK)

void matmul_neon_fill(cpu_kernels *k) {
    k->matmul[PACK_I8] = matmul_i8;
    k->matmul[PACK_I4] = matmul_i4;
    k->matmul[PACK_I8H] = matmul_i8h;
}
