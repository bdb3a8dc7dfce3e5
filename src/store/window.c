/* window.c - perplexity and KL by position: one row for each method and window of text. Positions are stored as
 * little-endian floats, so the figures of several windows can be joined exactly. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdlib.h>
#include <string.h>

static pleat_status put(store *s, int64_t run, const store_window *w, pleat_error *error) {
    sqlite3_stmt *q;
    size_t n_bytes = (size_t)w->n * sizeof(float);
    pleat_status status = store_prepare(
        s,
        "INSERT OR REPLACE INTO window (run, label, spec, text_name, ctx, window, nll, kl, same_best, kept_share,"
        " kv_bytes, kv_peak_bytes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        &q, error, "itttiibbidii", run, w->label, w->spec, w->text_name, (int64_t)w->ctx, (int64_t)w->window, w->nll,
        n_bytes, w->kl, n_bytes, (int64_t)w->same_best, w->kept_share, (int64_t)w->kv_bytes, (int64_t)w->kv_peak_bytes);
    return status ? status : store_do(s, q, error);
}

pleat_status store_windows_put(store *s, int64_t run, const store_window *window, int n, pleat_error *error) {
    pleat_status status = store_tx_begin(s, error);
    if (status)
        return status;
    for (int i = 0; i < n && !status; i++)
        status = put(s, run, &window[i], error);
    return store_tx_end(s, status, error);
}

/* A copy of a column of floats; *n is their number. */
static float *read_floats(sqlite3_stmt *q, int column, int *n) {
    const void *bytes = sqlite3_column_blob(q, column);
    *n = sqlite3_column_bytes(q, column) / (int)sizeof(float);
    float *x = malloc((size_t)*n * sizeof(*x) + 1);
    if (x && *n)
        memcpy(x, bytes, (size_t)*n * sizeof(*x));
    return x;
}

static pleat_status read_row(const store *s, sqlite3_stmt *q, store_window *w, pleat_error *error) {
    int n_kl;
    *w = (store_window){.label = store_text(q, 0),
                        .spec = store_text(q, 1),
                        .text_name = store_text(q, 2),
                        .ctx = sqlite3_column_int(q, 3),
                        .window = sqlite3_column_int(q, 4),
                        .same_best = sqlite3_column_int(q, 7),
                        .kept_share = sqlite3_column_double(q, 8),
                        .kv_bytes = (size_t)sqlite3_column_int64(q, 9),
                        .kv_peak_bytes = (size_t)sqlite3_column_int64(q, 10)};
    w->nll = read_floats(q, 5, &w->n);
    w->kl = read_floats(q, 6, &n_kl);
    if (!w->nll || !w->kl)
        return err_set(error, PLEAT_EMEMORY, "no memory for the windows of %.200s", s->path);
    if (n_kl != w->n || w->n == 0)
        return err_set(error, PLEAT_EINPUT, "%.200s: a window of %.60s has %d and %d positions", s->path,
                       w->label ? w->label : "", w->n, n_kl);
    return PLEAT_OK;
}

pleat_status store_windows_read(store *s, int64_t run, store_windows *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_windows list = {0};
    int cap = 0, code;
    pleat_status status =
        store_prepare(s,
                      "SELECT label, spec, text_name, ctx, window, nll, kl, same_best, kept_share, kv_bytes,"
                      " kv_peak_bytes FROM window WHERE run=? ORDER BY id",
                      &q, error, "i", run);
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW && !status) {
        if (!mem_grow(&list.window, &cap, list.n + 1, sizeof(*list.window)))
            status = err_set(error, PLEAT_EMEMORY, "no memory for the windows of %.200s", s->path);
        else
            status = read_row(s, q, &list.window[list.n++], error);
    }
    if (!status && code != SQLITE_DONE)
        status = store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_windows_free(&list);
    else
        *out = list;
    return status;
}

void store_windows_free(store_windows *windows) {
    for (int i = 0; i < windows->n; i++) {
        free((char *)windows->window[i].label);
        free((char *)windows->window[i].spec);
        free((char *)windows->window[i].text_name);
        free(windows->window[i].nll);
        free(windows->window[i].kl);
    }
    free(windows->window);
    *windows = (store_windows){0};
}
