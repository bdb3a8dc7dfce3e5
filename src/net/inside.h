/* inside.h - the structs of a server; for the files of this folder only. */
#ifndef NET_INSIDE_H
#define NET_INSIDE_H
#include "base/text.h"
#include "net/http.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

/* A client's connection, between requests too: so that a head that never comes can be timed out. */
typedef struct http_client {
    int fd;
    _Atomic double idle_since; /* 0: a request's head is there */
    struct http_client *prev, *next;
} http_client;

enum { HTTP_MOST_HEADERS = 8, UNWANTED = -1 };

struct http_exchange {
    http_server *server;
    struct MHD_Connection *connection;
    http_client *client;
    char *path;
    const char *method;
    text body;
    size_t n_received, held_bytes; /* of the body; held: taken of the server's memory */
    share *holder;                 /* who took them, or NULL */
    int refused;                   /* the body is not kept: a status that answers once it is in, or UNWANTED */
    double began;
    bool handled, answered, closes, watched;
    bool broken; /* there is an answer, and it cannot be sent */
    struct {
        char *name, *value;
    } header[HTTP_MOST_HEADERS];
    int n_headers;
    const http_work *work;
    void *context;
    atomic_int refs;
    atomic_bool armed, left; /* armed: asleep, and nobody has woken it */
    http_exchange *next_woken, *next_retired;
    http_exchange *prev, *next; /* of those deferred */
};

struct http_server {
    http_options options;
    http_handler handler;
    void *context;
    struct MHD_Daemon *daemon;
    int listen_fd, port;
    char *unlink_path;
    atomic_bool closing;
    pthread_mutex_t lock; /* of the two lists; not taken for a token */
    http_client *clients;
    http_exchange *deferred;
    /* the watching thread */
    pthread_t thread;
    bool has_thread;
    int epoll_fd, event_fd;
    atomic_bool asleep, stop;
    _Atomic(http_exchange *) woken, retired;
};

/* listen.c: PLEAT_EIO names the address. */
pleat_status listen_open(http_server *s, pleat_error *error);
void listen_close(http_server *s);

/* watch.c */
pleat_status watch_open(http_server *s, pleat_error *error);
void watch_close(http_server *s);
bool watch_add(http_exchange *x);    /* a deferred exchange's socket; false: the system cannot */
void watch_remove(http_exchange *x); /* if it is watched; before the socket is closed */
bool http_sleep(http_exchange *x);   /* on its HTTP thread: suspends, unless there is something to do by now */
#endif
