/* test_net.c - the HTTP server alone: addresses it listens on, and when it watches for clients that leave. What the
 * system says of names and of watching is stood in for. */
#include "net/http.h"
#include "support/web.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

/* ---- the system ---- */

static const char *const *known; /* addresses of the next host, NULL-ended; NULL: the system's */
static atomic_bool watching_fails;

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out) {
    static struct addrinfo node[4];
    static struct sockaddr_in address[4];
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT,
                                                                                                "getaddrinfo");
    if (!known)
        return real(host, service, hints, out);
    for (int i = 0; known[i]; i++) {
        address[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(service))};
        assert_int_equal(inet_pton(AF_INET, known[i], &address[i].sin_addr), 1);
        node[i] = (struct addrinfo){.ai_family = AF_INET,
                                    .ai_addr = (struct sockaddr *)&address[i],
                                    .ai_addrlen = sizeof(address[i]),
                                    .ai_next = known[i + 1] ? &node[i + 1] : NULL};
    }
    *out = node;
    return 0;
}

void freeaddrinfo(struct addrinfo *list) {
    if (!known)
        ((void (*)(struct addrinfo *))dlsym(RTLD_NEXT, "freeaddrinfo"))(list);
}

int epoll_ctl(int epoll_fd, int what, int fd, struct epoll_event *event) {
    if (what == EPOLL_CTL_ADD && atomic_load(&watching_fails)) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_epoll_ctl, epoll_fd, what, fd, event);
}

/* ---- a server that defers ---- */

typedef struct place {
    atomic_bool in_handler, left_early, left, closed, freed, waits;
} place;

static bool pending(void *context) {
    (void)context;
    return false;
}

static void ready(void *context, http_exchange *x) {
    (void)context;
    (void)x;
}

static ssize_t fill(void *context, char *out, size_t most) {
    (void)context;
    (void)out;
    (void)most;
    return HTTP_ABORT;
}

static void left(void *context) {
    place *p = context;
    atomic_store(&p->left_early, atomic_load(&p->in_handler));
    atomic_store(&p->left, true);
}

static void closed(void *context) {
    atomic_store(&((place *)context)->closed, true);
}

static void freed(void *context) {
    atomic_store(&((place *)context)->freed, true);
}

static void sleep_ms(int ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static void handle(void *context, http_exchange *x) {
    static const http_work work = {pending, ready, fill, left, closed, freed};
    place *p = context;
    if (!strcmp(http_path(x), "/here")) {
        http_answer(x, 200, "text/plain", "yes", 3);
        return;
    }
    atomic_store(&p->in_handler, true);
    http_defer(x, &work, p);
    for (int i = 0; i < 30 && atomic_load(&p->waits) && !atomic_load(&p->left); i++)
        sleep_ms(10);
    atomic_store(&p->in_handler, false);
}

static void refuse(http_exchange *x, int status, const char *sentence) {
    http_answer(x, status, "text/plain", sentence, strlen(sentence));
}

static http_server *serve(place *p, const char *host) {
    http_server *s;
    pleat_error error;
    if (http_open(&(http_options){.host = host, .n_threads = 1, .refuse = refuse}, handle, p, &s, &error))
        fail_msg("%s", error.text);
    return s;
}

static void must_come(const atomic_bool *flag) {
    for (int i = 0; i < 2000 && !atomic_load(flag); i++)
        sleep_ms(5);
    assert_true(atomic_load(flag));
}

/* ---- tests ---- */

static void an_address_that_is_not_here_is_passed_over(void **state) {
    (void)state;
    place p = {0};
    pleat_error error;
    known = (const char *const[]){"203.0.113.7", "127.0.0.1", NULL}; /* the first is kept for books */
    http_server *s = serve(&p, "two-addresses"), *other;
    web_answer a = web_ask(http_port(s), "GET /here", NULL, NULL);
    assert_int_equal(a.status, 200);
    web_free(&a);
    known = (const char *const[]){"127.0.0.1", "127.0.0.2", NULL}; /* taken, though the second is free */
    http_options taken = {.host = "two-addresses", .port = http_port(s)};
    assert_int_equal(http_open(&taken, handle, &p, &other, &error), PLEAT_EIO);
    assert_non_null(strstr(error.text, "two-addresses port "));
    assert_non_null(strstr(error.text, strerror(EADDRINUSE)));
    known = (const char *const[]){"198.51.100.7", "203.0.113.7", NULL};
    assert_int_equal(http_open(&taken, handle, &p, &other, &error), PLEAT_EIO);
    assert_non_null(strstr(error.text, strerror(EADDRNOTAVAIL)));
    known = NULL;
    http_close(s);
    s = serve(&p, "localhost");
    http_close(s);
}

/* What the handler sets up belongs to it until it returns. */
static void a_client_is_watched_once_the_handler_has_returned(void **state) {
    (void)state;
    place p = {.waits = true};
    http_server *s = serve(&p, NULL);
    int fd = web_connect(http_port(s));
    web_request(fd, "GET /later", NULL, NULL);
    close(fd);
    must_come(&p.left);
    assert_false(atomic_load(&p.left_early));
    must_come(&p.freed);
    assert_true(atomic_load(&p.closed));
    http_close(s);
}

static void a_client_that_cannot_be_watched_is_refused(void **state) {
    (void)state;
    place p = {0};
    http_server *s = serve(&p, NULL);
    atomic_store(&watching_fails, true);
    web_answer a = web_ask(http_port(s), "GET /later", NULL, NULL);
    assert_int_equal(a.status, 503);
    web_free(&a);
    assert_true(atomic_load(&p.left));
    must_come(&p.freed);
    atomic_store(&watching_fails, false);
    int fd = web_connect(http_port(s));
    place again = {0};
    p = again;
    web_request(fd, "GET /later", NULL, NULL);
    sleep_ms(20);
    assert_false(atomic_load(&p.left));
    close(fd);
    must_come(&p.freed);
    http_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_that_is_not_here_is_passed_over),
        cmocka_unit_test(a_client_is_watched_once_the_handler_has_returned),
        cmocka_unit_test(a_client_that_cannot_be_watched_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
