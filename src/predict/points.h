/* points.h - measured throughput, and how well a profile predicts it.
 *
 * Accuracy is the study's: the mean over points of 1 - |predicted - measured| / measured, of rates. A profile's terms
 * may be fitted in two steps. *Calibration*: one factor a stage on the points of an uncompressed base, which then holds
 * for every method: the engine's own share. *Correction*: on a seeded fifth of a method's own points. */
#ifndef PREDICT_POINTS_H
#define PREDICT_POINTS_H
#include "predict/throughput.h"

enum { PREDICT_MOST_ROWS = 32 };

typedef struct predict_point {
    predict_stage stage;
    int batch, prompt_tokens;
    double rate; /* tokens/s of the whole batch: the mean of its rows */
    int n_rows;
    double row[PREDICT_MOST_ROWS]; /* the first of them */
    bool fitted;                   /* taken by predict_points_pick: to fit on, not to score */
} predict_point;

typedef struct predict_points {
    predict_point *point; /* [n], malloc'ed; in the order of their first rows */
    int n, cap;
} predict_points;

/* Adds a row, or averages it into the point that is there. */
pleat_status predict_points_add(predict_points *points, const predict_point *row, pleat_error *error);
/* Adds the rows of a published file: columns bsz, prompt_len, stage, thr; others are not read. Decode rows with an odd
 * length hold the length after the PREDICT_DECODE_TOKENS new ones. PLEAT_EIO, PLEAT_EINPUT (file, line, column,
 * value; no row). */
pleat_status predict_points_load(const char *file, predict_points *points, pleat_error *error);
void predict_points_free(predict_points *points);
bool predict_points_equal(const predict_points *a, const predict_points *b);

enum { PREDICT_MOST_SIZES = 64 };
/* A stage's batch sizes and lengths, rising; of more than PREDICT_MOST_SIZES the first met. */
void predict_points_sizes(const predict_points *points, predict_stage stage, int batch[PREDICT_MOST_SIZES],
                          int *n_batch, int prompt[PREDICT_MOST_SIZES], int *n_prompt);
const predict_point *predict_points_find(const predict_points *points, predict_stage stage, int batch,
                                         int prompt_tokens); /* or NULL */

/* The share of a stage's points, not `fitted`, that is not an error; *n of them (0: the result is 0). */
double predict_accuracy(const predict_profile *profile, const predict_points *points, predict_stage stage, int *n);

/* Multiplies each measured stage's terms of the profile with the one factor that makes its mean error least. */
void predict_calibrate(predict_profile *profile, const predict_points *points);
/* The accuracy of a calibrated base where it was not fitted: every whole batch size (by_length: every whole length) is
 * left out in turn and scored with a factor fitted on the others. 0 when there is but one. */
double predict_held_out(const predict_profile *profile, const predict_points *points, predict_stage stage,
                        bool by_length);

/* Marks a fifth of each stage's points (rounded, at least one of two) as `fitted`. They are spread: the stage's points, sorted
 * by the share that attention has in their predicted time, are cut into as many runs, and the seed draws one of each.
 * No measured rate is looked at. PLEAT_EMEMORY. */
pleat_status predict_points_pick(predict_points *points, const predict_profile *profile, uint64_t seed,
                                 pleat_error *error);
/* Fits a stage's two terms on its `fitted` points: least squares of the relative error of the time, drawn to the terms
 * as they stand. calibrated: these come from a base on the same engine, so that they are trusted more. */
void predict_correct(predict_profile *profile, const predict_points *points, bool calibrated);
#endif
