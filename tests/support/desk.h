/* desk.h - tests: a server over the tiny model in a process of its own, and questions to it. */
#ifndef TESTS_DESK_H
#define TESTS_DESK_H
#include "serve/serve.h"
#include "support/web.h"
#include <sys/types.h>

typedef struct desk {
    pid_t pid;
    int port;
} desk;

enum { DESK_CONTEXT = 2048 };

/* o.http is filled here; prefix_bytes 0: nothing is reused. */
desk desk_open(serve_options o, size_t pool_bytes, size_t prefix_bytes);
/* SIGTERM: drains for at most 20 s. Fails the test unless every answer has ended by then and the process ends with 0
 * (no leak, no sanitizer's word). */
void desk_close(desk *d);
void desk_signal(const desk *d);
void desk_wait(desk *d);

/* The answer's JSON; fails the test unless the status is 200. */
json_t *desk_ask(const desk *d, const char *path, const char *body);
/* A whole number of the object; fails the test when it is none. */
json_int_t desk_number(const json_t *object, const char *key);
/* The text of choice i. */
const char *desk_text(const json_t *answer, size_t i);
/* The events of a stream as a list; *done: [DONE] came, and came last. Fails the test unless all of it is well-formed.
 */
json_t *desk_events(const web_answer *a, bool *done);
/* desk_text from a stream: the pieces of choice i joined into out; the last usage, NULL without. Checks every event. */
json_t *desk_stream(const web_answer *a, size_t i, text *out, char finish[16]);
/* A figure of /metrics, summed over its labels; fails the test when it is not there. */
double desk_figure(const desk *d, const char *name);
/* The same of lines with this label (`method="f16"`), NULL: of all; NAN: there is none. */
double desk_figure_of(const desk *d, const char *name, const char *label);
/* Waits until the figure is at least so much, and at most; fails the test when that never comes. */
void desk_await(const desk *d, const char *name, double least);
void desk_await_in(const desk *d, const char *name, double least, double most);
/* Waits until nothing runs or waits and the pool is empty. */
void desk_quiet(const desk *d);
/* Waits until no request is there any more, not even one whose answer has ended and is still being sent. */
void desk_unasked(const desk *d);
int desk_fds(const desk *d);
size_t desk_rss(const desk *d);
#endif
