/* test_threads.c - the pool of threads: every task once, by a worker that there is, whatever the counts; and nobody
 * idle while another has tasks left. */
#include "base/threads.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MOST_TASKS = 300, MOST_THREADS = 8 };

typedef struct job {
    _Atomic int runs[MOST_TASKS], n_done;
    _Atomic int by[MOST_TASKS];
    int n_tasks, n_threads;
    _Atomic bool bad_worker;
} job;

static void count(void *context, int task, int worker) {
    job *j = context;
    if (worker < 0 || worker >= j->n_threads)
        j->bad_worker = true;
    j->runs[task]++;
    j->by[task] = worker;
    j->n_done++;
}

static threads *open_pool(int n_threads) {
    threads *pool = NULL;
    pleat_error error;
    assert_int_equal(threads_open(n_threads, &pool, &error), PLEAT_OK);
    return pool;
}

static void run_and_check(threads *pool, int n_tasks, threads_task task) {
    static job j;
    memset(&j, 0, sizeof(j));
    j.n_tasks = n_tasks;
    j.n_threads = threads_count(pool);
    threads_run(pool, n_tasks, task, &j);
    assert_int_equal(j.n_done, n_tasks);
    assert_false(j.bad_worker);
    for (int i = 0; i < MOST_TASKS; i++)
        if (j.runs[i] != (i < n_tasks))
            fail_msg("task %d of %d ran %d times on %d threads", i, n_tasks, j.runs[i], j.n_threads);
}

static void every_task_runs_once(void **state) {
    (void)state;
    for (int n = 1; n <= MOST_THREADS; n++) {
        threads *pool = open_pool(n);
        assert_int_equal(threads_count(pool), n);
        for (int n_tasks = 0; n_tasks <= 40; n_tasks++)
            run_and_check(pool, n_tasks, count);
        run_and_check(pool, MOST_TASKS, count);
        threads_close(pool);
    }
}

/* Workers that come late from one job meet the next, often with the same numbers. */
static void jobs_follow_one_another(void **state) {
    (void)state;
    threads *pool = open_pool(4);
    for (int i = 0; i < 20000; i++)
        run_and_check(pool, 2 + i % 7, count);
    threads_close(pool);
}

/* Waits in the first task, or the last one, for all others: over only if others take the tasks behind it. */
static void wait_in_first(void *context, int task, int worker) {
    job *j = context;
    while (task == 0 && j->n_done < j->n_tasks - 1) {
    }
    count(context, task, worker);
}

static void wait_in_last(void *context, int task, int worker) {
    job *j = context;
    while (task == j->n_tasks - 1 && j->n_done < j->n_tasks - 1) {
    }
    count(context, task, worker);
}

static void tasks_of_a_busy_thread_are_taken(void **state) {
    (void)state;
    for (int n = 2; n <= 4; n++) {
        threads *pool = open_pool(n);
        for (int n_tasks = 2; n_tasks < 40; n_tasks += 5) {
            run_and_check(pool, n_tasks, wait_in_first);
            run_and_check(pool, n_tasks, wait_in_last);
        }
        threads_close(pool);
    }
}

typedef struct order {
    _Atomic int before, n_jumps, n_mine;
} order;

/* Worker 0's tasks; the other is held until half of its range is done, in its first task or before. */
static void follow(void *context, int task, int worker) {
    order *o = context;
    if (worker != 0) {
        while (o->n_mine < 25) {
        }
        return;
    }
    if (o->n_mine > 0 && o->n_mine < 25 && task != o->before + 1)
        o->n_jumps++;
    o->before = task;
    o->n_mine++;
}

static void a_thread_runs_neighbours_in_order(void **state) {
    (void)state;
    threads *pool = open_pool(2);
    for (int i = 0; i < 50; i++) {
        order o = {0};
        threads_run(pool, 100, follow, &o);
        assert_true(o.n_mine >= 25);
        assert_int_equal(o.n_jumps, 0);
    }
    threads_close(pool);
}

static void a_number_of_threads_can_be_refused(void **state) {
    (void)state;
    threads *pool = NULL;
    pleat_error error;
    assert_int_equal(threads_open(-1, &pool, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "-1"));
    assert_int_equal(threads_open(100000, &pool, &error), PLEAT_EINPUT);
    assert_null(pool);
    pool = open_pool(0);
    assert_true(threads_count(pool) >= 1);
    threads_close(pool);
    threads_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(jobs_follow_one_another),
        cmocka_unit_test(tasks_of_a_busy_thread_are_taken),
        cmocka_unit_test(a_thread_runs_neighbours_in_order),
        cmocka_unit_test(a_number_of_threads_can_be_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
