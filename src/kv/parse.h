/* parse.h - pieces of the spec parser that its parts share: parse.c (the grammar), layers.c (the modifier layers). */
#ifndef KV_PARSE_H
#define KV_PARSE_H
#include "kv/method.h"

typedef struct span {
    const char *at;
    int n;
} span;

bool span_is(span s, const char *name);
/* Cuts *rest at the first `separator` outside of parentheses; false when *rest is used up (its at is NULL). */
bool span_cut(span *rest, char separator, span *part);

/* A format for both sides: NAME, NAME:pairs, NAME(pairs), a preset that is a format, or k=...,v=..., the whole in
 * parentheses or not. */
pleat_status parse_coding(span text, kv_coding out[2], pleat_error *error);
/* Text being written; what does not fit is left out whole, and `cut` says so. */
typedef struct sheet {
    char *out;
    size_t n, cap;
    bool cut;
} sheet;
void sheet_put(sheet *s, const char *text);
/* The canonical form that parse_coding reads again: NAME(pairs) or (k=...,v=...). */
void sheet_put_coding(sheet *s, const kv_coding coding[2]);

/* layers.c. pairs: what stands behind "layers:". */
pleat_status layers_parse(span pairs, kv_method *method, pleat_error *error);
/* Checks the map against the model's layers and resolves first and last. */
pleat_status layers_resolve(kv_method *method, const kv_model *model, pleat_error *error);
void layers_write(const kv_method *method, sheet *s); /* "+layers:..." if there is a map */
#endif
