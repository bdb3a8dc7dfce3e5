/* test_utf8.c - characters out of a stream of bytes: validity against the definition, nothing cut, nothing lost. */
#include "text/utf8.h"
#include "base/rng.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static const char MARK[] = "\xef\xbf\xbd"; /* U+FFFD */

static size_t write_character(uint32_t c, char *out) {
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
    for (int i = 0; i <= more; i++)
        out[i] = (char)(i ? 0x80 | (c >> 6 * (more - i) & 0x3F) : lead[more] | c >> 6 * more);
    return (size_t)more + 1;
}

static void every_character_is_valid_and_no_other_sequence(void **state) {
    (void)state;
    char bytes[4], out[16];
    for (uint32_t c = 0; c < 0x110000; c++) {
        size_t n = write_character(c, bytes);
        bool surrogate = c >= 0xD800 && c < 0xE000;
        assert_true(utf8_valid(bytes, n) == !surrogate);
        if (surrogate)
            continue;
        assert_true(utf8_complete(bytes, n) == n && utf8_repair(bytes, n, out) == n && !memcmp(bytes, out, n));
        for (size_t cut = 1; cut < n; cut++) { /* a beginning is held back, and is one mark when nothing follows */
            assert_true(!utf8_valid(bytes, cut) && utf8_complete(bytes, cut) == 0);
            assert_true(utf8_repair(bytes, cut, out) == 3 && !memcmp(out, MARK, 3));
        }
    }
    uint32_t n_valid = 0; /* all sequences of two and three bytes: as many are valid as there are characters in them */
    for (uint32_t x = 0; x < 1 << 24; x++) {
        for (int i = 0; i < 3; i++)
            bytes[i] = (char)(x >> 8 * i);
        n_valid += bytes[0] & 0x80 && utf8_valid(bytes, 3);
    }
    /* one of three bytes; one of two and an ASCII byte */
    assert_int_equal(n_valid, (0x10000 - 0x800 - 0x800) + 1920 * 128);
}

static void repair_marks_maximal_subparts(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *repaired; /* ? stands for a mark */
    } list[] = {{"a\xff"
                 "b",
                 "a?b"},
                {"\x80\x80", "??"},
                {"\xc0\x80", "??"},
                {"\xe0\x80\x80", "???"},
                {"\xf4\x90\x80\x80", "????"},
                {"\xe2\x82", "?"},
                {"\xe2\x82"
                 "x",
                 "?x"},
                {"\xf0\x9f\x98", "?"},
                {"\xf0\x9f"
                 "\xf0\x9f\x98\x80",
                 "?\xf0\x9f\x98\x80"},
                {"\xed\xa0\x80", "???"},
                {"\xc3", "?"},
                {"\xf8\x88\x80\x80\x80", "?????"}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        char want[40], out[40];
        size_t n = 0;
        for (const char *at = list[i].repaired; *at; at++)
            if (*at == '?') {
                memcpy(want + n, MARK, 3);
                n += 3;
            } else {
                want[n++] = *at;
            }
        assert_int_equal(utf8_repair(list[i].bytes, strlen(list[i].bytes), out), n);
        assert_memory_equal(out, want, n);
    }
}

/* Bytes that come one by one, shown as far as they are complete: each piece is valid or broken for good, and all pieces
 * repaired are the whole repaired. */
static void a_stream_never_splits_a_character(void **state) {
    (void)state;
    for (int round = 0; round < 3000; round++) {
        char all[64], held[68], shown[256], whole[256];
        size_t n = 0, n_held = 0, n_shown = 0;
        int n_parts = 1 + (int)(rng_u64(5, (uint64_t)round, 0) % 12);
        for (int k = 1; k <= n_parts; k++) {
            uint64_t draw = rng_u64(5, (uint64_t)round, (uint64_t)k);
            if (draw % 4 == 0)
                all[n++] = (char)(draw >> 20);
            else
                n += write_character((uint32_t)(draw >> 32) % 0xD800, all + n);
        }
        for (size_t i = 0; i < n; i++) {
            held[n_held++] = all[i];
            size_t ready = utf8_complete(held, n_held);
            assert_true(n_held - ready <= 3);
            n_shown += utf8_repair(held, ready, shown + n_shown);
            memmove(held, held + ready, n_held - ready);
            n_held -= ready;
        }
        n_shown += utf8_repair(held, n_held, shown + n_shown);
        size_t n_whole = utf8_repair(all, n, whole);
        assert_true(utf8_valid(whole, n_whole));
        assert_int_equal(n_shown, n_whole);
        assert_memory_equal(shown, whole, n_whole);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_character_is_valid_and_no_other_sequence),
        cmocka_unit_test(repair_marks_maximal_subparts),
        cmocka_unit_test(a_stream_never_splits_a_character),
    };
    return cmocka_run_group_tests_name("utf8", tests, NULL, NULL);
}
