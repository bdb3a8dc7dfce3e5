/* study.h - all measurements of one model in one go, each result stored as it is made; killed at any time it goes on
 * where it stopped. */
#ifndef MEASURE_STUDY_H
#define MEASURE_STUDY_H
#include "measure/lengths.h"
#include "measure/quality.h"
#include "measure/throughput.h"

typedef struct study_plan {
    throughput_grid grid; /* its methods are those of every part */
    const lengths_prompts *prompts;
    int n_prompts;                    /* the first ones of them */
    const char *prompt_set;           /* name of the set */
    int max_tokens;                   /* of an answer */
    int quality_ctx, quality_windows; /* 0 windows: no quality part */
} study_plan;

typedef struct study_done {
    store_begun begun;
    int n_skipped;     /* prompts that do not fit in the KV memory */
    bool measured_any; /* false: the store held everything */
} study_done;

/* Runs what the store does not hold yet of the run that `how`, plan and conditions name. */
pleat_status study_run(pleat_engine *engine, const study_plan *plan, store *db, store_how how, study_done *done,
                       const measure_watch *watch, pleat_error *error);

/* Throughput alone, under the run name "bench". */
pleat_status study_bench(pleat_engine *engine, const throughput_grid *grid, store *db, store_how how, study_done *done,
                         const measure_watch *watch, pleat_error *error);
#endif
