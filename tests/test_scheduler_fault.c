/* test_scheduler_fault.c - a step that fails for one request's sake ends that one alone, whatever its age. */
#include "engine/scheduler_inside.h"
#include "support/bed.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

enum { N = 3, PROMPT = 40, ANSWER = 20 };

typedef struct answer {
    int32_t id[ANSWER];
    int n;
    request_finish finish;
    char sentence[200];
} answer;

static bool take(void *context, const request_event *event) {
    answer *a = context;
    if (event->kind == REQUEST_TOKEN)
        a->id[a->n++] = event->token->id;
    if (event->kind == REQUEST_END) {
        a->finish = event->finish;
        strncpy(a->sentence, event->sentence ? event->sentence : "", sizeof(a->sentence) - 1);
    }
    return true;
}

/* A scheduler in which n requests run, each older than the next. */
static scheduler *start_all(const bed *b, const scheduler_options *options, int n, answer *answers) {
    pleat_error error = {""};
    scheduler *s;
    pleat_method *method;
    if (scheduler_open(b->engine, options, &s, &error) || pleat_method_parse("f16", b->model, &method, &error))
        fail_msg("%s", error.text);
    memset(answers, 0, (size_t)n * sizeof(*answers));
    for (int i = 0; i < n; i++) {
        int32_t *ids = bed_tokens(b, PROMPT + i);
        uint64_t id;
        request_spec spec = {.method = method,
                             .prompt = ids,
                             .n_prompt = PROMPT + i,
                             .max_tokens = ANSWER,
                             .ignore_end = true,
                             .sampling = pleat_sampling_default()};
        if (scheduler_submit(s, &spec, 1, take, (void *[]){&answers[i]}, &id, &error))
            fail_msg("%s", error.text);
        free(ids);
        scheduler_turn(s);
    }
    pleat_method_free(method);
    return s;
}

/* Three requests; the `bad`th gets a token in the middle of its answer that no model has (N: none does). */
static void run(int bad, answer answers[N]) {
    bed b = bed_open(tiny_default(),
                     (pleat_engine_options){
                         .n_threads = 1, .max_step_tokens = 256, .max_sequences = N, .pool_bytes = (size_t)64 << 20});
    scheduler *s = start_all(&b, NULL, N, answers);
    for (int i = 0; i < 5; i++)
        scheduler_turn(s);
    assert_int_equal(s->n_running, N);
    if (bad < N)
        s->running[bad]->tokens[s->running[bad]->n_done] = -7;
    while (scheduler_turn(s))
        ;
    scheduler_close(s);
    bed_close(&b);
}

static void who_cannot_step_ends_alone(void **state) {
    (void)state;
    answer whole[N], a[N];
    run(N, whole);
    for (int bad = 0; bad < N; bad++) {
        run(bad, a);
        for (int i = 0; i < N; i++) {
            assert_int_equal(a[i].finish, i == bad ? REQUEST_FAILED : REQUEST_LENGTH);
            assert_memory_equal(a[i].id, whole[i].id, (size_t)a[i].n * sizeof(a[i].id[0]));
            if (i == bad)
                assert_non_null(strstr(a[i].sentence, "-7"));
            else
                assert_int_equal(a[i].n, ANSWER);
        }
    }
}

/* The memory for caches moved out is counted in what their images take, more than their pages in the pool. */
static void moved_images_are_counted_whole(void **state) {
    (void)state;
    bed b = bed_open(tiny_default(),
                     (pleat_engine_options){
                         .n_threads = 1, .max_step_tokens = 256, .max_sequences = 2, .pool_bytes = (size_t)64 << 20});
    answer a[2] = {0};
    scheduler *s = start_all(&b, &(scheduler_options){.moved_bytes = (size_t)64 << 20}, 2, a);
    assert_int_equal(s->n_running, 2);
    size_t kv_bytes = pleat_seq_describe(s->running[1]->seq).kv_bytes;
    assert_true(admit_preempt(s));
    assert_int_equal(s->moved_bytes, s->moved->seq->image.n_bytes);
    assert_true(s->moved_bytes > kv_bytes);
    while (scheduler_turn(s))
        ;
    assert_int_equal(s->moved_bytes, 0);
    scheduler_close(s);
    s = start_all(&b, &(scheduler_options){.moved_bytes = kv_bytes}, 2, a); /* enough for the pages alone */
    assert_true(admit_preempt(s));
    assert_null(s->moved);
    assert_int_equal(a[1].finish, REQUEST_NO_ROOM);
    scheduler_close(s);
    bed_close(&b);
}

static bool no_nameless_files;

/* A file system that makes no files without a name. */
int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, int) : 0;
    va_end(arguments);
    if (no_nameless_files && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static void where_files_have_names_they_lose_them(void **state) {
    (void)state;
    char folder[] = "/tmp/pleat-fault-XXXXXX";
    answer a[2] = {0};
    bed b = bed_open(tiny_default(),
                     (pleat_engine_options){
                         .n_threads = 1, .max_step_tokens = 256, .max_sequences = 2, .pool_bytes = (size_t)64 << 20});
    assert_non_null(mkdtemp(folder));
    no_nameless_files = true;
    scheduler *s = start_all(&b, &(scheduler_options){.moved_bytes = 1, .moved_dir = folder}, 2, a);
    assert_true(admit_preempt(s));
    assert_true(s->moved->seq->file.n_bytes > 0);
    assert_int_equal(rmdir(folder), 0);
    while (scheduler_turn(s))
        ;
    no_nameless_files = false;
    for (int i = 0; i < 2; i++)
        assert_int_equal(a[i].n, ANSWER);
    scheduler_close(s);
    bed_close(&b);
}

/* What a policy keeps of queries is part of the pool, and of what a request is admitted by. */
static void windows_of_queries_are_in_the_pool(void **state) {
    (void)state;
    bed b = bed_open(tiny_default(),
                     (pleat_engine_options){
                         .n_threads = 1, .max_step_tokens = 256, .max_sequences = 1, .pool_bytes = (size_t)64 << 20});
    pleat_error error = {""};
    size_t plan[2];
    for (int i = 0; i < 2; i++) {
        pleat_method *method;
        if (pleat_method_parse(i ? "snapkv:window=96" : "snapkv:window=32", b.model, &method, &error))
            fail_msg("%s", error.text);
        kv_wants wants = kv_method_wants(method);
        size_t queries = kv_queries_bytes(&b.model->kv, &wants);
        plan[i] = engine_plan_bytes(b.model, method, 100, 10) - queries;
        pleat_seq *seq = bed_seq(&b, i ? "snapkv:window=96" : "snapkv:window=32");
        assert_int_equal(kv_pool_used_bytes(engine_pool(b.engine)), 0);
        int32_t *ids = bed_tokens(&b, 100);
        bed_prefill(&b, seq, ids, 100, NULL);
        assert_true(queries > 0);
        assert_int_equal(kv_pool_used_bytes(engine_pool(b.engine)), pleat_seq_describe(seq).kv_bytes + queries);
        pleat_seq_close(seq);
        assert_int_equal(kv_pool_used_bytes(engine_pool(b.engine)), 0);
        free(ids);
        pleat_method_free(method);
    }
    assert_int_equal(plan[0], plan[1]);
    bed_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_cannot_step_ends_alone),
        cmocka_unit_test(moved_images_are_counted_whole),
        cmocka_unit_test(where_files_have_names_they_lose_them),
        cmocka_unit_test(windows_of_queries_are_in_the_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
