/* test_mapped.c - weights that stay in the mapped file (--repack off): the same bits as repacked ones, less memory, and
 * a switch that says what it does.
 *
 * Bits are compared at every level of this machine. A level is chosen once per process, so this program runs itself
 * under each PLEAT_CPU. */
#include "cpu/kernels.h"
#include "engine/engine.h"
#include "model/model.h"
#include "support/desk.h"
#include "support/env.h"
#include "support/serving.h"
#include "support/tiny_model.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static const block_type types[] = {BLOCK_F32,  BLOCK_F16,  BLOCK_BF16, BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q5_0,
                                   BLOCK_Q5_1, BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K};
enum { N_TYPES = sizeof(types) / sizeof(*types) };
static const char *self;

/* ---- bits ---- */

enum { N_PROMPT = 300, N_DECODED = 3, N_BATCH = 5 }; /* rows of a step: more than two blocks of a product, one, a few */

static void must(pleat_status status, const pleat_error *error) {
    if (!status)
        return;
    fprintf(stderr, "%s\n", error->text);
    exit(3);
}

static int32_t token_at(int i) {
    return (i * 71 + i * i % 13) % 250;
}

/* Logits of every token of a prompt, of some decoded ones, then of a batch of sequences that decode together. */
static float *logits_of(const pleat_model *model, int n_threads, size_t *n) {
    pleat_engine_options options = {.n_threads = n_threads, .pool_bytes = 64 << 20};
    pleat_error error;
    pleat_engine *engine;
    pleat_method *method;
    pleat_seq *seq[N_BATCH];
    pleat_item item[N_BATCH];
    int32_t ids[N_PROMPT];
    size_t n_vocab = (size_t)model->n_vocab;
    *n = (N_PROMPT + N_DECODED + N_BATCH) * n_vocab;
    float *logits = calloc(*n, sizeof(*logits)), *at = logits;
    must(pleat_engine_open(model, &options, &engine, &error), &error);
    must(pleat_method_parse("f16", model, &method, &error), &error);
    for (int i = 0; i < N_PROMPT; i++)
        ids[i] = token_at(i);
    for (int s = 0; s < N_BATCH; s++) {
        must(pleat_seq_open(engine, method, &seq[s], &error), &error);
        int n_ids = s ? 7 * s : N_PROMPT;
        must(pleat_prefill(engine, seq[s], ids, n_ids, true, s ? PLEAT_LOGITS_NONE : PLEAT_LOGITS_ALL, s ? NULL : at,
                           &error),
             &error);
    }
    at += N_PROMPT * n_vocab;
    for (int i = 0; i < N_DECODED; i++, at += n_vocab) {
        item[0] = (pleat_item){seq[0], &ids[i], 1, PLEAT_DECODE, PLEAT_LOGITS_LAST, at};
        must(pleat_step(engine, item, 1, &error), &error);
    }
    for (int s = 0; s < N_BATCH; s++, at += n_vocab)
        item[s] = (pleat_item){seq[s], &ids[s], 1, PLEAT_DECODE, PLEAT_LOGITS_LAST, at};
    must(pleat_step(engine, item, N_BATCH, &error), &error);
    for (int s = 0; s < N_BATCH; s++)
        pleat_seq_close(seq[s]);
    pleat_method_free(method);
    pleat_engine_close(engine);
    return logits;
}

static int compare(const char *path, const char *what) {
    static const int counts[] = {1, 3};
    pleat_model *packed, *mapped;
    pleat_error error;
    int n_bad = 0;
    must(pleat_model_open(path, 2, &packed, &error), &error);
    must(pleat_model_open_mapped(path, &mapped, &error), &error);
    if (packed->mapped || !mapped->mapped || !packed->head.data || mapped->head.data) {
        fprintf(stderr, "%s: which of the two is mapped?\n", what);
        n_bad++;
    }
    for (int t = env_sanitized(); t < 2; t++) {
        size_t n, n_mapped;
        float *a = logits_of(packed, counts[t], &n), *b = logits_of(mapped, counts[t], &n_mapped);
        if (n != n_mapped || memcmp(a, b, n * sizeof(*a))) {
            fprintf(stderr, "%s, %d threads: logits differ\n", what, counts[t]);
            n_bad++;
        }
        free(a);
        free(b);
    }
    pleat_model_close(packed);
    pleat_model_close(mapped);
    return n_bad;
}

/* In the child. gemma3: the output matrix is the embedding. */
static int compare_all(const char *path) {
    int n_bad = 0;
    for (int i = 0; i < N_TYPES; i++)
        for (int gemma = 0; gemma < 2; gemma++) {
            tiny_options o = tiny_default();
            if (env_sanitized() && (i + gemma) % 2) /* each type with one of the two */
                continue;
            o.type = types[i];
            o.arch = gemma ? "gemma3" : "qwen2";
            o.spm = gemma;
            o.n_layer = gemma ? 2 : 1;
            tiny_write(path, &o);
            n_bad += compare(path, block_traits_of(types[i])->name);
        }
    tiny_options o = tiny_default(); /* panels of which no more than two fit the scratch */
    o.type = BLOCK_F32;
    o.n_layer = 1;
    o.n_ff = 4096;
    tiny_write(path, &o);
    return n_bad + compare(path, "large panels");
}

static void logits_are_those_of_repacked_weights(void **state) {
    (void)state;
    const char *const *names = cpu_level_names();
    for (int l = 0; names[l]; l++) {
        char command[2000];
        if (!cpu_kernels_level(names[l]) || (env_sanitized() && !env_all() && l))
            continue;
        snprintf(command, sizeof(command), "PLEAT_CPU=%s '%s' --compare '%s'", names[l], self, env_temp("mapped-bits"));
        int status = system(command);
        if (status)
            fail_msg("under PLEAT_CPU=%s: status %d", names[l], status);
    }
}

static void a_real_model_has_the_same_bits(void **state) {
    (void)state;
    static const char *const real[] = {"smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"};
    if (env_sanitized())
        env_skip("a real model under sanitizers (minutes)");
    for (int i = 0; i < (env_all() ? 4 : 1); i++)
        assert_int_equal(compare(env_model(real[i]), real[i]), 0);
}

/* ---- memory ---- */

static size_t matrices_bytes(const pleat_model *m) {
    size_t bytes = 0;
    for (int i = 0; i < gguf_n_tensors(m->file); i++)
        if (gguf_tensor_at(m->file, i)->n_dims == 2)
            bytes += gguf_tensor_at(m->file, i)->bytes;
    return bytes;
}

static void a_model_says_where_its_weights_are(void **state) {
    (void)state;
    const char *path = env_temp("mapped-said");
    for (int gemma = 0; gemma < 2; gemma++) { /* tied: one tensor, counted once */
        tiny_options o = tiny_default();
        o.arch = gemma ? "gemma3" : "llama";
        tiny_write(path, &o);
        pleat_model *packed, *mapped;
        assert_int_equal(pleat_model_open(path, 1, &packed, NULL), PLEAT_OK);
        assert_int_equal(pleat_model_open_mapped(path, &mapped, NULL), PLEAT_OK);
        pleat_model_info a = pleat_model_describe(packed), b = pleat_model_describe(mapped);
        assert_int_equal(a.mapped_bytes, packed->embed->bytes);
        assert_int_equal(b.mapped_bytes, matrices_bytes(mapped));
        assert_true(b.packed_bytes < 32 << 10 && a.packed_bytes > matrices_bytes(packed) / 2);
        pleat_model_close(packed);
        pleat_model_close(mapped);
    }
}

/* A line of /proc/PID/status, in bytes. */
static size_t status_bytes(pid_t pid, const char *name) {
    char path[64], line[200];
    size_t kib = 0, n = strlen(name);
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        if (!strncmp(line, name, n) && line[n] == ':')
            kib = strtoul(line + n + 1, NULL, 10);
    fclose(f);
    assert_true(kib > 0);
    return kib << 10;
}

typedef struct resident {
    size_t anonymous, file;
} resident;

/* Of a server that has answered, so that every weight has been read. */
static resident resident_of(const char *model, const char *repack) {
    serving s = SERVING("-m", model, "--port", "0", "-t", "2", "--pool", "8MB", "--repack", repack);
    desk d = {.pid = s.program.pid, .port = s.port};
    json_decref(desk_ask(&d, "/v1/completions", "{\"prompt\":\"xyz\",\"max_tokens\":2}"));
    resident r = {status_bytes(d.pid, "RssAnon"), status_bytes(d.pid, "RssFile")};
    serving_stop(&s);
    return r;
}

static void mapped_weights_take_no_memory_of_the_process(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("sizes of a process under sanitizers are theirs");
    const char *path = env_temp("mapped-large");
    tiny_options o = tiny_default();
    o.type = BLOCK_F32;
    o.n_layer = 1;
    o.n_embd = 1024;
    o.n_ff = 4096;
    tiny_write(path, &o);
    pleat_model *m;
    assert_int_equal(pleat_model_open_mapped(path, &m, NULL), PLEAT_OK);
    size_t weights = matrices_bytes(m);
    pleat_model_close(m);
    resident on = resident_of(path, "on"), off = resident_of(path, "off");
    if (on.anonymous < off.anonymous + weights * 9 / 10)
        fail_msg("%zu anonymous bytes repacked, %zu mapped, of %zu of weights", on.anonymous, off.anonymous, weights);
    if (off.file < weights || off.file < on.file + weights / 2)
        fail_msg("%zu bytes of files repacked, %zu mapped, of %zu of weights", on.file, off.file, weights);
}

/* ---- the switch ---- */

static void every_command_takes_the_switch(void **state) {
    (void)state;
    static const char *const commands[] = {"run", "bench", "perplexity", "quality", "study", "serve"};
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        PROGRAM_REFUSES(2, "--repack is \"maybe\"; on or off is expected", commands[i], "--repack", "maybe");
        PROGRAM_REFUSES(2, "--repack", commands[i], "--repack");
        program_result r = PROGRAM(commands[i], "--help");
        const char *row = strstr(r.out, "--repack on|off");
        assert_true(row && strstr(row, "(default on)"));
        program_free(&r);
    }
    PROGRAM_REFUSES(2, "on or off", "inspect", "m.gguf", "--repack=yes");
}

static void a_command_answers_alike(void **state) {
    (void)state;
    char *said[2];
    for (int off = 0; off < 2; off++) {
        program_result r = PROGRAM("run", "-m", serving_model(), "-p", "the other", "-n", "20", "--temp", "1",
                                   "--repack", off ? "off" : "on");
        assert_int_equal(r.code, 0);
        said[off] = strdup(r.out);
        program_free(&r);
    }
    assert_string_equal(said[0], said[1]);
    free(said[0]);
    free(said[1]);
}

static json_int_t planned(const serving *s, const char *key) {
    return json_integer_value(json_object_get(json_object_get(s->said, "memory"), key));
}

/* The plan, from a configuration file; what each of them makes of it. */
static void a_server_plans_with_mapped_pages(void **state) {
    (void)state;
    static const struct {
        const char *words;
        bool off;
    } list[] = {{"pool = 64MB\n", false},       {"repack = off\n", true},      {"repack = false\n", true},
                {"repack = on\n", false},       {"{\"repack\": true}", false}, {"{\"repack\": false}", true},
                {"{\"repack\": \"off\"}", true}};
    json_int_t packed = 0, mapped = 0;
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        serving s = SERVING("-m", serving_model(), "--port", "0", "--pool", "64MB", "--config",
                            serving_file("mapped-config", list[i].words));
        json_int_t weights = planned(&s, "weights_bytes"), of_file = planned(&s, "mapped_bytes");
        assert_int_equal(planned(&s, "total_bytes"), weights + planned(&s, "pool_bytes") + planned(&s, "work_bytes"));
        if (i == 0)
            packed = of_file;
        if (i == 1)
            mapped = of_file;
        assert_int_equal(of_file, list[i].off ? mapped : packed);
        assert_true(list[i].off ? of_file > weights * 9 / 10 : of_file < weights / 2);
        serving_stop(&s);
    }
    assert_true(mapped > 2 * packed);
    PROGRAM_REFUSES(2, "on or off", "serve", "-m", serving_model(), "--config",
                    serving_file("mapped-config", "repack = maybe\n"));
}

static json_int_t run_of(const char *store, const char *file, const char *repack) {
    json_t *r = PROGRAM_JSON("quality", "-m", serving_model(), "-f", file, "--ctx", "128", "--scored", "16",
                             "--methods", "f16", "--store", store, "--repack", repack);
    json_int_t run = json_integer_value(json_object_get(r, "run"));
    json_decref(r);
    return run;
}

/* Speeds and sizes of the two are never joined into one run. */
static void runs_of_the_two_are_kept_apart(void **state) {
    (void)state;
    const char *store = env_temp("mapped.db");
    size_t n;
    char *words = env_data("shakespeare-40k.txt", &n);
    words[2000] = 0;
    const char *file = serving_file("mapped-text", words);
    json_int_t on = run_of(store, file, "on"), off = run_of(store, file, "off");
    assert_true(on > 0 && off > 0 && on != off);
    assert_int_equal(run_of(store, file, "off"), off);
    assert_int_equal(run_of(store, file, "on"), on);
    json_t *r = PROGRAM_JSON("bench", "-m", serving_model(), "--methods", "f16", "--batch", "1", "--prompt", "16",
                             "--repeats", "1", "--store", store, "--repack", "off");
    assert_string_equal(json_string_value(json_object_get(json_object_get(r, "machine"), "repack")), "off");
    json_decref(r);
    unlink(store);
    free(words);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--compare"))
        return compare_all(argv[2]) ? 3 : 0;
    self = argv[0];
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_repacked_weights),
        cmocka_unit_test(a_real_model_has_the_same_bits),
        cmocka_unit_test(a_model_says_where_its_weights_are),
        cmocka_unit_test(mapped_weights_take_no_memory_of_the_process),
        cmocka_unit_test(every_command_takes_the_switch),
        cmocka_unit_test(a_command_answers_alike),
        cmocka_unit_test(a_server_plans_with_mapped_pages),
        cmocka_unit_test(runs_of_the_two_are_kept_apart),
    };
    return cmocka_run_group_tests_name("mapped", tests, NULL, NULL);
}
