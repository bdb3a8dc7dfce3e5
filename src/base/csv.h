/* csv.h - CSV files with a header row: cells by column name, and every error with its line.
 *
 * The reader asks for columns by name, in any order; the file may hold others, in any order. Commas, quotes ("" inside
 * quotes is one), LF, CRLF or CR, a UTF-8 byte-order mark and blank lines are taken as they come; spaces around a bare
 * cell are dropped. Each of these is refused in one sentence that begins with "FILE: line N: ": a wanted column that is
 * missing or there twice, a row with more or fewer cells than the header, a quote in the wrong place, text that is not
 * UTF-8. A row that spans lines is named by its first. */
#ifndef BASE_CSV_H
#define BASE_CSV_H
#include "base/text.h"
#include "pleat.h"

enum { CSV_MOST_WANTED = 32 };

typedef struct csv_row {
    const char *file;          /* as given to the reader */
    int line;                  /* from 1 */
    const char *const *column; /* names as wanted, [n]; an optional one still has its "?" */
    const char
        *value[CSV_MOST_WANTED]; /* [n], in the order wanted; "" when empty, NULL when an optional column is missing */
    int n;
} csv_row;

/* Called for each row after the header; the row is valid until it returns. Any other status than PLEAT_OK ends the
 * reading and is handed on with *error. */
typedef pleat_status csv_visit(void *context, const csv_row *row, pleat_error *error);

/* wanted: names ended by NULL, at most CSV_MOST_WANTED; "?name" is optional. path "-" is stdin.
 * PLEAT_EIO (cannot be read), PLEAT_EINPUT (no header, or as above), PLEAT_EMEMORY. A file with a header alone is fine:
 * visit is never called. */
pleat_status csv_read(const char *path, const char *const *wanted, csv_visit *visit, void *context, pleat_error *error);
/* The same over bytes in memory; name stands for the file in errors. */
pleat_status csv_read_bytes(const char *name, const char *bytes, size_t n_bytes, const char *const *wanted,
                            csv_visit *visit, void *context, pleat_error *error);

/* ---- a whole file ---- */

typedef struct csv_table {
    char *file;
    const char *const *column; /* the caller's `wanted`: must outlive the table */
    int n_columns, n_rows;
    char *bytes; /* the cells, each ended by 0 */
    size_t *at;  /* [n_rows][n_columns] into bytes; SIZE_MAX: NULL */
    int *line;   /* [n_rows] */
    size_t n_bytes, cap_bytes;
    int cap_at, cap_line;
} csv_table;

pleat_status csv_table_read(const char *path, const char *const *wanted, csv_table *out, pleat_error *error);
void csv_table_free(csv_table *table);
csv_row csv_table_row(const csv_table *table, int i); /* valid while the table is */

/* ---- cells ---- */

/* "FILE: line N: SENTENCE"; returns PLEAT_EINPUT. */
pleat_status csv_fail(const csv_row *row, pleat_error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The number in column i (of `wanted`): decimal, finite, within low..high, nothing after it. PLEAT_EINPUT names the
 * column and the value. */
pleat_status csv_real(const csv_row *row, int i, double low, double high, double *out, pleat_error *error);
pleat_status csv_int(const csv_row *row, int i, int64_t low, int64_t high, int64_t *out, pleat_error *error);

/* ---- writing ---- */

/* Appends a cell, in quotes where it needs them. Commas and line ends are the caller's. */
void csv_put(text *out, const char *cell);
#endif
