/* kernel_cases_matmul.c - the cases of products with packed matrices.
 *
 * Beside random scales there is a case of each type with scales 1, minima 0 where they are free, and codes and
 * activations at their limits: its results are integer sums below 2^24, so every level must give them exactly (a kernel
 * that saturates 16 bits does not). Rows go past two tiles of 16, the most that a kernel takes at once.
 *
 * Where minimum = -centre * scale, signs cannot be taken from the terms one by one. There magnitudes are the greatest
 * code throughout and scales 4 times as large: 4 * (most - centre) >= most + centre in all of these types. */
#include "support/kernel_cases.h"
#include <math.h>
#include <string.h>

enum { W, X, CODE, SCALE, SUM16, OUT };
enum { LDO_GAP = 3 };

static bool is_float(const kernel_case *c) {
    return pack_is_float((pack_type)c->type);
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

static f16 draw_scale(uint64_t *state, float factor) {
    return f16_from_f32(factor * (0.01f + fabsf(kernel_draw_unit(state))));
}

/* What gives one row's scale and minimum in a block. */
static void fill_map(const kernel_case *c, uint8_t *map, int row, uint64_t *state, bool magnitudes) {
    const pack_parts parts = pack_parts_of((pack_type)c->type);
    f16 *half = (f16 *)map;
    uint32_t u = kernel_draw(state);
    float minimum = 10 * kernel_draw_float(state, magnitudes);
    if (c->type == PACK_K6) {
        int8_t s[2] = {(int8_t)((int)(u % 255) - 127), (int8_t)((int)(u >> 8) % 255 - 127)};
        for (int g = 0; g < 2; g++)
            map[g * PACK_ROWS + row] = (uint8_t)(only_sums(c) ? 1 : magnitudes && s[g] < 0 ? -s[g] : s[g]);
    } else if (parts.super) {
        map[row] = only_sums(c) ? 1 : u % 64;
        map[PACK_ROWS + row] = only_sums(c) ? 0 : u >> 8 & 63;
    } else {
        half[row] = only_sums(c) ? f16_from_f32(1) : draw_scale(state, magnitudes && parts.centre ? 4 : 1);
        if (!parts.centre)
            half[PACK_ROWS + row] = f16_from_f32(only_sums(c) ? 0 : minimum);
    }
}

static void fill_super(const kernel_case *c, f16 *d, int row, uint64_t *state, bool magnitudes) {
    const pack_parts parts = pack_parts_of((pack_type)c->type);
    float dmin = kernel_draw_float(state, magnitudes);
    d[row] = only_sums(c) ? f16_from_f32(1) : draw_scale(state, magnitudes && parts.centre ? 4 : 1);
    if (!parts.centre)
        d[PACK_ROWS + row] = f16_from_f32(only_sums(c) ? 0 : -dmin);
}

/* One panel; rows past the last one stay zero. */
static void fill_panel(const kernel_case *c, int n_blocks, int rows, uint8_t *w, uint64_t *state, bool magnitudes) {
    const pack_parts parts = pack_parts_of((pack_type)c->type);
    uint8_t *maps = w + n_blocks * parts.code, *supers = maps + n_blocks * parts.map;
    for (int b = 0; b < n_blocks; b++) {
        uint32_t limits = kernel_draw(state);
        for (int i = 0; i < parts.code; i++) {
            uint32_t u = kernel_draw(state);
            bool most = (limits % 2 && u >> 31) || (magnitudes && parts.centre);
            uint8_t code = c->type == PACK_S5 ? (uint8_t)(most ? 31 : u % 32) : most ? 255 : (uint8_t)u;
            w[b * parts.code + i] = i / 4 % PACK_ROWS >= rows ? 0 : code;
        }
        for (int row = 0; row < rows && row < PACK_ROWS; row++)
            fill_map(c, maps + b * parts.map, row, state, magnitudes);
    }
    for (int b = 0; parts.super && b < n_blocks / PACK_SUPER; b++)
        for (int row = 0; row < rows && row < PACK_ROWS; row++)
            fill_super(c, (f16 *)(supers + b * parts.super), row, state, magnitudes);
}

static void fill_weights(const kernel_case *c, const kernel_size *s, uint8_t *w, uint64_t *state, bool magnitudes) {
    size_t panel_bytes = pack_bytes((pack_type)c->type, 1, s->n);
    for (int p = 0; p < pack_panel_count(s->n_out); p++, w += panel_bytes) {
        int rows = s->n_out - p * PACK_ROWS;
        memset(w, 0, panel_bytes);
        if (!is_float(c)) {
            fill_panel(c, s->n / PACK_BLOCK, rows, w, state, magnitudes);
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
    int panel = s->variant == 2 && pack_panel_count(s->n_out) > 1;
    k->matmul[c->type](&w, panel, pack_panel_count(s->n_out) - panel, &x, n,
                       (float *)buffer[OUT] + (size_t)first * ldo(s), ldo(s));
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
        .entry = ENTRY_MATMUL,                                                                                         \
        .type = pack,                                                                                                  \
        .layout = layout,                                                                                              \
        .fill = fill,                                                                                                  \
        .run = run,                                                                                                    \
        .ops = ops,                                                                                                    \
    }

/* Of an integer type: ordinary numbers, and whole ones. */
#define INTEGER_CASES(id, text, pack, step_n, most_n, most_sums)                                                       \
    MATMUL_CASE(id, text, KERNEL_SUM, pack, step_n, most_n, 1536);                                                     \
    MATMUL_CASE(id##_sums, text " sums", KERNEL_BITS, pack, step_n, most_sums, 0);

INTEGER_CASES(i4, "matmul.i4", PACK_I4, 32, 1184, 512)
INTEGER_CASES(i8, "matmul.i8", PACK_I8, 32, 1184, 512)
INTEGER_CASES(s4, "matmul.s4", PACK_S4, 32, 1184, 512)
INTEGER_CASES(s5, "matmul.s5", PACK_S5, 32, 1184, 512)
INTEGER_CASES(s8, "matmul.s8", PACK_S8, 32, 1184, 512)
INTEGER_CASES(k4, "matmul.k4", PACK_K4, 256, 1280, 512)
INTEGER_CASES(k5, "matmul.k5", PACK_K5, 256, 1280, 512)
INTEGER_CASES(k6, "matmul.k6", PACK_K6, 256, 1280, 512)
MATMUL_CASE(half, "matmul.f16", KERNEL_SUM, PACK_F16, 1, 67, 1536);
MATMUL_CASE(full, "matmul.f32", KERNEL_SUM, PACK_F32, 1, 67, 1536);

const kernel_case *const kernel_cases_matmul[] = {&i4,      &i8,      &s4,      &s5,      &s8,      &k4,      &k5,
                                                  &k6,      &half,    &full,    &i4_sums, &i8_sums, &s4_sums, &s5_sums,
                                                  &s8_sums, &k4_sums, &k5_sums, &k6_sums, NULL};
