/* test_metrics.c - LongBench's metrics against values that the Python originals gave (LongBench's metrics.py with rouge
 * 1.0.1 and fuzzywuzzy 0.18.0 on CPython 3.11; scripts/compare_metrics.py runs thousands more), its data sets, and its
 * files, good and bad. */
#include "base/rng.h"
#include "base/text.h"
#include "measure/longbench.h"
#include "support/env.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

typedef struct pair {
    const char *answer, *reference;
    double score;
} pair;

static void scores_are(metrics_kind kind, const pair *pairs, int n) {
    for (int i = 0; i < n; i++) {
        double score = -1;
        assert_int_equal(metrics_score(kind, pairs[i].answer, pairs[i].reference, NULL, 0, &score, NULL), PLEAT_OK);
        if (score != pairs[i].score)
            fail_msg("%s of \"%.80s\" and \"%.80s\" is %.17g, not %.17g", metrics_name(kind), pairs[i].answer,
                     pairs[i].reference, score, pairs[i].score);
    }
}
#define SCORES_ARE(kind, pairs) scores_are(kind, pairs, (int)(sizeof(pairs) / sizeof(*pairs)))

static void f1_normalises_first(void **state) {
    (void)state;
    static const pair pairs[] = {
        {"The cat sat on a mat.", "the Cat, sat the mat", 0.8571428571428571},
        {"", "x", 0},
        {"the", "a", 0},
        {"x", "x", 1},
        {"b a a c", "a b b c", 0.8},
        {"the\u2013cat", "\u2013 cat", 0}, /* an article ends at a dash and leaves it as a word of its own */
        {"\u0130x", "i\u0307x", 1},        /* one capital, two small characters */
        {"\u039f\u0394\u039f\u03a3 \u03c3", "\u03bf\u03b4\u03bf\u03c2 \u03a3", 1}, /* sigma at a word's end */
        {"_the_ dog", "the dog", 1},
        {"a.b", "ab", 1},
        {"word\u3000two", "word two three", 0.8},
        {"theatre an", "theatre", 1},
    };
    SCORES_ARE(METRICS_F1, pairs);
}

static void rouge_l_is_the_packages(void **state) {
    (void)state;
    static const pair pairs[] = {
        {"the cat sat on the mat. a dog ran", "the cat lay on the mat. the dog ran away", 0.749999995},
        {"a b c d", "a b c d", 0.999999995},
        {"", "a", 0},
        {"...", "a", 0},
        {" ", "a", 0},
        {" . ", "x . y", 0},
        {"a c b", "a b c", 0.6666666616666668},
        {"one two three four. five", "five. one three two four", 0.7999999950000002},
        {"x y z x y", "y x z y", 0.999999995}, /* distinct words only */
    };
    SCORES_ARE(METRICS_ROUGE_L, pairs);
}

/* Python's recursion limit would make the package fail on these, and LongBench count 0. */
static void rouge_l_takes_long_sentences(void **state) {
    (void)state;
    text a = {0}, b = {0};
    double score;
    for (int i = 0; i < 3000; i++) {
        text_printf(&a, "w%d ", i);
        text_printf(&b, "w%d ", i + 1500);
    }
    assert_int_equal(metrics_score(METRICS_ROUGE_L, a.bytes, b.bytes, NULL, 0, &score, NULL), PLEAT_OK);
    assert_float_equal(score, 0.5, 1e-8);
    text_free(&a);
    text_free(&b);
}

static void edit_similarity_is_difflibs(void **state) {
    (void)state;
    static const pair pairs[] = {
        {"x = 1", "x = 1", 1},
        {"x = 1\ny = 2", "x = 2", 0.8},
        {"\n\n# c\nx = 2", "x = 2", 1}, /* comments and quotes are no code */
        {"```py\n`x`\nreturn a // b\nfoo(1)", "foo(2)", 0.83},
        {"", "x", 0},
        {"#only", "", 1},
        {"", "", 1},
        {"abcd", "bcde", 0.75},
        {"return self.value", "return self._value", 0.97},
        {"aXbXc", "XabcX", 0.4}, /* python-Levenshtein would say 0.6 */
    };
    SCORES_ARE(METRICS_EDIT, pairs);
    text rare_first = {0}, rare_last = {0}, same = {0};
    text_puts(&rare_first, "zq");
    text_puts(&same, "zq");
    for (int i = 0; i < 220; i++) {
        if (i < 100)
            text_puts(&rare_first, "a");
        text_puts(&rare_last, "a");
        text_puts(&same, "a");
    }
    text_puts(&rare_last, "zq");
    /* autojunk: in 222 characters the a's begin no block, so only "zq" matches; they still extend one. */
    const pair junk[] = {{rare_first.bytes, rare_last.bytes, 0.01}, {rare_first.bytes, same.bytes, 0.63}};
    SCORES_ARE(METRICS_EDIT, junk);
    text_free(&rare_first);
    text_free(&rare_last);
    text_free(&same);
}

static void numbers_are_counted(void **state) {
    (void)state;
    static const pair retrieval[] = {
        {"Paragraph 3", "Paragraph 3", 1},
        {"3, 4 and 3", "Paragraph 3", 2.0 / 3},
        {"03", "Paragraph 3", 0},
        {"", "Paragraph 1", 0},
        {"12", "see Paragraph 12 or Paragraph 1", 1},
    };
    static const pair chinese[] = {{"\u6bb5\u843d7 8", "\u6bb5\u843d7", 0.5}};
    static const pair count[] = {{"5 of 10, 5", "5", 2.0 / 3}, {"five", "5", 0}, {"\u0665", "5", 0}};
    SCORES_ARE(METRICS_RETRIEVAL, retrieval);
    SCORES_ARE(METRICS_RETRIEVAL_ZH, chinese);
    SCORES_ARE(METRICS_COUNT, count);
    double score = -1;
    pleat_error error;
    assert_int_equal(metrics_score(METRICS_RETRIEVAL, "1", "paragraph 1", NULL, 0, &score, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "the reference of a retrieval task names no \"Paragraph N\"");
    assert_true(score == -1);
}

static void classes_are_found(void **state) {
    (void)state;
    static const struct {
        const char *answer, *reference, *classes[3];
        double score;
    } cases[] = {
        {"it is a Dog", "Dog", {"Cat", "Dog", "Eel"}, 1},
        {"Dog or Cat", "Dog", {"Cat", "Dog", "Eel"}, 0.5},
        {"Human group", "Human group", {"Human", "Human group", "group"}, 1},
        {"Human group", "Human group", {"Human", "group", "Human group"}, 0.5}, /* "group" is passed over */
        {"none", "Dog", {"Dog", "Cat", "Eel"}, 0},
        {"Dog", "Dogs", {"Dog", "Cat", "Eel"}, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        double score;
        assert_int_equal(metrics_score(METRICS_CLASSIFICATION, cases[i].answer, cases[i].reference, cases[i].classes, 3,
                                       &score, NULL),
                         PLEAT_OK);
        assert_true(score == cases[i].score);
    }
}

static void bytes_that_are_no_text_do_no_harm(void **state) {
    (void)state;
    static const char *const odd[] = {"\xff\xfe. the \x80", "\xed\xa0\x80", "\xf4\x90\x80\x80 \xc3", "\xe4\xb8"};
    for (int kind = METRICS_F1; kind < METRICS_SEGMENTED; kind++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 4; k++) {
                double score = -1;
                pleat_status status = metrics_score((metrics_kind)kind, odd[i], odd[k], odd, 4, &score, NULL);
                assert_true(status == PLEAT_OK ? score >= 0 && score <= 1 : status == PLEAT_EINPUT);
            }
}

static void data_sets_have_class_and_metric(void **state) {
    (void)state;
    assert_string_equal(longbench_class("hotpotqa"), "qa-multi");
    assert_string_equal(longbench_class("passage_retrieval_en_e"), "synthetic");
    assert_string_equal(longbench_class("multifieldqa_en"), "qa-single");
    assert_string_equal(longbench_class("needle"), "other");
    assert_int_equal(longbench_find("lcc_e")->metric, METRICS_EDIT);
    assert_true(longbench_find("samsum")->first_line);
    assert_null(longbench_find("hotpot"));
}

/* ---- files ---- */

static void load(longbench_samples *s, longbench_need need, const char *name, const char *bytes) {
    pleat_error error = {""};
    pleat_status status = longbench_read(s, need, name, bytes, strlen(bytes), &error);
    assert_string_equal(error.text, "");
    assert_int_equal(status, PLEAT_OK);
}

static void answers_are_scored_as_eval_does(void **state) {
    (void)state;
    longbench_samples s = {0};
    double score;
    size_t n;
    char *bytes = env_data("longbench-answers.jsonl", &n);
    load(&s, LONGBENCH_ANSWERS, "pred/hotpotqa.jsonl", bytes);
    free(bytes);
    assert_int_equal(s.n, 7);
    static const double expected[] = {1, 1, 0.5, 0.999999995, 1, 0.83};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(longbench_score(&s.sample[i], &score, NULL), PLEAT_OK);
        assert_true(score == expected[i]);
    }
    assert_string_equal(s.sample[0].data_set, "hotpotqa"); /* by the file's name */
    assert_string_equal(s.sample[0].id, "0");
    assert_string_equal(s.sample[1].data_set, "triviaqa");
    assert_string_equal(s.sample[5].id, "1"); /* the second of lcc */
    pleat_error error;
    assert_int_equal(longbench_score(&s.sample[6], &score, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "dureader cannot be scored: its metric needs a Chinese word segmenter");
    longbench_free(&s);
    load(&s, LONGBENCH_ANSWERS, "mine.jsonl", "{\"pred\":\"a\",\"answers\":[\"a\"],\"all_classes\":null}");
    assert_int_equal(longbench_score(&s.sample[0], &score, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "mine is no data set of LongBench: its metric is not known");
    longbench_free(&s);
}

#define GOOD(set, id)                                                                                                  \
    "{\"input\":\"\",\"context\":\"c\",\"answers\":[\"a\"],\"length\":3,\"dataset\":\"" set                            \
    "\",\"language\":\"en\",\"all_classes\":null,\"_id\":\"" id "\"}\n"

static void samples_are_read_in_both_forms(void **state) {
    (void)state;
    longbench_samples s = {0};
    load(&s, LONGBENCH_TEXTS, "a.jsonl", "\xef\xbb\xbf" GOOD("lcc", "x") "\r\n" GOOD("qasper", "x") GOOD("lcc", "y"));
    load(&s, LONGBENCH_TEXTS, "b.json",
         "{\"gov_report\":[" GOOD("gov_report", "1") "], \"lcc\":[" GOOD("lcc", "z") "]}");
    assert_int_equal(s.n, 5);
    assert_int_equal(longbench_count(&s, "lcc"), 3);
    const longbench_sample *last = longbench_sample_find(&s, "lcc", "2");
    assert_non_null(last);
    assert_string_equal(json_string_value(json_object_get(last->record, "_id")), "z");
    assert_null(longbench_sample_find(&s, "lcc", "3"));
    longbench_free(&s);
}

static void refuses(longbench_need need, const char *bytes, const char *sentence) {
    longbench_samples s = {0};
    pleat_error error = {""};
    assert_int_equal(longbench_read(&s, need, "f", bytes, strlen(bytes), &error), PLEAT_EINPUT);
    assert_string_equal(error.text, sentence);
    longbench_free(&s);
}

static void bad_samples_are_named(void **state) {
    (void)state;
    refuses(LONGBENCH_TEXTS, "", "f: holds no samples");
    refuses(LONGBENCH_TEXTS,
            GOOD("lcc", "x") "\n{\"a\":", "f: line 3: it is no JSON: unexpected token near end of file");
    refuses(LONGBENCH_TEXTS, "[1]", "f: line 1: it is no JSON object");
    refuses(LONGBENCH_TEXTS, GOOD("lcc", "x") GOOD("lcc", "x"), "f: line 2: _id \"x\" stands in line 1 already");
    refuses(LONGBENCH_TEXTS, "{\"input\":\"\"}", "f: line 1: the field \"dataset\" is missing");
    refuses(LONGBENCH_TEXTS, "{\"dataset\":7}", "f: line 1: the field \"dataset\" is no name");
    refuses(LONGBENCH_TEXTS, "{\"dataset\":\"lcc\",\"input\":\"\",\"context\":\"\",\"answers\":[]}",
            "f: line 1: the field \"answers\" is empty");
    refuses(LONGBENCH_TEXTS, "{\"dataset\":\"lcc\",\"input\":\"\",\"context\":\"\",\"answers\":[\"a\",1]}",
            "f: line 1: the field \"answers\" is no list of texts");
    refuses(LONGBENCH_TEXTS,
            "{\"dataset\":\"lcc\",\"input\":\"\",\"context\":\"\",\"answers\":[\"a\"],\"length\":\"long\"}",
            "f: line 1: the field \"length\" is no whole number from 0 on");
    refuses(LONGBENCH_TEXTS, GOOD("trec", "x"), "f: line 1: \"all_classes\" is empty, which trec needs");
    refuses(LONGBENCH_TEXTS, "{\"qasper\":[" GOOD("qasper", "1") "," GOOD("lcc", "1") "]}",
            "f: qasper, sample 2: the field \"dataset\" is \"lcc\"");
    refuses(LONGBENCH_ANSWERS, "{\"dataset\":\"lcc\",\"answers\":[\"a\"],\"all_classes\":null}",
            "f: line 1: the field \"pred\" is missing");
}

/* The 36 samples that the study published as negative for KIVI and GEAR together: references, no answers. */
static void the_published_samples(void **state) {
    (void)state;
    longbench_samples s = {0};
    text all = {0};
    FILE *f = fopen(env_reference("paper-data/longbench-negatives-quant.json"), "rb");
    char part[4096];
    assert_non_null(f);
    for (size_t n; (n = fread(part, 1, sizeof(part), f)) > 0;)
        text_append(&all, part, n);
    fclose(f);
    load(&s, LONGBENCH_TEXTS, "published", all.bytes);
    text_free(&all);
    assert_int_equal(s.n, 36);
    assert_int_equal(longbench_count(&s, "gov_report"), 15);
    assert_int_equal(longbench_count(&s, "multi_news"), 10);
    assert_int_equal(longbench_count(&s, "qmsum"), 8);
    assert_int_equal(longbench_count(&s, "qasper"), 2);
    assert_int_equal(longbench_count(&s, "repobench-p"), 1);
    for (int i = 0; i < s.n; i++) { /* a reference is the best answer to itself */
        const longbench_set *set = longbench_find(s.sample[i].data_set);
        const char *answer = json_string_value(json_array_get(json_object_get(s.sample[i].record, "answers"), 0));
        double score;
        assert_non_null(set);
        assert_int_equal(metrics_score(set->metric, answer, answer, NULL, 0, &score, NULL), PLEAT_OK);
        assert_float_equal(score, 1, 1e-8);
    }
    longbench_free(&s);
}

static void damaged_samples_do_no_harm(void **state) {
    (void)state;
    size_t n;
    char *whole = env_data("longbench-answers.jsonl", &n);
    static const char bytes[] = {'"', ',', '\n', '{', '}', '[', ']', ':', '\\', '\xff', '0'};
    for (int i = 0; i < 3000; i++) {
        longbench_samples s = {0};
        size_t kept = i % 3 ? n : rng_u64(2, (uint64_t)i, 0) % n;
        char *file = malloc(kept + 1);
        double score;
        assert_non_null(file);
        memcpy(file, whole, kept);
        for (int k = 0; kept && k < 1 + i % 4; k++)
            file[rng_u64(2, (uint64_t)i, 1 + 2 * (uint64_t)k) % kept] =
                bytes[rng_u64(2, (uint64_t)i, 2 + 2 * (uint64_t)k) % sizeof(bytes)];
        pleat_error error = {""};
        if (longbench_read(&s, LONGBENCH_ANSWERS, "f", file, kept, &error))
            assert_memory_equal(error.text, "f: ", 3);
        for (int k = 0; k < s.n; k++)
            longbench_score(&s.sample[k], &score, &error);
        longbench_free(&s);
        free(file);
    }
    free(whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f1_normalises_first),
        cmocka_unit_test(rouge_l_is_the_packages),
        cmocka_unit_test(rouge_l_takes_long_sentences),
        cmocka_unit_test(edit_similarity_is_difflibs),
        cmocka_unit_test(numbers_are_counted),
        cmocka_unit_test(classes_are_found),
        cmocka_unit_test(bytes_that_are_no_text_do_no_harm),
        cmocka_unit_test(data_sets_have_class_and_metric),
        cmocka_unit_test(answers_are_scored_as_eval_does),
        cmocka_unit_test(samples_are_read_in_both_forms),
        cmocka_unit_test(bad_samples_are_named),
        cmocka_unit_test(the_published_samples),
        cmocka_unit_test(damaged_samples_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
