/* test_serve_answers.c - answers and refusals in detail: offsets and usage of streams, the head of a stream before its
 * first token, fields that bind the answer, fields that cannot be obeyed, status codes, figures. */
#include "model/model.h"
#include "support/bed.h"
#include "support/desk.h"
#include "text/chat.h"
#include <ctype.h>
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

/* Bias leaves the model two letters (tokens 64 and 65), in an order that the seed draws. */
#define LETTERS "\"ignore_eos\":true,\"temperature\":1,\"logit_bias\":{\"64\":100,\"65\":100}"

static const json_t *choice_of(const json_t *answer) {
    return json_array_get(json_object_get(answer, "choices"), 0);
}

/* Asks with a status in mind; the caller frees the JSON. */
static json_t *ask_for(const desk *d, const char *path, const char *body, int status) {
    char what[100];
    snprintf(what, sizeof(what), "POST %s", path);
    web_answer a = web_ask(d->port, what, NULL, body);
    if (a.status != status)
        fail_msg("%s: status %d instead of %d: %.300s", body, a.status, status, a.body.bytes ? a.body.bytes : "");
    json_t *value = web_json(&a);
    web_free(&a);
    return value;
}

static void check_refused(const desk *d, const char *path, const char *body, const char *param) {
    json_t *a = ask_for(d, path, body, 400);
    const json_t *error = json_object_get(a, "error");
    const char *said = json_string_value(json_object_get(error, "param"));
    const char *message = json_string_value(json_object_get(error, "message"));
    if (!said || strcmp(said, param) != 0 || !message || !strstr(message, param))
        fail_msg("%s: the error is of %s: %s", body, said ? said : "nothing", message ? message : "");
    json_decref(a);
}

/* The events of a stream that ends well. */
static json_t *events_of(const desk *d, const char *path, const char *body) {
    char what[100];
    bool done;
    snprintf(what, sizeof(what), "POST %s", path);
    web_answer a = web_ask(d->port, what, NULL, body);
    assert_int_equal(a.status, 200);
    json_t *list = desk_events(&a, &done);
    assert_true(done);
    web_free(&a);
    return list;
}

/* ---- streams ---- */

static void offsets_go_on_over_all_events(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int echo = 0; echo < 2; echo++) {
        char whole_body[400], body[420];
        snprintf(whole_body, sizeof(whole_body),
                 "{\"prompt\":\"caf\\u00e9\",\"max_tokens\":12,\"seed\":2,\"logprobs\":1,\"echo\":%s," LETTERS,
                 echo ? "true" : "false");
        snprintf(body, sizeof(body), "%s,\"stream\":true}", whole_body);
        strcat(whole_body, "}");
        json_t *whole = desk_ask(&d, TEXT, whole_body), *events = events_of(&d, TEXT, body), *event, *joined[2];
        static const char *const lists[] = {"text_offset", "tokens"};
        const json_t *expected = json_object_get(choice_of(whole), "logprobs");
        size_t i;
        for (int k = 0; k < 2; k++) {
            joined[k] = json_array();
            json_array_foreach(events, i, event) {
                json_t *piece = json_object_get(json_object_get(choice_of(event), "logprobs"), lists[k]);
                if (piece)
                    json_array_extend(joined[k], piece);
            }
            if (!json_equal(joined[k], json_object_get(expected, lists[k])))
                fail_msg("%s of the stream are %s", lists[k], json_dumps(joined[k], 0));
            json_decref(joined[k]);
        }
        const json_t *offsets = json_object_get(expected, "text_offset");
        assert_int_equal(json_integer_value(json_array_get(offsets, 0)), 0);
        assert_int_equal(json_integer_value(json_array_get(offsets, json_array_size(offsets) - 1)),
                         11 + (echo ? 4 : 0)); /* characters, not bytes */
        json_decref(whole);
        json_decref(events);
    }
    desk_close(&d);
}

static void running_usage_has_every_figure(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    json_t *events = events_of(&d, TEXT,
                               "{\"prompt\":[1,2,3],\"max_tokens\":40,\"ignore_eos\":true,\"stream\":true,"
                               "\"stream_options\":{\"continuous_usage_stats\":true}}"),
           *event;
    size_t i;
    assert_true(json_array_size(events) > 1);
    json_array_foreach(events, i, event) {
        const json_t *usage = json_object_get(event, "usage");
        assert_true(desk_number(usage, "kv_bytes") > 0);
        assert_true(desk_number(usage, "kv_peak_bytes") >= desk_number(usage, "kv_bytes"));
        assert_true(desk_number(usage, "preemptions") == 0);
    }
    json_decref(events);
    desk_close(&d);
}

/* A long prompt takes far longer than the head of its answer: that is there before the first token, with a comment. */
static void a_stream_begins_with_its_prompt(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    char body[2200], finish[16];
    snprintf(body, sizeof(body), "{\"prompt\":\"%01900d\",\"max_tokens\":3,\"ignore_eos\":true,\"stream\":true}", 1);
    web_answer a = web_ask(d.port, "POST " TEXT, NULL, body);
    text said = {0};
    assert_int_equal(a.status, 200);
    if (strncmp(a.body.bytes, ": ", 2) != 0)
        fail_msg("the stream begins with %.60s", a.body.bytes);
    json_decref(desk_stream(&a, 0, &said, finish));
    assert_string_equal(finish, "length");
    text_free(&said);
    web_free(&a);
    desk_close(&d);
}

static void wait_for(const desk *d, const char *figure, int n) {
    for (int i = 0; i < 1000 && (int)desk_figure(d, figure) < n; i++)
        usleep(1000);
}

/* One runs, one waits, and the third is refused by its status, though all of them are streams. */
static void a_stream_that_is_refused_has_a_status(void **state) {
    (void)state;
    desk d = desk_open((serve_options){.scheduler = {.max_running = 1, .max_waiting = 1}}, 0, 0);
    static const char body[] = "{\"prompt\":[1,2,3],\"max_tokens\":1900,\"ignore_eos\":true,\"stream\":true}";
    bool refused = false;
    for (int turn = 0; turn < 20 && !refused; turn++) { /* the first may end too soon */
        int fd[2];
        for (int i = 0; i < 2; i++) {
            fd[i] = web_connect(d.port);
            web_request(fd[i], "POST " TEXT, NULL, body);
            wait_for(&d, i ? "vllm:num_requests_waiting" : "vllm:num_requests_running", 1);
        }
        web_answer a = web_ask(d.port, "POST " TEXT, NULL,
                               "{\"prompt\":[1,2,3],\"max_tokens\":1,\"ignore_eos\":true,\"stream\":true}");
        refused = a.status == 429;
        assert_true(!refused || web_header(&a, "Retry-After"));
        web_free(&a);
        close(fd[0]);
        close(fd[1]);
        desk_quiet(&d);
    }
    assert_true(refused);
    json_decref(ask_for(&d, TEXT, "{\"prompt\":[1,2,3],\"max_tokens\":3000,\"stream\":true}", 400));
    desk_close(&d);
}

/* ---- fields that bind ---- */

static void a_context_that_was_set_binds_every_method(void **state) {
    (void)state;
    static const char *const methods[] = {"f16", "streaming-512", "streaming:sinks=4,recent=64+prefill:bounded"};
    desk bound = desk_open((serve_options){.context_tokens = 100}, 0, 0),
         free_one = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        char body[300];
        snprintf(body, sizeof(body), "{\"prompt\":[1,2,3],\"max_tokens\":98,\"kv_method\":\"%s\"}", methods[i]);
        json_t *a = ask_for(&bound, TEXT, body, 400);
        assert_string_equal(json_string_value(json_object_get(json_object_get(a, "error"), "code")),
                            "context_length_exceeded");
        json_decref(a);
        snprintf(body, sizeof(body), "{\"prompt\":[1,2,3],\"max_tokens\":97,\"kv_method\":\"%s\"}", methods[i]);
        json_decref(ask_for(&bound, TEXT, body, 200));
        snprintf(body, sizeof(body),
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"ignore_eos\":true,\"kv_method\":\"%s\"}",
                 methods[i]);
        a = ask_for(&bound, CHAT, body, 200); /* as much as fits, when nobody said how much */
        assert_int_equal(desk_number(json_object_get(a, "usage"), "total_tokens"), 100);
        json_decref(a);
    }
    char body[300];
    snprintf(body, sizeof(body),
             "{\"prompt\":[1,2,3],\"max_tokens\":%d,\"ignore_eos\":true,\"kv_method\":\"streaming:sinks=4,recent=64\"}",
             DESK_CONTEXT + 50);
    json_t *a = ask_for(&free_one, TEXT, body, 200); /* the model's context does not bind this one */
    assert_int_equal(desk_number(json_object_get(a, "usage"), "completion_tokens"), DESK_CONTEXT + 50);
    json_decref(a);
    desk_close(&bound);
    desk_close(&free_one);
}

static void thirty_two_stop_strings_are_the_most(void **state) {
    (void)state;
    char body[600];
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int most = 32; most < 34; most++) {
        int at = snprintf(body, sizeof(body), "{\"prompt\":\"x\",\"max_tokens\":1,\"stop\":[\"0\"");
        for (int i = 1; i < most; i++)
            at += snprintf(body + at, sizeof(body) - (size_t)at, ",\"%d\"", i);
        snprintf(body + at, sizeof(body) - (size_t)at, "]}");
        if (most == 32)
            json_decref(ask_for(&d, TEXT, body, 200));
        else
            check_refused(&d, TEXT, body, "stop");
    }
    desk_close(&d);
}

/* Of them too: the last one of the list ends the text. */
static void the_last_of_many_stop_strings_counts(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    char body[1200];
    int at =
        snprintf(body, sizeof(body), "{\"prompt\":\"one\",\"max_tokens\":60,\"temperature\":0,\"ignore_eos\":true");
    body[at] = '}';
    body[at + 1] = 0;
    json_t *a = ask_for(&d, TEXT, body, 200);
    const char *whole = desk_text(a, 0);
    size_t n = strlen(whole), from = n / 2;
    while (from < n - 1 && (!isalnum((unsigned char)whole[from]) || strchr(whole, whole[from]) < whole + from))
        from++;
    if (from == n - 1)
        fail_msg("no letter of \"%s\" is its first of the kind", whole);
    at += snprintf(body + at, sizeof(body) - (size_t)at, ",\"stop\":[");
    for (int i = 1; i < 32; i++)
        at += snprintf(body + at, sizeof(body) - (size_t)at, "\"no such text %d\",", i);
    snprintf(body + at, sizeof(body) - (size_t)at, "\"%c\"]}", whole[from]);
    json_t *cut = ask_for(&d, TEXT, body, 200);
    assert_int_equal(strlen(desk_text(cut, 0)), from);
    assert_memory_equal(desk_text(cut, 0), whole, from);
    json_decref(a);
    json_decref(cut);
    desk_close(&d);
}

static void a_stop_string_is_shown_when_it_is_wanted(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    static const char rest[] = "\"prompt\":\"x\",\"max_tokens\":60,\"seed\":3," LETTERS;
    char body[600], stop[8] = {0}, finish[16];
    snprintf(body, sizeof(body), "{%s}", rest);
    json_t *a = desk_ask(&d, TEXT, body);
    char *whole = strdup(desk_text(a, 0));
    json_decref(a);
    memcpy(stop, whole + 20, 5);
    size_t end = (size_t)(strstr(whole, stop) - whole) + 5;
    for (int shown = 0; shown < 2; shown++) {
        snprintf(body, sizeof(body), "{%s,\"stop\":[\"zz\",\"%s\"],\"include_stop_str_in_output\":%s}", rest, stop,
                 shown ? "true" : "false");
        a = desk_ask(&d, TEXT, body);
        assert_int_equal(strlen(desk_text(a, 0)), shown ? end : end - 5);
        assert_memory_equal(desk_text(a, 0), whole, shown ? end : end - 5);
        snprintf(body, sizeof(body), "{%s,\"stop\":[\"zz\",\"%s\"],\"include_stop_str_in_output\":%s,\"stream\":true}",
                 rest, stop, shown ? "true" : "false");
        web_answer w = web_ask(d.port, "POST " TEXT, NULL, body);
        text said = {0};
        json_decref(desk_stream(&w, 0, &said, finish));
        assert_string_equal(said.bytes, desk_text(a, 0));
        assert_string_equal(finish, "stop");
        text_free(&said);
        web_free(&w);
        json_decref(a);
    }
    free(whole);
    desk_close(&d);
}

static void only_allowed_tokens_come(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    json_t *three = desk_ask(&d, "/detokenize", "{\"tokens\":[64,66,71]}");
    const char *letters = json_string_value(json_object_get(three, "prompt"));
    assert_int_equal(strlen(letters), 3);
    for (int greedy = 0; greedy < 2; greedy++) {
        char body[300];
        snprintf(body, sizeof(body),
                 "{\"prompt\":\"x\",\"max_tokens\":40,\"seed\":3,\"temperature\":%s,\"allowed_token_ids\":[64,66,71]}",
                 greedy ? "0" : "1");
        json_t *a = desk_ask(&d, TEXT, body);
        const char *said = desk_text(a, 0);
        assert_int_equal(strlen(said), 40);
        assert_int_equal(strspn(said, letters), 40);
        int n_kinds = 0;
        for (int i = 0; i < 3; i++)
            n_kinds += strchr(said, letters[i]) != NULL;
        assert_true(greedy || n_kinds == 3);
        json_decref(a);
    }
    json_decref(three);
    check_refused(&d, TEXT, "{\"prompt\":\"x\",\"allowed_token_ids\":[]}", "allowed_token_ids");
    check_refused(&d, TEXT, "{\"prompt\":\"x\",\"allowed_token_ids\":5}", "allowed_token_ids");
    check_refused(&d, TEXT, "{\"prompt\":\"x\",\"allowed_token_ids\":[-1]}", "allowed_token_ids");
    check_refused(&d, TEXT, "{\"prompt\":\"x\",\"allowed_token_ids\":[4294967296]}", "allowed_token_ids");
    check_refused(&d, TEXT, "{\"prompt\":\"x\",\"allowed_token_ids\":[258],\"min_tokens\":1}", "allowed_token_ids");
    desk_close(&d);
}

static void long_prompts_are_truncated_in_front(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    json_t *a = desk_ask(&d, TEXT,
                         "{\"prompt\":[[65,66,67,68,69,70],[71,72]],\"max_tokens\":5,\"temperature\":0,\"echo\":true,"
                         "\"ignore_eos\":true,\"truncate_prompt_tokens\":3}"),
           *b = desk_ask(&d, TEXT,
                         "{\"prompt\":[[68,69,70],[71,72]],\"max_tokens\":5,\"temperature\":0,\"echo\":true,"
                         "\"ignore_eos\":true}");
    assert_true(json_equal(json_object_get(a, "choices"), json_object_get(b, "choices")));
    assert_int_equal(desk_number(json_object_get(a, "usage"), "prompt_tokens"), 5);
    json_decref(a);
    json_decref(b);
    char body[9000]; /* a prompt that does not fit, and what is pinned of it */
    snprintf(body, sizeof(body),
             "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"%03000d\"}],"
             "\"pin\":true,\"max_tokens\":2,\"ignore_eos\":true,\"truncate_prompt_tokens\":100,"
             "\"kv_method\":\"h2o:heavy=32,recent=32\"}",
             1);
    a = desk_ask(&d, CHAT, body);
    assert_int_equal(desk_number(json_object_get(a, "usage"), "prompt_tokens"), 100);
    json_decref(a);
    check_refused(&d, TEXT, "{\"prompt\":\"x\",\"truncate_prompt_tokens\":0}", "truncate_prompt_tokens");
    /* A text that no context holds: refused by its length alone, unless it is to be cut. */
    enum { LONG = 256 * (DESK_CONTEXT + 1) };
    static char long_body[LONG + 200];
    for (int cut = 0; cut < 2; cut++) {
        int at =
            snprintf(long_body, 100, "{\"max_tokens\":1,%s\"prompt\":\"", cut ? "\"truncate_prompt_tokens\":9," : "");
        memset(long_body + at, 'x', LONG);
        memcpy(long_body + at + LONG, "\"}", 3);
        json_t *answer = ask_for(&d, TEXT, long_body, cut ? 200 : 400);
        if (cut)
            assert_int_equal(desk_number(json_object_get(answer, "usage"), "prompt_tokens"), 9);
        else
            assert_string_equal(json_string_value(json_object_get(json_object_get(answer, "error"), "code")),
                                "context_length_exceeded");
        json_decref(answer);
    }
    desk_close(&d);
}

static json_t *tokens_of(const desk *d, const char *body) {
    json_t *a = desk_ask(d, "/tokenize", body), *list = json_incref(json_object_get(a, "tokens"));
    json_decref(a);
    return list;
}

static void a_message_can_go_on(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    static const char begun[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":"
        "\"ab\"}],\"max_tokens\":4,\"ignore_eos\":true,\"temperature\":0,"
        "\"continue_final_message\":true,\"add_generation_prompt\":false}";
    json_t *opening = tokens_of(&d, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    json_t *all = tokens_of(&d, begun), *said = tokens_of(&d, "{\"prompt\":\"ab\",\"add_special_tokens\":false}");
    json_array_extend(opening, said);
    assert_true(json_equal(opening, all));
    char body[600], *ids = json_dumps(all, JSON_COMPACT);
    snprintf(body, sizeof(body), "{\"prompt\":%s,\"max_tokens\":4,\"ignore_eos\":true,\"temperature\":0}", ids);
    json_t *a = desk_ask(&d, CHAT, begun), *b = desk_ask(&d, TEXT, body);
    assert_string_equal(desk_text(a, 0), desk_text(b, 0));
    json_decref(a);
    json_decref(b);
    free(ids);
    json_decref(opening);
    json_decref(all);
    json_decref(said);
#define M "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,"
    check_refused(&d, CHAT, M "\"continue_final_message\":true,\"add_generation_prompt\":true}",
                  "continue_final_message");
    check_refused(&d, CHAT, M "\"add_generation_prompt\":false}", "add_generation_prompt");
    a = ask_for(&d, CHAT, M "\"continue_final_message\":true}", 400); /* it is the user's */
    assert_string_equal(json_string_value(json_object_get(json_object_get(a, "error"), "param")), "messages");
    json_decref(a);
    json_decref(ask_for(&d, CHAT, M "\"continue_final_message\":false,\"add_generation_prompt\":true}", 200));
    desk_close(&d);
}

static void add_text(const bed *b, const int32_t *ids, int n, text *out) {
    for (int i = 0; i < n; i++) {
        size_t n_bytes;
        const char *bytes = pleat_token_bytes(b->model, ids[i], true, &n_bytes);
        text_append(out, bytes, n_bytes);
    }
}

/* In every format: what stands there when the conversation has gone on, up to the end of the message. */
static void an_open_turn_is_the_beginning_of_the_closed_one(void **state) {
    (void)state;
    static const chat_message m[] = {{"system", "s", 1}, {"user", "x", 1}, {"assistant", "ab!", 3}, {"user", "y", 1}};
    bed b = bed_open(tiny_default(), (pleat_engine_options){.n_threads = 1, .pool_bytes = 1 << 20});
    for (int format = 0; format < CHAT_COUNT; format++) {
        int32_t *begun, *all;
        int n_begun, n_all;
        token_span span[3];
        text open = {0}, closed = {0};
        pleat_error error = {""};
        if (chat_encode_begun(b.model->tok, b.model->file, (chat_format)format, m, 3, span, &begun, &n_begun, &error) ||
            chat_encode(b.model->tok, b.model->file, (chat_format)format, m, 4, 0, &all, &n_all, &error))
            fail_msg("%s: %s", chat_format_name((chat_format)format), error.text);
        add_text(&b, begun, n_begun, &open);
        add_text(&b, all, n_all, &closed);
        if (strcmp(open.bytes + open.n - 3, "ab!") != 0 || strncmp(open.bytes, closed.bytes, open.n) != 0)
            fail_msg("%s: \"%s\" against \"%s\"", chat_format_name((chat_format)format), open.bytes, closed.bytes);
        assert_int_equal(span[2].end, n_begun);
        text_free(&open);
        text_free(&closed);
        free(begun);
        free(all);
    }
    bed_close(&b);
}

static void tokens_come_with_their_pieces(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    json_t *plain = tokens_of(&d, "{\"content\":\"a\\u00e9\"}"),
           *list = tokens_of(&d, "{\"content\":\"a\\u00e9\",\"with_pieces\":true}"), *token;
    size_t i;
    assert_int_equal(json_array_size(list), json_array_size(plain));
    json_array_foreach(list, i, token) assert_true(json_equal(json_object_get(token, "id"), json_array_get(plain, i)));
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "piece")), "a");
    json_t *half = json_pack("[i]", 0xc3);
    assert_true(json_equal(json_object_get(json_array_get(list, 1), "piece"), half));
    json_decref(half);
    json_decref(plain);
    json_decref(list);
    check_refused(&d, "/tokenize", "{\"prompt\":\"x\",\"return_token_strs\":true}", "return_token_strs");
    desk_close(&d);
}

/* A known field is obeyed or refused; a value that says what happens anyway is no reason. */
static void known_fields_are_never_ignored(void **state) {
    (void)state;
#define P "{\"prompt\":\"x\",\"max_tokens\":1,"
    static const struct {
        const char *name, *value;
        bool chat;
    } refused[] = {{"bad_words", "[\"x\"]", false},
                   {"chat_template", "\"{{x}}\"", true},
                   {"chat_template_kwargs", "{\"enable_thinking\":false}", true},
                   {"documents", "[{}]", true},
                   {"echo", "true", true},
                   {"add_special_tokens", "true", true},
                   {"skip_special_tokens", "false", false},
                   {"return_tokens_as_token_ids", "true", false},
                   {"return_token_ids", "true", true},
                   {"logits_processors", "[\"x\"]", false},
                   {"prompt_embeds", "\"AAAA\"", false},
                   {"structural_tag", "\"x\"", false},
                   {"regex", "\"x\"", false},
                   {"n_predict", "5", false},
                   {"mirostat", "2", false},
                   {"dry_multiplier", "0.8", false},
                   {"xtc_probability", "0.5", false},
                   {"typical_p", "0.5", false},
                   {"dynatemp_range", "0.5", false},
                   {"top_n_sigma", "1", false}};
    static const char *const ignored[] = {P "\"bad_words\":[],\"chat_template\":null,\"chat_template_kwargs\":{}}",
                                          P "\"mirostat\":0,\"dry_multiplier\":0.0,\"xtc_probability\":0,"
                                            "\"typical_p\":1.0,\"dynatemp_range\":0,\"top_n_sigma\":-1}",
                                          P "\"skip_special_tokens\":true,\"return_token_ids\":false,"
                                            "\"spaces_between_special_tokens\":true,\"length_penalty\":1}"};
    desk d = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
        char body[300];
        snprintf(body, sizeof(body), refused[i].chat ? M "\"%s\":%s}" : P "\"%s\":%s}", refused[i].name,
                 refused[i].value);
        check_refused(&d, refused[i].chat ? CHAT : TEXT, body, refused[i].name);
    }
    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        json_decref(ask_for(&d, TEXT, ignored[i], 200));
    desk_close(&d);
#undef P
#undef M
}

/* ---- errors ---- */

/* Nonsense on the line is the client's mistake: a status from 500 on would be asked again by its library. */
static void a_clients_mistake_is_4xx(void **state) {
    (void)state;
#define HEAD " HTTP/1.1\r\nHost: x\r\n"
    static const char *const heads[] = {"GET /health HTTP/1.2\r\nHost: x\r\n\r\n",
                                        "POST " TEXT HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                                        "POST " TEXT HEAD "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
                                        "GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"};
#undef HEAD
    desk d = desk_open((serve_options){0}, 0, 0);
    for (size_t i = 0; i < sizeof(heads) / sizeof(*heads); i++) {
        int fd = web_connect(d.port);
        web_puts(fd, heads[i]);
        web_answer a = web_read(fd);
        if (a.status != 400)
            fail_msg("%s: status %d", heads[i], a.status);
        json_t *body = web_json(&a);
        const json_t *error = json_object_get(body, "error");
        assert_string_equal(json_string_value(json_object_get(error, "type")), "invalid_request_error");
        assert_true(json_is_null(json_object_get(error, "param")) && json_is_null(json_object_get(error, "code")));
        json_decref(body);
        web_free(&a);
        close(fd);
    }
    desk_close(&d);
}

/* Two requests that the pool cannot hold together, and no place to move the younger one to. */
static void an_error_has_one_type_in_a_stream_and_as_a_status(void **state) {
    (void)state;
    desk d = desk_open((serve_options){.scheduler = {.overcommit = 4, .moved_bytes = 1}}, (size_t)2 << 20, 0);
    for (int stream = 0; stream < 2; stream++) {
        int fd[2], n_failed = 0;
        char body[300];
        snprintf(body, sizeof(body), "{\"prompt\":[1,2,3],\"max_tokens\":1400,\"ignore_eos\":true,\"stream\":%s}",
                 stream ? "true" : "false");
        for (int i = 0; i < 2; i++) {
            fd[i] = web_connect(d.port);
            web_request(fd[i], "POST " TEXT, NULL, body);
        }
        for (int i = 0; i < 2; i++) {
            web_answer a = web_read(fd[i]);
            const char *error = strstr(a.body.bytes, "\"error\":");
            if (error) {
                n_failed++;
                assert_int_equal(a.status, stream ? 200 : 503);
                assert_true(stream || web_header(&a, "Retry-After"));
                assert_non_null(strstr(error, "\"unavailable_error\""));
                assert_null(strstr(a.body.bytes, "[DONE]"));
            } else {
                assert_int_equal(a.status, 200);
            }
            web_free(&a);
            close(fd[i]);
        }
        assert_int_equal(n_failed, 1);
        desk_quiet(&d);
    }
    desk_close(&d);
}

/* ---- figures ---- */

static void the_pool_is_told_in_blocks(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, (size_t)16 << 20, 0);
    web_answer a = web_ask(d.port, "GET /metrics", NULL, NULL);
    /* tiny: 2 layers of 2 heads of 64, keys and values, fp16: 1,024 bytes a token */
    assert_non_null(strstr(a.body.bytes, "vllm:cache_config_info{model_name=\"tiny\",block_size=\"64\",num_gpu_blocks="
                                         "\"256\"} 1\n"));
    web_free(&a);
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offsets_go_on_over_all_events),
        cmocka_unit_test(running_usage_has_every_figure),
        cmocka_unit_test(a_stream_begins_with_its_prompt),
        cmocka_unit_test(a_stream_that_is_refused_has_a_status),
        cmocka_unit_test(thirty_two_stop_strings_are_the_most),
        cmocka_unit_test(the_last_of_many_stop_strings_counts),
        cmocka_unit_test(a_context_that_was_set_binds_every_method),
        cmocka_unit_test(a_stop_string_is_shown_when_it_is_wanted),
        cmocka_unit_test(only_allowed_tokens_come),
        cmocka_unit_test(long_prompts_are_truncated_in_front),
        cmocka_unit_test(a_message_can_go_on),
        cmocka_unit_test(an_open_turn_is_the_beginning_of_the_closed_one),
        cmocka_unit_test(tokens_come_with_their_pieces),
        cmocka_unit_test(known_fields_are_never_ignored),
        cmocka_unit_test(a_clients_mistake_is_4xx),
        cmocka_unit_test(an_error_has_one_type_in_a_stream_and_as_a_status),
        cmocka_unit_test(the_pool_is_told_in_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
