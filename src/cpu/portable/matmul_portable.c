/* matmul_portable.c - products with packed matrices in plain C: the definition that faster levels are tested against.
 *
 * One (panel, token) at a time: 16 sums side by side, blocks in rising order, as pack.h says. */
#include "cpu/expand.h"
#include "cpu/fill.h"
#include "cpu/sweep_blocks.h"
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

/* One token's chunk of n blocks of one panel, whose acc goes on. */
static void panel_int(pack_form form, const uint8_t *code, const float *maps, int n, const int8_t *a,
                      const float *a_scale, const int16_t *sum16, float acc[PACK_ROWS]) {
    int n_groups = form_groups(form);
    for (int b = 0; b < n; b++, code += form_code_bytes(form), a += PACK_BLOCK, sum16 += 2) {
        const float *scale = maps + b * n_groups * SWEEP_MAP_FLOATS, *minimum = scale + n_groups * PACK_ROWS;
        for (int g = 0; g < n_groups; g++) {
            int32_t sum[PACK_ROWS] = {0};
            if (form == FORM_4)
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

static int live_rows(const pack_matrix *w, int panel) {
    return w->n_rows - panel * PACK_ROWS < PACK_ROWS ? w->n_rows - panel * PACK_ROWS : PACK_ROWS;
}

static inline void meet(pack_form form, const sweep *s, int panel, int n_panels, int first, int n, int n_tokens) {
    size_t n_blocks = (size_t)(s->w->n_cols / PACK_BLOCK);
    for (int p = 0; p < n_panels; p++)
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            size_t block = t * n_blocks + (size_t)first, bytes = (size_t)live_rows(s->w, panel + p) * sizeof(float);
            float acc[PACK_ROWS] = {0}, *out = s->out + t * s->ldo + (size_t)(panel + p) * PACK_ROWS;
            if (first)
                memcpy(acc, out, bytes);
            panel_int(form, s->code[p], s->maps[p], n, s->x->code + block * PACK_BLOCK, s->x->scale + block,
                      s->x->sum16 + block * 2, acc);
            memcpy(out, acc, bytes);
        }
}

SWEEP_MEETINGS

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
    for (int p = panel_first; p < panel_first + n_panels; p++) {
        const uint8_t *panel = w->data + (size_t)p * w->panel_bytes;
        for (size_t t = 0; t < (size_t)n_tokens; t++) {
            float acc[PACK_ROWS] = {0};
            panel_float(type, panel, w->n_cols, x->x + t * (size_t)w->n_cols, acc);
            memcpy(out + t * ldo + (size_t)p * PACK_ROWS, acc, (size_t)live_rows(w, p) * sizeof(float));
        }
    }
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
    sweep_blocks_fill(k);
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
