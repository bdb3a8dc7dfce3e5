/* test_store.c - the study database: what is put comes back, also after a kill; one writer; what is refused and how. */
#include "store/exchange.h"
#include "support/env.h"
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static const store_run conditions = {.what = "study",
                                     .model_name = "tiny",
                                     .model_path = "/models/tiny.gguf",
                                     .model_hash = "0123456789abcdef",
                                     .machine = "a machine, 2 CPUs",
                                     .level = "portable",
                                     .version = "0.1.0",
                                     .options = "{\"batch\":[1]}",
                                     .n_threads = 2};

static const char *new_path(void) {
    static int n;
    char tag[32];
    snprintf(tag, sizeof(tag), "store-%d.db", n++);
    return env_temp(tag);
}

static void remove_file(const char *path) {
    char name[400];
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        snprintf(name, sizeof(name), "%s%s", path, ends[i]);
        unlink(name);
    }
}

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        pleat_error error_ = {""}, *error = &error_;                                                                   \
        if (call)                                                                                                      \
            fail_msg("%s", error->text);                                                                               \
    } while (0)

/* The call fails with this status and a sentence that holds `word`. */
#define REFUSED(call, expected, word)                                                                                  \
    do {                                                                                                               \
        pleat_error error_ = {""}, *error = &error_;                                                                   \
        assert_int_equal(call, expected);                                                                              \
        if (!strstr(error->text, word))                                                                                \
            fail_msg("\"%s\" does not say \"%s\"", error->text, word);                                                 \
    } while (0)

static store *open_store(const char *path, bool write) {
    store *s;
    OK(store_open(path, write, &s, error));
    return s;
}

static int64_t begin(store *s, store_how how, store_begun *begun) {
    OK(store_run_begin(s, &conditions, how, begun, error));
    return begun->id;
}

static store_point point_of(const char *label, int prompt, int n_repeats) {
    store_point p = {.label = label,
                     .spec = "kivi:bits=4",
                     .batch = 4,
                     .prompt_tokens = prompt,
                     .stage = "decode",
                     .n_repeats = n_repeats,
                     .median = 100.0 / 3,
                     .spread = 0.1,
                     .kv_bytes = (size_t)5 << 32,
                     .kv_peak_bytes = (size_t)6 << 32};
    for (int i = 0; i < n_repeats; i++)
        p.rate[i] = 100.0 / (3 + i);
    return p;
}

/* ---- round trips ---- */

static void points_come_back(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    store_point p[3] = {point_of("kivi-4", 256, 1), point_of("quote's \"label\" \xc3\xa9", 1 << 20, 3),
                        point_of("f16", 256, 0)};
    p[2].error = "it needs more";
    p[2].bytes_needed = (size_t)1 << 40;
    OK(store_points_put(s, run, p, 3, error));
    p[0] = point_of("kivi-4", 256, STORE_MOST_REPEATS); /* replaces the first, in its place */
    OK(store_points_put(s, run, p, 1, error));
    store_point filled = point_of("kivi-4", 256, 2); /* another point: over a fill */
    filled.filled = true;
    OK(store_points_put(s, run, &filled, 1, error));
    store_close(s);

    s = open_store(path, false);
    store_points got;
    OK(store_points_read(s, run, &got, error));
    assert_int_equal(got.n, 4);
    for (int i = 0; i < 3; i++) {
        const store_point *g = &got.point[i];
        assert_string_equal(g->label, p[i].label);
        assert_string_equal(g->spec, p[i].spec);
        assert_string_equal(g->stage, p[i].stage);
        assert_int_equal(g->batch, 4);
        assert_int_equal(g->prompt_tokens, p[i].prompt_tokens);
        assert_int_equal(g->n_repeats, p[i].n_repeats);
        assert_memory_equal(g->rate, p[i].rate, (size_t)g->n_repeats * sizeof(double));
        assert_true(g->median == p[i].median && g->spread == p[i].spread);
        assert_true(g->kv_bytes == p[i].kv_bytes && g->kv_peak_bytes == p[i].kv_peak_bytes);
        assert_true(g->bytes_needed == p[i].bytes_needed);
        assert_int_equal(g->error != NULL, p[i].error != NULL);
        assert_false(g->filled);
    }
    assert_string_equal(got.point[2].error, "it needs more");
    assert_true(got.point[3].filled);
    assert_int_equal(got.point[3].n_repeats, 2);
    store_points_free(&got);
    OK(store_points_read(s, run + 1, &got, error));
    assert_int_equal(got.n, 0);
    store_points_free(&got);
    store_close(s);
    remove_file(path);
}

static void answers_come_back(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    store_answer a[2] = {{.data_set = "built-in",
                          .sample = "tides",
                          .klass = "explain",
                          .prompt = "Why?\n\xe2\x82\xac",
                          .label = "f16",
                          .spec = "f16",
                          .seed = UINT64_MAX,
                          .text = "Because.",
                          .prompt_tokens = 5,
                          .n_tokens = 3,
                          .finish = "stop",
                          .ttft_ms = 1.25,
                          .tpot_ms = 0.1,
                          .kv_bytes = 77,
                          .agree_tokens = 3},
                         {.data_set = "built-in",
                          .sample = "tides",
                          .klass = "explain",
                          .prompt = "Why?\n\xe2\x82\xac",
                          .label = "kivi-2",
                          .spec = "kivi:bits=2",
                          .seed = 7,
                          .text = NULL,
                          .finish = "length",
                          .agree_tokens = 1,
                          .acted = true}};
    bool has;
    OK(store_answers_has(s, run, "built-in", "tides", &has, error));
    assert_false(has);
    OK(store_answers_put(s, run, a, 2, error));
    OK(store_answers_has(s, run, "built-in", "tides", &has, error));
    assert_true(has);
    OK(store_answers_has(s, run, "other", "tides", &has, error));
    assert_false(has);
    store_answers got;
    OK(store_answers_read(s, run, &got, error));
    assert_int_equal(got.n, 2);
    assert_string_equal(got.answer[0].prompt, a[0].prompt);
    assert_string_equal(got.answer[0].klass, "explain");
    assert_true(got.answer[0].seed == UINT64_MAX && got.answer[1].seed == 7);
    assert_string_equal(got.answer[0].text, "Because.");
    assert_null(got.answer[1].text);
    assert_true(got.answer[0].ttft_ms == 1.25 && got.answer[0].tpot_ms == 0.1);
    assert_int_equal(got.answer[0].n_tokens, 3);
    assert_int_equal(got.answer[0].prompt_tokens, 5);
    assert_int_equal(got.answer[0].kv_bytes, 77);
    assert_string_equal(got.answer[1].finish, "length");
    assert_int_equal(got.answer[1].agree_tokens, 1);
    assert_true(got.answer[1].acted && !got.answer[0].acted);
    store_answers_free(&got);
    store_close(s);
    remove_file(path);
}

static void windows_come_back(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    float nll[3] = {0.1f, 5.5f, 1e-30f}, kl[3] = {0, 1.0f / 3, 1e-7f};
    store_window w = {.label = "kivi-2",
                      .spec = "kivi:bits=2",
                      .text_name = "text",
                      .ctx = 8,
                      .window = 1,
                      .n = 3,
                      .nll = nll,
                      .kl = kl,
                      .same_best = 2,
                      .kept_share = 0.125,
                      .kv_bytes = 640,
                      .kv_peak_bytes = 1280};
    OK(store_windows_put(s, run, &w, 1, error));
    OK(store_windows_put(s, run, &w, 1, error)); /* replaces it */
    store_windows got;
    OK(store_windows_read(s, run, &got, error));
    assert_int_equal(got.n, 1);
    assert_int_equal(got.window[0].n, 3);
    assert_memory_equal(got.window[0].nll, nll, sizeof(nll));
    assert_memory_equal(got.window[0].kl, kl, sizeof(kl));
    assert_string_equal(got.window[0].text_name, "text");
    assert_int_equal(got.window[0].ctx, 8);
    assert_int_equal(got.window[0].window, 1);
    assert_int_equal(got.window[0].same_best, 2);
    assert_true(got.window[0].kept_share == 0.125);
    assert_int_equal(got.window[0].kv_bytes, 640);
    assert_int_equal(got.window[0].kv_peak_bytes, 1280);
    store_windows_free(&got);
    store_close(s);
    remove_file(path);
}

/* ---- runs ---- */

static void runs_are_found_by_their_conditions(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true);
    store_begun b;
    int64_t first = begin(s, STORE_GO_ON, &b);
    assert_false(b.resumed);
    assert_int_equal(begin(s, STORE_GO_ON, &b), first);
    assert_true(b.resumed && !b.finished && strlen(b.started) == 19);
    assert_int_equal(begin(s, STORE_GO_ON_OPEN, &b), first);
    store_run changed[7];
    for (int i = 0; i < 7; i++)
        changed[i] = conditions;
    changed[0].what = "bench";
    changed[1].model_hash = "other";
    changed[2].machine = "other";
    changed[3].level = "avx2";
    changed[4].version = "0.1.1";
    changed[5].options = "{}";
    changed[6].n_threads = 1;
    for (int i = 0; i < 7; i++) {
        OK(store_run_begin(s, &changed[i], STORE_GO_ON, &b, error));
        assert_false(b.resumed);
        assert_int_equal(b.id, first + 1 + i);
    }
    OK(store_run_finish(s, first, error));
    assert_int_equal(begin(s, STORE_GO_ON, &b), first);
    assert_true(b.resumed && b.finished);
    int64_t second = begin(s, STORE_GO_ON_OPEN, &b); /* the first one is finished */
    assert_true(second != first && !b.resumed && !b.finished);
    assert_int_equal(begin(s, STORE_GO_ON, &b), second);
    int64_t third = begin(s, STORE_ANEW, &b);
    assert_true(third != second && !b.resumed);
    store_runs runs;
    OK(store_runs_read(s, &runs, error));
    assert_int_equal(runs.n, 10);
    assert_true(runs.run[0].finished && !runs.run[9].finished);
    assert_string_equal(runs.run[0].model_path, "/models/tiny.gguf");
    assert_string_equal(runs.run[0].options, conditions.options);
    assert_int_equal(runs.run[7].n_threads, 1);
    store_runs_free(&runs);
    store_close(s);
    remove_file(path);
}

/* ---- kills ---- */

static int count_points(const char *path, int64_t run) {
    store *s = open_store(path, false);
    store_points got;
    OK(store_points_read(s, run, &got, error));
    int n = got.n;
    store_points_free(&got);
    store_close(s);
    return n;
}

/* A child puts points one by one and tells each through a pipe; it is killed after `most` of them. */
static void a_put_outlives_a_kill(void **state) {
    (void)state;
    for (int round = 0; round < 5; round++) {
        const char *path = new_path();
        int ends[2], told = 0;
        char byte;
        assert_int_equal(pipe(ends), 0);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            store *s;
            store_begun b;
            close(ends[0]);
            if (store_open(path, true, &s, NULL) || store_run_begin(s, &conditions, STORE_GO_ON, &b, NULL))
                _exit(1);
            for (int i = 0;; i++) {
                store_point p = point_of("f16", i, 3);
                if (store_points_put(s, b.id, &p, 1, NULL) || write(ends[1], "x", 1) != 1)
                    _exit(1);
            }
        }
        close(ends[1]);
        while (told < 20 + 7 * round && read(ends[0], &byte, 1) == 1)
            told++;
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        while (read(ends[0], &byte, 1) == 1)
            told++;
        close(ends[0]);
        int n = count_points(path, 1); /* the log is still beside the file */
        assert_true(n == told || n == told + 1);
        store *s = open_store(path, true); /* the dead writer's hold is gone */
        store_begun b;
        assert_int_equal(begin(s, STORE_GO_ON, &b), 1);
        assert_true(b.resumed);
        store_close(s);
        assert_int_equal(count_points(path, 1), n);
        remove_file(path);
    }
}

/* ---- one writer, many readers ---- */

static void only_one_writes(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true), *second;
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    REFUSED(store_open(path, true, &second, error), PLEAT_EIO, "in use");
    store *reader = open_store(path, false);
    store_point p = point_of("f16", 1, 1);
    OK(store_points_put(s, run, &p, 1, error));
    store_points got;
    OK(store_points_read(reader, run, &got, error)); /* what was put meanwhile is seen */
    assert_int_equal(got.n, 1);
    store_points_free(&got);
    REFUSED(store_points_put(reader, run, &p, 1, error), PLEAT_EIO, path);
    store_close(s); /* beside an open reader */
    store_close(reader);
    s = open_store(path, true);
    store_close(s);
    remove_file(path);
}

static void somebody_elses_lock_is_told(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    sqlite3 *other;
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    store_point p = point_of("f16", 1, 1);
    REFUSED(store_points_put(s, run, &p, 1, error), PLEAT_EIO, "in use");
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    OK(store_points_put(s, run, &p, 1, error));
    sqlite3_close(other);
    store_close(s);
    assert_int_equal(count_points(path, run), 1);
    remove_file(path);
}

/* Where nothing may be written a closed study can be read; asked of a process that is not root. */
static void a_closed_study_is_read_where_nothing_may_be_written(void **state) {
    (void)state;
    char folder[300], path[320];
    snprintf(folder, sizeof(folder), "%s", env_temp("store-folder"));
    snprintf(path, sizeof(path), "%s/study.db", folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    store_point p = point_of("f16", 1, 1);
    OK(store_points_put(s, run, &p, 1, error));
    store_close(s);
    chmod(path, 0444);
    chmod(folder, 0555);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        store_points got;
        pleat_error error = {""};
        if (getuid() == 0 && setuid(65534))
            _exit(2);
        if (store_open(path, false, &s, &error) || store_points_read(s, run, &got, &error) || got.n != 1) {
            fprintf(stderr, "%s\n", error.text);
            _exit(3);
        }
        store_points_free(&got);
        store_close(s);
        _exit(store_open(path, true, &s, &error) == PLEAT_EIO && strstr(error.text, path) ? 0 : 4);
    }
    int code;
    waitpid(child, &code, 0);
    chmod(folder, 0755);
    remove_file(path);
    rmdir(folder);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 0);
}

/* ---- what is refused ---- */

static void put_bytes(const char *path, long at, const void *bytes, size_t n) {
    FILE *f = fopen(path, at < 0 ? "wb" : "r+b");
    assert_non_null(f);
    fseek(f, at < 0 ? 0 : at, SEEK_SET);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void run_sql(const char *path, const char *sql) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void foreign_files_are_refused(void **state) {
    (void)state;
    store *s;
    const char *path = new_path();
    REFUSED(store_open(path, false, &s, error), PLEAT_EIO, "there is no study");
    assert_int_not_equal(access(path, F_OK), 0); /* and none was made */
    REFUSED(store_open("/no/such/folder/study.db", true, &s, error), PLEAT_EIO, "/no/such/folder/study.db");
    char text[5000];
    memset(text, 'x', sizeof(text));
    put_bytes(path, -1, text, sizeof(text));
    REFUSED(store_open(path, true, &s, error), PLEAT_EINPUT, "no database");
    REFUSED(store_open(path, false, &s, error), PLEAT_EINPUT, "no database");
    remove_file(path);
    run_sql(path, "CREATE TABLE song (title TEXT)");
    REFUSED(store_open(path, true, &s, error), PLEAT_EINPUT, "another program");
    REFUSED(store_open(path, false, &s, error), PLEAT_EINPUT, "another program");
    remove_file(path);
    put_bytes(path, -1, "", 0);
    REFUSED(store_open(path, false, &s, error), PLEAT_EINPUT, "holds no study");
    s = open_store(path, true); /* an empty file becomes one */
    store_close(s);
    run_sql(path, "PRAGMA user_version=99");
    REFUSED(store_open(path, true, &s, error), PLEAT_EINPUT, "newer pleat (schema 99");
    REFUSED(store_open(path, false, &s, error), PLEAT_EINPUT, "newer pleat (schema 99");
    remove_file(path);
}

static pleat_status read_all(store *s, pleat_error *error) {
    store_runs runs;
    store_points points = {0};
    store_answers answers = {0};
    store_windows windows = {0};
    pleat_status status = store_runs_read(s, &runs, error);
    if (status)
        return status;
    for (int i = 0; i < runs.n && !status; i++) {
        status = store_points_read(s, runs.run[i].id, &points, error);
        status = status ? status : store_answers_read(s, runs.run[i].id, &answers, error);
        status = status ? status : store_windows_read(s, runs.run[i].id, &windows, error);
        store_points_free(&points);
        store_answers_free(&answers);
        store_windows_free(&windows);
    }
    store_runs_free(&runs);
    return status;
}

/* Bytes of a good file are overwritten at many places: it is read, or refused in a sentence that names it. */
static void damage_is_told(void **state) {
    (void)state;
    const char *path = new_path(), *copy = new_path();
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b);
    float x[200] = {0};
    for (int i = 0; i < 60; i++) {
        store_point p = point_of(i % 2 ? "f16" : "kivi-4", i, 5);
        store_window w = {.label = "f16", .text_name = "t", .ctx = 8, .window = i, .n = 200, .nll = x, .kl = x};
        OK(store_points_put(s, run, &p, 1, error));
        OK(store_windows_put(s, run, &w, 1, error));
    }
    store_close(s);
    FILE *f = fopen(path, "rb");
    static char good[1 << 20];
    size_t n = fread(good, 1, sizeof(good), f);
    fclose(f);
    assert_true(n > 20000 && n < sizeof(good));
    int n_refused = 0;
    for (int round = 0; round < 300; round++) {
        char noise[64];
        size_t at = ((size_t)round * 2654435761u) % (n - sizeof(noise));
        for (size_t i = 0; i < sizeof(noise); i++)
            noise[i] = (char)(i * 37 + (size_t)round * 101);
        put_bytes(copy, -1, good, round % 3 ? n : at + 1); /* every third one is cut */
        if (round % 3)
            put_bytes(copy, (long)at, noise, sizeof(noise));
        pleat_error error = {""};
        pleat_status status = store_open(copy, round % 2, &s, &error);
        if (!status) {
            status = read_all(s, &error);
            store_close(s);
        }
        if (status) {
            n_refused++;
            assert_true(status == PLEAT_EINPUT || status == PLEAT_EIO);
            assert_non_null(strstr(error.text, copy));
        }
        remove_file(copy);
    }
    assert_true(n_refused > 50);
    remove_file(path);
}

static void a_full_disk_loses_nothing(void **state) {
    (void)state;
    const char *path = new_path();
    int ends[2], told = 0;
    char byte;
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        store *s;
        store_begun b;
        pleat_error error = {""};
        struct rlimit limit = {200000, 200000};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) || store_open(path, true, &s, NULL) ||
            store_run_begin(s, &conditions, STORE_GO_ON, &b, NULL))
            _exit(1);
        for (int i = 0; i < 100000; i++) {
            store_point p = point_of("f16", i, STORE_MOST_REPEATS);
            pleat_status status = store_points_put(s, b.id, &p, 1, &error);
            if (status) {
                store_close(s);
                _exit(status == PLEAT_EIO && strstr(error.text, path) ? 0 : 2);
            }
            if (write(ends[1], "x", 1) != 1)
                _exit(3);
        }
        _exit(4);
    }
    close(ends[1]);
    while (read(ends[0], &byte, 1) == 1)
        told++;
    close(ends[0]);
    int code;
    waitpid(child, &code, 0);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 0);
    assert_true(told > 10);
    assert_int_equal(count_points(path, 1), told);
    store *s = open_store(path, true); /* with room again it goes on */
    store_point p = point_of("kivi-4", 1, 1);
    OK(store_points_put(s, 1, &p, 1, error));
    store_close(s);
    assert_int_equal(count_points(path, 1), told + 1);
    remove_file(path);
}

/* ---- CSV ---- */

static size_t read_whole(const char *folder, const char *name, char *out, size_t cap) {
    char path[400];
    snprintf(path, sizeof(path), "%s/%s.csv", folder, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(out, 1, cap - 1, f);
    fclose(f);
    out[n] = 0;
    return n;
}

static void remove_folder(const char *folder) {
    char command[400];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

static void count_rows(void *context, const char *name, int64_t n_rows) {
    (void)name;
    *(int64_t *)context += n_rows;
}

/* Out, in and out again gives the same bytes, and what was read back goes on as the same run. */
static void a_study_goes_through_csv_and_back(void **state) {
    (void)state;
    static const char *const tables[] = {"run",   "throughput", "sample", "response",  "window",
                                         "score", "profile",    "model",  "simulation"};
    static char first[1 << 16], second[1 << 16];
    const char *path = new_path(), *copy = new_path(), *folder = env_temp("csv-1"), *again = env_temp("csv-2");
    store *s = open_store(path, true);
    store_begun b;
    int64_t run = begin(s, STORE_GO_ON, &b), n_out = 0, n_in = 0;
    store_point p[2] = {point_of("quote \"and\", comma", 256, 3), point_of("f16", 1, 0)};
    p[1].error = "too large";
    store_answer a = {.data_set = "set",
                      .sample = "a",
                      .prompt = " lines\r\nand \"quotes\" \xe2\x82\xac ",
                      .label = "f16",
                      .seed = UINT64_MAX,
                      .text = ",",
                      .ttft_ms = 0.1,
                      .finish = "stop"};
    float nll[3] = {0.1f, 1e-30f, 12345.678f}, kl[3] = {0, 1.0f / 3, 3e-8f};
    store_window w = {.label = "f16", .text_name = "t", .ctx = 8, .n = 3, .nll = nll, .kl = kl, .kept_share = 1.0 / 3};
    store_operator operator= {.name = "once", .batch = 1, .tokens = 2, .ms = 1.0 / 7};
    OK(store_points_put(s, run, p, 2, error));
    OK(store_answers_put(s, run, &a, 1, error));
    OK(store_windows_put(s, run, &w, 1, error));
    OK(store_profile_put(s, run, "", &operator, 1, error));
    double figure[STORE_SIMULATION_FIGURES] = {1.0 / 3, 1e-300, 0.5};
    store_simulation sim = {.pool = "2 x f16", .policy = "random", .rate = 0.7, .n_seeds = 1, .figure = figure};
    OK(store_simulations_put(s, run, &sim, 1, error));
    OK(store_model_put(s, run, "throughput", "f16", "{\"a\": [1, 2]}", error));
    OK(store_export(s, folder, count_rows, &n_out, error));
    store_close(s);
    s = open_store(copy, true);
    OK(store_import(s, folder, count_rows, &n_in, error));
    assert_int_equal(n_out, 9);
    assert_int_equal(n_in, n_out);
    OK(store_export(s, again, NULL, NULL, error));
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        assert_int_equal(read_whole(folder, tables[i], first, sizeof(first)),
                         read_whole(again, tables[i], second, sizeof(second)));
        assert_string_equal(first, second);
    }
    assert_int_equal(begin(s, STORE_GO_ON, &b), run);
    assert_true(b.resumed);
    store_windows got;
    store_points points;
    store_simulations sims;
    OK(store_simulations_read(s, run, &sims, error));
    assert_memory_equal(sims.row[0].figure, figure, sizeof(figure));
    store_simulations_free(&sims);
    OK(store_windows_read(s, run, &got, error));
    assert_memory_equal(got.window[0].nll, nll, sizeof(nll));
    assert_memory_equal(got.window[0].kl, kl, sizeof(kl));
    store_windows_free(&got);
    OK(store_points_read(s, run, &points, error));
    assert_null(points.point[0].error);
    assert_string_equal(points.point[1].error, "too large");
    assert_memory_equal(points.point[0].rate, p[0].rate, 3 * sizeof(double));
    store_points_free(&points);
    REFUSED(store_import(s, folder, NULL, NULL, error), PLEAT_EINPUT, "holds 1 run already");
    store_close(s);
    remove_file(copy);
    /* a bad cell is told with its line, and nothing of the study is taken */
    char name[400];
    snprintf(name, sizeof(name), "%s/throughput.csv", folder);
    FILE *f = fopen(name, "ab");
    fputs("99,1,bad,,one,1,decode,0,[],1,0,1,1,0,\n", f);
    fclose(f);
    s = open_store(copy, true);
    REFUSED(store_import(s, folder, NULL, NULL, error), PLEAT_EINPUT, "throughput.csv: line 4: ");
    store_runs runs;
    OK(store_runs_read(s, &runs, error));
    assert_int_equal(runs.n, 0);
    store_runs_free(&runs);
    REFUSED(store_import(s, "/no/such/folder", NULL, NULL, error), PLEAT_EIO, "/no/such/folder/run.csv");
    store_close(s);
    remove_file(copy);
    remove_file(path);
    remove_folder(folder);
    remove_folder(again);
}

/* docs/store.md names every table and every column. */
static void the_documentation_knows_every_column(void **state) {
    (void)state;
    const char *path = new_path();
    store *s = open_store(path, true);
    store_close(s);
    static char doc[1 << 16];
    FILE *f = fopen("docs/store.md", "rb");
    assert_non_null(f);
    doc[fread(doc, 1, sizeof(doc) - 1, f)] = 0;
    fclose(f);
    sqlite3 *db;
    sqlite3_stmt *q;
    int n = 0;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c"
                                        " WHERE t.type = 'table' AND c.name <> 'id'",
                                        -1, &q, NULL),
                     SQLITE_OK);
    for (; sqlite3_step(q) == SQLITE_ROW; n++) {
        char row[80], column[80];
        snprintf(row, sizeof(row), "\n| `%s` |", sqlite3_column_text(q, 0));
        snprintf(column, sizeof(column), "`%s`", sqlite3_column_text(q, 1));
        const char *at = strstr(doc, row), *end = at ? strchr(at + 1, '\n') : NULL,
                   *found = at ? strstr(at, column) : NULL;
        if (!found || !end || found > end)
            fail_msg("docs/store.md does not say %s of %s", column, row + 1);
    }
    assert_true(n > 60);
    sqlite3_finalize(q);
    sqlite3_close(db);
    remove_file(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_come_back),
        cmocka_unit_test(answers_come_back),
        cmocka_unit_test(windows_come_back),
        cmocka_unit_test(runs_are_found_by_their_conditions),
        cmocka_unit_test(a_put_outlives_a_kill),
        cmocka_unit_test(only_one_writes),
        cmocka_unit_test(somebody_elses_lock_is_told),
        cmocka_unit_test(a_closed_study_is_read_where_nothing_may_be_written),
        cmocka_unit_test(foreign_files_are_refused),
        cmocka_unit_test(damage_is_told),
        cmocka_unit_test(a_full_disk_loses_nothing),
        cmocka_unit_test(a_study_goes_through_csv_and_back),
        cmocka_unit_test(the_documentation_knows_every_column),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
