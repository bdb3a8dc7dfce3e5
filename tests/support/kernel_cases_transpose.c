/* kernel_cases_transpose.c - the case of a matrix transposed. Gaps between rows are NaN, of which a kernel that reads
 * one leaves a trace; odd variants have them. */
#include "support/kernel_cases.h"
#include <math.h>

enum { X, Y };

static size_t ldx(const kernel_size *s) {
    return (size_t)s->n_out + (s->variant & 1 ? 3 : 0);
}

static size_t ldy(const kernel_size *s) {
    return (size_t)s->n + (s->variant & 1 ? 5 : 0);
}

static void layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    (void)c;
    size_t n_rows = (size_t)s->n, n_columns = (size_t)s->n_out;
    b[X] = (kernel_buffer){.element = KERNEL_F32, .n = (n_rows - 1) * ldx(s) + n_columns, .align = 4};
    b[Y] = (kernel_buffer){.element = KERNEL_F32, .n = (n_columns - 1) * ldy(s) + n_rows, .out = true, .align = 4};
}

static void fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    layout(c, s, b);
    for (size_t i = 0; i < b[X].n; i++)
        ((float *)buffer[X])[i] = i % ldx(s) < (size_t)s->n_out ? kernel_draw_float(&seed, magnitudes) : NAN;
    for (size_t i = 0; i < b[Y].n; i++)
        ((float *)buffer[Y])[i] = 1;
}

static void run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->transpose(buffer[X], ldx(s), s->n, s->n_out, buffer[Y], ldy(s));
}

static const kernel_case transpose = {
    .name = "transpose",
    .rule = KERNEL_BITS,
    .step = {1, 1, 1, 0},
    .most = {70, 1, 70, 2},
    .bench = {64, 1, 64, 0},
    .layout = layout,
    .fill = fill,
    .run = run,
};

const kernel_case *const kernel_cases_transpose[] = {&transpose, NULL};
