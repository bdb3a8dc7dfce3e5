/* serve_run.c - see serve_run.h. Signals are blocked before any thread is there, and waited for on this one. */
#include "cli/serve_run.h"
#include "base/clock.h"
#include "cli/methods.h"
#include "cli/print.h"
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

static void stop_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

static bool signalled(const sigset_t *set) {
    return sigtimedwait(set, NULL, &(struct timespec){0}) > 0;
}

/* Until a first signal; then until all answers are sent, the time is over, or a second one. */
static void wait_for_end(const serve_task *t, server *serving, const sigset_t *set) {
    int number;
    while (sigwait(set, &number))
        ;
    serve_drain(serving);
    fprintf(stderr, "pleat serve: shutting down; waiting up to %g s for the answers under way\n", t->drain_seconds);
    double end = clock_seconds() + t->drain_seconds;
    while (clock_seconds() < end && !serve_drained(serving, 0.05) && !signalled(set))
        ;
}

static pleat_status open_all(const char *command_name, const serve_task *t, pleat_model **model, pleat_engine **engine,
                             serve_plan *p, server **serving, pleat_error *error) {
    serve_options o = t->options;
    pleat_method *method = NULL; /* requests parse it again: here it is for warnings, then for the plan */
    pleat_status status = model_open(t->model, t->n_threads, t->repack, model, error);
    status = status ? status : method_read(command_name, o.method, *model, &method, error);
    pleat_method_free(method);
    method = NULL;
    status = status ? status : serve_method(o.method, *model, &method, error);
    status = status ? status
                    : plan_make(&o, &t->sizes, t->n_threads ? t->n_threads : threads_cores(), *model, method, p, error);
    pleat_method_free(method);
    if (status)
        return status;
    pleat_engine_options engine_options = {.n_threads = t->n_threads,
                                           .pool_bytes = p->pool,
                                           .max_step_tokens = o.scheduler.step_tokens,
                                           .max_sequences = o.scheduler.max_running,
                                           .prefix_bytes = p->prefix};
    o.scheduler.moved_bytes = p->moved ? p->moved : 1;
    o.request_bytes = p->requests;
    status = pleat_engine_open(*model, &engine_options, engine, error);
    return status ? status : serve_open(*engine, &o, serving, error);
}

static void print_start(const char *command_name, const serve_task *t, const serve_plan *p, const server *serving,
                        const pleat_engine *engine) {
    const serve_options *o = &t->options;
    char where[400];
    if (o->http.path)
        snprintf(where, sizeof(where), "unix:%.380s", o->http.path);
    else
        snprintf(where, sizeof(where), "http://%.380s:%d", o->http.host, serve_port(serving));
    plan_warn(command_name, o, p);
    if (t->json) {
        print_json(command_name, json_pack("{s:s,s:s,s:s,s:i,s:o}", "model", o->name, "method", o->method, "address",
                                           where, "port", serve_port(serving), "memory", plan_json(p)));
    } else {
        plan_print(p);
        printf("%s, %s, %d threads, %s\nlistening on %s\n", o->name, o->method, engine_threads(engine),
               pleat_engine_level(engine), where);
    }
    fflush(stdout);
}

static void raise_files(void) {
    enum { ENOUGH = 65536 };
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max && limit.rlim_cur < ENOUGH) {
        limit.rlim_cur = limit.rlim_max < ENOUGH ? limit.rlim_max : ENOUGH;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* What requests held goes back to the system when they end: left alone, glibc raises this bound with the largest block
 * that was freed, up to 32 MB, and then keeps such blocks. */
static void give_back_large_blocks(void) {
    enum { LARGE_BYTES = 1 << 20 };
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
}

int serve_run(const char *command_name, const serve_task *t) {
    pleat_model *model = NULL;
    pleat_engine *engine = NULL;
    server *serving = NULL;
    serve_plan p = {0};
    pleat_error error;
    sigset_t set;
    raise_files();
    give_back_large_blocks();
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pleat_status status = open_all(command_name, t, &model, &engine, &p, &serving, &error);
    int code = status ? print_error(command_name, &error) : EXIT_OK;
    if (!status) {
        print_start(command_name, t, &p, serving, engine);
        wait_for_end(t, serving, &set);
        serve_close(serving);
    }
    pleat_engine_close(engine);
    pleat_model_close(model);
    return code;
}
