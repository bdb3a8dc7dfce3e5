/* profile.c - see profile.h. */
#include "support/profile.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { MOST_TOKENS = 8192, MOST_BATCH = 256 };

static void add(predict_rows *rows, predict_row row) {
    assert_int_equal(predict_rows_add(rows, &row, NULL), PLEAT_OK);
}

predict_profile *profile_line(double step_ms, double token_ms, double key_ms, int budget) {
    static const int ends[2] = {1, MOST_TOKENS}, batches[2] = {1, MOST_BATCH};
    predict_rows rows = {0};
    predict_profile_options options = {.n_layer = 1, .budget = budget};
    predict_profile *profile = NULL;
    for (int i = 0; i < 2; i++) {
        add(&rows, (predict_row){.part = PREDICT_LAYER, .tokens = ends[i], .ms = step_ms + token_ms * ends[i]});
        for (int k = 0; k < 2; k++) {
            add(&rows, (predict_row){.part = PREDICT_ATTENTION,
                                     .stage = PREDICT_DECODE,
                                     .batch = batches[i],
                                     .context = ends[k],
                                     .ms = key_ms * batches[i] * ends[k]});
            add(&rows, (predict_row){.part = PREDICT_ATTENTION,
                                     .stage = PREDICT_PREFILL,
                                     .batch = 1,
                                     .tokens = ends[i],
                                     .context = k ? MOST_TOKENS : 0,
                                     .ms = 0});
        }
    }
    pleat_error error = {""};
    if (predict_profile_make(&rows, &options, &profile, &error))
        fail_msg("%s", error.text);
    predict_rows_free(&rows);
    return profile;
}
