/* test_serve_sampling.c - every field of a request that changes how tokens are drawn reaches the sampler (which
 * test_sample.c checks by itself): the text is that of the library with the same setting, and not that without it. */
#include "support/desk.h"
#include "support/twin.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TEXT "/v1/completions"

enum { N_PROMPT = 12, N_ANSWER = 48 };

/* A prompt of few tokens, so that penalties meet them. */
static const int32_t prompt[N_PROMPT] = {70, 71, 72, 70, 71, 72, 70, 71, 72, 70, 71, 73};
#define PROMPT "\"prompt\":[70,71,72,70,71,72,70,71,72,70,71,73]"

static char *said_by_desk(const desk *d, const char *fields) {
    char body[400];
    snprintf(body, sizeof(body), "{" PROMPT ",\"max_tokens\":%d,\"ignore_eos\":true%s}", N_ANSWER, fields);
    json_t *a = desk_ask(d, TEXT, body);
    char *said = strdup(desk_text(a, 0));
    json_decref(a);
    return said;
}

static char *said_by_library(const bed *b, pleat_sampling sampling) {
    int32_t ids[N_ANSWER];
    text said = {0};
    twin_answer(b, &(twin_ask){.spec = "f16", .ids = prompt, .n = N_PROMPT, .n_answer = N_ANSWER, .sampling = sampling},
                ids, &said);
    text_append(&said, "", 1);
    assert_false(said.failed);
    return said.bytes;
}

static void every_field_reaches_the_sampler(void **state) {
    (void)state;
    /* temperature, top_k, top_p, min_p, repeat, presence, frequency, seed */
    static const struct {
        const char *fields;
        pleat_sampling sampling;
    } cases[] = {
        {",\"seed\":7", {1, 0, 1, 0, 1, 0, 0, 7}}, /* what a request has that says no more */
        {",\"seed\":8", {1, 0, 1, 0, 1, 0, 0, 8}},
        {",\"seed\":7,\"temperature\":0.5", {0.5f, 0, 1, 0, 1, 0, 0, 7}},
        {",\"seed\":7,\"temperature\":0", {0, 0, 1, 0, 1, 0, 0, 7}},
        {",\"seed\":7,\"top_k\":3", {1, 3, 1, 0, 1, 0, 0, 7}},
        {",\"seed\":7,\"top_p\":0.3", {1, 0, 0.3f, 0, 1, 0, 0, 7}},
        {",\"seed\":7,\"min_p\":0.3", {1, 0, 1, 0.3f, 1, 0, 0, 7}},
        {",\"seed\":7,\"repetition_penalty\":4", {1, 0, 1, 0, 4, 0, 0, 7}},
        {",\"seed\":7,\"repeat_penalty\":9", {1, 0, 1, 0, 9, 0, 0, 7}},
        {",\"seed\":7,\"presence_penalty\":-2", {1, 0, 1, 0, 1, -2, 0, 7}},
        {",\"seed\":7,\"frequency_penalty\":-2", {1, 0, 1, 0, 1, 0, -2, 7}},
    };
    enum { N_CASES = sizeof(cases) / sizeof(*cases) };
    char *said[N_CASES];
    bed b = twin_open();
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int i = 0; i < N_CASES; i++) {
        char *want = said_by_library(&b, cases[i].sampling);
        said[i] = said_by_desk(&d, cases[i].fields);
        if (strcmp(said[i], want) != 0)
            fail_msg("%s: the text is not the library's", cases[i].fields);
        for (int k = 0; k < i; k++)
            if (!strcmp(said[i], said[k]))
                fail_msg("%s and %s give the same text", cases[i].fields, cases[k].fields);
        free(want);
    }
    for (int i = 0; i < N_CASES; i++)
        free(said[i]);
    desk_close(&d);
    bed_close(&b);
}

static void filters_that_leave_one_token_are_greedy(void **state) {
    (void)state;
    static const char *const fields[] = {",\"top_k\":1", ",\"top_p\":0.000001", ",\"min_p\":1", ",\"temperature\":0"};
    static const char *const open[] = {",\"seed\":7", ",\"seed\":7,\"top_k\":0", ",\"seed\":7,\"top_k\":-1",
                                       ",\"seed\":7,\"top_p\":1,\"min_p\":0,\"repetition_penalty\":1"};
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int which = 0; which < 2; which++) {
        char *first = NULL;
        for (int i = 0; i < 4; i++) {
            char *said = said_by_desk(&d, which ? open[i] : fields[i]);
            if (first)
                assert_string_equal(said, first);
            free(first);
            first = said;
        }
        free(first);
    }
    desk_close(&d);
}

static void a_request_without_a_seed_draws_one(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    char *a = said_by_desk(&d, ""), *b = said_by_desk(&d, "");
    assert_string_not_equal(a, b);
    free(a);
    free(b);
    desk_close(&d);
}

static void biased_tokens_come_or_never_come(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    char *only = said_by_desk(&d, ",\"logit_bias\":{\"65\":100}"), *many;
    assert_int_equal(strlen(only), N_ANSWER);
    assert_int_equal(strspn(only, (char[]){only[0], 0}), N_ANSWER);
    char fields[200];
    snprintf(fields, sizeof(fields), ",\"logit_bias\":{\"64\":50,\"65\":100,\"66\":50},\"temperature\":0");
    many = said_by_desk(&d, fields);
    assert_string_equal(many, only);
    free(many);
    snprintf(fields, sizeof(fields), ",\"logit_bias\":{\"64\":60,\"65\":-100,\"66\":60}");
    many = said_by_desk(&d, fields);
    assert_null(strchr(many, only[0]));
    assert_int_equal(strlen(many), N_ANSWER); /* of the two others alone */
    free(many);
    free(only);
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_reaches_the_sampler),
        cmocka_unit_test(filters_that_leave_one_token_are_greedy),
        cmocka_unit_test(a_request_without_a_seed_draws_one),
        cmocka_unit_test(biased_tokens_come_or_never_come),
    };
    return cmocka_run_group_tests_name("serve_sampling", tests, NULL, NULL);
}
