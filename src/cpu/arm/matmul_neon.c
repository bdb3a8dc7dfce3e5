/* matmul_neon.c - integer products by sdot: 8 rows (half a panel) x 4 tokens in registers: 8 integer sums, 8 float sums
 * and 8 vectors of weights.
 *
 * sdot wants signed bytes. 4-bit codes are such; 8-bit codes are turned about 128, and the integer sums start from 128
 * times the sum of the activations, which makes up for it exactly. */
#include "cpu/arm/panel_sums_neon.h"
#include "cpu/arm/sdot_neon.h"
#include "cpu/expand.h"
#include "cpu/fill.h"
#include "cpu/sweep_blocks.h"

enum { TOKENS = 4, ROWS = 8 };

typedef struct place { /* of a tile's tokens at one block */
    const int8_t *a;
    const float *a_scale;
    const int16_t *sum16;
    size_t n_cols, n_blocks; /* from one token to the next */
} place;

/* sum[t] += 8 rows x 16 columns; code: the rows' part of the codes of the first 4 columns. */
INLINE void dot_16(pack_form form, int n_tokens, const uint8_t *code, bool high, const int8_t *a, size_t lda,
                   int32x4_t sum[TOKENS][2]) {
    int8x16_t w[4][2];
#pragma GCC unroll 8
    for (int g = 0; g < 4; g++)
#pragma GCC unroll 8
        for (int v = 0; v < 2; v++) {
            uint8x16_t bytes = vld1q_u8(code + g * 64 + v * 16);
            if (form == FORM_4)
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

/* Group g of a block for 8 rows: integer sums, then acc by pack.h's formula. */
INLINE void group(pack_form form, int n_tokens, const uint8_t *code, const float *maps, int g, const place *at,
                  float32x4_t acc[TOKENS][2]) {
    const int n_groups = form_groups(form);
    int32x4_t sum[TOKENS][2];
    int a_sum[TOKENS];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++) {
        const int16_t *sum16 = at->sum16 + (size_t)t * at->n_blocks * 2;
        a_sum[t] = form == FORM_8H ? sum16[g] : sum16[0] + sum16[1];
        sum[t][0] = sum[t][1] = vdupq_n_s32(form == FORM_4 ? 0 : 128 * a_sum[t]);
    }
    if (form == FORM_8H) {
        dot_16(form, n_tokens, code + g * 256, false, at->a + g * 16, at->n_cols, sum);
    } else {
        dot_16(form, n_tokens, code, false, at->a, at->n_cols, sum);
        dot_16(form, n_tokens, form == FORM_4 ? code : code + 256, true, at->a + 16, at->n_cols, sum);
    }
#pragma GCC unroll 8
    for (int v = 0; v < 2; v++) {
        float32x4_t scale = vld1q_f32(maps + g * PACK_ROWS + v * 4);
        float32x4_t minimum = vld1q_f32(maps + (n_groups + g) * PACK_ROWS + v * 4);
#pragma GCC unroll 8
        for (int t = 0; t < n_tokens; t++) {
            float32x4_t part = vmulq_n_f32(minimum, (float)a_sum[t]);
            part = vfmaq_f32(part, scale, vcvtq_f32_s32(sum[t][v]));
            acc[t][v] = vfmaq_n_f32(acc[t][v], part, at->a_scale[(size_t)t * at->n_blocks]);
        }
    }
}

/* A chunk of n blocks for 8 rows of a panel; code, maps, sums: the rows' parts. */
INLINE void half_panel(pack_form form, int n_tokens, const uint8_t *code, const float *maps, bool fresh, int n,
                       place at, float *sums, size_t ld) {
    const int n_groups = form_groups(form);
    float32x4_t acc[TOKENS][2];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (int v = 0; v < 2; v++)
            acc[t][v] = fresh ? vdupq_n_f32(0) : vld1q_f32(sums + (size_t)t * ld + v * 4);
    for (int b = 0; b < n; b++, code += form_code_bytes(form), maps += n_groups * SWEEP_MAP_FLOATS) {
        for (int g = 0; g < n_groups; g++)
            group(form, n_tokens, code, maps, g, &at, acc);
        at.a += PACK_BLOCK;
        at.a_scale++;
        at.sum16 += 2;
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (int v = 0; v < 2; v++)
            vst1q_f32(sums + (size_t)t * ld + v * 4, acc[t][v]);
}

INLINE void tile(pack_form form, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    size_t n_cols = (size_t)s->w->n_cols, n_blocks = n_cols / PACK_BLOCK;
    size_t at_block = (size_t)token * n_blocks + (size_t)first;
    place at = {.a = s->x->code + at_block * PACK_BLOCK,
                .a_scale = s->x->scale + at_block,
                .sum16 = s->x->sum16 + at_block * 2,
                .n_cols = n_cols,
                .n_blocks = n_blocks};
    for (int p = panel; p < panel + n_panels; p++) {
        const uint8_t *code = s->code[p - panel];
        const float *maps = s->maps[p - panel];
        panel_sums sums;
        panel_sums_open(&sums, s, p, token, n_tokens, first == 0);
        for (int row = 0; row < sums.n_live; row += ROWS)
            half_panel(form, n_tokens, code + row * 4, maps + row, first == 0, n, at, sums.at + row, sums.ld);
        panel_sums_close(&sums);
    }
}

SWEEP_BLOCKS(tile, 4)

void matmul_neon_fill(cpu_kernels *k) {
    sweep_blocks_fill(k);
}
