/* test_serve_stream.c - streams event by event: chat's role, deltas, logprobs, usage and ends; echo; an answer that
 * fails on its way; answers whose caches are moved out while they run. */
#include "support/desk.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"
#define CHAT "/v1/chat/completions"

static const json_t *the_choice(const json_t *event) {
    return json_array_get(json_object_get(event, "choices"), 0);
}

static const json_t *choice_at(const json_t *answer, size_t i) {
    return json_array_get(json_object_get(answer, "choices"), i);
}

/* ---- chat ---- */

#define TALK                                                                                                           \
    "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"n\":2,\"max_tokens\":9,\"seed\":4,\"logprobs\":true,"  \
    "\"top_logprobs\":2"

/* What choice i of a stream says is what it says whole, in as many logprobs; its role comes once, at first. */
static void check_choice(const json_t *events, size_t i, const json_t *whole, const char *ends) {
    const json_t *event, *want = choice_at(whole, i);
    json_t *logprobs = json_array();
    text said = {0};
    char finish[16] = "";
    int n = 0;
    size_t k;
    json_array_foreach(events, k, event) {
        const json_t *c = the_choice(event), *delta = json_object_get(c, "delta");
        if (!c || json_integer_value(json_object_get(c, "index")) != (json_int_t)i)
            continue;
        assert_string_equal(finish, ""); /* nothing after its end */
        assert_true(json_is_object(delta));
        const json_t *role = json_object_get(delta, "role"), *content = json_object_get(delta, "content");
        assert_int_equal(role != NULL, n == 0);
        assert_true(n || !strcmp(json_string_value(role), "assistant"));
        text_append(&said, json_string_value(content), json_string_length(content));
        json_array_extend(logprobs, json_object_get(json_object_get(c, "logprobs"), "content"));
        const json_t *end = json_object_get(c, "finish_reason");
        assert_non_null(end); /* null until the end */
        snprintf(finish, sizeof(finish), "%s", json_is_string(end) ? json_string_value(end) : "");
        n++;
    }
    text_append(&said, "", 1);
    assert_string_equal(said.bytes, desk_text(whole, i));
    assert_string_equal(finish, ends);
    assert_string_equal(json_string_value(json_object_get(want, "finish_reason")), ends);
    assert_true(json_equal(logprobs, json_object_get(json_object_get(want, "logprobs"), "content")));
    text_free(&said);
    json_decref(logprobs);
}

/* All events are of one answer; usage stands where it was asked for. */
static void check_frames(const json_t *events, bool last, bool running, const json_t *whole) {
    const json_t *event, *first = json_array_get(events, 0);
    size_t k, n = json_array_size(events);
    json_int_t n_so_far = 0;
    assert_memory_equal(json_string_value(json_object_get(first, "id")), "chatcmpl-", 9);
    json_array_foreach(events, k, event) {
        static const char *const same[] = {"id", "created", "model"};
        for (int i = 0; i < 3; i++)
            assert_true(json_equal(json_object_get(event, same[i]), json_object_get(first, same[i])));
        assert_string_equal(json_string_value(json_object_get(event, "object")), "chat.completion.chunk");
        const json_t *usage = json_object_get(event, "usage");
        bool is_last = last && k == n - 1;
        assert_int_equal(json_array_size(json_object_get(event, "choices")), !is_last);
        assert_true(is_last || running ? json_is_object(usage) : last ? json_is_null(usage) : !usage);
        if (!json_is_object(usage))
            continue;
        json_int_t now = json_integer_value(json_object_get(usage, "completion_tokens"));
        assert_true(now >= n_so_far);
        n_so_far = now;
    }
    const json_t *usage = json_object_get(whole, "usage");
    assert_true(!(last || running) || n_so_far == json_integer_value(json_object_get(usage, "completion_tokens")));
}

static void chat_streams_are_the_whole_answer_in_pieces(void **state) {
    (void)state;
    static const struct {
        const char *fields, *finish;
    } cases[] = {{",\"ignore_eos\":true}", "length"},
                 {",\"stop_token_ids\":[64],\"logit_bias\":{\"64\":100}}", "stop"}};
    static const char *const options[] = {
        "", "\"stream_options\":{\"include_usage\":true},", "\"stream_options\":{\"continuous_usage_stats\":true},",
        "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true},"};
    desk d = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < 2; i++) {
        char body[600];
        snprintf(body, sizeof(body), "{" TALK "%s", cases[i].fields);
        json_t *whole = desk_ask(&d, CHAT, body);
        for (int k = 0; k < 4; k++) {
            bool done;
            snprintf(body, sizeof(body), "{\"stream\":true,%s" TALK "%s", options[k], cases[i].fields);
            web_answer a = web_ask(d.port, "POST " CHAT, NULL, body);
            assert_int_equal(a.status, 200);
            json_t *events = desk_events(&a, &done);
            assert_true(done);
            assert_non_null(strstr(web_header(&a, "Content-Type"), "text/event-stream"));
            assert_string_equal(web_header(&a, "Cache-Control"), "no-cache");
            assert_string_equal(web_header(&a, "X-Accel-Buffering"), "no");
            check_frames(events, k & 1, k & 2, whole);
            for (size_t c = 0; c < 2; c++)
                check_choice(events, c, whole, cases[i].finish);
            json_decref(events);
            web_free(&a);
        }
        json_decref(whole);
    }
    desk_close(&d);
}

/* ---- echo ---- */

/* A string's characters. */
static size_t characters(const char *s) {
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void echo_begins_with_the_prompt(void **state) {
    (void)state;
#define ECHOED "the cat\xc3\xa9 the"
    enum { N_BYTES = sizeof(ECHOED) - 1 };
    static const char *const lists[] = {"tokens", "token_logprobs", "top_logprobs"};
    enum { N_LISTS = 3 };
    desk d = desk_open((serve_options){0}, 0, (size_t)8 << 20);
    json_t *plain = desk_ask(&d, TEXT, "{\"prompt\":\"" ECHOED "\",\"max_tokens\":6,\"seed\":3}");
    for (int logprobs = 0; logprobs < 2; logprobs++) {
        char rest[200], body[260];
        snprintf(rest, sizeof(rest), "\"prompt\":\"" ECHOED "\",\"max_tokens\":6,\"seed\":3,\"echo\":true%s}",
                 logprobs ? ",\"logprobs\":2" : "");
        snprintf(body, sizeof(body), "{%s", rest);
        json_t *whole = desk_ask(&d, TEXT, body);
        const char *said = desk_text(whole, 0);
        assert_memory_equal(said, ECHOED, N_BYTES);
        assert_string_equal(said + N_BYTES, desk_text(plain, 0));
        const json_t *l = json_object_get(choice_at(whole, 0), "logprobs"), *offset = json_object_get(l, "text_offset");
        const json_t *token = json_object_get(l, "tokens");
        size_t at = 0, k;
        for (k = 0; k < json_array_size(token) && at < 11;
             k++) { /* whole characters so far, but for the accented one */
            const char *name = json_string_value(json_array_get(token, k));
            assert_int_equal(json_integer_value(json_array_get(offset, k)), at);
            at += strncmp(name, "bytes:", 6) ? characters(name) : !strcmp(name, "bytes:\\xc3");
        }
        assert_int_equal(json_is_array(token), logprobs);
        bool done;
        snprintf(body, sizeof(body), "{\"stream\":true,%s", rest);
        web_answer a = web_ask(d.port, "POST " TEXT, NULL, body);
        assert_int_equal(a.status, 200);
        json_t *events = desk_events(&a, &done), *event, *joined[N_LISTS];
        text streamed = {0};
        assert_true(done);
        for (int i = 0; i < N_LISTS; i++)
            joined[i] = json_array();
        json_array_foreach(events, k, event) {
            const json_t *c = the_choice(event), *some = json_object_get(c, "logprobs");
            text_puts(&streamed, json_string_value(json_object_get(c, "text")));
            for (int i = 0; i < N_LISTS; i++)
                json_array_extend(joined[i], json_object_get(some, lists[i]));
        }
        assert_string_equal(streamed.bytes, said);
        for (int i = 0; i < N_LISTS; i++) {
            if (logprobs && !json_equal(joined[i], json_object_get(l, lists[i])))
                fail_msg("%s of the stream is not that of the whole answer", lists[i]);
            json_decref(joined[i]);
        }
        text_free(&streamed);
        json_decref(events);
        web_free(&a);
        json_decref(whole);
    }
    json_decref(plain);
    desk_close(&d);
#undef ECHOED
}

/* ---- a pool that is too small for those that were let in ---- */

enum { N_SQUEEZED = 6, N_NEW = 200, SQUEEZED_POOL = 3 * 704 * 1024 };

static const char *squeezed_body(int i, bool stream) {
    static char body[1000];
    snprintf(
        body, sizeof(body),
        "{\"prompt\":\"%0*d\",\"max_tokens\":%d,\"seed\":%d,\"ignore_eos\":true,\"stream\":%s,\"kv_method\":\"%s\"%s}",
        500 + i, i, N_NEW, i, stream ? "true" : "false", i % 2 ? "kivi-4" : "f16",
        stream ? ",\"stream_options\":{\"include_usage\":true}" : "");
    return body;
}

/* All at once; the texts must be those given. *seen: the gauge of those moved out rose. Gives how many were. */
static json_int_t squeeze(const desk *d, char **alone, bool *seen) {
    int fd[N_SQUEEZED];
    json_int_t n_moved = 0;
    double all = desk_figure(d, "vllm:request_success_total") + N_SQUEEZED;
    for (int i = 0; i < N_SQUEEZED; i++) {
        fd[i] = web_connect(d->port);
        web_request(fd[i], "POST " TEXT, NULL, squeezed_body(i, i % 3 == 0));
    }
    while (!*seen && desk_figure(d, "vllm:request_success_total") < all)
        *seen = desk_figure(d, "vllm:num_requests_swapped") > 0;
    for (int i = 0; i < N_SQUEEZED; i++) {
        char finish[16];
        text said = {0};
        web_answer a = web_read(fd[i]);
        assert_int_equal(a.status, 200);
        json_t *whole = i % 3 ? web_json(&a) : NULL;
        json_t *usage = whole ? json_incref(json_object_get(whole, "usage")) : desk_stream(&a, 0, &said, finish);
        assert_string_equal(whole ? desk_text(whole, 0) : said.bytes, alone[i]);
        n_moved += json_integer_value(json_object_get(usage, "preemptions"));
        json_decref(whole);
        json_decref(usage);
        text_free(&said);
        web_free(&a);
        close(fd[i]);
    }
    return n_moved;
}

static void answers_moved_out_are_the_same(void **state) {
    (void)state;
    char *alone[N_SQUEEZED];
    json_int_t n_moved = 0;
    desk d =
        desk_open((serve_options){.scheduler = {.overcommit = 4, .moved_bytes = (size_t)64 << 20}}, SQUEEZED_POOL, 0);
    for (int i = 0; i < N_SQUEEZED; i++) {
        json_t *a = desk_ask(&d, TEXT, squeezed_body(i, false));
        alone[i] = strdup(desk_text(a, 0));
        json_decref(a);
    }
    assert_int_equal((int)desk_figure(&d, "vllm:num_preemptions_total"), 0);
    bool seen = false;
    for (int i = 0; i < 30 && !seen; i++) /* the first may have ended before the last came */
        n_moved += squeeze(&d, alone, &seen);
    assert_true(seen);
    assert_true(n_moved > 0);
    assert_int_equal((int)desk_figure(&d, "vllm:num_preemptions_total"), n_moved);
    assert_int_equal((int)desk_figure(&d, "pleat:preemptions_total"), n_moved);
    assert_int_equal((int)desk_figure(&d, "vllm:num_requests_swapped"), 0);
    for (int i = 0; i < N_SQUEEZED; i++)
        free(alone[i]);
    desk_close(&d);
}

static bool files_fail;

/* Files that cannot be read again. */
off_t lseek(int fd, off_t at, int whence) {
    if (!files_fail)
        return (off_t)syscall(SYS_lseek, fd, at, whence);
    errno = EIO;
    return -1;
}

typedef struct failing {
    const char *moved_dir; /* NULL: there is no place to move a cache to */
    int status;
    const char *type, *word, *header;
} failing;

/* How many of four answers failed, each as it should. */
static int fail_some(const desk *d, const failing *how, bool stream) {
    enum { N = 4 };
    int n_failed = 0, fd[N];
    for (int i = 0; i < N; i++) {
        char body[800];
        fd[i] = web_connect(d->port);
        snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":700,\"ignore_eos\":true,\"stream\":%s}", 300,
                 i, stream ? "true" : "false");
        web_request(fd[i], "POST " TEXT, NULL, body);
    }
    for (int i = 0; i < N; i++) {
        web_answer a = web_read(fd[i]);
        bool done = true;
        assert_false(a.cut);
        json_t *events = stream && a.status == 200 ? desk_events(&a, &done) : NULL,
               *answer = events ? NULL : web_json(&a);
        const json_t *last = events ? json_array_get(events, json_array_size(events) - 1) : answer;
        const json_t *error = json_object_get(last, "error");
        assert_int_equal(error == NULL, a.status == 200 && done);
        if (error) {
            n_failed++;
            assert_true(events || (a.status == how->status && web_header(&a, how->header)));
            assert_string_equal(json_string_value(json_object_get(error, "type")), how->type);
            assert_non_null(strstr(json_string_value(json_object_get(error, "message")), how->word));
        }
        json_decref(events);
        json_decref(answer);
        web_free(&a);
        close(fd[i]);
    }
    assert_true(n_failed < N);
    return n_failed;
}

/* 503 may be asked again; 500 need not be, and says so, as OpenAI's client would ask again by itself. */
static void an_answer_that_fails_on_its_way_says_so(void **state) {
    (void)state;
    static const failing list[] = {{NULL, 503, "unavailable_error", "no place", "Retry-After"},
                                   {"/tmp", 500, "server_error", "cannot be read", "x-should-retry"}};
    for (int i = 0; i < 2; i++) {
        files_fail = i == 1;
        desk d =
            desk_open((serve_options){.scheduler = {.overcommit = 4, .moved_bytes = 1, .moved_dir = list[i].moved_dir}},
                      1400 * 1024, 0);
        files_fail = false;
        for (int stream = 0; stream < 2; stream++) {
            int n_failed = 0;
            for (int k = 0; k < 30 && !n_failed; k++) /* the first may have ended before the last came */
                n_failed = fail_some(&d, &list[i], stream);
            assert_true(n_failed > 0);
        }
        desk_close(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_streams_are_the_whole_answer_in_pieces),
        cmocka_unit_test(echo_begins_with_the_prompt),
        cmocka_unit_test(answers_moved_out_are_the_same),
        cmocka_unit_test(an_answer_that_fails_on_its_way_says_so),
    };
    return cmocka_run_group_tests_name("serve_stream", tests, NULL, NULL);
}
