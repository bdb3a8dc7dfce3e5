/* sse.c - see sse.h (WHATWG HTML, section 9.2). */
#include "net/sse.h"

void sse_begin(text *out) {
    text_append(out, "data: ", 6);
}

void sse_end(text *out) {
    text_append(out, "\n\n", 2);
}

void sse_put(text *out, const char *data) {
    sse_begin(out);
    text_puts(out, data);
    sse_end(out);
}

void sse_ping(text *out) {
    text_puts(out, ": ping\n\n");
}
