/* web.c - see web.h. */
#include "support/web.h"
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

static void be_patient(int fd) {
    struct timeval wait = {.tv_sec = WEB_WAIT_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

int web_connect(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    be_patient(fd);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
        fail_msg("the server cannot be reached at port %d", port);
    return fd;
}

int web_connect_path(const char *path) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    be_patient(fd);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
        fail_msg("the server cannot be reached at %s", path);
    return fd;
}

bool web_send(int fd, const char *bytes, size_t n) {
    while (n) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        n -= (size_t)sent;
    }
    return true;
}

bool web_puts(int fd, const char *s) {
    return web_send(fd, s, strlen(s));
}

bool web_request(int fd, const char *what, const char *headers, const char *body) {
    text t = {0};
    text_printf(&t, "%s HTTP/1.1\r\nHost: localhost\r\n%s", what, headers ? headers : "");
    if (body)
        text_printf(&t, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    text_puts(&t, "\r\n");
    if (body)
        text_puts(&t, body);
    bool ok = web_send(fd, t.bytes, t.n);
    text_free(&t);
    return ok;
}

/* As recv, whose time limit fails the test. */
static ssize_t take(int fd, char *bytes, size_t most) {
    ssize_t got = recv(fd, bytes, most, 0);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        fail_msg("the server was silent for %d s and did not hang up", WEB_WAIT_SECONDS);
    return got;
}

/* One byte more of the answer's head; bytes are few here. */
static bool get(int fd, char *c) {
    return take(fd, c, 1) == 1;
}

static bool get_line(int fd, text *out) {
    char c;
    while (get(fd, &c)) {
        text_append(out, &c, 1);
        if (c == '\n')
            return true;
    }
    return false;
}

static bool get_bytes(int fd, size_t n, text *out) {
    char piece[4096];
    while (n) {
        ssize_t got = take(fd, piece, n < sizeof(piece) ? n : sizeof(piece));
        if (got <= 0)
            return false;
        text_append(out, piece, (size_t)got);
        n -= (size_t)got;
    }
    return true;
}

static bool get_chunks(int fd, text *out) {
    for (;;) {
        text line = {0}, end = {0};
        bool ok = get_line(fd, &line);
        size_t n = ok ? strtoul(line.bytes, NULL, 16) : 0;
        ok = ok && get_bytes(fd, n, out) && get_line(fd, &end);
        text_free(&line);
        text_free(&end);
        if (!ok)
            return false;
        if (!n)
            return true;
    }
}

web_answer web_read(int fd) {
    web_answer a = {.status = 0};
    text line = {0};
    while (get_line(fd, &line) && line.n > 2) {
        text_append(&a.head, line.bytes, line.n);
        line.n = 0;
    }
    text_free(&line);
    if (!a.head.n || sscanf(a.head.bytes, "HTTP/%*s %d", &a.status) != 1)
        return a;
    const char *length = web_header(&a, "Content-Length"), *coding = web_header(&a, "Transfer-Encoding");
    if (coding)
        a.cut = !get_chunks(fd, &a.body);
    else if ((length = web_header(&a, "Content-Length")) && a.status != 204)
        a.cut = !get_bytes(fd, strtoul(length, NULL, 10), &a.body);
    return a;
}

web_answer web_ask(int port, const char *what, const char *headers, const char *body) {
    int fd = web_connect(port);
    web_request(fd, what, headers, body);
    web_answer a = web_read(fd);
    close(fd);
    return a;
}

void web_free(web_answer *a) {
    text_free(&a->head);
    text_free(&a->body);
    *a = (web_answer){0};
}

json_t *web_json(const web_answer *a) {
    json_error_t error;
    json_t *value = json_loadb(a->body.bytes ? a->body.bytes : "", a->body.n, JSON_ALLOW_NUL, &error);
    if (!value)
        fail_msg("status %d, not JSON (%s): %.300s", a->status, error.text, a->body.bytes ? a->body.bytes : "");
    return value;
}

const char *web_header(const web_answer *a, const char *name) {
    static char value[500];
    size_t n = strlen(name);
    for (const char *at = a->head.bytes ? a->head.bytes : ""; (at = strchr(at, '\n'));) {
        at++;
        if (strncasecmp(at, name, n) || at[n] != ':')
            continue;
        at += n + 1 + strspn(at + n + 1, " ");
        snprintf(value, sizeof(value), "%.*s", (int)strcspn(at, "\r\n"), at);
        return value;
    }
    return NULL;
}
