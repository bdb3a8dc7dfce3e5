/* env.h - what the tests may count on here: real models, reference files, sanitizers, long runs. */
#ifndef TESTS_ENV_H
#define TESTS_ENV_H
#include <stdbool.h>
#include <stddef.h>

/* The file of a real model if it is there (under PLEAT_HOME); else prints "skipped: ..." and skips the test. */
const char *env_model(const char *name);
bool env_sanitized(void); /* built under ASan */
bool env_all(void);       /* PLEAT_ALL: long tests too */
/* Skips the test with a line. */
void env_skip(const char *why);
/* A new file name under the system's folder for temporary files; the same until the program ends for the same tag. What
 * is left there, files beside it whose names begin alike, folders too, goes when the program ends. */
const char *env_temp(const char *tag);
/* A file of tests/data, malloc'ed and ended by 0; the test fails when it is not there. */
char *env_data(const char *name, size_t *n_bytes);
/* The path of a reference file under PLEAT_REFERENCE (default ../shared) if it is there; else prints "skipped: ..." and
 * skips the test. The same buffer at every call. */
const char *env_reference(const char *name);
#endif
