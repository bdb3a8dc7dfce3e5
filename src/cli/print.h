/* print.h - what the commands share: errors, JSON, models by name, files. */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H
#include "pleat.h"
#include "cli/options.h"
#include <jansson.h>

/* "pleat NAME: SENTENCE" on stderr; returns EXIT_FAILED (EXIT_USAGE when no work was begun and the input was bad is up
 * to the caller). */
int print_error(const char *command_name, const pleat_error *error);
/* One object on stdout, and frees it. EXIT_FAILED when it could not be written. */
int print_json(const char *command_name, json_t *object);

/* $PLEAT_HOME, else ~/.cache/pleat, into out; false: neither is known. */
bool home_path(char *out, size_t cap);
/* The file of a model by name or path: a name with "/" or ending in .gguf is a path, others are looked up in
 * $PLEAT_HOME/models. PLEAT_EINPUT says how to get one that is missing. */
pleat_status model_path(const char *name, char *out, size_t cap, pleat_error *error);
/* repack false: weights stay in the mapped file (pleat_model_open_mapped). */
pleat_status model_open(const char *name, int n_threads, bool repack, pleat_model **model, pleat_error *error);
/* A whole file ("-": stdin) into malloc'ed bytes, ended by 0 (not counted). PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status file_read(const char *path, char **bytes, size_t *n_bytes, pleat_error *error);
#endif
