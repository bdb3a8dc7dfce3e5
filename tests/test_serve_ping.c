/* test_serve_ping.c - a stream that has nothing to say for 15 seconds says that it lives. The server's clock runs fast
 * here. */
#include "support/desk.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

/* This definition stands in for that of src/base/clock.c: 15 seconds pass in 1.5 ms, which a few prompt tokens take. */
double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e4 * ((double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
}

static int comments(const char *events) {
    int n = *events == ':';
    for (const char *at = events; (at = strstr(at, "\n:")); at++)
        n++;
    return n;
}

static void a_silent_stream_lives(void **state) {
    (void)state;
    enum { FAR = 1000000000, PROMPT = 1900 };
    static char body[PROMPT + 200];
    desk d = desk_open((serve_options){.http = {.head_seconds = FAR, .body_seconds = FAR}}, 0, 0);
    int other = web_connect(d.port); /* whose tokens come meanwhile */
    web_request(
        other, "POST /v1/completions", NULL,
        "{\"prompt\":\"x\",\"max_tokens\":100000,\"ignore_eos\":true,\"stream\":true,\"kv_method\":\"streaming-512\"}");
    desk_await(&d, "vllm:num_requests_running", 1);
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":3,\"stream\":true,\"kv_method\":\"f16\"}", PROMPT,
             1);
    web_answer a = web_ask(d.port, "POST /v1/completions", NULL, body);
    bool done;
    assert_int_equal(a.status, 200);
    assert_true(comments(a.body.bytes) > 1); /* the first came with the head */
    json_decref(desk_events(&a, &done));
    assert_true(done);
    web_free(&a);
    close(other);
    desk_unasked(&d);
    desk_quiet(&d);
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_stream_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
