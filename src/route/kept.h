/* kept.h - a sweep's results in a study store and back. */
#ifndef ROUTE_KEPT_H
#define ROUTE_KEPT_H
#include "route/sweep.h"
#include "store/store.h"

/* Writes results [n] into the run. */
pleat_status sim_results_put(store *db, int64_t run, const sim_result *results, int n, pleat_error *error);

typedef struct sim_kept {   /* results by case, in the order of the puts */
    store_simulations rows; /* owns the names */
    sim_case *cases;        /* [n_cases]: method, load.rate, utilisation alone */
    int *first;             /* [n_cases + 1] into results */
    int n_cases;
    sim_result *results; /* [n]; those of a case stand together */
    int n;
} sim_kept;

/* Of a run that holds none, n is 0. PLEAT_EIO, PLEAT_EINPUT (a policy that is not known, a damaged file),
 * PLEAT_EMEMORY. */
pleat_status sim_kept_read(store *db, int64_t run, sim_kept *out, pleat_error *error);
void sim_kept_free(sim_kept *kept);
#endif
