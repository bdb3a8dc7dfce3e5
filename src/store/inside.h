/* inside.h - the open database; for the files of this folder only. */
#ifndef STORE_INSIDE_H
#define STORE_INSIDE_H
#include "store/store.h"
#include <sqlite3.h>

struct store {
    sqlite3 *db;
    char *path;
    bool writable;
    int lock; /* of a writer: the file itself, held by flock; else -1 */
};

pleat_status store_fail(const store *s, const char *doing, pleat_error *error);
/* Prepares sql with arguments bound in order by the letters of `types`: i int64, d double, t text (NULL is NULL),
 * b bytes and their size_t. */
pleat_status store_prepare(const store *s, const char *sql, sqlite3_stmt **out, pleat_error *error, const char *types,
                           ...);
/* Runs a statement that gives no rows, and finalises it. */
pleat_status store_do(const store *s, sqlite3_stmt *statement, pleat_error *error);
pleat_status store_has(const store *s, sqlite3_stmt *statement, bool *has,
                       pleat_error *error);                /* some row; finalises */
pleat_status store_tx_begin(store *s, pleat_error *error); /* begins a transaction that writes */
/* Commits when status is PLEAT_OK, else rolls back; returns the first failure. */
pleat_status store_tx_end(store *s, pleat_status status, pleat_error *error);
/* A copy of a text column, never NULL unless the column is; free it. */
char *store_text(sqlite3_stmt *statement, int column);
#endif
