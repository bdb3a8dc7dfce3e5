/* text.c - a growing byte string. Every append leaves the final 0 in place; capacity doubles. */
#include "base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and the final 0. */
static bool reserve(text *t, size_t n) {
    size_t want;
    if (t->failed)
        return false;
    if (__builtin_add_overflow(t->n, n, &want) || __builtin_add_overflow(want, 1, &want)) {
        t->failed = true;
        return false;
    }
    if (want <= t->cap)
        return true;
    size_t cap = t->cap ? t->cap : 64;
    while (cap < want)
        if (__builtin_mul_overflow(cap, 2, &cap))
            cap = want;
    char *bytes = realloc(t->bytes, cap);
    if (!bytes) {
        t->failed = true;
        return false;
    }
    if (!t->bytes)
        bytes[0] = 0;
    t->bytes = bytes;
    t->cap = cap;
    return true;
}

void text_append(text *t, const char *bytes, size_t n) {
    if (!reserve(t, n))
        return;
    if (n)
        memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    t->bytes[t->n] = 0;
}

void text_puts(text *t, const char *s) {
    text_append(t, s, strlen(s));
}

void text_printf(text *t, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n < 0)
        t->failed = true;
    else if (reserve(t, (size_t)n))
        t->n += (size_t)vsnprintf(t->bytes + t->n, (size_t)n + 1, format, again);
    va_end(again);
    va_end(args);
}

void text_free(text *t) {
    free(t->bytes);
    *t = (text){0};
}

const char *text_bytes(size_t n_bytes, char *out) {
    static const char units[] = "KMGTPE";
    if (n_bytes < 1000) {
        snprintf(out, 16, "%zu B", n_bytes);
        return out;
    }
    size_t unit_bytes = 1000, iu = 0;
    while (iu < sizeof units - 2 && n_bytes / unit_bytes >= 1000)
        unit_bytes *= 1000, iu++;
    size_t tenths = n_bytes / (unit_bytes / 10);
    tenths += n_bytes % (unit_bytes / 10) >= unit_bytes / 20;
    if (tenths >= 10000 && iu < sizeof units - 2)
        tenths = 10, iu++;
    /* three digits say enough: 1.2 GB, 34.5 MB, 340 KB */
    if (tenths < 1000)
        snprintf(out, 16, "%d.%d %cB", (int)(tenths / 10), (int)(tenths % 10), units[iu]);
    else
        snprintf(out, 16, "%d %cB", (int)((tenths + 5) / 10), units[iu]);
    return out;
}
