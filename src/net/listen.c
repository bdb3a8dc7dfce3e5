/* listen.c - the socket that clients come in by: TCP or a Unix path. */
#include "net/inside.h"
#include "base/status.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

static pleat_status fail(const char *where, const char *what, pleat_error *error) {
    return err_set(error, PLEAT_EIO, "%s: %s: %s", where, what, strerror(errno));
}

/* A socket file that nobody answers on any more is removed; another file is not. */
static bool is_stale(const struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return stale;
}

static pleat_status open_path(http_server *s, const char *path, pleat_error *error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return err_set(error, PLEAT_EINPUT, "%.60s...: a socket's path has at most %zu bytes", path,
                       sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    if (is_stale(&address))
        unlink(path);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&address, sizeof(address)))
        return fail(path, "the socket cannot be opened", error);
    s->unlink_path = strdup(path);
    return listen(s->listen_fd, BACKLOG) ? fail(path, "the socket cannot be listened on", error) : PLEAT_OK;
}

static int bound_port(int fd) {
    struct sockaddr_storage address;
    socklen_t n = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &n))
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static pleat_status open_port(http_server *s, const char *host, int port, pleat_error *error) {
    char service[16], where[300];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
    snprintf(service, sizeof(service), "%d", port);
    snprintf(where, sizeof(where), "%.256s port %d", host, port);
    int code = getaddrinfo(host, service, &hints, &list);
    if (code)
        return err_set(error, PLEAT_EIO, "%s: %s", where, gai_strerror(code));
    s->listen_fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd >= 0)
        setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    bool ok =
        s->listen_fd >= 0 && !bind(s->listen_fd, list->ai_addr, list->ai_addrlen) && !listen(s->listen_fd, BACKLOG);
    pleat_status status = ok ? PLEAT_OK : fail(where, "the port cannot be opened", error);
    freeaddrinfo(list);
    if (ok)
        s->port = bound_port(s->listen_fd);
    return status;
}

pleat_status listen_open(http_server *s, pleat_error *error) {
    const http_options *o = &s->options;
    return o->path ? open_path(s, o->path, error) : open_port(s, o->host ? o->host : "127.0.0.1", o->port, error);
}

void listen_close(http_server *s) {
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    if (s->unlink_path)
        unlink(s->unlink_path);
    free(s->unlink_path);
}
