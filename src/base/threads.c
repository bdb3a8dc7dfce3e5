/* threads.c - the thread pool.
 *
 * The tasks of a job are dealt out in ranges of neighbours, one for each thread, each in a 64-bit word of its own:
 *
 *   span     | end (32) | next (32) |            next < end: there is work
 *
 * A thread takes the next task of its own range, and when that is empty the last one of another's: neighbours mostly
 * run on one thread, one after the other, so that what one asks to be fetched (weights, pages of the cache) lies in the
 * cache of the thread that runs the next. A task is taken by a compare-and-swap. Success means that this task of the
 * job that is running *now* is ours, whatever the thread had seen before; the job cannot end before we have run it, so
 * its function and context may be read plainly afterwards. A worker that wakes late finds nothing and goes back to
 * sleep: nobody waits for it, which matters when there are more threads than cores. The caller waits for the count of
 * unfinished tasks.
 *
 * Waiting: both sides spin for some 50 us with a pause instruction (the gap between two layers is shorter), then sleep
 * in a futex; with more threads than usable cores they sleep at once, as spinning would only hold up those who work.
 * Before a worker sleeps it announces itself in `sleepers`, so that a caller who finds nobody asleep makes no system
 * call.
 *
 * Usable cores: the affinity mask, cut by the CPU quota of the control group. */
#include "base/threads.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"

enum { max_threads = 1024 };
static const double spin_seconds = 50e-6;

typedef struct worker { /* 0 is the caller, who has no thread here */
    _Alignas(64) _Atomic uint64_t span;
    threads *pool;
    pthread_t thread;
    int index;
} worker;

struct threads {
    int n_threads;
    bool spins;
    worker *workers; /* [n_threads] */
    threads_task task;
    void *context;
    _Alignas(64) _Atomic uint32_t epoch; /* futex of the workers: raised by each job and by the end */
    _Atomic int sleepers;
    _Atomic bool ends;
    _Alignas(64) _Atomic uint32_t left; /* futex of the caller: unfinished tasks */
    _Atomic bool caller_sleeps;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spins while *word == seen, for a bounded time. True when it changed. */
static bool spin(const threads *pool, _Atomic uint32_t *word, uint32_t seen) {
    if (!pool->spins)
        return atomic_load_explicit(word, memory_order_acquire) != seen;
    double until = 0;
    for (int i = 1;; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen)
            return true;
        pause_cpu();
        if (i % 32)
            continue;
        double now = clock_seconds();
        if (until == 0)
            until = now + spin_seconds;
        else if (now > until)
            return false;
    }
}

/* A task of the range, the first that is left or the last. */
static bool take(_Atomic uint64_t *span, bool last, int *task) {
    uint64_t seen = atomic_load_explicit(span, memory_order_acquire);
    while ((uint32_t)seen < seen >> 32) {
        uint64_t rest = last ? seen - ((uint64_t)1 << 32) : seen + 1;
        if (atomic_compare_exchange_weak_explicit(span, &seen, rest, memory_order_acquire, memory_order_acquire)) {
            *task = (int)(last ? (seen >> 32) - 1 : (uint32_t)seen);
            return true;
        }
    }
    return false;
}

/* Runs tasks until none is left to take. */
static void work(threads *pool, int index) {
    uint32_t n_done = 0;
    for (int i = 0, task; i < pool->n_threads; i++)
        while (take(&pool->workers[(index + i) % pool->n_threads].span, i > 0, &task)) {
            pool->task(pool->context, task, index);
            n_done++;
        }
    if (n_done == 0)
        return;
    if (atomic_fetch_sub(&pool->left, n_done) == n_done && atomic_load(&pool->caller_sleeps))
        futex_wake(&pool->left, 1);
}

static void *serve(void *argument) {
    worker *self = argument;
    threads *pool = self->pool;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (atomic_load_explicit(&pool->ends, memory_order_acquire))
            return NULL;
        work(pool, self->index);
        if (spin(pool, &pool->epoch, seen))
            continue;
        atomic_fetch_add(&pool->sleepers, 1);
        while (atomic_load(&pool->epoch) == seen)
            futex_wait(&pool->epoch, seen);
        atomic_fetch_sub(&pool->sleepers, 1);
    }
}

int threads_cores(void) {
    cpu_set_t *set = NULL;
    int n_cores = 0;
    /* the kernel refuses a mask shorter than its own: grow until it fits */
    for (int n_cpus = 1024; n_cpus <= 1 << 20 && n_cores == 0; n_cpus *= 2) {
        set = CPU_ALLOC((size_t)n_cpus);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)n_cpus);
        if (sched_getaffinity(0, bytes, set) == 0)
            n_cores = CPU_COUNT_S(bytes, set);
        else if (errno != EINVAL)
            n_cpus = 1 << 20;
        CPU_FREE(set);
    }
    if (n_cores < 1)
        n_cores = 1;
    double quota = cgroup_cpu_cores();
    if (quota > 0 && ceil(quota) < n_cores)
        n_cores = quota < 1 ? 1 : (int)ceil(quota);
    return n_cores < max_threads ? n_cores : max_threads;
}

static void stop(threads *pool, int n_workers) {
    atomic_store(&pool->ends, true);
    atomic_fetch_add(&pool->epoch, 1);
    futex_wake(&pool->epoch, n_workers);
    for (int i = 0; i < n_workers; i++)
        pthread_join(pool->workers[i + 1].thread, NULL);
    mem_free(pool->workers);
    mem_free(pool);
}

pleat_status threads_open(int n_threads, threads **out, pleat_error *error) {
    if (n_threads < 0 || n_threads > max_threads)
        return err_set(error, PLEAT_EINPUT, "the number of threads is %d, it must lie between 0 and %d", n_threads,
                       max_threads);
    int n_cores = threads_cores();
    if (n_threads == 0)
        n_threads = n_cores;
    threads *pool = mem_alloc(1, sizeof *pool);
    worker *workers = mem_alloc((size_t)n_threads, sizeof *workers);
    if (!pool || !workers) {
        mem_free(pool);
        mem_free(workers);
        return err_set(error, PLEAT_EMEMORY, "no memory for a pool of %d threads", n_threads);
    }
    pool->n_threads = n_threads;
    pool->spins = n_threads <= n_cores;
    pool->workers = workers;
    /* signals go to the threads of the program around us */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int refused = 0, n_started = 0;
    for (; n_started < n_threads - 1; n_started++) {
        worker *w = &workers[n_started + 1];
        w->pool = pool;
        w->index = n_started + 1;
        refused = pthread_create(&w->thread, NULL, serve, w);
        if (refused)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (refused) {
        stop(pool, n_started);
        return err_set(error, PLEAT_EMEMORY, "the system refuses thread %d of %d: %s", n_started + 2, n_threads,
                       strerror(refused));
    }
    *out = pool;
    return PLEAT_OK;
}

void threads_close(threads *pool) {
    if (pool)
        stop(pool, pool->n_threads - 1);
}

int threads_count(const threads *pool) {
    return pool->n_threads;
}

void threads_run(threads *pool, int n_tasks, threads_task task, void *context) {
    if (n_tasks <= 0)
        return;
    if (n_tasks == 1 || pool->n_threads == 1) {
        for (int i = 0; i < n_tasks; i++)
            task(context, i, 0);
        return;
    }
    assert(atomic_load(&pool->left) == 0); /* a task must not call threads_run */
    pool->task = task;
    pool->context = context;
    atomic_store_explicit(&pool->left, (uint32_t)n_tasks, memory_order_relaxed);
    for (int i = 0; i < pool->n_threads; i++) {
        uint64_t from = (uint64_t)n_tasks * (uint64_t)i / (uint64_t)pool->n_threads;
        uint64_t to = (uint64_t)n_tasks * (uint64_t)(i + 1) / (uint64_t)pool->n_threads;
        atomic_store_explicit(&pool->workers[i].span, to << 32 | from, memory_order_release);
    }
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleepers) > 0) {
        int n_helpers = n_tasks - 1 < pool->n_threads - 1 ? n_tasks - 1 : pool->n_threads - 1;
        futex_wake(&pool->epoch, n_helpers);
    }
    work(pool, 0);
    for (;;) {
        uint32_t left = atomic_load_explicit(&pool->left, memory_order_acquire);
        if (left == 0)
            return;
        if (spin(pool, &pool->left, left))
            continue;
        atomic_store(&pool->caller_sleeps, true);
        while ((left = atomic_load(&pool->left)) != 0)
            futex_wait(&pool->left, left);
        atomic_store(&pool->caller_sleeps, false);
    }
}
