/* test_serve_memory.c - memory that runs out while a request is read, answered or refused: each allocation of a request
 * fails once, one after the other. The answer is then whole, or it is 503 with Retry-After and an error object, or the
 * connection is closed, or a stream that has begun ends with that error; and the next request is answered.
 *
 * This program's own malloc, calloc and realloc fail where they are told to, on the server's threads only. Sanitizers
 * bring a malloc of their own; under them nothing fails here. */
#include "serve/serve.h"
#include "support/bed.h"
#include "support/desk.h"
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#ifndef __SANITIZE_ADDRESS__
#define TEXT "/v1/completions"
#define CHAT "/v1/chat/completions"

/* ---- failing ---- */

static _Thread_local bool spared;
static atomic_int left; /* allocations until one fails; 0: none does */
static atomic_bool has_failed;

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);

static bool fails(void) {
    if (spared || !atomic_load_explicit(&left, memory_order_relaxed) || atomic_fetch_sub(&left, 1) != 1)
        return false;
    atomic_store(&left, 0);
    atomic_store(&has_failed, true);
    errno = ENOMEM;
    return true;
}

/* libmicrohttpd's list of sockets to poll, made anew for each poll: without it the library forgets that it has resumed
 * a connection until another event comes. That is not ours to mend, and not what is looked at here. */
static bool polls(const void *caller, size_t size) {
    Dl_info at;
    return size == sizeof(struct pollfd) && dladdr(caller, &at) && strstr(at.dli_fname, "libmicrohttpd");
}

void *malloc(size_t n) {
    return fails() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size) {
    return !polls(__builtin_return_address(0), size) && fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n) {
    return fails() ? NULL : __libc_realloc(p, n);
}

/* ---- a server in this process ---- */

typedef struct shop {
    bed bed;
    server *server;
    int port;
} shop;

static shop shop_open(void) {
    tiny_options tiny = tiny_default();
    tiny.context = DESK_CONTEXT;
    spared = true; /* the test's own thread */
    shop s = {.bed = bed_open(tiny, (pleat_engine_options){.n_threads = 1,
                                                           .max_step_tokens = 256,
                                                           .max_sequences = 4,
                                                           .pool_bytes = (size_t)64 << 20,
                                                           .prefix_bytes = (size_t)1 << 20})};
    pleat_error error = {""};
    serve_options o = {.name = "tiny", .chat = "chatml", .http = {.n_threads = 1}};
    if (serve_open(s.bed.engine, &o, &s.server, &error))
        fail_msg("%s", error.text);
    s.port = serve_port(s.server);
    return s;
}

static void shop_close(shop *s) {
    serve_close(s->server);
    bed_close(&s->bed);
}

/* Without what differs from one answer to the next. */
static char *essence(const web_answer *a) {
    json_error_t error;
    json_t *body = json_loadb(a->body.bytes ? a->body.bytes : "", a->body.n, 0, &error);
    if (!body) /* a stream: ids and times cut out */
        return NULL;
    json_object_del(body, "id");
    json_object_del(body, "created");
    json_object_del(json_object_get(body, "usage"), "prompt_tokens_details"); /* what the failed ones left for reuse */
    char *said = json_dumps(body, JSON_SORT_KEYS);
    json_decref(body);
    return said;
}

static void check_refusal(const char *what, int at, const web_answer *a) {
    if (a->status != 503)
        fail_msg("%s: allocation %d fails: status %d: %.300s", what, at, a->status, a->body.bytes ? a->body.bytes : "");
    json_t *body = web_json(a);
    const json_t *error = json_object_get(body, "error");
    if (!web_header(a, "Retry-After") || !json_is_string(json_object_get(error, "message")) ||
        !json_object_get(error, "param") || !json_object_get(error, "code") ||
        strcmp(json_string_value(json_object_get(error, "type")), "unavailable_error") != 0)
        fail_msg("%s: allocation %d fails: %.300s%.300s", what, at, a->head.bytes, a->body.bytes);
    json_decref(body);
}

/* One request after the other until none of its allocations fails any more. last: what an answer that is no JSON has
 * in its end. */
static void check_all(const shop *s, const char *what, const char *body, const char *last) {
    web_answer good = web_ask(s->port, what, NULL, body);
    char *expected = essence(&good);
    int n_refused = 0, n_closed = 0;
    assert_int_equal(good.status, 200);
    bool failed = true;
    for (int at = 1; failed; at++) {
        atomic_store(&has_failed, false);
        atomic_store(&left, at);
        web_answer a = web_ask(s->port, what, NULL, body);
        atomic_store(&left, 0);
        failed = atomic_load(&has_failed);
        if (a.status == 0 || (a.status == 200 && a.cut)) {
            n_closed++;
        } else if (a.status == 200) {
            char *said = essence(&a);
            bool ended = expected || strstr(a.body.bytes, last);
            bool told = strstr(a.body.bytes, "\"unavailable_error\"") != NULL; /* behind a stream's head */
            if (ended == told)
                fail_msg("%s: allocation %d fails: %.600s", what, at, a.body.bytes);
            size_t same = 0;
            while (expected && said && expected[same] && said[same] == expected[same])
                same++;
            if (expected && (!said || said[same] != expected[same]))
                fail_msg("%s: allocation %d fails: ...%.300s instead of ...%.300s", what, at, said ? said + same : "",
                         expected + same);
            free(said);
        } else {
            check_refusal(what, at, &a);
            n_refused++;
        }
        web_free(&a);
        assert_true(at < 20000);
    }
    if (!n_refused)
        fail_msg("%s: nothing was refused (%d connections were closed)", what, n_closed);
    free(expected);
    web_free(&good);
}
#endif

static void memory_that_runs_out_is_told(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    print_message("skipped: sanitizers allocate by themselves\n");
    skip();
#else
    shop s = shop_open();
    check_all(&s, "POST " TEXT,
              "{\"prompt\":\"one two\",\"max_tokens\":4,\"ignore_eos\":true,\"temperature\":0,\"stop\":[\"zzz\"],"
              "\"logit_bias\":{\"64\":1},\"logprobs\":2,\"echo\":true,\"kv_method\":\"kivi-4\",\"pin\":1}",
              NULL);
    check_all(&s, "POST " TEXT, "{\"prompt\":[[1,2],[3]],\"max_tokens\":2,\"stream\":true,\"temperature\":0}",
              "[DONE]");
    check_all(
        &s, "POST " CHAT,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"x\",\"pin\":true}"
        "],\"max_tokens\":3,\"temperature\":0,\"logprobs\":true,\"top_logprobs\":1,\"ignore_eos\":true}",
        NULL);
    check_all(&s, "POST /tokenize", "{\"prompt\":\"one two\"}", NULL);
    check_all(&s, "POST /detokenize", "{\"tokens\":[65,66,67]}", NULL);
    check_all(&s, "GET /v1/methods", NULL, NULL);
    check_all(&s, "GET /v1/models", NULL, NULL);
    check_all(&s, "GET /metrics", NULL, "pleat:http_answers_total{model_name=\"tiny\",status=\"5xx\"}");
    shop_close(&s);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_runs_out_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
