/* test_generate.c - the stream of an answer: whole characters only, nothing lost, what is incomplete at the end shown
 * as one mark; a listener can stop it. A random model over bytes breaks characters at every turn. */
#include "engine/engine.h"
#include "engine/generate.h"
#include "support/env.h"
#include "support/tiny_model.h"
#include "text/utf8.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { N_TOKENS = 200 };

typedef struct listener {
    text all;
    int n_calls, n_empty, stop_after; /* 0: never */
} listener;

static bool hear(void *context, int index, const char *bytes, size_t n) {
    listener *l = context;
    assert_int_equal(index, 0);
    assert_true(utf8_valid(bytes, n)); /* each piece by itself */
    text_append(&l->all, bytes, n);
    l->n_empty += n == 0;
    return ++l->n_calls != l->stop_after;
}

typedef struct bed {
    pleat_model *model;
    pleat_engine *engine;
    pleat_method *method;
    float *logits;
} bed;

static bed open_bed(void) {
    bed b;
    tiny_options o = tiny_default();
    const char *path = env_temp("generate.gguf");
    tiny_write(path, &o);
    assert_int_equal(pleat_model_open(path, 1, &b.model, NULL), PLEAT_OK);
    assert_int_equal(pleat_engine_open(b.model, NULL, &b.engine, NULL), PLEAT_OK);
    assert_int_equal(pleat_method_parse("f16", b.model, &b.method, NULL), PLEAT_OK);
    b.logits = malloc((size_t)b.model->n_vocab * sizeof(*b.logits));
    unlink(path);
    return b;
}

static void close_bed(bed *b) {
    free(b->logits);
    pleat_method_free(b->method);
    pleat_engine_close(b->engine);
    pleat_model_close(b->model);
}

static generate_stream answer(bed *b, uint64_t seed, int n_tokens, listener *l) {
    generate_options options = {.max_tokens = n_tokens, .sampling = pleat_sampling_default(), .ignore_end = true};
    generate_stream s = {.logits = b->logits};
    int32_t prompt[] = {'a', 'b', 'c'};
    options.sampling.temperature = 3;
    options.sampling.seed = seed;
    assert_int_equal(pleat_seq_open(b->engine, b->method, &s.seq, NULL), PLEAT_OK);
    assert_int_equal(pleat_prefill(b->engine, s.seq, prompt, 3, true, PLEAT_LOGITS_LAST, b->logits, NULL), PLEAT_OK);
    assert_int_equal(generate_run(b->engine, &s, 1, &options, l ? hear : NULL, l, NULL), PLEAT_OK);
    pleat_seq_close(s.seq);
    return s;
}

/* The answer's ids as bytes, unrepaired. */
static text raw_bytes(const bed *b, const generate_stream *s) {
    text all = {0};
    for (int i = s->n_history - s->n_ids; i < s->n_history; i++) {
        size_t n;
        const char *bytes = pleat_token_bytes(b->model, s->history[i], false, &n);
        text_append(&all, bytes, n);
    }
    return all;
}

static void streams_show_whole_characters_and_lose_nothing(void **state) {
    (void)state;
    bed b = open_bed();
    int n_incomplete = 0, n_broken = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        listener l = {.n_calls = 0};
        generate_stream s = answer(&b, seed, N_TOKENS, &l);
        text raw = raw_bytes(&b, &s);
        char *repaired = malloc(3 * raw.n + 1);
        size_t n = utf8_repair(raw.bytes, raw.n, repaired);
        assert_true(l.all.n == s.answer.n && !memcmp(l.all.bytes, s.answer.bytes, s.answer.n));
        assert_int_equal(s.answer.n, n); /* the pieces are the whole, repaired once */
        assert_memory_equal(s.answer.bytes, repaired, n);
        assert_true(l.n_calls >= s.n_ids && s.n_ids == N_TOKENS);
        n_incomplete += utf8_complete(raw.bytes, raw.n) < raw.n;
        n_broken += l.n_empty > 0;
        free(repaired);
        text_free(&raw);
        text_free(&l.all);
        text_free(&s.answer);
        free(s.history);
    }
    assert_true(n_incomplete > 0 && n_broken > 0); /* both have been met */
    close_bed(&b);
}

static void nobody_need_listen(void **state) {
    (void)state;
    bed b = open_bed();
    listener l = {.n_calls = 0};
    generate_stream heard = answer(&b, 1, N_TOKENS, &l), alone = answer(&b, 1, N_TOKENS, NULL);
    assert_true(heard.answer.n == alone.answer.n && !memcmp(heard.answer.bytes, alone.answer.bytes, alone.answer.n));
    text_free(&l.all);
    text_free(&heard.answer);
    text_free(&alone.answer);
    free(heard.history);
    free(alone.history);
    close_bed(&b);
}

static void a_listener_stops_the_answer(void **state) {
    (void)state;
    bed b = open_bed();
    for (int after = 1; after < 20; after += 6) {
        listener l = {.stop_after = after};
        generate_stream s = answer(&b, 2, N_TOKENS, &l);
        assert_string_equal(s.finish, "length");
        assert_int_equal(s.n_ids, after);
        assert_true(s.pending >= 0);
        text_free(&l.all);
        text_free(&s.answer);
        free(s.history);
    }
    close_bed(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_show_whole_characters_and_lose_nothing),
        cmocka_unit_test(nobody_need_listen),
        cmocka_unit_test(a_listener_stops_the_answer),
    };
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
