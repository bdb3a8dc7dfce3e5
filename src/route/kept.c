/* kept.c - see kept.h. */
#include "route/kept.h"
#include "base/status.h"
#include <stdlib.h>
#include <string.h>

static void pack(const sim_seed *s, double out[STORE_SIMULATION_FIGURES]) {
    const double figures[STORE_SIMULATION_FIGURES] = {s->mean_s, s->p50_s,   s->p99_s, s->first_s,  s->tokens,
                                                      s->base,   s->refused, s->cut,   s->preempted};
    memcpy(out, figures, sizeof(figures));
}

static sim_seed unpack(const double f[STORE_SIMULATION_FIGURES]) {
    return (sim_seed){f[0], f[1], f[2], f[3], f[4], f[5], (int)f[6], (int)f[7], (int)f[8]};
}

pleat_status sim_results_put(store *db, int64_t run, const sim_result *r, int n, pleat_error *error) {
    store_simulation *rows = calloc((size_t)n, sizeof(*rows));
    bool ok = rows != NULL;
    for (int i = 0; ok && i < n; i++) {
        rows[i] = (store_simulation){r[i].of->method,
                                     route_policy_name(r[i].policy),
                                     r[i].of->utilisation,
                                     r[i].of->load.rate,
                                     r[i].n_seeds,
                                     r[i].mean.mean_s,
                                     r[i].mean.p50_s,
                                     r[i].mean.p99_s,
                                     r[i].ci95,
                                     calloc((size_t)r[i].n_seeds, STORE_SIMULATION_FIGURES * sizeof(double))};
        ok = rows[i].figure != NULL;
        for (int k = 0; ok && k < r[i].n_seeds; k++)
            pack(&r[i].seed[k], rows[i].figure + (size_t)k * STORE_SIMULATION_FIGURES);
    }
    pleat_status status = ok ? store_simulations_put(db, run, rows, n, error)
                             : err_set(error, PLEAT_EMEMORY, "no memory for %d results", n);
    for (int i = 0; rows && i < n; i++)
        free(rows[i].figure);
    free(rows);
    return status;
}

static pleat_status unpack_row(const store_simulation *row, sim_result *r, pleat_error *error) {
    if (!route_policy_find(row->policy, &r->policy))
        return err_set(error, PLEAT_EINPUT, "the study holds a simulated policy \"%.40s\", which is not known",
                       row->policy);
    if (row->n_seeds > SIM_MOST_SEEDS)
        return err_set(error, PLEAT_EINPUT, "the study holds a simulation of %d seeds, more than %d", row->n_seeds,
                       SIM_MOST_SEEDS);
    r->n_seeds = row->n_seeds;
    r->seed = calloc((size_t)row->n_seeds, sizeof(*r->seed));
    if (!r->seed)
        return err_set(error, PLEAT_EMEMORY, "no memory for a simulation");
    for (int k = 0; k < row->n_seeds; k++)
        r->seed[k] = unpack(row->figure + (size_t)k * STORE_SIMULATION_FIGURES);
    sim_result_average(r);
    return PLEAT_OK;
}

static bool same_case(const store_simulation *a, const store_simulation *b) {
    return !strcmp(a->pool, b->pool) && a->rate == b->rate && a->utilisation == b->utilisation;
}

pleat_status sim_kept_read(store *db, int64_t run, sim_kept *out, pleat_error *error) {
    sim_kept k = {.n_cases = 0};
    pleat_status status = store_simulations_read(db, run, &k.rows, error);
    if (!status) {
        k.cases = calloc((size_t)k.rows.n + 1, sizeof(*k.cases));
        k.first = calloc((size_t)k.rows.n + 1, sizeof(*k.first));
        k.results = calloc((size_t)k.rows.n + 1, sizeof(*k.results));
        if (!k.cases || !k.first || !k.results)
            status = err_set(error, PLEAT_EMEMORY, "no memory for %d results", k.rows.n);
    }
    for (; !status && k.n < k.rows.n; k.n++) {
        const store_simulation *row = &k.rows.row[k.n];
        if (!k.n || !same_case(row, row - 1)) {
            k.first[k.n_cases] = k.n;
            k.cases[k.n_cases++] =
                (sim_case){.method = row->pool, .utilisation = row->utilisation, .load = {.rate = row->rate}};
        }
        k.results[k.n].of = &k.cases[k.n_cases - 1];
        status = unpack_row(row, &k.results[k.n], error);
    }
    if (status) {
        sim_kept_free(&k);
        return status;
    }
    k.first[k.n_cases] = k.n;
    *out = k;
    return PLEAT_OK;
}

void sim_kept_free(sim_kept *k) {
    if (k->results)
        sim_results_free(k->results, k->rows.n);
    store_simulations_free(&k->rows);
    free(k->cases);
    free(k->first);
    free(k->results);
    *k = (sim_kept){.n = 0};
}
