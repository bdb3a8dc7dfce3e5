/* cases.h - a method's profile with its measured points: from published files or a study store, fitted, scored. */
#ifndef PREDICT_CASES_H
#define PREDICT_CASES_H
#include "predict/points.h"
#include "store/store.h"

typedef struct predict_cell { /* one stage */
    predict_stage stage;
    int n, n_fitted; /* points scored; points of this stage that a correction was fitted on */
    double accuracy;
    double held_out_batch, held_out_length; /* whole batch sizes, lengths not fitted on; 0: not asked or too few */
} predict_cell;

typedef struct predict_case {
    char method[64];
    predict_rows rows;
    predict_profile *profile;
    predict_points points;
    bool calibrated; /* its terms come from a base's measured points... */
    bool in_sample;  /* ...which are its own, or it is fitted on its grid: score it by held_out */
    bool from_grid;  /* the profile is fitted on the points themselves (grid.h) */
    predict_cell cell[PREDICT_STAGES];
    int n_cells;
} predict_case;

typedef struct predict_published { /* names of files of the published form */
    const char *directory, *method;
    const char *measured;  /* NULL: none */
    const char *calibrate; /* measured file of the base; NULL: plain sum */
    const char *base;      /* the base's method */
    int budget;            /* -1: predict_study_budget() */
} predict_published;

/* PLEAT_EIO, PLEAT_EINPUT, PLEAT_EMEMORY. Free with predict_case_free, also after a failure. */
pleat_status predict_case_load(const predict_published *from, predict_case *out, pleat_error *error);
void predict_case_free(predict_case *c);

/* Fits the terms on a seeded fifth of the points; the rest is what predict_case_score scores. A case calibrated on its
 * own points goes back to the plain sum first. PLEAT_EINPUT: no measured points, or a profile fitted on its grid. */
pleat_status predict_case_correct(predict_case *c, uint64_t seed, pleat_error *error);
void predict_case_score(predict_case *c);

/* ---- in a store ---- */

/* The run of published files with this profile: found, or added under a name for its model. */
pleat_status predict_run_publish(store *s, const predict_case *c, const char *model, const char *directory,
                                 int64_t *run, pleat_error *error);
/* Writes profile, points and fitted terms into the run. */
pleat_status predict_case_put(store *s, int64_t run, const predict_case *c, pleat_error *error);
/* The run that predictors are read from: run, else the newest that holds throughput, one of `--repack off` only where
 * there is no other. PLEAT_EINPUT: none. Strings belong to runs. */
pleat_status predict_run_find(const store_runs *runs, store *s, int64_t run, const store_run **out, pleat_error *error);
/* A method of a run: with its stored profile and terms, else (a run of `pleat bench`) fitted on its grid.
 * PLEAT_EINPUT: the run lacks it (the sentence lists what is there), or too few points. */
pleat_status predict_case_get(store *s, const store_run *run, const char *method, predict_case *out,
                              pleat_error *error);
/* Labels of a run's measured methods, each once, in their order; *n of them; free list and each. */
pleat_status predict_case_list(store *s, const store_run *run, char ***list, int *n, pleat_error *error);
#endif
