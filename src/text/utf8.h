/* utf8.h - whole characters from a stream of bytes, and validity. */
#ifndef TEXT_UTF8_H
#define TEXT_UTF8_H
#include <stdbool.h>
#include <stddef.h>

/* How many of n bytes can be shown now: all but a final incomplete character (at most 3 bytes held back). */
size_t utf8_complete(const char *bytes, size_t n);
bool utf8_valid(const char *bytes, size_t n);
/* Appends bytes to out with every invalid sequence replaced by U+FFFD (one per maximal subpart); returns bytes written;
 * out holds at least 3 * n bytes. */
size_t utf8_repair(const char *bytes, size_t n, char *out);
#endif
