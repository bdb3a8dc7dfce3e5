/* store.c - opening the database, its tables, and the small helpers of the other files here.
 *
 * The schema's number is SQLite's user_version, the file's kind its application_id, so that a foreign database and one
 * of a newer pleat are told apart from a damaged file. Tables only ever gain columns; a reader refuses a newer number.
 */
#include "store/inside.h"
#include "base/status.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SCHEMA = 1, APPLICATION = 0x706c6561 /* "plea" */, BUSY_MS = 5000 };

static const char tables[] =
    "CREATE TABLE run (id INTEGER PRIMARY KEY, what TEXT NOT NULL, model_name TEXT, model_path TEXT, model_hash TEXT,"
    " machine TEXT, level TEXT, n_threads INTEGER, version TEXT, options TEXT, started TEXT DEFAULT CURRENT_TIMESTAMP,"
    " finished TEXT);"
    "CREATE TABLE throughput (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, label TEXT NOT NULL, spec "
    "TEXT,"
    " batch INTEGER, prompt_tokens INTEGER, stage TEXT, filled INTEGER, rates TEXT, median REAL, spread REAL,"
    " kv_bytes INTEGER, kv_peak_bytes INTEGER, bytes_needed INTEGER, error TEXT,"
    " UNIQUE (run, label, batch, prompt_tokens, stage));"
    "CREATE TABLE sample (id INTEGER PRIMARY KEY, data_set TEXT NOT NULL, name TEXT NOT NULL, class TEXT, prompt TEXT,"
    " UNIQUE (data_set, name, prompt));"
    "CREATE TABLE response (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, sample INTEGER NOT NULL "
    "REFERENCES sample,"
    " label TEXT NOT NULL, spec TEXT, seed TEXT, text TEXT, prompt_tokens INTEGER, n_tokens INTEGER, finish TEXT,"
    " ttft_ms REAL, tpot_ms REAL, kv_bytes INTEGER, agree_tokens INTEGER, UNIQUE (run, sample, label, seed));"
    "CREATE TABLE quality (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, label TEXT NOT NULL, spec TEXT,"
    " text_name TEXT, ctx INTEGER, windows INTEGER, tokens INTEGER, perplexity REAL, stderr REAL, kl_mean REAL, kl_p99 "
    "REAL,"
    " top1_agreement REAL, kept_share REAL, kv_bytes INTEGER, UNIQUE (run, label, text_name, ctx));"
    "CREATE TABLE score (id INTEGER PRIMARY KEY, response INTEGER NOT NULL REFERENCES response, metric TEXT, value "
    "REAL);"
    "CREATE TABLE profile (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, operator TEXT, label TEXT,"
    " batch INTEGER, tokens INTEGER, ms REAL);"
    "CREATE TABLE model (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, kind TEXT, fitted BLOB);";

pleat_status store_fail(const store *s, const char *doing, pleat_error *error) {
    int code = sqlite3_errcode(s->db);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return err_set(error, PLEAT_EIO, "%.200s is in use by another pleat, which is writing to it", s->path);
    if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT)
        return err_set(error, PLEAT_EINPUT, "%.200s is damaged or no database (%s)", s->path, sqlite3_errmsg(s->db));
    if (code == SQLITE_NOMEM)
        return err_set(error, PLEAT_EMEMORY, "no memory for the database %.200s", s->path);
    return err_set(error, PLEAT_EIO, "%.200s: %s failed: %s", s->path, doing, sqlite3_errmsg(s->db));
}

static pleat_status run_sql(const store *s, const char *sql, pleat_error *error) {
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? PLEAT_OK : store_fail(s, "a statement", error);
}

static pleat_status pragma_int(const store *s, const char *sql, int *value, pleat_error *error) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return store_fail(s, "reading", error);
    int code = sqlite3_step(statement);
    *value = code == SQLITE_ROW ? sqlite3_column_int(statement, 0) : 0;
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? PLEAT_OK : store_fail(s, "reading", error);
}

/* Creates the tables in an empty database, or makes sure that these are ours. */
static pleat_status check_schema(store *s, pleat_error *error) {
    int version, application, n_tables;
    pleat_status status = pragma_int(s, "SELECT count(*) FROM sqlite_master", &n_tables, error);
    status = status ? status : pragma_int(s, "PRAGMA user_version", &version, error);
    status = status ? status : pragma_int(s, "PRAGMA application_id", &application, error);
    if (status)
        return status;
    if (n_tables && application != APPLICATION)
        return err_set(error, PLEAT_EINPUT, "%.200s is a database of another program, not a study of pleat", s->path);
    if (version > SCHEMA)
        return err_set(error, PLEAT_EINPUT, "%.200s was written by a newer pleat (schema %d; this one knows %d)",
                       s->path, version, SCHEMA);
    if (n_tables)
        return PLEAT_OK;
    if (!s->writable)
        return err_set(error, PLEAT_EINPUT, "%.200s holds no study", s->path);
    char *sql = sqlite3_mprintf("BEGIN IMMEDIATE; PRAGMA application_id=%d; PRAGMA user_version=%d; %s COMMIT;",
                                APPLICATION, SCHEMA, tables);
    if (!sql)
        return err_set(error, PLEAT_EMEMORY, "no memory for the database %.200s", s->path);
    status = run_sql(s, sql, error);
    sqlite3_free(sql);
    return status;
}

pleat_status store_open(const char *path, bool create, store **out, pleat_error *error) {
    store *s = calloc(1, sizeof(*s));
    if (s)
        s->path = strdup(path);
    if (!s || !s->path) {
        free(s);
        return err_set(error, PLEAT_EMEMORY, "no memory for the database %.200s", path);
    }
    s->writable = create;
    int flags = create ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
    pleat_status status = PLEAT_OK;
    if (!create && access(path, R_OK))
        status = err_set(error, PLEAT_EIO, "there is no study at %.300s", path);
    else if (sqlite3_open_v2(path, &s->db, flags, NULL) != SQLITE_OK)
        status = err_set(error, PLEAT_EIO, "%.200s cannot be opened: %s", path, sqlite3_errmsg(s->db));
    if (!status) {
        sqlite3_busy_timeout(s->db, BUSY_MS);
        if (create)
            status = run_sql(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;", error);
        status = status ? status : check_schema(s, error);
    }
    if (status) {
        sqlite3_close(s->db);
        free(s->path);
        free(s);
        return status;
    }
    *out = s;
    return PLEAT_OK;
}

void store_close(store *s) {
    if (!s)
        return;
    if (s->writable)
        sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_close(s->db);
    free(s->path);
    free(s);
}

/* ---- helpers ---- */

pleat_status store_prepare(const store *s, const char *sql, sqlite3_stmt **out, pleat_error *error, const char *types,
                           ...) {
    if (sqlite3_prepare_v2(s->db, sql, -1, out, NULL) != SQLITE_OK)
        return store_fail(s, "a query", error);
    va_list arguments;
    va_start(arguments, types);
    int code = SQLITE_OK;
    for (int i = 0; types[i] && code == SQLITE_OK; i++) {
        if (types[i] == 'i')
            code = sqlite3_bind_int64(*out, i + 1, va_arg(arguments, int64_t));
        else if (types[i] == 'd')
            code = sqlite3_bind_double(*out, i + 1, va_arg(arguments, double));
        else
            code = sqlite3_bind_text(*out, i + 1, va_arg(arguments, const char *), -1, SQLITE_TRANSIENT);
    }
    va_end(arguments);
    if (code == SQLITE_OK)
        return PLEAT_OK;
    sqlite3_finalize(*out);
    return store_fail(s, "a query", error);
}

pleat_status store_do(const store *s, sqlite3_stmt *statement, pleat_error *error) {
    pleat_status status = sqlite3_step(statement) == SQLITE_DONE ? PLEAT_OK : store_fail(s, "writing", error);
    sqlite3_finalize(statement);
    return status;
}

pleat_status store_has(const store *s, sqlite3_stmt *statement, bool *has, pleat_error *error) {
    int code = sqlite3_step(statement);
    *has = code == SQLITE_ROW;
    pleat_status status = code == SQLITE_ROW || code == SQLITE_DONE ? PLEAT_OK : store_fail(s, "reading", error);
    sqlite3_finalize(statement);
    return status;
}

pleat_status store_begin(store *s, pleat_error *error) {
    return run_sql(s, "BEGIN IMMEDIATE", error);
}

pleat_status store_end(store *s, pleat_status status, pleat_error *error) {
    if (!status)
        status = run_sql(s, "COMMIT", error);
    if (status)
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

char *store_text(sqlite3_stmt *statement, int column) {
    const unsigned char *bytes = sqlite3_column_text(statement, column);
    return bytes ? strdup((const char *)bytes) : NULL;
}
