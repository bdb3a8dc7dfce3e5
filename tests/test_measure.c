/* test_measure.c - the measurements against direct computations on a tiny model: perplexity and KL, paired answers, the
 * throughput grid and its fills. */
#include "engine/engine.h"
#include "engine/generate.h"
#include "kv/method.h"
#include "measure/assets.h"
#include "measure/lengths.h"
#include "measure/needle.h"
#include "measure/quality.h"
#include "measure/throughput.h"
#include "support/env.h"
#include "support/tiny_model.h"
#include "text/chat.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

typedef struct bed {
    pleat_model *model;
    pleat_engine *engine;
    const char *path;
    int n_vocab;
} bed;

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        pleat_error error_ = {""}, *error = &error_;                                                                   \
        if (call)                                                                                                      \
            fail_msg("%s", error->text);                                                                               \
    } while (0)

#define REFUSED(call, expected, word)                                                                                  \
    do {                                                                                                               \
        pleat_error error_ = {""}, *error = &error_;                                                                   \
        assert_int_equal(call, expected);                                                                              \
        if (!strstr(error->text, word))                                                                                \
            fail_msg("\"%s\" does not say \"%s\"", error->text, word);                                                 \
    } while (0)

static bed open_long_bed(bool spm, size_t pool_bytes, int context) {
    bed b = {.path = env_temp("measure.gguf")};
    tiny_options o = tiny_default();
    o.spm = spm;
    o.context = context ? context : o.context;
    tiny_write(b.path, &o);
    pleat_engine_options options = {.n_threads = 2, .pool_bytes = pool_bytes};
    OK(pleat_model_open(b.path, 1, &b.model, error));
    OK(pleat_engine_open(b.model, &options, &b.engine, error));
    b.n_vocab = pleat_model_describe(b.model).n_vocab;
    return b;
}

static bed open_bed(bool spm, size_t pool_bytes) {
    return open_long_bed(spm, pool_bytes, 0);
}

static void close_bed(bed *b) {
    assert_int_equal(kv_pool_used_bytes(engine_pool(b->engine)), 0); /* no measurement leaves a page behind */
    pleat_engine_close(b->engine);
    pleat_model_close(b->model);
    unlink(b->path);
}

static measure_methods methods_of(const bed *b, const char *list) {
    measure_methods m = {.n = 0};
    OK(measure_methods_parse(list, b->model, &m, error));
    return m;
}

/* ---- the double reference ---- */

static double log_sum(const float *x, int n) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = (double)x[i] > max ? (double)x[i] : max;
    for (int i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

/* The ids of the text as the protocol cuts them: window w of ctx tokens. */
static int32_t *window_ids(const bed *b, const char *words, size_t n_bytes, int ctx, int w, int *n_windows) {
    int32_t *ids, *all;
    int n, bos = tokenizer_adds_bos(b->model->tok);
    OK(pleat_tokenize(b->model, words, n_bytes, false, &ids, &n, error));
    all = malloc((size_t)(n + 1) * sizeof(*all));
    all[0] = tokenizer_bos(b->model->tok);
    memcpy(all + bos, ids, (size_t)n * sizeof(*ids));
    free(ids);
    *n_windows = (n + bos) / ctx;
    memmove(all, all + w * ctx, (size_t)ctx * sizeof(*all));
    if (bos)
        all[0] = tokenizer_bos(b->model->tok);
    return all;
}

/* Logits of positions n_prompt to ctx - 2, decoded one by one behind a compressed prompt: [ctx - 1 -
 * n_prompt][n_vocab].
 */
static float *decode_logits(const bed *b, const pleat_method *method, const int32_t *ids, int n_prompt, int ctx,
                            size_t *kv_bytes) {
    int n = ctx - 1 - n_prompt;
    float *logits = malloc((size_t)n * (size_t)b->n_vocab * sizeof(*logits));
    pleat_seq *seq;
    OK(pleat_seq_open(b->engine, method, &seq, error));
    OK(pleat_prefill(b->engine, seq, ids, n_prompt, true, PLEAT_LOGITS_NONE, NULL, error));
    for (int i = 0; i < n; i++) {
        pleat_item item = {seq,          &ids[n_prompt + i], 1,
                           PLEAT_DECODE, PLEAT_LOGITS_LAST,  logits + (size_t)i * (size_t)b->n_vocab};
        OK(pleat_step(b->engine, &item, 1, error));
    }
    *kv_bytes = pleat_seq_describe(seq).kv_bytes;
    pleat_seq_close(seq);
    return logits;
}

/* ---- perplexity ---- */

static void check_plain(bool spm) {
    enum { CTX = 200 };
    bed b = open_bed(spm, 0);
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    n_bytes = 1500;
    quality_result got;
    int n_windows, n_scored = 0;
    double nll = 0, nll_squared = 0;
    OK(quality_perplexity(b.engine, words, n_bytes, CTX, 0, &got, NULL, error));
    for (int w = 0, n = 1; w < n; w++) {
        int32_t *ids = window_ids(&b, words, n_bytes, CTX, w, &n_windows);
        float *logits = malloc((size_t)CTX * (size_t)b.n_vocab * sizeof(*logits));
        measure_methods f16_alone = methods_of(&b, "f16");
        pleat_seq *seq;
        n = n_windows;
        OK(pleat_seq_open(b.engine, f16_alone.method[0], &seq, error));
        OK(pleat_prefill(b.engine, seq, ids, CTX, true, PLEAT_LOGITS_ALL, logits, error));
        for (int i = CTX / 2; i < CTX - 1; i++, n_scored++) {
            const float *row = logits + (size_t)i * (size_t)b.n_vocab;
            double x = log_sum(row, b.n_vocab) - (double)row[ids[i + 1]];
            nll += x;
            nll_squared += x * x;
        }
        pleat_seq_close(seq);
        measure_methods_free(&f16_alone);
        free(logits);
        free(ids);
    }
    double mean = nll / n_scored, variance = nll_squared / n_scored - mean * mean;
    assert_true(n_windows > 3);
    assert_int_equal(got.windows, n_windows);
    assert_int_equal(got.tokens, n_scored);
    assert_int_equal(n_scored, n_windows * (CTX / 2 - 1));
    assert_true(fabs(got.perplexity / exp(mean) - 1) < 1e-6);
    assert_true(fabs(got.error / (sqrt(variance / (n_scored - 1)) * exp(mean)) - 1) < 1e-4);
    OK(quality_perplexity(b.engine, words, n_bytes, CTX, 2, &got, NULL, error));
    assert_int_equal(got.windows, 2);
    close_bed(&b);
}

static void perplexity_follows_the_protocol(void **state) {
    (void)state;
    check_plain(false); /* a model that adds no BOS */
    check_plain(true);  /* one that does */
}

static void perplexity_refuses(void **state) {
    (void)state;
    bed b = open_bed(false, 0);
    quality_result got[8];
    REFUSED(quality_perplexity(b.engine, "short", 5, 512, 0, got, NULL, error), PLEAT_EINPUT, "fewer than one window");
    REFUSED(quality_perplexity(b.engine, "short", 5, 4096, 0, got, NULL, error), PLEAT_EINPUT, "window of 4096");
    REFUSED(quality_perplexity(b.engine, "short", 5, 4, 0, got, NULL, error), PLEAT_EINPUT, "window of 4 tokens");
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    measure_methods m = methods_of(&b, "streaming:sinks=4,recent=252");
    REFUSED(quality_methods(b.engine, &m, words, n_bytes, 512, 1, got, NULL, error), PLEAT_EINPUT, "say nothing");
    REFUSED(quality_methods(b.engine, &m, words, n_bytes, 510, 1, got, NULL, error), PLEAT_EINPUT, "say nothing");
    OK(quality_methods(b.engine, &m, words, n_bytes, 514, 1, got, NULL, error));
    measure_methods_free(&m);
    m = methods_of(&b, "simlayer:threshold=0,initial=4,recent=252");
    REFUSED(quality_methods(b.engine, &m, words, n_bytes, 512, 1, got, NULL, error), PLEAT_EINPUT, "say nothing");
    OK(quality_methods(b.engine, &m, words, n_bytes, 514, 1, got, NULL, error));
    assert_true(got[1].kept_share < 1); /* it acts, if only just */
    measure_methods_free(&m);
    for (int i = 1; kv_policies[i]; i++) { /* with its defaults, far too many for a window of 16: each but `all` */
        m = methods_of(&b, kv_policies[i]->name);
        REFUSED(quality_methods(b.engine, &m, words, n_bytes, 16, 1, got, NULL, error), PLEAT_EINPUT, "say nothing");
        measure_methods_free(&m);
    }
    m = methods_of(&b, "kivi-4+prefill:bounded");
    REFUSED(quality_methods(b.engine, &m, words, n_bytes, 512, 1, got, NULL, error), PLEAT_EINPUT, "inside the prompt");
    measure_methods_free(&m);
    close_bed(&b);
}

/* ---- methods side by side ---- */

static void f16_beside_f16_differs_by_nothing(void **state) {
    (void)state;
    bed b = open_bed(false, 0);
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    measure_methods m = methods_of(&b, "f16+all,f16+even");
    quality_result got[3], plain;
    assert_int_equal(m.n, 3);
    OK(quality_methods(b.engine, &m, words, n_bytes, 256, 2, got, NULL, error));
    OK(quality_perplexity(b.engine, words, n_bytes, 256, 2, &plain, NULL, error));
    for (int i = 0; i < 3; i++) {
        assert_true(got[i].kl_mean == 0 && got[i].kl_p99 == 0 && got[i].top1_agreement == 1);
        assert_true(got[i].kept_share == 1);
        assert_int_equal(got[i].tokens, plain.tokens);
        /* decode gives prefill's bits; only the stored -log p is rounded to float */
        assert_true(fabs(got[i].perplexity / plain.perplexity - 1) < 1e-6);
        assert_true(fabs(got[i].error / plain.error - 1) < 1e-4);
    }
    measure_methods_free(&m);
    close_bed(&b);
}

static void check_window(const bed *b, const measure_methods *m, const store_window *got, const char *words,
                         size_t n_bytes, int n_prompt, int ctx, int window) {
    int n_windows, n = ctx - 1 - n_prompt;
    size_t kv_bytes;
    int32_t *ids = window_ids(b, words, n_bytes, ctx, window, &n_windows);
    float *base = decode_logits(b, m->method[0], ids, n_prompt, ctx, &kv_bytes);
    for (int k = 0; k < m->n; k++) {
        float *logits = decode_logits(b, m->method[k], ids, n_prompt, ctx, &kv_bytes);
        int same = 0;
        assert_int_equal(got[k].n, n);
        assert_int_equal(got[k].window, window);
        for (int i = 0; i < n; i++) {
            const float *p = base + (size_t)i * (size_t)b->n_vocab, *q = logits + (size_t)i * (size_t)b->n_vocab;
            double p_sum = log_sum(p, b->n_vocab), q_sum = log_sum(q, b->n_vocab), kl = 0;
            int p_best = 0, q_best = 0;
            for (int v = 0; v < b->n_vocab; v++) {
                kl += exp((double)p[v] - p_sum) * (((double)p[v] - p_sum) - ((double)q[v] - q_sum));
                p_best = p[v] > p[p_best] ? v : p_best;
                q_best = q[v] > q[q_best] ? v : q_best;
            }
            same += p_best == q_best;
            assert_true(fabs((double)got[k].nll[i] - (q_sum - (double)q[ids[n_prompt + i + 1]])) < 1e-5);
            assert_true(fabs((double)got[k].kl[i] - kl) < 1e-6 + 1e-4 * kl);
        }
        assert_int_equal(got[k].same_best, same);
        assert_int_equal(got[k].kv_bytes, kv_bytes);
        assert_true(got[k].kv_peak_bytes >= pleat_model_describe(b->model).f16_token_bytes * (size_t)n_prompt);
        free(logits);
    }
    free(base);
    free(ids);
}

static void methods_are_what_each_gives_alone(void **state) {
    (void)state;
    enum { CTX = 288 };
    bed b = open_bed(true, 0);
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    measure_methods m =
        methods_of(&b, "kivi:bits=2,residual=64,int8,h2o:heavy=4,recent=60,streaming:sinks=4,recent=60");
    store_window got[2][8];
    quality_text *t;
    quality_result all[8];
    int n_windows;
    assert_int_equal(m.n, 5);
    OK(quality_text_open(b.model, &m, words, n_bytes, CTX, 0, 2, &t, &n_windows, error));
    assert_int_equal(n_windows, 2);
    for (int w = 0; w < 2; w++) {
        OK(quality_window_measure(b.engine, &m, t, w, got[w], NULL, error));
        check_window(&b, &m, got[w], words, n_bytes, CTX / 2, CTX, w);
    }
    OK(quality_methods(b.engine, &m, words, n_bytes, CTX, 2, all, NULL, error));
    for (int i = 0; i < m.n; i++) { /* joined: plain sums over both windows */
        const store_window both[2] = {got[0][i], got[1][i]};
        quality_result joined;
        double nll = 0, kl = 0, most = 0;
        int n = 0, above = 0;
        OK(quality_join(both, 2, &joined, error));
        for (int w = 0; w < 2; w++)
            for (int k = 0; k < both[w].n; k++, n++) {
                nll += (double)both[w].nll[k];
                kl += (double)both[w].kl[k];
                most = (double)both[w].kl[k] > most ? (double)both[w].kl[k] : most;
                above += (double)both[w].kl[k] > joined.kl_p99;
            }
        assert_memory_equal(&joined, &all[i], sizeof(joined));
        assert_int_equal(joined.tokens, n);
        assert_true(fabs(joined.perplexity / exp(nll / n) - 1) < 1e-9);
        assert_true(fabs(joined.kl_mean - kl / n) < 1e-12);
        assert_true(joined.kl_p99 <= most && above <= n / 100);
        assert_true(i == 0 ? joined.kl_mean == 0 : joined.kl_mean > 0);
        bool evicts = !strncmp(m.label[i], "h2o", 3) || !strncmp(m.label[i], "streaming", 9);
        assert_true(evicts ? joined.kept_share < 0.3 : joined.kept_share == 1);
        for (int w = 0; w < 2; w++)
            quality_window_free(&got[w][i]);
    }
    quality_text_close(t);
    measure_methods_free(&m);
    close_bed(&b);
}

static void fewer_positions_are_scored_behind_a_longer_prompt(void **state) {
    (void)state;
    enum { CTX = 288, SCORED = 40 };
    bed b = open_bed(true, 0);
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    measure_methods m = methods_of(&b, "kivi:bits=2,residual=64,h2o:heavy=4,recent=60");
    store_window got[8];
    quality_text *t;
    int n_windows;
    REFUSED(quality_text_open(b.model, &m, words, n_bytes, CTX, CTX / 2, 1, &t, &n_windows, error), PLEAT_EINPUT,
            "144 scored positions");
    OK(quality_text_open(b.model, &m, words, n_bytes, CTX, SCORED, 1, &t, &n_windows, error));
    OK(quality_window_measure(b.engine, &m, t, 0, got, NULL, error));
    check_window(&b, &m, got, words, n_bytes, CTX - 1 - SCORED, CTX, 0);
    for (int i = 0; i < m.n; i++)
        quality_window_free(&got[i]);
    quality_text_close(t);
    measure_methods_free(&m);
    close_bed(&b);
}

/* ---- needles ---- */

/* The answer of one method to a whole prompt of its own. */
static char *text_alone(const bed *b, const pleat_method *method, const char *prompt, size_t n_bytes, int max_tokens) {
    int32_t *ids;
    int n;
    generate_stream s = {.logits = malloc((size_t)b->n_vocab * sizeof(float))};
    generate_options o = {.max_tokens = max_tokens, .sampling = pleat_sampling_default()};
    chat_message message = {"user", prompt, n_bytes};
    OK(chat_encode(b->model->tok, b->model->file, CHAT_CHATML, &message, 1, 0, &ids, &n, error));
    OK(pleat_seq_open(b->engine, method, &s.seq, error));
    OK(pleat_seq_expect(s.seq, max_tokens, error));
    OK(pleat_prefill(b->engine, s.seq, ids, n, true, PLEAT_LOGITS_LAST, s.logits, error));
    s.history = ids;
    s.n_history = s.cap_history = n;
    OK(generate_run(b->engine, &s, 1, &o, NULL, NULL, error));
    pleat_seq_close(s.seq);
    free(s.history);
    free(s.logits);
    return s.answer.bytes;
}

static void needles_are_asked_as_in_prompts_of_their_own(void **state) {
    (void)state;
    enum { N = 1400, ROUND = 1 };
    bed b = open_long_bed(false, 0, 2048);
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    measure_methods m = methods_of(&b, "kivi:bits=2,residual=64,snapkv:keep=100,h2o:heavy=20,recent=80");
    store_answer answers[NEEDLE_DEPTHS * 4];
    bool found[NEEDLE_DEPTHS * 4];
    needle *n;
    double before = 0;
    OK(needle_open(b.model, words, n_bytes, N, ROUND, &n, error));
    OK(needle_measure(b.engine, &m, n, answers, found, NULL, error));
    assert_string_equal(answers[0].data_set, "needle-1400");
    for (int i = 0; i < NEEDLE_DEPTHS; i++) {
        text prompt = {0};
        needle_prompt(n, i, &prompt);
        char told[60], *at = strstr(prompt.bytes, needle_fact(n, i, told, sizeof(told)));
        assert_non_null(at); /* where it should lie, give or take the frame and a line */
        double depth = (double)(at - prompt.bytes) / (double)prompt.n;
        assert_true(fabs(depth - needle_depth_percent(i) / 100.0) < 0.3);
        assert_true(i == 0 || (depth > before && depth < before + 0.3));
        before = depth;
        for (int k = 0; k < m.n; k++) {
            const store_answer *a = &answers[i * m.n + k];
            char *alone = text_alone(&b, m.method[k], prompt.bytes, prompt.n, 16);
            if (strcmp(a->text ? a->text : "", alone ? alone : ""))
                fail_msg("%s, question %d: \"%s\" is not \"%s\"", a->label, i, a->text, alone);
            int n_tokens, round, percent;
            assert_true(needle_of(a->data_set, a->sample, &n_tokens, &round, &percent));
            assert_true(n_tokens == N && round == ROUND && percent == needle_depth_percent(i));
            assert_string_equal(a->label, m.label[k]);
            assert_true(a->prompt_tokens <= N - 16 && a->prompt_tokens > N - 200);
            free(alone);
            free((char *)a->text);
        }
        text_free(&prompt);
    }
    needle_close(n);
    REFUSED(needle_open(b.model, words, n_bytes, 4096, 0, &n, error), PLEAT_EINPUT, "context has 2048");
    REFUSED(needle_open(b.model, words, n_bytes, 600, 0, &n, error), PLEAT_EINPUT, "at least");
    REFUSED(needle_open(b.model, words, 3000, N, 9, &n, error), PLEAT_EINPUT, "too few tokens");
    measure_methods_free(&m);
    close_bed(&b);
}

static void needles_are_found_by_those_who_keep_them(void **state) {
    (void)state;
    bed b = {.path = env_model("smollm2-135m")};
    if (env_sanitized())
        env_skip("a prompt of 1,000 tokens takes too long under sanitizers");
    size_t n_bytes;
    const char *words = assets_text(&n_bytes);
    pleat_engine_options options = {.n_threads = 2};
    OK(pleat_model_open(b.path, 2, &b.model, error));
    OK(pleat_engine_open(b.model, &options, &b.engine, error));
    measure_methods m = methods_of(&b, "int8,streaming:sinks=4,recent=100");
    store_answer answers[NEEDLE_DEPTHS * 3];
    bool found[NEEDLE_DEPTHS * 3];
    int n_found[3] = {0};
    needle *n;
    OK(needle_open(b.model, words, n_bytes, 1024, 0, &n, error));
    OK(needle_measure(b.engine, &m, n, answers, found, NULL, error));
    for (int i = 0; i < NEEDLE_DEPTHS * m.n; i++) {
        n_found[i % m.n] += found[i];
        free((char *)answers[i].text);
    }
    assert_true(n_found[0] > 0); /* a small model mixes cities up, but not always */
    assert_int_equal(n_found[1], n_found[0]);
    assert_int_equal(n_found[2], 0);
    needle_close(n);
    measure_methods_free(&m);
    pleat_engine_close(b.engine);
    pleat_model_close(b.model);
}

/* ---- lists of methods ---- */

static void all_methods_are_the_presets(void **state) {
    (void)state;
    bed b = open_bed(false, 0);
    measure_methods m = methods_of(&b, "all");
    int n = 0;
    for (; kv_presets[n].name; n++)
        assert_string_equal(m.label[n], kv_presets[n].name);
    assert_int_equal(m.n, n);
    measure_methods_free(&m);
    close_bed(&b);
}

static void lists_of_methods_are_cut_at_specs(void **state) {
    (void)state;
    bed b = open_bed(false, 0);
    static const char *const expected[] = {"f16", "kivi:bits=2,group=32,residual=64", "int8",
                                           "k=int8,v=kivi(bits=4,group=32)", "streaming-512"};
    measure_methods m =
        methods_of(&b, "kivi:bits=2,group=32,residual=64,int8,k=int8,v=kivi(bits=4,group=32);streaming-512,int8");
    assert_int_equal(m.n, 5);
    for (int i = 0; i < 5; i++)
        assert_string_equal(m.label[i], expected[i]);
    measure_methods_free(&m);
    REFUSED(measure_methods_parse("int8,nosuch", b.model, &m, error), PLEAT_EINPUT, "nosuch");
    REFUSED(measure_methods_parse("int8,", b.model, &m, error), PLEAT_EINPUT, "");
    close_bed(&b);
}

/* ---- answers ---- */

static void prompts_are_read(void **state) {
    (void)state;
    lengths_prompts p;
    const char good[] = "{\"id\": \"a\", \"class\": \"k\", \"prompt\": \"One\"}\r\n\n  \n{\"prompt\": \"T\\u00e4o\"}";
    OK(lengths_read("f.jsonl", good, sizeof(good) - 1, &p, error));
    assert_int_equal(p.n, 2);
    assert_string_equal(p.prompt[0].id, "a");
    assert_string_equal(p.prompt[0].klass, "k");
    assert_string_equal(p.prompt[1].id, "line-4");
    assert_string_equal(p.prompt[1].text, "T\xc3\xa4o");
    lengths_free(&p);
    static const char *const bad[][2] = {
        {"{\"prompt\": \"x\"}\n{\"prompt\": 3}\n", "line 2 has no text"},
        {"{\"prompt\": \"x\"}\n{\"prompt\": \n", "line 2"},
        {"{\"prompt\": \"\"}", "line 1 has no text"},
        {"[1]", "line 1"},
        {"\n\n", "holds no prompts"},
        {"{\"id\":\"a\",\"prompt\":\"x\"}\n{\"id\":\"a\",\"prompt\":\"y\"}", "stands there twice"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        REFUSED(lengths_read("f.jsonl", bad[i][0], strlen(bad[i][0]), &p, error), PLEAT_EINPUT, bad[i][1]);
        REFUSED(lengths_read("f.jsonl", bad[i][0], strlen(bad[i][0]), &p, error), PLEAT_EINPUT, "f.jsonl");
    }
    size_t n;
    const char *own = assets_prompts(&n);
    OK(lengths_read("own", own, n, &p, error));
    assert_true(p.n >= 24);
    lengths_free(&p);
}

/* One answer of one method alone: the ids of the answer, malloc'ed. */
static int32_t *answer_alone(const bed *b, const pleat_method *method, const int32_t *ids, int n_ids, int most,
                             int *n_out) {
    generate_options options = {.max_tokens = most, .sampling = pleat_sampling_default()};
    generate_stream s = {.logits = malloc((size_t)b->n_vocab * sizeof(float)),
                         .history = malloc((size_t)n_ids * sizeof(*ids)),
                         .n_history = n_ids,
                         .cap_history = n_ids};
    memcpy(s.history, ids, (size_t)n_ids * sizeof(*ids));
    OK(pleat_seq_open(b->engine, method, &s.seq, error));
    OK(pleat_prefill(b->engine, s.seq, ids, n_ids, true, PLEAT_LOGITS_LAST, s.logits, error));
    OK(generate_run(b->engine, &s, 1, &options, NULL, NULL, error));
    pleat_seq_close(s.seq);
    memmove(s.history, s.history + n_ids, (size_t)s.n_ids * sizeof(*ids));
    *n_out = s.n_ids;
    free(s.logits);
    text_free(&s.answer);
    return s.history;
}

/* Answers measured side by side are those of every method alone on the prompt in its chat format. */
static void answers_are_what_each_gives_alone(void **state) {
    (void)state;
    enum { MOST = 60 };
    bed b = open_bed(false, 0);
    measure_methods m = methods_of(&b, "kivi:bits=2,group=32,residual=64;streaming:sinks=4,recent=28;streaming-512");
    char question[200], chat[300];
    memset(question, 'q', sizeof(question));
    memcpy(question, "the thing ", 10);
    question[150] = 0;
    lengths_prompt prompt = {(char *)"p", (char *)"k", question};
    store_answer got[8];
    int32_t *ids, *base = NULL;
    int n_ids, n_base = 0;
    OK(lengths_measure(b.engine, &m, "set", &prompt, MOST, got, error));
    snprintf(chat, sizeof(chat), "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n", question);
    OK(pleat_tokenize(b.model, chat, strlen(chat), true, &ids, &n_ids, error));
    for (int i = 0; i < m.n; i++) {
        int n, agree = 0;
        int32_t *alone = answer_alone(&b, m.method[i], ids, n_ids, MOST, &n);
        if (i == 0) {
            base = alone;
            n_base = n;
        }
        while (agree < n && agree < n_base && alone[agree] == base[agree])
            agree++;
        assert_string_equal(got[i].label, m.label[i]);
        assert_string_equal(got[i].sample, "p");
        assert_int_equal(got[i].prompt_tokens, n_ids);
        assert_int_equal(got[i].n_tokens, n);
        assert_int_equal(got[i].agree_tokens, agree);
        assert_string_equal(got[i].finish, n == MOST ? "length" : "stop");
        assert_true(got[i].kv_bytes > 0 && got[i].ttft_ms > 0);
        assert_int_equal(got[i].acted, i == 1 || i == 2); /* streaming-512 is never reached, f16 never acts */
        if (i)
            free(alone);
        free((char *)got[i].text);
    }
    assert_true(n_base > 5);
    free(base);
    free(ids);
    char *long_text = malloc(5000);
    memset(long_text, 'x', 4999);
    long_text[4999] = 0;
    prompt.text = long_text;
    REFUSED(lengths_measure(b.engine, &m, "set", &prompt, MOST, got, error), PLEAT_EFULL, "context");
    free(long_text);
    measure_methods_free(&m);
    close_bed(&b);
}

/* ---- the throughput grid ---- */

typedef struct record { /* what a sink was told: the latest of every point */
    store_points points;
    int n_repeats; /* cells that were measured, in all */
} record;

static pleat_status keep(void *context, const store_point *points, int n_points, pleat_error *error) {
    record *r = context;
    (void)error;
    r->n_repeats += points[0].error == NULL;
    for (int i = 0; i < n_points; i++) {
        int k = 0;
        while (k < r->points.n &&
               !(r->points.point[k].batch == points[i].batch &&
                 r->points.point[k].prompt_tokens == points[i].prompt_tokens &&
                 r->points.point[k].filled == points[i].filled && !strcmp(r->points.point[k].label, points[i].label) &&
                 !strcmp(r->points.point[k].stage, points[i].stage)))
            k++;
        if (k == r->points.n)
            r->points.point = realloc(r->points.point, (size_t)(++r->points.n) * sizeof(store_point));
        else
            free((char *)r->points.point[k].error);
        r->points.point[k] = points[i];
        r->points.point[k].error = points[i].error ? strdup(points[i].error) : NULL;
    }
    return PLEAT_OK;
}

static void drop(record *r) {
    for (int i = 0; i < r->points.n; i++)
        free((char *)r->points.point[i].error);
    free(r->points.point);
    *r = (record){.n_repeats = 0};
}

static const store_point *point_of(const record *r, const char *label, int batch, int prompt, const char *stage,
                                   bool filled) {
    for (int i = 0; i < r->points.n; i++) {
        const store_point *p = &r->points.point[i];
        if (p->batch == batch && p->prompt_tokens == prompt && p->filled == filled && !strcmp(p->label, label) &&
            !strcmp(p->stage, stage))
            return p;
    }
    return NULL;
}

static void the_grid_is_complete_and_resumes(void **state) {
    (void)state;
    bed b = open_bed(false, 0);
    measure_methods m = methods_of(&b, "kivi-4");
    throughput_grid grid = {
        .methods = &m, .batch = {2, 1}, .n_batch = 2, .prompt = {100, 256}, .n_prompt = 2, .repeats = 2};
    record r = {.n_repeats = 0};
    OK(throughput_run(b.engine, &grid, NULL, keep, &r, NULL, error));
    assert_int_equal(r.points.n, 2 * 2 * 2 * 2);
    assert_int_equal(r.n_repeats, 2 * 2 * 2 * 2);
    for (int i = 0; i < r.points.n; i++) {
        const store_point *p = &r.points.point[i];
        double low = p->rate[0] < p->rate[1] ? p->rate[0] : p->rate[1], high = p->rate[0] + p->rate[1] - low;
        assert_int_equal(p->n_repeats, 2);
        assert_true(low > 0 && p->median == (low + high) / 2);
        assert_true(fabs(p->spread - (high - low) / p->median) < 1e-12);
        assert_true(p->kv_bytes > 0 && p->kv_peak_bytes >= p->kv_bytes);
    }
    /* two sequences hold twice the bytes of one; a page of 64 tokens, K and V, 2 lanes, 2 layers: 320 tokens */
    const store_point *one = point_of(&r, "f16", 1, 256, "decode", false),
                      *two = point_of(&r, "f16", 2, 256, "decode", false);
    assert_int_equal(one->kv_bytes, 5 * 64 * 64 * 2 * 2 * 2 * 2);
    assert_int_equal(two->kv_bytes, 2 * one->kv_bytes);
    assert_true(point_of(&r, "kivi-4", 1, 256, "decode", false)->kv_bytes < one->kv_bytes);
    /* nothing is measured again; one repeat more is measured once */
    store_points known = r.points;
    record more = {.n_repeats = 0};
    assert_true(throughput_cost(&grid, &known) == 0);
    OK(throughput_run(b.engine, &grid, &known, keep, &more, NULL, error));
    assert_int_equal(more.n_repeats, 0);
    known.point[3].n_repeats = known.point[2].n_repeats = 1; /* the two stages of a cell */
    assert_true(throughput_cost(&grid, &known) > 0);
    OK(throughput_run(b.engine, &grid, &known, keep, &more, NULL, error));
    assert_int_equal(more.n_repeats, 1);
    assert_int_equal(more.points.n, 2);
    assert_int_equal(more.points.point[1].n_repeats, 2);
    assert_true(more.points.point[1].rate[0] == known.point[3].rate[0]);
    drop(&more);
    drop(&r);
    measure_methods_free(&m);
    close_bed(&b);
}

static void a_point_that_does_not_fit_is_told_and_the_grid_goes_on(void **state) {
    (void)state;
    bed b = open_bed(false, 3 << 20);
    measure_methods m = methods_of(&b, "kivi-4");
    throughput_grid grid = {
        .methods = &m, .batch = {1, 8}, .n_batch = 2, .prompt = {512, 128, 2000}, .n_prompt = 3, .repeats = 1};
    record r = {.n_repeats = 0};
    OK(throughput_run(b.engine, &grid, NULL, keep, &r, NULL, error));
    assert_int_equal(r.points.n, 2 * 3 * 2 * 2); /* every point is there */
    for (int stage = 0; stage < 2; stage++) {
        const char *name = stage ? "decode" : "prefill";
        const store_point *small = point_of(&r, "f16", 1, 128, name, false);
        const store_point *large = point_of(&r, "f16", 8, 512, name, false);
        const store_point *beyond = point_of(&r, "kivi-4", 1, 2000, name, false);
        assert_null(small->error);
        assert_true(small->median > 0);
        assert_non_null(strstr(large->error, "bytes"));
        assert_true(large->bytes_needed > (3 << 20) && large->n_repeats == 0);
        assert_non_null(strstr(beyond->error, "context of 2048"));
        assert_true(beyond->bytes_needed > 0);
    }
    /* with room it is measured after all */
    bed wide = open_bed(false, 0);
    record again = {.n_repeats = 0};
    grid.n_prompt = 1;
    OK(throughput_run(wide.engine, &grid, &r.points, keep, &again, NULL, error));
    assert_null(point_of(&again, "f16", 8, 512, "decode", false)->error);
    drop(&again);
    drop(&r);
    close_bed(&wide);
    measure_methods_free(&m);
    close_bed(&b);
}

/* A filled cache has the bytes of one that was computed, and so it decodes in the same time; the grid measures both
 * side by side at the longest prompt that it really prefills. */
static void fills_stand_in_for_prompts(void **state) {
    (void)state;
    bed b = open_bed(false, 0);
    measure_methods m = methods_of(&b, "kivi-4,streaming-512,h2o-512");
    throughput_grid grid = {.methods = &m,
                            .batch = {2, 1},
                            .n_batch = 2,
                            .prompt = {64, 576, 640},
                            .n_prompt = 3,
                            .repeats = 1,
                            .fill_tokens = 640};
    record r = {.n_repeats = 0};
    OK(throughput_run(b.engine, &grid, NULL, keep, &r, NULL, error));
    for (int i = 0; i < m.n; i++) {
        const store_point *filled = point_of(&r, m.label[i], 1, 576, "decode", true),
                          *real = point_of(&r, m.label[i], 1, 576, "decode", false);
        assert_non_null(filled);
        assert_non_null(real);
        assert_int_equal(filled->kv_bytes, real->kv_bytes);
        assert_null(point_of(&r, m.label[i], 2, 576, "decode", true)); /* at the smallest batch only */
        assert_null(point_of(&r, m.label[i], 1, 64, "decode", true));
        assert_non_null(point_of(&r, m.label[i], 2, 640, "decode", true)); /* long ones are filled, never prefilled */
        assert_null(point_of(&r, m.label[i], 2, 640, "decode", false));
        assert_null(point_of(&r, m.label[i], 2, 640, "prefill", true));
    }
    drop(&r);
    measure_methods_free(&m);
    close_bed(&b);
}

static void sizes_are_taken_once(void **state) {
    (void)state;
    int list[THROUGHPUT_MOST_SIZES], n = 0;
    for (int i = 0; i < 100; i++)
        throughput_add_size(list, &n, 1 + i % 50);
    assert_int_equal(n, THROUGHPUT_MOST_SIZES);
    for (int i = 0; i < n; i++)
        assert_int_equal(list[i], 1 + i);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perplexity_follows_the_protocol),
        cmocka_unit_test(perplexity_refuses),
        cmocka_unit_test(f16_beside_f16_differs_by_nothing),
        cmocka_unit_test(methods_are_what_each_gives_alone),
        cmocka_unit_test(fewer_positions_are_scored_behind_a_longer_prompt),
        cmocka_unit_test(needles_are_asked_as_in_prompts_of_their_own),
        cmocka_unit_test(needles_are_found_by_those_who_keep_them),
        cmocka_unit_test(lists_of_methods_are_cut_at_specs),
        cmocka_unit_test(all_methods_are_the_presets),
        cmocka_unit_test(prompts_are_read),
        cmocka_unit_test(answers_are_what_each_gives_alone),
        cmocka_unit_test(the_grid_is_complete_and_resumes),
        cmocka_unit_test(a_point_that_does_not_fit_is_told_and_the_grid_goes_on),
        cmocka_unit_test(fills_stand_in_for_prompts),
        cmocka_unit_test(sizes_are_taken_once),
    };
    return cmocka_run_group_tests_name("measure", tests, NULL, NULL);
}
