/* trace.c - arrival traces, as Azure and Mooncake publish them. The form is told by the first line: JSON lines begin
 * with a brace, the two CSV forms differ in their column names. */
#include "route/workload.h"
#include "base/csv.h"
#include "base/memory.h"
#include "base/status.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_TOKENS = 1 << 24 };
static const double most_ms = 1e13;

void sim_trace_free(sim_trace *t) {
    free(t->row);
    *t = (sim_trace){0};
}

static pleat_status add(sim_trace *t, double at_s, int64_t prompt, int64_t answer, pleat_error *error) {
    if (!mem_grow(&t->row, &t->cap, t->n + 1, sizeof(*t->row)))
        return err_set(error, PLEAT_EMEMORY, "no memory for a trace of %d requests", t->n + 1);
    t->row[t->n] =
        (sim_trace_row){at_s, {(int32_t)(prompt > 0 ? prompt : 1), (int32_t)(answer > 0 ? answer : 1)}, t->n};
    t->n++;
    return PLEAT_OK;
}

/* ---- CSV ---- */

/* "2023-11-16 18:15:46.6805900", UTC or not: only differences count. */
static bool date_seconds(const char *s, double *seconds) {
    struct tm date = {0};
    const char *rest = strptime(s, "%Y-%m-%d %H:%M:%S", &date);
    char *end;
    if (!rest)
        return false;
    double fraction = *rest == '.' ? strtod(rest, &end) : 0;
    if (*rest && (*rest != '.' || *end || end == rest + 1))
        return false;
    *seconds = (double)timegm(&date) + fraction;
    return true;
}

static pleat_status sizes_of(const csv_row *row, int64_t size[2], pleat_error *error) {
    pleat_status status = csv_int(row, 1, 0, MOST_TOKENS, &size[0], error);
    return status ? status : csv_int(row, 2, 0, MOST_TOKENS, &size[1], error);
}

static pleat_status add_azure(void *context, const csv_row *row, pleat_error *error) {
    int64_t size[2];
    double at_s;
    if (!date_seconds(row->value[0], &at_s))
        return csv_fail(row, error, "%s is \"%.40s\", not a date and time like 2023-11-16 18:15:46.68", row->column[0],
                        row->value[0]);
    pleat_status status = sizes_of(row, size, error);
    return status ? status : add(context, at_s, size[0], size[1], error);
}

static pleat_status add_mooncake(void *context, const csv_row *row, pleat_error *error) {
    int64_t size[2];
    double at_ms;
    pleat_status status = csv_real(row, 0, 0, most_ms, &at_ms, error);
    status = status ? status : sizes_of(row, size, error);
    return status ? status : add(context, at_ms / 1e3, size[0], size[1], error);
}

/* ---- JSON lines ---- */

static pleat_status number_of(const json_t *object, const char *path, int line, const char *name, double most,
                              double *out, pleat_error *error) {
    const json_t *value = json_object_get(object, name);
    if (!json_is_number(value))
        return err_set(error, PLEAT_EINPUT, "%.300s: line %d: %s is missing or not a number", path, line, name);
    *out = json_number_value(value);
    if (!(*out >= 0 && *out <= most))
        return err_set(error, PLEAT_EINPUT, "%.300s: line %d: %s is %g, not within 0 and %g", path, line, name, *out,
                       most);
    return PLEAT_OK;
}

static pleat_status add_line(sim_trace *t, const char *path, int line, const char *bytes, size_t n,
                             pleat_error *error) {
    json_error_t why;
    double at_ms = 0, prompt = 0, answer = 0;
    json_t *object = json_loadb(bytes, n, 0, &why);
    if (!object)
        return err_set(error, PLEAT_EINPUT, "%.300s: line %d: not JSON: %.160s", path, line, why.text);
    pleat_status status = number_of(object, path, line, "timestamp", most_ms, &at_ms, error);
    status = status ? status : number_of(object, path, line, "input_length", MOST_TOKENS, &prompt, error);
    status = status ? status : number_of(object, path, line, "output_length", MOST_TOKENS, &answer, error);
    json_decref(object);
    return status ? status : add(t, at_ms / 1e3, (int64_t)prompt, (int64_t)answer, error);
}

static pleat_status read_lines(FILE *f, const char *path, sim_trace *t, pleat_error *error) {
    char *bytes = NULL;
    size_t cap = 0;
    ssize_t n;
    pleat_status status = PLEAT_OK;
    for (int line = 1; !status && (n = getline(&bytes, &cap, f)) >= 0; line++)
        if (strspn(bytes, " \t\r\n") < (size_t)n)
            status = add_line(t, path, line, bytes, (size_t)n, error);
    if (!status && ferror(f))
        status = err_set(error, PLEAT_EIO, "%.300s: cannot be read: %s", path, strerror(errno));
    free(bytes);
    return status;
}

/* ---- both ---- */

/* Equal times are common (a trace in whole seconds): they keep the file's order. */
static int by_time(const void *a, const void *b) {
    const sim_trace_row *x = a, *y = b;
    return x->at_s != y->at_s ? (x->at_s > y->at_s) - (x->at_s < y->at_s) : x->nth - y->nth;
}

pleat_status sim_trace_read(const char *path, sim_trace *out, pleat_error *error) {
    static const char *const azure[] = {"TIMESTAMP", "ContextTokens", "GeneratedTokens", NULL};
    static const char *const mooncake[] = {"timestamp_ms", "input_tokens", "output_tokens", NULL};
    char head[256] = "";
    sim_trace t = {0};
    pleat_status status;
    FILE *f = fopen(path, "r");
    if (!f)
        return err_set(error, PLEAT_EIO, "%.300s: cannot be opened: %s", path, strerror(errno));
    bool some = fgets(head, sizeof(head), f) != NULL;
    rewind(f);
    if (some && head[strspn(head, " \t\r\n\xEF\xBB\xBF")] == '{')
        status = read_lines(f, path, &t, error);
    else if (strstr(head, azure[0]))
        status = csv_read(path, azure, add_azure, &t, error);
    else if (strstr(head, mooncake[0]))
        status = csv_read(path, mooncake, add_mooncake, &t, error);
    else
        status = err_set(error, PLEAT_EINPUT,
                         "%.300s: line 1: not a trace: columns TIMESTAMP, ContextTokens, GeneratedTokens or "
                         "timestamp_ms, input_tokens, output_tokens, or JSON lines are expected",
                         path);
    fclose(f);
    if (!status && !t.n)
        status = err_set(error, PLEAT_EINPUT, "%.300s holds no request", path);
    if (status) {
        sim_trace_free(&t);
        return status;
    }
    qsort(t.row, (size_t)t.n, sizeof(*t.row), by_time);
    for (int i = t.n - 1; i >= 0; i--)
        t.row[i].at_s -= t.row[0].at_s;
    *out = t;
    return PLEAT_OK;
}
