/* fields.h - fields of a request's JSON body: types and ranges, and the sentence that refuses one. An absent field and
 * a null are the same: the value stays as it is. */
#ifndef SERVE_FIELDS_H
#define SERVE_FIELDS_H
#include "pleat.h"
#include "serve/json.h"

typedef struct refusal {
    int status;          /* HTTP's; 0: nothing is refused */
    const char *code;    /* of the error object, or NULL */
    bool code_is_status; /* it is the status, a number, as others' /health has it */
    char param[64];      /* the field, or "" */
    char text[600];
    int retry_seconds; /* of Retry-After; 0: none */
} refusal;

/* Fills r with 400 and returns false, so that `return refuse(...)` is one line. */
bool refuse(refusal *r, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same with 503 and Retry-After: memory ran out. */
bool refuse_no_memory(refusal *r);
/* The same with 503 and Retry-After: the server is shutting down. */
bool refuse_draining(refusal *r);
/* The same for what a function of the library said: no memory is 503, "not now" (PLEAT_EFULL) 429, the rest 400. */
bool refuse_status(refusal *r, const char *param, pleat_status status, const pleat_error *error);
/* {"error": {message, type, param, code}}; NULL: no memory. */
json_t *refusal_object(const refusal *r);

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
