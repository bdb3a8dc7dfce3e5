/* throughput.c - points of the throughput grid. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <jansson.h>
#include <stdlib.h>

static pleat_status put(store *s, int64_t run, const store_point *p, pleat_error *error) {
    json_t *list = json_array();
    for (int i = 0; i < p->n_repeats; i++)
        json_array_append_new(list, json_real(p->rate[i]));
    char *rates = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    if (!rates)
        return err_set(error, PLEAT_EMEMORY, "no memory for a measured point");
    sqlite3_stmt *q;
    pleat_status status =
        store_prepare(s,
                      "INSERT INTO throughput (run, label, spec, batch, prompt_tokens, stage,"
                      " filled, rates, median, spread, kv_bytes, kv_peak_bytes, bytes_needed, error)"
                      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
                      " ON CONFLICT (run, label, batch, prompt_tokens, stage, filled) DO UPDATE SET"
                      " rates=excluded.rates, median=excluded.median, spread=excluded.spread,"
                      " kv_bytes=excluded.kv_bytes, kv_peak_bytes=excluded.kv_peak_bytes,"
                      " bytes_needed=excluded.bytes_needed, error=excluded.error",
                      &q, error, "ittiititddiiit", run, p->label, p->spec, (int64_t)p->batch, (int64_t)p->prompt_tokens,
                      p->stage, (int64_t)p->filled, rates, p->median, p->spread, (int64_t)p->kv_bytes,
                      (int64_t)p->kv_peak_bytes, (int64_t)p->bytes_needed, p->error);
    status = status ? status : store_do(s, q, error);
    free(rates);
    return status;
}

pleat_status store_points_put(store *s, int64_t run, const store_point *point, int n, pleat_error *error) {
    pleat_status status = store_tx_begin(s, error);
    if (status)
        return status;
    for (int i = 0; i < n && !status; i++)
        status = put(s, run, &point[i], error);
    return store_tx_end(s, status, error);
}

static void read_rates(sqlite3_stmt *q, int column, store_point *p) {
    const char *bytes = (const char *)sqlite3_column_text(q, column);
    json_t *list = bytes ? json_loads(bytes, 0, NULL) : NULL, *rate;
    size_t i;
    json_array_foreach(list, i, rate) {
        if (p->n_repeats < STORE_MOST_REPEATS)
            p->rate[p->n_repeats++] = json_number_value(rate);
    }
    json_decref(list);
}

pleat_status store_points_read(store *s, int64_t run, store_points *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_points list = {0};
    int cap = 0, code;
    pleat_status status =
        store_prepare(s,
                      "SELECT label, spec, batch, prompt_tokens, stage, filled, rates, median, spread,"
                      " kv_bytes, kv_peak_bytes, bytes_needed, error FROM throughput WHERE run=? ORDER BY id",
                      &q, error, "i", run);
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        if (!mem_grow(&list.point, &cap, list.n + 1, sizeof(*list.point)))
            break;
        store_point *p = &list.point[list.n++];
        *p = (store_point){.label = store_text(q, 0),
                           .spec = store_text(q, 1),
                           .batch = sqlite3_column_int(q, 2),
                           .prompt_tokens = sqlite3_column_int(q, 3),
                           .stage = store_text(q, 4),
                           .filled = sqlite3_column_int(q, 5) != 0,
                           .median = sqlite3_column_double(q, 7),
                           .spread = sqlite3_column_double(q, 8),
                           .kv_bytes = (size_t)sqlite3_column_int64(q, 9),
                           .kv_peak_bytes = (size_t)sqlite3_column_int64(q, 10),
                           .bytes_needed = (size_t)sqlite3_column_int64(q, 11),
                           .error = store_text(q, 12)};
        read_rates(q, 6, p);
    }
    if (code != SQLITE_DONE)
        status = code == SQLITE_ROW ? err_set(error, PLEAT_EMEMORY, "no memory for the points of %.200s", s->path)
                                    : store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_points_free(&list);
    else
        *out = list;
    return status;
}

void store_points_free(store_points *points) {
    for (int i = 0; i < points->n; i++) {
        const store_point *p = &points->point[i];
        free((char *)p->label);
        free((char *)p->spec);
        free((char *)p->stage);
        free((char *)p->error);
    }
    free(points->point);
    *points = (store_points){0};
}
