/* test_quiet.c - the way of a token: the engine's thread allocates nothing for it, and shares no lock with the threads
 * that write to clients while it works.
 *
 * This program's own malloc and pthread_mutex_lock count, and hand on to the C library's. The thread watched is the
 * scheduler's: the first that a server starts. Sanitizers bring a malloc of their own; under them nothing is counted.
 */
#include "serve/serve.h"
#include "kv/method.h"
#include "support/bed.h"
#include "support/desk.h"
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"

/* ---- counting ---- */

#ifndef __SANITIZE_ADDRESS__
enum { MOST_LOCKS = 256 };

static _Thread_local bool watched;
static atomic_bool watch_next, counting;
static atomic_int n_allocations;
static _Atomic(void *) engine_lock[MOST_LOCKS], other_lock[MOST_LOCKS];

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);

static void count(void) {
    if (watched && atomic_load_explicit(&counting, memory_order_relaxed))
        atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
}

void *malloc(size_t n) {
    count();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size) {
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n) {
    count();
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t alignment, size_t n) {
    count();
    return __libc_memalign(alignment, n);
}

int posix_memalign(void **p, size_t alignment, size_t n) {
    count();
    *p = __libc_memalign(alignment, n);
    return *p ? 0 : 12;
}

static void note(_Atomic(void *) *set, void *lock) {
    for (int i = 0; i < MOST_LOCKS; i++) {
        void *at = NULL;
        if (atomic_load(&set[i]) == lock || atomic_compare_exchange_strong(&set[i], &at, lock) || at == lock)
            return;
    }
}

int pthread_mutex_lock(pthread_mutex_t *lock) {
    static _Atomic(void *) next;
    if (!atomic_load(&next))
        atomic_store(&next, dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    if (atomic_load_explicit(&counting, memory_order_relaxed))
        note(watched ? engine_lock : other_lock, lock);
    int (*real)(pthread_mutex_t *);
    void *p = atomic_load(&next);
    memcpy(&real, &p, sizeof(real));
    return real(lock);
}

typedef struct start {
    void *(*run)(void *);
    void *context;
    bool watch;
} start;

static void *begin(void *context) {
    start s = *(start *)context;
    free(context);
    watched = s.watch;
    return s.run(s.context);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *context) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    void *p = dlsym(RTLD_NEXT, "pthread_create");
    memcpy(&real, &p, sizeof(real));
    start *s = malloc(sizeof(*s));
    *s = (start){run, context, atomic_exchange(&watch_next, false)};
    return real(thread, attr, begin, s);
}

/* ---- a server in this process ---- */

typedef struct shop {
    bed bed;
    server *server;
    desk desk; /* its port only */
} shop;

static shop shop_open(void) {
    tiny_options tiny = tiny_default();
    tiny.context = DESK_CONTEXT;
    shop s = {.bed = bed_open(tiny, (pleat_engine_options){.n_threads = 1,
                                                           .max_step_tokens = 256,
                                                           .max_sequences = 8,
                                                           .pool_bytes = (size_t)64 << 20,
                                                           .prefix_bytes = (size_t)8 << 20})};
    pleat_error error = {""};
    atomic_store(&watch_next, true);
    if (serve_open(s.bed.engine, &(serve_options){.name = "tiny", .chat = "chatml"}, &s.server, &error))
        fail_msg("%s", error.text);
    s.desk.port = serve_port(s.server);
    return s;
}

static void shop_close(shop *s) {
    serve_close(s->server);
    bed_close(&s->bed);
}

static void stream(const shop *s, const char *spec, int n_tokens) {
    char body[1300], finish[16];
    text said = {0};
    snprintf(body, sizeof(body),
             "{\"prompt\":\"%0200d\",\"max_tokens\":%d,\"kv_method\":\"%s\",\"ignore_eos\":true,\"stream\":true,"
             "\"logprobs\":2,\"temperature\":1,\"seed\":1,\"logit_bias\":{\"64\":100,\"65\":100},"
             "\"stream_options\":{\"include_usage\":true},\"stop\":[\"zzz\"]}",
             7, n_tokens, spec);
    web_answer a = web_ask(s->desk.port, "POST " TEXT, NULL, body);
    assert_int_equal(a.status, 200);
    json_decref(desk_stream(&a, 0, &said, finish));
    assert_int_equal(said.n, n_tokens);
    text_free(&said);
    web_free(&a);
}

/* Allocations of the engine's thread for a request of so many tokens. */
static int allocations(const shop *s, const char *spec, int n_tokens) {
    atomic_store(&n_allocations, 0);
    atomic_store(&counting, true);
    stream(s, spec, n_tokens);
    atomic_store(&counting, false);
    return atomic_load(&n_allocations);
}
#endif

/* What may be allocated is not for a token: a lane's lists double as it grows, and the prefix cache records a page of
 * 64 tokens. One allocation for each token would make 600 more. */
static void a_token_allocates_nothing(void **state) {
    (void)state;
    enum { FEW = 1100, MANY = 1700 };
#ifdef __SANITIZE_ADDRESS__
    print_message("skipped: allocations are not counted under sanitizers\n");
    skip();
#else
    shop s = shop_open();
    for (int i = 0; kv_presets[i].name; i++) {
        stream(&s, kv_presets[i].name, MANY); /* what the engine keeps once it has worked */
        int few = allocations(&s, kv_presets[i].name, FEW), many = allocations(&s, kv_presets[i].name, MANY);
        if (many - few >= (MANY - FEW) / 8)
            fail_msg("%s: %d allocations for %d tokens, %d for %d", kv_presets[i].name, few, FEW, many, MANY);
        json_decref(desk_ask(&s.desk, TEXT, "{\"prompt\":\"x\",\"max_tokens\":1}"));
    }
    int n_shared = 0;
    for (int i = 0; i < MOST_LOCKS; i++)
        for (int k = 0; k < MOST_LOCKS; k++)
            n_shared += atomic_load(&engine_lock[i]) && atomic_load(&engine_lock[i]) == atomic_load(&other_lock[k]);
    if (n_shared > 1) /* the one that the scheduler sleeps on while there is nothing to do */
        fail_msg("the engine's thread shares %d locks", n_shared);
    shop_close(&s);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
