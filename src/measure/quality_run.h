/* quality_run.h - the quality table of a model: every method's perplexity, KL and bytes at several window sizes, and
 * what it still finds in a long text; each result stored as it is made. */
#ifndef MEASURE_QUALITY_RUN_H
#define MEASURE_QUALITY_RUN_H
#include "measure/needle.h"
#include "measure/quality.h"

enum { QUALITY_MOST_SIZES = 32 };

/* What is asked for now. The run's identity is model, machine, program, methods, text and n_scored: other sizes, more
 * windows and more rounds join the run that is there, and what it holds is not measured again. */
typedef struct quality_plan {
    const measure_methods *methods;
    const char *text, *text_name;
    size_t text_bytes;
    int ctx[QUALITY_MOST_SIZES], n_ctx, n_windows, n_scored; /* windows of each size; 0 scored: half a window */
    int needle[QUALITY_MOST_SIZES], n_needles, n_rounds;     /* tokens of a needle prompt; rounds of each size */
} quality_plan;

/* Measures what the store lacks of the plan, sizes in the order given, windows before needles. Killed at any time it
 * goes on with the first window or round that is not whole. PLEAT_EINPUT as quality_text_open and needle_open, before
 * anything is measured. */
pleat_status quality_run(pleat_engine *engine, const quality_plan *plan, store *db, store_how how, store_begun *begun,
                         const measure_watch *watch, pleat_error *error);

typedef struct quality_row {
    const char *label, *spec;
    int ctx;
    quality_result result;
} quality_row;

typedef struct quality_found {
    const char *label;
    int tokens, n_rounds, found[NEEDLE_DEPTHS]; /* of n_rounds each, by depth */
} quality_found;

/* All that a run holds: rows by window size and then in the order of the methods. */
typedef struct quality_table {
    quality_row *row;
    quality_found *found;
    int n_rows, n_found;
    store_windows windows; /* rows borrow from it */
    store_scores scores;
} quality_table;
pleat_status quality_table_read(store *db, int64_t run, quality_table *out, pleat_error *error);
void quality_table_free(quality_table *t);
#endif
