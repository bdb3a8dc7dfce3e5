/* test_study.c - a study that is killed at any moment goes on: in the end it holds the points of one that was never
 * stopped, nothing was lost and nothing measured twice. */
#include "base/rng.h"
#include "engine/engine.h"
#include "measure/assets.h"
#include "measure/quality_run.h"
#include "measure/study.h"
#include "support/env.h"
#include "support/tiny_model.h"
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { N_PROMPTS = 4 };

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        pleat_error error_ = {""}, *error = &error_;                                                                   \
        if (call)                                                                                                      \
            fail_msg("%s", error->text);                                                                               \
    } while (0)

static char *const words[N_PROMPTS][3] = {{"a", "k", "the first of them"},
                                          {"b", "k", "then another one"},
                                          {"c", "k", "the third, there"},
                                          {"d", "k", "and the last"}};

/* One whole study of the tiny model in this process; threads are made and ended in it, so it can run in a child. */
static pleat_status run_study(const char *model_path, const char *store_path, const measure_watch *watch, store_how how,
                              study_done *done, pleat_error *error) {
    pleat_model *model = NULL;
    pleat_engine *engine = NULL;
    store *db = NULL;
    measure_methods methods = {.n = 0};
    lengths_prompt prompt[N_PROMPTS];
    lengths_prompts prompts = {prompt, N_PROMPTS};
    pleat_engine_options options = {.n_threads = 1, .pool_bytes = 64 << 20};
    for (int i = 0; i < N_PROMPTS; i++)
        prompt[i] = (lengths_prompt){words[i][0], words[i][1], words[i][2]};
    pleat_status status = pleat_model_open(model_path, 1, &model, error);
    status = status ? status : pleat_engine_open(model, &options, &engine, error);
    status = status ? status : measure_methods_parse("kivi-2,streaming:sinks=4,recent=60", model, &methods, error);
    status = status ? status : store_open(store_path, true, &db, error);
    if (!status) {
        study_plan plan = {.grid = {.methods = &methods,
                                    .batch = {1, 2},
                                    .n_batch = 2,
                                    .prompt = {64, 128, 256, 4096},
                                    .n_prompt = 4,
                                    .repeats = 3,
                                    .fill_tokens = 256},
                           .prompts = &prompts,
                           .n_prompts = N_PROMPTS,
                           .prompt_set = "four",
                           .max_tokens = 24,
                           .quality_ctx = 256,
                           .quality_windows = 3};
        status = study_run(engine, &plan, db, how, done, watch, error);
    }
    store_close(db);
    measure_methods_free(&methods);
    pleat_engine_close(engine);
    pleat_model_close(model);
    return status;
}

/* ---- what a store holds ---- */

typedef struct holdings {
    store_runs runs;
    store_points points;
    store_answers answers;
    store_windows windows;
} holdings;

static holdings read_store(const char *path) {
    holdings h = {.runs = {0}};
    store *db;
    OK(store_open(path, false, &db, error));
    OK(store_runs_read(db, &h.runs, error));
    assert_int_equal(h.runs.n, 1);
    OK(store_points_read(db, h.runs.run[0].id, &h.points, error));
    OK(store_answers_read(db, h.runs.run[0].id, &h.answers, error));
    OK(store_windows_read(db, h.runs.run[0].id, &h.windows, error));
    store_close(db);
    return h;
}

static void drop(holdings *h) {
    store_runs_free(&h->runs);
    store_points_free(&h->points);
    store_answers_free(&h->answers);
    store_windows_free(&h->windows);
}

static const store_point *same_point(const holdings *h, const store_point *p) {
    for (int i = 0; i < h->points.n; i++) {
        const store_point *q = &h->points.point[i];
        if (q->batch == p->batch && q->prompt_tokens == p->prompt_tokens && q->filled == p->filled &&
            !strcmp(q->label, p->label) && !strcmp(q->stage, p->stage))
            return q;
    }
    return NULL;
}

/* Everything that stood in `before` stands in `after`, to the bit: rates are times, so a repeat that was measured again
 * would differ. */
static void check_kept(const holdings *before, const holdings *after) {
    for (int i = 0; i < before->points.n; i++) {
        const store_point *p = &before->points.point[i], *q = same_point(after, p);
        assert_non_null(q);
        assert_true(q->n_repeats >= p->n_repeats);
        assert_memory_equal(q->rate, p->rate, (size_t)p->n_repeats * sizeof(*p->rate));
    }
    assert_true(after->answers.n >= before->answers.n && after->windows.n >= before->windows.n);
    for (int i = 0; i < before->answers.n; i++) {
        assert_string_equal(after->answers.answer[i].sample, before->answers.answer[i].sample);
        assert_string_equal(after->answers.answer[i].label, before->answers.answer[i].label);
        assert_true(after->answers.answer[i].ttft_ms == before->answers.answer[i].ttft_ms);
    }
    for (int i = 0; i < before->windows.n; i++)
        assert_int_equal(after->windows.window[i].window, before->windows.window[i].window);
}

/* The same points, answers and windows; those that no clock decides are equal to the bit. */
static void check_same(const holdings *a, const holdings *b) {
    assert_int_equal(a->points.n, b->points.n);
    for (int i = 0; i < a->points.n; i++) {
        const store_point *p = &a->points.point[i], *q = same_point(b, p);
        assert_non_null(q);
        assert_int_equal(p->n_repeats, q->n_repeats);
        assert_int_equal(p->kv_bytes, q->kv_bytes);
        assert_int_equal(p->kv_peak_bytes, q->kv_peak_bytes);
        assert_int_equal(p->error != NULL, q->error != NULL);
        assert_int_equal(p->n_repeats, p->error ? 0 : 3);
    }
    assert_int_equal(a->answers.n, b->answers.n);
    for (int i = 0; i < a->answers.n; i++) {
        const store_answer *p = &a->answers.answer[i], *q = &b->answers.answer[i];
        assert_string_equal(p->sample, q->sample);
        assert_string_equal(p->label, q->label);
        assert_string_equal(p->text ? p->text : "", q->text ? q->text : "");
        assert_int_equal(p->n_tokens, q->n_tokens);
    }
    assert_int_equal(a->windows.n, b->windows.n);
    for (int i = 0; i < a->windows.n; i++) {
        const store_window *p = &a->windows.window[i], *q = &b->windows.window[i];
        assert_string_equal(p->label, q->label);
        assert_int_equal(p->window, q->window);
        assert_int_equal(p->n, q->n);
        assert_memory_equal(p->nll, q->nll, (size_t)p->n * sizeof(float));
        assert_memory_equal(p->kl, q->kl, (size_t)p->n * sizeof(float));
    }
}

static void remove_store(const char *path) {
    char name[400];
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        snprintf(name, sizeof(name), "%s%s", path, ends[i]);
        unlink(name);
    }
}

/* ---- tests ---- */

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

static void write_byte(void *context, double done, double total, const char *detail) {
    (void)done, (void)total, (void)detail;
    if (write(*(int *)context, "x", 1) != 1)
        _exit(1);
}

/* Something that tells its progress to fd; gives an exit code. */
typedef int (*killable)(const char *model_path, const char *store_path, int fd);

/* Runs it in a child and kills that behind its n-th word of progress and a moment more; true: it ended by itself. */
static bool kill_after(killable work, const char *model_path, const char *store_path, int n, double moment_s) {
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(work(model_path, store_path, ends[1]));
    close(ends[1]);
    while (n-- > 0 && read(ends[0], &byte, 1) == 1)
        ;
    nanosleep(&(struct timespec){0, (long)(1e9 * moment_s)}, NULL);
    kill(child, SIGKILL);
    int code = 0;
    waitpid(child, &code, 0);
    close(ends[0]);
    assert_true(WIFSIGNALED(code) || WEXITSTATUS(code) == 0);
    return WIFEXITED(code);
}

static int study_to(const char *model_path, const char *store_path, int fd) {
    study_done done;
    pleat_error error = {""};
    const measure_watch watch = {write_byte, &fd};
    pleat_status status = run_study(model_path, store_path, &watch, STORE_GO_ON, &done, &error);
    if (status)
        fprintf(stderr, "%s\n", error.text);
    return status ? 1 : 0;
}

static void count_tell(void *context, double done, double total, const char *detail) {
    (void)done, (void)total, (void)detail;
    ++*(int *)context;
}

static void a_killed_study_goes_on(void **state) {
    (void)state;
    const char *model_path = env_temp("study.gguf"), *whole_path = env_temp("whole.db"), *path = env_temp("killed.db");
    tiny_options o = tiny_default();
    study_done done;
    tiny_write(model_path, &o);
    int n_tells = 0;
    const measure_watch watch = {count_tell, &n_tells};
    OK(run_study(model_path, whole_path, &watch, STORE_GO_ON, &done, error));
    holdings whole = read_store(whole_path), before = {.runs = {0}};
    assert_true(whole.runs.run[0].finished && done.measured_any && !done.begun.resumed);
    assert_int_equal(whole.answers.n, 3 * N_PROMPTS);
    assert_int_equal(whole.windows.n, 3 * 3);
    int n_kills = 0, n_grew = 0;
    for (bool ended = false; !ended && n_kills < 200; n_kills++) {
        int behind = (int)(0.6 * n_tells * rng_uniform(11, 0, (uint64_t)n_kills));
        ended = kill_after(study_to, model_path, path, behind, 5e-3 * rng_uniform(11, 1, (uint64_t)n_kills));
        if (!exists(path))
            continue;
        store *db;
        if (store_open(path, false, &db, NULL)) /* killed before it had tables */
            continue;
        store_runs runs;
        OK(store_runs_read(db, &runs, error));
        int n_runs = runs.n;
        store_runs_free(&runs);
        store_close(db);
        if (!n_runs)
            continue;
        holdings now = read_store(path);
        check_kept(&before, &now);
        n_grew += now.points.n + now.answers.n + now.windows.n > before.points.n + before.answers.n + before.windows.n;
        drop(&before);
        before = now;
    }
    assert_true(n_kills < 200);
    assert_true(n_grew >= 3); /* it was really stopped on the way */
    OK(run_study(model_path, path, NULL, STORE_GO_ON, &done, error));
    assert_true(done.begun.resumed);
    holdings after = read_store(path);
    assert_true(after.runs.run[0].finished);
    check_kept(&before, &after);
    check_same(&after, &whole);
    drop(&before);
    drop(&after);
    drop(&whole);
    remove_store(path);
    remove_store(whole_path);
    unlink(model_path);
}

typedef struct told { /* what a watch was told */
    double last_share;
    int n_calls;
    bool fell;
} told;

static void note(void *context, double done, double total, const char *detail) {
    told *t = context;
    double share = done / total;
    (void)detail;
    t->fell = t->fell || share < t->last_share - 1e-9 || share > 1 + 1e-9;
    t->last_share = share;
    t->n_calls++;
}

static void a_finished_study_measures_nothing(void **state) {
    (void)state;
    const char *model_path = env_temp("study2.gguf"), *path = env_temp("finished.db");
    tiny_options o = tiny_default();
    o.seed = 2;
    study_done done;
    told t = {.n_calls = 0};
    const measure_watch watch = {note, &t};
    tiny_write(model_path, &o);
    OK(run_study(model_path, path, &watch, STORE_GO_ON, &done, error));
    assert_true(t.n_calls > 100 && !t.fell && t.last_share > 0.999); /* progress rises to its end */
    holdings first = read_store(path);
    OK(run_study(model_path, path, NULL, STORE_GO_ON, &done, error));
    assert_true(done.begun.resumed && done.begun.finished);
    holdings second = read_store(path);
    check_kept(&first, &second);
    check_same(&first, &second);
    drop(&first);
    drop(&second);
    OK(run_study(model_path, path, NULL, STORE_ANEW, &done, error)); /* a second run beside the first */
    store *db;
    store_runs runs;
    OK(store_open(path, false, &db, error));
    OK(store_runs_read(db, &runs, error));
    assert_int_equal(runs.n, 2);
    assert_true(runs.run[0].finished && runs.run[1].finished);
    store_runs_free(&runs);
    store_close(db);
    remove_store(path);
    unlink(model_path);
}

static void a_full_disk_is_one_sentence(void **state) {
    (void)state;
    const char *model_path = env_temp("study3.gguf");
    tiny_options o = tiny_default();
    study_done done;
    pleat_error error = {""};
    tiny_write(model_path, &o);
    if (access("/dev/full", W_OK))
        env_skip("there is no /dev/full");
    assert_int_not_equal(run_study(model_path, "/dev/full", NULL, STORE_GO_ON, &done, &error), PLEAT_OK);
    assert_non_null(strstr(error.text, "/dev/full"));
    unlink(model_path);
}

/* ---- the quality table ---- */

static pleat_status run_quality(const char *model_path, const char *store_path, int n_windows, store_begun *begun,
                                quality_table *table, const measure_watch *watch, pleat_error *error) {
    pleat_model *model = NULL;
    pleat_engine *engine = NULL;
    store *db = NULL;
    measure_methods methods = {.n = 0};
    pleat_engine_options options = {.n_threads = 1, .pool_bytes = 64 << 20};
    pleat_status status = pleat_model_open(model_path, 1, &model, error);
    status = status ? status : pleat_engine_open(model, &options, &engine, error);
    status = status ? status : measure_methods_parse("kivi-2,streaming:sinks=4,recent=60", model, &methods, error);
    status = status ? status : store_open(store_path, true, &db, error);
    if (!status) {
        quality_plan plan = {.methods = &methods,
                             .text_name = "words",
                             .ctx = {512, 256},
                             .n_ctx = 2,
                             .n_windows = n_windows,
                             .n_scored = 40,
                             .needle = {1024},
                             .n_needles = 1,
                             .n_rounds = 2};
        plan.text = assets_text(&plan.text_bytes);
        status = quality_run(engine, &plan, db, STORE_GO_ON, begun, watch, error);
    }
    if (!status && table)
        status = quality_table_read(db, begun->id, table, error);
    store_close(db);
    measure_methods_free(&methods);
    pleat_engine_close(engine);
    pleat_model_close(model);
    return status;
}

static int quality_to(const char *model_path, const char *store_path, int fd) {
    store_begun begun;
    const measure_watch watch = {write_byte, &fd};
    return run_quality(model_path, store_path, 2, &begun, NULL, &watch, NULL) ? 1 : 0;
}

static void check_table(const quality_table *a, const quality_table *b) {
    assert_int_equal(a->n_rows, b->n_rows);
    for (int i = 0; i < a->n_rows; i++) {
        assert_string_equal(a->row[i].label, b->row[i].label);
        assert_int_equal(a->row[i].ctx, b->row[i].ctx);
        assert_memory_equal(&a->row[i].result, &b->row[i].result, sizeof(a->row[i].result));
    }
    assert_int_equal(a->n_found, b->n_found);
    for (int i = 0; i < a->n_found; i++) {
        assert_string_equal(a->found[i].label, b->found[i].label);
        assert_int_equal(a->found[i].n_rounds, b->found[i].n_rounds);
        assert_memory_equal(a->found[i].found, b->found[i].found, sizeof(a->found[i].found));
    }
}

static void a_killed_quality_table_goes_on(void **state) {
    (void)state;
    const char *model_path = env_temp("quality.gguf"), *whole_path = env_temp("whole-quality.db"),
               *path = env_temp("killed-quality.db");
    tiny_options o = tiny_default();
    o.context = 1024;
    tiny_write(model_path, &o);
    int n_tells = 0, n_more = 0;
    store_begun begun;
    quality_table whole, after, more;
    const measure_watch watch = {count_tell, &n_tells}, again = {count_tell, &n_more};
    OK(run_quality(model_path, whole_path, 2, &begun, &whole, &watch, error));
    assert_int_equal(whole.n_rows, 2 * 3); /* sizes by methods */
    assert_int_equal(whole.row[0].ctx, 256);
    assert_int_equal(whole.row[0].result.tokens, 2 * 40);
    assert_int_equal(whole.n_found, 3);
    assert_int_equal(whole.found[0].n_rounds, 2);
    for (int share = 1; share <= 4; share++) /* what is left grows less, so every kill but the last falls inside */
        kill_after(quality_to, model_path, path, n_tells * share / 5, 0);
    OK(run_quality(model_path, path, 2, &begun, &after, &again, error));
    assert_true(begun.resumed && n_more < n_tells); /* something was kept */
    check_table(&whole, &after);
    n_more = 0;
    OK(run_quality(model_path, path, 3, &begun, &more, &again, error)); /* a window more of each size joins the run */
    assert_true(begun.resumed && n_more > 0 && n_more < n_tells);
    assert_int_equal(more.n_rows, whole.n_rows);
    assert_int_equal(more.row[0].result.windows, 3);
    quality_table_free(&whole);
    quality_table_free(&after);
    quality_table_free(&more);
    remove_store(path);
    remove_store(whole_path);
    unlink(model_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_study_goes_on),
        cmocka_unit_test(a_finished_study_measures_nothing),
        cmocka_unit_test(a_full_disk_is_one_sentence),
        cmocka_unit_test(a_killed_quality_table_goes_on),
    };
    return cmocka_run_group_tests_name("study", tests, NULL, NULL);
}
