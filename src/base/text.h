/* text.h - a growing byte string, always ended by 0. After a failed allocation it is `failed` and stays as it was. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H
#include <stdbool.h>
#include <stddef.h>

typedef struct text {
    char *bytes; /* malloc'ed, NULL while empty */
    size_t n, cap;
    bool failed;
} text;
void text_append(text *t, const char *bytes, size_t n);
void text_puts(text *t, const char *s);
void text_printf(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_free(text *t);
/* "1.2 GB", "340 KB": decimal units, for people. out holds at least 16 bytes; returns out. */
const char *text_bytes(size_t n_bytes, char *out);
#endif
