/* test_serve_command.c - `pleat serve` as a person meets it: the memory plan, options from a file, a Unix socket, and
 * what the signals do. */
#include "support/serving.h"
#include "support/web.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

static json_int_t memory(const serving *s, const char *key) {
    const json_t *value = json_object_get(json_object_get(s->said, "memory"), key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void check_model(int fd, const char *headers, const char *name, int context) {
    web_request(fd, "GET /v1/models", headers, NULL);
    web_answer a = web_read(fd);
    assert_int_equal(a.status, 200);
    json_t *o = web_json(&a);
    const json_t *m = json_array_get(json_object_get(o, "data"), 0);
    assert_string_equal(json_string_value(json_object_get(m, "id")), name);
    assert_int_equal(json_integer_value(json_object_get(m, "max_model_len")), context);
    json_decref(o);
    web_free(&a);
    close(fd);
}

static void memory_is_planned_and_said(void **state) {
    (void)state;
    serving s = SERVING("-m", serving_model(), "--port", "0", "--pool", "64MB", "--moved", "8MB", "--prefix", "4MB");
    assert_int_equal(memory(&s, "pool_bytes"), 64000000);
    assert_int_equal(memory(&s, "moved_bytes"), 8000000);
    assert_int_equal(memory(&s, "prefix_bytes"), 4000000);
    assert_true(memory(&s, "weights_bytes") > 0 && memory(&s, "work_bytes") > 0);
    assert_int_equal(memory(&s, "total_bytes"), memory(&s, "weights_bytes") + memory(&s, "work_bytes") + 72000000);
    serving_stop(&s);
    s = SERVING("-m", serving_model(), "--port", "0", "--pool",
                "64MB"); /* what is admitted fits: nothing is moved out */
    assert_int_equal(memory(&s, "moved_bytes"), 0);
    serving_stop(&s);
    s = SERVING("-m", serving_model(), "--port", "0", "--pool", "64MB", "--overcommit", "2");
    assert_int_equal(memory(&s, "moved_bytes"), 16000000);
    serving_stop(&s);
    PROGRAM_REFUSES(1, "are free", "serve", "-m", serving_model(), "--port", "0", "--pool", "900TB");
}

static void a_method_that_costs_answers_is_warned_of_at_the_start(void **state) {
    (void)state;
    for (int with = 0; with < 2; with++) {
        serving s = SERVING("-m", serving_model(), "--port", "0", "--pool", "64MB", "--method", with ? "lm3" : "lm4");
        kill(s.program.pid, SIGTERM);
        program_result r = program_end(&s.program);
        char *first = strstr(r.err, ": warning: "), *known = strstr(r.err, "pleat serve: warning: lm: 3 bits");
        assert_int_equal(r.code, 0);
        assert_int_equal(first != NULL, with);
        assert_int_equal(known != NULL, with);
        assert_null(first ? strstr(first + 1, ": warning: ") : NULL);
        program_free(&r);
        json_decref(s.said);
    }
}

static void options_come_from_a_file_too(void **state) {
    (void)state;
    const char *model = serving_model();
    char words[600];
    snprintf(words, sizeof(words),
             "{\"model\": \"%s\", \"port\": 0, \"pool\": \"64MB\", \"alias\": \"one\", \"ctx\": 500, \"api-key\": "
             "\"k\", \"json\": false}",
             model);
    serving s = SERVING("--config", serving_file("serve-json", words), "--alias", "two"); /* the command line wins */
    web_answer a = web_ask(s.port, "GET /v1/models", NULL, NULL);
    assert_int_equal(a.status, 401);
    web_free(&a);
    check_model(web_connect(s.port), "Authorization: Bearer k\r\n", "two", 500);
    serving_stop(&s);
    snprintf(words, sizeof(words), "# a server\n\n model = %s\nport=0\n pool = 64MB \njson = true\nalias=three\n",
             model);
    s = serving_start((const char *const[]){"serve", "--config", serving_file("serve-lines", words), NULL});
    check_model(web_connect(s.port), NULL, "three", 2048);
    serving_stop(&s);
    static const struct {
        const char *text, *word;
    } wrong[] = {{"nonsense = 1\n", "nonsense"},
                 {"port\n", "line 1"},
                 {"port = x\n", "port"},
                 {"{\"port\": [1]}", "port"},
                 {"{\"port\": 1, \"port\": 2}", "duplicate"},
                 {"{\"port\": ", "line"},
                 {"config = other\n", "another"}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        PROGRAM_REFUSES(2, wrong[i].word, "serve", "-m", model, "--config", serving_file("serve-wrong", wrong[i].text));
    PROGRAM_REFUSES(2, "serve-none", "serve", "-m", model, "--config", "/tmp/pleat-serve-none");
    PROGRAM_REFUSES(2, "which model", "serve", "--port", "0");
    PROGRAM_REFUSES(2, "from 576 on", "serve", "-m", model, "--max-running", "512", "--step-tokens", "512");
    PROGRAM_REFUSES(2, "from 64 on", "serve", "-m", model, "--max-running", "1", "--step-tokens", "100");
}

static void a_socket_is_made_and_removed(void **state) {
    (void)state;
    const char *model = serving_model();
    char path[100];
    snprintf(path, sizeof(path), "/tmp/pleat-%d.sock", (int)getpid());
    serving s = SERVING("-m", model, "--pool", "64MB", "--socket", path, "--alias", "tiny");
    check_model(web_connect_path(path), NULL, "tiny", 2048);
    PROGRAM_REFUSES(1, path, "serve", "-m", model, "--pool", "64MB", "--socket", path); /* somebody answers there */
    check_model(web_connect_path(path), NULL, "tiny", 2048);
    kill(s.program.pid, SIGKILL); /* leaves its file behind */
    program_result r = program_end(&s.program);
    program_free(&r);
    json_decref(s.said);
    assert_int_equal(access(path, F_OK), 0);
    s = SERVING("-m", model, "--pool", "64MB", "--socket", path, "--alias", "tiny");
    check_model(web_connect_path(path), NULL, "tiny", 2048);
    serving_stop(&s);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* Whether a stream of n answers came to its end under a server that was told to end; else it must have said why not. */
static bool ends_whole(const char *drain_seconds, int n, int max_tokens, bool twice) {
    serving s = SERVING("-m", serving_model(), "--port", "0", "--pool", "64MB", "--requests", "200MB",
                        "--drain-seconds", drain_seconds);
    char c, body[200];
    int fd = web_connect(s.port);
    snprintf(body, sizeof(body),
             "{\"prompt\":\"x\",\"n\":%d,\"max_tokens\":%d,\"ignore_eos\":true,\"stream\":true,\"logprobs\":5}", n,
             max_tokens);
    web_request(fd, "POST /v1/completions", NULL, body);
    assert_int_equal(recv(fd, &c, 1, MSG_PEEK), 1);
    kill(s.program.pid, SIGTERM);
    free(program_await(s.program.err, "shutting down"));
    if (twice) {
        web_answer a = web_ask(s.port, "GET /readyz", NULL, NULL);
        assert_int_equal(a.status, 503);
        web_free(&a);
        kill(s.program.pid, SIGTERM);
    }
    web_answer a = web_read(fd);
    assert_int_equal(a.status, 200);
    assert_false(a.cut);
    text_append(&a.body, "", 1);
    bool done = strstr(a.body.bytes, "data: [DONE]\n\n") != NULL;
    const char *error = strstr(a.body.bytes, "data: {\"error\":{\"message\":\"the server is shutting down\"");
    assert_int_equal(error == NULL, done);
    assert_true(done || !strstr(error + 1, "data: ")); /* the last event */
    web_free(&a);
    close(fd);
    program_result r = program_end(&s.program);
    assert_int_equal(r.code, 0);
    program_free(&r);
    json_decref(s.said);
    return done;
}

static void a_drain_ends(void **state) {
    (void)state;
    assert_true(ends_whole("80000", 1, 300, false)); /* when the answers have ended, not with the time */
    assert_false(ends_whole("0", 8, 1900, false));
    assert_false(ends_whole("80000", 8, 1900, true));
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_planned_and_said),
        cmocka_unit_test(a_method_that_costs_answers_is_warned_of_at_the_start),
        cmocka_unit_test(options_come_from_a_file_too),
        cmocka_unit_test(a_socket_is_made_and_removed),
        cmocka_unit_test(a_drain_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
