/* status.c - fills a pleat_error. A sentence that does not fit is cut at the end of a character; control characters, which
 * come from outside with what a sentence quotes, become '?', so that it stays one line and moves no terminal. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

pleat_status err_set(pleat_error *error, pleat_status status, const char *format, ...) {
    if (!error)
        return status;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    if (n < 0) {
        strcpy(error->text, "an error could not be described");
    } else if ((size_t)n >= sizeof error->text) {
        size_t end = sizeof error->text - 1;
        size_t start = end;
        while (start > 0 && ((unsigned char)error->text[start - 1] & 0xC0) == 0x80)
            start--;
        if (start > 0 && (unsigned char)error->text[start - 1] >= 0xC0)
            end = start - 1;
        error->text[end] = 0;
    }
    for (char *at = error->text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    return status;
}
