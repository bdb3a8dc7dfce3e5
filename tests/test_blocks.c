/* test_blocks.c - the eleven weight types: every value as an independent reference has it
 * (scripts/golden/make_blocks.py), the affine form that packing uses, and the half floats below them. */
#include "cpu/blocks.h"
#include "base/f16.h"
#include "support/env.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MOST_VALUES = 4096 };

/* Reads hex digits up to a space or the line's end; bytes read. */
static size_t read_hex(char **at, uint8_t *out) {
    size_t n = 0;
    unsigned byte;
    while (**at == ' ')
        (*at)++;
    for (; sscanf(*at, "%2x", &byte) == 1 && **at != ' ' && **at != '\n'; *at += 2)
        out[n++] = (uint8_t)byte;
    return n;
}

/* One type of the golden file: blocks (moved by `shift` bytes, alignment must not matter) to exactly these floats. */
static void check_type(uint32_t type, int n, const uint8_t *blocks, size_t n_bytes, const float *want) {
    static uint8_t moved[MOST_VALUES * 4 + 8];
    const block_traits *traits = block_traits_of(type);
    float got[MOST_VALUES];
    assert_non_null(traits->name);
    assert_int_equal(n % traits->elements, 0);
    assert_int_equal(n_bytes, (size_t)(n / traits->elements * traits->bytes));
    for (size_t shift = 0; shift < 4; shift += 3) {
        memcpy(moved + shift, blocks, n_bytes);
        block_open((block_type)type, moved + shift, n, got);
        for (int i = 0; i < n; i++)
            if (!(got[i] == want[i]))
                fail_msg("%s[%d] is %.9g, the reference has %.9g", traits->name, i, (double)got[i], (double)want[i]);
    }
    if (traits->elements == 1)
        return;
    for (int group = 0; group < n / 16; group++) {
        uint8_t code[16];
        float scale, minimum;
        block_affine16((block_type)type, blocks, group, code, &scale, &minimum);
        for (int i = 0; i < 16; i++)
            assert_true(fmaf(scale, code[i], minimum) == want[16 * group + i]);
    }
}

static void every_type_is_what_the_reference_says(void **state) {
    (void)state;
    static uint8_t blocks[MOST_VALUES * 4], values[MOST_VALUES * 4];
    char *text = env_data("golden/blocks.txt", NULL), *at = text;
    int n_types = 0, type, n, used;
    while (sscanf(at, "%d %d%n", &type, &n, &used) == 2) {
        float want[MOST_VALUES];
        assert_true(n <= MOST_VALUES);
        at += used;
        size_t n_bytes = read_hex(&at, blocks);
        assert_int_equal(read_hex(&at, values), (size_t)n * 4);
        memcpy(want, values, (size_t)n * 4);
        check_type((uint32_t)type, n, blocks, n_bytes, want);
        n_types++;
        at += *at == '\n';
    }
    assert_int_equal(n_types, 11);
    free(text);
}

static void unknown_types_have_no_name(void **state) {
    (void)state;
    int n_known = 0;
    for (uint32_t type = 0; type < 300; type++)
        n_known += block_traits_of(type)->name != NULL;
    assert_int_equal(n_known, 11);
    assert_null(block_traits_of(UINT32_MAX)->name);
}

/* ---- half floats ---- */

static double half_value(unsigned h) {
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
    double x = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -x : x;
}

static void halves_are_exact_and_round_to_nearest_even(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        float x = f16_to_f32((f16)h);
        if ((h & 0x7c00) == 0x7c00) {
            assert_true(h & 1023 ? isnan(x) : isinf(x) && (x < 0) == (h >> 15));
            continue;
        }
        assert_true((double)x == half_value(h) && !!signbit(x) == h >> 15);
        assert_int_equal(f16_from_f32(x), h);
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        double middle = (half_value(h) + half_value(h + 1)) / 2; /* exact as a float */
        assert_int_equal(f16_from_f32((float)middle), h & 1 ? h + 1 : h);
        assert_int_equal(f16_from_f32(nextafterf((float)middle, x)), h);
        assert_int_equal(f16_from_f32(nextafterf((float)middle, (float)half_value(h + 1))), h + 1);
    }
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_int_equal(f16_from_f32(nextafterf(65520, 0)), 0x7bff);
    assert_true(isnan(f16_to_f32(f16_from_f32(NAN))));
}

static void bfloats_are_the_upper_half_of_a_float(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint32_t bits = h << 16;
        float x;
        memcpy(&x, &bits, 4);
        float got = bf16_to_f32((uint16_t)h);
        assert_true(isnan(x) ? isnan(got) : got == x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_what_the_reference_says),
        cmocka_unit_test(unknown_types_have_no_name),
        cmocka_unit_test(halves_are_exact_and_round_to_nearest_even),
        cmocka_unit_test(bfloats_are_the_upper_half_of_a_float),
    };
    return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
