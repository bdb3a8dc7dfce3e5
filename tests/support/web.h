/* web.h - tests: an HTTP client over a plain socket, that can also say nonsense. */
#ifndef TESTS_WEB_H
#define TESTS_WEB_H
#include "base/text.h"
#include <jansson.h>

enum { WEB_WAIT_SECONDS = 20 }; /* a server that is silent for longer has failed the test */

typedef struct web_answer {
    int status;      /* 0: the server hung up without an answer */
    text head, body; /* body: joined where it came in chunks */
    bool cut;        /* it ended in the middle */
} web_answer;

int web_connect(int port);
int web_connect_path(const char *path); /* a Unix socket */
/* false: the server has hung up. */
bool web_send(int fd, const char *bytes, size_t n);
bool web_puts(int fd, const char *s);
/* "METHOD PATH", further header lines (each ended by CRLF) or NULL, body or NULL. */
bool web_request(int fd, const char *what, const char *headers, const char *body);
/* Fails the test when nothing comes for WEB_WAIT_SECONDS and the connection stays open. */
web_answer web_read(int fd);
web_answer web_ask(int port, const char *what, const char *headers, const char *body);
void web_free(web_answer *a);
/* The body as JSON; the test fails when it is not. */
json_t *web_json(const web_answer *a);
/* A header's value in a buffer of its own until the next call; NULL: not there. */
const char *web_header(const web_answer *a, const char *name);
#endif
