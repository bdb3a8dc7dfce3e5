/* http.h - an HTTP/1.1 server: whole requests in, whole or streamed answers out, and word of clients that leave.
 *
 * HTTP threads (libmicrohttpd's) call the handler when a request is whole. It answers at once, or defers: then the
 * connection sleeps until any thread calls http_wake, and a HTTP thread asks the `work` again. http_wake takes no lock
 * and allocates nothing: it may be called for every token. While a connection sleeps the library neither times it out
 * nor looks at its socket, so a thread of this module watches for clients that hang up; a half-closed socket counts as
 * hung up. Every 15 seconds a sleeping exchange is woken without a reason, so that a stream may say that it lives.
 *
 * Which file does what: http.c requests and answers, listen.c sockets, watch.c the thread that wakes and watches. */
#ifndef NET_HTTP_H
#define NET_HTTP_H
#include "base/shares.h"
#include "pleat.h"
#include <sys/types.h>

typedef struct http_server http_server;
typedef struct http_exchange http_exchange; /* one request and its answer */

#define HTTP_HOST "127.0.0.1"
enum { HTTP_THREADS = 4, HTTP_CONNECTIONS = 1024, HTTP_BODY_BYTES = 8 << 20 };
enum { HTTP_CONNECTION_BYTES = 50 << 10 }; /* that one takes at most, bodies and answers aside */
enum { HTTP_HOLDER_BYTES = 64 };           /* of a holder's name, its end included */

typedef struct http_options {
    const char *host;                            /* NULL: HTTP_HOST */
    int port;                                    /* 0: any free one */
    const char *path;                            /* of a Unix socket instead, or NULL */
    int n_threads;                               /* 0: HTTP_THREADS */
    int connections;                             /* open at a time; 0: HTTP_CONNECTIONS */
    size_t body_bytes;                           /* most of a request's body; 0: HTTP_BODY_BYTES */
    double head_seconds, body_seconds;           /* until a request's head, and its body, is whole; 0: 30 and 60 */
    double stall_seconds;                        /* without progress in reading or writing; 0: 30 */
    void (*answered)(void *context, int status); /* of every answer that is sent; NULL: nobody counts */
    shares *memory;                              /* that bodies take their bytes of; NULL: no bound */
    /* Writes whose share of it a request's body takes. NULL: one share for all. */
    void (*holder)(void *context, const http_exchange *x, char *out, size_t cap);
    /* Asked once a request's head is there. false: its body is not kept, and the handler answers at once, without it.
     * NULL: every body is kept. */
    bool (*wants_body)(void *context, const http_exchange *x);
    /* Answers a request that the handler is not asked about, with this status and why: its head or body is bad. */
    void (*refuse)(http_exchange *x, int status, const char *sentence);
} http_options;

typedef void (*http_handler)(void *context, http_exchange *x);

/* Opens the socket and starts to answer. PLEAT_EIO names address and reason; PLEAT_EMEMORY. */
pleat_status http_open(const http_options *options, http_handler handler, void *context, http_server **out,
                       pleat_error *error);
int http_port(const http_server *server); /* 0 on a Unix socket */
/* Deferred exchanges are woken and dropped; returns when no handler and no work runs any more. */
void http_close(http_server *server);

/* ---- a request; valid inside the handler ---- */

const char *http_method(const http_exchange *x);
const char *http_path(const http_exchange *x);                     /* without the query, percent-decoded */
const char *http_header(const http_exchange *x, const char *name); /* NULL: not there */
const char *http_body(const http_exchange *x, size_t *n_bytes);    /* ended by 0 (not counted) */
/* The network address that the request came from, without its port, into out (48 bytes are enough); of IPv6 the /64, of
 * which a host has all; "" on a Unix socket. */
void http_peer(const http_exchange *x, char *out, size_t cap);

/* ---- an answer; on a HTTP thread, from the handler or from `ready` ---- */

void http_set(http_exchange *x, const char *name, const char *value); /* a header; copied, at most 8 */
void http_answer(http_exchange *x, int status, const char *type, const char *bytes, size_t n_bytes);
/* 200 whose body is what `fill` gives. */
void http_stream(http_exchange *x, const char *type);

enum { HTTP_END = -1, HTTP_ABORT = -2 };
typedef struct http_work {
    bool (*pending)(void *context);                         /* is there anything to do for ready or fill? */
    void (*ready)(void *context, http_exchange *x);         /* answers or streams, or waits on */
    ssize_t (*fill)(void *context, char *out, size_t most); /* bytes; 0: nothing yet; HTTP_END; HTTP_ABORT */
    void (*left)(void *context);                            /* the client has gone; any thread, at most once */
    void (*closed)(void *context); /* the exchange is over, whichever way; nobody reads an answer any more */
    void (*freed)(void *context);  /* nobody holds the exchange any more: the last call of all */
} http_work;
/* The handler returns without an answer; `ready` will give it. From now on the body is gone. Only once the handler has
 * returned is the client watched: until then no call but `freed` comes. A client that cannot be watched is told 503. */
void http_defer(http_exchange *x, const http_work *work, void *context);
/* Any thread that holds x. What was published before it is seen by pending, ready and fill. */
void http_wake(http_exchange *x);
void http_hold(http_exchange *x);
void http_drop(http_exchange *x);
#endif
