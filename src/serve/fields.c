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
    r->code_is_status = false;
    r->retry_seconds = 0;
    snprintf(r->param, sizeof(r->param), "%s", param);
    return false;
}

static bool refuse_later(refusal *r, int status, int seconds, const char *sentence) {
    *r = (refusal){.status = status, .retry_seconds = seconds};
    snprintf(r->text, sizeof(r->text), "%s", sentence);
    return false;
}

bool refuse_no_memory(refusal *r) {
    return refuse_later(r, 503, 1, "there is no memory for the request");
}

bool refuse_draining(refusal *r) {
    return refuse_later(r, 503, 5, "the server is shutting down");
}

bool refuse_status(refusal *r, const char *param, pleat_status status, const pleat_error *error) {
    if (status == PLEAT_EMEMORY)
        return refuse_no_memory(r);
    if (status == PLEAT_EFULL)
        return refuse_later(r, 429, 1, error->text);
    return refuse(r, param, "%s", error->text);
}

static const char *error_type(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "unavailable_error";
    }
    return status >= 500 ? "server_error" : "invalid_request_error";
}

json_t *refusal_object(const refusal *r) {
    const char *type = error_type(r->status);
    json_t *code = r->code_is_status ? json_integer(r->status) : r->code ? json_string(r->code) : json_null();
    json_t *text = json_string(r->text), *param = *r->param ? json_string(r->param) : json_null();
    if (!text) /* it quotes what is not UTF-8 */
        text = json_string("the request cannot be read");
    return json_pack("{s:{s:o,s:s,s:o,s:o}}", "error", "message", text, "type", type, "param", param, "code", code);
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
    json_begin();
    json_t *body = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!body && json_ran_out()) {
        refuse_no_memory(r);
        return NULL;
    }
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
