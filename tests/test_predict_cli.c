/* test_predict_cli.c - `pleat predict throughput` as a person meets it: fixed fields, the same figures from files and
 * from a store, a page, and one sentence for what is wrong. */
#include "support/env.h"
#include "support/page.h"
#include "support/program.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

#define SMALL    "tests/data/predict"
#define MEASURED SMALL "/measured.csv"

/* --json stands last: `predict` takes two words first. */
static json_t *json_of(const char *const *arguments) {
    program_result r = program_run(arguments, NULL, 0);
    if (r.code)
        fail_msg("exit code %d: %s", r.code, r.err);
    json_t *o = json_loads(r.out, 0, NULL);
    assert_non_null(o);
    program_free(&r);
    return o;
}
#define JSON(...) json_of((const char *const[]){"predict", "throughput", __VA_ARGS__, "--json", NULL})

static double number(const json_t *o, const char *key) {
    const json_t *value = json_object_get(o, key);
    if (!json_is_number(value))
        fail_msg("%s is not a number", key);
    return json_number_value(value);
}

static void check_cells(const json_t *o, bool calibrated) {
    const json_t *cells = json_object_get(o, "cells"), *cell;
    static const char *const stages[] = {"prefill", "decode"};
    size_t i;
    assert_int_equal(json_array_size(cells), 2);
    json_array_foreach(cells, i, cell) {
        assert_string_equal(json_string_value(json_object_get(cell, "method")), "plain");
        assert_string_equal(json_string_value(json_object_get(cell, "stage")), stages[i]);
        assert_int_equal(number(cell, "n"), 2);
        double accuracy = number(cell, "accuracy");
        assert_true(accuracy > 0 && accuracy < 1);
        assert_int_equal(json_is_true(json_object_get(cell, "in_sample")), calibrated);
    }
    assert_int_equal(json_array_size(json_object_get(o, "points")), 4);
}

static void files_are_scored(void **state) {
    (void)state;
    json_t *plain = JSON("eval", "--profile", SMALL, "--measured", MEASURED, "--method", "plain"),
           *fitted = JSON("eval", "--profile", SMALL, "--measured", MEASURED, "--method", "plain", "--calibrate",
                          MEASURED, "--base", "plain");
    check_cells(plain, false);
    check_cells(fitted, true);
    assert_true(number(fitted, "mean_accuracy") > number(plain, "mean_accuracy"));
    json_decref(plain);
    json_decref(fitted);
    json_t *short_reads = JSON("query", "--profile", SMALL, "--method", "plain", "--budget", "10", "--batch", "1",
                               "--prompt", "500", "--stage", "decode");
    const json_t *stage = json_array_get(json_object_get(short_reads, "stages"), 0);
    assert_float_equal(number(stage, "step_ms"), 0.5 + 32 * 1.1, 1e-6);
    assert_float_equal(number(stage, "tokens_per_s"), 1000 / (0.5 + 32 * 1.1), 1e-5);
    json_decref(short_reads);
}

static void people_get_tables_and_maps(void **state) {
    (void)state;
    program_result r =
        PROGRAM("predict", "throughput", "eval", "--profile", SMALL, "--measured", MEASURED, "--method", "plain");
    static const char *const lines[] = {"plain            prefill     2       4.5 %\n",
                                        "plain, prefill: predicted over measured - 1, in %\n  batch       8\n",
                                        "\n      1  -91.2   -88.3 \n"};
    assert_int_equal(r.code, 0);
    for (int i = 0; i < 3; i++)
        if (!strstr(r.out, lines[i]))
            fail_msg("there is no \"%s\" in\n%s", lines[i], r.out);
    program_free(&r);
    r = PROGRAM("predict", "throughput", "query", "--profile", SMALL, "--method", "plain", "--batch", "2", "--prompt",
                "8", "--stage", "decode");
    assert_int_equal(strncmp(r.out, "plain, decode, batch 2, 8 tokens: ", 34), 0);
    assert_null(strstr(r.out, "prefill"));
    program_free(&r);
}

static void a_store_gives_the_same(void **state) {
    (void)state;
    const char *db = env_temp("predict-cli.db"), *page = env_temp("predict.html");
    json_decref(JSON("fit", "--profile", SMALL, "--measured", MEASURED, "--method", "plain", "--calibrate", MEASURED,
                     "--base", "plain", "--store", db));
    json_t *files = JSON("eval", "--profile", SMALL, "--measured", MEASURED, "--method", "plain", "--calibrate",
                         MEASURED, "--base", "plain"),
           *stored = JSON("eval", "--store", db, "--report", page);
    assert_true(json_equal(json_object_get(files, "cells"), json_object_get(stored, "cells")));
    double accuracy = number(json_array_get(json_object_get(stored, "cells"), 1), "accuracy"), error = 0;
    const json_t *point;
    size_t i;
    json_array_foreach(json_object_get(stored, "points"), i, point) {
        if (number(point, "prompt_tokens") == 10)
            error = number(point, "predicted") / number(point, "measured") - 1;
    }
    json_decref(files);
    json_decref(stored);
    page_read(page);
    page_shows("What the throughput predictor says", "plain, decode", "%.1f %%", 100 * accuracy);
    assert_non_null(strstr(page_row("What the throughput predictor says", "plain, decode"), "these points"));
    assert_int_equal(page_drawings(2), 2);
    page_shows("Errors by batch and length", "1", "%+.1f", 100 * error);
    assert_non_null(strstr(page_text(), ">+")); /* too fast is no better than too slow */
    assert_null(strstr(page_text(), "var(--good)"));
    PROGRAM_REFUSES(1, "holds no gear; it holds plain", "predict", "throughput", "query", "--store", db, "--method",
                    "gear", "--batch", "1", "--prompt", "8");
    unlink(db);
    unlink(page);
}

/* A profile without measured points answers queries; there is nothing to score. */
static void a_profile_alone_is_not_scored(void **state) {
    (void)state;
    const char *db = env_temp("profile-alone.db");
    json_decref(JSON("fit", "--profile", SMALL, "--method", "plain", "--store", db));
    json_decref(JSON("query", "--store", db, "--method", "plain", "--batch", "1", "--prompt", "8"));
    PROGRAM_REFUSES(1, "holds no measured points to score", "predict", "throughput", "eval", "--store", db);
    PROGRAM_REFUSES(1, "holds no measured points to score", "predict", "throughput", "eval", "--store", db, "--method",
                    "plain");
    PROGRAM_REFUSES(1, "run 1 holds no gear, nor any measured method", "predict", "throughput", "query", "--store", db,
                    "--method", "gear", "--batch", "1", "--prompt", "8");
    unlink(db);
}

static void a_fifth_is_not_scored(void **state) {
    (void)state;
    json_t *o = JSON("eval", "--profile", SMALL, "--measured", MEASURED, "--method", "plain", "--correct-fifth", "5");
    const json_t *cell;
    size_t i;
    json_array_foreach(json_object_get(o, "cells"), i, cell) {
        assert_int_equal(number(cell, "n"), 1);
        assert_int_equal(number(cell, "fitted_points"), 1);
    }
    json_decref(o);
}

static void wrong_requests_get_a_sentence(void **state) {
    (void)state;
    PROGRAM_REFUSES(2, "comes later", "predict", "length", "eval");
    PROGRAM_REFUSES(2, "what to predict", "predict");
    PROGRAM_REFUSES(2, "fit, eval or query", "predict", "throughput", "guess");
    PROGRAM_REFUSES(2, "--measured", "predict", "throughput", "eval", "--profile", SMALL, "--method", "plain");
    PROGRAM_REFUSES(2, "--method", "predict", "throughput", "eval", "--profile", SMALL, "--measured", MEASURED);
    PROGRAM_REFUSES(2, "--stage", "predict", "throughput", "query", "--profile", SMALL, "--method", "plain", "--batch",
                    "1", "--prompt", "8", "--stage", "both");
    PROGRAM_REFUSES(1, "attention-absent.csv", "predict", "throughput", "query", "--profile", SMALL, "--method",
                    "absent", "--batch", "1", "--prompt", "8");
    PROGRAM_REFUSES(1, "\"bsz\"", "predict", "throughput", "eval", "--profile", SMALL, "--method", "plain",
                    "--measured", SMALL "/operators.csv");
    PROGRAM_REFUSES(1, "no study", "predict", "throughput", "eval", "--store", "/nowhere/study.db");
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_scored),       cmocka_unit_test(people_get_tables_and_maps),
        cmocka_unit_test(a_store_gives_the_same), cmocka_unit_test(a_profile_alone_is_not_scored),
        cmocka_unit_test(a_fifth_is_not_scored),  cmocka_unit_test(wrong_requests_get_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
