/* test_serve_bad.c - what clients must not say: bodies that are no request, and bytes that are no HTTP. Every case of a
 * table is told what is wrong (a status and OpenAI's error object) or is hung up on, and the next good request answers.
 * A server that is silent fails the test by the client's time limit (web.h). */
#include "support/desk.h"
#include "support/env.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"
#define CHAT "/v1/chat/completions"
#define GOOD "{\"prompt\":[1,2],\"max_tokens\":1}"

static void still_answers(const desk *d) {
    json_decref(desk_ask(d, TEXT, GOOD));
}

static void check_error(const char *name, const web_answer *a, int status, const char *param) {
    if (a->status != status)
        fail_msg("%s: status %d instead of %d: %.300s", name, a->status, status, a->body.bytes ? a->body.bytes : "");
    json_t *body = web_json(a);
    const json_t *error = json_object_get(body, "error"), *at = json_object_get(error, "param");
    if (!json_is_string(json_object_get(error, "message")) || !json_is_string(json_object_get(error, "type")) || !at ||
        !json_object_get(error, "code"))
        fail_msg("%s: not an error object: %.300s", name, a->body.bytes);
    if (param && (!json_is_string(at) || strcmp(json_string_value(at), param) != 0))
        fail_msg("%s: the error is not of %s: %.300s", name, param, a->body.bytes);
    json_decref(body);
}

/* ---- bodies ---- */

/* The body is `head`, then `piece` n times (a format that may take its number), then `tail`. */
typedef struct bad_body {
    const char *head;
    const char *param; /* that the error names, NULL: any */
    int status;        /* 0: 400 */
    size_t n;
    const char *piece, *tail;
} bad_body;

static void build(const bad_body *b, text *out) {
    text_puts(out, b->head);
    for (size_t i = 0; i < b->n; i++)
        text_printf(out, b->piece, i);
    text_puts(out, b->tail ? b->tail : "");
}

static web_answer post(const desk *d, const char *path, const char *bytes, size_t n) {
    int fd = web_connect(d->port);
    char head[300];
    int n_head = snprintf(head, sizeof(head), "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", path, n);
    if (web_send(fd, head, (size_t)n_head))
        web_send(fd, bytes, n);
    web_answer a = web_read(fd);
    close(fd);
    return a;
}

static void ask_bodies(const desk *d, const char *path, const bad_body *cases, size_t n_cases) {
    for (size_t i = 0; i < n_cases; i++) {
        const bad_body *b = &cases[i];
        char name[400];
        text body = {0};
        build(b, &body);
        snprintf(name, sizeof(name), "%s %.200s%s%.60s", path, b->head, b->n ? b->piece : "", b->tail ? b->tail : "");
        web_answer a = post(d, path, body.bytes ? body.bytes : "", body.n);
        check_error(name, &a, b->status ? b->status : 400, b->param);
        web_free(&a);
        text_free(&body);
        still_answers(d);
    }
}

/* Each thread has a heap of its own, which grows to the most that it ever held: one's is compared sooner. */
static const serve_options one_thread = {.http = {.n_threads = 1}};

/* Again and again: what was refused leaves nothing in memory. The heap may reach a new height once, when two bodies
 * happen to be there together; what is lost at each pass is lost in the last two pairs of them alike. (Sanitizers see
 * that by themselves.) */
static void check_bodies(const desk *d, const char *path, const bad_body *cases, size_t n_cases) {
    enum { PAIRS = 3 };
    size_t rss[PAIRS] = {0};
    for (int i = 0; i < PAIRS && !(env_sanitized() && i); i++) {
        ask_bodies(d, path, cases, n_cases);
        if (!env_sanitized())
            ask_bodies(d, path, cases, n_cases);
        rss[i] = desk_rss(d);
    }
    if (!env_sanitized() && rss[1] > rss[0] + rss[0] / 40 && rss[2] > rss[1] + rss[1] / 40)
        fail_msg("%s: resident memory went from %zu to %zu to %zu bytes", path, rss[0], rss[1], rss[2]);
}

#define CHECK_BODIES(d, path, cases) check_bodies(d, path, cases, sizeof(cases) / sizeof(*(cases)))

#define CLOSE_7   "]]]]]]]"
#define CLOSE_8   CLOSE_7 "]"
#define CLOSE_32  CLOSE_8 CLOSE_8 CLOSE_8 CLOSE_8
#define CLOSE_127 CLOSE_32 CLOSE_32 CLOSE_32 CLOSE_8 CLOSE_8 CLOSE_8 CLOSE_7

static void bodies_that_are_no_json_object_are_refused(void **state) {
    (void)state;
    static const bad_body cases[] = {
        {.head = ""},
        {.head = "null"},
        {.head = "[]"},
        {.head = "\"x\""},
        {.head = "{"},
        {.head = GOOD " x"},
        {.head = GOOD GOOD},
        {.head = "{\"prompt\":\"x\",\"x\":[", .n = 127, .piece = "[", .tail = CLOSE_127 "]}"}, /* 129 deep */
        {.head = "", .n = 100000, .piece = "["},
        {.head = "", .n = 100000, .piece = "{\"a\":"},
        {.head = "{\"prompt\":\"x\",", .n = 600000, .piece = "\"%zu\":1,", .tail = "\"y\":1}"},
        {.head = "{\"prompt\":\"", .status = 413, .n = 10 << 10, .piece = "%01024zu", .tail = "\"}"},
        {.head = "{\"prompt\":\"x\",\"n\":1,\"n\":9}"},
        {.head = "{\"prompt\":\"\\ud800\"}"},
        {.head = "{\"prompt\":\"\\u0000\"}"},
        {.head = "{\"prompt\":\"a\nb\"}"},
        {.head = "\xef\xbb\xbf" GOOD},
        {.head = "{\"prompt\":\"\xff\"}"},
        {.head = "{\"prompt\":\"\xc0\x80\"}"},
        {.head = "{\"prompt\":\"\xed\xa0\x80\"}"},
        {.head = "{\"prompt\":\"x\",\"temperature\":1e999}"},
        {.head = "{\"prompt\":\"x\",\"temperature\":NaN}"},
        {.head = "{\"prompt\":\"x\",\"temperature\":Infinity}"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":9223372036854775808}"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":18446744073709551616}"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":", .n = 401, .piece = "1", .tail = "}"},
        {.head = "{\"prompt\":\"x\",\"seed\":18446744073709551616}"},
    };
    static const char wide[] = "{\0\"\0n\0\"\0:\0" /* UTF-16 */ "1\0}"; /* ended by a 0 */
    static const bad_body deep = {
        .head = "{\"prompt\":\"x\",\"max_tokens\":1,\"x\":", .n = 127, .piece = "[", .tail = CLOSE_127 "}"};
    desk d = desk_open(one_thread, 0, 0);
    CHECK_BODIES(&d, TEXT, cases);
    text body = {0};
    build(&deep, &body);
    web_answer good = post(&d, TEXT, body.bytes, body.n);
    assert_int_equal(good.status, 200);
    web_free(&good);
    text_free(&body);
    web_answer a = post(&d, TEXT, wide, sizeof(wide));
    check_error("UTF-16", &a, 400, NULL);
    web_free(&a);
    desk_close(&d);
}

static void fields_out_of_range_are_refused(void **state) {
    (void)state;
#define P "{\"prompt\":\"x\",\"max_tokens\":2,"
    static const bad_body cases[] = {
        {.head = "{}", .param = "prompt"},
        {.head = "{\"prompt\":null}", .param = "prompt"},
        {.head = "{\"prompt\":5}", .param = "prompt"},
        {.head = "{\"prompt\":{}}", .param = "prompt"},
        {.head = "{\"prompt\":[]}", .param = "prompt"},
        {.head = "{\"prompt\":[[]]}", .param = "prompt"},
        {.head = "{\"prompt\":[[],[]]}", .param = "prompt"},
        {.head = "{\"prompt\":[-1]}", .param = "prompt"},
        {.head = "{\"prompt\":[2147483647]}", .param = "prompt"},
        {.head = "{\"prompt\":[4294967297]}", .param = "prompt"},
        {.head = "{\"prompt\":[1.5]}", .param = "prompt"},
        {.head = "{\"prompt\":[1,\"x\"]}", .param = "prompt"},
        {.head = "{\"prompt\":[\"x\",1]}", .param = "prompt"},
        {.head = "{\"prompt\":[[1],\"x\",null]}", .param = "prompt"},
        {.head = "{\"prompt\":[[1,[2]]]}", .param = "prompt"},
        {.head = "{\"prompt\":[", .param = "prompt", .n = 100000, .piece = "1,", .tail = "1]}"},
        {.head = "{\"prompt\":[", .param = "prompt", .n = 100000, .piece = "\"x\",", .tail = "\"x\"]}"},
        {.head = "{\"prompt\":\"", .param = "prompt", .n = 3000, .piece = "%zu ", .tail = "\"}"},
        {.head = "{\"prompt\":\"", .param = "prompt", .n = 4000, .piece = "%01024zu", .tail = "\"}"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":-1}", .param = "max_tokens"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":2147483648}", .param = "max_tokens"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":9007199254740993}", .param = "max_tokens"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":1.5}", .param = "max_tokens"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":\"8\"}", .param = "max_tokens"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":2048}", .param = "prompt"},
        {.head = "{\"prompt\":\"x\",\"max_tokens\":8,\"max_completion_tokens\":9}", .param = "max_tokens"},
        {.head = P "\"min_tokens\":3}", .param = "min_tokens"},
        {.head = P "\"min_tokens\":-1}", .param = "min_tokens"},
        {.head = P "\"ignore_eos\":1}", .param = "ignore_eos"},
        {.head = P "\"n\":0}", .param = "n"},
        {.head = P "\"n\":-1}", .param = "n"},
        {.head = P "\"n\":1000000}", .param = "n"},
        {.head = P "\"n\":\"2\"}", .param = "n"},
        {.head = P "\"n\":2,\"best_of\":1}", .param = "best_of"},
        {.head = P "\"best_of\":1000000}", .param = "best_of"},
        {.head = P "\"temperature\":-1}", .param = "temperature"},
        {.head = P "\"temperature\":1e308}", .param = "temperature"},
        {.head = P "\"temperature\":\"NaN\"}", .param = "temperature"},
        {.head = P "\"top_p\":0}", .param = "top_p"},
        {.head = P "\"top_p\":1.1}", .param = "top_p"},
        {.head = P "\"top_k\":-2}", .param = "top_k"},
        {.head = P "\"top_k\":2147483648}", .param = "top_k"},
        {.head = P "\"min_p\":2}", .param = "min_p"},
        {.head = P "\"presence_penalty\":1e308}", .param = "presence_penalty"},
        {.head = P "\"frequency_penalty\":-1e308}", .param = "frequency_penalty"},
        {.head = P "\"repetition_penalty\":0}", .param = "repetition_penalty"},
        {.head = P "\"repeat_penalty\":-1}", .param = "repeat_penalty"},
        {.head = P "\"seed\":1.5}", .param = "seed"},
        {.head = P "\"seed\":\"1\"}", .param = "seed"},
        {.head = P "\"stop\":\"\"}", .param = "stop"},
        {.head = P "\"stop\":[\"\"]}", .param = "stop"},
        {.head = P "\"stop\":5}", .param = "stop"},
        {.head = P "\"stop\":[5]}", .param = "stop"},
        {.head = P "\"stop\":[", .param = "stop", .n = 32, .piece = "\"%zu\",", .tail = "\"x\"]}"},
        {.head = P "\"stop\":[", .param = "stop", .n = 100000, .piece = "\"%zu\",", .tail = "\"x\"]}"},
        {.head = P "\"stop\":\"", .param = "stop", .n = 1024, .piece = "%01024zu", .tail = "\"}"},
        {.head = P "\"stop_token_ids\":5}", .param = "stop_token_ids"},
        {.head = P "\"stop_token_ids\":[-1]}", .param = "stop_token_ids"},
        {.head = P "\"stop_token_ids\":[2147483647]}", .param = "stop_token_ids"},
        {.head = P "\"stop_token_ids\":[4294967296]}", .param = "stop_token_ids"},
        {.head = P "\"stop_token_ids\":[1.5]}", .param = "stop_token_ids"},
        {.head = P "\"stop_token_ids\":[", .param = "stop_token_ids", .n = 64, .piece = "%zu,", .tail = "1]}"},
        {.head = P "\"logit_bias\":[]}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"-1\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"2147483647\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"4294967296\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"abc\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\" 1\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"1x\":1}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"1\":1e9}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{\"1\":\"1\"}}", .param = "logit_bias"},
        {.head = P "\"logit_bias\":{", .param = "logit_bias", .n = 100000, .piece = "\"%zu\":1,", .tail = "\"x\":1}}"},
        {.head = P "\"logprobs\":-1}", .param = "logprobs"},
        {.head = P "\"logprobs\":21}", .param = "logprobs"},
        {.head = P "\"logprobs\":2147483648}", .param = "logprobs"},
        {.head = P "\"logprobs\":true}", .param = "logprobs"},
        {.head = P "\"echo\":1}", .param = "echo"},
        {.head = P "\"prompt_logprobs\":-1}", .param = "prompt_logprobs"},
        {.head = P "\"stream\":\"true\"}", .param = "stream"},
        {.head = P "\"stream_options\":{\"include_usage\":true}}", .param = "stream_options"},
        {.head = P "\"stream\":true,\"stream_options\":5}", .param = "stream_options"},
        {.head = P "\"stream\":true,\"stream_options\":{\"include_usage\":1}}", .param = "include_usage"},
        {.head = P "\"model\":\"\"}", .param = "model", .status = 404},
        {.head = P "\"model\":\"other\"}", .param = "model", .status = 404},
        {.head = P "\"model\":\"../../etc/passwd\"}", .param = "model", .status = 404},
        {.head = P "\"model\":5}", .param = "model"},
        {.head = P "\"model\":\"", .param = "model", .n = 1024, .piece = "%01024zu", .tail = "\"}"},
        {.head = P "\"user\":5}", .param = "user"},
        {.head = P "\"user\":\"", .param = "user", .n = 1024, .piece = "%01024zu", .tail = "\"}"},
        {.head = P "\"cache_salt\":5}", .param = "cache_salt"},
        {.head = P "\"cache_salt\":\"", .param = "cache_salt", .n = 1024, .piece = "%01024zu", .tail = "\"}"},
        {.head = P "\"suffix\":\"x\"}", .param = "suffix"},
        {.head = P "\"grammar\":\"root ::= (\"}", .param = "grammar"},
        {.head = P "\"grammar\":\"", .param = "grammar", .n = 60000, .piece = "(", .tail = "\"}"},
        {.head = P "\"guided_regex\":\"(a+)+$\"}", .param = "guided_regex"},
        {.head = P "\"guided_json\":{\"$ref\":\"#\"}}", .param = "guided_json"},
        {.head = P "\"kv_method\":5}", .param = "kv_method"},
        {.head = P "\"kv_method\":\"\"}", .param = "kv_method"},
        {.head = P "\"kv_method\":\"no-such\"}", .param = "kv_method"},
        {.head = P "\"kv_method\":\"f16:bits=99\"}", .param = "kv_method"},
        {.head = P "\"kv_method\":\"", .param = "kv_method", .n = 2000, .piece = "(", .tail = "\"}"},
        {.head = P "\"pin\":-1}", .param = "pin"},
        {.head = P "\"pin\":\"x\"}", .param = "pin"},
        {.head = P "\"pin\":true}", .param = "pin"},
    };
    desk d = desk_open(one_thread, 0, 0);
    CHECK_BODIES(&d, TEXT, cases);
    desk_close(&d);
#undef P
}

static void messages_that_are_none_are_refused(void **state) {
    (void)state;
#define M "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":2,"
    static const bad_body cases[] = {
        {.head = "{}", .param = "messages"},
        {.head = "{\"messages\":null}", .param = "messages"},
        {.head = "{\"messages\":\"x\"}", .param = "messages"},
        {.head = "{\"messages\":{}}", .param = "messages"},
        {.head = "{\"messages\":[]}", .param = "messages"},
        {.head = "{\"messages\":[123]}", .param = "messages"},
        {.head = "{\"messages\":[null]}", .param = "messages"},
        {.head = "{\"messages\":[{}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"content\":\"x\"}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":123,\"content\":\"x\"}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"robot\",\"content\":\"x\"}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\"}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":123}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":[5]}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"sound\",\"text\":\"x\"}]}]}",
         .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:"
                 "///etc/"
                 "passwd\"}}]}]}",
         .param = "messages"},
        {.head = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[{\"id\":\"1\"}]}]}",
         .param = "messages"},
        {.head = "{\"messages\":[",
         .param = "messages",
         .n = 100000,
         .piece = "{\"role\":\"user\",\"content\":\"x\"},",
         .tail = "{\"role\":\"user\",\"content\":\"x\"}]}"},
        {.head = "{\"messages\":[",
         .param = "messages",
         .n = 3000,
         .piece = "{\"role\":\"user\",\"content\":\"x\"},",
         .tail = "{\"role\":\"user\",\"content\":\"x\"}]}"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":0}", .param = "max_tokens"},
        {.head = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"},{"
                 "\"role\":\"assistant\",\"content\":\"z\"}]}",
         .param = "messages"},
        {.head = M "\"top_logprobs\":2}", .param = "top_logprobs"},
        {.head = M "\"logprobs\":5}", .param = "logprobs"},
        {.head = M "\"logprobs\":true,\"top_logprobs\":21}", .param = "top_logprobs"},
        {.head = M "\"logprobs\":true,\"top_logprobs\":-1}", .param = "top_logprobs"},
        {.head = M "\"response_format\":5}", .param = "response_format"},
        {.head = M "\"response_format\":{}}", .param = "response_format"},
        {.head = M "\"response_format\":{\"type\":\"hiccup\"}}", .param = "response_format"},
        {.head = M "\"response_format\":{\"type\":\"json_schema\"}}", .param = "response_format"},
        {.head =
             M "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"$ref\":\"http://x/\"}}}}",
         .param = "response_format"},
        {.head = M "\"tools\":[{}]}", .param = "tools"},
        {.head = M "\"tools\":[",
         .param = "tools",
         .n = 1000,
         .piece = "{\"type\":\"function\",\"function\":{\"name\":\"f\"}},",
         .tail = "{}]}"},
        {.head = M "\"tool_choice\":\"required\"}", .param = "tool_choice"},
        {.head = M "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}", .param = "tool_choice"},
        {.head = M "\"functions\":[{\"name\":\"f\"}]}", .param = "functions"},
        {.head = M "\"pin\":[1]}", .param = "pin"},
    };
    desk d = desk_open(one_thread, 0, 0);
    CHECK_BODIES(&d, CHAT, cases);
    desk_close(&d);
#undef M
}

static void tokens_that_are_none_are_refused(void **state) {
    (void)state;
    static const bad_body texts[] = {
        {.head = ""},
        {.head = "[]"},
        {.head = "{}", .param = "prompt"},
        {.head = "{\"prompt\":5}", .param = "prompt"},
        {.head = "{\"content\":[1]}", .param = "content"},
        {.head = "{\"messages\":5}", .param = "messages"},
        {.head = "{\"prompt\":\"x\",\"add_special\":5}", .param = "add_special"},
        {.head = "{\"prompt\":\"x\",\"model\":\"other\"}", .param = "model", .status = 404},
        {.head = "{\"prompt\":\"\\ud800\"}"},
    };
    static const bad_body ids[] = {
        {.head = ""},
        {.head = "{}", .param = "tokens"},
        {.head = "{\"tokens\":\"x\"}", .param = "tokens"},
        {.head = "{\"tokens\":[-1]}", .param = "tokens"},
        {.head = "{\"tokens\":[2147483647]}", .param = "tokens"},
        {.head = "{\"tokens\":[4294967296]}", .param = "tokens"},
        {.head = "{\"tokens\":[1.5]}", .param = "tokens"},
        {.head = "{\"tokens\":[[1]]}", .param = "tokens"},
    };
    desk d = desk_open(one_thread, 0, 0);
    CHECK_BODIES(&d, "/tokenize", texts);
    CHECK_BODIES(&d, "/detokenize", ids);
    desk_close(&d);
}

/* What looks odd and is none the less a request. */
static void odd_requests_are_answered(void **state) {
    (void)state;
    static const char *const text_bodies[] = {
        "{\"prompt\":\"x\",\"max_tokens\":1,\"temperature\":-0}",
        "{\"prompt\":\"x\",\"max_tokens\":1,\"temperature\":1e-400}",
        "{\"prompt\":\"x\",\"max_tokens\":1,\"top_k\":-1,\"seed\":-1}",
        "{\"prompt\":\"x\",\"max_tokens\":null,\"stop\":null,\"logit_bias\":null,\"n\":null,\"stream\":null}",
        "{\"prompt\":\"x\",\"max_tokens\":1,\"n_discard\":-1,\"n_keep\":-5,\"n_probs\":-1,\"foo\":[[[]]]}",
        "{\"prompt\":\"x\",\"max_tokens\":1,\"user\":\"\",\"cache_salt\":\"\",\"suffix\":\"\"}",
        "{\"prompt\":\"<|im_end|>\\ufffd\\ud83d\\ude00\",\"max_tokens\":1}",
        "{\"prompt\":\"x\",\"max_tokens\":0}",
        "{\"prompt\":\"x\",\"max_tokens\":0,\"echo\":true,\"logprobs\":20,\"stream\":true}",
    };
    desk d = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < sizeof(text_bodies) / sizeof(*text_bodies); i++) {
        web_answer a = web_ask(d.port, "POST " TEXT, NULL, text_bodies[i]);
        if (a.status != 200)
            fail_msg("%s: status %d: %.200s", text_bodies[i], a.status, a.body.bytes ? a.body.bytes : "");
        web_free(&a);
    }
    desk_close(&d);
}

/* ---- HTTP ---- */

/* Raw bytes built as a body is; `allowed`: statuses, and "close". */
typedef struct bad_bytes {
    const char *head, *allowed;
    size_t n;
    const char *piece, *tail;
    bool unfinished; /* more is expected, and the client hangs up instead */
} bad_bytes;

#define HOST      "Host: x\r\n"
#define POST_TEXT "POST " TEXT " HTTP/1.1\r\n" HOST

/* allowed: statuses, "close", and "ours" when the answer must be this program's own and not the HTTP library's. */
static void check_bytes(const desk *d, const char *bytes, size_t n, bool unfinished, const char *name,
                        const char *allowed) {
    int fd = web_connect(d->port);
    char status[16] = "close";
    web_send(fd, bytes, n);
    if (unfinished)
        shutdown(fd, SHUT_WR);
    web_answer a = web_read(fd);
    if (a.status)
        snprintf(status, sizeof(status), "%d", a.status);
    if (!strstr(allowed, status))
        fail_msg("%.300s: %s instead of %s: %.200s", name, status, allowed, a.body.bytes ? a.body.bytes : "");
    if (strstr(allowed, "ours")) {
        json_t *error = web_json(&a);
        assert_true(json_is_string(json_object_get(json_object_get(error, "error"), "message")));
        json_decref(error);
    }
    web_free(&a);
    close(fd);
    still_answers(d);
}

static void bytes_that_are_no_http_are_refused(void **state) {
    (void)state;
    static const bad_bytes cases[] = {
        /* heads without an end */
        {.head = "GET /health HTTP/1.1\r\n" HOST "X: ",
         .allowed = "431 400 close",
         .n = 64,
         .piece = "%01024zu",
         .tail = "\r\n\r\n"},
        {.head = "GET /health HTTP/1.1\r\n" HOST "X: ",
         .allowed = "431 400 close",
         .n = 1024,
         .piece = "%01024zu",
         .tail = "\r\n\r\n"},
        {.head = "GET /health HTTP/1.1\r\n" HOST,
         .allowed = "431 400 close",
         .n = 10000,
         .piece = "X-%zu: y\r\n",
         .tail = "\r\n"},
        {.head = "", .allowed = "414 431 400 close", .n = 1024, .piece = "%01024zu"},
        {.head = "GET /",
         .allowed = "414 431 404 close",
         .n = 16,
         .piece = "%01024zu",
         .tail = " HTTP/1.1\r\n" HOST "\r\n"},
        {.head = "GET /",
         .allowed = "414 431 400 close",
         .n = 1024,
         .piece = "%01024zu",
         .tail = " HTTP/1.1\r\n" HOST "\r\n"},
        /* lengths */
        {.head = POST_TEXT "Content-Length: -1\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: abc\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: \r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: +31\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: 0x1f\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: 31,31\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: 18446744073709551616\r\n\r\n" GOOD, .allowed = "400 413 close"},
        {.head = POST_TEXT "Content-Length: 18446744073709551647\r\n\r\n" GOOD, .allowed = "400 413 close"},
        {.head = POST_TEXT "Content-Length: 31\r\nContent-Length: 32\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: 31\r\nContent-Length: 31\r\n\r\n" GOOD, .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: 31\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 close"},
        {.head = POST_TEXT "Content-Length: 300\r\n\r\n" GOOD, .allowed = "close", .unfinished = true},
        /* encodings */
        {.head = POST_TEXT "Transfer-Encoding: xchunked\r\n\r\n1f\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 501 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked, chunked\r\n\r\n1f\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 501 close"},
        {.head = POST_TEXT "Transfer-Encoding: gzip, chunked\r\n\r\n1f\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 501 close"},
        {.head =
             POST_TEXT "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 501 close"},
        {.head = POST_TEXT "Transfer-Encoding:\r\n\r\n" GOOD, .allowed = "400 501 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 413 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\n1000000000000001e\r\n" GOOD "\r\n0\r\n\r\n",
         .allowed = "400 413 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\n-1f\r\n" GOOD "\r\n0\r\n\r\n", .allowed = "400 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\nxyz\r\n" GOOD "\r\n0\r\n\r\n", .allowed = "400 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\n1f\r\n" GOOD "0\r\n\r\n", .allowed = "400 close"},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\n1f\r\n" GOOD "\r\n",
         .allowed = "close",
         .unfinished = true},
        {.head = POST_TEXT "Transfer-Encoding: chunked\r\n\r\n1f;",
         .allowed = "500 close" /* the HTTP library's word */,
         .n = 1024,
         .piece = "%01024zu",
         .tail = "\r\n" GOOD "\r\n0\r\n\r\n"},
        {.head = POST_TEXT "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08", .allowed = "415"},
        /* heads */
        {.head = "GET /health HTTP/1.1\r\n\r\n", .allowed = "400 ours"},
        {.head = "GET /health HTTP/1.1\r\n" HOST "Host: y\r\n\r\n", .allowed = "400"},
        {.head = "GET /health HTTP/1.1\r\n" HOST "X : y\r\n\r\n", .allowed = "400 close"},
        {.head = "GET /health HTTP/1.1\r\n" HOST "nonsense\r\n\r\n", .allowed = "400 close"},
        {.head = "GET /health HTTP/1.1\r\n" HOST ": y\r\n\r\n", .allowed = "200 400 close"},
        {.head = "GET  /health HTTP/1.1\r\n" HOST "\r\n", .allowed = "200 400"},
        {.head = "GET /health HTTP/1.1 x\r\n" HOST "\r\n", .allowed = "400 505 close"},
        {.head = "GET\r\n\r\n", .allowed = "400 505 close"},
        {.head = "GET /health\r\n\r\n", .allowed = "400 505 close"},
        {.head = "GET /health HTTP/0.9\r\n" HOST "\r\n", .allowed = "400 505 close"},
        {.head = "GET /health HTTP/2.0\r\n" HOST "\r\n", .allowed = "400 505 close"},
        {.head = "GET /health http/1.1\r\n" HOST "\r\n", .allowed = "400 505 close"},
        {.head = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", .allowed = "400 505 close"},
        {.head = "\x16\x03\x01\x02",
         .allowed = "400 414 431 505 close",
         .n = 20,
         .piece = "\x01\xfc\x03\x03\xa5%zu",
         .unfinished = true},
        {.head = "\xff\xfe\r\n\r\n\xff",
         .allowed = "400 505 close",
         .n = 20,
         .piece = "\x80\x81\r\n%zu",
         .unfinished = true},
        {.head = "GET /health HTTP/1.1\r\n" HOST "X: y\r\n z\r\n\r\n", .allowed = "400 close 200"},
        {.head = "GET /health HTTP/1.1\r\n" HOST " X: y\r\n\r\n", .allowed = "400 close"},
        {.head = "GET /health HTTP/1.1\r\n Host: x\r\n\r\n", .allowed = "400 close"},
        {.head = "GET /health HTTP/1.1\rHost: x\r\r", .allowed = "400 505 close", .unfinished = true},
        /* paths */
        {.head = "GET //health HTTP/1.1\r\n" HOST "\r\n", .allowed = "404"},
        {.head = "GET /health%00 HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET /%00/../health HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET /v1/models/tiny%00x HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET /x/../health HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET /health%zz HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET /health% HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET http://other.example/health HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "GET * HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404"},
        {.head = "CONNECT x:1 HTTP/1.1\r\n" HOST "\r\n", .allowed = "400 404 405 501"},
    };
    /* The HTTP library takes a zero for the end of what it stands in, and hides the rest: no harm is asked for here. */
    static const struct {
        const char *bytes;
        size_t n;
    } zeros[] = {
#define Z(s) {s, sizeof(s) - 1}
        Z("GET /health\0 HTTP/1.1\r\n" HOST "\r\n"),          Z("GET /health HTTP/1.1\0\r\n" HOST "\r\n"),
        Z("GET /health HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n"), Z("GET /health HTTP/1.1\r\n" HOST "X\0Y: a\r\n\r\n"),
        Z("GET\0 /health HTTP/1.1\r\n" HOST "\r\n"),
#undef Z
    };
    desk d = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const bad_bytes *b = &cases[i];
        text t = {0};
        build(&(bad_body){.head = b->head, .n = b->n, .piece = b->piece, .tail = b->tail}, &t);
        check_bytes(&d, t.bytes ? t.bytes : "", t.n, b->unfinished, b->head, b->allowed);
        text_free(&t);
    }
    for (size_t i = 0; i < sizeof(zeros) / sizeof(*zeros); i++)
        check_bytes(&d, zeros[i].bytes, zeros[i].n, false, zeros[i].bytes, "200 400 404 405 501 505 close");
    desk_close(&d);
}

static void methods_and_types_are_looked_at(void **state) {
    (void)state;
    static const struct {
        const char *what, *headers, *body;
        int status;
        const char *allow;
    } cases[] = {
        {"GET " TEXT, NULL, NULL, 405, "POST, OPTIONS"},
        {"DELETE " CHAT, NULL, NULL, 405, "POST, OPTIONS"},
        {"POST /health", NULL, "{}", 405, "GET, HEAD, OPTIONS"},
        {"PUT /v1/models", NULL, "{}", 405, "GET, HEAD, OPTIONS"},
        {"BREW /metrics", NULL, NULL, 405, "GET, HEAD, OPTIONS"},
        {"GET /nowhere", NULL, NULL, 404, NULL},
        {"POST /v1/embeddings", NULL, "{}", 404, NULL},
        {"GET /v1/models/other", NULL, NULL, 404, NULL},
        {"GET /v1/models/", NULL, NULL, 404, NULL},
        {"POST " TEXT, "Content-Type: multipart/form-data; boundary=x\r\n", NULL, 415, NULL},
        {"POST " TEXT, "Content-Type: application/jsonx\r\n", NULL, 415, NULL},
        {"POST " TEXT, "x-kv-method: no-such\r\n", GOOD, 400, NULL},
        {"POST " TEXT, "Expect: 100-continue\r\nContent-Length: 100000000\r\n", NULL, 413, NULL},
        {"POST " TEXT, "Content-Length: 100000000\r\n", NULL, 413, NULL},
    };
    desk d = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char name[200];
        snprintf(name, sizeof(name), "%s %s", cases[i].what, cases[i].headers ? cases[i].headers : "");
        web_answer a = web_ask(d.port, cases[i].what, cases[i].headers, cases[i].body);
        check_error(name, &a, cases[i].status, NULL);
        const char *allow = web_header(&a, "Allow");
        if (cases[i].allow ? !allow || strcmp(allow, cases[i].allow) != 0 : allow != NULL)
            fail_msg("%s: Allow is %s", name, allow ? allow : "missing");
        web_free(&a);
        still_answers(&d);
    }
    web_answer a = web_ask(d.port, "OPTIONS " CHAT, "Origin: http://localhost.evil.com\r\n", NULL);
    assert_int_equal(a.status, 204);
    assert_null(web_header(&a, "Access-Control-Allow-Origin"));
    web_free(&a);
    static const char *const types[] = {"Content-Type: text/plain\r\n",
                                        "Content-Type: application/json; charset=utf-8\r\n",
                                        "Expect: 100-continue\r\n"};
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        int fd = web_connect(d.port);
        text t = {0};
        text_printf(&t, POST_TEXT "%sContent-Length: %zu\r\n\r\n" GOOD, types[i], strlen(GOOD));
        web_send(fd, t.bytes, t.n);
        a = web_read(fd);
        if (a.status == 100) {
            web_free(&a);
            a = web_read(fd);
        }
        assert_int_equal(a.status, 200);
        web_free(&a);
        text_free(&t);
        close(fd);
    }
    desk_close(&d);
}

static void a_head_has_no_body(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    int fd = web_connect(d.port);
    char said[4000] = "";
    size_t n = 0;
    ssize_t got;
    web_puts(fd, "HEAD /v1/models HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    while ((got = recv(fd, said + n, sizeof(said) - 1 - n, 0)) > 0)
        n += (size_t)got;
    const char *length = strstr(said, "Content-Length: "), *end = strstr(said, "\r\n\r\n");
    assert_int_equal(strncmp(said, "HTTP/1.1 200", 12), 0);
    assert_true(length && atoi(length + 16) > 0);
    assert_true(end && end[4] == 0);
    close(fd);
    desk_close(&d);
}

static void a_connection_goes_on_after_an_error(void **state) {
    (void)state;
    enum { N = 100 };
    desk d = desk_open((serve_options){0}, 0, 0);
    int fd = web_connect(d.port);
    text t = {0};
    for (int i = 0; i < N; i++) { /* all at once */
        const char *body = i % 3 ? "{\"prompt\":5}" : GOOD;
        text_printf(&t, POST_TEXT "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    }
    web_send(fd, t.bytes, t.n);
    for (int i = 0; i < N; i++) {
        web_answer a = web_read(fd);
        assert_int_equal(a.status, i % 3 ? 400 : 200);
        web_free(&a);
    }
    text_free(&t);
    close(fd);
    desk_close(&d);
}

/* A connection on which bytes come for ever, one a time, is hung up on. */
static void drips_are_hung_up_on(const desk *d, const char *begun) {
    enum { MOST_DRIPS = 1000 };
    int fd = web_connect(d->port);
    bool open = web_puts(fd, begun);
    for (int i = 0; i < MOST_DRIPS && open; i++) {
        usleep(20000);
        open = web_puts(fd, "{");
    }
    if (open)
        fail_msg("%s: still open after %d more bytes", begun, MOST_DRIPS);
    close(fd);
    still_answers(d);
}

/* So is one on which nothing more comes. web_read fails the test when it stays open. */
static void the_begun_are_hung_up_on(const desk *d, const char *const *begun, int n) {
    int fd[16];
    for (int i = 0; i < n; i++) {
        fd[i] = web_connect(d->port);
        web_puts(fd[i], begun[i]);
    }
    still_answers(d); /* meanwhile */
    for (int i = 0; i < n; i++) {
        web_answer a = web_read(fd[i]);
        assert_true(a.status == 0 || a.status == 408);
        web_free(&a);
        close(fd[i]);
    }
}

/* More than the sockets' buffers take. */
static void an_answer_that_nobody_reads_is_cut_off(const desk *d) {
    int fd = web_connect(d->port);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){2048}, sizeof(int));
    web_request(fd, "POST " TEXT, NULL,
                "{\"prompt\":\"x\",\"n\":8,\"max_tokens\":1900,\"ignore_eos\":true,\"stream\":true,\"logprobs\":20}");
    desk_await(d, "pleat:requests", 8);
    desk_unasked(d);
    close(fd);
}

/* Each limit alone, the others far away: which of them hung up is sure. */
static void slow_requests_are_hung_up_on(void **state) {
    (void)state;
    enum { FAR = 1000 };
    static const char *const heads[] = {"", "GET /hea", "GET /health HTTP/1.1\r\nHost: x\r\nX"};
    static const char *const stalled[] = {POST_TEXT "Content-Length: 31\r\n\r\n{\"pro"};
    desk d = desk_open((serve_options){.http = {.head_seconds = 1, .body_seconds = FAR, .stall_seconds = FAR}}, 0, 0);
    the_begun_are_hung_up_on(&d, heads, 3);
    drips_are_hung_up_on(&d, "GET /health HTTP/1.1\r\nX: ");
    desk_close(&d);
    d = desk_open((serve_options){.http = {.head_seconds = FAR, .body_seconds = 1, .stall_seconds = FAR}}, 0, 0);
    drips_are_hung_up_on(&d, POST_TEXT "Content-Length: 100000\r\n\r\n");
    desk_close(&d);
    d = desk_open((serve_options){.http = {.head_seconds = FAR, .body_seconds = FAR, .stall_seconds = 1}}, 0, 0);
    the_begun_are_hung_up_on(&d, stalled, 1);
    an_answer_that_nobody_reads_is_cut_off(&d);
    desk_close(&d);
}

static void keys_that_are_none_are_refused(void **state) {
    (void)state;
    static const char *const keys[] = {"key"};
    static const bad_bytes cases[] = {
        {.head = "GET /v1/models HTTP/1.1\r\n" HOST "Authorization: Bearer ",
         .allowed = "401 431 400 close",
         .n = 20,
         .piece = "%01024zu",
         .tail = "\r\n\r\n"},
        {.head = "GET /v1/models HTTP/1.1\r\n" HOST "Authorization: Bearer ",
         .allowed = "431 400 close",
         .n = 1024,
         .piece = "%01024zu",
         .tail = "\r\n\r\n"},
        {.head = "GET /v1/models HTTP/1.1\r\n" HOST "Authorization: Bearer k\r\nAuthorization: Bearer ke\r\n\r\n",
         .allowed = "401 400"},
        {.head = "GET /v1/models HTTP/1.1\r\n" HOST "Authorization: Bearer key\r\nAuthorization: Bearer ke\r\n\r\n",
         .allowed = "400"},
        {.head = "GET /v1/models?key=key HTTP/1.1\r\n" HOST "\r\n", .allowed = "401"},
        {.head = "GET /v1/models HTTP/1.1\r\n" HOST "Authorization: Bearer key key\r\n\r\n", .allowed = "401"},
    };
    desk d = desk_open((serve_options){.keys = keys, .n_keys = 1}, 0, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const bad_bytes *b = &cases[i];
        text t = {0};
        build(&(bad_body){.head = b->head, .n = b->n, .piece = b->piece, .tail = b->tail}, &t);
        int fd = web_connect(d.port);
        char status[16] = "close";
        web_send(fd, t.bytes, t.n);
        web_answer a = web_read(fd);
        if (a.status)
            snprintf(status, sizeof(status), "%d", a.status);
        if (!strstr(b->allowed, status))
            fail_msg("%s: %s instead of %s", b->head, status, b->allowed);
        web_free(&a);
        text_free(&t);
        close(fd);
        a = web_ask(d.port, "GET /v1/models", "Authorization: Bearer key\r\n", NULL);
        assert_int_equal(a.status, 200);
        web_free(&a);
    }
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_that_are_no_json_object_are_refused),
        cmocka_unit_test(fields_out_of_range_are_refused),
        cmocka_unit_test(messages_that_are_none_are_refused),
        cmocka_unit_test(tokens_that_are_none_are_refused),
        cmocka_unit_test(odd_requests_are_answered),
        cmocka_unit_test(bytes_that_are_no_http_are_refused),
        cmocka_unit_test(methods_and_types_are_looked_at),
        cmocka_unit_test(a_head_has_no_body),
        cmocka_unit_test(a_connection_goes_on_after_an_error),
        cmocka_unit_test(slow_requests_are_hung_up_on),
        cmocka_unit_test(keys_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
