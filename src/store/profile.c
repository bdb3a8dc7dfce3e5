/* profile.c - profiled operator times, and predictors fitted on them or on measured points. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdlib.h>

/* One statement for all rows of a profile: they come by the ten thousand. */
static pleat_status put_rows(store *s, int64_t run, const char *label, const store_operator *row, int n,
                             pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(s,
                                        "INSERT INTO profile (run, label, operator, stage, batch, tokens, context, ms)"
                                        " VALUES (?,?,?,?,?,?,?,?)",
                                        &q, error, "it", run, label);
    if (status)
        return status;
    for (int i = 0; i < n && !status; i++) {
        const store_operator *r = &row[i];
        sqlite3_bind_text(q, 3, r->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(q, 4, r->stage, -1, SQLITE_STATIC);
        sqlite3_bind_int(q, 5, r->batch);
        sqlite3_bind_int(q, 6, r->tokens);
        sqlite3_bind_int(q, 7, r->context);
        sqlite3_bind_double(q, 8, r->ms);
        if (sqlite3_step(q) != SQLITE_DONE)
            status = store_fail(s, "writing", error);
        sqlite3_reset(q);
    }
    sqlite3_finalize(q);
    return status;
}

pleat_status store_profile_put(store *s, int64_t run, const char *label, const store_operator *row, int n,
                               pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_tx_begin(s, error);
    if (status)
        return status;
    status = store_prepare(s, "DELETE FROM profile WHERE run=? AND label=?", &q, error, "it", run, label);
    status = status ? status : store_do(s, q, error);
    status = status ? status : put_rows(s, run, label, row, n, error);
    return store_tx_end(s, status, error);
}

pleat_status store_profile_read(store *s, int64_t run, const char *label, store_operators *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_operators list = {0};
    int cap = 0, code;
    *out = list;
    pleat_status status =
        store_prepare(s,
                      "SELECT operator, stage, batch, tokens, context, ms FROM profile WHERE run=? AND label=?"
                      " ORDER BY id",
                      &q, error, "it", run, label);
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        if (!mem_grow(&list.row, &cap, list.n + 1, sizeof(*list.row)))
            break;
        list.row[list.n++] = (store_operator){.name = store_text(q, 0),
                                              .stage = store_text(q, 1),
                                              .batch = sqlite3_column_int(q, 2),
                                              .tokens = sqlite3_column_int(q, 3),
                                              .context = sqlite3_column_int(q, 4),
                                              .ms = sqlite3_column_double(q, 5)};
    }
    if (code != SQLITE_DONE)
        status = code == SQLITE_ROW ? err_set(error, PLEAT_EMEMORY, "no memory for the profiles of %.200s", s->path)
                                    : store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_profile_free(&list);
    else
        *out = list;
    return status;
}

void store_profile_free(store_operators *rows) {
    for (int i = 0; i < rows->n; i++) {
        free((char *)rows->row[i].name);
        free((char *)rows->row[i].stage);
    }
    free(rows->row);
    *rows = (store_operators){0};
}

pleat_status store_model_put(store *s, int64_t run, const char *kind, const char *label, const char *fitted,
                             pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(s, "INSERT OR REPLACE INTO model (run, kind, label, fitted) VALUES (?,?,?,?)",
                                        &q, error, "ittt", run, kind, label, fitted);
    return status ? status : store_do(s, q, error);
}

pleat_status store_model_read(store *s, int64_t run, const char *kind, const char *label, char **fitted,
                              pleat_error *error) {
    sqlite3_stmt *q;
    *fitted = NULL;
    pleat_status status = store_prepare(s, "SELECT fitted FROM model WHERE run=? AND kind=? AND label=?", &q, error,
                                        "itt", run, kind, label);
    if (status)
        return status;
    int code = sqlite3_step(q);
    if (code == SQLITE_ROW)
        *fitted = store_text(q, 0);
    else if (code != SQLITE_DONE)
        status = store_fail(s, "reading", error);
    sqlite3_finalize(q);
    return status;
}
