/* exchange.c - see exchange.h. Tables and columns are asked of the database itself, so a new one is taken along without
 * a line here. An empty cell is NULL where the column may be NULL. */
#include "store/exchange.h"
#include "base/csv.h"
#include "base/file.h"
#include "base/status.h"
#include "store/inside.h"
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_TABLES = 32, NAME_CAP = 64, PATH_CAP = 4200 };

typedef struct column {
    char name[NAME_CAP];
    char kind; /* i integer, d real, t text, f floats, g doubles, x other bytes */
    bool may_be_null;
} column;

typedef struct table {
    char name[NAME_CAP];
    column column[CSV_MOST_WANTED];
    int n_columns;
} table;

/* ---- what there is ---- */

/* What the bytes of a column are; those that are not listed go as hexadecimal digits. */
static const struct {
    const char *of, *name;
    char kind;
} blobs[] = {{"window", "nll", 'f'}, {"window", "kl", 'f'}, {"simulation", "figures", 'g'}};

static char kind_of(const char *of, const char *name, const char *type) {
    for (size_t i = 0; i < sizeof(blobs) / sizeof(*blobs); i++)
        if (!strcmp(of, blobs[i].of) && !strcmp(name, blobs[i].name))
            return blobs[i].kind;
    return !strcmp(type, "INTEGER") ? 'i' : !strcmp(type, "REAL") ? 'd' : !strcmp(type, "BLOB") ? 'x' : 't';
}

static const char *name_at(sqlite3_stmt *q, int i) {
    const char *name = (const char *)sqlite3_column_text(q, i);
    return name ? name : "";
}

static pleat_status read_columns(store *s, table *t, pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status =
        store_prepare(s, "SELECT name, type, \"notnull\" FROM pragma_table_info(?)", &q, error, "t", t->name);
    if (status)
        return status;
    while (sqlite3_step(q) == SQLITE_ROW && t->n_columns < CSV_MOST_WANTED) {
        column *c = &t->column[t->n_columns++];
        snprintf(c->name, sizeof(c->name), "%s", name_at(q, 0));
        c->kind = kind_of(t->name, c->name, name_at(q, 1));
        c->may_be_null = sqlite3_column_int(q, 2) == 0;
    }
    sqlite3_finalize(q);
    return PLEAT_OK;
}

/* In the order of their creation: a table comes after those that it refers to. */
static pleat_status read_tables(store *s, table tables[MOST_TABLES], int *n, pleat_error *error) {
    sqlite3_stmt *q;
    *n = 0;
    pleat_status status = store_prepare(
        s, "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid", &q, error,
        "");
    if (status)
        return status;
    while (sqlite3_step(q) == SQLITE_ROW && *n < MOST_TABLES) {
        tables[*n] = (table){.n_columns = 0};
        snprintf(tables[*n].name, NAME_CAP, "%s", name_at(q, 0));
        ++*n;
    }
    sqlite3_finalize(q);
    for (int i = 0; i < *n && !status; i++)
        status = read_columns(s, &tables[i], error);
    return status;
}

static bool path_of(const char *folder, const char *name, char out[PATH_CAP]) {
    return snprintf(out, PATH_CAP, "%s/%s.csv", folder, name) < PATH_CAP;
}

/* ---- export ---- */

static void put_bytes(text *out, char kind, const char *bytes, int n_bytes) {
    float x;
    double y;
    int step = kind == 'f' ? (int)sizeof(x) : kind == 'g' ? (int)sizeof(y) : 1;
    for (int i = 0; i + step <= n_bytes; i += step) {
        const char *space = i ? " " : "";
        if (kind == 'f')
            text_printf(out, "%s%.*g", space, FLT_DECIMAL_DIG, (double)*(float *)memcpy(&x, bytes + i, sizeof(x)));
        else if (kind == 'g')
            text_printf(out, "%s%.*g", space, DBL_DECIMAL_DIG, *(double *)memcpy(&y, bytes + i, sizeof(y)));
        else
            text_printf(out, "%02x", (unsigned char)bytes[i]);
    }
}

static void put_value(text *out, sqlite3_stmt *q, int i, const column *c) {
    if (sqlite3_column_type(q, i) == SQLITE_NULL)
        return;
    if (c->kind == 'i')
        text_printf(out, "%" PRId64, (int64_t)sqlite3_column_int64(q, i));
    else if (c->kind == 'd')
        text_printf(out, "%.*g", DBL_DECIMAL_DIG, sqlite3_column_double(q, i));
    else if (c->kind == 't')
        csv_put(out, name_at(q, i));
    else
        put_bytes(out, c->kind, sqlite3_column_blob(q, i), sqlite3_column_bytes(q, i));
}

static pleat_status write_table(store *s, const char *folder, const table *t, int64_t *n_rows, pleat_error *error) {
    char path[PATH_CAP];
    text out = {0};
    sqlite3_stmt *q;
    int code;
    char *sql = sqlite3_mprintf("SELECT * FROM \"%w\" ORDER BY id", t->name);
    if (!sql)
        return err_set(error, PLEAT_EMEMORY, "no memory for a query");
    pleat_status status = store_prepare(s, sql, &q, error, "");
    sqlite3_free(sql);
    if (status)
        return status;
    for (int i = 0; i < t->n_columns; i++)
        text_printf(&out, "%s%s", i ? "," : "", t->column[i].name);
    text_puts(&out, "\n");
    for (*n_rows = 0; (code = sqlite3_step(q)) == SQLITE_ROW; ++*n_rows)
        for (int i = 0; i < t->n_columns; i++) {
            put_value(&out, q, i, &t->column[i]);
            text_puts(&out, i + 1 < t->n_columns ? "," : "\n");
        }
    if (code != SQLITE_DONE)
        status = store_fail(s, "reading", error);
    else if (out.failed)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the rows of %s", t->name);
    else if (!path_of(folder, t->name, path))
        status = err_set(error, PLEAT_EINPUT, "the path %.300s is too long", folder);
    sqlite3_finalize(q);
    status = status ? status : file_save(path, out.bytes, out.n, error);
    text_free(&out);
    return status;
}

pleat_status store_export(store *s, const char *folder, store_table_told *told, void *context, pleat_error *error) {
    table *tables = calloc(MOST_TABLES, sizeof(*tables));
    int n = 0;
    if (!tables)
        return err_set(error, PLEAT_EMEMORY, "no memory for the tables of %.300s", s->path);
    pleat_status status = read_tables(s, tables, &n, error);
    if (!status && mkdir(folder, 0777) && errno != EEXIST)
        status = err_set(error, PLEAT_EIO, "the folder %.300s cannot be made: %s", folder, strerror(errno));
    for (int i = 0; i < n && !status; i++) {
        int64_t n_rows;
        status = write_table(s, folder, &tables[i], &n_rows, error);
        if (!status && told)
            told(context, tables[i].name, n_rows);
    }
    free(tables);
    return status;
}

/* ---- import ---- */

typedef struct import {
    store *s;
    const table *t;
    sqlite3_stmt *insert;
    int64_t n_rows;
} import;

/* The next element of "0.5 1e-3 ..." or "00ff" at *at to `to`; its size, 0: there is none. */
static size_t take_element(char kind, const char **at, char *to) {
    char *end;
    float x;
    double y;
    unsigned byte;
    if (kind == 'x') {
        if (!(*at)[0] || !(*at)[1] || sscanf(*at, "%2x", &byte) != 1)
            return 0;
        *to = (char)byte;
        *at += 2;
        return 1;
    }
    if (kind == 'f')
        memcpy(to, (x = strtof(*at, &end), &x), sizeof(x));
    else
        memcpy(to, (y = strtod(*at, &end), &y), sizeof(y));
    if (end == *at || (*end && *end != ' '))
        return 0;
    *at = end + (*end == ' ');
    return kind == 'f' ? sizeof(x) : sizeof(y);
}

static pleat_status bind_bytes(const import *m, const csv_row *row, int i, pleat_error *error) {
    const column *c = &m->t->column[i];
    const char *at = row->value[i];
    size_t n = 0, more = 1;
    char *bytes = malloc(4 * strlen(at) + 16); /* "0 " gives 8 bytes at most */
    if (!bytes)
        return err_set(error, PLEAT_EMEMORY, "no memory for the numbers of %.300s", row->file);
    while (*at && (more = take_element(c->kind, &at, bytes + n)))
        n += more;
    pleat_status status =
        more ? PLEAT_OK : csv_fail(row, error, "%s holds \"%.20s\" where a number is expected", c->name, at);
    if (!status)
        sqlite3_bind_blob64(m->insert, i + 1, bytes, n, SQLITE_TRANSIENT);
    free(bytes);
    return status;
}

static pleat_status bind_cell(const import *m, const csv_row *row, int i, pleat_error *error) {
    const column *c = &m->t->column[i];
    int64_t whole;
    double real;
    pleat_status status = PLEAT_OK;
    if (!row->value[i] || (!*row->value[i] && c->may_be_null)) {
        sqlite3_bind_null(m->insert, i + 1);
    } else if (c->kind == 'i') {
        if (!(status = csv_int(row, i, INT64_MIN, INT64_MAX, &whole, error)))
            sqlite3_bind_int64(m->insert, i + 1, whole);
    } else if (c->kind == 'd') {
        if (!(status = csv_real(row, i, -DBL_MAX, DBL_MAX, &real, error)))
            sqlite3_bind_double(m->insert, i + 1, real);
    } else if (c->kind == 't') {
        sqlite3_bind_text(m->insert, i + 1, row->value[i], -1, SQLITE_TRANSIENT);
    } else {
        status = bind_bytes(m, row, i, error);
    }
    return status;
}

static pleat_status insert_row(void *context, const csv_row *row, pleat_error *error) {
    import *m = context;
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < m->t->n_columns && !status; i++)
        status = bind_cell(m, row, i, error);
    if (status)
        return status;
    int code = sqlite3_step(m->insert);
    if (code == SQLITE_CONSTRAINT)
        status = csv_fail(row, error, "the row does not fit the others: %s", sqlite3_errmsg(m->s->db));
    else if (code != SQLITE_DONE)
        status = store_fail(m->s, "writing", error);
    sqlite3_reset(m->insert);
    m->n_rows++;
    return status;
}

static pleat_status prepare_insert(import *m, pleat_error *error) {
    text sql = {0};
    text_printf(&sql, "INSERT INTO \"%s\" (", m->t->name);
    for (int i = 0; i < m->t->n_columns; i++)
        text_printf(&sql, "%s\"%s\"", i ? "," : "", m->t->column[i].name);
    text_puts(&sql, ") VALUES (");
    for (int i = 0; i < m->t->n_columns; i++)
        text_puts(&sql, i ? ",?" : "?");
    text_puts(&sql, ")");
    pleat_status status = sql.failed ? err_set(error, PLEAT_EMEMORY, "no memory for a query")
                                     : store_prepare(m->s, sql.bytes, &m->insert, error, "");
    text_free(&sql);
    return status;
}

static pleat_status read_table(store *s, const char *folder, const table *t, int64_t *n_rows, pleat_error *error) {
    char path[PATH_CAP], names[CSV_MOST_WANTED][NAME_CAP + 1];
    const char *wanted[CSV_MOST_WANTED + 1] = {NULL};
import m = {.s = s, .t = t };
    *n_rows = 0;
    if (!path_of(folder, t->name, path))
        return err_set(error, PLEAT_EINPUT, "the path %.300s is too long", folder);
    if (access(path, F_OK) && strcmp(t->name, "run"))
        return PLEAT_OK;
    for (int i = 0; i < t->n_columns; i++) { /* a later column may be missing in an older export */
        snprintf(names[i], sizeof(names[i]), "%s%s", t->column[i].may_be_null && i ? "?" : "", t->column[i].name);
        wanted[i] = names[i];
    }
    pleat_status status = prepare_insert(&m, error);
    if (status)
        return status;
    status = csv_read(path, wanted, insert_row, &m, error);
    sqlite3_finalize(m.insert);
    *n_rows = m.n_rows;
    return status;
}

pleat_status store_import(store *s, const char *folder, store_table_told *told, void *context, pleat_error *error) {
    table *tables = calloc(MOST_TABLES, sizeof(*tables));
    int64_t n_rows[MOST_TABLES];
    store_runs runs = {0};
    int n = 0;
    if (!tables)
        return err_set(error, PLEAT_EMEMORY, "no memory for the tables of %.300s", s->path);
    pleat_status status = store_runs_read(s, &runs, error);
    if (!status && runs.n)
        status = err_set(error, PLEAT_EINPUT, "%.300s holds %d run%s already; import into a new file", s->path, runs.n,
                         runs.n == 1 ? "" : "s");
    store_runs_free(&runs);
    status = status ? status : read_tables(s, tables, &n, error);
    if (!status && !(status = store_tx_begin(s, error))) {
        for (int i = 0; i < n && !status; i++)
            status = read_table(s, folder, &tables[i], &n_rows[i], error);
        status = store_tx_end(s, status, error);
    }
    for (int i = 0; i < n && !status && told; i++)
        told(context, tables[i].name, n_rows[i]);
    free(tables);
    return status;
}
