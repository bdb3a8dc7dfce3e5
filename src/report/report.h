/* report.h - the page of a stored study: one self-contained HTML file, from the store alone. */
#ifndef REPORT_REPORT_H
#define REPORT_REPORT_H
#include "predict/cases.h"
#include "store/store.h"

/* Writes the page of a run (0: the newest study, else the newest run) to path, through a temporary file beside it. A
 * study that is not finished gives a page that says what is missing. PLEAT_EINPUT: no such run; PLEAT_EIO,
 * PLEAT_EMEMORY. */
pleat_status report_write(store *db, int64_t run, const char *path, pleat_error *error);

/* The page of a run's negative samples alone (a run that holds scores), for these methods, base and threshold
 * (negatives_plan_make; a fraction). As above, and PLEAT_EINPUT as negatives_plan_make. */
pleat_status report_negatives_write(store *db, int64_t run, const char *methods, const char *base, double threshold,
                                    const char *path, pleat_error *error);
/* A page of scored predictor cases alone. PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status report_predict_write(const predict_case *list, int n, const char *path, pleat_error *error);

/* The page of a run's simulated routing alone. PLEAT_EINPUT: it holds none; PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status report_simulate_write(store *db, int64_t run, const char *path, pleat_error *error);
#endif
