/* kernel_cases.c - the list of all cases, their random numbers, and the cases of kernels on single rows. */
#include "support/kernel_cases.h"
#include <math.h>
#include <string.h>

uint32_t kernel_draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

float kernel_draw_unit(uint64_t *state) {
    uint32_t u = kernel_draw(state);
    return u % 61 == 0 ? 0 : (float)(int32_t)u * 0x1p-31f;
}

float kernel_draw_float(uint64_t *state, bool magnitude) {
    float x = kernel_draw_unit(state) + kernel_draw_unit(state) + kernel_draw_unit(state);
    return magnitude ? fabsf(x) : x;
}

size_t kernel_element_bytes(kernel_element element) {
    return element == KERNEL_F32 || element == KERNEL_I32 ? 4 : element == KERNEL_F16 || element == KERNEL_I16 ? 2 : 1;
}

const kernel_case *const *kernel_cases(void) {
    enum { MOST = 64 };
    static const kernel_case *all[MOST];
    const kernel_case *const *const lists[] = {kernel_cases_rows,   kernel_cases_tile, kernel_cases_dot,
                                               kernel_cases_sparse, kernel_cases_ends, kernel_cases_transpose,
                                               kernel_cases_matmul};
    int n = 0;
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        for (int k = 0; lists[i][k] && n < MOST - 1; k++)
            all[n++] = lists[i][k];
    all[n] = NULL;
    return all;
}

/* ---- one to three float rows, of which the first is written ---- */

static const float factors[] = {1, 0.37f, 2.5f, 0};

static void layout_one(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    b[0] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n, .out = true, .align = 4};
}

static void layout_two(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    layout_one(c, s, b);
    b[1] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n, .align = 4};
}

static void layout_three(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    layout_two(c, s, b);
    b[2] = b[1];
}

static void fill_rows(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    c->layout(c, s, b);
    for (int k = 0; k < KERNEL_BUFFERS && b[k].n; k++)
        for (size_t i = 0; i < b[k].n; i++)
            ((float *)buffer[k])[i] = kernel_draw_float(&seed, magnitudes);
}

/* Wide enough for exponentials to end at both sides. */
static void fill_wide(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    fill_rows(c, s, seed, magnitudes, buffer);
    float *gate = buffer[0];
    for (int i = 0; i < s->n; i++)
        gate[i] *= i % 7 == 3 ? 40 : 3;
}

static void run_scale(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                      void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->scale(buffer[0], s->n, factors[s->variant]);
}

static void run_add_scaled(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                           void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->add_scaled(buffer[0], buffer[1], s->n, factors[s->variant]);
}

static void run_add(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                    void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->add(buffer[0], buffer[1], s->n);
}

static void run_silu_mul(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                         void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->silu_mul(buffer[0], buffer[1], s->n);
}

static void run_gelu_mul(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                         void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->gelu_mul(buffer[0], buffer[1], s->n);
}

/* variant 1: in place. */
static void run_rms_norm(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                         void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->rms_norm(s->variant ? buffer[0] : buffer[1], buffer[2], s->n, 1e-5f, buffer[0]);
}

/* ---- rotation ---- */

/* With magnitudes, both elements of a pair become |a| + |b|, the cosine |c| + |s| and the sine 0: no term can cancel
 * another. */
static void fill_rope(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    fill_rows(c, s, seed, magnitudes, buffer);
    float *x = buffer[0], *cos_sin = buffer[1];
    int step = c->type ? 1 : 2, apart = c->type ? s->n / 2 : 1;
    for (int i = 0; i < s->n / 2; i++) {
        float angle = 4 * kernel_draw_unit(&seed), cosine = cosf(angle), sine = sinf(angle);
        cos_sin[2 * i] = magnitudes ? fabsf(cosine) + fabsf(sine) : cosine;
        cos_sin[2 * i + 1] = magnitudes ? 0 : sine;
        if (magnitudes)
            x[i * step] = x[i * step + apart] = x[i * step] + x[i * step + apart];
    }
}

static void run_rope(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                     void *const *buffer) {
    (void)first, (void)n;
    k->rope(buffer[0], s->n, c->type, buffer[1]);
}

/* ---- halves ---- */

static void layout_to_f16(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    b[0] = (kernel_buffer){.element = KERNEL_F16, .n = (size_t)s->n, .out = true, .align = 2};
    b[1] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n, .align = 4};
}

/* Every magnitude from below the least half to above the greatest, values midway between halves, infinities. */
static void fill_to_f16(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes,
                        void *const *buffer) {
    (void)c, (void)magnitudes;
    float *x = buffer[1];
    memset(buffer[0], 0x5a, (size_t)s->n * 2);
    for (int i = 0; i < s->n; i++) {
        uint32_t u = kernel_draw(&seed);
        float half = f16_to_f32((f16)(u & 0x7bff)), next = f16_to_f32((f16)((u & 0x7bff) + 1));
        x[i] = u >> 16 & 1 ? (float)((int)(u >> 20) - 2048) * 0x1p-11f * exp2f((float)(u >> 17 & 63) - 40)
                           : (half + next) / 2;
        if (u >> 17 % 53 == 0)
            x[i] = INFINITY;
        if (u >> 31)
            x[i] = -x[i];
    }
}

static void run_to_f16(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                       void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->f32_to_f16(buffer[1], s->n, buffer[0]);
}

static void layout_from_f16(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    b[0] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n, .out = true, .align = 4};
    b[1] = (kernel_buffer){.element = KERNEL_F16, .n = (size_t)s->n, .align = 2};
}

/* All halves in order when n is 65,536; no NaN, whose payload is nobody's promise. */
static void fill_from_f16(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes,
                          void *const *buffer) {
    (void)c, (void)magnitudes;
    f16 *half = buffer[1];
    memset(buffer[0], 0x5a, (size_t)s->n * 4);
    for (int i = 0; i < s->n; i++) {
        half[i] = (f16)(s->n == 65536 ? (uint32_t)i : kernel_draw(&seed));
        if ((half[i] & 0x7c00) == 0x7c00)
            half[i] &= 0xfc00;
    }
}

static void run_from_f16(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                         void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->f16_to_f32(buffer[1], s->n, buffer[0]);
}

/* ---- maps of codes, bounds of positions ---- */

static void layout_maps(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    b[0] = b[1] = (kernel_buffer){.element = KERNEL_F16, .n = (size_t)s->n, .align = 2};
    b[2] = b[3] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n, .out = true, .align = 4};
}

static void fill_maps(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    (void)c;
    for (int i = 0; i < s->n; i++) {
        ((f16 *)buffer[0])[i] = f16_from_f32(kernel_draw_float(&seed, true));
        ((f16 *)buffer[1])[i] = f16_from_f32(20 * kernel_draw_float(&seed, magnitudes));
        ((float *)buffer[2])[i] = ((float *)buffer[3])[i] = -1;
    }
}

/* variant 1: without minima. */
static void run_maps(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                     void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->open_maps(buffer[0], s->variant ? NULL : buffer[1], s->n, 8, buffer[2], buffer[3]);
}

static void layout_bounds(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    b[0] = (kernel_buffer){.element = KERNEL_I32, .n = (size_t)s->n, .align = 4};
    b[1] = (kernel_buffer){.element = KERNEL_I32, .n = 2, .out = true, .align = 4};
}

static void fill_bounds(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes,
                        void *const *buffer) {
    (void)c, (void)magnitudes;
    memset(buffer[1], 0, 8);
    for (int i = 0; i < s->n; i++)
        ((int32_t *)buffer[0])[i] = (int32_t)kernel_draw(&seed);
}

static void run_bounds(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                       void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->bounds(buffer[0], s->n, buffer[1], (int32_t *)buffer[1] + 1);
}

/* ---- activations ---- */

static void layout_act(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    b[0] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n, .align = 4};
    b[1] = (kernel_buffer){.element = KERNEL_I8, .n = (size_t)s->n, .out = true, .align = 1};
    b[2] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n / 32, .out = true, .align = 4};
    b[3] = (kernel_buffer){.element = KERNEL_I16, .n = (size_t)s->n / 16, .out = true, .align = 2};
}

/* Blocks of ordinary numbers, of zeros, of numbers too small to scale, and of whole and half codes. */
static void fill_act(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    (void)c, (void)magnitudes;
    float *x = buffer[0];
    for (int i = 0; i < s->n; i++) {
        float u = kernel_draw_float(&seed, false);
        switch (i / 32 % 4) {
        case 0:
            x[i] = u * 10;
            break;
        case 1:
            x[i] = s->variant ? 0 : u * 1e-31f;
            break;
        case 2:
            x[i] = i % 32 == 5 ? -127 : floorf(u * 40) + 0.5f;
            break;
        default:
            x[i] = u * 1e-3f;
        }
    }
    memset(buffer[1], 0x5a, (size_t)s->n);
    memset(buffer[2], 0x5a, (size_t)s->n / 32 * 4);
    memset(buffer[3], 0x5a, (size_t)s->n / 16 * 2);
}

static void run_act(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                    void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->act_quantize(buffer[0], s->n, buffer[1], buffer[2], buffer[3]);
}

/* ---- softmax ---- */

/* n pages. A part of the rows cannot be one call, as pages lie between: run copies it out and back. */
static void layout_softmax(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    size_t n = (size_t)s->n_rows;
    b[0] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n * n * PAGE_TOKENS, .out = true, .align = 4};
    for (int i = 1; i <= 3; i++) /* maximum, sum, correction */
        b[i] = (kernel_buffer){.element = KERNEL_F32, .n = n, .out = true, .align = 4};
}

/* Rows in turn, beginning with the variant: 0 first page, 1 a later page, 2 some slots masked, 3 all masked after
 * others, 4 all masked and nothing before, 5 scores so far apart that most exponentials are zero, 6 every second page
 * masked. */
static void fill_softmax(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes,
                         void *const *buffer) {
    (void)c, (void)magnitudes;
    float *x = buffer[0], *m = buffer[1], *l = buffer[2], *factor = buffer[3];
    for (int r = 0; r < s->n_rows; r++) {
        int kind = (s->variant + r) % 7;
        bool first = kind == 0 || kind == 4;
        m[r] = first ? -INFINITY : kernel_draw_float(&seed, false) * 3;
        l[r] = first ? 0 : 1 + kernel_draw_float(&seed, true) * 50;
        factor[r] = -7;
        for (int i = 0; i < s->n * PAGE_TOKENS; i++) {
            float *at = &x[(i / PAGE_TOKENS * s->n_rows + r) * PAGE_TOKENS + i % PAGE_TOKENS];
            *at = kernel_draw_float(&seed, false) * (kind == 5 ? 90 : 5);
            if (kind == 3 || kind == 4 || (kind == 2 && kernel_draw(&seed) % 3 == 0) ||
                (kind == 6 && i / PAGE_TOKENS % 2 == 0))
                *at = -INFINITY;
        }
    }
}

static void run_softmax(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                        void *const *buffer) {
    (void)c;
    float *x = buffer[0], *m = buffer[1], *l = buffer[2], *factor = buffer[3], part[16 * PAGE_TOKENS];
    if (n_rows == s->n_rows) {
        k->softmax_pages(x, s->n, n_rows, m, l, factor);
        return;
    }
    for (int page = 0; page < s->n; page++)
        memcpy(part + page * n_rows * PAGE_TOKENS, x + (page * s->n_rows + first) * PAGE_TOKENS,
               (size_t)(n_rows * PAGE_TOKENS) * sizeof(*part));
    k->softmax_pages(part, s->n, n_rows, m + first, l + first, factor + first);
    for (int page = 0; page < s->n; page++)
        memcpy(x + (page * s->n_rows + first) * PAGE_TOKENS, part + page * n_rows * PAGE_TOKENS,
               (size_t)(n_rows * PAGE_TOKENS) * sizeof(*part));
}

#define ROW_CASE(id, text, how, most_variant, lay, fills)                                                              \
    static const kernel_case id = {                                                                                    \
        .name = text,                                                                                                  \
        .rule = how,                                                                                                   \
        .step = {1, 1, 1, 0},                                                                                          \
        .most = {131, 1, 1, most_variant},                                                                             \
        .bench = {1536, 1, 1, 1},                                                                                      \
        .in_place = true,                                                                                              \
        .layout = lay,                                                                                                 \
        .fill = fills,                                                                                                 \
        .run = run_##id,                                                                                               \
    }

ROW_CASE(scale, "scale", KERNEL_BITS, 4, layout_one, fill_rows);
ROW_CASE(add_scaled, "add_scaled", KERNEL_SUM, 4, layout_two, fill_rows);
ROW_CASE(add, "add", KERNEL_BITS, 1, layout_two, fill_rows);
ROW_CASE(silu_mul, "silu_mul", KERNEL_NEAR, 1, layout_two, fill_wide);
ROW_CASE(gelu_mul, "gelu_mul", KERNEL_NEAR, 1, layout_two, fill_wide);
ROW_CASE(rms_norm, "rms_norm", KERNEL_NEAR, 2, layout_three, fill_rows);

static const kernel_case rope_pairs = {.name = "rope.pairs",
                                       .rule = KERNEL_SUM,
                                       .step = {2, 1, 1, 0},
                                       .most = {130, 1, 1, 1},
                                       .bench = {128, 1, 1, 0},
                                       .type = false,
                                       .in_place = true,
                                       .layout = layout_two,
                                       .fill = fill_rope,
                                       .run = run_rope};
static const kernel_case rope_halves = {.name = "rope.halves",
                                        .rule = KERNEL_SUM,
                                        .step = {2, 1, 1, 0},
                                        .most = {130, 1, 1, 1},
                                        .bench = {128, 1, 1, 0},
                                        .type = true,
                                        .in_place = true,
                                        .layout = layout_two,
                                        .fill = fill_rope,
                                        .run = run_rope};
static const kernel_case to_f16 = {.name = "f32_to_f16",
                                   .rule = KERNEL_BITS,
                                   .step = {1, 1, 1, 0},
                                   .most = {131, 1, 1, 1},
                                   .bench = {65536, 1, 1, 0},
                                   .layout = layout_to_f16,
                                   .fill = fill_to_f16,
                                   .run = run_to_f16};
static const kernel_case from_f16 = {.name = "f16_to_f32",
                                     .rule = KERNEL_BITS,
                                     .step = {1, 1, 1, 0},
                                     .most = {131, 1, 1, 1},
                                     .bench = {65536, 1, 1, 0},
                                     .layout = layout_from_f16,
                                     .fill = fill_from_f16,
                                     .run = run_from_f16};
static const kernel_case act_quantize = {.name = "act_quantize",
                                         .rule = KERNEL_BITS,
                                         .step = {32, 1, 1, 0},
                                         .most = {512, 1, 1, 2},
                                         .bench = {1536, 1, 1, 0},
                                         .layout = layout_act,
                                         .fill = fill_act,
                                         .run = run_act};
static const kernel_case softmax_pages = {.name = "softmax_pages",
                                          .rule = KERNEL_NEAR,
                                          .step = {1, 1, 1, 0},
                                          .most = {4, 11, 1, 7},
                                          .bench = {4, 6, 1, 1},
                                          .rows_apart = true,
                                          .in_place = true,
                                          .layout = layout_softmax,
                                          .fill = fill_softmax,
                                          .run = run_softmax};

static const kernel_case open_maps = {.name = "open_maps",
                                      .rule = KERNEL_SUM,
                                      .step = {1, 1, 1, 0},
                                      .most = {131, 1, 1, 2},
                                      .bench = {128, 1, 1, 0},
                                      .layout = layout_maps,
                                      .fill = fill_maps,
                                      .run = run_maps};
static const kernel_case bounds = {.name = "bounds",
                                   .rule = KERNEL_BITS,
                                   .step = {1, 1, 1, 0},
                                   .most = {131, 1, 1, 1},
                                   .bench = {64, 1, 1, 0},
                                   .layout = layout_bounds,
                                   .fill = fill_bounds,
                                   .run = run_bounds};

const kernel_case *const kernel_cases_rows[] = {&open_maps, &bounds,   &scale,        &add_scaled,    &add,
                                                &silu_mul,  &gelu_mul, &rms_norm,     &rope_pairs,    &rope_halves,
                                                &to_f16,    &from_f16, &act_quantize, &softmax_pages, NULL};
