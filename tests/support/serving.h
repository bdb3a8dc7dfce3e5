/* serving.h - tests: `pleat serve` as a program that runs, over a tiny model. */
#ifndef TESTS_SERVING_H
#define TESTS_SERVING_H
#include "support/program.h"

typedef struct serving {
    program_live program;
    json_t *said; /* its first words */
    int port;
} serving;

/* The file of the model: a context of 2,048 tokens, a chatml template. */
const char *serving_model(void);
/* A new file with these words; the same tag, the same file. */
const char *serving_file(const char *tag, const char *words);
/* Arguments from the command on, NULL-ended, with --json among them or in the configuration file. */
serving serving_start(const char *const *arguments);
#define SERVING(...) serving_start((const char *const[]){"serve", __VA_ARGS__, "--json", NULL})
/* SIGTERM; fails the test unless it ends with 0. */
void serving_stop(serving *s);
#endif
