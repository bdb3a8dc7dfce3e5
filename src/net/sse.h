/* sse.h - server-sent events as text. */
#ifndef NET_SSE_H
#define NET_SSE_H
#include "base/text.h"

#define SSE_TYPE "text/event-stream; charset=utf-8"
/* An event: data holds no line break. */
void sse_begin(text *out);
void sse_end(text *out);
void sse_put(text *out, const char *data);
/* A line that clients skip; keeps proxies from hanging up. */
void sse_ping(text *out);
#endif
