/* fields.h - fields of a request's JSON body: types and ranges, and the sentence that refuses one. An absent field and
 * a null are the same: the value stays as it is. */
#ifndef SERVE_FIELDS_H
#define SERVE_FIELDS_H
#include "pleat.h"
#include <jansson.h>

typedef struct refusal {
    int status;       /* HTTP's; 0: nothing is refused */
    const char *code; /* of the error object, or NULL */
    char param[64];   /* the field, or "" */
    char text[600];
    int retry_seconds; /* of Retry-After; 0: none */
} refusal;

/* Fills r with 400 and returns false, so that `return refuse(...)` is one line. */
bool refuse(refusal *r, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* NULL also for a null. */
const json_t *field(const json_t *body, const char *name);
bool field_int(const json_t *body, const char *name, int64_t low, int64_t high, int64_t *value, refusal *r);
bool field_real(const json_t *body, const char *name, double low, double high, float *value, refusal *r);
bool field_flag(const json_t *body, const char *name, bool *value, refusal *r);
/* Owned by body; no more than most_bytes. */
bool field_text(const json_t *body, const char *name, size_t most_bytes, const char **value, refusal *r);

/* A body as an object: at most 128 levels deep, no key twice, valid UTF-8, no more than a million values. NULL: r. */
json_t *fields_parse(const char *bytes, size_t n_bytes, refusal *r);
#endif
