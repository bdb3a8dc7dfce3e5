/* run.c - runs: begin or go on, finish, list. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdio.h>
#include <stdlib.h>

/* The newest run under the same conditions; out->resumed: there is one. */
static pleat_status find(store *s, const store_run *run, store_begun *out, pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(
        s,
        "SELECT id, finished IS NOT NULL, started FROM run WHERE what=?1 AND model_hash=?2 AND machine=?3 AND level=?4"
        " AND n_threads=?5 AND version=?6 AND options=?7 ORDER BY id DESC LIMIT 1",
        &q, error, "ttttitt", run->what, run->model_hash, run->machine, run->level, (int64_t)run->n_threads,
        run->version, run->options);
    if (status)
        return status;
    int code = sqlite3_step(q);
    if (code == SQLITE_ROW) {
        const char *started = (const char *)sqlite3_column_text(q, 2);
        *out =
            (store_begun){.id = sqlite3_column_int64(q, 0), .resumed = true, .finished = sqlite3_column_int(q, 1) != 0};
        snprintf(out->started, sizeof(out->started), "%s", started ? started : "");
    } else if (code != SQLITE_DONE) {
        status = store_fail(s, "reading", error);
    }
    sqlite3_finalize(q);
    return status;
}

pleat_status store_run_begin(store *s, const store_run *run, store_how how, store_begun *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_begun begun = {.id = 0};
    pleat_status status = how == STORE_ANEW ? PLEAT_OK : find(s, run, &begun, error);
    if (!status && begun.resumed && !(how == STORE_GO_ON_OPEN && begun.finished)) {
        *out = begun;
        return PLEAT_OK;
    }
    if (!status)
        status = store_prepare(
            s,
            "INSERT INTO run (what, model_name, model_path, model_hash, machine, level, n_threads, version,"
            " options) VALUES (?,?,?,?,?,?,?,?,?)",
            &q, error, "ttttttitt", run->what, run->model_name, run->model_path, run->model_hash, run->machine,
            run->level, (int64_t)run->n_threads, run->version, run->options);
    status = status ? status : store_do(s, q, error);
    if (!status)
        *out = (store_begun){.id = sqlite3_last_insert_rowid(s->db)};
    return status;
}

pleat_status store_run_finish(store *s, int64_t id, pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(s, "UPDATE run SET finished=CURRENT_TIMESTAMP WHERE id=?", &q, error, "i", id);
    return status ? status : store_do(s, q, error);
}

pleat_status store_runs_read(store *s, store_runs *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_runs list = {0};
    int cap = 0, code;
    pleat_status status =
        store_prepare(s,
                      "SELECT id, what, model_name, model_path, model_hash, machine, level, n_threads,"
                      " version, options, started, finished IS NOT NULL FROM run ORDER BY id",
                      &q, error, "");
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        if (!mem_grow(&list.run, &cap, list.n + 1, sizeof(*list.run)))
            break;
        list.run[list.n++] = (store_run){.id = sqlite3_column_int64(q, 0),
                                         .what = store_text(q, 1),
                                         .model_name = store_text(q, 2),
                                         .model_path = store_text(q, 3),
                                         .model_hash = store_text(q, 4),
                                         .machine = store_text(q, 5),
                                         .level = store_text(q, 6),
                                         .n_threads = sqlite3_column_int(q, 7),
                                         .version = store_text(q, 8),
                                         .options = store_text(q, 9),
                                         .started = store_text(q, 10),
                                         .finished = sqlite3_column_int(q, 11) != 0};
    }
    if (code != SQLITE_DONE)
        status = code == SQLITE_ROW ? err_set(error, PLEAT_EMEMORY, "no memory for the runs of %.200s", s->path)
                                    : store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_runs_free(&list);
    else
        *out = list;
    return status;
}

void store_runs_free(store_runs *runs) {
    for (int i = 0; i < runs->n; i++) {
        const store_run *r = &runs->run[i];
        const char *parts[] = {r->what,  r->model_name, r->model_path, r->model_hash, r->machine,
                               r->level, r->version,    r->options,    r->started};
        for (size_t k = 0; k < sizeof(parts) / sizeof(*parts); k++)
            free((char *)parts[k]);
    }
    free(runs->run);
    *runs = (store_runs){0};
}
