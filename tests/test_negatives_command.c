/* test_negatives_command.c - `pleat negatives` as a person calls it: JSON fields, exit codes, export, scoring answers.
 */
#include "support/env.h"
#include "support/page.h"
#include "support/program.h"
#include <jansson.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static char output[1 << 18];

/* Runs the command; stdout and stderr go to output. Returns the exit code. */
static int run(const char *arguments) {
    return program_line("negatives", arguments, output, sizeof(output));
}

static json_t *run_json(const char *arguments) {
    assert_int_equal(run(arguments), 0);
    json_t *object = json_loads(output, 0, NULL);
    assert_non_null(object);
    return object;
}

static int integer(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return (int)json_integer_value(value);
}

static void says(const char *arguments, int code, const char *sentence) {
    assert_int_equal(run(arguments), code);
    assert_string_equal(output, sentence);
}

#define SMALL "--scores tests/data/scores-small.csv "

static void json_has_the_fields(void **state) {
    (void)state;
    json_t *all = run_json(SMALL "--methods a,b/c2048 --threshold 0.1,0.5 --json"), *count;
    static const struct {
        int n_methods, negative, missing;
        double threshold;
    } expected[] = {{1, 2, 0, 0.1}, {1, 1, 0, 0.5}, {1, 2, 1, 0.1}, {1, 0, 1, 0.5}, {2, 1, 1, 0.1}, {2, 0, 1, 0.5}};
    json_t *counts = json_object_get(all, "counts");
    size_t i;
    assert_int_equal(json_array_size(counts), 6);
    json_array_foreach(counts, i, count) {
        assert_int_equal(json_array_size(json_object_get(count, "methods")), expected[i].n_methods);
        assert_float_equal(json_real_value(json_object_get(count, "threshold")), expected[i].threshold, 0);
        assert_int_equal(integer(count, "benign"), 4);
        assert_int_equal(integer(count, "negative"), expected[i].negative);
        assert_int_equal(integer(count, "missing"), expected[i].missing);
    }
    json_t *trec = json_object_get(json_object_get(json_array_get(counts, 4), "scores"), "few-shot");
    assert_float_equal(json_real_value(json_object_get(trec, "b/c2048")), 0.9, 1e-6);
    json_t *averages = json_object_get(all, "averages");
    assert_int_equal(json_object_size(averages), 3);
    assert_float_equal(json_real_value(json_object_get(averages, "hf")), 63.3333333, 1e-4);
    assert_float_equal(json_real_value(json_object_get(averages, "b/c2048")), 63.3333333, 1e-4);
    assert_int_equal(integer(json_object_get(json_array_get(counts, 0), "classes"), "code"), 1);
    assert_int_equal(integer(json_object_get(json_array_get(counts, 0), "data_sets"), "trec"), 1);
    json_decref(all);
}

static void bad_options_exit_with_two(void **state) {
    (void)state;
    says("", 2, "pleat negatives: which scores? give them with --scores FILE; see `pleat negatives --help`\n");
    says(SMALL "--threshold 10", 2,
         "pleat negatives: --threshold is \"10\"; a threshold is a fraction from 0 to 1 (0.1 is 10 %); see `pleat "
         "negatives --help`\n");
    says(SMALL "--threshold 0.1,", 2,
         "pleat negatives: --threshold is \"0.1,\"; numbers separated by commas are expected; see `pleat negatives "
         "--help`\n");
    says(SMALL "--threshold 0.1,0.2 --export x", 2,
         "pleat negatives: an export is of one --threshold; see `pleat negatives --help`\n");
}

static void bad_input_exits_with_one(void **state) {
    (void)state;
    says("--scores /nowhere/x.csv", 1,
         "pleat negatives: /nowhere/x.csv: cannot be opened: No such file or directory\n");
    says(SMALL "--methods c", 1,
         "pleat negatives: there is no method \"c\" among the scores, which have: hf/fp16, a/4bits, b/c2048\n");
    says("--scores tests/data/longbench-answers.jsonl", 1,
         "pleat negatives: tests/data/longbench-answers.jsonl: line 1: a quote stands in the wrong place\n");
    says("--store /nowhere/x.db", 1,
         "pleat negatives: there is no study at /nowhere/x.db (No such file or directory)\n");
}

static void people_get_tables(void **state) {
    (void)state;
    static const char *const lines[] = {
        "  hf                        63.33   base: hf/fp16\n",
        "  a                         41.79   a/4bits\n",
        "  methods                                         10 %    50 %  missing\n",
        "  a                                                  2       1        0\n",
        "  b                                                  2       0        1\n",
        "  a + b                                              1       0        1\n",
        "  code                         4       2                   1            1       0\n",
        "  trec                         3       2  66.67            1            0       0\n",
        "  few-shot                     1        100.0          0.0         90.0\n",
    };
    assert_int_equal(run(SMALL "--methods a,b --threshold 0.1,0.5"), 0);
    for (int i = 0; i < 9; i++)
        if (!strstr(output, lines[i]))
            fail_msg("there is no line \"%s\" in\n%s", lines[i], output);
    assert_null(strstr(output, "left out"));
    assert_int_equal(run(SMALL "--methods a --base b"), 0); /* b lacks lcc 0 */
    assert_non_null(strstr(output, "  1 samples have no score of the base b and are left out\n"));
}

static void write_scores(const char *path, const char *rows) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "algorithm,config,dataset,id,score\n%s", rows);
    fclose(f);
}

static int negatives_of(const char *arguments) {
    json_t *all = run_json(arguments);
    int n = integer(json_array_get(json_object_get(all, "counts"), 0), "negative");
    json_decref(all);
    return n;
}

/* A file that has changed under its name is another run, and a store is evaluated by its newest. */
static void a_changed_file_is_read_anew(void **state) {
    (void)state;
    char import[600], stored[600];
    const char *path = env_temp("changing.db"), *scores = env_temp("changing.csv");
    snprintf(import, sizeof(import), "--scores %s --store %s --json", scores, path);
    snprintf(stored, sizeof(stored), "--store %s --json", path);
    write_scores(scores, "hf,,lcc,0,1\na,,lcc,0,0\n");
    assert_int_equal(negatives_of(import), 1);
    assert_int_equal(negatives_of(stored), 1);
    write_scores(scores, "hf,,lcc,0,1\na,,lcc,0,1\n");
    assert_int_equal(negatives_of(import), 0);
    assert_int_equal(negatives_of(stored), 0);
    unlink(path);
    unlink(scores);
}

static void a_store_is_evaluated_later(void **state) {
    (void)state;
    char arguments[600];
    const char *path = env_temp("negatives.db");
    snprintf(arguments, sizeof(arguments), SMALL "--store %s --methods a", path);
    assert_int_equal(run(arguments), 0);
    snprintf(arguments, sizeof(arguments), "--store %s --methods a --json", path);
    json_t *all = run_json(arguments);
    assert_int_equal(integer(json_array_get(json_object_get(all, "counts"), 0), "negative"), 2);
    json_decref(all);
    unlink(path);
}

static void export_holds_scores_and_texts(void **state) {
    (void)state;
    char arguments[900];
    const char *path = env_temp("negatives.jsonl"), *texts = env_temp("texts.jsonl");
    FILE *f = fopen(texts, "w");
    for (int i = 0; i < 4; i++)
        fprintf(f,
                "{\"input\":\"\",\"context\":\"c%d\",\"answers\":[\"a\"],\"length\":3,\"dataset\":\"lcc\",\"language\":"
                "\"en\",\"all_classes\":null,\"_id\":\"x%d\"}\n",
                i, i);
    fclose(f);
    snprintf(arguments, sizeof(arguments), SMALL "--methods a --export %s --longbench %s --json", path, texts);
    json_t *all = run_json(arguments);
    assert_int_equal(integer(all, "exported"), 2);
    json_decref(all);
    f = fopen(path, "r");
    assert_non_null(f);
    json_t *first = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL), *second = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL);
    fclose(f);
    assert_string_equal(json_string_value(json_object_get(first, "context")), "c0");
    assert_string_equal(json_string_value(json_object_get(first, "_id")), "x0");
    assert_string_equal(json_string_value(json_object_get(first, "id")), "0");
    assert_string_equal(json_string_value(json_object_get(second, "dataset")), "trec");
    assert_float_equal(json_real_value(json_object_get(json_object_get(second, "scores"), "a")), 0, 0);
    assert_float_equal(json_real_value(json_object_get(second, "base_score")), 1, 0);
    json_decref(first);
    json_decref(second);
    snprintf(arguments, sizeof(arguments), SMALL "--methods a,b --export %s", path);
    assert_int_equal(run(arguments), 0);
    f = fopen(path, "r");
    assert_non_null(f);
    first = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL); /* trec 1, for both */
    fclose(f);
    assert_float_equal(json_real_value(json_object_get(json_object_get(first, "scores"), "a")), 0, 0);
    assert_float_equal(json_real_value(json_object_get(json_object_get(first, "scores"), "b")), 0.9, 0);
    assert_float_equal(json_real_value(json_object_get(first, "threshold")), 0.1, 0);
    json_decref(first);
    /* a part of a data set cannot be matched by place */
    f = fopen(texts, "w");
    fprintf(
        f, "{\"input\":\"\",\"context\":\"c\",\"answers\":[\"a\"],\"length\":3,\"dataset\":\"lcc\",\"language\":\"en\","
           "\"all_classes\":null,\"_id\":\"x\"}\n");
    fclose(f);
    snprintf(arguments, sizeof(arguments), SMALL "--methods a --export %s --longbench %s", path, texts);
    says(arguments, 1,
         "pleat negatives: the texts hold 1 samples of lcc and the scores 4: without an \"id\" in each, texts and "
         "scores "
         "cannot be matched\n");
    unlink(path);
    unlink(texts);
}

static size_t read_file(const char *path) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(output, 1, sizeof(output) - 1, f);
    output[n] = 0;
    fclose(f);
    return n;
}

static void a_page_shows_tables_and_curves(void **state) {
    (void)state;
    char arguments[600];
    const char *path = env_temp("negatives.html");
    snprintf(arguments, sizeof(arguments), SMALL "--methods a,b --threshold 0.1 --report %s --json", path);
    json_t *all = run_json(arguments);
    assert_string_equal(json_string_value(json_object_get(all, "report")), path);
    json_decref(all);
    page_read(path);
    assert_non_null(strstr(page_text(), "<section id=\"negatives\">"));
    assert_non_null(strstr(page_text(), "b has no score for 1 of 7 samples"));
    assert_non_null(strstr(page_text(), "</html>"));
    assert_int_equal(page_drawings(2), 2);
    page_shows("Which answers break", "a", "%.2f", 41.79);
    page_shows("Which answers break", "a", "%.1f %%", 50);
    page_shows("Every combination, by threshold", "a + b", "%.0f", 0);
    assert_non_null(strstr(page_row("By task", "few-shot"), "<td>2</td><td>1</td><td>1</td><td>1</td>"));
    assert_non_null(strstr(page_row("By data set", "lcc"), "<td>2</td><td>1</td><td>1</td><td>0</td>"));
    page_shows("What the negative samples score", "a + b", "%.1f", 90);
    assert_non_null(strstr(page_text(), "<th scope=\"col\" class=\"words\">task</th>")); /* as its cells stand */
    if (page_drawings(0)) {
        assert_non_null(strstr(page_text(), "rotate(20")); /* names of tasks are wider than their places */
        assert_int_equal(page_count("all together"), 4);   /* two tables, the drawing and its key: not "a + b + ..." */
    }
    unlink(path);
}

/* Its own methods and threshold, not those that a page has if none are given. */
static void a_page_is_of_what_was_asked(void **state) {
    (void)state;
    char arguments[600], three[600];
    const char *path = env_temp("asked.html"), *scores = env_temp("three.csv");
    snprintf(arguments, sizeof(arguments), SMALL "--methods b --base a --threshold 0.5 --report %s", path);
    assert_int_equal(run(arguments), 0);
    page_read(path);
    assert_non_null(strstr(page_text(), "that loses 50 % of its score or more"));
    assert_non_null(page_row("Which answers break", "a (uncompressed)"));
    assert_null(strstr(page_text(), ">hf<"));
    write_scores(scores, "hf,,lcc,0,1\na,,lcc,0,0\nb,,lcc,0,0\nc,,lcc,0,1\n");
    snprintf(three, sizeof(three), "--scores %s --report %s", scores, path);
    assert_int_equal(run(three), 0);
    page_read(path);
    assert_int_equal(page_drawings(3), 3); /* of three methods the pairs too */
    unlink(path);
    unlink(scores);
}

static void answers_become_a_score_file(void **state) {
    (void)state;
    char arguments[900];
    const char *answers = env_temp("pred.jsonl"), *scores = env_temp("pred.csv");
    FILE *f = fopen(answers, "w");
    fprintf(f, "{\"pred\":\"foo(1)\",\"answers\":[\"foo(2)\"],\"all_classes\":null,\"dataset\":\"lcc\"}\n");
    fprintf(f, "{\"pred\":\"a b c\",\"answers\":[\"b c d\"],\"all_classes\":null,\"dataset\":\"qasper\"}\n");
    fclose(f);
    snprintf(arguments, sizeof(arguments), "--answers %s --as f16/own -o %s --json", answers, scores);
    json_t *all = run_json(arguments);
    assert_int_equal(integer(all, "answers"), 2);
    assert_float_equal(json_real_value(json_object_get(all, "average")), 81.5, 1e-9);
    json_decref(all);
    read_file(scores);
    assert_string_equal(output, "algorithm,config,dataset,id,score\nf16,own,lcc,0,0.82999999999999996\n"
                                "f16,own,qasper,0,0.80000000000000004\n");
    snprintf(arguments, sizeof(arguments), "--scores %s --methods f16/own --base f16", scores);
    assert_int_equal(run(arguments), 0);
    unlink(answers);
    unlink(scores);
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_has_the_fields),
        cmocka_unit_test(bad_options_exit_with_two),
        cmocka_unit_test(bad_input_exits_with_one),
        cmocka_unit_test(people_get_tables),
        cmocka_unit_test(a_changed_file_is_read_anew),
        cmocka_unit_test(a_store_is_evaluated_later),
        cmocka_unit_test(export_holds_scores_and_texts),
        cmocka_unit_test(answers_become_a_score_file),
        cmocka_unit_test(a_page_shows_tables_and_curves),
        cmocka_unit_test(a_page_is_of_what_was_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
