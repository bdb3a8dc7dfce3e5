/* test_pack.c - packed matrices: what the products make of a file's rows at every level, bit for bit, and the bytes.
 *
 * The reference opens the rows by block_affine16 into float scales and minima and follows pack.h's formula, so no form
 * that a packed type takes on its way may round anything or put a number in another place. */
#include "cpu/pack.h"
#include "cpu/kernels.h"
#include "support/kernel_cases.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#ifdef __x86_64__
#include "support/x86/tiles.h"
#endif

enum { MOST_COLS = 1280, N_ROWS = 37, N_TOKENS = 35, LINE = 64 };

static const block_type integer_types[] = {BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0, BLOCK_Q5_1,
                                           BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K};
enum { N_TYPES = sizeof(integer_types) / sizeof(*integer_types) };

/* Rows of random blocks whose halves are finite, below 2, subnormal ones among them. */
static uint8_t *draw_rows(block_type type, int n_cols, uint64_t *state) {
    const block_traits *traits = block_traits_of(type);
    size_t n_blocks = (size_t)(N_ROWS * (n_cols / traits->elements)), bytes = (size_t)traits->bytes;
    bool two = type == BLOCK_Q4_1 || type == BLOCK_Q5_1 || type == BLOCK_Q4_K || type == BLOCK_Q5_K;
    uint8_t *rows = malloc(n_blocks * bytes);
    assert_non_null(rows);
    for (size_t i = 0; i < n_blocks * bytes; i++)
        rows[i] = (uint8_t)(kernel_draw(state) >> 8);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *half = rows + b * bytes + (type == BLOCK_Q6_K ? 208 : 0);
        half[1] &= 0xbf; /* the exponent's highest bit */
        if (two)
            half[3] &= 0xbf;
    }
    return rows;
}

typedef struct activations {
    int8_t code[N_TOKENS * MOST_COLS];
    float scale[N_TOKENS * MOST_COLS / 32];
    int16_t sum16[N_TOKENS * MOST_COLS / 16];
} activations;

static act_rows draw_activations(activations *a, int n_cols, uint64_t *state) {
    int n = N_TOKENS * n_cols;
    memset(a->sum16, 0, sizeof(a->sum16));
    for (int i = 0; i < n; i++) {
        a->code[i] = (int8_t)((int)(kernel_draw(state) % 255) - 127);
        a->sum16[i / 16] = (int16_t)(a->sum16[i / 16] + a->code[i]);
    }
    for (int i = 0; i < n / 32; i++)
        a->scale[i] = kernel_draw_unit(state);
    return (act_rows){.n_cols = n_cols, .code = a->code, .scale = a->scale, .sum16 = a->sum16};
}

/* One row times one token as pack.h has it; fused: with one rounding for each fma. */
static float reference(block_type type, const uint8_t *row, int n_cols, const act_rows *x, int token, bool fused) {
    int n_groups = type == BLOCK_Q6_K ? 2 : 1, width = PACK_BLOCK / n_groups;
    float acc = 0;
    for (int g = 0; g < n_cols / width; g++) {
        int sum = 0, a_sum = 0;
        float scale = 0, minimum = 0;
        for (int i = 0; i < width; i += 16) {
            uint8_t code[16];
            const int8_t *a = x->code + token * n_cols + g * width + i;
            block_affine16(type, row, (g * width + i) / 16, code, &scale, &minimum);
            for (int j = 0; j < 16; j++) {
                sum += code[j] * a[j];
                a_sum += a[j];
            }
        }
        float a_scale = x->scale[(token * n_cols + g * width) / PACK_BLOCK], t = minimum * (float)a_sum;
        if (fused) {
            acc = fmaf(a_scale, fmaf(scale, (float)sum, t), acc);
        } else {
            t += scale * (float)sum;
            acc += a_scale * t;
        }
    }
    return acc;
}

static const cpu_kernels *nth_level(int i) {
    const char *name = cpu_level_names()[i];
#ifdef __x86_64__
    if (!name)
        return tiles_emulated_level();
#endif
    return name ? cpu_kernels_level(name) : NULL;
}

static int count_levels(void) {
    int n = 0;
    while (cpu_level_names()[n])
        n++;
    return n;
}

static void check_product(block_type type, int n_cols, int n_tokens) {
    uint64_t state = (uint64_t)(type * 10000 + (uint32_t)n_cols);
    static activations memory;
    static float out[N_TOKENS][N_ROWS], want[2][N_TOKENS][N_ROWS];
    uint8_t *rows = draw_rows(type, n_cols, &state);
    act_rows x = draw_activations(&memory, n_cols, &state);
    size_t row_bytes = (size_t)(n_cols / block_traits_of(type)->elements * block_traits_of(type)->bytes);
    pack_type packed = pack_type_of(type);
    uint8_t *data = aligned_alloc(LINE, pack_bytes(packed, N_ROWS, n_cols));
    assert_non_null(data);
    memset(data, 0x5a, pack_bytes(packed, N_ROWS, n_cols));
    pack_panels(type, rows, N_ROWS, n_cols, 0, pack_panel_count(N_ROWS), data);
    pack_matrix w = {.type = packed, .n_rows = N_ROWS, .n_cols = n_cols, .data = data};
    w.panel_bytes = pack_bytes(packed, 1, n_cols);
    for (int t = 0; t < n_tokens; t++)
        for (int r = 0; r < N_ROWS; r++)
            for (int fused = 0; fused < 2; fused++)
                want[fused][t][r] = reference(type, rows + (size_t)r * row_bytes, n_cols, &x, t, fused);
    for (int l = 0; l <= count_levels(); l++) {
        const cpu_kernels *k = nth_level(l);
        if (!k)
            continue;
        k->matmul[packed](&w, 0, pack_panel_count(N_ROWS), &x, n_tokens, out[0], N_ROWS);
        bool fused = strcmp(k->level, "portable");
        if (memcmp(out, want[fused], (size_t)n_tokens * sizeof(out[0])))
            fail_msg("%s, %d columns, %d tokens: the product of level %s differs", block_traits_of(type)->name, n_cols,
                     n_tokens, k->level);
    }
    free(data);
    free(rows);
}

/* Lengths that end before, at and behind a chunk of 16 blocks, chunks that start within a super-block, and for blocks
 * of 32 an odd number of them. */
static void products_are_those_of_the_files_values(void **state) {
    (void)state;
    static const int lengths[] = {32, 96, 544, 256, 512, 768, 1280}, tokens[] = {1, 2, 7, 17, 35};
    for (int i = 0; i < N_TYPES; i++)
        for (int l = 0; l < 7; l++)
            for (int t = 0; t < 5; t++)
                if (lengths[l] % block_traits_of(integer_types[i])->elements == 0)
                    check_product(integer_types[i], lengths[l], tokens[t]);
}

/* A panel of 16 rows x 512 columns, 128 numbers of the file each: what decode reads. */
static void packed_weights_are_as_small_as_the_files(void **state) {
    (void)state;
    static const struct {
        block_type type;
        size_t bytes; /* of 16 rows x 512 columns */
    } wanted[] = {{BLOCK_Q4_0, 4608}, {BLOCK_Q4_1, 5120}, {BLOCK_Q5_0, 8704}, {BLOCK_Q5_1, 9216},
                  {BLOCK_Q8_0, 8704}, {BLOCK_Q4_K, 4736}, {BLOCK_Q5_K, 8832}, {BLOCK_Q6_K, 6720}};
    for (int i = 0; i < N_TYPES; i++) {
        pack_type type = pack_type_of(wanted[i].type);
        assert_int_equal(pack_bytes(type, 16, 512), wanted[i].bytes);
        assert_int_equal(pack_bytes(type, 17, 512), 2 * wanted[i].bytes);
    }
}

static void impossible_sizes_have_no_bytes(void **state) {
    (void)state;
    for (int type = 0; type < PACK_COUNT; type++) {
        int step = pack_is_float((pack_type)type) ? 1 : pack_parts_of((pack_type)type).super ? 256 : 32;
        assert_int_equal(pack_bytes((pack_type)type, 0, 256), 0);
        assert_int_equal(pack_bytes((pack_type)type, 16, 0), 0);
        assert_int_equal(pack_bytes((pack_type)type, INT64_MAX - 64, 1 << 20), 0);
        assert_int_equal(pack_bytes((pack_type)type, 16, 256 + step) > 0, true);
        if (step > 1)
            assert_int_equal(pack_bytes((pack_type)type, 16, 256 + step / 2), 0);
        assert_int_equal(pack_bytes((pack_type)type, 1, 3 * step) % LINE, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_the_files_values),
        cmocka_unit_test(packed_weights_are_as_small_as_the_files),
        cmocka_unit_test(impossible_sizes_have_no_bytes),
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
