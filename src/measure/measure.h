/* measure.h - what the measurements share: methods under their labels, progress, the identity of a run. */
#ifndef MEASURE_MEASURE_H
#define MEASURE_MEASURE_H
#include "pleat.h"
#include "store/store.h"
#include <jansson.h>

enum { MEASURE_MOST_METHODS = 32 };

typedef struct measure_methods {
    char *label[MEASURE_MOST_METHODS]; /* as the user wrote them; "f16" first */
    pleat_method *method[MEASURE_MOST_METHODS];
    int n;
} measure_methods;

/* A list of specs separated by commas (those inside parentheses or between a colon and the next "+" or known start of a
 * spec do not count: separate specs that have commas of their own with ";"), or "all": every preset. f16 is put first
 * when it is missing. PLEAT_EINPUT names the bad one. Free with measure_methods_free. */
pleat_status measure_methods_parse(const char *list, const pleat_model *model, measure_methods *out,
                                   pleat_error *error);
void measure_methods_free(measure_methods *methods);

/* done of total units; detail says what is being done. */
typedef struct measure_watch {
    void (*update)(void *context, double done, double total, const char *detail); /* NULL: nobody watches */
    void *context;
} measure_watch;
void measure_tell(const measure_watch *watch, double done, double total, const char *detail);

/* The ids of a prompt that is one message of the user: in the chat format that the model's file says, plain where it
 * says none. *ids is malloc'ed. */
pleat_status measure_prompt_ids(const pleat_model *model, const char *prompt, size_t n_bytes, int32_t **ids, int *n_ids,
                                pleat_error *error);

/* About how long one decode step of a batch takes whose sequences hold n_tokens each, where a token of prefill takes 1:
 * good enough for the time left of a progress bar. */
double measure_step_cost(int batch, int n_tokens);

/* The conditions of a run; options is JSON, kept by the caller. Strings live in *identity. The version is that of the
 * very program that runs, so that figures of two builds are never joined into one run. */
typedef struct measure_identity {
    char machine[160], hash[24], version[64];
} measure_identity;
/* What no column of a run says, into its options: weights that stay in the mapped file ("repack": "off"). */
void measure_options_add(json_t *options, const pleat_model *model);
/* Of a run's options, as a store keeps them, or NULL: weights were packed at load, as they are for everyone who does
 * not say --repack off. */
bool measure_options_repacked(const char *options);
store_run measure_run_of(const char *what, const pleat_model *model, const pleat_engine *engine, const char *options,
                         measure_identity *identity);
#endif
