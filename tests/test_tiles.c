/* test_tiles.c - products by tiles: single instructions against what the manual says of them, and the kernels of the
 * level amx against those of avx512vnni, bit for bit at every number of rows. Where the machine has the level its own
 * instructions are tried too; the emulated ones run wherever avx512vnni does. */
#include "support/env.h"
#include "support/kernel_cases.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#ifdef __x86_64__
#include "support/x86/tiles.h"

/* ---- single instructions ---- */

enum { LDA = 80, LDB = 72, LDC = 68, FILLER = 0x5a }; /* bytes from row to row, more than 64 */

typedef struct trial_memory {
    uint8_t a[16][LDA], b[16][LDB], c[16][LDC];
} trial_memory;

static void draw_bytes(void *to, size_t n, uint64_t *state) {
    static const uint8_t limits[] = {0, 127, 128, 255};
    for (size_t i = 0; i < n; i++) {
        uint32_t u = kernel_draw(state);
        ((uint8_t *)to)[i] = u >> 31 ? limits[u % 4] : (uint8_t)(u >> 8);
    }
}

/* c as the manual has it: each 32-bit word plus four products of bytes for every k, in two's complement. */
static void multiply(trial_memory *x, int m, int k, int n) {
    for (int row = 0; row < m; row++)
        for (int column = 0; column < n; column++) {
            int64_t sum = 0;
            int32_t c;
            for (int i = 0; i < 4 * k; i++) {
                int8_t a = (int8_t)x->a[row][i];
                uint8_t b = x->b[i / 4][4 * column + i % 4];
                sum += (int64_t)a * b;
            }
            memcpy(&c, &x->c[row][4 * column], sizeof(c));
            uint32_t whole = (uint32_t)(c + sum);
            memcpy(&x->c[row][4 * column], &whole, sizeof(whole));
        }
}

static void try_product(void (*run)(const tiles_trial *), int m, int k, int n) {
    uint64_t state = (uint64_t)(m * 10000 + k * 100 + n);
    static trial_memory x, wanted;
    memset(&x, FILLER, sizeof(x));
    draw_bytes(x.a, sizeof(x.a), &state);
    draw_bytes(x.b, sizeof(x.b), &state);
    draw_bytes(x.c, sizeof(x.c), &state);
    wanted = x;
    multiply(&wanted, m, k, n);
    tiles_trial trial = {.m = m, .k = k, .n = n, .lda = LDA, .ldb = LDB, .ldc = LDC, .a = x.a, .b = x.b, .c = x.c};
    run(&trial);
    if (memcmp(&x, &wanted, sizeof(x)))
        fail_msg("a product of %d x %d by %d x %d words differs", m, k, k, n);
}

static void try_products(void (*run)(const tiles_trial *)) {
    for (int m = 1; m <= 16; m++)
        for (int k = 1; k <= 16; k++)
            for (int n = 1; n <= 16; n++)
                try_product(run, m, k, n);
}

static void emulated_instructions_do_what_the_manual_says(void **state) {
    (void)state;
    try_products(tiles_trial_emulated);
}

static void real_instructions_do_what_the_manual_says(void **state) {
    (void)state;
    if (!cpu_kernels_level("amx"))
        env_skip("this machine has no level amx");
    try_products(tiles_trial_real);
}

/* ---- kernels ---- */

enum { MOST_ROWS = 50 }; /* past three tiles of tokens */

typedef struct operands {
    void *at[KERNEL_BUFFERS];
    size_t bytes[KERNEL_BUFFERS];
    int out;
} operands;

static operands operands_new(const kernel_case *c, const kernel_size *s) {
    kernel_buffer shape[KERNEL_BUFFERS] = {{0}};
    operands o = {.out = -1};
    c->layout(c, s, shape);
    for (int i = 0; i < KERNEL_BUFFERS && shape[i].n; i++) {
        o.bytes[i] = shape[i].n * kernel_element_bytes(shape[i].element);
        o.at[i] = aligned_alloc(64, (o.bytes[i] + 63) / 64 * 64);
        assert_non_null(o.at[i]);
        if (shape[i].out)
            o.out = i;
    }
    c->fill(c, s, (uint64_t)s->n_rows, false, o.at);
    return o;
}

static void operands_free(operands *o) {
    for (int i = 0; i < KERNEL_BUFFERS; i++)
        free(o->at[i]);
}

static void compare(const kernel_case *c, const kernel_size *s, const cpu_kernels *tiled, const cpu_kernels *below) {
    operands x = operands_new(c, s), wanted = operands_new(c, s);
    c->run(tiled, c, s, 0, s->n_rows, x.at);
    c->run(below, c, s, 0, s->n_rows, wanted.at);
    if (memcmp(x.at[x.out], wanted.at[x.out], x.bytes[x.out]))
        fail_msg("%s of %d rows (n %d, out %d, variant %d): bits differ from avx512vnni's", c->name, s->n_rows, s->n,
                 s->n_out, s->variant);
    operands_free(&x);
    operands_free(&wanted);
}

/* The least length of the case's that is n or more. */
static int whole(const kernel_case *c, int n) {
    return (n + c->step.n - 1) / c->step.n * c->step.n;
}

/* Each integer product at 1 to MOST_ROWS rows, over lengths that end before, at and behind a chunk of 16 blocks. */
static void compare_all(const cpu_kernels *tiled) {
    const cpu_kernels *below = cpu_kernels_level("avx512vnni");
    static const int lengths[] = {32, 96, 480, 512, 544, 1152};
    for (int k = 0; kernel_cases_matmul[k]; k++) {
        const kernel_case *c = kernel_cases_matmul[k];
        if (pack_is_float((pack_type)c->type))
            continue;
        assert_ptr_not_equal(tiled->matmul[c->type], below->matmul[c->type]);
        for (int rows = 1; rows <= MOST_ROWS; rows++) {
            kernel_size s = {
                .n = whole(c, lengths[rows % 6]), .n_rows = rows, .n_out = 5 + rows % 3 * 19, .variant = rows % 2};
            compare(c, &s, tiled, below);
        }
        kernel_size wide = {.n = 4864, .n_rows = 48, .n_out = 53}; /* its rows do not stay in L2: chunks outermost */
        compare(c, &wide, tiled, below);
    }
}

static void emulated_kernels_have_the_bits_of_avx512vnni(void **state) {
    (void)state;
    const cpu_kernels *tiled = tiles_emulated_level();
    if (!tiled)
        env_skip("this machine has no level avx512vnni, whose vectors the products by tiles use too");
    compare_all(tiled);
}

static void real_kernels_have_the_bits_of_avx512vnni(void **state) {
    (void)state;
    const cpu_kernels *tiled = cpu_kernels_level("amx");
    if (!tiled)
        env_skip("this machine has no level amx");
    compare_all(tiled);
}

/* Sixteen rows and more go through tiles, one product for each block and panel; fewer do not; and no call leaves the
 * registers open. */
static void tiles_are_used_and_given_back(void **state) {
    (void)state;
    const cpu_kernels *tiled = tiles_emulated_level();
    if (!tiled)
        env_skip("this machine has no level avx512vnni, whose vectors the products by tiles use too");
    for (int rows = 1; rows <= MOST_ROWS; rows++)
        for (int k = 0; kernel_cases_matmul[k]; k++) {
            const kernel_case *c = kernel_cases_matmul[k];
            if (pack_is_float((pack_type)c->type))
                continue;
            kernel_size s = {.n = whole(c, 96), .n_rows = rows, .n_out = 53};
            operands x = operands_new(c, &s);
            long before = tiles_emulated_products(), groups = s.n / (c->type == PACK_K6 ? 16 : 32);
            c->run(tiled, c, &s, 0, rows, x.at);
            assert_int_equal(tiles_emulated_products() - before, rows / 16 * 4 * groups);
            assert_false(tiles_emulated_open());
            operands_free(&x);
        }
}
#endif

int main(void) {
#ifdef __x86_64__
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(emulated_instructions_do_what_the_manual_says),
        cmocka_unit_test(real_instructions_do_what_the_manual_says),
        cmocka_unit_test(emulated_kernels_have_the_bits_of_avx512vnni),
        cmocka_unit_test(real_kernels_have_the_bits_of_avx512vnni),
        cmocka_unit_test(tiles_are_used_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    return 0;
#endif
}
