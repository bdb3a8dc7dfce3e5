/* grid.h - a profile from measured throughput alone, for engines whose operators nobody profiled (ours). */
#ifndef PREDICT_GRID_H
#define PREDICT_GRID_H
#include "predict/points.h"

enum { PREDICT_GRID_LEAST = 3 }; /* points of each stage */

/* Fits the time of whole steps to a method's points that are `fitted` and adds it as rows of a profile of one layer, so
 * that the one formula evaluates it. budget as in predict_profile_options. PLEAT_EINPUT: a stage has fewer than
 * PREDICT_GRID_LEAST points. */
pleat_status predict_grid_fit(const predict_points *points, int budget, predict_rows *rows, pleat_error *error);

/* The accuracy on whole batch sizes (by_length: whole lengths) that the fit has not seen, each left out in turn; 0 when
 * what is left is too little. Leaves every point unfitted. */
double predict_grid_held_out(predict_points *points, int budget, predict_stage stage, bool by_length);
#endif
