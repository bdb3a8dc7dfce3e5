/* desk.c - see desk.h. */
#include "support/desk.h"
#include "support/bed.h"
#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- the process ---- */

static void serve(serve_options o, size_t pool_bytes, size_t prefix_bytes, int to_parent) {
    sigset_t set;
    int number;
    server *s;
    pleat_error error;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mallopt(M_MMAP_THRESHOLD, 1 << 18); /* large blocks go back at once: tests look at the memory held */
    tiny_options tiny = tiny_default();
    tiny.context = DESK_CONTEXT;
    bed b = bed_open(tiny, (pleat_engine_options){.n_threads = 1,
                                                  .max_step_tokens = 256,
                                                  .max_sequences = 16,
                                                  .pool_bytes = pool_bytes ? pool_bytes : (size_t)64 << 20,
                                                  .prefix_bytes = prefix_bytes});
    o.name = "tiny";
    o.chat = "chatml";
    if (serve_open(b.engine, &o, &s, &error)) {
        fprintf(stderr, "%s\n", error.text);
        _exit(3);
    }
    int port = serve_port(s);
    if (write(to_parent, &port, sizeof(port)) != sizeof(port))
        _exit(4);
    sigwait(&set, &number);
    serve_drain(s);
    bool drained = serve_drained(s, 20);
    serve_close(s);
    bed_close(&b);
    exit(drained ? 0 : 5);
}

desk desk_open(serve_options o, size_t pool_bytes, size_t prefix_bytes) {
    int pipes[2];
    desk d = {.port = 0};
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    d.pid = fork();
    assert_true(d.pid >= 0);
    if (d.pid == 0) {
        close(pipes[0]);
        serve(o, pool_bytes, prefix_bytes, pipes[1]);
    }
    close(pipes[1]);
    if (read(pipes[0], &d.port, sizeof(d.port)) != sizeof(d.port))
        fail_msg("the server did not start");
    close(pipes[0]);
    return d;
}

void desk_signal(const desk *d) {
    kill(d->pid, SIGTERM);
}

void desk_wait(desk *d) {
    int status;
    assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fail_msg("the server ended with %s %d", WIFEXITED(status) ? "status" : "signal",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

void desk_close(desk *d) {
    desk_signal(d);
    desk_wait(d);
}

/* ---- answers ---- */

json_t *desk_ask(const desk *d, const char *path, const char *body) {
    char what[300];
    snprintf(what, sizeof(what), "%s %s", body ? "POST" : "GET", path);
    web_answer a = web_ask(d->port, what, NULL, body);
    if (a.status != 200)
        fail_msg("%s: status %d: %.300s", what, a.status, a.body.bytes ? a.body.bytes : "");
    json_t *value = web_json(&a);
    web_free(&a);
    return value;
}

static const json_t *choice_at(const json_t *answer, size_t i) {
    const json_t *choice = json_array_get(json_object_get(answer, "choices"), i);
    assert_non_null(choice);
    return choice;
}

json_int_t desk_number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("%s is not a whole number", key);
    return json_integer_value(value);
}

const char *desk_text(const json_t *answer, size_t i) {
    const json_t *choice = choice_at(answer, i), *message = json_object_get(choice, "message");
    const char *said = json_string_value(json_object_get(message ? message : choice, message ? "content" : "text"));
    assert_non_null(said);
    return said;
}

json_t *desk_events(const web_answer *a, bool *done) {
    json_t *list = json_array();
    *done = false;
    assert_false(a->cut);
    for (const char *at = a->body.bytes, *next; at && *at; at = next) {
        next = strstr(at, "\n\n");
        assert_non_null(next);
        next += 2;
        if (*at == ':')
            continue;
        assert_memory_equal(at, "data: ", 6);
        assert_false(*done); /* nothing after [DONE] */
        *done = !strncmp(at, "data: [DONE]\n", 13);
        if (*done)
            continue;
        json_t *event = json_loadb(at + 6, (size_t)(next - at) - 8, JSON_ALLOW_NUL, NULL);
        assert_non_null(event);
        json_array_append_new(list, event);
    }
    return list;
}

json_t *desk_stream(const web_answer *a, size_t i, text *out, char finish[16]) {
    bool ended;
    json_t *events = desk_events(a, &ended), *event, *usage = NULL;
    size_t e;
    finish[0] = 0;
    json_array_foreach(events, e, event) {
        const json_t *choices = json_object_get(event, "choices"), *now = json_object_get(event, "usage");
        assert_true(json_is_array(choices));
        if (json_is_object(now)) {
            json_decref(usage);
            usage = json_incref((json_t *)now);
        }
        for (size_t k = 0; k < json_array_size(choices); k++) {
            const json_t *c = json_array_get(choices, k), *delta = json_object_get(c, "delta");
            if (json_integer_value(json_object_get(c, "index")) != (json_int_t)i)
                continue;
            const json_t *piece = json_object_get(delta ? delta : c, delta ? "content" : "text");
            text_append(out, json_string_value(piece), json_string_length(piece));
            assert_string_equal(finish, ""); /* nothing after its end */
            const char *said = json_string_value(json_object_get(c, "finish_reason"));
            snprintf(finish, 16, "%s", said ? said : "");
        }
    }
    json_decref(events);
    assert_true(ended);
    text_append(out, "", 0);
    return usage;
}

/* ---- figures ---- */

double desk_figure_of(const desk *d, const char *name, const char *label) {
    web_answer a = web_ask(d->port, "GET /metrics", NULL, NULL);
    assert_int_equal(a.status, 200);
    double sum = NAN;
    size_t n = strlen(name);
    for (const char *at = a.body.bytes; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, name, n) || at[n] != '{')
            continue;
        const char *value = strstr(at, "} "), *found = label ? strstr(at, label) : at;
        assert_non_null(value);
        if (found && found < value)
            sum = (isnan(sum) ? 0 : sum) + strtod(value + 2, NULL);
    }
    web_free(&a);
    return sum;
}

double desk_figure(const desk *d, const char *name) {
    double x = desk_figure_of(d, name, NULL);
    if (isnan(x))
        fail_msg("/metrics has no %s", name);
    return x;
}

void desk_await_in(const desk *d, const char *name, double least, double most) {
    enum { PATIENCE_MS = 60000 };
    double now = NAN;
    for (int i = 0; i < PATIENCE_MS && !(now >= least && now <= most); i++) {
        now = desk_figure_of(d, name, NULL);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (!(now >= least && now <= most))
        fail_msg("%s is %g, not %g to %g: %g run, %g wait, %g ended, %g answers of 4xx, %g of 5xx", name, now, least,
                 most, desk_figure(d, "vllm:num_requests_running"), desk_figure(d, "vllm:num_requests_waiting"),
                 desk_figure(d, "vllm:request_success_total"), desk_figure_of(d, "pleat:http_answers_total", "\"4xx\""),
                 desk_figure_of(d, "pleat:http_answers_total", "\"5xx\""));
}

void desk_await(const desk *d, const char *name, double least) {
    desk_await_in(d, name, least, INFINITY);
}

void desk_quiet(const desk *d) {
    double left = 1;
    for (int i = 0; i < 3000 && left > 0; i++) {
        left = desk_figure(d, "vllm:num_requests_running") + desk_figure(d, "vllm:num_requests_waiting") +
               desk_figure(d, "pleat:kv_pool_used_bytes");
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (left > 0)
        fail_msg("%g requests or bytes are left", left);
}

void desk_unasked(const desk *d) {
    for (int i = 0; i < 3000 && !isnan(desk_figure_of(d, "pleat:requests", NULL)); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    if (!isnan(desk_figure_of(d, "pleat:requests", NULL)))
        fail_msg("an answer is still under way to its client");
}

int desk_fds(const desk *d) {
    char path[64];
    int n = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)d->pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

size_t desk_rss(const desk *d) {
    char path[64];
    size_t pages = 0;
    snprintf(path, sizeof(path), "/proc/%d/statm", (int)d->pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*s %zu", &pages), 1);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}
