/* kernel_cases_matmul.c - the cases of products with packed matrices.
 *
 * Beside random scales there is a case with scales 1, minima 0 and codes and activations at their limits: its results
 * are integer sums below 2^24, so every level must give them exactly (a kernel that saturates 16 bits does not). Rows go
 * past two tiles of 16, the most that a kernel takes at once. */
#include "support/kernel_cases.h"
#include <math.h>
#include <string.h>

enum { W, X, CODE, SCALE, SUM16, OUT };
enum { LDO_GAP = 3 };

static bool is_float(const kernel_case *c) {
    return c->type == PACK_F16 || c->type == PACK_F32;
}

static int n_panels(const kernel_size *s) {
    return (s->n_out + PACK_ROWS - 1) / PACK_ROWS;
}

static size_t ldo(const kernel_size *s) {
    return (size_t)s->n_out + (s->variant ? LDO_GAP : 0);
}

static void layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    size_t n = (size_t)s->n * (size_t)s->n_rows;
    b[W] = (kernel_buffer){
        .element = KERNEL_U8, .n = pack_bytes((pack_type)c->type, s->n_out, s->n), .stream = true, .align = 64};
    b[X] = (kernel_buffer){.element = KERNEL_F32, .n = is_float(c) ? n : 1, .align = 4};
    b[CODE] = (kernel_buffer){.element = KERNEL_I8, .n = is_float(c) ? 1 : n, .align = 1};
    b[SCALE] = (kernel_buffer){.element = KERNEL_F32, .n = is_float(c) ? 1 : n / 32, .align = 4};
    b[SUM16] = (kernel_buffer){.element = KERNEL_I16, .n = is_float(c) ? 1 : n / 16, .align = 2};
    b[OUT] = (kernel_buffer){
        .element = KERNEL_F32, .n = ((size_t)s->n_rows - 1) * ldo(s) + (size_t)s->n_out, .out = true, .align = 4};
}

static bool only_sums(const kernel_case *c) {
    return c->rule == KERNEL_BITS;
}

/* One block of one panel; rows past the last one stay zero. */
static void fill_block(const kernel_case *c, int rows, uint8_t *block, uint64_t *state, bool magnitudes) {
    int n_groups = c->type == PACK_I8H ? 2 : 1, n_codes = c->type == PACK_I4 ? 256 : 512;
    float *scale = (float *)block, *minimum = scale + n_groups * PACK_ROWS;
    uint8_t *code = (uint8_t *)(minimum + n_groups * PACK_ROWS);
    for (int i = 0; i < n_groups * PACK_ROWS; i++) {
        float s = 0.01f + fabsf(kernel_draw_unit(state)), m = kernel_draw_float(state, magnitudes) * 10;
        scale[i] = i % PACK_ROWS >= rows ? 0 : only_sums(c) ? 1 : s;
        minimum[i] = i % PACK_ROWS >= rows || only_sums(c) ? 0 : m;
    }
    uint32_t limits = kernel_draw(state);
    for (int i = 0; i < n_codes; i++) {
        uint32_t u = kernel_draw(state);
        code[i] = i / 4 % PACK_ROWS >= rows ? 0 : limits % 2 && u >> 31 ? 255 : (uint8_t)u;
    }
}

static void fill_weights(const kernel_case *c, const kernel_size *s, uint8_t *w, uint64_t *state, bool magnitudes) {
    size_t panel_bytes = pack_bytes((pack_type)c->type, 1, s->n);
    for (int p = 0; p < n_panels(s); p++, w += panel_bytes) {
        int rows = s->n_out - p * PACK_ROWS;
        memset(w, 0, panel_bytes);
        if (!is_float(c)) {
            size_t block_bytes = panel_bytes / (size_t)(s->n / PACK_BLOCK);
            for (int b = 0; b < s->n / PACK_BLOCK; b++)
                fill_block(c, rows, w + (size_t)b * block_bytes, state, magnitudes);
            continue;
        }
        for (int i = 0; i < s->n * PACK_ROWS; i++) {
            float x = i % PACK_ROWS < rows ? kernel_draw_float(state, magnitudes) : 0;
            if (c->type == PACK_F16)
                ((f16 *)w)[i] = f16_from_f32(x);
            else
                ((float *)w)[i] = x;
        }
    }
}

static void fill_activations(const kernel_case *c, const kernel_size *s, uint64_t *state, bool magnitudes,
                             void *const *buffer) {
    int n = is_float(c) ? 1 : s->n * s->n_rows, n_floats = is_float(c) ? s->n * s->n_rows : 1;
    float *x = buffer[X], *scale = buffer[SCALE];
    int8_t *code = buffer[CODE];
    int16_t *sum16 = buffer[SUM16];
    for (int i = 0; i < n_floats; i++)
        x[i] = kernel_draw_float(state, magnitudes);
    for (int i = 0; i < n; i++) {
        uint32_t u = kernel_draw(state);
        int limit = u >> 30 & 1 ? 127 : -127, a = i / 64 % 2 ? (int)(u % 255) - 127 : i / 128 % 2 ? 127 : limit;
        code[i] = (int8_t)(magnitudes && a < 0 ? -a : a);
    }
    for (int i = 0; i < n / 32; i++)
        scale[i] = only_sums(c) ? 1 : 0.01f + fabsf(kernel_draw_unit(state));
    for (int i = 0; i < n / 16; i++) {
        sum16[i] = 0;
        for (int j = 0; j < 16; j++)
            sum16[i] = (int16_t)(sum16[i] + code[i * 16 + j]);
    }
}

static void fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    fill_weights(c, s, buffer[W], &seed, magnitudes);
    fill_activations(c, s, &seed, magnitudes, buffer);
    float *out = buffer[OUT];
    for (size_t i = 0; i < ((size_t)s->n_rows - 1) * ldo(s) + (size_t)s->n_out; i++)
        out[i] = -3; /* what is not written stays */
}

/* variant 2: from the second panel on. */
static void run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                void *const *buffer) {
    size_t from = is_float(c) ? 0 : (size_t)first * (size_t)s->n;
    pack_matrix w = {.type = (pack_type)c->type,
                     .n_rows = s->n_out,
                     .n_cols = s->n,
                     .panel_bytes = pack_bytes((pack_type)c->type, 1, s->n),
                     .data = buffer[W]};
    act_rows x = {.n_cols = s->n,
                  .x = (const float *)buffer[X] + (is_float(c) ? (size_t)first * (size_t)s->n : 0),
                  .code = (const int8_t *)buffer[CODE] + from,
                  .scale = (const float *)buffer[SCALE] + from / 32,
                  .sum16 = (const int16_t *)buffer[SUM16] + from / 16};
    int panel = s->variant == 2 && n_panels(s) > 1;
    k->matmul[c->type](&w, panel, n_panels(s) - panel, &x, n, (float *)buffer[OUT] + (size_t)first * ldo(s), ldo(s));
}

static double ops(const kernel_case *c, const kernel_size *s) {
    (void)c;
    return 2.0 * s->n * s->n_rows * s->n_out;
}

#define MATMUL_CASE(id, text, how, pack, step_n, most_n, bench_n)                                                      \
    static const kernel_case id = {                                                                                    \
        .name = text,                                                                                                  \
        .rule = how,                                                                                                   \
        .step = {step_n, 1, 5, 0},                                                                                     \
        .most = {most_n, 37, 53, 3},                                                                                   \
        .bench = {bench_n, 128, 256, 0},                                                                               \
        .rows_apart = true,                                                                                            \
        .type = pack,                                                                                                  \
        .layout = layout,                                                                                              \
        .fill = fill,                                                                                                  \
        .run = run,                                                                                                    \
        .ops = ops,                                                                                                    \
    }

MATMUL_CASE(i8, "matmul.i8", KERNEL_SUM, PACK_I8, 32, 1184, 1536);
MATMUL_CASE(i4, "matmul.i4", KERNEL_SUM, PACK_I4, 32, 1184, 1536);
MATMUL_CASE(i8h, "matmul.i8h", KERNEL_SUM, PACK_I8H, 32, 1184, 1536);
MATMUL_CASE(half, "matmul.f16", KERNEL_SUM, PACK_F16, 1, 67, 1536);
MATMUL_CASE(full, "matmul.f32", KERNEL_SUM, PACK_F32, 1, 67, 1536);
MATMUL_CASE(i8_sums, "matmul.i8 sums", KERNEL_BITS, PACK_I8, 32, 512, 0);
MATMUL_CASE(i4_sums, "matmul.i4 sums", KERNEL_BITS, PACK_I4, 32, 512, 0);
MATMUL_CASE(i8h_sums, "matmul.i8h sums", KERNEL_BITS, PACK_I8H, 32, 512, 0);

const kernel_case *const kernel_cases_matmul[] = {&i8, &i4, &i8h, &half, &full, &i8_sums, &i4_sums, &i8h_sums, NULL};
