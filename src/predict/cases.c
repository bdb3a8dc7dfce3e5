/* cases.c - one method's profile with its points: loading from files, correcting, scoring. stored.c has the store. */
#include "predict/cases.h"
#include "predict/grid.h"
#include "base/status.h"
#include <stdio.h>
#include <string.h>

void predict_case_free(predict_case *c) {
    predict_rows_free(&c->rows);
    predict_profile_free(c->profile);
    predict_points_free(&c->points);
}

/* The terms that make the base's own profile fit its measured points. */
static pleat_status base_terms(const predict_published *from, predict_case *c, predict_terms terms[PREDICT_STAGES],
                               pleat_error *error) {
    predict_profile *base = NULL;
    predict_points points = {0};
    pleat_status status = predict_profile_load(from->directory, from->base, NULL, &base, error);
    status = status ? status : predict_points_load(from->calibrate, &points, error);
    if (!status) {
        predict_calibrate(base, &points);
        predict_profile_options fitted = predict_profile_options_of(base);
        memcpy(terms, fitted.terms, sizeof(fitted.terms));
        c->calibrated = true;
        c->in_sample = predict_points_equal(&points, &c->points);
    }
    predict_profile_free(base);
    predict_points_free(&points);
    return status;
}

pleat_status predict_case_load(const predict_published *from, predict_case *out, pleat_error *error) {
    predict_profile_options options = {.budget = from->budget < 0 ? predict_study_budget(from->method) : from->budget};
    pleat_error why;
    *out = (predict_case){.n_cells = 0};
    snprintf(out->method, sizeof(out->method), "%s", from->method);
    pleat_status status = predict_rows_load(from->directory, from->method, &out->rows, error);
    if (!status && from->measured)
        status = predict_points_load(from->measured, &out->points, error);
    if (!status && from->calibrate)
        status = base_terms(from, out, options.terms, error);
    if (!status && (status = predict_profile_make(&out->rows, &options, &out->profile, &why)))
        err_set(error, status, "%.200s, method %.60s: %.200s", from->directory, from->method, why.text);
    return status;
}

pleat_status predict_case_correct(predict_case *c, uint64_t seed, pleat_error *error) {
    if (c->from_grid)
        return err_set(error, PLEAT_EINPUT, "%s is fitted on its own points already; a fifth corrects a profile only",
                       c->method);
    if (!c->points.n)
        return err_set(error, PLEAT_EINPUT, "%s has no measured points to correct with", c->method);
    if (c->in_sample) {
        predict_profile_options options = predict_profile_options_of(c->profile);
        memset(options.terms, 0, sizeof(options.terms));
        predict_profile_tune(c->profile, &options);
        c->calibrated = c->in_sample = false;
    }
    pleat_status status = predict_points_pick(&c->points, c->profile, seed, error);
    if (!status)
        predict_correct(c->profile, &c->points, c->calibrated);
    return status;
}

static double mean_of(double a, double b) {
    return a > 0 && b > 0 ? (a + b) / 2 : a + b;
}

void predict_case_score(predict_case *c) {
    int budget = predict_profile_options_of(c->profile).budget;
    c->n_cells = 0;
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        predict_cell cell = {.stage = (predict_stage)stage};
        for (int i = 0; i < c->points.n; i++)
            cell.n_fitted += (int)c->points.point[i].stage == stage && c->points.point[i].fitted;
        cell.accuracy = predict_accuracy(c->profile, &c->points, cell.stage, &cell.n);
        if (c->from_grid) {
            cell.held_out_batch = predict_grid_held_out(&c->points, budget, cell.stage, false);
            cell.held_out_length = predict_grid_held_out(&c->points, budget, cell.stage, true);
            if (cell.held_out_batch > 0 || cell.held_out_length > 0)
                cell.accuracy = mean_of(cell.held_out_batch, cell.held_out_length);
        } else if (c->in_sample) {
            cell.held_out_batch = predict_held_out(c->profile, &c->points, cell.stage, false);
            cell.held_out_length = predict_held_out(c->profile, &c->points, cell.stage, true);
        }
        if (cell.n > 0)
            c->cell[c->n_cells++] = cell;
    }
}
