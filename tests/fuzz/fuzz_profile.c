/* fuzz_profile.c - throughput profiles and grids: any rows are refused in a sentence or give times that are finite and
 * above 0 for any step; any points are refused or fitted. Input: records of 16 bytes. */
#include "fuzz/fuzz.h"
#include "predict/grid.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char fuzz_name[] = "profile";
const int fuzz_rounds = 200000;

typedef struct record {
    uint8_t kind, stage;
    uint16_t batch;
    int32_t tokens, context;
    float ms;
} record;

static void must(bool ok) {
    if (!ok)
        abort();
}

static void try_steps(const predict_profile *p) {
    static const int sizes[] = {1, 2, 3, 63, 64, 65, 1000, 4097, 1 << 20, INT32_MAX};
    enum { N = sizeof(sizes) / sizeof(*sizes) };
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            predict_chunk chunk = {1 + i % 3, sizes[i], sizes[k] - 1};
            predict_step step = {&chunk, 1, k % 2 ? sizes[k] / 2 : 0, sizes[i] - 0.5};
            double mixed = predict_step_ms(p, &step);
            step.n_chunk = 0;
            step.decode_batch = sizes[k];
            double decode = predict_step_ms(p, &step);
            must(isfinite(mixed) && mixed > 0 && isfinite(decode) && decode > 0);
        }
}

static void fit_points(predict_points *points) {
    predict_rows rows = {0};
    predict_profile *p = NULL;
    for (int i = 0; i < points->n; i++)
        points->point[i].fitted = true;
    if (!predict_grid_fit(points, 0, &rows, NULL)) {
        must(!predict_profile_make(&rows, &(predict_profile_options){.n_layer = 1}, &p, NULL));
        try_steps(p);
        predict_grid_held_out(points, 0, PREDICT_DECODE, true);
        predict_calibrate(p, points);
        must(!predict_points_pick(points, p, 1, NULL));
        predict_correct(p, points, true);
        try_steps(p);
    }
    predict_profile_free(p);
    predict_rows_free(&rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    predict_rows rows = {0};
    predict_points points = {0};
    predict_profile *p = NULL;
    pleat_error error = {""};
    for (size_t at = 0; at + sizeof(record) <= n && rows.n < 64; at += sizeof(record)) {
        record r;
        memcpy(&r, bytes + at, sizeof(r));
        predict_row row = {
            (predict_part)(r.kind % 3), (predict_stage)(r.stage % 2), r.batch, r.tokens, r.context, r.ms};
        must(!predict_rows_add(&rows, &row, NULL));
        predict_point point = {.stage = row.stage,
                               .batch = 1 + r.batch % 65536,
                               .prompt_tokens = 1 + (int)((uint32_t)r.tokens % (1 << 24)),
                               .rate = fmin(fmax(fabs(isfinite(r.ms) ? r.ms : 1), 1e-6), 1e12)};
        must(!predict_points_add(&points, &point, NULL));
    }
    if (predict_profile_make(&rows, NULL, &p, &error))
        must(error.text[0] && !strchr(error.text, '\n'));
    else
        try_steps(p);
    predict_profile_free(p);
    fit_points(&points);
    predict_rows_free(&rows);
    predict_points_free(&points);
    return 0;
}

bool fuzz_seed(int i, fuzz_input *seed) {
    static const record small[] = {{1, 0, 1, 1, 0, 1},    {1, 0, 1, 64, 0, 2}, {1, 0, 1, 512, 0, 9},
                                   {0, 0, 1, 1, 0, 0.5f}, {2, 0, 1, 64, 0, 1}, {2, 0, 1, 64, 64, 2},
                                   {2, 0, 2, 128, 0, 8},  {2, 1, 1, 1, 32, 1}, {2, 1, 1, 1, 64, 2},
                                   {2, 1, 4, 1, 32, 3},   {2, 1, 8, 1, 32, 5}, {2, 1, 8, 1, 64, 9}};
    if (i > 1)
        return false;
    seed->n = i ? sizeof(small) / 2 : sizeof(small);
    seed->bytes = malloc(seed->n);
    memcpy(seed->bytes, small, seed->n);
    return true;
}
