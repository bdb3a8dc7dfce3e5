/* test_serve.c - the server over loopback: shapes, streams, methods, clients that leave, overload, drain, keys. */
#include "support/desk.h"
#include "kv/method.h"
#include "support/env.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"
#define CHAT "/v1/chat/completions"

static const char *word(const json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    if (!value)
        fail_msg("%s is not a string", key);
    return value;
}

/* ---- shapes ---- */

static void check_usage(const json_t *answer, int n_prompt, int n_answer) {
    const json_t *usage = json_object_get(answer, "usage");
    assert_int_equal(desk_number(usage, "prompt_tokens"), n_prompt);
    assert_int_equal(desk_number(usage, "completion_tokens"), n_answer);
    assert_int_equal(desk_number(usage, "total_tokens"), n_prompt + n_answer);
    assert_true(desk_number(json_object_get(usage, "prompt_tokens_details"), "cached_tokens") >= 0);
    assert_true(desk_number(usage, "kv_bytes") > 0);
    assert_string_equal(word(usage, "kv_method"), "f16");
}

static void answers_have_the_shapes_that_clients_expect(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    json_t *a = desk_ask(&d, TEXT, "{\"model\":\"tiny\",\"prompt\":[1,2,3,4],\"max_tokens\":5,\"ignore_eos\":true}");
    assert_string_equal(word(a, "object"), "text_completion");
    assert_memory_equal(word(a, "id"), "cmpl-", 5);
    assert_string_equal(word(a, "model"), "tiny");
    assert_true(desk_number(a, "created") > 1600000000);
    check_usage(a, 4, 5);
    const json_t *c = json_array_get(json_object_get(a, "choices"), 0);
    assert_string_equal(word(c, "finish_reason"), "length");
    assert_int_equal(desk_number(c, "index"), 0);
    assert_true(json_is_null(json_object_get(c, "logprobs")));
    json_decref(a);
    a = desk_ask(&d, CHAT,
                 "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{\"type\":"
                 "\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],\"max_completion_tokens\":4,"
                 "\"ignore_eos\":true,\"n\":2,\"logprobs\":true,\"top_logprobs\":2,\"tools\":[],\"user\":\"u\","
                 "\"unknown\":{\"x\":1}}");
    assert_string_equal(word(a, "object"), "chat.completion");
    assert_memory_equal(word(a, "id"), "chatcmpl-", 9);
    assert_int_equal(json_array_size(json_object_get(a, "choices")), 2);
    for (size_t i = 0; i < 2; i++) {
        c = json_array_get(json_object_get(a, "choices"), i);
        assert_int_equal(desk_number(c, "index"), i);
        assert_string_equal(word(json_object_get(c, "message"), "role"), "assistant");
        const json_t *content = json_object_get(json_object_get(c, "logprobs"), "content");
        assert_int_equal(json_array_size(content), 4);
        const json_t *token = json_array_get(content, 0);
        assert_true(json_real_value(json_object_get(token, "logprob")) <= 0);
        assert_int_equal(json_array_size(json_object_get(token, "top_logprobs")), 2);
        assert_true(json_is_array(json_object_get(token, "bytes")));
    }
    assert_string_not_equal(desk_text(a, 0), desk_text(a, 1)); /* each answer has a seed of its own */
    assert_int_equal(desk_number(json_object_get(a, "usage"), "completion_tokens"), 8);
    json_decref(a);
    desk_close(&d);
}

static void the_server_says_what_it_has(void **state) {
    (void)state;
    desk d = desk_open((serve_options){.method = "kivi-4", .context_tokens = 1000}, 0, 0);
    json_t *a = desk_ask(&d, "/v1/models", NULL);
    const json_t *m = json_array_get(json_object_get(a, "data"), 0);
    assert_string_equal(word(a, "object"), "list");
    assert_string_equal(word(m, "id"), "tiny");
    assert_string_equal(word(m, "object"), "model");
    assert_int_equal(desk_number(m, "max_model_len"), 1000);
    json_decref(a);
    json_decref(desk_ask(&d, "/v1/models/tiny", NULL));
    a = desk_ask(&d, "/v1/methods", NULL);
    assert_string_equal(word(a, "default"), "kivi-4");
    assert_true(json_array_size(json_object_get(a, "presets")) >= 5);
    assert_true(json_array_size(json_object_get(a, "formats")) >= 3);
    json_decref(a);
    for (int i = 0; i < 3; i++)
        json_decref(desk_ask(&d, i == 0 ? "/health" : i == 1 ? "/livez" : "/readyz", NULL));
    a = desk_ask(&d, "/tokenize", "{\"prompt\":\"the the\\u00e9\"}");
    char body[300], *ids = json_dumps(json_object_get(a, "tokens"), JSON_COMPACT);
    assert_int_equal(desk_number(a, "count"), json_array_size(json_object_get(a, "tokens")));
    assert_int_equal(desk_number(a, "max_model_len"), 1000);
    snprintf(body, sizeof(body), "{\"tokens\":%s}", ids);
    free(ids);
    json_decref(a);
    a = desk_ask(&d, "/detokenize", body);
    assert_string_equal(word(a, "prompt"), "the the\xc3\xa9");
    json_decref(a);
    a = desk_ask(&d, "/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"}]}");
    const json_t *tokens = json_object_get(a, "tokens");
    int n_ends = 0;
    for (size_t i = 0; i < json_array_size(tokens); i++)
        n_ends += json_integer_value(json_array_get(tokens, i)) == 258;
    assert_int_equal(n_ends, 1); /* the turn's own; what a user writes stays text */
    json_decref(a);
    a = desk_ask(&d, "/tokenizer_info", NULL);
    assert_int_equal(desk_number(a, "model_max_length"), 1000);
    assert_true(json_is_string(json_object_get(a, "eos_token")));
    json_decref(a);
    web_answer page = web_ask(d.port, "GET /", NULL, NULL);
    assert_int_equal(page.status, 200);
    assert_non_null(strstr(page.body.bytes, "<title>pleat</title>"));
    assert_null(strstr(page.body.bytes, "http://"));
    assert_null(strstr(page.body.bytes, "https://"));
    web_free(&page);
    desk_close(&d);
}

static void a_method_that_costs_answers_says_so(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int with = 0; with < 2; with++) {
        json_t *a = desk_ask(&d, TEXT,
                             with ? "{\"prompt\":[1],\"max_tokens\":1,\"kv_method\":\"lm3\"}"
                                  : "{\"prompt\":[1],\"max_tokens\":1,\"kv_method\":\"lm4\"}");
        const json_t *list = json_object_get(json_object_get(a, "usage"), "kv_warnings");
        assert_int_equal(json_array_size(list), with);
        assert_true(!with || strstr(json_string_value(json_array_get(list, 0)), "3 bits"));
        json_decref(a);
    }
    json_t *a = desk_ask(&d, "/v1/methods", NULL), *preset;
    size_t i;
    bool warned = false;
    json_array_foreach(json_object_get(a, "presets"), i, preset) {
        const json_t *list = json_object_get(preset, "warnings");
        assert_true(json_is_array(list));
        assert_true(strcmp(word(preset, "name"), "f16") || !json_array_size(list));
        warned = warned || (!strcmp(word(preset, "name"), "lm3") && json_array_size(list) == 1);
    }
    assert_true(warned);
    json_decref(a);
    desk_close(&d);
}

static void echo_gives_the_logprobs_of_the_prompt(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, (size_t)8 << 20);
    for (int most = 0; most < 2; most++) { /* as lm-eval asks, and without an answer at all */
        char body[300];
        snprintf(body, sizeof(body),
                 "{\"prompt\":[[65,66,67,68,69],[70,71]],\"max_tokens\":%d,\"echo\":true,\"logprobs\":1,"
                 "\"temperature\":0,\"ignore_eos\":true}",
                 most);
        json_t *a = desk_ask(&d, TEXT, body);
        assert_int_equal(json_array_size(json_object_get(a, "choices")), 2);
        const json_t *c = json_array_get(json_object_get(a, "choices"), 0), *l = json_object_get(c, "logprobs");
        const json_t *values = json_object_get(l, "token_logprobs");
        static const char *const lists[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
        for (int i = 0; i < 4; i++)
            assert_int_equal(json_array_size(json_object_get(l, lists[i])), 5 + most);
        assert_true(json_is_null(json_array_get(values, 0)));
        for (size_t i = 1; i < 5; i++)
            assert_true(json_is_real(json_array_get(values, i)));
        assert_in_range(json_object_size(json_array_get(json_object_get(l, "top_logprobs"), 1)), 1, 2); /* and itself */
        if (most) { /* greedy: the token is the best */
            const json_t *top = json_array_get(json_object_get(l, "top_logprobs"), 5);
            double best = json_real_value(json_object_iter_value(json_object_iter((json_t *)top)));
            assert_float_equal(json_real_value(json_array_get(values, 5)), best, 1e-6);
        }
        json_decref(a);
    }
    desk_close(&d);
}

/* Also where it is none of the most probable, of which there may be none. */
static void the_token_itself_is_among_the_alternatives(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int n_top = 0; n_top < 3; n_top += 2) {
        char body[300];
        snprintf(body, sizeof(body),
                 "{\"prompt\":[65,66,67],\"max_tokens\":40,\"echo\":true,\"logprobs\":%d,\"temperature\":3,\"seed\":4,"
                 "\"ignore_eos\":true}",
                 n_top);
        json_t *a = desk_ask(&d, TEXT, body);
        const json_t *l = json_object_get(json_array_get(json_object_get(a, "choices"), 0), "logprobs");
        size_t others = 0;
        for (size_t i = 1; i < 43; i++) {
            const json_t *top = json_array_get(json_object_get(l, "top_logprobs"), i),
                         *own =
                             json_object_get(top, json_string_value(json_array_get(json_object_get(l, "tokens"), i)));
            assert_non_null(own);
            assert_float_equal(json_real_value(own),
                               json_real_value(json_array_get(json_object_get(l, "token_logprobs"), i)), 1e-6);
            others += json_object_size(top) == (size_t)n_top + 1;
        }
        assert_true(others > 0);
        json_decref(a);
    }
    desk_close(&d);
}

/* ---- texts ---- */

static void same_streamed(const desk *d, const char *path, const char *rest, const char *expected, const char *ends) {
    char body[1500], finish[16];
    text said = {0};
    snprintf(body, sizeof(body), "{\"stream\":true,\"stream_options\":{\"include_usage\":true},%s", rest);
    char what[100];
    snprintf(what, sizeof(what), "POST %s", path);
    web_answer a = web_ask(d->port, what, NULL, body);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(web_header(&a, "Content-Type"), "text/event-stream"));
    json_t *usage = desk_stream(&a, 0, &said, finish);
    assert_string_equal(said.bytes ? said.bytes : "", expected);
    assert_string_equal(finish, ends);
    assert_true(desk_number(usage, "kv_bytes") > 0);
    json_decref(usage);
    text_free(&said);
    web_free(&a);
}

static void a_text_is_the_same_streamed_and_whole_and_under_load(void **state) {
    (void)state;
    enum { N = 12 };
    desk d = desk_open((serve_options){0}, 0, (size_t)8 << 20);
    for (int i = 0; kv_presets[i].name; i++) {
        char rest[1200], body[1300], *alone[N];
        json_t *a[N];
        int fd[N];
        for (int k = 0; k < N; k++) {
            snprintf(rest, sizeof(rest),
                     "\"prompt\":\"%0*d the same\",\"max_tokens\":24,\"seed\":%d,\"kv_method\":\"%s\",\"ignore_eos\":"
                     "true,\"logit_bias\":{\"0\":-100},\"temperature\":%s}",
                     100 + 60 * k, k, k, kv_presets[i].name, k % 2 ? "0.9" : "0");
            snprintf(body, sizeof(body), "{%s", rest);
            if (k < 3) {
                a[k] = desk_ask(&d, TEXT, body);
                alone[k] = strdup(desk_text(a[k], 0));
                json_decref(a[k]);
                same_streamed(&d, TEXT, rest, alone[k], "length");
            }
            fd[k] = web_connect(d.port);
            web_request(fd[k], "POST " TEXT, NULL, body);
        }
        for (int k = 0; k < N; k++) {
            web_answer w = web_read(fd[k]);
            assert_int_equal(w.status, 200);
            a[0] = web_json(&w);
            if (k < 3) {
                assert_string_equal(desk_text(a[0], 0), alone[k]);
                free(alone[k]);
            }
            const char *spec = word(json_object_get(a[0], "usage"), "kv_method");
            bool lossy = strcmp(kv_presets[i].name, "f16") != 0;
            assert_true((strstr(spec, "prefill:bounded") != NULL) == lossy);
            json_decref(a[0]);
            web_free(&w);
            close(fd[k]);
        }
    }
    desk_close(&d);
}

/* Bias leaves the model two letters, in an order that the seed draws. */
static void stop_strings_are_never_shown(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    static const char rest[] = "\"prompt\":\"x\",\"max_tokens\":60,\"seed\":3,\"ignore_eos\":true,\"temperature\":1,"
                               "\"logit_bias\":{\"64\":100,\"65\":100}";
    char body[600], finish[16];
    snprintf(body, sizeof(body), "{%s}", rest);
    json_t *a = desk_ask(&d, TEXT, body);
    char *whole = strdup(desk_text(a, 0));
    json_decref(a);
    assert_int_equal(strlen(whole), 60);
    for (int at = 5; at < 50; at += 9) { /* a stop of four tokens */
        char stop[8] = {0};
        memcpy(stop, whole + at, 4);
        size_t end = (size_t)(strstr(whole, stop) - whole);
        snprintf(body, sizeof(body), "{%s,\"stop\":[\"zzz\",\"%s\"]}", rest, stop);
        a = desk_ask(&d, TEXT, body);
        assert_int_equal(strlen(desk_text(a, 0)), end);
        assert_memory_equal(desk_text(a, 0), whole, end);
        const json_t *c = json_array_get(json_object_get(a, "choices"), 0);
        assert_string_equal(word(c, "finish_reason"), "stop");
        assert_int_equal(desk_number(json_object_get(a, "usage"), "completion_tokens"),
                         end + 4); /* it ended right there */
        snprintf(body, sizeof(body), "%s,\"stop\":[\"zzz\",\"%s\"]}", rest, stop);
        whole[end] = 0;
        same_streamed(&d, TEXT, body, whole, "stop");
        whole[end] = stop[0];
        json_decref(a);
    }
    /* The beginning of a stop that does not come is shown in the end. */
    snprintf(body, sizeof(body), "%s,\"stop\":\"%s!\"}", rest, whole + 50);
    same_streamed(&d, TEXT, body, whole, "length");
    snprintf(body, sizeof(body), "{%s,\"stop_token_ids\":[64,65],\"min_tokens\":7}", rest);
    a = desk_ask(&d, TEXT, body);
    assert_string_equal(word(json_array_get(json_object_get(a, "choices"), 0), "finish_reason"), "stop");
    assert_int_equal(desk_number(json_object_get(a, "usage"), "completion_tokens"), 7);
    json_decref(a);
    web_answer w = web_ask(d.port, "POST " TEXT, NULL,
                           "{\"prompt\":\"x\",\"n\":2,\"stream\":true,\"max_tokens\":5,\"ignore_eos\":true}");
    for (size_t i = 0; i < 2; i++) {
        text said = {0};
        json_decref(desk_stream(&w, i, &said, finish));
        assert_string_equal(finish, "length");
        text_free(&said);
    }
    web_free(&w);
    free(whole);
    desk_close(&d);
}

static void characters_are_whole_in_every_event(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    /* Bytes C3 and A9 with an equal bias: halves of characters in any order. Each event is parsed as strict JSON. */
    json_t *ids = desk_ask(&d, "/tokenize", "{\"prompt\":\"\\u00e9\"}");
    const json_t *list = json_object_get(ids, "tokens");
    assert_int_equal(json_array_size(list), 2);
    char rest[400], body[420];
    snprintf(
        rest, sizeof(rest),
        "\"prompt\":\"x\",\"max_tokens\":80,\"seed\":5,\"ignore_eos\":true,\"logit_bias\":{\"%d\":100,\"%d\":100}}",
        (int)json_integer_value(json_array_get(list, 0)), (int)json_integer_value(json_array_get(list, 1)));
    json_decref(ids);
    snprintf(body, sizeof(body), "{%s", rest);
    json_t *a = desk_ask(&d, TEXT, body);
    assert_non_null(strstr(desk_text(a, 0), "\xc3\xa9"));
    same_streamed(&d, TEXT, rest, desk_text(a, 0), "length");
    json_decref(a);
    desk_close(&d);
}

static void methods_are_chosen_by_request(void **state) {
    (void)state;
    desk d = desk_open((serve_options){.method = "int8"}, 0, (size_t)8 << 20);
    json_t *a = desk_ask(&d, TEXT, "{\"prompt\":\"hello\",\"max_tokens\":2}");
    assert_memory_equal(word(json_object_get(a, "usage"), "kv_method"), "int8", 4);
    json_decref(a);
    a = desk_ask(&d, TEXT, "{\"prompt\":\"hello\",\"max_tokens\":2,\"kv_method\":\"kivi-4+prefill:exact\"}");
    assert_null(strstr(word(json_object_get(a, "usage"), "kv_method"), "bounded"));
    json_decref(a);
    web_answer w = web_ask(d.port, "POST " TEXT, "x-kv-method: kivi-2\r\n", "{\"prompt\":\"hello\",\"max_tokens\":2}");
    assert_int_equal(w.status, 200);
    assert_non_null(strstr(w.body.bytes, "kivi:bits=2"));
    web_free(&w);
    w = web_ask(d.port, "POST " TEXT, "x-kv-method: kivi-2\r\n",
                "{\"prompt\":\"hello\",\"max_tokens\":2,\"kv_method\":\"f16\"}"); /* the body wins */
    assert_int_equal(w.status, 200);
    assert_non_null(strstr(w.body.bytes, "\"kv_method\":\"f16\""));
    web_free(&w);
    w = web_ask(d.port, "POST " TEXT, NULL, "{\"prompt\":\"hello\",\"max_tokens\":2,\"kv_method\":\"auto\"}");
    assert_int_equal(w.status, 400);
    assert_non_null(strstr(w.body.bytes, "auto"));
    web_free(&w);
    a = desk_ask(&d, TEXT, "{\"prompt\":\"hello\",\"max_tokens\":2,\"pin\":3,\"kv_method\":\"f16\"}");
    json_decref(a);
    char body[1500];
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":2,\"kv_method\":\"f16\"}", 900, 1);
    for (int i = 0; i < 2; i++) {
        a = desk_ask(&d, TEXT, body);
        const json_t *details = json_object_get(json_object_get(a, "usage"), "prompt_tokens_details");
        assert_int_equal(desk_number(details, "cached_tokens"), i ? 896 : 0);
        json_decref(a);
    }
    desk_close(&d);
}

/* ---- clients that leave ---- */

static const char *long_body(bool stream, int n_prompt) {
    static char body[4000];
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":%d,\"ignore_eos\":true,\"stream\":%s}", n_prompt,
             7, DESK_CONTEXT - n_prompt - 50, stream ? "true" : "false");
    return body;
}

static int ended(const desk *d, const char *why) {
    char label[64];
    snprintf(label, sizeof(label), "finished_reason=\"%s\"", why);
    return (int)desk_figure_of(d, "vllm:request_success_total", label);
}

/* Beyond the context, which this method can: no such answer comes to its end by itself. */
static const char *endless_body(bool stream, int n_prompt) {
    static char body[4000];
    snprintf(body, sizeof(body),
             "{\"prompt\":\"%0*d\",\"max_tokens\":100000,\"ignore_eos\":true,\"stream\":%s,"
             "\"kv_method\":\"streaming:sinks=4,recent=64\"}",
             n_prompt, 7, stream ? "true" : "false");
    return body;
}

static void who_leaves_is_cancelled(void **state) {
    (void)state;
    enum { N = 12, RUNNING = 4 };
    int n_cut = 0;
    desk d = desk_open((serve_options){.scheduler = {.max_running = RUNNING}}, 0, 0);
    for (int stream = 0; stream < 2; stream++)
        for (int half = 0; half < 2; half++) {
            int fd[N];
            for (int i = 0; i < N; i++) { /* some decode, some prefill, most wait */
                fd[i] = web_connect(d.port);
                web_request(fd[i], "POST " TEXT, NULL, endless_body(stream, 100 + 100 * i));
            }
            desk_await(&d, "pleat:requests", N); /* eight wait also when three run and the twelfth is to come */
            desk_await(&d, "vllm:num_requests_running", RUNNING);
            desk_await(&d, "vllm:num_requests_waiting", N - RUNNING);
            for (int i = 0; i < N; i++)
                half ? shutdown(fd[i], SHUT_WR) : close(fd[i]);
            desk_unasked(&d); /* before: a request that is read late is none of the engine's yet */
            desk_quiet(&d);
            n_cut += N;
            assert_int_equal(ended(&d, "abort"), n_cut);
            assert_int_equal(ended(&d, "length") + ended(&d, "stop") + ended(&d, "error"), 0);
            for (int i = 0; half && i < N; i++)
                close(fd[i]);
        }
    json_decref(desk_ask(&d, TEXT, "{\"prompt\":\"still here\",\"max_tokens\":3}"));
    desk_close(&d);
}

static void abort_one(const desk *d, unsigned *seed) {
    int fd = web_connect(d->port), kind = rand_r(seed) % 6;
    const char *body = long_body(rand_r(seed) % 2, 20 + rand_r(seed) % 600);
    if (kind == 0) { /* in the middle of the request */
        char head[200];
        int n = snprintf(head, sizeof(head), "POST " TEXT " HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                         strlen(body));
        web_send(fd, head, (size_t)n);
        web_send(fd, body, strlen(body) / 2);
    } else {
        web_request(fd, "POST " TEXT, NULL, body);
    }
    if (kind == 1) {
        char some[200];
        struct timeval wait = {.tv_usec = 20000};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
        (void)!recv(fd, some, sizeof(some), 0);
    }
    if (kind == 2)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger)); /* RST */
    if (kind > 3)
        nanosleep(&(struct timespec){.tv_nsec = rand_r(seed) % 4000000}, NULL);
    close(fd);
}

static void aborts_leave_nothing(void **state) {
    (void)state;
    int n = env_sanitized() ? 100 : 1000;
    unsigned seed = 4;
    desk d = desk_open((serve_options){.scheduler = {.max_running = 8, .max_waiting = 64}}, 0, 0);
    desk_quiet(&d);
    int fds = desk_fds(&d);
    for (int i = 0; i < n / 2; i++) /* what a server keeps once it has worked */
        abort_one(&d, &seed);
    desk_quiet(&d);
    size_t rss = desk_rss(&d);
    for (int i = 0; i < n; i++)
        abort_one(&d, &seed);
    desk_quiet(&d);
    for (int i = 0; i < 500 && desk_fds(&d) > fds; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    if (desk_fds(&d) > fds)
        fail_msg("%d files are open, and %d were before", desk_fds(&d), fds);
    if (!env_sanitized() && desk_rss(&d) > rss + rss / 20)
        fail_msg("resident memory went from %zu to %zu bytes", rss, desk_rss(&d));
    assert_true(ended(&d, "abort") > n / 2); /* some were reset before they were read; nobody came to its end */
    json_decref(desk_ask(&d, TEXT, "{\"prompt\":\"still here\",\"max_tokens\":3}"));
    desk_close(&d);
}

static void a_slow_reader_holds_nobody_up(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    int fd = web_connect(d.port);
    web_request(fd, "POST " TEXT, NULL,
                "{\"prompt\":\"x\",\"max_tokens\":1900,\"ignore_eos\":true,\"stream\":true,"
                "\"logprobs\":20,\"seed\":1,\"n\":8}");
    for (int i = 0; i < 3; i++)
        json_decref(desk_ask(&d, TEXT, "{\"prompt\":\"meanwhile\",\"max_tokens\":5}"));
    for (int i = 0; i < 3000 && desk_figure(&d, "vllm:num_requests_running") > 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_int_equal((int)desk_figure(&d, "vllm:num_requests_running"), 0); /* the engine is done with it */
    web_answer a = web_read(fd);
    assert_false(a.cut);
    assert_true(a.body.n > 5 << 20); /* more than sockets hold by themselves: Linux sends from 4 MB at most */
    text said = {0};
    char finish[16];
    json_decref(desk_stream(&a, 0, &said, finish));
    assert_string_equal(finish, "length"); /* and nothing was lost */
    text_free(&said);
    web_free(&a);
    close(fd);
    desk_close(&d);
}

/* ---- limits ---- */

static void overload_is_told(void **state) {
    (void)state;
    enum { N = 3 };
    desk d = desk_open((serve_options){.scheduler = {.max_running = 1, .max_waiting = 2}}, 0, 0);
    int fd[N], n_full = 0;
    for (int turn = 0; turn < 20 && !n_full; turn++) { /* the first of the three may end too soon */
        for (int i = 0; i < N; i++) {
            fd[i] = web_connect(d.port);
            web_request(fd[i], "POST " TEXT, NULL, long_body(false, 40));
        }
        for (int i = 0; i < 1000 && desk_figure(&d, "vllm:num_requests_waiting") < 2; i++)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        web_answer a = web_ask(d.port, "POST " TEXT, NULL, "{\"prompt\":\"one more\",\"max_tokens\":3}");
        if (a.status == 429) {
            n_full++;
            assert_non_null(web_header(&a, "Retry-After"));
            assert_non_null(strstr(a.body.bytes, "rate_limit_error"));
        }
        web_free(&a);
        for (int i = 0; i < N; i++)
            close(fd[i]);
        desk_quiet(&d);
    }
    assert_true(n_full > 0);
    json_decref(desk_ask(&d, TEXT, "{\"prompt\":\"again\",\"max_tokens\":3}"));
    web_answer a = web_ask(d.port, "POST " TEXT, NULL, "{\"prompt\":\"x\",\"n\":3}");
    assert_int_equal(a.status, 400);
    web_free(&a);
    desk_close(&d);
}

static void a_drain_lets_answers_end(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    int fd = web_connect(d.port), idle = web_connect(d.port);
    web_request(idle, "GET /readyz", NULL, NULL);
    web_answer a = web_read(idle);
    assert_int_equal(a.status, 200);
    web_free(&a);
    web_request(fd, "POST " TEXT, NULL, long_body(true, 40));
    char c;
    assert_int_equal(recv(fd, &c, 1, MSG_PEEK), 1);
    desk_signal(&d);
    for (int i = 0; i < 500; i++) {
        web_request(idle, "GET /readyz", NULL, NULL);
        a = web_read(idle);
        if (a.status != 200)
            break;
        web_free(&a);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    assert_int_equal(a.status, 503);
    assert_non_null(web_header(&a, "Retry-After"));
    assert_non_null(strstr(a.body.bytes, "\"unavailable_error\""));
    assert_non_null(strstr(a.body.bytes, "\"code\":503"));
    web_free(&a);
    web_request(idle, "POST " TEXT, NULL, "{\"prompt\":\"x\",\"max_tokens\":1}");
    a = web_read(idle);
    assert_true(a.status == 503 || a.status == 0);
    web_free(&a);
    a = web_read(fd);
    text said = {0};
    char finish[16];
    json_decref(desk_stream(&a, 0, &said, finish));
    assert_string_equal(finish, "length");
    text_free(&said);
    web_free(&a);
    close(fd);
    close(idle);
    desk_wait(&d);
}

static void keys_are_asked_for_and_are_tenants(void **state) {
    (void)state;
    static const char *const keys[] = {"first-key", "second-key"};
    desk d = desk_open((serve_options){.keys = keys, .n_keys = 2}, 0, (size_t)16 << 20);
    static const char *const wrong[] = {NULL, "Authorization: Bearer first-ke\r\n",
                                        "Authorization: Bearer first-keyy\r\n", "Authorization: Basic first-key\r\n",
                                        "Authorization: Bearer \r\n"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        web_answer a = web_ask(d.port, "GET /v1/models", wrong[i], NULL);
        assert_int_equal(a.status, 401);
        assert_non_null(strstr(a.body.bytes, "authentication_error"));
        web_free(&a);
    }
    char body[1500];
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":2}", 900, 1);
    static const struct {
        const char *header;
        int cached;
    } ask[] = {{"Authorization: Bearer first-key\r\n", 0},
               {"Authorization: bearer  second-key\r\n", 0},
               {"Authorization: Bearer first-key\r\n", 896}};
    for (int i = 0; i < 3; i++) {
        web_answer w = web_ask(d.port, "POST " TEXT, ask[i].header, body);
        assert_int_equal(w.status, 200);
        json_t *a = web_json(&w);
        const json_t *details = json_object_get(json_object_get(a, "usage"), "prompt_tokens_details");
        assert_int_equal(desk_number(details, "cached_tokens"), ask[i].cached);
        json_decref(a);
        web_free(&w);
    }
    json_decref(desk_ask(&d, "/health", NULL)); /* without a key */
    desk_close(&d);
}

static void salts_keep_prompts_apart(void **state) {
    (void)state;
    static const struct {
        const char *salt;
        int cached;
    } ask[] = {{"\"a\"", 0}, {"\"b\"", 0}, {"null", 0}, {"\"a\"", 896}, {"\"b\"", 896}, {"\"\"", 896}};
    desk d = desk_open((serve_options){0}, 0, (size_t)16 << 20);
    for (size_t i = 0; i < sizeof(ask) / sizeof(*ask); i++) {
        char body[1500];
        snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":2,\"cache_salt\":%s}", 900, 1, ask[i].salt);
        json_t *a = desk_ask(&d, TEXT, body);
        const json_t *details = json_object_get(json_object_get(a, "usage"), "prompt_tokens_details");
        assert_int_equal(desk_number(details, "cached_tokens"), ask[i].cached);
        json_decref(a);
    }
    desk_close(&d);
}

static void only_the_named_origin_may_ask(void **state) {
    (void)state;
    static const struct {
        const char *cors, *origin, *allowed;
    } cases[] = {{"http://localhost:3000", "Origin: http://localhost:3000\r\n", "http://localhost:3000"},
                 {"http://localhost:3000", "Origin: http://localhost.evil.com\r\n", NULL},
                 {"http://localhost:3000", "Origin: http://localhost:30000\r\n", NULL},
                 {"http://localhost:3000", "Origin: null\r\n", NULL},
                 {"*", "Origin: http://localhost.evil.com\r\n", "*"},
                 {NULL, "Origin: http://localhost:3000\r\n", NULL}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        desk d = desk_open((serve_options){.cors = cases[i].cors}, 0, 0);
        for (int k = 0; k < 2; k++) {
            web_answer a = web_ask(d.port, k ? "OPTIONS " CHAT : "GET /v1/models", cases[i].origin, NULL);
            assert_int_equal(a.status, k ? 204 : 200);
            const char *allowed = web_header(&a, "Access-Control-Allow-Origin");
            assert_int_equal(allowed != NULL, cases[i].allowed != NULL);
            assert_true(!allowed || !strcmp(allowed, cases[i].allowed));
            const char *headers = web_header(&a, "Access-Control-Allow-Headers");
            assert_int_equal(headers != NULL, k && cases[i].allowed);
            assert_true(!headers || (strstr(headers, "authorization") && strstr(headers, "x-kv-method")));
            web_free(&a);
        }
        desk_close(&d);
    }
}

static void a_request_keeps_its_name(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int fails = 0; fails < 2; fails++) {
        web_answer a = web_ask(d.port, "POST " TEXT, "x-request-id: mine-7\r\n",
                               fails ? "{}" : "{\"prompt\":\"x\",\"max_tokens\":1}");
        assert_int_equal(a.status, fails ? 400 : 200);
        assert_string_equal(web_header(&a, "x-request-id"), "mine-7");
        web_free(&a);
    }
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_have_the_shapes_that_clients_expect),
        cmocka_unit_test(the_server_says_what_it_has),
        cmocka_unit_test(a_method_that_costs_answers_says_so),
        cmocka_unit_test(echo_gives_the_logprobs_of_the_prompt),
        cmocka_unit_test(the_token_itself_is_among_the_alternatives),
        cmocka_unit_test(a_text_is_the_same_streamed_and_whole_and_under_load),
        cmocka_unit_test(stop_strings_are_never_shown),
        cmocka_unit_test(characters_are_whole_in_every_event),
        cmocka_unit_test(methods_are_chosen_by_request),
        cmocka_unit_test(who_leaves_is_cancelled),
        cmocka_unit_test(aborts_leave_nothing),
        cmocka_unit_test(a_slow_reader_holds_nobody_up),
        cmocka_unit_test(overload_is_told),
        cmocka_unit_test(a_drain_lets_answers_end),
        cmocka_unit_test(keys_are_asked_for_and_are_tenants),
        cmocka_unit_test(salts_keep_prompts_apart),
        cmocka_unit_test(only_the_named_origin_may_ask),
        cmocka_unit_test(a_request_keeps_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
