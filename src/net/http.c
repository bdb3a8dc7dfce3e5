/* http.c - requests in and answers out, over libmicrohttpd (poll, a few threads: its epoll is edge-triggered
 * and can miss that a client left; connections that wait for the engine are suspended and not in the poll).
 *
 * What the library lets pass and this server does not: two Content-Length, Host or Authorization headers, a length
 * beside a transfer encoding, any encoding but chunked, an encoded body, a path that %00 would end, a header's name
 * that is no token. A body above the limit is thrown away as it comes and then refused, so that the client reads the
 * answer; one of more than four times the limit, or whose client asked first (Expect), is refused at once. A body that
 * the handler has no use for (wants_body) is thrown away in the same way. */
#include "net/inside.h"
#include "base/clock.h"
#include "base/status.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { HEAD_BYTES = 48 << 10, STACK_BYTES = 1 << 20 };

/* ---- exchanges ---- */

static http_exchange *exchange_new(http_server *s, struct MHD_Connection *c, const char *method, const char *path) {
    http_exchange *x = calloc(1, sizeof(*x));
    char *copy = strdup(path);
    if (!x || !copy) {
        free(x);
        free(copy);
        return NULL;
    }
    x->server = s;
    x->connection = c;
    x->method = method;
    x->path = copy;
    x->began = clock_seconds();
    atomic_store(&x->refs, 1);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->client = info ? info->socket_context : NULL;
    return x;
}

static void drop_body(http_exchange *x) {
    text_free(&x->body);
    if (x->held_bytes)
        shares_give(x->server->options.memory, x->holder, x->held_bytes);
    shares_drop(x->holder);
    x->held_bytes = 0;
    x->holder = NULL;
}

void http_hold(http_exchange *x) {
    atomic_fetch_add(&x->refs, 1);
}

void http_drop(http_exchange *x) {
    if (atomic_fetch_sub(&x->refs, 1) > 1)
        return;
    if (x->work)
        x->work->freed(x->context);
    for (int i = 0; i < x->n_headers; i++) {
        free(x->header[i].name);
        free(x->header[i].value);
    }
    drop_body(x);
    free(x->path);
    free(x);
}

const char *http_method(const http_exchange *x) {
    return x->method;
}

const char *http_path(const http_exchange *x) {
    return x->path;
}

const char *http_header(const http_exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

const char *http_body(const http_exchange *x, size_t *n_bytes) {
    *n_bytes = x->body.n;
    return x->body.bytes ? x->body.bytes : "";
}

void http_peer(const http_exchange *x, char *out, size_t cap) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *from = info ? info->client_addr : NULL;
    char name[INET6_ADDRSTRLEN] = "";
    if (from && from->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)from)->sin_addr, name, sizeof(name));
    } else if (from && from->sa_family == AF_INET6) {
        struct in6_addr a = ((const struct sockaddr_in6 *)from)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(&a)) {
            inet_ntop(AF_INET, a.s6_addr + 12, name, sizeof(name));
        } else {
            memset(a.s6_addr + 8, 0, 8);
            inet_ntop(AF_INET6, &a, name, sizeof(name));
        }
    }
    snprintf(out, cap, "%s", name);
}

/* ---- answers ---- */

void http_set(http_exchange *x, const char *name, const char *value) {
    if (x->n_headers == HTTP_MOST_HEADERS)
        return;
    char *name_copy = strdup(name), *value_copy = strdup(value);
    if (name_copy && value_copy) {
        x->header[x->n_headers].name = name_copy;
        x->header[x->n_headers++].value = value_copy;
        return;
    }
    free(name_copy);
    free(value_copy);
}

static void send_response(http_exchange *x, int status, const char *type, struct MHD_Response *r) {
    x->broken = !r; /* the connection will be closed */
    if (!r)
        return;
    if (type)
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    for (int i = 0; i < x->n_headers; i++)
        MHD_add_response_header(r, x->header[i].name, x->header[i].value);
    if (x->closes)
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    x->answered = MHD_queue_response(x->connection, (unsigned)status, r) == MHD_YES;
    x->broken = !x->answered;
    MHD_destroy_response(r);
    if (x->server->options.answered)
        x->server->options.answered(x->server->context, status);
}

void http_answer(http_exchange *x, int status, const char *type, const char *bytes, size_t n_bytes) {
    send_response(x, status, type, MHD_create_response_from_buffer(n_bytes, (void *)bytes, MHD_RESPMEM_MUST_COPY));
}

static ssize_t fill(void *context, uint64_t at, char *out, size_t most) {
    http_exchange *x = context;
    (void)at;
    if (atomic_load(&x->left) || atomic_load(&x->server->closing))
        return MHD_CONTENT_READER_END_WITH_ERROR;
    ssize_t n = x->work->fill(x->context, out, most);
    if (n == HTTP_END)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n < 0)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n == 0)
        http_sleep(x);
    return n;
}

void http_stream(http_exchange *x, const char *type) {
    send_response(x, 200, type, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, fill, x, NULL));
}

void http_defer(http_exchange *x, const http_work *work, void *context) {
    http_server *s = x->server;
    drop_body(x);
    x->work = work;
    x->context = context;
    pthread_mutex_lock(&s->lock);
    x->next = s->deferred;
    if (x->next)
        x->next->prev = x;
    s->deferred = x;
    pthread_mutex_unlock(&s->lock);
}

/* ---- requests ---- */

typedef struct head {
    int lengths, hosts, encodings, keys;
    bool chunked_only, encoded, bad_length, bad_name;
} head;

/* A token of RFC 9110, section 5.6.2; the library also takes "Host : x" and ": x" for headers. */
static bool is_token(const char *name) {
    const char *at = name;
    while (isalnum((unsigned char)*at) || (*at && strchr("!#$%&'*+-.^_`|~", *at)))
        at++;
    return at > name && !*at;
}

static enum MHD_Result look(void *context, enum MHD_ValueKind kind, const char *name, const char *value) {
    head *h = context;
    (void)kind;
    value = value ? value : "";
    h->bad_name |= !is_token(name);
    if (!strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH)) {
        h->lengths++;
        h->bad_length |= !*value || value[strspn(value, "0123456789")];
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_HOST)) {
        h->hosts++;
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING)) {
        h->encodings++;
        h->chunked_only &= !strcasecmp(value, "chunked");
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_CONTENT_ENCODING)) {
        h->encoded |= strcasecmp(value, "identity") != 0;
    } else if (!strcasecmp(name, MHD_HTTP_HEADER_AUTHORIZATION)) {
        h->keys++;
    }
    return MHD_YES;
}

static bool refuse(http_exchange *x, int status, const char *sentence) {
    x->closes = true;
    x->server->options.refuse(x, status, sentence);
    return false;
}

/* What is not understood here is the client's mistake, and no failure of the server (501, 505), which clients of this
 * API would ask again. */
static bool check_head(http_exchange *x, const char *version) {
    head h = {.chunked_only = true};
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, look, &h);
    bool is_11 = !strcmp(version, "HTTP/1.1");
    if (!is_11 && strcmp(version, "HTTP/1.0"))
        return refuse(x, 400, "HTTP/1.1 and HTTP/1.0 are spoken here");
    if (h.bad_name || h.lengths > 1 || h.bad_length || h.hosts > 1 || (is_11 && !h.hosts) ||
        (h.lengths && h.encodings) || h.encodings > 1 || h.keys > 1)
        return refuse(x, 400, "the request's headers contradict each other or themselves");
    if (!h.chunked_only)
        return refuse(x, 400, "the transfer encoding is not known; \"chunked\" is");
    return !h.encoded || refuse(x, 415, "the request's body is encoded; send it as it is");
}

static bool refuse_no_memory(http_exchange *x) {
    return refuse(x, 503, "there is no memory for the request");
}

static void refuse_body(http_exchange *x) {
    if (x->refused == 503)
        refuse_no_memory(x);
    else
        refuse(x, x->refused, "the request's body is too large");
}

static void handle(http_exchange *x) {
    x->handled = true;
    x->server->handler(x->server->context, x);
}

/* What becomes of the body. true: it is not kept, and too long to be thrown away, or its client waits for a word. */
static bool judge_body(http_exchange *x) {
    const http_options *o = &x->server->options;
    const char *length = http_header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    errno = 0;
    unsigned long long n = length ? strtoull(length, NULL, 10) : 0;
    if (o->wants_body && !o->wants_body(x->server->context, x))
        x->refused = UNWANTED;
    else if (n > o->body_bytes || errno)
        x->refused = 413;
    return x->refused && (errno || n > 4 * o->body_bytes || http_header(x, MHD_HTTP_HEADER_EXPECT));
}

static enum MHD_Result begin(http_exchange *x, const char *version) {
    bool ok = check_head(x, version);
    if (ok && judge_body(x)) {
        x->closes = true;
        ok = false;
        if (x->refused == UNWANTED)
            handle(x);
        else
            refuse_body(x);
    }
    return ok || x->answered ? MHD_YES : MHD_NO;
}

static bool take_memory(http_exchange *x, size_t n) {
    const http_options *o = &x->server->options;
    char name[HTTP_HOLDER_BYTES] = "";
    if (!x->holder && o->holder)
        o->holder(x->server->context, x, name, sizeof(name));
    if (!x->holder && !(x->holder = shares_hold(o->memory, name)))
        return false;
    return shares_take(o->memory, x->holder, n);
}

static bool keep_body(http_exchange *x, const char *bytes, size_t n) {
    bool counted = x->server->options.memory != NULL;
    if (counted && !take_memory(x, n))
        return false;
    x->held_bytes += counted ? n : 0;
    text_append(&x->body, bytes, n);
    return !x->body.failed;
}

static bool take_body(http_exchange *x, const char *bytes, size_t n) {
    const http_options *o = &x->server->options;
    if (clock_seconds() - x->began > o->body_seconds)
        return false;
    x->n_received += n;
    if (!x->refused && x->n_received > o->body_bytes)
        x->refused = 413;
    if (!x->refused && !keep_body(x, bytes, n))
        x->refused = 503;
    if (!x->refused)
        return true;
    drop_body(x); /* the rest is counted, not kept */
    return x->n_received <= 4 * o->body_bytes;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *n_upload, void **own) {
    http_server *s = context;
    http_exchange *x = *own;
    if (!x) {
        *own = x = exchange_new(s, c, method, url);
        if (!x)
            return MHD_NO;
        if (x->client)
            atomic_store(&x->client->idle_since, 0);
        return begin(x, version);
    }
    if (*n_upload) {
        bool ok = take_body(x, upload, *n_upload);
        *n_upload = 0;
        return ok ? MHD_YES : MHD_NO;
    }
    if (x->answered)
        return MHD_YES;
    if (atomic_load(&s->closing) || atomic_load(&x->left) || !x->client)
        return MHD_NO;
    if (x->refused > 0) {
        refuse_body(x);
    } else if (!x->handled) {
        handle(x);
        if (x->work && !x->answered && !watch_add(x)) { /* nobody would notice that its client left */
            x->work->left(x->context);
            refuse_no_memory(x);
        }
    } else if (x->work) {
        x->work->ready(x->context, x);
    }
    if (x->answered)
        return MHD_YES;
    if (!x->work || x->broken)
        return MHD_NO;
    http_sleep(x);
    return MHD_YES;
}

static void on_completed(void *context, struct MHD_Connection *c, void **own, enum MHD_RequestTerminationCode code) {
    http_server *s = context;
    http_exchange *x = *own;
    (void)c;
    (void)code;
    if (!x)
        return;
    *own = NULL;
    if (x->client)
        atomic_store(&x->client->idle_since, clock_seconds());
    if (x->work) {
        pthread_mutex_lock(&s->lock);
        *(x->prev ? &x->prev->next : &s->deferred) = x->next;
        if (x->next)
            x->next->prev = x->prev;
        pthread_mutex_unlock(&s->lock);
        watch_remove(x);
        x->work->closed(x->context);
    }
    http_drop(x);
}

static void on_connection(void *context, struct MHD_Connection *c, void **own,
                          enum MHD_ConnectionNotificationCode code) {
    http_server *s = context;
    http_client *client = *own;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        client = calloc(1, sizeof(*client));
        if (!client || !info) {
            free(client);
            return;
        }
        client->fd = info->connect_fd;
        atomic_store(&client->idle_since, clock_seconds());
        *own = client;
    }
    if (!client)
        return;
    pthread_mutex_lock(&s->lock);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        client->next = s->clients;
        if (client->next)
            client->next->prev = client;
        s->clients = client;
    } else {
        *(client->prev ? &client->prev->next : &s->clients) = client->next;
        if (client->next)
            client->next->prev = client->prev;
    }
    pthread_mutex_unlock(&s->lock);
    if (code == MHD_CONNECTION_NOTIFY_CLOSED)
        free(client);
}

/* Percent-decodes in place and gives the length; what is not %XY, and %00, which would end the path, stays as it is. */
static size_t on_escapes(void *context, struct MHD_Connection *c, char *s) {
    char *out = s;
    (void)context;
    (void)c;
    for (const char *in = s; *in; in++) {
        unsigned byte = 0;
        if (*in == '%' && isxdigit((unsigned char)in[1]) && isxdigit((unsigned char)in[2]))
            byte = (unsigned)strtoul((char[]){in[1], in[2], 0}, NULL, 16);
        *out++ = byte ? (char)byte : *in;
        in += byte ? 2 : 0;
    }
    *out = 0;
    return (size_t)(out - s);
}

/* ---- life ---- */

static void on_log(void *context, const char *format, va_list arguments) {
    (void)context;
    (void)format;
    (void)arguments;
}

static pleat_status start(http_server *s, pleat_error *error) {
    const http_options *o = &s->options;
    s->daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, s->listen_fd,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)o->n_threads, MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(o->stall_seconds + 0.999), MHD_OPTION_UNESCAPE_CALLBACK, on_escapes,
        NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_END);
    return s->daemon ? PLEAT_OK : err_set(error, PLEAT_EIO, "the HTTP threads cannot be started");
}

pleat_status http_open(const http_options *options, http_handler handler, void *context, http_server **out,
                       pleat_error *error) {
    http_server *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(error, PLEAT_EMEMORY, "no memory for a server");
    *s = (http_server){
        .options = *options, .handler = handler, .context = context, .listen_fd = -1, .epoll_fd = -1, .event_fd = -1};
    http_options *o = &s->options;
    o->n_threads = o->n_threads ? o->n_threads : HTTP_THREADS;
    o->connections = o->connections ? o->connections : HTTP_CONNECTIONS;
    o->body_bytes = o->body_bytes ? o->body_bytes : HTTP_BODY_BYTES;
    o->head_seconds = o->head_seconds > 0 ? o->head_seconds : 30;
    o->body_seconds = o->body_seconds > 0 ? o->body_seconds : 60;
    o->stall_seconds = o->stall_seconds > 0 ? o->stall_seconds : 30;
    pthread_mutex_init(&s->lock, NULL);
    pleat_status status = listen_open(s, error);
    status = status ? status : watch_open(s, error);
    status = status ? status : start(s, error);
    if (status)
        http_close(s);
    else
        *out = s;
    return status;
}

int http_port(const http_server *s) {
    return s->port;
}

/* Sleeping connections must be awake before the library stops. */
static void wake_all(http_server *s) {
    bool any = true;
    for (int i = 0; any && i < 2000; i++) {
        pthread_mutex_lock(&s->lock);
        for (http_exchange *x = s->deferred; x; x = x->next)
            http_wake(x);
        any = s->deferred != NULL;
        pthread_mutex_unlock(&s->lock);
        if (any)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

void http_close(http_server *s) {
    if (!s)
        return;
    atomic_store(&s->closing, true);
    if (s->daemon) {
        wake_all(s);
        MHD_stop_daemon(s->daemon); /* closes the listening socket */
        s->listen_fd = -1;
    }
    watch_close(s);
    listen_close(s);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
