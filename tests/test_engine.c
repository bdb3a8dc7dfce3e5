/* test_engine.c - the forward pass against a double reference, batch invariance in bits, what a step refuses, forks,
 * the end of the context. */
#include "engine/engine.h"
#include "engine/generate.h"
#include "support/bed.h"
#include "support/env.h"
#include "support/reference_forward.h"
#include "support/tiny_model.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

/* ---- against the reference ---- */

/* tolerance: of the difference over the spread of the logits. int8 activations cost about 1 % a product; float matrices
 * only the fp16 cache. */
static void compare_with_reference(tiny_options o, double tolerance) {
    enum { N = 70 };
    bed b = bed_open(o, (pleat_engine_options){.n_threads = 2});
    int32_t *ids = bed_tokens(&b, N);
    float *logits = malloc((size_t)b.n_vocab * sizeof(*logits));
    double *want = malloc((size_t)b.n_vocab * sizeof(*want)), error = 0, size = 0, mean = 0;
    gguf *file;
    assert_int_equal(gguf_open(b.path, &file, NULL), PLEAT_OK);
    reference_logits(file, &o, ids, N, want, b.n_vocab);
    pleat_seq *seq = bed_seq(&b, "f16");
    bed_prefill(&b, seq, ids, N, logits);
    for (int i = 0; i < b.n_vocab; i++)
        mean += want[i] / b.n_vocab;
    for (int i = 0; i < b.n_vocab; i++) {
        error += ((double)logits[i] - want[i]) * ((double)logits[i] - want[i]);
        size += (want[i] - mean) * (want[i] - mean);
    }
    if (!(sqrt(error / size) < tolerance))
        fail_msg("%s, type %s, heads %d/%d of %d: off by %.4f of the spread", o.arch, block_traits_of(o.type)->name,
                 o.n_head, o.n_head_kv, o.head_dim, sqrt(error / size));
    pleat_seq_close(seq);
    gguf_close(file);
    free(ids);
    free(logits);
    free(want);
    bed_close(&b);
}

static void every_architecture_matches_the_reference(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    for (int i = 0; i < 3; i++) {
        tiny_options o = tiny_default();
        o.arch = archs[i];
        o.type = BLOCK_F32;
        compare_with_reference(o, 3e-3);
        o.type = BLOCK_F16;
        o.window = 16;
        compare_with_reference(o, 3e-3);
    }
}

static void every_weight_type_matches_the_reference(void **state) {
    (void)state;
    static const block_type types[] = {BLOCK_BF16, BLOCK_Q8_0, BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0,
                                       BLOCK_Q5_1, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K};
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        tiny_options o = tiny_default();
        o.type = types[i];
        compare_with_reference(o, types[i] == BLOCK_BF16 ? 3e-3 : 0.04);
    }
}

static void head_shapes_match_the_reference(void **state) {
    (void)state;
    static const int shapes[][3] = {{4, 4, 64}, {8, 1, 64}, {3, 3, 128}, {4, 1, 256}, {6, 2, 32}};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        tiny_options o = tiny_default();
        o.arch = i % 2 ? "gemma3" : "llama";
        o.type = BLOCK_F32;
        o.n_head = shapes[i][0];
        o.n_head_kv = shapes[i][1];
        o.head_dim = shapes[i][2];
        o.spm = i % 2;
        compare_with_reference(o, 3e-3);
    }
}

/* ---- bits ---- */

typedef struct way {
    int threads, step_tokens;
    bool company;
} way;

/* Logits of 5 decode steps after a prompt of N tokens. */
static void run_way(tiny_options o, const char *spec, way w, float *out) {
    enum { N = 700, STEPS = 5 };
    bed b = bed_open(o, (pleat_engine_options){.n_threads = w.threads, .max_step_tokens = w.step_tokens});
    int32_t *ids = bed_tokens(&b, N + STEPS);
    pleat_seq *seq = bed_seq(&b, spec), *other = bed_seq(&b, "int8+h2o:heavy=16,recent=48"),
              *third = bed_seq(&b, "f16");
    bed_prefill(&b, seq, ids, N, NULL);
    bed_prefill(&b, other, ids + 3, 90, NULL);
    bed_prefill(&b, third, ids + 9, 333, NULL);
    for (int i = 0; i < STEPS; i++) {
        float *to = out + (size_t)i * (size_t)b.n_vocab;
        pleat_item items[] = {{other, &ids[i], 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL},
                              {third, &ids[i + 5], 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL},
                              {seq, &ids[N + i], 1, PLEAT_DECODE, PLEAT_LOGITS_LAST, to}};
        if (w.company)
            assert_int_equal(pleat_step(b.engine, items, 3, NULL), PLEAT_OK);
        else
            bed_decode(&b, seq, ids[N + i], to);
    }
    pleat_seq_close(seq);
    pleat_seq_close(other);
    pleat_seq_close(third);
    free(ids);
    assert_int_equal(kv_pool_used_bytes(engine_pool(b.engine)), 0);
    bed_close(&b);
}

static void bits_do_not_depend_on_batch_cuts_or_threads(void **state) {
    (void)state;
    static const way ways[] = {{1, 512, false}, {2, 64, false}, {3, 128, true}, {2, 512, true}, {4, 256, false}};
    static const char *const specs[] = {"f16", "kivi:bits=2,residual=64+h2o:heavy=32,recent=64",
                                        "int8+streaming:sinks=4,recent=60", "kivi-4+prefill:bounded"};
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    for (int a = 0; a < 3; a++)
        for (size_t s = 0; s < sizeof(specs) / sizeof(*specs); s++) {
            tiny_options o = tiny_default();
            o.arch = archs[a];
            size_t n = 5 * TINY_BPE_VOCAB;
            float *first = calloc(n, sizeof(float)), *next = calloc(n, sizeof(float));
            run_way(o, specs[s], ways[0], first);
            for (size_t i = 1; i < sizeof(ways) / sizeof(*ways); i++) {
                run_way(o, specs[s], ways[i], next);
                assert_memory_equal(first, next, n * sizeof(float));
            }
            free(first);
            free(next);
        }
}

static void prefill_and_decode_give_the_same_bits(void **state) {
    (void)state;
    enum { N = 130, FROM = 60 };
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    for (int a = 0; a < 3; a++) {
        tiny_options o = tiny_default();
        o.arch = archs[a];
        bed b = bed_open(o, (pleat_engine_options){.n_threads = 2, .max_step_tokens = 128});
        int32_t *ids = bed_tokens(&b, N);
        size_t row = (size_t)b.n_vocab;
        float *all = malloc(N * row * sizeof(*all)), *one = malloc(row * sizeof(*one));
        pleat_seq *whole = bed_seq(&b, "f16"), *steps = bed_seq(&b, "f16");
        assert_int_equal(pleat_prefill(b.engine, whole, ids, N, true, PLEAT_LOGITS_ALL, all, NULL), PLEAT_OK);
        bed_prefill(&b, steps, ids, FROM, NULL);
        for (int t = FROM; t < N; t++) {
            bed_decode(&b, steps, ids[t], one);
            assert_memory_equal(all + (size_t)t * row, one, row * sizeof(*one));
        }
        pleat_seq_close(whole);
        pleat_seq_close(steps);
        free(ids);
        free(all);
        free(one);
        bed_close(&b);
    }
}

/* A budget or a tail above the length changes no bit of the logits, whatever the method. */
static void methods_that_do_not_act_are_f16(void **state) {
    (void)state;
    static const char *const specs[] = {"h2o:heavy=64,recent=448",          "streaming-512",
                                        "kivi:bits=2,residual=512",         "int8:tail=512",
                                        "kivi:bits=4,residual=512+h2o-512", "int8:tail=512+streaming-512"};
    bed b = bed_open(tiny_default(), (pleat_engine_options){.n_threads = 1});
    int32_t *ids = bed_tokens(&b, 320);
    size_t row = (size_t)b.n_vocab;
    float *want = malloc(row * sizeof(*want)), *got = malloc(row * sizeof(*got));
    for (size_t i = 0; i <= sizeof(specs) / sizeof(*specs); i++) {
        pleat_seq *seq = bed_seq(&b, i ? specs[i - 1] : "f16");
        bed_prefill(&b, seq, ids, 300, NULL);
        for (int t = 300; t < 320; t++)
            bed_decode(&b, seq, ids[t], i ? got : want);
        if (i)
            assert_memory_equal(want, got, row * sizeof(*want));
        pleat_seq_close(seq);
    }
    free(ids);
    free(want);
    free(got);
    bed_close(&b);
}

/* ---- refusals ---- */

static void expect(const bed *b, pleat_item item, pleat_status status, const char *words) {
    pleat_error error = {""};
    int before = pleat_seq_describe(item.seq).n_tokens;
    size_t bytes = kv_pool_used_bytes(engine_pool(b->engine));
    assert_int_equal(pleat_step(b->engine, &item, 1, &error), status);
    if (!strstr(error.text, words))
        fail_msg("\"%s\" lacks \"%s\"", error.text, words);
    assert_int_equal(pleat_seq_describe(item.seq).n_tokens, before);
    assert_int_equal(kv_pool_used_bytes(engine_pool(b->engine)), bytes);
}

static void steps_refuse_what_they_cannot_do(void **state) {
    (void)state;
    tiny_options o = tiny_default();
    o.context = 256;
    bed b = bed_open(o, (pleat_engine_options){.n_threads = 1, .max_step_tokens = 128});
    int32_t *ids = bed_tokens(&b, 300), bad = b.n_vocab;
    pleat_seq *seq = bed_seq(&b, "f16");
    float logits;
    (void)logits;
    expect(&b, (pleat_item){seq, ids, 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL}, PLEAT_EINPUT, "prompt has not ended");
    expect(&b, (pleat_item){seq, &bad, 1, PLEAT_PROMPT, PLEAT_LOGITS_NONE, NULL}, PLEAT_EINPUT, "vocabulary");
    bad = -1;
    expect(&b, (pleat_item){seq, &bad, 1, PLEAT_PROMPT, PLEAT_LOGITS_NONE, NULL}, PLEAT_EINPUT, "-1");
    expect(&b, (pleat_item){seq, ids, 0, PLEAT_PROMPT, PLEAT_LOGITS_NONE, NULL}, PLEAT_EINPUT, "0 tokens");
    expect(&b, (pleat_item){seq, ids, 129, PLEAT_PROMPT, PLEAT_LOGITS_NONE, NULL}, PLEAT_EINPUT, "129");
    expect(&b, (pleat_item){seq, ids, 4, PLEAT_PROMPT, PLEAT_LOGITS_LAST, NULL}, PLEAT_EINPUT, "no place");
    pleat_item cut = {seq, ids, 50, PLEAT_PROMPT, PLEAT_LOGITS_NONE, NULL};
    assert_int_equal(pleat_step(b.engine, &cut, 1, NULL), PLEAT_OK);
    expect(&b, cut, PLEAT_EINPUT, "multiple of 64");
    pleat_item twice[] = {cut, cut};
    assert_int_equal(pleat_step(b.engine, twice, 2, NULL), PLEAT_EINPUT);
    pleat_seq_close(seq);
    seq = bed_seq(&b, "f16");
    bed_prefill(&b, seq, ids, 200, NULL);
    expect(&b, (pleat_item){seq, ids, 2, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL}, PLEAT_EINPUT, "one at a time");
    expect(&b, (pleat_item){seq, ids, 57, PLEAT_PROMPT_END, PLEAT_LOGITS_NONE, NULL}, PLEAT_EFULL, "context of 256");
    for (int i = 0; i < 56; i++)
        bed_decode(&b, seq, ids[i], NULL);
    assert_int_equal(pleat_seq_room(seq), 0);
    expect(&b, (pleat_item){seq, ids, 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL}, PLEAT_EFULL, "context of 256");
    pleat_seq_close(seq);
    free(ids);
    bed_close(&b);
}

static void full_pool_changes_nothing(void **state) {
    (void)state;
    enum { PAGES = 2 * 2 * 2 }; /* layers x KV heads x sides */
    size_t page = 64 * 64 * 2;
    bed b = bed_open(tiny_default(), (pleat_engine_options){.n_threads = 1, .pool_bytes = 3 * PAGES * page});
    int32_t *ids = bed_tokens(&b, 300);
    float *before = malloc((size_t)b.n_vocab * sizeof(float)), *after = malloc((size_t)b.n_vocab * sizeof(float));
    pleat_seq *seq = bed_seq(&b, "f16"), *same = bed_seq(&b, "f16");
    pleat_error error = {""};
    bed_prefill(&b, seq, ids, 128, NULL);
    expect(&b, (pleat_item){seq, ids, 100, PLEAT_PROMPT_END, PLEAT_LOGITS_NONE, NULL}, PLEAT_EFULL, "KV pool");
    bed_decode(&b, seq, ids[128], after);
    assert_int_equal(pleat_prefill(b.engine, same, ids, 128, true, PLEAT_LOGITS_NONE, NULL, &error), PLEAT_EFULL);
    pleat_seq_close(seq);
    pleat_seq_close(same);
    same = bed_seq(&b, "f16");
    bed_prefill(&b, same, ids, 128, NULL);
    bed_decode(&b, same, ids[128], before);
    assert_memory_equal(before, after, (size_t)b.n_vocab * sizeof(float));
    pleat_seq_close(same);
    free(ids);
    free(before);
    free(after);
    bed_close(&b);
}

static void plans_are_upper_bounds(void **state) {
    (void)state;
    static const char *const specs[] = {"f16",
                                        "int8",
                                        "kivi-4",
                                        "kivi-2",
                                        "streaming-512",
                                        "h2o-512",
                                        "kivi-2+h2o-512",
                                        "int8+prefill:bounded",
                                        "h2o-512+prefill:bounded",
                                        "kivi:vseal=token,params=16+h2o:heavy=16,recent=100",
                                        "snapkv:keep=128+adakv+critical",
                                        "int8+snapkv:keep=128+pyramid+prefill:bounded",
                                        "expected:keep=128,every=64",
                                        "knorm:keep=128,skip=1+sinks:n=8",
                                        "rkv:keep=128+pin",
                                        "quest:budget=128,skip=0",
                                        "kivi-4+rocket:budget=128+layers:last=1,format=int8"};
    static const char *const archs[] = {"llama", "gemma3"};
    for (int a = 0; a < 2; a++) {
        tiny_options o = tiny_default();
        o.arch = archs[a];
        bed b = bed_open(o, (pleat_engine_options){.n_threads = 2});
        int32_t *ids = bed_tokens(&b, 1200);
        for (size_t i = 0; i < sizeof(specs) / sizeof(*specs); i++)
            for (int n = 100; n <= 1000; n += 450) {
                kv_method method;
                assert_int_equal(kv_method_parse(specs[i], &b.model->kv, &method, NULL), PLEAT_OK);
                pleat_seq *seq = bed_seq(&b, specs[i]);
                bed_prefill(&b, seq, ids, n, NULL);
                for (int t = 0; t < 200; t++)
                    bed_decode(&b, seq, ids[n + t], NULL);
                size_t peak = pleat_seq_describe(seq).kv_peak_bytes, plan = engine_plan_bytes(b.model, &method, n, 200);
                if (peak > plan || plan > 3 * peak + 64 * 8192)
                    fail_msg("%s, %d tokens: peak %zu, plan %zu", specs[i], n, peak, plan);
                pleat_seq_close(seq);
            }
        free(ids);
        bed_close(&b);
    }
}

/* ---- what policies ask of the engine ---- */

/* The columns that open_wo gives are those of the file's rows, for blocks longer than a head too. */
static void output_projection_is_opened_by_head(void **state) {
    (void)state;
    static const block_type types[] = {BLOCK_Q4_1, BLOCK_Q4_K, BLOCK_F16};
    for (int i = 0; i < 3; i++) {
        tiny_options o = tiny_default();
        o.type = types[i];
        bed b = bed_open(o, (pleat_engine_options){.n_threads = 1});
        int d = o.head_dim, width = o.n_head * d;
        const gguf_tensor *t = gguf_tensor_find(b.model->file, "blk.1.attn_output.weight");
        float *all = malloc((size_t)(o.n_embd * width) * sizeof(*all)),
              *wo = malloc((size_t)(o.n_embd * d) * sizeof(*wo));
        block_open(t->type, t->data, (int64_t)o.n_embd * width, all);
        for (int h = 0; h < o.n_head; h++) {
            b.model->kv.open_wo(b.model->kv.owner, 1, h, wo);
            for (int e = 0; e < o.n_embd; e++)
                assert_memory_equal(wo + e * d, all + e * width + h * d, (size_t)d * sizeof(*wo));
        }
        free(all);
        free(wo);
        bed_close(&b);
    }
}

/* RocketKV keeps less of a prompt when more is to come; marks reach the cache and a fork. */
static void expectations_and_pins_reach_the_policy(void **state) {
    (void)state;
    bed b = bed_open(tiny_default(), (pleat_engine_options){.n_threads = 1});
    int32_t *ids = bed_tokens(&b, 900);
    int64_t kept[2];
    for (int i = 0; i < 2; i++) {
        pleat_seq *seq = bed_seq(&b, "rocket:budget=128");
        assert_int_equal(pleat_seq_expect(seq, i ? 200 : 0, NULL), PLEAT_OK);
        bed_prefill(&b, seq, ids, 900, NULL);
        kept[i] = pleat_seq_describe(seq).kept_tokens_total / 4;
        pleat_seq_close(seq);
    }
    /* c = 900/128, alpha = .2 + .06 log2 c, capacity = floor(900 / c^alpha) = 438 */
    assert_int_equal(kept[0], 438);
    assert_int_equal(kept[1], 238);
    pleat_error error = {""};
    pleat_method *method;
    pleat_seq *src = bed_seq(&b, "snapkv:keep=64+pin"), *fork;
    assert_int_equal(pleat_seq_expect(src, -1, &error), PLEAT_EINPUT);
    assert_int_equal(pleat_seq_pin(src, 0, 0, &error), PLEAT_EINPUT);
    assert_int_equal(pleat_seq_pin(src, 200, 100, &error), PLEAT_OK);
    assert_int_equal(pleat_prefill(b.engine, src, ids, 900, false, PLEAT_LOGITS_NONE, NULL, NULL), PLEAT_OK);
    assert_int_equal(pleat_method_parse("snapkv:keep=64+pin", b.model, &method, NULL), PLEAT_OK);
    assert_int_equal(pleat_seq_fork(b.engine, src, method, &fork, &error), PLEAT_OK);
    assert_int_equal(engine_seq_end_prompt(b.engine, fork, &error), PLEAT_OK);
    assert_int_equal(pleat_seq_describe(fork).kept_tokens_total, 4 * (100 + 32));
    pleat_seq_close(fork);
    pleat_seq_close(src);
    pleat_method_free(method);
    free(ids);
    bed_close(&b);
}

/* ---- generation ---- */

static void answers_end_clearly(void **state) {
    (void)state;
    tiny_options o = tiny_default();
    o.context = 128;
    bed b = bed_open(o, (pleat_engine_options){.n_threads = 1});
    int32_t *ids = bed_tokens(&b, 100);
    float *logits = malloc((size_t)b.n_vocab * sizeof(*logits));
    static const char *const specs[] = {"f16", "h2o:heavy=8,recent=24", "streaming:sinks=4,recent=28"};
    for (int i = 0; i < 3; i++) {
        generate_options options = {.max_tokens = 500, .sampling = pleat_sampling_default(), .ignore_end = true};
        generate_stream s = {.seq = bed_seq(&b, specs[i]), .logits = logits};
        bed_prefill(&b, s.seq, ids, 100, logits);
        assert_int_equal(generate_run(b.engine, &s, 1, &options, NULL, NULL, NULL), PLEAT_OK);
        assert_string_equal(s.finish, "length");
        /* In-cache positions go on beyond the context; the others stop where it ends, with one token that is not in the
         * cache. */
        assert_int_equal(s.n_ids, i == 2 ? 500 : 29);
        assert_true(s.pending >= 0);
        pleat_seq_close(s.seq);
        free(s.history);
        text_free(&s.answer);
    }
    free(logits);
    free(ids);
    bed_close(&b);
}

static void a_batch_gives_each_its_own_answer(void **state) {
    (void)state;
    enum { N = 3 };
    bed b = bed_open(tiny_default(), (pleat_engine_options){.n_threads = 2});
    int32_t *ids = bed_tokens(&b, 200), *alone[N];
    generate_options options = {.max_tokens = 40,
                                .sampling = {.temperature = 1, .top_p = 0.9f, .repeat_penalty = 1.1f, .seed = 4}};
    generate_stream s[N];
    for (int round = 0; round < 2; round++) {
        memset(s, 0, sizeof(s));
        for (int i = 0; i < N; i++) {
            s[i].seq = bed_seq(&b, i == 1 ? "kivi:bits=2,residual=64" : "f16");
            s[i].logits = malloc((size_t)b.n_vocab * sizeof(float));
            bed_prefill(&b, s[i].seq, ids + i, 90 + 7 * i, s[i].logits);
            if (round == 0)
                assert_int_equal(generate_run(b.engine, &s[i], 1, &options, NULL, NULL, NULL), PLEAT_OK);
        }
        if (round == 1)
            assert_int_equal(generate_run(b.engine, s, N, &options, NULL, NULL, NULL), PLEAT_OK);
        for (int i = 0; i < N; i++) {
            if (round == 0)
                alone[i] = s[i].history;
            else
                assert_memory_equal(alone[i], s[i].history, (size_t)s[i].n_history * sizeof(int32_t));
            pleat_seq_close(s[i].seq);
            free(s[i].logits);
            text_free(&s[i].answer);
            if (round == 1) {
                free(alone[i]);
                free(s[i].history);
            }
        }
    }
    free(ids);
    bed_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_matches_the_reference),
        cmocka_unit_test(every_weight_type_matches_the_reference),
        cmocka_unit_test(head_shapes_match_the_reference),
        cmocka_unit_test(bits_do_not_depend_on_batch_cuts_or_threads),
        cmocka_unit_test(prefill_and_decode_give_the_same_bits),
        cmocka_unit_test(methods_that_do_not_act_are_f16),
        cmocka_unit_test(steps_refuse_what_they_cannot_do),
        cmocka_unit_test(full_pool_changes_nothing),
        cmocka_unit_test(plans_are_upper_bounds),
        cmocka_unit_test(output_projection_is_opened_by_head),
        cmocka_unit_test(expectations_and_pins_reach_the_policy),
        cmocka_unit_test(answers_end_clearly),
        cmocka_unit_test(a_batch_gives_each_its_own_answer),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
