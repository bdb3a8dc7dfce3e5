/* threads.h - one pool of threads that runs numbered tasks. Each thread is given neighbouring ones and runs them in
 * rising order; who is done takes the last ones of another, so nothing long belongs at the end. Which thread runs a
 * task must not change its result: that is how results stay equal for any count. */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H
#include "pleat.h"

typedef struct threads threads;
/* All cores that this process may run on, at least 1. */
int threads_cores(void);
/* task 0..n_tasks-1; worker 0..n_threads-1 names the scratch that the running thread may use. */
typedef void (*threads_task)(void *context, int task, int worker);

/* n_threads 0: threads_cores(). The caller is worker 0. */
pleat_status threads_open(int n_threads, threads **out, pleat_error *error);
void threads_close(threads *pool);
int threads_count(const threads *pool);
/* Runs all tasks and returns when the last one is done. Threads spin for a short while between calls, then sleep. */
void threads_run(threads *pool, int n_tasks, threads_task task, void *context);
#endif
