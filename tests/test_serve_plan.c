/* test_serve_plan.c - what `pleat serve` says of itself before it serves: defaults in its help and manual, and the
 * memory it plans for. */
#include "base/text.h"
#include "support/desk.h"
#include "support/env.h"
#include "support/program.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static char *read_manual(void) {
    text t = {0};
    char piece[4096];
    FILE *f = fopen("docs/server.md", "r");
    assert_non_null(f);
    for (size_t n; (n = fread(piece, 1, sizeof(piece), f));)
        text_append(&t, piece, n);
    fclose(f);
    return t.bytes;
}

/* The row of the options' table that names one. */
static void find_row(const char *manual, const char *option, char row[600]) {
    char name[80];
    snprintf(name, sizeof(name), "`--%s", option);
    const char *table = strstr(manual, "| option | meaning |");
    assert_non_null(table);
    for (const char *at = table; (at = strstr(at, name)); at++) {
        char after = at[strlen(name)];
        const char *begin = at;
        while (*begin != '\n')
            begin--;
        if ((after != ' ' && after != '`') || begin[1] != '|')
            continue;
        snprintf(row, 600, "%.*s", (int)strcspn(begin + 1, "\n"), begin + 1);
        return;
    }
    fail_msg("docs/server.md has no row for --%s", option);
}

/* Every option has a row, and the default that --help prints stands in its last column. */
static void the_manual_has_the_defaults_of_the_help(void **state) {
    (void)state;
    char *manual = read_manual();
    int n_defaults = 0;
    program_result r = PROGRAM("serve", "--help");
    assert_int_equal(r.code, 0);
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n")) {
        char option[40], row[600], value[60];
        const char *dashes = strncmp(line, "  ", 2) ? NULL : strstr(line, "--");
        if (!dashes || dashes > line + 6 || sscanf(dashes, "--%39[a-z-]", option) != 1 || !strcmp(option, "help"))
            continue;
        find_row(manual, option, row);
        const char *at = strstr(line, " (default "), *last = row;
        if (!at)
            continue;
        snprintf(value, sizeof(value), "%.*s", (int)strcspn(at + 10, ")"), at + 10);
        for (const char *bar = row; (bar = strstr(bar, " | ")); bar++)
            last = bar;
        if (!strstr(last, value))
            fail_msg("--%s is %s by its help; its manual says%s", option, value, last);
        n_defaults++;
    }
    assert_true(n_defaults >= 10);
    program_free(&r);
    free(manual);
}

/* ---- the plan ---- */

static const char *model_path(void) {
    const char *path = env_temp("plan-tiny");
    tiny_options o = tiny_default();
    o.context = 2048;
    tiny_write(path, &o);
    return path;
}

/* Starts and ends a server; its plan, which the caller frees, and what it said on standard error. */
static json_t *plan_of(char **err, const char *const *arguments) {
    const char *all[40] = {"serve", "-m", model_path(), "--port", "0", "--json"};
    for (int i = 0; arguments[i]; i++)
        all[6 + i] = arguments[i];
    program_live p = program_start(all);
    char *said = program_await(p.out, "\n}\n");
    json_t *start = json_loads(said, JSON_DISABLE_EOF_CHECK, NULL),
           *plan = json_incref(json_object_get(start, "memory"));
    assert_non_null(plan);
    kill(p.pid, SIGTERM);
    program_result r = program_end(&p);
    assert_int_equal(r.code, 0);
    if (err)
        *err = strdup(r.err);
    program_free(&r);
    free(said);
    json_decref(start);
    return plan;
}
#define PLAN(err, ...) plan_of(err, (const char *const[]){__VA_ARGS__, NULL})

static json_int_t bytes(const json_t *plan, const char *key) {
    assert_true(json_is_integer(json_object_get(plan, key)));
    return json_integer_value(json_object_get(plan, key));
}

static json_int_t requests_with(const char *option, const char *value) {
    json_t *plan = PLAN(NULL, "--pool", "512MB", option, value);
    json_int_t n = bytes(plan, "requests_bytes");
    json_decref(plan);
    return n;
}

/* Whatever makes requests larger or more makes their part larger, and nothing else. */
static void requests_and_connections_are_planned_for(void **state) {
    (void)state;
    json_int_t usual = requests_with("--connections", "10");
    assert_true(requests_with("--max-waiting", "512") > usual);
    assert_true(requests_with("--max-running", "64") > usual);
    assert_true(requests_with("--ctx", "1000") < usual);
    json_int_t bodies = requests_with("--body", "9MB") - requests_with("--body", "8MB");
    assert_in_range(bodies, 8 * 1000000 * 8 / 7, 8 * 1000000 * 8 / 7 + 1); /* a client leaves an eighth to others */
    json_t *plan = PLAN(NULL, "--pool", "64MB", "--requests", "20MB", "--connections", "10");
    json_t *more = PLAN(NULL, "--pool", "64MB", "--requests", "20MB", "--connections", "20");
    assert_int_equal(bytes(plan, "requests_bytes"), 20000000);
    assert_true(bytes(plan, "connections_bytes") >= 10 * (48 << 10));
    assert_int_equal(bytes(more, "connections_bytes"), 2 * bytes(plan, "connections_bytes"));
    assert_int_equal(bytes(more, "total_bytes"), bytes(plan, "total_bytes"));
    assert_int_equal(bytes(plan, "most_bytes"),
                     bytes(plan, "total_bytes") + bytes(plan, "requests_bytes") + bytes(plan, "connections_bytes"));
    json_decref(plan);
    json_decref(more);
    PROGRAM_REFUSES(1, "are free", "serve", "-m", model_path(), "--port", "0", "--requests", "900TB");
    PROGRAM_REFUSES(1, "one body alone", "serve", "-m", model_path(), "--port", "0", "--requests", "9MB");
    PROGRAM_REFUSES(1, "/no/such", "serve", "-m", model_path(), "--port", "0", "--overcommit", "2", "--moved-dir",
                    "/no/such");
    PROGRAM_REFUSES(2, "--requests is \"much\"", "serve", "-m", model_path(), "--port", "0", "--requests", "much");
}

static void a_context_that_does_not_fit_the_pool_is_said(void **state) {
    (void)state;
    static const struct {
        const char *pool, *method, *ctx;
        bool fits;
    } list[] = {{"64MB", "f16", "2048", true},
                {"1MB", "f16", "2048", false},
                {"1MB", "f16", "256", true},
                {"1MB", "streaming:recent=60", "2048", true}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        char *err;
        json_t *plan = PLAN(&err, "--pool", list[i].pool, "--method", list[i].method, "--ctx", list[i].ctx);
        const char *said = strstr(err, "warning: a prompt that fills the context");
        if ((said == NULL) != list[i].fits)
            fail_msg("%s, %s, %s: %s", list[i].pool, list[i].method, list[i].ctx, err);
        assert_int_equal(bytes(plan, "context_tokens"), atoi(list[i].ctx));
        assert_int_equal(bytes(plan, "context_bytes") <= bytes(plan, "pool_bytes"), list[i].fits);
        json_decref(plan);
        free(err);
    }
}

/* ---- the bound ---- */

#define TEXT "/v1/completions"

static void wait_for_bytes(const desk *d, double least, double most) {
    desk_await_in(d, "pleat:request_bytes", least, most);
}

static void must_be(const desk *d, int status, const char *body, const char *word) {
    web_answer a = web_ask(d->port, "POST " TEXT, NULL, body);
    if (a.status != status || (word && !strstr(a.body.bytes, word)))
        fail_msg("status %d, not %d: %.300s", a.status, status, a.body.bytes ? a.body.bytes : "");
    assert_int_equal(web_header(&a, "Retry-After") != NULL, status == 503);
    web_free(&a);
}

static void bodies_share_a_bound(void **state) {
    (void)state;
    enum { N = 3, BODY = 100000, SENT = 90000, MOST = 320000 };
    desk d = desk_open((serve_options){.request_bytes = MOST}, 0, 0);
    static char half[SENT], small[50000];
    int fd[N];
    memset(half, ' ', sizeof(half));
    snprintf(small, sizeof(small), "{\"prompt\":\"x\",\"max_tokens\":1,\"padding\":\"%040000d\"}", 0);
    for (int i = 0; i < N; i++) {
        char head[200];
        int n = snprintf(head, sizeof(head), "POST " TEXT " HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", BODY);
        fd[i] = web_connect(d.port);
        assert_true(web_send(fd[i], head, (size_t)n) && web_send(fd[i], half, SENT));
    }
    wait_for_bytes(&d, N * SENT, N * SENT);
    must_be(&d, 503, small, "no memory");
    must_be(&d, 200, "{\"prompt\":\"x\",\"max_tokens\":1}", NULL);
    for (int i = 0; i < N; i++)
        close(fd[i]);
    wait_for_bytes(&d, 0, 0);
    must_be(&d, 200, small, NULL);
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
}

/* Twice as large as all that may be kept. */
static void a_body_is_kept_only_where_it_is_read(void **state) {
    (void)state;
    enum { MOST = 100000 };
    static const char *const keys[] = {"key"};
    static const struct {
        const char *what, *headers;
        int status;
        bool asks; /* before it sends its body */
    } cases[] = {{"POST " TEXT, "", 401, false},
                 {"POST " TEXT, "Authorization: Bearer other\r\n", 401, false},
                 {"POST " TEXT, "Expect: 100-continue\r\nContent-Length: 1000\r\n", 401, true},
                 {"POST " TEXT, "Content-Length: 100000000\r\n", 401, true}, /* and does not wait for all of that */
                 {"POST /nowhere", "", 404, false},
                 {"POST /health", "", 405, false},
                 {"POST " TEXT, "Authorization: Bearer key\r\nContent-Type: image/png\r\n", 415, false},
                 {"GET /health", "", 200, false},
                 {"POST " TEXT, "Authorization: Bearer key\r\n", 503, false}};
    static char large[2 * MOST + 1];
    memset(large, ' ', 2 * MOST);
    desk d = desk_open((serve_options){.request_bytes = MOST, .keys = keys, .n_keys = 1}, 0, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        web_answer a = web_ask(d.port, cases[i].what, cases[i].headers, cases[i].asks ? NULL : large);
        if (a.status != cases[i].status)
            fail_msg("%s with %s: %d", cases[i].what, cases[i].headers, a.status);
        web_free(&a);
    }
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
}

/* headers may be NULL */
static int endless(const desk *d, const char *headers) {
    int fd = web_connect(d->port);
    web_request(fd, "POST " TEXT, headers,
                "{\"prompt\":\"x\",\"kv_method\":\"streaming-512\",\"max_tokens\":100000,\"ignore_eos\":true}");
    return fd;
}

static void answers_share_a_bound(void **state) {
    (void)state;
    enum { MOST = 10000000 };
    static const char large[] = "{\"prompt\":\"x\",\"kv_method\":\"streaming-512\",\"max_tokens\":60000}";
    desk d = desk_open((serve_options){.request_bytes = MOST, .scheduler = {.max_running = 1}}, 0, 0);
    int fd[2];
    must_be(&d, 400, "{\"prompt\":\"x\",\"max_tokens\":2000,\"logprobs\":20}", "what is asked for");
    for (int i = 0; i < 2; i++)
        fd[i] = endless(&d, NULL);
    wait_for_bytes(&d, 2 * 4000000, MOST); /* one runs, one waits */
    must_be(&d, 503, large, "no memory");
    close(fd[0]);
    close(fd[1]);
    desk_quiet(&d);
    wait_for_bytes(&d, 0, 0);
    must_be(&d, 200, "{\"prompt\":\"x\",\"max_tokens\":2,\"n\":3}", NULL);
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
}

/* However much one client asks for: its answers and its bodies count together. */
static void a_client_leaves_memory_to_others(void **state) {
    (void)state;
    enum { MOST = 10000000, BODY = 800000 };
    static const char *const keys[] = {"a", "b"}, *const key[] = {"Authorization: Bearer a\r\n",
                                                                  "Authorization: Bearer b\r\n"};
    static const char large[] =
        "{\"prompt\":\"x\",\"kv_method\":\"streaming-512\",\"max_tokens\":20000,\"stop\":\"e\"}",
                      small[] = "{\"prompt\":\"x\",\"max_tokens\":0}";
    static char body[BODY + 1];
    desk d = desk_open((serve_options){.request_bytes = MOST, .keys = keys, .n_keys = 2}, 0, 0);
    int fd[2] = {endless(&d, key[0]), endless(&d, key[0])};
    wait_for_bytes(&d, 8000000, MOST);
    double held = desk_figure(&d, "pleat:request_bytes");
    memset(body, ' ', BODY);
    memcpy(body, small, strlen(small));
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++) { /* 800,000 bytes of an answer, or of a body */
            web_answer answer = web_ask(d.port, "POST " TEXT, key[i], k ? body : large);
            if (answer.status != (i ? 200 : 503))
                fail_msg("client %d, %s: %d", i, k ? "body" : "answer", answer.status);
            web_free(&answer);
            wait_for_bytes(&d, held, held);
        }
    close(fd[0]);
    close(fd[1]);
    desk_quiet(&d);
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
}

/* What a request that waits has set aside. */
static double set_aside(const desk *d, const char *more) {
    char body[300];
    double before = desk_figure(d, "pleat:request_bytes");
    snprintf(body, sizeof(body), "{\"prompt\":[1,2,3,4,5,6,7,8],\"max_tokens\":9,\"kv_method\":\"f16\"%s}", more);
    int fd = web_connect(d->port);
    web_request(fd, "POST " TEXT, NULL, body);
    desk_await_in(d, "vllm:num_requests_waiting", 1, 1);
    double now = desk_figure(d, "pleat:request_bytes");
    close(fd);
    wait_for_bytes(d, before, before); /* given back after the request is no longer counted */
    return now - before;
}

static void streams_and_pins_are_set_aside(void **state) {
    (void)state;
    desk d = desk_open((serve_options){.request_bytes = 10000000, .scheduler = {.max_running = 1}}, 0, 0);
    int running = endless(&d, NULL);
    desk_await(&d, "vllm:num_requests_running", 1);
    double plain = set_aside(&d, "");
    assert_int_equal((int)(set_aside(&d, ",\"stream\":true") - plain), 16 << 10);
    assert_int_equal((int)(set_aside(&d, ",\"pin\":3") - plain), 2 * 8); /* here and in the scheduler */
    close(running);
    desk_quiet(&d);
    desk_close(&d);
}

static int status_of(const desk *d, const char *what, const char *body) {
    web_answer a = web_ask(d->port, what, NULL, body);
    int status = a.status;
    web_free(&a);
    return status;
}

static void lists_of_tokens_are_bounded(void **state) {
    (void)state;
    desk d = desk_open((serve_options){.request_bytes = 1000000}, 0, 0);
    char body[40000];
    snprintf(body, sizeof(body), "{\"prompt\":\"%03000d\",\"with_pieces\":true}", 0);
    assert_int_equal(status_of(&d, "POST /tokenize", body), 400);
    snprintf(body, sizeof(body), "{\"prompt\":\"%03000d\"}", 0);
    assert_int_equal(status_of(&d, "POST /tokenize", body), 200);
    snprintf(body, sizeof(body), "{\"prompt\":\"%030000d\"}", 0);
    assert_int_equal(status_of(&d, "POST /tokenize", body), 400);
    int n = sprintf(body, "{\"tokens\":[65");
    while (n < 39000)
        n += sprintf(body + n, ",66");
    strcpy(body + n, "]}");
    assert_int_equal(status_of(&d, "POST /detokenize", body), 200);
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
    d = desk_open((serve_options){.request_bytes = 200000}, 0, 0);
    assert_int_equal(status_of(&d, "POST /detokenize", body), 400);
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
}

/* In the middle of a body, in the queue, under way. */
static void who_leaves_gives_all_back(void **state) {
    (void)state;
    desk d =
        desk_open((serve_options){.request_bytes = 100000000, .scheduler = {.max_running = 2, .max_waiting = 8}}, 0, 0);
    for (int i = 0; i < 100; i++) {
        int fd = i % 3 ? endless(&d, NULL) : web_connect(d.port);
        if (i % 3 == 0)
            web_puts(fd, "POST " TEXT " HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{\"prompt\":");
        if (i % 2)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        close(fd);
    }
    desk_quiet(&d);
    wait_for_bytes(&d, 0, 0);
    desk_close(&d);
}

/* Blocks of that size are the system's again once they are freed: the next ones would else be kept. */
static void large_bodies_leave_nothing(void **state) {
    (void)state;
    enum { BODY = 12 << 20, ROUNDS = 6 };
    if (env_sanitized())
        skip(); /* that allocator keeps blocks for a while */
    program_live p = program_start((const char *const[]){"serve", "-m", model_path(), "--port", "0", "--json", "--pool",
                                                         "8MB", "--body", "20MB", NULL});
    char *said = program_await(p.out, "\n}\n"), *body = malloc(BODY + 100);
    json_t *start = json_loads(said, JSON_DISABLE_EOF_CHECK, NULL);
    desk d = {.pid = p.pid, .port = (int)json_integer_value(json_object_get(start, "port"))};
    must_be(&d, 200, "{\"prompt\":\"x\",\"max_tokens\":1}", NULL);
    size_t before = desk_rss(&d);
    int n = sprintf(body, "{\"prompt\":\"x\",\"max_tokens\":1,\"padding\":\"");
    memset(body + n, 'a', BODY);
    strcpy(body + n + BODY, "\"}");
    for (int i = 0; i < ROUNDS; i++)
        must_be(&d, 200, body, NULL);
    wait_for_bytes(&d, 0, 0);
    if (desk_rss(&d) > before + BODY / 2)
        fail_msg("resident memory went from %zu to %zu bytes", before, desk_rss(&d));
    kill(p.pid, SIGTERM);
    program_result r = program_end(&p);
    program_free(&r);
    json_decref(start);
    free(said);
    free(body);
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_manual_has_the_defaults_of_the_help),
        cmocka_unit_test(requests_and_connections_are_planned_for),
        cmocka_unit_test(a_context_that_does_not_fit_the_pool_is_said),
        cmocka_unit_test(bodies_share_a_bound),
        cmocka_unit_test(a_body_is_kept_only_where_it_is_read),
        cmocka_unit_test(answers_share_a_bound),
        cmocka_unit_test(a_client_leaves_memory_to_others),
        cmocka_unit_test(streams_and_pins_are_set_aside),
        cmocka_unit_test(lists_of_tokens_are_bounded),
        cmocka_unit_test(who_leaves_gives_all_back),
        cmocka_unit_test(large_bodies_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
