/* csv.c - see csv.h. Splitting into cells is libcsv's (strict mode); this file gives it one physical line at a time, so
 * that it knows the line of every row, and finds the wanted columns. */
#include "base/csv.h"
#include "base/memory.h"
#include "base/status.h"
#include <csv.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct reader {
    const char *file;
    const char *const *wanted;
    int n_wanted;
    int from[CSV_MOST_WANTED]; /* cell of a wanted column, -1: an optional one that is missing */
    csv_visit *visit;
    void *context;
    text cells; /* of the row being read, each ended by 0 */
    size_t *at; /* [n_cells] into cells */
    int n_cells, cap_at;
    int n_header; /* 0: the header has not been read */
    int line, row_line;
    pleat_status status;
    pleat_error *error;
} reader;

static void refuse(reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void refuse(reader *r, const char *format, ...) {
    char sentence[400];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    r->status = err_set(r->error, PLEAT_EINPUT, "%.200s: line %d: %s", r->file, r->row_line, sentence);
}

static bool is_utf8(const char *bytes, size_t n_bytes) {
    for (utf8proc_int32_t code; n_bytes;) {
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)bytes, (utf8proc_ssize_t)n_bytes, &code);
        if (n <= 0 || code == 0)
            return false;
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return true;
}

static void end_cell(void *bytes, size_t n_bytes, void *context) {
    reader *r = context;
    if (r->status)
        return;
    if (!is_utf8(bytes, n_bytes)) {
        refuse(r, "cell %d is not UTF-8 text", r->n_cells + 1);
        return;
    }
    bool room = mem_grow(&r->at, &r->cap_at, r->n_cells + 1, sizeof(*r->at));
    if (room)
        r->at[r->n_cells++] = r->cells.n;
    text_append(&r->cells, bytes, n_bytes);
    text_append(&r->cells, "", 1);
    if (!room || r->cells.failed)
        r->status = err_set(r->error, PLEAT_EMEMORY, "no memory for line %d of %.200s", r->row_line, r->file);
}

static void take_header(reader *r) {
    for (int i = 0; i < r->n_wanted; i++) {
        bool optional = r->wanted[i][0] == '?';
        const char *name = r->wanted[i] + optional;
        r->from[i] = -1;
        for (int k = 0; k < r->n_cells; k++) {
            if (strcmp(r->cells.bytes + r->at[k], name))
                continue;
            if (r->from[i] >= 0) {
                refuse(r, "the header has the column \"%s\" twice", name);
                return;
            }
            r->from[i] = k;
        }
        if (r->from[i] < 0 && !optional) {
            text list = {0};
            for (int k = 0; k < r->n_cells; k++)
                text_printf(&list, "%s%s", k ? ", " : "", r->cells.bytes + r->at[k]);
            refuse(r, "the header lacks the column \"%s\" (it has: %.200s)", name, list.bytes ? list.bytes : "");
            text_free(&list);
            return;
        }
    }
    r->n_header = r->n_cells;
}

static void take_row(reader *r) {
    if (r->n_cells != r->n_header) {
        refuse(r, "%d cell%s where the header has %d", r->n_cells, r->n_cells == 1 ? "" : "s", r->n_header);
        return;
    }
    csv_row row = {.file = r->file, .line = r->row_line, .column = r->wanted, .n = r->n_wanted};
    for (int i = 0; i < r->n_wanted; i++)
        row.value[i] = r->from[i] < 0 ? NULL : r->cells.bytes + r->at[r->from[i]];
    r->status = r->visit(r->context, &row, r->error);
}

static void end_row(int terminator, void *context) {
    (void)terminator;
    reader *r = context;
    if (!r->status && r->n_cells) {
        if (r->n_header)
            take_row(r);
        else
            take_header(r);
    }
    r->n_cells = 0;
    r->cells.n = 0;
}

/* Bytes up to and with the line's end. */
static size_t line_bytes(const char *bytes, size_t n_bytes) {
    size_t n = 0;
    while (n < n_bytes && bytes[n] != '\n' && bytes[n] != '\r')
        n++;
    if (n + 1 < n_bytes && bytes[n] == '\r' && bytes[n + 1] == '\n')
        n++;
    return n < n_bytes ? n + 1 : n;
}

static void read_lines(reader *r, struct csv_parser *p, const char *bytes, size_t n_bytes) {
    for (r->line = 1; n_bytes && !r->status; r->line++) {
        size_t n = line_bytes(bytes, n_bytes);
        if (p->pstate == 0) /* libcsv is between two rows */
            r->row_line = r->line;
        if (csv_parse(p, bytes, n, end_cell, end_row, r) != n && !r->status) {
            if (csv_error(p) == CSV_EPARSE)
                refuse(r, "a quote stands in the wrong place");
            else
                r->status = err_set(r->error, PLEAT_EMEMORY, "no memory for line %d of %.200s", r->line, r->file);
        }
        bytes += n;
        n_bytes -= n;
    }
    if (!r->status && csv_fini(p, end_cell, end_row, r) && !r->status)
        refuse(r, "a quoted cell does not end");
    if (!r->status && !r->n_header)
        r->status = err_set(r->error, PLEAT_EINPUT, "%.200s: is empty, a header row with the column \"%s\" is needed",
                            r->file, r->wanted[0]);
}

pleat_status csv_read_bytes(const char *name, const char *bytes, size_t n_bytes, const char *const *wanted,
                            csv_visit *visit, void *context, pleat_error *error) {
    reader r = {.file = name, .wanted = wanted, .visit = visit, .context = context, .row_line = 1, .error = error};
    struct csv_parser p;
    while (wanted[r.n_wanted] && r.n_wanted < CSV_MOST_WANTED)
        r.n_wanted++;
    if (n_bytes >= 2 && (!memcmp(bytes, "\xff\xfe", 2) || !memcmp(bytes, "\xfe\xff", 2)))
        return err_set(error, PLEAT_EINPUT, "%.200s: is UTF-16 text, save it as UTF-8", name);
    if (n_bytes >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3))
        bytes += 3, n_bytes -= 3;
    if (csv_init(&p, CSV_STRICT | CSV_STRICT_FINI))
        return err_set(error, PLEAT_EMEMORY, "no memory to read %.200s", name);
    read_lines(&r, &p, bytes, n_bytes);
    csv_free(&p);
    text_free(&r.cells);
    free(r.at);
    return r.status;
}

pleat_status csv_read(const char *path, const char *const *wanted, csv_visit *visit, void *context,
                      pleat_error *error) {
    bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "rbe");
    if (!f)
        return err_set(error, PLEAT_EIO, "%.300s: cannot be opened: %s", path, strerror(errno));
    text t = {0};
    char part[1 << 16];
    for (size_t n; (n = fread(part, 1, sizeof(part), f)) > 0 && !t.failed;)
        text_append(&t, part, n);
    int why = ferror(f) ? errno : 0;
    if (!standard)
        fclose(f);
    pleat_status status = PLEAT_OK;
    if (why)
        status = err_set(error, PLEAT_EIO, "%.300s: cannot be read: %s", path, strerror(why));
    else if (t.failed)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the text of %.300s", path);
    else
        status = csv_read_bytes(standard ? "stdin" : path, t.bytes ? t.bytes : "", t.n, wanted, visit, context, error);
    text_free(&t);
    return status;
}

/* ---- a whole file ---- */

static bool keep_cell(csv_table *t, size_t index, const char *value) {
    if (!value) {
        t->at[index] = SIZE_MAX;
        return true;
    }
    size_t n = strlen(value) + 1;
    if (n > t->cap_bytes - t->n_bytes) {
        size_t cap = 2 * t->cap_bytes + n + 4096;
        char *bytes = realloc(t->bytes, cap);
        if (!bytes)
            return false;
        t->bytes = bytes;
        t->cap_bytes = cap;
    }
    memcpy(t->bytes + t->n_bytes, value, n);
    t->at[index] = t->n_bytes;
    t->n_bytes += n;
    return true;
}

static pleat_status keep_row(void *context, const csv_row *row, pleat_error *error) {
    csv_table *t = context;
    int first = 0, end = 0;
    bool room = !__builtin_mul_overflow(t->n_rows, row->n, &first) && !__builtin_add_overflow(first, row->n, &end) &&
                mem_grow(&t->at, &t->cap_at, end, sizeof(*t->at)) &&
                mem_grow(&t->line, &t->cap_line, t->n_rows + 1, sizeof(*t->line));
    for (int i = 0; room && i < row->n; i++)
        room = keep_cell(t, (size_t)(first + i), row->value[i]);
    if (!room)
        return err_set(error, PLEAT_EMEMORY, "no memory for line %d of %.200s", row->line, row->file);
    t->line[t->n_rows++] = row->line;
    return PLEAT_OK;
}

pleat_status csv_table_read(const char *path, const char *const *wanted, csv_table *out, pleat_error *error) {
    csv_table t = {.file = strdup(strcmp(path, "-") ? path : "stdin"), .column = wanted};
    if (!t.file)
        return err_set(error, PLEAT_EMEMORY, "no memory to read %.200s", path);
    while (wanted[t.n_columns])
        t.n_columns++;
    pleat_status status = csv_read(path, wanted, keep_row, &t, error);
    if (status)
        csv_table_free(&t);
    else
        *out = t;
    return status;
}

void csv_table_free(csv_table *t) {
    free(t->file);
    free(t->bytes);
    free(t->at);
    free(t->line);
    *t = (csv_table){0};
}

csv_row csv_table_row(const csv_table *t, int i) {
    csv_row row = {.file = t->file, .line = t->line[i], .column = t->column, .n = t->n_columns};
    for (int k = 0; k < t->n_columns; k++) {
        size_t at = t->at[(size_t)i * (size_t)t->n_columns + (size_t)k];
        row.value[k] = at == SIZE_MAX ? NULL : t->bytes + at;
    }
    return row;
}

/* ---- cells ---- */

pleat_status csv_fail(const csv_row *row, pleat_error *error, const char *format, ...) {
    char sentence[400];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    return err_set(error, PLEAT_EINPUT, "%.200s: line %d: %s", row->file, row->line, sentence);
}

static const char *column_name(const csv_row *row, int i) {
    return row->column[i] + (row->column[i][0] == '?');
}

/* Only signs, digits, points and exponents: strtod alone would take " 1", "0x1p3", "inf" and "nan". */
static bool looks_decimal(const char *s) {
    return s && *s && strspn(s, "+-.0123456789eE") == strlen(s);
}

pleat_status csv_real(const csv_row *row, int i, double low, double high, double *out, pleat_error *error) {
    const char *s = row->value[i];
    char *end = NULL;
    double x = looks_decimal(s) ? strtod(s, &end) : 0;
    if (!end || *end || end == s)
        return csv_fail(row, error, "%s is \"%.60s\", not a number", column_name(row, i), s ? s : "");
    if (!isfinite(x) || x < low || x > high)
        return csv_fail(row, error, "%s is %.60s, outside of %g to %g", column_name(row, i), s, low, high);
    *out = x;
    return PLEAT_OK;
}

pleat_status csv_int(const csv_row *row, int i, int64_t low, int64_t high, int64_t *out, pleat_error *error) {
    const char *s = row->value[i];
    char *end = NULL;
    errno = 0;
    long long x = looks_decimal(s) ? strtoll(s, &end, 10) : 0;
    if (!end || *end || end == s)
        return csv_fail(row, error, "%s is \"%.60s\", not a whole number", column_name(row, i), s ? s : "");
    if (errno || x < low || x > high)
        return csv_fail(row, error, "%s is %.60s, outside of %lld to %lld", column_name(row, i), s, (long long)low,
                        (long long)high);
    *out = x;
    return PLEAT_OK;
}

/* ---- writing ---- */

void csv_put(text *out, const char *cell) {
    size_t n = strlen(cell);
    bool spaced = n && (strchr(" \t", cell[0]) || strchr(" \t", cell[n - 1]));
    if (!spaced && !strpbrk(cell, ",\"\r\n")) {
        text_append(out, cell, n);
        return;
    }
    text_puts(out, "\"");
    for (const char *s = cell; *s; s++) {
        text_append(out, s, 1);
        if (*s == '"')
            text_puts(out, "\"");
    }
    text_puts(out, "\"");
}
