/* kernel_cases_sparse.c - the cases of products with low-rank and with sparse matrices. */
#include "support/kernel_cases.h"
#include <math.h>

/* Any half below 2^3, subnormals among them. */
static void fill_halves(f16 *x, size_t n, uint64_t *state, bool magnitudes) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u = kernel_draw(state);
        x[i] = (f16)(u % 0x4800 | (magnitudes ? 0 : u >> 31 << 15));
    }
}

static void fill_floats(float *x, size_t n, uint64_t *state, bool magnitudes) {
    for (size_t i = 0; i < n; i++)
        x[i] = kernel_draw_float(state, magnitudes);
}

/* ---- low rank: a factor of rank variant + 1 ---- */

enum { L_FROM, L_FACTOR, L_TO };

/* What is read and what is written, by their rows' lengths. */
static void low_rank_layout(const kernel_size *s, int n_from, int n_to, kernel_buffer *b) {
    size_t rank = (size_t)s->variant + 1, n_rows = (size_t)s->n_rows;
    b[L_FROM] = (kernel_buffer){.element = KERNEL_F32, .n = n_rows * (size_t)n_from, .align = 4};
    b[L_FACTOR] = (kernel_buffer){.element = KERNEL_F16, .n = rank * (size_t)s->n, .stream = true, .align = 2};
    b[L_TO] = (kernel_buffer){.element = KERNEL_F32, .n = n_rows * (size_t)n_to, .out = true, .align = 4};
}

static void dots_layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    low_rank_layout(s, s->n, s->variant + 1, b);
}

static void add_layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    low_rank_layout(s, s->variant + 1, s->n, b);
}

static void low_rank_fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes,
                          void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    c->layout(c, s, b);
    fill_floats(buffer[L_FROM], b[L_FROM].n, &seed, magnitudes);
    fill_halves(buffer[L_FACTOR], b[L_FACTOR].n, &seed, magnitudes);
    fill_floats(buffer[L_TO], b[L_TO].n, &seed, magnitudes);
}

static void dots_run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                     void *const *buffer) {
    (void)c;
    low_rank_factor w = {s->n, s->variant + 1, buffer[L_FACTOR]};
    k->low_rank_dots(&w, (const float *)buffer[L_FROM] + first * w.n, n_rows, (float *)buffer[L_TO] + first * w.rank);
}

static void add_run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                    void *const *buffer) {
    (void)c;
    low_rank_factor w = {s->n, s->variant + 1, buffer[L_FACTOR]};
    k->low_rank_add(&w, (const float *)buffer[L_FROM] + first * w.rank, n_rows, (float *)buffer[L_TO] + first * w.n);
}

static double low_rank_ops(const kernel_case *c, const kernel_size *s) {
    (void)c;
    return 2.0 * s->n * (s->variant + 1) * s->n_rows;
}

#define LOW_RANK_CASE(id, text, which, of)                                                                             \
    static const kernel_case id = {                                                                                    \
        .name = text,                                                                                                  \
        .rule = KERNEL_SUM,                                                                                            \
        .step = {16, 1, 1, 0},                                                                                         \
        .most = {256, 13, 1, LOW_RANK_MOST},                                                                           \
        .bench = {64, 6, 1, 3},                                                                                        \
        .rows_apart = true,                                                                                            \
        .entry = of,                                                                                                   \
        .layout = which##_layout,                                                                                      \
        .fill = low_rank_fill,                                                                                         \
        .run = which##_run,                                                                                            \
        .ops = low_rank_ops,                                                                                           \
    }

LOW_RANK_CASE(low_rank_dots, "low_rank.dots", dots, ENTRY_LOW_RANK_DOTS);
LOW_RANK_CASE(low_rank_add, "low_rank.add", add, ENTRY_LOW_RANK_ADD);

/* ---- sparse: type 0 with places, 1 with as many terms of each row; odd variants have groups of 32 columns ---- */

enum { S_X, S_VALUE, S_PLACE, S_LESS, S_OUT };
enum { LISTED, EVEN, GROUP_BITS = 5 };

/* The number of terms, or of a row's. */
static int terms(const kernel_case *c, const kernel_size *s) {
    static const int listed[] = {80, 0, 1, 255, 257, 600}, even[] = {2, 1, 3, 13, 26, 256};
    return c->type == LISTED ? listed[s->variant] : s->n * even[s->variant];
}

static size_t n_groups(const kernel_size *s) {
    return s->variant & 1 ? (size_t)(s->n_out + (1 << GROUP_BITS) - 1) >> GROUP_BITS : 1;
}

static void sparse_layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    size_t n = (size_t)s->n, m = (size_t)s->n_out, n_rows = (size_t)s->n_rows, n_terms = (size_t)terms(c, s);
    size_t room = n_terms ? n_terms : 1;
    b[S_X] = (kernel_buffer){.element = KERNEL_F32, .n = n_rows * n, .align = 4};
    b[S_VALUE] = (kernel_buffer){.element = KERNEL_F16, .n = room, .stream = true, .align = 2};
    b[S_PLACE] = c->type == LISTED ? (kernel_buffer){.element = KERNEL_I16, .n = room, .stream = true, .align = 2}
                                   : (kernel_buffer){.element = KERNEL_U8, .n = room, .stream = true, .align = 1};
    b[S_LESS] = (kernel_buffer){.element = KERNEL_F32, .n = n_groups(s) * n, .align = 4};
    b[S_OUT] = (kernel_buffer){.element = KERNEL_F32, .n = n_rows * m, .out = true, .align = 4};
}

static void sparse_fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes,
                        void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    sparse_layout(c, s, b);
    fill_floats(buffer[S_X], b[S_X].n, &seed, magnitudes);
    fill_halves(buffer[S_VALUE], b[S_VALUE].n, &seed, magnitudes);
    fill_floats(buffer[S_LESS], b[S_LESS].n, &seed, magnitudes);
    fill_floats(buffer[S_OUT], b[S_OUT].n, &seed, magnitudes);
    for (size_t i = 0; i < b[S_LESS].n && magnitudes; i++)
        ((float *)buffer[S_LESS])[i] *= -1; /* it is subtracted */
    for (size_t i = 0; i < b[S_PLACE].n; i++) {
        int to = (int)(kernel_draw(&seed) % (uint32_t)s->n_out), from = (int)(kernel_draw(&seed) % (uint32_t)s->n);
        if (c->type == LISTED)
            ((uint16_t *)buffer[S_PLACE])[i] = (uint16_t)(to << 8 | from);
        else
            ((uint8_t *)buffer[S_PLACE])[i] = (uint8_t)to;
    }
}

static void sparse_run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n_rows,
                       void *const *buffer) {
    sparse_matrix w = {.n = s->n,
                       .m = s->n_out,
                       .n_terms = terms(c, s),
                       .value = buffer[S_VALUE],
                       .place = c->type == LISTED ? buffer[S_PLACE] : NULL,
                       .each = c->type == LISTED ? 0 : terms(c, s) / s->n,
                       .to = c->type == LISTED ? NULL : buffer[S_PLACE],
                       .less = buffer[S_LESS],
                       .group_bits = s->variant & 1 ? GROUP_BITS : 8};
    k->sparse(&w, (const float *)buffer[S_X] + first * s->n, n_rows, (float *)buffer[S_OUT] + first * s->n_out);
}

static double sparse_ops(const kernel_case *c, const kernel_size *s) {
    return 2.0 * terms(c, s) * s->n_rows;
}

#define SPARSE_CASE(id, text, form)                                                                                    \
    static const kernel_case id = {                                                                                    \
        .name = text,                                                                                                  \
        .rule = KERNEL_SUM,                                                                                            \
        .step = {8, 1, 8, 0},                                                                                          \
        .most = {256, 19, 256, 6},                                                                                     \
        .bench = {64, 6, 64, 0},                                                                                       \
        .rows_apart = true,                                                                                            \
        .entry = ENTRY_SPARSE,                                                                                         \
        .type = form,                                                                                                  \
        .layout = sparse_layout,                                                                                       \
        .fill = sparse_fill,                                                                                           \
        .run = sparse_run,                                                                                             \
        .ops = sparse_ops,                                                                                             \
    }

SPARSE_CASE(sparse_listed, "sparse.listed", LISTED);
SPARSE_CASE(sparse_even, "sparse.even", EVEN);

const kernel_case *const kernel_cases_sparse[] = {&low_rank_dots, &low_rank_add, &sparse_listed, &sparse_even, NULL};
