/* layers.c - the modifier layers: other formats for some layers of a model.
 *
 *   layers:first=2,last=2,format=int8        the first and last layers
 *   layers:0-1=int8,28=(k=int8,v=int4)       any layers, counted from 0
 *   layers:file=PATH                         the same, a line each: "0-1 int8"; # begins a comment
 *
 * A format is written as in a spec, with its parameters in parentheses where it stands in a list: int8(group=row). All
 * of the model's layers count, those with a window too. The canonical spec spells a file's map out, so that a stored
 * spec means the same when the file has changed. At most KV_MAX_EXTRA different formats besides the method's own. */
#include "base/status.h"
#include "kv/parse.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FILE_BYTES = 1 << 16 };

/* "7" or "0-3". */
static bool parse_range(span text, int *first, int *last) {
    char copy[24], *end;
    if (text.n < 1 || text.n >= (int)sizeof(copy) || !isdigit((unsigned char)text.at[0]))
        return false;
    memcpy(copy, text.at, (size_t)text.n);
    copy[text.n] = 0;
    long a = strtol(copy, &end, 10), b = a;
    if (*end == '-' && isdigit((unsigned char)end[1]))
        b = strtol(end + 1, &end, 10);
    if (*end || a > b || b >= KV_MAX_LAYERS)
        return false;
    *first = (int)a;
    *last = (int)b;
    return true;
}

static bool same_coding(const kv_coding a[2], const kv_coding b[2]) {
    for (int side = 0; side < 2; side++) {
        if (a[side].format != b[side].format)
            return false;
        for (int i = 0; i < KV_MAX_PARAMS; i++)
            if (a[side].config.value[i] != b[side].config.value[i])
                return false;
    }
    return true;
}

/* Number of a coding in the method's list, from 1. */
static pleat_status add_coding(kv_method *method, const kv_coding coding[2], int *number, pleat_error *error) {
    for (int i = 0; i < method->n_extra; i++)
        if (same_coding(method->extra[i], coding)) {
            *number = i + 1;
            return PLEAT_OK;
        }
    if (method->n_extra == KV_MAX_EXTRA)
        return err_set(error, PLEAT_EINPUT, "layers: more than %d different formats", KV_MAX_EXTRA);
    memcpy(method->extra[method->n_extra], coding, 2 * sizeof(*coding));
    *number = ++method->n_extra;
    return PLEAT_OK;
}

static pleat_status add_range(kv_method *method, span range, span format, pleat_error *error) {
    int first, last, number;
    kv_coding coding[2];
    if (!parse_range(range, &first, &last))
        return err_set(error, PLEAT_EINPUT, "layers: \"%.*s\" is no layer and no range of layers (0-%d)",
                       range.n < 40 ? range.n : 40, range.at, KV_MAX_LAYERS - 1);
    pleat_status status = parse_coding(format, coding, error);
    status = status ? status : add_coding(method, coding, &number, error);
    for (int il = first; !status && il <= last; il++) {
        if (method->extra_of[il])
            return err_set(error, PLEAT_EINPUT, "layers: layer %d is named twice", il);
        method->extra_of[il] = (uint8_t)number;
    }
    return status;
}

/* ---- a file ---- */

static span trim(span s) {
    while (s.n > 0 && isspace((unsigned char)s.at[0]))
        s = (span){s.at + 1, s.n - 1};
    while (s.n > 0 && isspace((unsigned char)s.at[s.n - 1]))
        s.n--;
    return s;
}

static pleat_status parse_line(span line, const char *path, int number, kv_method *method, pleat_error *error) {
    span text, range;
    pleat_error why;
    if (!span_cut(&line, '#', &text) || (text = trim(text)).n == 0)
        return PLEAT_OK;
    int n = 0;
    while (n < text.n && !isspace((unsigned char)text.at[n]))
        n++;
    range = (span){text.at, n};
    pleat_status status = add_range(method, range, trim((span){text.at + n, text.n - n}), &why);
    return status ? err_set(error, status, "%s, line %d: %s", path, number, why.text) : PLEAT_OK;
}

static pleat_status parse_file(span value, kv_method *method, pleat_error *error) {
    char path[512], *text = malloc(MOST_FILE_BYTES + 1);
    if (!text)
        return err_set(error, PLEAT_EMEMORY, "no memory for a map of layers");
    snprintf(path, sizeof(path), "%.*s", value.n, value.at);
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(text, 1, MOST_FILE_BYTES + 1, file) : 0;
    pleat_status status = PLEAT_OK;
    if (!file || ferror(file))
        status = err_set(error, PLEAT_EIO, "layers: the file %s cannot be read", path);
    else if (n > MOST_FILE_BYTES || memchr(text, 0, n))
        status = err_set(error, PLEAT_EINPUT, "layers: %s is no map of layers (a text of at most %d bytes)", path,
                         MOST_FILE_BYTES);
    span rest = {text, (int)n}, line;
    for (int number = 1; !status && span_cut(&rest, '\n', &line); number++)
        status = parse_line(line, path, number, method, error);
    if (file)
        fclose(file);
    free(text);
    return status;
}

/* ---- the modifier ---- */

static pleat_status parse_count(span key, span value, int *count, pleat_error *error) {
    int first, last;
    if (!parse_range(value, &first, &last) || first != last)
        return err_set(error, PLEAT_EINPUT, "layers: %.*s=%.*s is not a number of layers", key.n, key.at,
                       value.n < 40 ? value.n : 40, value.at);
    *count = first;
    return PLEAT_OK;
}

pleat_status layers_parse(span pairs, kv_method *method, pleat_error *error) {
    span pair, format = {NULL, 0};
    pleat_status status = PLEAT_OK;
    bool ends = false;
    while (!status && span_cut(&pairs, ',', &pair)) {
        span value = pair, key = {"", 0};
        span_cut(&value, '=', &key);
        if (!value.at)
            return err_set(error, PLEAT_EINPUT,
                           "layers: \"%.*s\" is not first=N, last=N, format=NAME, file=PATH or LAYERS=NAME",
                           pair.n < 40 ? pair.n : 40, pair.at);
        if (span_is(key, "file"))
            status = parse_file(value, method, error);
        else if (span_is(key, "first"))
            status = parse_count(key, value, &method->first_layers, error);
        else if (span_is(key, "last"))
            status = parse_count(key, value, &method->last_layers, error);
        else if (span_is(key, "format"))
            format = value;
        else
            status = add_range(method, key, value, error);
        ends = ends || span_is(key, "first") || span_is(key, "last") || span_is(key, "format");
    }
    if (status || !ends)
        return status;
    if (method->n_extra)
        return err_set(error, PLEAT_EINPUT, "layers: first, last and format stand alone, without other layers");
    if (!format.at || !(method->first_layers || method->last_layers))
        return err_set(error, PLEAT_EINPUT, "layers: first=N or last=N, and format=NAME belong together");
    kv_coding coding[2];
    int number;
    status = parse_coding(format, coding, error);
    return status ? status : add_coding(method, coding, &number, error);
}

pleat_status layers_resolve(kv_method *method, const kv_model *model, pleat_error *error) {
    int n = model->n_layer;
    for (int il = n; il < KV_MAX_LAYERS; il++)
        if (method->extra_of[il])
            return err_set(error, PLEAT_EINPUT, "layers: layer %d is named; %s has %d layers (0-%d)", il, model->name,
                           n, n - 1);
    if (method->first_layers > n || method->last_layers > n)
        return err_set(error, PLEAT_EINPUT, "layers: %d first and %d last layers; %s has %d", method->first_layers,
                       method->last_layers, model->name, n);
    for (int il = 0; il < n; il++)
        if (il < method->first_layers || il >= n - method->last_layers)
            method->extra_of[il] = 1;
    return PLEAT_OK;
}

void layers_write(const kv_method *method, sheet *s) {
    char text[80];
    if (!method->n_extra)
        return;
    if (method->first_layers || method->last_layers) {
        snprintf(text, sizeof(text), "+layers:first=%d,last=%d,format=", method->first_layers, method->last_layers);
        sheet_put(s, text);
        sheet_put_coding(s, method->extra[0]);
        return;
    }
    const char *before = "+layers:";
    for (int first = 0, end; first < KV_MAX_LAYERS; first = end) {
        int number = method->extra_of[first];
        for (end = first + 1; end < KV_MAX_LAYERS && method->extra_of[end] == number;)
            end++;
        if (!number)
            continue;
        if (end == first + 1)
            snprintf(text, sizeof(text), "%s%d=", before, first);
        else
            snprintf(text, sizeof(text), "%s%d-%d=", before, first, end - 1);
        sheet_put(s, text);
        sheet_put_coding(s, method->extra[number - 1]);
        before = ",";
    }
}
