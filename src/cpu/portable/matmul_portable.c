/* matmul_portable.c - products with packed matrices in plain C: the definition that faster levels are tested against.
 *
 * One (panel, token) at a time: 16 sums side by side, blocks in rising order, as pack.h says. */
#include "cpu/fill.h"
#include <string.h>

/* sum[r] += codes of 16 rows times one token's int8, over column groups [first, first + n) of an 8-bit block. */
static void dot_8bit(const uint8_t *code, const int8_t *a, int first, int n, int32_t sum[PACK_ROWS]) {
    for (int g = first; g < first + n; g++)
        for (int r = 0; r < PACK_ROWS; r++)
            for (int j = 0; j < 4; j++)
                sum[r] += code[(g * PACK_ROWS + r) * 4 + j] * a[g * 4 + j];
}

static void dot_4bit(const uint8_t *code, const int8_t *a, int32_t sum[PACK_ROWS]) {
    for (int g = 0; g < 4; g++)
        for (int r = 0; r < PACK_ROWS; r++)
            for (int j = 0; j < 4; j++) {
                int both = code[(g * PACK_ROWS + r) * 4 + j];
                sum[r] += (both & 15) * a[g * 4 + j] + (both >> 4) * a[16 + g * 4 + j];
            }
}

static void panel_int(pack_type type, const uint8_t *panel, int n_blocks, const int8_t *a, const float *a_scale,
                      const int16_t *sum16, float acc[PACK_ROWS]) {
    size_t block_bytes = pack_block_bytes(type);
    int n_groups = type == PACK_I8H ? 2 : 1;
    for (int b = 0; b < n_blocks; b++, panel += block_bytes, a += PACK_BLOCK, sum16 += 2) {
        const float *scale = (const float *)panel, *minimum = scale + n_groups * PACK_ROWS;
        const uint8_t *code = (const uint8_t *)(minimum + n_groups * PACK_ROWS);
        for (int g = 0; g < n_groups; g++) {
            int32_t sum[PACK_ROWS] = {0};
            if (type == PACK_I4)
                dot_4bit(code, a, sum);
            else
                dot_8bit(code, a, g * 4, 8 / n_groups, sum);
            float a_sum = (float)(n_groups == 2 ? sum16[g] : sum16[0] + sum16[1]);
            for (int r = 0; r < PACK_ROWS; r++) {
                float t = minimum[g * PACK_ROWS + r] * a_sum;
                t += scale[g * PACK_ROWS + r] * (float)sum[r];
                acc[r] += a_scale[b] * t;
            }
        }
    }
}

static void panel_float(pack_type type, const uint8_t *panel, int n_cols, const float *x, float acc[PACK_ROWS]) {
    const f16 *halves = (const f16 *)panel;
    const float *floats = (const float *)panel;
    for (int c = 0; c < n_cols; c++)
        for (int r = 0; r < PACK_ROWS; r++) {
            size_t at = (size_t)c * PACK_ROWS + (size_t)r;
            acc[r] += x[c] * (type == PACK_F16 ? f16_to_f32(halves[at]) : floats[at]);
        }
}

static inline void product(pack_type type, const pack_matrix *w, int panel_first, int n_panels, const act_rows *x,
                           int n_tokens, float *out, size_t ldo) {
    size_t n_cols = (size_t)w->n_cols;
    for (int p = panel_first; p < panel_first + n_panels; p++) {
        const uint8_t *panel = w->data + (size_t)p * w->panel_bytes;
        int rows = w->n_rows - p * PACK_ROWS < PACK_ROWS ? w->n_rows - p * PACK_ROWS : PACK_ROWS;
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            float acc[PACK_ROWS] = {0};
            if (type == PACK_F16 || type == PACK_F32)
                panel_float(type, panel, w->n_cols, x->x + t * n_cols, acc);
            else
                panel_int(type, panel, w->n_cols / PACK_BLOCK, x->code + t * n_cols,
                          x->scale + t * (n_cols / PACK_BLOCK), x->sum16 + t * (n_cols / 16), acc);
            memcpy(out + t * ldo + (size_t)p * PACK_ROWS, acc, (size_t)rows * sizeof(float));
        }
    }
}

static void matmul_i8(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens, float *out,
                      size_t ldo) {
    product(PACK_I8, w, panel_first, n_panels, x, n_tokens, out, ldo);
}

static void matmul_i4(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens, float *out,
                      size_t ldo) {
    product(PACK_I4, w, panel_first, n_panels, x, n_tokens, out, ldo);
}

static void matmul_i8h(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens, float *out,
                       size_t ldo) {
    product(PACK_I8H, w, panel_first, n_panels, x, n_tokens, out, ldo);
}

static void matmul_f16(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens, float *out,
                       size_t ldo) {
    product(PACK_F16, w, panel_first, n_panels, x, n_tokens, out, ldo);
}

static void matmul_f32(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens, float *out,
                       size_t ldo) {
    product(PACK_F32, w, panel_first, n_panels, x, n_tokens, out, ldo);
}

void matmul_portable_fill(cpu_kernels *k) {
    k->matmul[PACK_I8] = matmul_i8;
    k->matmul[PACK_I4] = matmul_i4;
    k->matmul[PACK_I8H] = matmul_i8h;
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
