/* tiles_trial.h - a product by single tile instructions; compiled once with the real ones and once with the emulated.
 */
#ifndef TESTS_TILES_TRIAL_H
#define TESTS_TILES_TRIAL_H
#include "cpu/x86/tiles.h"
#include "support/x86/tiles.h"

static inline void tiles_trial_run(const tiles_trial *x) {
    tiles_config config = {.palette = 1};
    config.rows[0] = config.rows[3] = (uint8_t)x->m;
    config.rows[5] = (uint8_t)x->k;
    config.row_bytes[0] = config.row_bytes[5] = (uint16_t)(4 * x->n);
    config.row_bytes[3] = (uint16_t)(4 * x->k);
    tiles_open(&config);
    tiles_zero(0);
    tiles_load(0, x->c, x->ldc);
    tiles_load(3, x->a, x->lda);
    tiles_load(5, x->b, x->ldb);
    tiles_dot(0, 3, 5);
    tiles_store(0, x->c, x->ldc);
    tiles_close();
}
#endif
