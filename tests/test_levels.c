/* test_levels.c - a real model's logits and perplexity at every level of this machine: between levels whole logits
 * differ by 0.02 in the mean at most, perplexity by 0.1 %. A level is chosen once per process, so this program runs
 * itself under each PLEAT_CPU; the first level of the list, the portable one, is what the others are held against. */
#include "cpu/kernels.h"
#include "engine/engine.h"
#include "measure/quality.h"
#include "support/env.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { N_PROMPT = 48, WINDOW = 128, WINDOWS = 2 };
static const char *const methods[] = {"f16", "int8", "kivi-4"};
enum { N_METHODS = sizeof(methods) / sizeof(*methods) };

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

/* The perplexity of two windows, then each method's logits after a prompt and one decoded token, into the file. */
static int write_numbers(const char *model_path, const char *path) {
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
        quality_perplexity(engine, text, n_bytes, WINDOW, WINDOWS, &r, NULL, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 3;
    }
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

static numbers numbers_at(const char *level, const char *model_path) {
    char command[2000], path[600];
    snprintf(path, sizeof(path), "%s", env_temp("levels"));
    snprintf(command, sizeof(command), "PLEAT_CPU=%s '%s' --numbers '%s' '%s'", level, self, model_path, path);
    int status = system(command);
    if (status != 0)
        fail_msg("under PLEAT_CPU=%s: status %d", level, status);
    numbers got = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    got.n = ((size_t)ftell(f) - sizeof(double)) / sizeof(float);
    rewind(f);
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
        double off = 0;
        for (size_t i = m * n; i < (m + 1) * n; i++)
            off += fabs((double)got->logits[i] - (double)base->logits[i]) / (double)n;
        print_message("%s, %s: logits off by %.5f in the mean\n", level, methods[m], off);
        if (!(off <= 0.02))
            fail_msg("%s, %s: logits are off by %.4f in the mean", level, methods[m], off);
    }
    print_message("%s: perplexity %.5f, %+.5f %%\n", level, got->perplexity,
                  100 * (got->perplexity / base->perplexity - 1));
    if (!(fabs(got->perplexity / base->perplexity - 1) <= 0.001))
        fail_msg("%s: perplexity %.5f, %.5f at the first level", level, got->perplexity, base->perplexity);
}

static void levels_agree(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("a real model at every level under sanitizers (minutes)");
    char model_path[1000];
    snprintf(model_path, sizeof(model_path), "%s", env_model("smollm2-135m"));
    numbers base = {0};
    const char *const *names = cpu_level_names();
    int n_compared = 0;
    for (int l = 0; names[l]; l++) {
        if (!cpu_kernels_level(names[l]))
            continue;
        numbers got = numbers_at(names[l], model_path);
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

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "--numbers"))
        return write_numbers(argv[2], argv[3]);
    self = argv[0];
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_agree)};
    return cmocka_run_group_tests_name("levels", tests, NULL, NULL);
}
