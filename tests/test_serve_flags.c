/* test_serve_flags.c - every option of `pleat serve` has its effect. Not here: --drain-seconds, --socket, --config,
 * --moved in the plan (test_serve_command.c). */
#include "support/desk.h"
#include "support/env.h"
#include "support/serving.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"

static desk desk_of(const serving *s) {
    return (desk){.pid = s->program.pid, .port = s->port};
}

static json_int_t cached(const desk *d, const char *body) {
    json_t *a = desk_ask(d, TEXT, body);
    const json_t *details = json_object_get(json_object_get(a, "usage"), "prompt_tokens_details");
    json_int_t n = json_integer_value(json_object_get(details, "cached_tokens"));
    json_decref(a);
    return n;
}

static const char *prompt_body(int n_prompt, int max_tokens, const char *rest) {
    static char body[1200];
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":%d,\"ignore_eos\":true%s}", n_prompt, 1,
             max_tokens, rest);
    return body;
}

/* ---- what requests meet ---- */

/* One engine step of 64 prompt tokens each, and no reuse. */
static void check_engine(const desk *d) {
    json_int_t steps = (json_int_t)desk_figure(d, "pleat:steps_total");
    for (int i = 0; i < 2; i++)
        assert_int_equal(cached(d, prompt_body(250, 1, ",\"kv_method\":\"f16\"")), 0);
    assert_int_equal((json_int_t)desk_figure(d, "pleat:steps_total") - steps, 8);
    assert_int_equal((json_int_t)desk_figure(d, "pleat:kv_pool_budget_bytes"), 8000000);
}

/* One runs, and the others wait. */
static void check_queue(const desk *d) {
    int fd[3];
    for (int i = 0; i < 3; i++) {
        fd[i] = web_connect(d->port);
        web_request(fd[i], "POST " TEXT, NULL, prompt_body(10, 450, ""));
    }
    desk_await(d, "vllm:num_requests_running", 1); /* before: all of them wait first */
    desk_await(d, "vllm:num_requests_waiting", 2);
    assert_int_equal((int)desk_figure(d, "vllm:num_requests_running"), 1);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    desk_quiet(d);
    web_answer a = web_ask(d->port, "POST " TEXT, NULL, "{\"prompt\":\"x\",\"n\":4}");
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.body.bytes, "at most 3 are possible"));
    web_free(&a);
}

static void check_limits(const desk *d) {
    web_answer a = web_ask(d->port, "POST " TEXT, NULL, prompt_body(500, 10, ""));
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.body.bytes, "the context has 500 tokens"));
    web_free(&a);
    a = web_ask(d->port, "POST " TEXT, NULL, prompt_body(1000, 1, ""));
    assert_int_equal(a.status, 413);
    web_free(&a);
}

static void requests_meet_what_the_options_say(void **state) {
    (void)state;
    serving s = SERVING("-m", serving_model(), "--port", "0", "--alias", "mine", "--method", "int8", "--chat",
                        "llama-2", "--ctx", "500", "--max-running", "1", "--max-waiting", "3", "--step-tokens", "64",
                        "--pool", "8MB", "--prefix", "0", "--body", "900");
    desk d = desk_of(&s);
    json_t *a = desk_ask(&d, "/v1/models", NULL);
    const json_t *model = json_array_get(json_object_get(a, "data"), 0);
    assert_string_equal(json_string_value(json_object_get(model, "id")), "mine");
    assert_int_equal(json_integer_value(json_object_get(model, "max_model_len")), 500);
    json_decref(a);
    a = desk_ask(&d, TEXT, "{\"model\":\"mine\",\"prompt\":\"x\",\"max_tokens\":1}");
    const char *spec = json_string_value(json_object_get(json_object_get(a, "usage"), "kv_method"));
    assert_memory_equal(spec, "int8", 4);
    json_decref(a);
    a = desk_ask(&d, "/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}");
    json_t *ids = json_pack("{s:O}", "tokens", json_object_get(a, "tokens"));
    char *body = json_dumps(ids, JSON_COMPACT);
    json_decref(ids);
    json_decref(a);
    a = desk_ask(&d, "/detokenize", body);
    assert_non_null(strstr(json_string_value(json_object_get(a, "prompt")), "[INST] hello [/INST]"));
    free(body);
    json_decref(a);
    check_engine(&d);
    check_queue(&d);
    check_limits(&d);
    serving_stop(&s);
    s = SERVING("-m", serving_model(), "--port", "0", "--pool", "8MB", "--prefix", "4MB"); /* and here is reuse */
    d = desk_of(&s);
    for (int i = 0; i < 2; i++)
        assert_int_equal(cached(&d, prompt_body(250, 1, "")), i ? 192 : 0);
    serving_stop(&s);
}

static void keys_come_from_the_line_and_from_a_file(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int status;
    } cases[] = {{"one", 200}, {"two", 200}, {"three", 200}, {"four", 401}, {"", 401}};
    serving s = SERVING("-m", serving_model(), "--port", "0", "--pool", "8MB", "--api-key", "one", "--api-key-file",
                        serving_file("serve-keys", "two\n\n  three  \n"), "--cors", "http://a.page");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char headers[100];
        snprintf(headers, sizeof(headers), "Origin: http://a.page\r\nAuthorization: Bearer %s\r\n", cases[i].key);
        web_answer a = web_ask(s.port, "GET /v1/models", headers, NULL);
        assert_int_equal(a.status, cases[i].status);
        assert_string_equal(web_header(&a, "Access-Control-Allow-Origin"), "http://a.page");
        web_free(&a);
    }
    serving_stop(&s);
    PROGRAM_REFUSES(2, "no key", "serve", "-m", serving_model(), "--api-key-file", serving_file("serve-keys", "\n\n"));
    PROGRAM_REFUSES(2, "--api-key", "serve", "-m", serving_model(), "--api-key", "");
}

/* ---- where it listens ---- */

static int connect_to(int family, const char *host, int port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_v4 = family == AF_INET;
    inet_pton(family, host, is_v4 ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr);
    if (fd >= 0 &&
        !connect(fd, is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6, is_v4 ? sizeof(v4) : sizeof(v6)))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void check_host(int family, const char *host, const char *other) {
    serving s = SERVING("-m", serving_model(), "--pool", "8MB", "--host", host, "--port", "0");
    int fd = connect_to(family, host, s.port);
    assert_true(fd >= 0);
    web_request(fd, "GET /health", NULL, NULL);
    web_answer a = web_read(fd);
    assert_int_equal(a.status, 200);
    web_free(&a);
    close(fd);
    assert_int_equal(connect_to(AF_INET, other, s.port), -1); /* and nowhere else */
    assert_non_null(strstr(json_string_value(json_object_get(s.said, "address")), host));
    serving_stop(&s);
}

static bool has_ipv6(void) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && !bind(fd, (struct sockaddr *)&any, sizeof(any));
    if (fd >= 0)
        close(fd);
    return has;
}

static void it_listens_where_it_is_told(void **state) {
    (void)state;
    check_host(AF_INET, "127.0.0.2", "127.0.0.1");
    if (has_ipv6())
        check_host(AF_INET6, "::1", "127.0.0.1");
    serving s = SERVING("-m", serving_model(), "--pool", "8MB", "--port", "0");
    char port[16];
    int was = s.port;
    serving_stop(&s);
    snprintf(port, sizeof(port), "%d", was);
    s = SERVING("-m", serving_model(), "--pool", "8MB", "-p", port);
    assert_int_equal(s.port, was);
    PROGRAM_REFUSES(1, "cannot be opened", "serve", "-m", serving_model(), "--pool", "8MB", "--port", port); /* taken */
    serving_stop(&s);
}

/* One connection more than there may be is not answered before another has gone. */
static void connections_are_bounded(void **state) {
    (void)state;
    enum { N = 8 };
    serving s =
        SERVING("-m", serving_model(), "--port", "0", "--pool", "8MB", "--connections", "8", "--http-threads", "2");
    int fd[N], more;
    web_answer a;
    for (int i = 0; i < N; i++) {
        fd[i] = web_connect(s.port);
        web_request(fd[i], "GET /health", NULL, NULL);
        a = web_read(fd[i]);
        assert_int_equal(a.status, 200);
        web_free(&a);
    }
    more = web_connect(s.port);
    web_request(more, "GET /health", NULL, NULL);
    assert_int_equal(poll(&(struct pollfd){.fd = more, .events = POLLIN}, 1, 300), 0);
    close(fd[0]);
    a = web_read(more);
    assert_int_equal(a.status, 200);
    web_free(&a);
    close(more);
    for (int i = 1; i < N; i++)
        close(fd[i]);
    serving_stop(&s);
}

/* ---- threads and words ---- */

static int threads_of(const char *engine_threads, const char *http_threads) {
    serving s = SERVING("-m", serving_model(), "--port", "0", "--pool", "8MB", "--threads", engine_threads,
                        "--http-threads", http_threads);
    char path[64];
    int n = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)s.program.pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *e; (e = readdir(folder));)
        n += e->d_name[0] != '.';
    closedir(folder);
    serving_stop(&s);
    return n;
}

static void threads_are_as_many_as_asked(void **state) {
    (void)state;
    int one = threads_of("1", "2");
    assert_int_equal(threads_of("1", "5"), one + 3);
    assert_int_equal(threads_of("3", "2"), one + 2);
}

static void without_json_it_speaks_plainly(void **state) {
    (void)state;
    const char *path = serving_model();
    serving s = {.program = program_start((const char *const[]){"serve", "-m", path, "--port", "0", "--pool", "8MB",
                                                                "--threads", "1", NULL})};
    char *words = program_await(s.program.out, "listening on http://127.0.0.1:");
    assert_non_null(strstr(words, "KV pool 8"));
    assert_non_null(strstr(words, ", f16, 1 threads, "));
    assert_null(strchr(words, '{'));
    free(words);
    serving_stop(&s);
}

/* ---- a pool that is too small ---- */

/* Six long answers at a time; those that failed. */
static int squeeze(const desk *d) {
    enum { N = 6 };
    int fd[N], n_failed = 0;
    for (int i = 0; i < N; i++) {
        fd[i] = web_connect(d->port);
        web_request(fd[i], "POST " TEXT, NULL, prompt_body(500 + i, 200, ""));
    }
    for (int i = 0; i < N; i++) {
        web_answer a = web_read(fd[i]);
        n_failed += a.status != 200;
        web_free(&a);
        close(fd[i]);
    }
    return n_failed;
}

static void check_overcommit(const char *overcommit, const char *moved, const char *folder, bool moves, bool fails) {
    serving s = folder ? SERVING("-m", serving_model(), "--port", "0", "--pool", "2100000", "--prefix", "0",
                                 "--overcommit", overcommit, "--moved", moved, "--moved-dir", folder)
                       : SERVING("-m", serving_model(), "--port", "0", "--pool", "2100000", "--prefix", "0",
                                 "--overcommit", overcommit, "--moved", moved);
    desk d = desk_of(&s);
    int n_failed = 0;
    for (int i = 0; i < (moves || fails ? 30 : 1); i++) { /* the first answer may have ended before the last came */
        n_failed += squeeze(&d);
        if (n_failed || desk_figure(&d, "vllm:num_preemptions_total") > 0)
            break;
    }
    bool moved_out = desk_figure(&d, "vllm:num_preemptions_total") > 0;
    if ((n_failed > 0) != fails || (!fails && moved_out != moves))
        fail_msg("--overcommit %s --moved %s --moved-dir %s: %d failed, %g moved out", overcommit, moved,
                 folder ? folder : "", n_failed, desk_figure(&d, "vllm:num_preemptions_total"));
    serving_stop(&s);
}

static void caches_move_where_they_may(void **state) {
    (void)state;
    char folder[] = "/tmp/pleat-moved-XXXXXX";
    assert_non_null(mkdtemp(folder));
    check_overcommit("1", "8MB", NULL, false, false);
    check_overcommit("4", "8MB", NULL, true, false);
    check_overcommit("4", "0", folder, true, false);
    check_overcommit("4", "0", NULL, false, true);
    assert_int_equal(rmdir(folder), 0);
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_meet_what_the_options_say), cmocka_unit_test(keys_come_from_the_line_and_from_a_file),
        cmocka_unit_test(it_listens_where_it_is_told),        cmocka_unit_test(connections_are_bounded),
        cmocka_unit_test(threads_are_as_many_as_asked),       cmocka_unit_test(without_json_it_speaks_plainly),
        cmocka_unit_test(caches_move_where_they_may),
    };
    return cmocka_run_group_tests_name("serve_flags", tests, NULL, NULL);
}
