/* test_levels.c - whole models at every level of this machine. A level is chosen once per process, so this program runs
 * itself under each PLEAT_CPU.
 *
 * With float weights nothing is rounded to few bits on the way, and logits agree between levels: 0.02 in the mean at
 * most. With quantised weights activations are rounded to 8 bits: where two levels differ in a float's last bit some
 * codes differ by one, later layers spread that, and in the end the levels have two draws of the same rounding noise.
 * So each level by itself is held against exact arithmetic, as tests/test_golden.c does for the best one. */
#include "cpu/kernels.h"
#include "engine/engine.h"
#include "measure/quality.h"
#include "support/env.h"
#include "support/tiny_model.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { N_PROMPT = 300 }; /* pages are sealed */
static const char *const methods[] = {"f16", "int8", "kivi-4"};
enum { N_METHODS = sizeof(methods) / sizeof(*methods) };

enum { LEVEL_BYTES = 24 };
static const char *self;

/* ---- in the child ---- */

static void write_logits(FILE *out, pleat_engine *engine, pleat_model *model, const int32_t *ids) {
    float *logits = malloc((size_t)model->n_vocab * sizeof(*logits));
    for (int m = 0; m < N_METHODS; m++) {
        pleat_method *method;
        pleat_seq *seq;
        if (pleat_method_parse(methods[m], model, &method, NULL) || pleat_seq_open(engine, method, &seq, NULL))
            exit(3);
        if (pleat_prefill(engine, seq, ids, N_PROMPT, true, PLEAT_LOGITS_LAST, logits, NULL))
            exit(3);
        pleat_item item = {seq, &ids[N_PROMPT], 1, PLEAT_DECODE, PLEAT_LOGITS_LAST, logits};
        if (pleat_step(engine, &item, 1, NULL))
            exit(3);
        fwrite(logits, sizeof(*logits), (size_t)model->n_vocab, out);
        pleat_seq_close(seq);
        pleat_method_free(method);
    }
    free(logits);
}

/* The perplexity of some windows, then each method's logits after a prompt and one decoded token, into the file. */
static int write_numbers(const char *model_path, const char *path, int window, int n_windows) {
    pleat_model *model;
    pleat_engine *engine;
    pleat_error error = {""};
    size_t n_bytes;
    char *text = env_data("shakespeare-40k.txt", &n_bytes);
    int32_t *ids;
    int n_ids;
    quality_result r;
    FILE *out = fopen(path, "wb");
    if (!out || pleat_model_open(model_path, 0, &model, &error) || pleat_engine_open(model, NULL, &engine, &error) ||
        pleat_tokenize(model, text, n_bytes, false, &ids, &n_ids, &error) ||
        quality_perplexity(engine, text, n_bytes, window, n_windows, &r, NULL, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 3;
    }
    char level[LEVEL_BYTES] = "";
    strncpy(level, pleat_engine_level(engine), sizeof(level) - 1);
    fwrite(level, sizeof(level), 1, out);
    fwrite(&r.perplexity, sizeof(r.perplexity), 1, out);
    write_logits(out, engine, model, ids);
    free(ids);
    free(text);
    pleat_engine_close(engine);
    pleat_model_close(model);
    return fclose(out) ? 3 : 0;
}

/* ---- in the parent ---- */

typedef struct numbers {
    double perplexity;
    float *logits; /* methods x vocabulary */
    size_t n;
} numbers;

static numbers numbers_at(const char *level, const char *model_path, int window, int n_windows) {
    char command[2000], path[600];
    snprintf(path, sizeof(path), "%s", env_temp("levels"));
    snprintf(command, sizeof(command), "PLEAT_CPU=%s '%s' --numbers '%s' '%s' %d %d", level, self, model_path, path,
             window, n_windows);
    int status = system(command);
    if (status != 0)
        fail_msg("under PLEAT_CPU=%s: status %d", level, status);
    numbers got = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    got.n = ((size_t)ftell(f) - LEVEL_BYTES - sizeof(double)) / sizeof(float);
    rewind(f);
    char ran[LEVEL_BYTES];
    assert_int_equal(fread(ran, sizeof(ran), 1, f), 1);
    assert_string_equal(ran, level);
    got.logits = malloc(got.n * sizeof(float));
    assert_int_equal(fread(&got.perplexity, sizeof(double), 1, f), 1);
    assert_int_equal(fread(got.logits, sizeof(float), got.n, f), got.n);
    fclose(f);
    return got;
}

static void compare(const char *level, const numbers *base, const numbers *got) {
    assert_int_equal(got->n, base->n);
    size_t n = got->n / N_METHODS;
    for (size_t m = 0; m < N_METHODS; m++) {
        double off = 0, size = 0;
        for (size_t i = m * n; i < (m + 1) * n; i++) {
            off += fabs((double)got->logits[i] - (double)base->logits[i]) / (double)n;
            size += fabs((double)base->logits[i]) / (double)n;
        }
        assert_true(size > 0.1);
        if (!(off <= 0.02))
            fail_msg("%s, %s: logits are off by %.4f in the mean", level, methods[m], off);
    }
    if (!(fabs(got->perplexity / base->perplexity - 1) <= 0.001))
        fail_msg("%s: perplexity %.5f, %.5f at the first level", level, got->perplexity, base->perplexity);
}

static void levels_agree_in_floats(void **state) {
    (void)state;
    char model_path[600];
    snprintf(model_path, sizeof(model_path), "%s", env_temp("levels-tiny"));
    tiny_options o = tiny_default();
    o.type = BLOCK_F32;
    tiny_write(model_path, &o);
    numbers base = {0};
    const char *const *names = cpu_level_names();
    int n_compared = 0;
    for (int l = 0; names[l]; l++) {
        if (!cpu_kernels_level(names[l]))
            continue;
        numbers got = numbers_at(names[l], model_path, 64, 4);
        if (!base.logits) {
            base = got;
            continue;
        }
        compare(names[l], &base, &got);
        free(got.logits);
        n_compared++;
    }
    free(base.logits);
    if (n_compared == 0)
        env_skip("this machine has the portable level alone");
}

/* The figure and the bound of tests/test_golden.c, which runs the best level; the portable one takes minutes. */
static void quantised_weights_cost_the_same_at_every_level(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("a real model at every level under sanitizers (minutes)");
    char model_path[1000];
    snprintf(model_path, sizeof(model_path), "%s", env_model("smollm2-135m"));
    const char *const *names = cpu_level_names();
    const cpu_kernels *best;
    assert_int_equal(cpu_kernels_get(&best, NULL), PLEAT_OK);
    for (int l = 0; names[l]; l++) {
        const cpu_kernels *table = cpu_kernels_level(names[l]);
        if (!table || table == best || (!strcmp(names[l], "portable") && !env_all()))
            continue;
        numbers got = numbers_at(names[l], model_path, 512, 20);
        free(got.logits);
        if (!(fabs(got.perplexity / 75.3190 - 1) < 0.003))
            fail_msg("%s: perplexity %.4f, in exact arithmetic 75.3190", names[l], got.perplexity);
    }
}

int main(int argc, char **argv) {
    if (argc == 6 && !strcmp(argv[1], "--numbers"))
        return write_numbers(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
    self = argv[0];
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_agree_in_floats),
                                       cmocka_unit_test(quantised_weights_cost_the_same_at_every_level)};
    return cmocka_run_group_tests_name("levels", tests, NULL, NULL);
}
