/* test_serve_pin.c - what is pinned over HTTP stays: a message that says so, the system message, leading tokens. The
 * answers are those of the library with the same spans given to pleat_seq_pin, token by token. */
#include "cpu/kernels.h"
#include "model/model.h"
#include "support/desk.h"
#include "support/twin.h"
#include "text/chat.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TEXT "/v1/completions"
#define CHAT "/v1/chat/completions"

enum { N_MESSAGES = 4, N_ANSWER = 24, LEADING = 70 };

static const char *const methods[] = {"streaming:sinks=4,recent=64,pos=original", "h2o:heavy=32,recent=32"};

typedef struct talk {
    char content[N_MESSAGES][401];
    chat_message message[N_MESSAGES];
    token_span span[N_MESSAGES];
    int32_t *ids;
    int n;
} talk;

/* A system message, a question, an answer and a question: longer than a grid step. */
static void open_talk(const bed *b, talk *t) {
    static const char *const roles[N_MESSAGES] = {"system", "user", "assistant", "user"};
    static const int lengths[N_MESSAGES] = {100, 200, 300, 400};
    pleat_error error;
    for (int i = 0; i < N_MESSAGES; i++) {
        for (int k = 0; k < lengths[i]; k++)
            t->content[i][k] = (char)('a' + (k * k * 7 + k * 3 + i * 11) % 26);
        t->content[i][lengths[i]] = 0;
        t->message[i] = (chat_message){roles[i], t->content[i], (size_t)lengths[i]};
    }
    if (chat_encode_spans(b->model->tok, b->model->file, CHAT_CHATML, t->message, N_MESSAGES, 0, t->span, &t->ids,
                          &t->n, &error))
        fail_msg("%s", error.text);
    assert_true(t->n > 600 && t->n + N_ANSWER < DESK_CONTEXT);
}

/* The library's answer with these spans pinned. */
static void answer_of(const bed *b, const talk *t, const char *spec, const token_span *pin, int n_pins, int32_t *ids) {
    twin_answer(b,
                &(twin_ask){.spec = spec,
                            .ids = t->ids,
                            .n = t->n,
                            .pin = pin,
                            .n_pins = n_pins,
                            .n_answer = N_ANSWER,
                            .sampling = pleat_sampling_default()},
                ids, NULL);
}

/* ---- over HTTP ---- */

typedef struct heard {
    json_t *answer;
    const char *method;
    json_int_t kv_bytes;
} heard;

/* marked: a bit for each message that says "pin": true; pin: the request's, taken over, or NULL. */
static heard ask_chat(const desk *d, const talk *t, const char *method, unsigned marked, json_t *pin) {
    json_t *list = json_array();
    for (int i = 0; i < N_MESSAGES; i++) {
        json_t *m = json_pack("{s:s,s:s}", "role", t->message[i].role, "content", t->message[i].content);
        if (i == 3 || marked >> i & 1)
            json_object_set_new(m, "pin", json_boolean(marked >> i & 1));
        json_array_append_new(list, m);
    }
    json_t *body = json_pack("{s:o,s:s,s:i,s:i,s:b,s:b}", "messages", list, "kv_method", method, "max_tokens", N_ANSWER,
                             "temperature", 0, "ignore_eos", 1, "logprobs", 1);
    if (pin)
        json_object_set_new(body, "pin", pin);
    char *bytes = json_dumps(body, JSON_COMPACT);
    heard h = {.answer = desk_ask(d, CHAT, bytes)};
    const json_t *usage = json_object_get(h.answer, "usage");
    h.method = json_string_value(json_object_get(usage, "kv_method"));
    h.kv_bytes = json_integer_value(json_object_get(usage, "kv_bytes"));
    free(bytes);
    json_decref(body);
    return h;
}

/* Has the answer these tokens? */
static bool says(const bed *b, const heard *h, const int32_t *ids) {
    const json_t *choice = json_array_get(json_object_get(h->answer, "choices"), 0);
    const json_t *content = json_object_get(json_object_get(choice, "logprobs"), "content");
    assert_int_equal(json_array_size(content), N_ANSWER);
    for (int i = 0; i < N_ANSWER; i++) {
        size_t n;
        const char *bytes = pleat_token_bytes(b->model, ids[i], true, &n);
        const json_t *list = json_object_get(json_array_get(content, (size_t)i), "bytes");
        if (json_array_size(list) != n)
            return false;
        for (size_t k = 0; k < n; k++)
            if (json_integer_value(json_array_get(list, k)) != (unsigned char)bytes[k])
                return false;
    }
    return true;
}

static bool is_pinned(const char *spec) {
    return strstr(spec, "+pin") != NULL;
}

/* The answer to a request that pins is the library's with the same spans, and not the one without. */
static void check_pinned(const bed *b, const desk *d, const talk *t, const char *method, unsigned marked, json_t *pin,
                         const token_span *span, int n_spans) {
    int32_t with[N_ANSWER], without[N_ANSWER];
    heard plain = ask_chat(d, t, method, 0, NULL), h = ask_chat(d, t, method, marked, pin);
    assert_false(is_pinned(plain.method));
    assert_true(is_pinned(h.method));
    answer_of(b, t, plain.method, NULL, 0, without);
    answer_of(b, t, h.method, span, n_spans, with);
    assert_true(says(b, &plain, without));
    if (!says(b, &h, with))
        fail_msg("%s: messages %x: not the library's answer", method, marked);
    if (says(b, &h, without))
        fail_msg("%s: messages %x: what is pinned makes no difference", method, marked);
    int n_pinned = 0;
    for (int i = 0; i < n_spans; i++)
        n_pinned += span[i].end - span[i].first;
    if (n_pinned > 3 * PAGE_TOKENS) /* fewer may find room in the pages that are there */
        assert_true(h.kv_bytes > plain.kv_bytes);
    json_decref(plain.answer);
    json_decref(h.answer);
}

static void what_is_pinned_stays(void **state) {
    (void)state;
    bed b = twin_open();
    desk d = desk_open((serve_options){0}, 0, (size_t)8 << 20);
    talk t;
    open_talk(&b, &t);
    const token_span both[] = {t.span[0], t.span[2]}, leading = {0, LEADING};
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        for (int k = 0; k < N_MESSAGES; k++)
            check_pinned(&b, &d, &t, methods[i], 1u << k, NULL, &t.span[k], 1);
        check_pinned(&b, &d, &t, methods[i], 0, json_true(), &t.span[0], 1);
        check_pinned(&b, &d, &t, methods[i], 4, json_true(), both, 2);
        check_pinned(&b, &d, &t, methods[i], 5, json_false(), both, 2);
        check_pinned(&b, &d, &t, methods[i], 0, json_integer(LEADING), &leading, 1);
    }
    free(t.ids);
    desk_close(&d);
    bed_close(&b);
}

/* Nothing is evicted, so nothing is to be done. */
static void a_method_that_evicts_nothing_needs_no_pin(void **state) {
    (void)state;
    bed b = twin_open();
    desk d = desk_open((serve_options){0}, 0, 0);
    talk t;
    open_talk(&b, &t);
    int32_t ids[N_ANSWER];
    heard h = ask_chat(&d, &t, "f16", 2, json_true());
    assert_string_equal(h.method, "f16");
    answer_of(&b, &t, "f16", NULL, 0, ids);
    assert_true(says(&b, &h, ids));
    json_decref(h.answer);
    free(t.ids);
    desk_close(&d);
    bed_close(&b);
}

/* More leading tokens than a prompt has are all of it, and no token of the answer. */
static void leading_tokens_are_counted_in_each_prompt(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int i = 0; i < 2; i++) {
        char body[300];
        snprintf(body, sizeof(body),
                 "{\"prompt\":[[1,2,3],[4,5,6,7,8]],\"max_tokens\":300,\"ignore_eos\":true,\"temperature\":0,"
                 "\"kv_method\":\"h2o:heavy=32,recent=32\",\"pin\":%d}",
                 i ? 1000000 : 5);
        json_t *a = desk_ask(&d, TEXT, body);
        const json_t *usage = json_object_get(a, "usage");
        static json_int_t bytes;
        assert_true(is_pinned(json_string_value(json_object_get(usage, "kv_method"))));
        assert_true(i == 0 || json_integer_value(json_object_get(usage, "kv_bytes")) == bytes);
        bytes = json_integer_value(json_object_get(usage, "kv_bytes"));
        json_decref(a);
    }
    desk_close(&d);
}

static void a_wrong_pin_is_refused(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    static const char *const bodies[][2] = {
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"pin\":1}]}"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"pin\":\"true\"}]}"},
        {CHAT, "{\"messages\":[{\"role\":\"system\",\"content\":\"x\",\"pin\":[]},"
               "{\"role\":\"user\",\"content\":\"x\"}]}"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"pin\":\"true\"}"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"pin\":-1}"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"pin\":true}],"
               "\"kv_method\":\"streaming:sinks=4,recent=64\"}"},
        {TEXT, "{\"prompt\":\"x\",\"pin\":true}"},
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
        char what[80];
        snprintf(what, sizeof(what), "POST %s", bodies[i][0]);
        web_answer a = web_ask(d.port, what, NULL, bodies[i][1]);
        if (a.status != 400)
            fail_msg("%s is answered with %d", bodies[i][1], a.status);
        json_t *o = web_json(&a);
        const json_t *error = json_object_get(o, "error");
        assert_string_equal(json_string_value(json_object_get(error, "param")), "pin");
        assert_string_equal(json_string_value(json_object_get(error, "type")), "invalid_request_error");
        assert_true(json_is_string(json_object_get(error, "message")));
        json_decref(o);
        web_free(&a);
    }
    json_decref(desk_ask(&d, CHAT,
                         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"pin\":null}],\"pin\":null,"
                         "\"max_tokens\":1}"));
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_pinned_stays),
        cmocka_unit_test(a_method_that_evicts_nothing_needs_no_pin),
        cmocka_unit_test(leading_tokens_are_counted_in_each_prompt),
        cmocka_unit_test(a_wrong_pin_is_refused),
    };
    return cmocka_run_group_tests_name("serve_pin", tests, NULL, NULL);
}
