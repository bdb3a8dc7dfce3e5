/* test_csv.c - CSV by column name: what is accepted comes out byte for byte, what is refused names file and line. */
#include "base/csv.h"
#include "base/rng.h"
#include "support/env.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static const char *const wanted[] = {"name", "score", "?note", NULL};
enum { NAME, SCORE, NOTE };

static pleat_status write_row(void *context, const csv_row *row, pleat_error *error) {
    (void)error;
    text_printf(context, "%d[%s|%s|%s]", row->line, row->value[NAME], row->value[SCORE],
                row->value[NOTE] ? row->value[NOTE] : "none");
    return PLEAT_OK;
}

static void gives(const char *file, const char *rows) {
    text t = {0};
    pleat_error error = {""};
    pleat_status status = csv_read_bytes("f.csv", file, strlen(file), wanted, write_row, &t, &error);
    assert_string_equal(error.text, "");
    assert_int_equal(status, PLEAT_OK);
    assert_string_equal(t.bytes ? t.bytes : "", rows);
    text_free(&t);
}

static void refuses(const char *file, size_t n, const char *sentence) {
    text t = {0};
    pleat_error error = {""};
    assert_int_equal(csv_read_bytes("f.csv", file, n, wanted, write_row, &t, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, sentence);
    text_free(&t);
}

static void refuses_text(const char *file, const char *sentence) {
    refuses(file, strlen(file), sentence);
}

static void forms_are_read(void **state) {
    (void)state;
    gives("name,score\na,1\nb,2\n", "2[a|1|none]3[b|2|none]");
    gives("note,score,other,name\nx,1,,a\n,2,z,b", "2[a|1|x]3[b|2|]");
    gives("name,score\r\na,1\r\n\r\nb,2\r\n", "2[a|1|none]4[b|2|none]");
    gives("name,score\ra,1\rb,2", "2[a|1|none]3[b|2|none]");
    gives("\xef\xbb\xbfname,score\na,1\n", "2[a|1|none]");
    gives("\"name\",\"score\"\n\"a,b\",\"say \"\"yes\"\"\"\n", "2[a,b|say \"yes\"|none]");
    gives("name,score\n\"two\r\nlines\",1\nb,2\n", "2[two\r\nlines|1|none]4[b|2|none]");
    gives("name , score\n a ,\t1 \n\" b \",2\n", "2[a|1|none]3[ b |2|none]");
    gives("name,score\n\xc3\xa9\xe4\xb8\xad,1\n", "2[\xc3\xa9\xe4\xb8\xad|1|none]");
    gives("name,score\n", "");
}

static void bad_files_are_named_by_line(void **state) {
    (void)state;
    refuses_text("", "f.csv: is empty, a header row with the column \"name\" is needed");
    refuses_text("\n\n", "f.csv: is empty, a header row with the column \"name\" is needed");
    refuses_text("name,mark\na,1\n", "f.csv: line 1: the header lacks the column \"score\" (it has: name, mark)");
    refuses_text("name,score,name\na,1,b\n", "f.csv: line 1: the header has the column \"name\" twice");
    refuses_text("name,score\na,1\nb\n", "f.csv: line 3: 1 cell where the header has 2");
    refuses_text("name,score\n\"x\ny\",1\nb,2,3\n", "f.csv: line 4: 3 cells where the header has 2");
    refuses_text("name,score\na,1\nb\"c,2\n", "f.csv: line 3: a quote stands in the wrong place");
    refuses_text("name,score\na,1\n\"b,2\nc,3\n", "f.csv: line 3: a quoted cell does not end");
    refuses_text("name,score\na,1\nb,\xff\n", "f.csv: line 3: cell 2 is not UTF-8 text");
    refuses("name,score\na\0b,1\n", 17, "f.csv: line 2: cell 1 is not UTF-8 text");
    refuses_text("\xff\xfen", "f.csv: is UTF-16 text, save it as UTF-8");
    pleat_error error;
    assert_int_equal(csv_read("/nowhere/f.csv", wanted, write_row, NULL, &error), PLEAT_EIO);
    assert_string_equal(error.text, "/nowhere/f.csv: cannot be opened: No such file or directory");
}

static pleat_status stop_at_three(void *context, const csv_row *row, pleat_error *error) {
    ++*(int *)context;
    return row->line == 3 ? csv_fail(row, error, "enough of %s", row->value[NAME]) : PLEAT_OK;
}

static void a_visitor_ends_the_reading(void **state) {
    (void)state;
    static const char file[] = "name,score\na,1\nb,2\nc,3\nd,4\n";
    int n = 0;
    pleat_error error;
    assert_int_equal(csv_read_bytes("f.csv", file, strlen(file), wanted, stop_at_three, &n, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "f.csv: line 3: enough of b");
    assert_int_equal(n, 2);
}

static void numbers_are_checked(void **state) {
    (void)state;
    csv_row row = {.file = "f.csv", .line = 7, .column = wanted, .n = 3};
    static const char *const bad[] = {"", " 1", "1 ", "0x10", "nan", "inf", "1.5.2", "--1", "1e", "one", "e", NULL};
    pleat_error error;
    double x = 0;
    int64_t i = 0;
    for (const char *const *s = bad; *s; s++) {
        row.value[SCORE] = *s;
        assert_int_equal(csv_real(&row, SCORE, -1e9, 1e9, &x, &error), PLEAT_EINPUT);
        assert_int_equal(csv_int(&row, SCORE, -100, 100, &i, &error), PLEAT_EINPUT);
    }
    row.value[SCORE] = "-2.5e-1";
    assert_int_equal(csv_real(&row, SCORE, -1, 1, &x, &error), PLEAT_OK);
    assert_true(x == -0.25);
    assert_int_equal(csv_int(&row, SCORE, -1, 1, &i, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "f.csv: line 7: score is \"-2.5e-1\", not a whole number");
    row.value[SCORE] = "1.25";
    assert_int_equal(csv_real(&row, SCORE, 0, 1, &x, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "f.csv: line 7: score is 1.25, outside of 0 to 1");
    row.value[SCORE] = "1e999";
    assert_int_equal(csv_real(&row, SCORE, 0, 1, &x, &error), PLEAT_EINPUT);
    row.value[SCORE] = "99999999999999999999";
    assert_int_equal(csv_int(&row, SCORE, 0, INT64_MAX, &i, &error), PLEAT_EINPUT);
    row.value[SCORE] = "-42";
    assert_int_equal(csv_int(&row, SCORE, -100, 100, &i, &error), PLEAT_OK);
    assert_int_equal(i, -42);
    row.value[NOTE] = NULL;
    assert_int_equal(csv_real(&row, NOTE, 0, 1, &x, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "f.csv: line 7: note is \"\", not a number");
}

static void a_table_holds_what_was_read(void **state) {
    (void)state;
    const char *path = env_temp("table.csv");
    FILE *f = fopen(path, "w");
    fputs("score,name\n", f);
    for (int i = 0; i < 3000; i++)
        fprintf(f, "%d,\"row, %d\"\n", i * 7, i);
    fclose(f);
    csv_table t;
    assert_int_equal(csv_table_read(path, wanted, &t, NULL), PLEAT_OK);
    assert_int_equal(t.n_rows, 3000);
    csv_row row = csv_table_row(&t, 2999);
    assert_string_equal(row.value[NAME], "row, 2999");
    assert_string_equal(row.value[SCORE], "20993");
    assert_null(row.value[NOTE]);
    assert_int_equal(row.line, 3001);
    assert_string_equal(csv_table_row(&t, 0).value[NAME], "row, 0");
    csv_table_free(&t);
    remove(path);
}

static void what_is_put_is_read_again(void **state) {
    (void)state;
    static const char *const cells[] = {"plain", "", "a,b", "\"", "two\nlines", " led", "trailed\t", "\xc3\xa9", NULL};
    for (const char *const *s = cells; *s; s++) {
        text file = {0}, rows = {0}, expected = {0};
        text_puts(&file, "name,score\n");
        csv_put(&file, *s);
        text_puts(&file, ",1\n");
        assert_int_equal(csv_read_bytes("f.csv", file.bytes, file.n, wanted, write_row, &rows, NULL), PLEAT_OK);
        text_printf(&expected, "2[%s|1|none]", *s);
        assert_string_equal(rows.bytes, expected.bytes);
        text_free(&file);
        text_free(&rows);
        text_free(&expected);
    }
}

static pleat_status take_numbers(void *context, const csv_row *row, pleat_error *error) {
    double x;
    int64_t i;
    (void)context;
    if (csv_real(row, SCORE, 0, 1, &x, error) || csv_int(row, NAME, 0, 9, &i, error))
        assert_non_null(strstr(error->text, ": line "));
    return PLEAT_OK;
}

/* Any bytes give rows or one sentence; under the sanitizers also no stray read. */
static void damaged_files_do_no_harm(void **state) {
    (void)state;
    static const char whole[] = "\xef\xbb\xbfname,score,\"note\"\r\n1,0.5,\"a \"\"b\"\"\nc\"\r\n2,1,\n\xc3\xa9,3,x";
    static const char bytes[] = {0, '"', ',', '\n', '\r', ' ', '\xff', '\xe4', 'e', '-'};
    for (int i = 0; i < 20000; i++) {
        char file[sizeof(whole)];
        memcpy(file, whole, sizeof(whole));
        size_t n = i % 3 ? sizeof(whole) - 1 : rng_u64(1, (uint64_t)i, 0) % sizeof(whole);
        for (int k = 0; k < 1 + i % 4; k++)
            file[rng_u64(1, (uint64_t)i, 1 + 2 * (uint64_t)k) % sizeof(whole)] =
                bytes[rng_u64(1, (uint64_t)i, 2 + 2 * (uint64_t)k) % sizeof(bytes)];
        char *exact = malloc(n ? n : 1); /* so that a byte too far is seen */
        assert_non_null(exact);
        memcpy(exact, file, n);
        pleat_error error = {""};
        if (csv_read_bytes("f.csv", exact, n, wanted, take_numbers, NULL, &error))
            assert_memory_equal(error.text, "f.csv: ", 7);
        free(exact);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_are_read),
        cmocka_unit_test(bad_files_are_named_by_line),
        cmocka_unit_test(a_visitor_ends_the_reading),
        cmocka_unit_test(numbers_are_checked),
        cmocka_unit_test(a_table_holds_what_was_read),
        cmocka_unit_test(what_is_put_is_read_again),
        cmocka_unit_test(damaged_files_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
