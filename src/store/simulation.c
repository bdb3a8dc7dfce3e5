/* simulation.c - simulated routing: one row a pool, rate and policy, with every seed's figures in a blob of doubles. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdlib.h>
#include <string.h>

static size_t figure_bytes(int n_seeds) {
    return (size_t)n_seeds * STORE_SIMULATION_FIGURES * sizeof(double);
}

static pleat_status put(store *s, int64_t run, const store_simulation *r, pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(
        s,
        "INSERT OR REPLACE INTO simulation (run, pool, policy, utilisation, rate, seeds, mean_s, p50_s, p99_s, ci95,"
        " figures) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        &q, error, "ittddiddddb", run, r->pool, r->policy, r->utilisation, r->rate, (int64_t)r->n_seeds, r->mean_s,
        r->p50_s, r->p99_s, r->ci95, r->figure, figure_bytes(r->n_seeds));
    return status ? status : store_do(s, q, error);
}

pleat_status store_simulations_put(store *s, int64_t run, const store_simulation *row, int n, pleat_error *error) {
    pleat_status status = store_tx_begin(s, error);
    if (status)
        return status;
    for (int i = 0; i < n && !status; i++)
        status = put(s, run, &row[i], error);
    return store_tx_end(s, status, error);
}

/* A damaged blob is refused: its size must be that of its seeds. */
static pleat_status read_row(const store *s, sqlite3_stmt *q, store_simulation *r, pleat_error *error) {
    int n = sqlite3_column_int(q, 4);
    size_t bytes = (size_t)sqlite3_column_bytes(q, 9);
    *r = (store_simulation){.pool = store_text(q, 0),
                            .policy = store_text(q, 1),
                            .utilisation = sqlite3_column_double(q, 2),
                            .rate = sqlite3_column_double(q, 3),
                            .n_seeds = n,
                            .mean_s = sqlite3_column_double(q, 5),
                            .p50_s = sqlite3_column_double(q, 6),
                            .p99_s = sqlite3_column_double(q, 7),
                            .ci95 = sqlite3_column_double(q, 8)};
    if (n < 1 || n > 1 << 20 || bytes != figure_bytes(n))
        return err_set(error, PLEAT_EINPUT, "%.200s is damaged: a simulation of %d seeds holds %zu bytes", s->path, n,
                       bytes);
    r->figure = malloc(bytes);
    if (!r->figure || !r->pool || !r->policy)
        return err_set(error, PLEAT_EMEMORY, "no memory for the simulations of %.200s", s->path);
    memcpy(r->figure, sqlite3_column_blob(q, 9), bytes);
    return PLEAT_OK;
}

pleat_status store_simulations_read(store *s, int64_t run, store_simulations *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_simulations list = {0};
    int cap = 0, code;
    *out = list;
    pleat_status status =
        store_prepare(s,
                      "SELECT pool, policy, utilisation, rate, seeds, mean_s, p50_s, p99_s, ci95, figures"
                      " FROM simulation WHERE run=? ORDER BY id",
                      &q, error, "i", run);
    if (status)
        return status;
    while (!status && (code = sqlite3_step(q)) == SQLITE_ROW) {
        if (mem_grow(&list.row, &cap, list.n + 1, sizeof(*list.row)))
            status = read_row(s, q, &list.row[list.n++], error);
        else
            status = err_set(error, PLEAT_EMEMORY, "no memory for the simulations of %.200s", s->path);
    }
    if (!status && code != SQLITE_DONE)
        status = store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_simulations_free(&list);
    else
        *out = list;
    return status;
}

void store_simulations_free(store_simulations *rows) {
    for (int i = 0; i < rows->n; i++) {
        free((char *)rows->row[i].pool);
        free((char *)rows->row[i].policy);
        free(rows->row[i].figure);
    }
    free(rows->row);
    *rows = (store_simulations){0};
}
