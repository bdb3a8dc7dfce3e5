/* fields.c - see fields.h. jansson parses (strict RFC 8259); what it would take and this server does not - depth, and
 * numbers of values that cost hundreds of times their bytes in memory - is looked at before. */
#include "serve/fields.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MOST_DEPTH = 128, MOST_VALUES = 1000000 };

bool refuse(refusal *r, const char *param, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(r->text, sizeof(r->text), format, arguments);
    va_end(arguments);
    r->status = 400;
    r->code = NULL;
    r->retry_seconds = 0;
    snprintf(r->param, sizeof(r->param), "%s", param);
    return false;
}

const json_t *field(const json_t *body, const char *name) {
    const json_t *value = json_object_get(body, name);
    return json_is_null(value) ? NULL : value;
}

bool field_int(const json_t *body, const char *name, int64_t low, int64_t high, int64_t *value, refusal *r) {
    const json_t *at = field(body, name);
    if (!at)
        return true;
    if (!json_is_integer(at))
        return refuse(r, name, "%s must be a whole number", name);
    if (json_integer_value(at) < low || json_integer_value(at) > high)
        return refuse(r, name, "%s is %lld; it must be between %lld and %lld", name, (long long)json_integer_value(at),
                      (long long)low, (long long)high);
    *value = json_integer_value(at);
    return true;
}

bool field_real(const json_t *body, const char *name, double low, double high, float *value, refusal *r) {
    const json_t *at = field(body, name);
    if (!at)
        return true;
    if (!json_is_number(at))
        return refuse(r, name, "%s must be a number", name);
    double x = json_number_value(at);
    if (!(x >= low && x <= high))
        return refuse(r, name, "%s is %g; it must be between %g and %g", name, x, low, high);
    *value = (float)x;
    return true;
}

bool field_flag(const json_t *body, const char *name, bool *value, refusal *r) {
    const json_t *at = field(body, name);
    if (!at)
        return true;
    if (!json_is_boolean(at))
        return refuse(r, name, "%s must be true or false", name);
    *value = json_is_true(at);
    return true;
}

bool field_text(const json_t *body, const char *name, size_t most_bytes, const char **value, refusal *r) {
    const json_t *at = field(body, name);
    if (!at)
        return true;
    if (!json_is_string(at))
        return refuse(r, name, "%s must be a string", name);
    if (json_string_length(at) > most_bytes)
        return refuse(r, name, "%s has %zu bytes; at most %zu are possible", name, json_string_length(at), most_bytes);
    *value = json_string_value(at);
    return true;
}

/* ---- bodies ---- */

static bool measure(const char *bytes, size_t n, refusal *r) {
    int depth = 0, values = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
            continue;
        }
        in_string = c == '"';
        values += c == ',' || c == ':';
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        if (depth > MOST_DEPTH)
            return refuse(r, "", "the body is nested more than %d levels deep", MOST_DEPTH);
    }
    return values <= MOST_VALUES || refuse(r, "", "the body holds more than %d values", MOST_VALUES);
}

json_t *fields_parse(const char *bytes, size_t n_bytes, refusal *r) {
    json_error_t error;
    if (!n_bytes) {
        refuse(r, "", "the body is empty; a JSON object is expected");
        return NULL;
    }
    if (!measure(bytes, n_bytes, r))
        return NULL;
    json_t *body = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!body) {
        refuse(r, "", "the body is not JSON: %s (line %d, column %d)", error.text, error.line, error.column);
        return NULL;
    }
    if (!json_is_object(body)) {
        refuse(r, "", "the body must be a JSON object");
        json_decref(body);
        return NULL;
    }
    return body;
}
