/* test_serve_share.c - who gets a share of the batch: an API key, and without keys an address; never a salt or a user.
 */
#include "support/desk.h"
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"

static int connect_from(const desk *d, const char *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)d->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(inet_pton(AF_INET, address, &from.sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

typedef struct client {
    const char *address, *headers;
} client;

static int ask(const desk *d, client c, int which, const char *method, int max_tokens) {
    char body[300];
    int fd = connect_from(d, c.address);
    snprintf(body, sizeof(body),
             "{\"prompt\":\"x\",\"kv_method\":\"%s\",\"max_tokens\":%d,\"ignore_eos\":true,\"cache_salt\":\"%d\","
             "\"user\":\"%d\"}",
             method, max_tokens, which, which);
    web_request(fd, "POST " TEXT, c.headers, body);
    return fd;
}

static void await(const desk *d, const char *figure, int n) {
    desk_await_in(d, figure, n, n);
}

/* Many has the batch and the queue, each request with a salt and a user of its own. Few comes last, and is next. */
static void few_is_next(desk d, client many, client few) {
    enum { N_RUNNING = 2, N = 8 };
    int fd[N];
    for (int i = 0; i < N; i++) {
        fd[i] = ask(&d, many, i, i < N_RUNNING ? "streaming-512" : "f16", i < N_RUNNING ? 200000 : 600);
        await(&d, i < N_RUNNING ? "vllm:num_requests_running" : "vllm:num_requests_waiting",
              i < N_RUNNING ? i + 1 : i + 1 - N_RUNNING);
    }
    int last = ask(&d, few, 0, "f16", 5);
    await(&d, "vllm:num_requests_waiting", N - N_RUNNING + 1);
    close(fd[0]); /* there is one place */
    web_answer a = web_read(last);
    assert_int_equal(a.status, 200);
    assert_true(desk_figure(&d, "vllm:num_requests_waiting") > 1);
    web_free(&a);
    close(last);
    for (int i = 1; i < N; i++)
        close(fd[i]);
    desk_quiet(&d);
    desk_close(&d);
}

static void a_key_has_one_share_whatever_its_salts(void **state) {
    (void)state;
    static const char *const keys[] = {"first", "second"};
    few_is_next(desk_open((serve_options){.keys = keys, .n_keys = 2, .scheduler = {.max_running = 2}}, 0, 0),
                (client){"127.0.0.1", "Authorization: Bearer first\r\n"},
                (client){"127.0.0.1", "Authorization: Bearer second\r\n"});
}

static void without_keys_an_address_has_one_share(void **state) {
    (void)state;
    few_is_next(desk_open((serve_options){.scheduler = {.max_running = 2}}, 0, 0), (client){"127.0.0.1", NULL},
                (client){"127.0.0.2", NULL});
}

static json_int_t cached(const desk *d, const char *address, const char *salt) {
    char body[700];
    int fd = connect_from(d, address);
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":2,\"kv_method\":\"f16\",\"cache_salt\":\"%s\"}",
             400, 1, salt);
    web_request(fd, "POST " TEXT, NULL, body);
    web_answer a = web_read(fd);
    assert_int_equal(a.status, 200);
    json_t *whole = web_json(&a);
    json_int_t n = json_integer_value(
        json_object_get(json_object_get(json_object_get(whole, "usage"), "prompt_tokens_details"), "cached_tokens"));
    json_decref(whole);
    web_free(&a);
    close(fd);
    return n;
}

/* Who must not learn what others ask: the time to the first token would tell. */
static void without_keys_addresses_do_not_share_prompts(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, (size_t)16 << 20);
    assert_int_equal(cached(&d, "127.0.0.1", ""), 0);
    assert_true(cached(&d, "127.0.0.1", "") > 0);
    assert_int_equal(cached(&d, "127.0.0.2", ""), 0);
    assert_true(cached(&d, "127.0.0.2", "") > 0);
    assert_int_equal(cached(&d, "127.0.0.2", "salt"), 0);
    desk_close(&d);
}

/* One fills the queue; the other comes in, and one of the first's is told to come again. */
static void nobody_keeps_the_others_out(void **state) {
    (void)state;
    enum { WAITING = 4, N = WAITING + 1 };
    desk d = desk_open((serve_options){.scheduler = {.max_running = 1, .max_waiting = WAITING}}, 0, 0);
    client many = {"127.0.0.1", NULL}, few = {"127.0.0.2", NULL};
    int fd[N];
    for (int i = 0; i < N; i++) {
        fd[i] = ask(&d, many, i, i ? "f16" : "streaming-512", i ? 5 : 200000);
        await(&d, i ? "vllm:num_requests_waiting" : "vllm:num_requests_running", i ? i : 1);
    }
    int more = ask(&d, many, N, "f16", 5);
    web_answer a = web_read(more);
    assert_int_equal(a.status, 429);
    assert_non_null(web_header(&a, "Retry-After"));
    web_free(&a);
    close(more);
    int all = connect_from(&d, few.address); /* three places are more than half of the queue: none is taken */
    web_request(all, "POST " TEXT, NULL, "{\"prompt\":\"x\",\"n\":3,\"max_tokens\":2,\"kv_method\":\"f16\"}");
    a = web_read(all);
    assert_int_equal(a.status, 429);
    web_free(&a);
    close(all);
    await(&d, "vllm:num_requests_waiting", WAITING);
    int other = ask(&d, few, 0, "f16", 5);
    a = web_read(fd[N - 1]);
    assert_int_equal(a.status, 503);
    assert_non_null(web_header(&a, "Retry-After"));
    assert_non_null(strstr(a.body.bytes, "the most requests in it"));
    web_free(&a);
    close(fd[0]);
    a = web_read(other);
    assert_int_equal(a.status, 200);
    web_free(&a);
    close(other);
    for (int i = 1; i < N; i++)
        close(fd[i]);
    desk_quiet(&d);
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_has_one_share_whatever_its_salts),
        cmocka_unit_test(without_keys_an_address_has_one_share),
        cmocka_unit_test(without_keys_addresses_do_not_share_prompts),
        cmocka_unit_test(nobody_keeps_the_others_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
