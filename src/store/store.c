/* store.c - opening the database, its tables, and the small helpers of the other files here.
 *
 * The schema's number is SQLite's user_version, the file's kind its application_id, so that a foreign database and one
 * of a newer pleat are told apart from a damaged file. The schema grows by steps: step n brings a file of schema n - 1
 * to schema n, so an older study is brought up to date when it is opened for writing; a newer one is refused.
 *
 * One writer: SQLite would let two studies take turns and measure everything twice, so a writer also holds flock on the
 * database file, which the system drops when the process dies. That file descriptor is closed after SQLite's own:
 * closing any descriptor of a file ends the process' POSIX locks on it, and SQLite relies on these. */
#include "store/inside.h"
#include "base/status.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { APPLICATION = 0x706c6561 /* "plea" */, BUSY_MS = 2000 };

static const char *const steps[] = {
    /* 1 */
    "CREATE TABLE run (id INTEGER PRIMARY KEY, what TEXT NOT NULL, model_name TEXT, model_path TEXT, model_hash TEXT,"
    " machine TEXT, level TEXT, n_threads INTEGER, version TEXT, options TEXT, started TEXT DEFAULT CURRENT_TIMESTAMP,"
    " finished TEXT);"
    "CREATE TABLE throughput (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, label TEXT NOT NULL,"
    " spec TEXT, batch INTEGER, prompt_tokens INTEGER, stage TEXT, filled INTEGER, rates TEXT, median REAL,"
    " spread REAL, kv_bytes INTEGER, kv_peak_bytes INTEGER, bytes_needed INTEGER, error TEXT,"
    " UNIQUE (run, label, batch, prompt_tokens, stage, filled));"
    "CREATE TABLE sample (id INTEGER PRIMARY KEY, data_set TEXT NOT NULL, name TEXT NOT NULL, class TEXT, prompt TEXT,"
    " UNIQUE (data_set, name, prompt));"
    "CREATE TABLE response (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run,"
    " sample INTEGER NOT NULL REFERENCES sample, label TEXT NOT NULL, spec TEXT, seed TEXT, text TEXT,"
    " prompt_tokens INTEGER, n_tokens INTEGER, finish TEXT, ttft_ms REAL, tpot_ms REAL, kv_bytes INTEGER,"
    " agree_tokens INTEGER, acted INTEGER, UNIQUE (run, sample, label, seed));"
    "CREATE TABLE window (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, label TEXT NOT NULL, spec TEXT,"
    " text_name TEXT, ctx INTEGER, window INTEGER, nll BLOB, kl BLOB, same_best INTEGER, kept_share REAL,"
    " kv_bytes INTEGER, UNIQUE (run, label, text_name, ctx, window));"
    "CREATE TABLE score (id INTEGER PRIMARY KEY, response INTEGER NOT NULL REFERENCES response, metric TEXT, value "
    "REAL, UNIQUE (response, metric));"
    "CREATE TABLE profile (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, label TEXT NOT NULL,"
    " operator TEXT NOT NULL, stage TEXT, batch INTEGER, tokens INTEGER, context INTEGER, ms REAL);"
    "CREATE INDEX profile_of ON profile (run, label);"
    "CREATE TABLE model (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, kind TEXT NOT NULL,"
    " label TEXT NOT NULL, fitted TEXT, UNIQUE (run, kind, label));",
    /* 2 */
    "CREATE TABLE simulation (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, pool TEXT NOT NULL,"
    " policy TEXT NOT NULL, utilisation REAL, rate REAL, seeds INTEGER, mean_s REAL, p50_s REAL, p99_s REAL, ci95 REAL,"
    " figures BLOB, UNIQUE (run, pool, rate, policy));",
    /* 3 */
    "ALTER TABLE window ADD COLUMN kv_peak_bytes INTEGER;",
};
enum { SCHEMA = sizeof(steps) / sizeof(*steps) };

static pleat_status in_use(const store *s, pleat_error *error) {
    return err_set(error, PLEAT_EIO, "%.300s is in use by another pleat, which is writing to it", s->path);
}

pleat_status store_fail(const store *s, const char *doing, pleat_error *error) {
    int code = sqlite3_errcode(s->db);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return in_use(s, error);
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
    pleat_status status = code == SQLITE_ROW ? PLEAT_OK : store_fail(s, "reading", error);
    sqlite3_finalize(statement);
    return status;
}

/* ---- schema ---- */

static pleat_status take_step(store *s, int schema, pleat_error *error) {
    char *sql =
        sqlite3_mprintf("%s PRAGMA application_id=%d; PRAGMA user_version=%d;", steps[schema - 1], APPLICATION, schema);
    if (!sql)
        return err_set(error, PLEAT_EMEMORY, "no memory for the database %.200s", s->path);
    pleat_status status = store_tx_begin(s, error);
    if (!status)
        status = store_tx_end(s, run_sql(s, sql, error), error);
    sqlite3_free(sql);
    return status;
}

/* Creates the tables in an empty database, brings an older one up to date, or makes sure that these are ours. */
static pleat_status check_schema(store *s, pleat_error *error) {
    int version, application, n_tables;
    pleat_status status = pragma_int(s, "SELECT count(*) FROM sqlite_master", &n_tables, error);
    status = status ? status : pragma_int(s, "PRAGMA user_version", &version, error);
    status = status ? status : pragma_int(s, "PRAGMA application_id", &application, error);
    if (status)
        return status;
    if (n_tables && application != APPLICATION)
        return err_set(error, PLEAT_EINPUT, "%.200s is a database of another program, not a study of pleat", s->path);
    if (n_tables && (version > SCHEMA || version < 1))
        return err_set(error, PLEAT_EINPUT, "%.200s was written by a newer pleat (schema %d; this one knows %d)",
                       s->path, version, SCHEMA);
    if (!n_tables)
        version = 0;
    if (!s->writable)
        return version == SCHEMA ? PLEAT_OK
               : version
                   ? err_set(error, PLEAT_EINPUT,
                             "%.200s was written by an older pleat (schema %d); measuring into it brings it to %d",
                             s->path, version, SCHEMA)
                   : err_set(error, PLEAT_EINPUT, "%.200s holds no study", s->path);
    for (int schema = version + 1; schema <= SCHEMA && !status; schema++)
        status = take_step(s, schema, error);
    return status;
}

/* ---- open, close ---- */

static pleat_status hold(store *s, pleat_error *error) {
    s->lock = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (s->lock < 0)
        return err_set(error, PLEAT_EIO, "%.200s cannot be opened: %s", s->path, strerror(errno));
    if (flock(s->lock, LOCK_EX | LOCK_NB))
        return errno == EWOULDBLOCK
                   ? in_use(s, error)
                   : err_set(error, PLEAT_EIO, "%.200s cannot be locked: %s", s->path, strerror(errno));
    return PLEAT_OK;
}

static pleat_status connect_to(store *s, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    int flags = s->writable ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY;
    if (s->writable && strcmp(s->path, STORE_IN_MEMORY))
        status = hold(s, error);
    else if (!s->writable && access(s->path, R_OK))
        status = err_set(error, PLEAT_EIO, "there is no study at %.300s (%s)", s->path, strerror(errno));
    if (status)
        return status;
    if (sqlite3_open_v2(s->path, &s->db, flags, NULL) != SQLITE_OK)
        return err_set(error, PLEAT_EIO, "%.200s cannot be opened: %s", s->path, sqlite3_errmsg(s->db));
    sqlite3_busy_timeout(s->db, BUSY_MS);
    if (s->writable)
        status = run_sql(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;", error);
    return status ? status : check_schema(s, error);
}

static void let_go(store *s) {
    sqlite3_close(s->db);
    if (s->lock >= 0)
        close(s->lock);
    free(s->path);
    free(s);
}

pleat_status store_open(const char *path, bool write, store **out, pleat_error *error) {
    store *s = calloc(1, sizeof(*s));
    if (s)
        s->path = strdup(path);
    if (!s || !s->path) {
        free(s);
        return err_set(error, PLEAT_EMEMORY, "no memory for the database %.200s", path);
    }
    s->writable = write;
    s->lock = -1;
    pleat_status status = connect_to(s, error);
    if (status)
        let_go(s);
    else
        *out = s;
    return status;
}

void store_close(store *s) {
    if (!s)
        return;
    /* Out of WAL: the file alone is whole, and can be read where its log could not be made. Refused while somebody
     * reads: then the log is folded in as far as it goes, and stays. */
    if (s->writable && sqlite3_exec(s->db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) != SQLITE_OK)
        sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    let_go(s);
}

/* ---- helpers ---- */

static int bind_one(sqlite3_stmt *statement, int i, char type, va_list *arguments) {
    if (type == 'i')
        return sqlite3_bind_int64(statement, i, va_arg(*arguments, int64_t));
    if (type == 'd')
        return sqlite3_bind_double(statement, i, va_arg(*arguments, double));
    if (type == 't')
        return sqlite3_bind_text(statement, i, va_arg(*arguments, const char *), -1, SQLITE_TRANSIENT);
    const void *bytes = va_arg(*arguments, const void *);
    return sqlite3_bind_blob64(statement, i, bytes, va_arg(*arguments, size_t), SQLITE_TRANSIENT);
}

pleat_status store_prepare(const store *s, const char *sql, sqlite3_stmt **out, pleat_error *error, const char *types,
                           ...) {
    if (sqlite3_prepare_v2(s->db, sql, -1, out, NULL) != SQLITE_OK)
        return store_fail(s, "a query", error);
    va_list arguments;
    va_start(arguments, types);
    int code = SQLITE_OK;
    for (int i = 0; types[i] && code == SQLITE_OK; i++)
        code = bind_one(*out, i + 1, types[i], &arguments);
    va_end(arguments);
    if (code == SQLITE_OK)
        return PLEAT_OK;
    pleat_status status = store_fail(s, "a query", error);
    sqlite3_finalize(*out);
    return status;
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

pleat_status store_tx_begin(store *s, pleat_error *error) {
    return run_sql(s, "BEGIN IMMEDIATE", error);
}

pleat_status store_tx_end(store *s, pleat_status status, pleat_error *error) {
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
