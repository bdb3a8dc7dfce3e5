/* program.h - tests: runs build/pleat (the one beside the running test, or PLEAT_BIN) and looks at what it says. */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H
#include <jansson.h>
#include <stddef.h>
#include <sys/types.h>

/* Finds the program from the test's own argv[0]; call it first. */
void program_find(const char *test_path);

const char *program_path(void);

typedef struct program_result {
    int code;            /* exit code, or -signal */
    char *out, *err;     /* malloc'ed, ended by 0 */
    size_t n_out, n_err; /* bytes */
} program_result;
/* Arguments after the program's name, NULL-ended. input may be NULL: an empty standard input. */
program_result program_run(const char *const *arguments, const char *input, size_t n_input);
void program_free(program_result *r);
#define PROGRAM(...) program_run((const char *const[]){__VA_ARGS__, NULL}, NULL, 0)

/* Runs it and fails the test unless the exit code is the one given; for code 1 and 2 standard error must be one line,
 * "pleat COMMAND: SENTENCE", that holds word. */
void program_refuses(int code, const char *word, const char *const *arguments);
#define PROGRAM_REFUSES(code, word, ...) program_refuses(code, word, (const char *const[]){__VA_ARGS__, NULL})
/* Runs it with --json added; exit code 0, one object on standard output, on standard error nothing but warnings; the
 * caller decrefs it. */
json_t *program_json(const char *const *arguments);
#define PROGRAM_JSON(...) program_json((const char *const[]){__VA_ARGS__, NULL})

/* Runs "pleat COMMAND ARGUMENTS", arguments as one would type them in a shell; standard output and error, together, go
 * to out [cap], ended by 0. Returns the exit code. */
int program_line(const char *command, const char *arguments, char *out, size_t cap);

/* Runs it with pipes, to talk to it while it runs. */
typedef struct program_live {
    pid_t pid;
    int in, out, err;
} program_live;
program_live program_start(const char *const *arguments);
/* Reads from fd until word has come or the stream ends (or 60 s have passed: the test fails); all that was read,
 * malloc'ed. */
char *program_await(int fd, const char *word);
/* Closes its input, reads the rest; code as above. */
program_result program_end(program_live *p);
#endif
