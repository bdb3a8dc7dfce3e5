/* program.c - see program.h. */
#include "support/program.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { MOST_ARGUMENTS = 60, PATIENCE_MS = 60000 };

static char path[4200];

void program_find(const char *test_path) {
    const char *own = getenv("PLEAT_BIN"), *tests = strstr(test_path, "/tests/");
    if (own)
        snprintf(path, sizeof(path), "%s", own);
    else
        snprintf(path, sizeof(path), "%.*s/pleat", tests ? (int)(tests - test_path) : 5, tests ? test_path : "build");
}

const char *program_path(void) {
    return path;
}

static void become(const char *const *arguments, int in, int out, int err) {
    char *argv[MOST_ARGUMENTS + 2] = {path};
    for (int i = 0; arguments[i]; i++) {
        if (i == MOST_ARGUMENTS)
            _exit(126);
        argv[i + 1] = (char *)arguments[i];
    }
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    signal(SIGINT, SIG_DFL);
    execv(path, argv);
    _exit(127);
}

static int wait_for(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static char *contents(int fd, size_t *n) {
    off_t end = lseek(fd, 0, SEEK_END);
    char *bytes = malloc((size_t)end + 1);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, (size_t)end, 0), end);
    bytes[end] = 0;
    *n = (size_t)end;
    close(fd);
    return bytes;
}

program_result program_run(const char *const *arguments, const char *input, size_t n_input) {
    int fd[3];
    program_result r;
    for (int i = 0; i < 3; i++)
        fd[i] = memfd_create("stream", MFD_CLOEXEC);
    assert_true(fd[2] >= 0);
    if (n_input)
        assert_int_equal(pwrite(fd[0], input, n_input, 0), n_input);
    pid_t pid = fork();
    if (pid == 0)
        become(arguments, fd[0], fd[1], fd[2]);
    r.code = wait_for(pid);
    close(fd[0]);
    r.out = contents(fd[1], &r.n_out);
    r.err = contents(fd[2], &r.n_err);
    if (r.code == 127)
        fail_msg("%s cannot be started (make all)", path);
    return r;
}

void program_free(program_result *r) {
    free(r->out);
    free(r->err);
    *r = (program_result){0};
}

int program_line(const char *command, const char *arguments, char *out, size_t cap) {
    char line[6000];
    assert_true(snprintf(line, sizeof(line), "%s %s %s 2>&1", path, command, arguments) < (int)sizeof(line));
    FILE *f = popen(line, "r");
    assert_non_null(f);
    out[fread(out, 1, cap - 1, f)] = 0;
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

void program_refuses(int code, const char *word, const char *const *arguments) {
    program_result r = program_run(arguments, NULL, 0);
    if (r.code != code)
        fail_msg("\"%s\": exit code %d, not %d; it said: %s", word, r.code, code, r.err);
    if (!strstr(r.err, word))
        fail_msg("\"%s\" is not in: %s", word, r.err);
    char *end = strchr(r.err, '\n');
    if (!end || end[1] || strncmp(r.err, "pleat", 5) || r.n_out)
        fail_msg("not one sentence alone: %s%s", r.err, r.out);
    program_free(&r);
}

/* Nothing, or lines of "pleat COMMAND: warning: SENTENCE". */
static bool warns_alone(const char *err) {
    for (const char *line = err; *line;) {
        const char *end = strchr(line, '\n'), *mark = strstr(line, ": warning: ");
        if (!end || !mark || mark > end || strncmp(line, "pleat ", 6))
            return false;
        line = end + 1;
    }
    return true;
}

json_t *program_json(const char *const *arguments) {
    const char *all[MOST_ARGUMENTS] = {arguments[0], "--json"};
    json_error_t error;
    for (int i = 1; arguments[i]; i++) {
        assert_true(i + 2 < MOST_ARGUMENTS);
        all[i + 1] = arguments[i];
    }
    program_result r = program_run(all, NULL, 0);
    if (r.code || !warns_alone(r.err))
        fail_msg("%s: exit code %d: %s", arguments[0], r.code, r.err);
    json_t *object = json_loadb(r.out, r.n_out, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!json_is_object(object))
        fail_msg("%s: not one JSON object (%s): %s", arguments[0], error.text, r.out);
    program_free(&r);
    return object;
}

program_live program_start(const char *const *arguments) {
    int in[2], out[2], err[2];
    assert_true(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC) && !pipe2(err, O_CLOEXEC));
    program_live p = {.in = in[1], .out = out[0], .err = err[0]};
    p.pid = fork();
    if (p.pid == 0)
        become(arguments, in[0], out[1], err[1]);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    return p;
}

/* Appends what comes until word or the end. */
static void read_on(int fd, const char *word, char **bytes, size_t *n) {
    for (;;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        *bytes = realloc(*bytes, *n + 4097);
        assert_non_null(*bytes);
        (*bytes)[*n] = 0;
        if (word && memmem(*bytes, *n, word, strlen(word))) /* there may be zeros before it */
            return;
        if (poll(&wait, 1, PATIENCE_MS) <= 0)
            fail_msg("nothing came for a minute; before that: %s", *bytes);
        ssize_t got = read(fd, *bytes + *n, 4096);
        if (got <= 0)
            return;
        *n += (size_t)got;
    }
}

char *program_await(int fd, const char *word) {
    char *bytes = NULL;
    size_t n = 0;
    read_on(fd, word, &bytes, &n);
    if (!memmem(bytes, n, word, strlen(word)))
        fail_msg("\"%s\" did not come, but: %s", word, bytes);
    return bytes;
}

program_result program_end(program_live *p) {
    program_result r = {0};
    if (p->in >= 0)
        close(p->in);
    read_on(p->out, NULL, &r.out, &r.n_out);
    read_on(p->err, NULL, &r.err, &r.n_err);
    close(p->out);
    close(p->err);
    r.code = wait_for(p->pid);
    return r;
}
