/* values.c - looking up metadata by key and type, and showing it to a person. */
#include "gguf/inside.h"
#include "base/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
    [GGUF_U8] = {"u8", 1},   [GGUF_I8] = {"i8", 1},   [GGUF_U16] = {"u16", 2},       [GGUF_I16] = {"i16", 2},
    [GGUF_U32] = {"u32", 4}, [GGUF_I32] = {"i32", 4}, [GGUF_F32] = {"f32", 4},       [GGUF_BOOL] = {"bool", 1},
    [GGUF_U64] = {"u64", 8}, [GGUF_I64] = {"i64", 8}, [GGUF_STRING] = {"string", 0}, [GGUF_ARRAY] = {"array", 0},
    [GGUF_F64] = {"f64", 8},
};

size_t gguf_type_bytes(gguf_type type) {
    return types[type].bytes;
}

const char *gguf_type_name(gguf_type type) {
    return types[type].name;
}

int gguf_string_compare(gguf_string a, gguf_string b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int order = memcmp(a.bytes, b.bytes, n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

const gguf_value *gguf_value_find(const gguf *file, const char *key) {
    gguf_string wanted = {.bytes = key, .n = strlen(key)};
    int low = 0, high = file->n_keys;
    while (low < high) {
        int middle = low + (high - low) / 2;
        const gguf_value *v = &file->key[file->key_order[middle]];
        int order = gguf_string_compare(v->key, wanted);
        if (order == 0)
            return v;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- refusals ---- */

enum { SHOWN_PATH_BYTES = 150 }; /* a longer path is cut, so that the reason stays */

static pleat_status refuse(const gguf *file, bool placed, size_t at, pleat_error *error, const char *format,
                           va_list arguments) {
    char reason[sizeof(error->text)], place[40] = "";
    vsnprintf(reason, sizeof(reason), format, arguments);
    if (placed)
        snprintf(place, sizeof(place), "byte %zu: ", at);
    return err_set(error, PLEAT_EINPUT, "%.*s: %s%s", SHOWN_PATH_BYTES, file->path, place, reason);
}

pleat_status gguf_refuse_at(const gguf *file, size_t at, pleat_error *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    pleat_status status = refuse(file, true, at, error, format, arguments);
    va_end(arguments);
    return status;
}

pleat_status gguf_refuse(const gguf *file, const char *field, pleat_error *error, const char *format, ...) {
    const gguf_value *v = field ? gguf_value_find(file, field) : NULL;
    const gguf_tensor *t = field && !v ? gguf_tensor_find(file, field) : NULL;
    va_list arguments;
    va_start(arguments, format);
    pleat_status status = refuse(file, v || t, v ? v->offset : t ? t->file_offset : 0, error, format, arguments);
    va_end(arguments);
    return status;
}

/* ---- numbers ---- */

/* false: not an integer, or one above INT64_MAX. */
static bool read_int(gguf_type type, const uint8_t *data, int64_t *value) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } x;
    memcpy(&x, data, types[type].bytes);
    switch (type) {
    case GGUF_U8:
        *value = x.u8;
        return true;
    case GGUF_I8:
        *value = x.i8;
        return true;
    case GGUF_U16:
        *value = x.u16;
        return true;
    case GGUF_I16:
        *value = x.i16;
        return true;
    case GGUF_U32:
        *value = x.u32;
        return true;
    case GGUF_I32:
        *value = x.i32;
        return true;
    case GGUF_U64:
        *value = (int64_t)x.u64;
        return x.u64 <= INT64_MAX;
    case GGUF_I64:
        *value = x.i64;
        return true;
    default:
        return false;
    }
}

static bool is_float(gguf_type type) {
    return type == GGUF_F32 || type == GGUF_F64;
}

static double read_float(gguf_type type, const uint8_t *data) {
    float f;
    double d;
    if (type == GGUF_F64) {
        memcpy(&d, data, sizeof(d));
        return d;
    }
    memcpy(&f, data, sizeof(f));
    return (double)f;
}

static bool is_int(gguf_type type) {
    return type != GGUF_BOOL && type != GGUF_STRING && type != GGUF_ARRAY && !is_float(type);
}

/* ---- look-ups ---- */

static pleat_status wrong_type(const gguf *file, const gguf_value *v, const char *expected, pleat_error *error) {
    return gguf_refuse_at(file, v->offset, error, "%.*s is of type %s; %s is expected",
                          (int)(v->key.n < 100 ? v->key.n : 100), v->key.bytes, types[v->type].name, expected);
}

pleat_status gguf_get_int(const gguf *file, const char *key, int64_t low, int64_t high, int64_t *value, bool *found,
                          pleat_error *error) {
    const gguf_value *v = gguf_value_find(file, key);
    int64_t x = 0;
    *found = v != NULL;
    if (!v)
        return PLEAT_OK;
    if (!is_int(v->type))
        return wrong_type(file, v, "an integer", error);
    if (!read_int(v->type, v->data, &x) || x < low || x > high) {
        char shown[40];
        return gguf_refuse_at(file, v->offset, error, "%s is %s; it must be between %lld and %lld", key,
                              gguf_value_text(file, (int)(v - file->key), shown, sizeof(shown)), (long long)low,
                              (long long)high);
    }
    *value = x;
    return PLEAT_OK;
}

pleat_status gguf_get_float(const gguf *file, const char *key, double *value, bool *found, pleat_error *error) {
    const gguf_value *v = gguf_value_find(file, key);
    *found = v != NULL;
    if (!v)
        return PLEAT_OK;
    if (!is_float(v->type))
        return wrong_type(file, v, "a float", error);
    *value = read_float(v->type, v->data);
    return PLEAT_OK;
}

pleat_status gguf_get_bool(const gguf *file, const char *key, bool *value, bool *found, pleat_error *error) {
    const gguf_value *v = gguf_value_find(file, key);
    *found = v != NULL;
    if (!v)
        return PLEAT_OK;
    if (v->type != GGUF_BOOL)
        return wrong_type(file, v, "a truth value", error);
    *value = *v->data != 0;
    return PLEAT_OK;
}

pleat_status gguf_get_string(const gguf *file, const char *key, gguf_string *value, bool *found, pleat_error *error) {
    const gguf_value *v = gguf_value_find(file, key);
    *found = v != NULL;
    if (!v)
        return PLEAT_OK;
    if (v->type != GGUF_STRING)
        return wrong_type(file, v, "a string", error);
    *value = (gguf_string){.bytes = (const char *)v->data, .n = v->string_bytes};
    return PLEAT_OK;
}

bool gguf_is_array(const gguf *file, const char *key) {
    const gguf_value *v = gguf_value_find(file, key);
    return v && v->type == GGUF_ARRAY;
}

pleat_status gguf_get_array(const gguf *file, const char *key, gguf_array *value, bool *found, pleat_error *error) {
    const gguf_value *v = gguf_value_find(file, key);
    *found = v != NULL;
    if (!v)
        return PLEAT_OK;
    if (v->type != GGUF_ARRAY)
        return wrong_type(file, v, "an array", error);
    *value = (gguf_array){.type = v->element, .n = v->n, .data = v->data};
    return PLEAT_OK;
}

int64_t gguf_array_int(const gguf_array *array, int64_t index) {
    int64_t x = 0;
    const uint8_t *at = array->data + (size_t)index * types[array->type].bytes;
    if (is_float(array->type))
        return (int64_t)read_float(array->type, at);
    if (array->type == GGUF_BOOL)
        return *at;
    read_int(array->type, at, &x);
    return x;
}

double gguf_array_float(const gguf_array *array, int64_t index) {
    if (!is_float(array->type))
        return (double)gguf_array_int(array, index);
    return read_float(array->type, array->data + (size_t)index * types[array->type].bytes);
}

static const uint8_t *next_string(const uint8_t *at, gguf_string *s) {
    uint64_t n;
    memcpy(&n, at, sizeof(n));
    *s = (gguf_string){.bytes = (const char *)at + sizeof(n), .n = (size_t)n};
    return at + sizeof(n) + n;
}

void gguf_array_strings(const gguf_array *array, gguf_string *strings) {
    const uint8_t *at = array->data;
    for (int64_t i = 0; i < array->n; i++)
        at = next_string(at, &strings[i]);
}

/* ---- for people ---- */

int gguf_n_keys(const gguf *file) {
    return file->n_keys;
}

gguf_string gguf_key_at(const gguf *file, int index, gguf_type *type) {
    if (type)
        *type = file->key[index].type;
    return file->key[index].key;
}

typedef struct sheet { /* text being written into a buffer of cap bytes */
    char *out;
    size_t cap, n;
} sheet;

__attribute__((format(printf, 2, 3))) static void put(sheet *s, const char *format, ...) {
    va_list arguments;
    if (s->n + 1 >= s->cap)
        return;
    va_start(arguments, format);
    int n = vsnprintf(s->out + s->n, s->cap - s->n, format, arguments);
    va_end(arguments);
    s->n = n < 0 ? s->n : s->n + (size_t)n < s->cap ? s->n + (size_t)n : s->cap - 1;
}

/* Bytes that are not printable ASCII or part of a longer character are shown as \xNN. */
static void put_string(sheet *s, gguf_string text, size_t most) {
    for (size_t i = 0; i < text.n && i < most; i++) {
        uint8_t byte = (uint8_t)text.bytes[i];
        if (byte == '\n')
            put(s, "\\n");
        else if (byte < 0x20 || byte == 0x7f)
            put(s, "\\x%02x", byte);
        else
            put(s, "%c", byte);
    }
    if (text.n > most)
        put(s, "...");
}

static void put_scalar(sheet *s, gguf_type type, const uint8_t *data) {
    int64_t x = 0;
    if (is_float(type))
        put(s, "%.9g", read_float(type, data));
    else if (type == GGUF_BOOL)
        put(s, "%s", *data ? "true" : "false");
    else if (read_int(type, data, &x))
        put(s, "%lld", (long long)x);
    else
        put(s, "%llu", (unsigned long long)x);
}

static void put_array(sheet *s, const gguf_value *v) {
    enum { SHOWN = 6, SHOWN_BYTES = 24 };
    const uint8_t *at = v->data;
    put(s, "%lld x %s [", (long long)v->n, types[v->element].name);
    for (int64_t i = 0; i < v->n && i < SHOWN; i++) {
        put(s, i ? ", " : "");
        if (v->element == GGUF_STRING) {
            gguf_string text;
            at = next_string(at, &text);
            put(s, "\"");
            put_string(s, text, SHOWN_BYTES);
            put(s, "\"");
        } else {
            put_scalar(s, v->element, at);
            at += types[v->element].bytes;
        }
    }
    put(s, v->n > SHOWN ? ", ...]" : "]");
}

const char *gguf_value_text(const gguf *file, int index, char *out, size_t cap) {
    const gguf_value *v = &file->key[index];
    sheet s = {.out = out, .cap = cap};
    out[0] = 0;
    if (v->type == GGUF_ARRAY)
        put_array(&s, v);
    else if (v->type == GGUF_STRING)
        put_string(&s, (gguf_string){.bytes = (const char *)v->data, .n = v->string_bytes}, cap);
    else
        put_scalar(&s, v->type, v->data);
    return out;
}
