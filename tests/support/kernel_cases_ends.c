/* kernel_cases_ends.c - the cases of the ends of columns. Values are whole numbers, so that many of them are equal, or
 * any. */
#include "support/kernel_cases.h"

enum { X, LOW, HIGH, MEAN, MARK = MEAN, N_SHARES = 4 };

/* Elements on each end: one, a few, up to half of the column. */
static int count(const kernel_size *s) {
    int share[N_SHARES] = {1, 5, s->n / 3, s->n / 2}, c = share[s->variant % N_SHARES];
    return c < 1 ? 1 : c < s->n / 2 ? c : s->n / 2;
}

static void layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    size_t n_columns = (size_t)s->n_out;
    bool marks = c->type;
    b[X] = (kernel_buffer){.element = KERNEL_F32, .n = (size_t)s->n * n_columns, .align = 4};
    b[LOW] = b[HIGH] = (kernel_buffer){.element = KERNEL_F32, .n = n_columns, .out = !marks, .align = 4};
    b[MEAN] = (kernel_buffer){.element = marks ? KERNEL_I32 : KERNEL_F32, .n = n_columns, .out = true, .align = 4};
}

static void fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    kernel_buffer b[KERNEL_BUFFERS] = {0};
    layout(c, s, b);
    for (int k = X; k <= HIGH; k++)
        for (size_t i = 0; i < b[k].n; i++) {
            float x = kernel_draw_float(&seed, magnitudes);
            ((float *)buffer[k])[i] = s->variant < N_SHARES ? x : (float)(int)(3 * x) + 0.5f;
        }
    for (size_t i = 0; i < b[MEAN].n; i++)
        ((uint32_t *)buffer[MEAN])[i] = 0;
}

static void run_ends(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                     void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->column_ends(buffer[X], s->n, s->n_out, count(s), buffer[LOW], buffer[HIGH], buffer[MEAN]);
}

static void run_mark(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                     void *const *buffer) {
    (void)c, (void)first, (void)n;
    k->mark_ends(buffer[X], s->n, s->n_out, buffer[LOW], buffer[HIGH], buffer[MARK]);
}

static const kernel_case column_ends = {
    .name = "column_ends",
    .rule = KERNEL_BITS,
    .step = {2, 1, 8, 0},
    .most = {100, 1, 64, 2 * N_SHARES},
    .bench = {512, 1, 64, 1},
    .type = false,
    .layout = layout,
    .fill = fill,
    .run = run_ends,
};
static const kernel_case mark_ends = {
    .name = "mark_ends",
    .rule = KERNEL_BITS,
    .step = {1, 1, 8, 0},
    .most = {32, 1, 256, 2 * N_SHARES},
    .bench = {32, 1, 64, 1},
    .type = true,
    .layout = layout,
    .fill = fill,
    .run = run_mark,
};

const kernel_case *const kernel_cases_ends[] = {&column_ends, &mark_ends, NULL};
