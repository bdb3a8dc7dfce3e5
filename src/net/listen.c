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

/* A socket that listens; -1: errno says why there is none. */
static int open_address(const struct addrinfo *a) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, BACKLOG))
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

/* The first of the host's addresses that this machine has ("localhost" may be ::1, and IPv6 be switched off). One that
 * is taken is not passed over: clients that try the same order would meet whoever has it. */
static pleat_status open_port(http_server *s, const char *host, int port, pleat_error *error) {
    char service[16], where[300];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
    snprintf(service, sizeof(service), "%d", port);
    snprintf(where, sizeof(where), "%.256s port %d", host, port);
    int code = getaddrinfo(host, service, &hints, &list);
    if (code)
        return err_set(error, PLEAT_EIO, "%s: %s", where, gai_strerror(code));
    for (const struct addrinfo *a = list; a && s->listen_fd < 0; a = a->ai_next) {
        s->listen_fd = open_address(a);
        if (s->listen_fd < 0 && errno != EADDRNOTAVAIL && errno != EAFNOSUPPORT)
            break;
    }
    pleat_status status = s->listen_fd >= 0 ? PLEAT_OK : fail(where, "the port cannot be opened", error);
    freeaddrinfo(list);
    if (!status)
        s->port = bound_port(s->listen_fd);
    return status;
}

pleat_status listen_open(http_server *s, pleat_error *error) {
    const http_options *o = &s->options;
    return o->path ? open_path(s, o->path, error) : open_port(s, o->host ? o->host : HTTP_HOST, o->port, error);
}

void listen_close(http_server *s) {
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    if (s->unlink_path)
        unlink(s->unlink_path);
    free(s->unlink_path);
}
