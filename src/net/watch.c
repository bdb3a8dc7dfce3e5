/* watch.c - the thread beside the HTTP threads: resumes connections that were woken, and notices clients that leave.
 *
 * A wake is: take the exchange's `armed` flag; who gets it pushes the exchange on a list (compare-and-swap) and, if the
 * thread sleeps, writes an eventfd. So between a connection's sleep and its resumption there is exactly one push, and
 * the producer never meets a lock of the HTTP library.
 *
 * Sleeping lists its steps in an order that loses no wake: suspend, arm, look again.
 *
 * An exchange that is over may still stand in the batch of events that the thread works on: it gives up the thread's
 * hold through `retired`, which is emptied between batches. */
#include "net/inside.h"
#include "base/clock.h"
#include "base/status.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, TICK_MS = 1000, PING_SECONDS = 15 };

static void push(_Atomic(http_exchange *) *list, http_exchange *x, http_exchange **link) {
    *link = atomic_load(list);
    while (!atomic_compare_exchange_weak(list, link, x))
        ;
}

static void nudge(http_server *s) {
    if (atomic_exchange(&s->asleep, false))
        (void)!eventfd_write(s->event_fd, 1);
}

void http_wake(http_exchange *x) {
    http_server *s = x->server;
    if (!atomic_exchange(&x->armed, false))
        return;
    http_hold(x);
    push(&s->woken, x, &x->next_woken);
    nudge(s);
}

bool http_sleep(http_exchange *x) {
    MHD_suspend_connection(x->connection);
    atomic_store(&x->armed, true);
    bool awake = atomic_load(&x->left) || atomic_load(&x->server->closing) || x->work->pending(x->context);
    if (awake && atomic_exchange(&x->armed, false))
        MHD_resume_connection(x->connection);
    return !awake;
}

bool watch_add(http_exchange *x) {
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = x};
    http_hold(x);
    x->watched = !epoll_ctl(x->server->epoll_fd, EPOLL_CTL_ADD, x->client->fd, &event);
    if (!x->watched)
        http_drop(x);
    return x->watched;
}

void watch_remove(http_exchange *x) {
    if (!x->watched)
        return;
    epoll_ctl(x->server->epoll_fd, EPOLL_CTL_DEL, x->client->fd, NULL);
    push(&x->server->retired, x, &x->next_retired);
    nudge(x->server);
}

static void client_left(http_exchange *x) {
    if (atomic_exchange(&x->left, true))
        return;
    x->work->left(x->context);
    http_wake(x);
}

static void resume_woken(http_server *s) {
    http_exchange *x = atomic_exchange(&s->woken, NULL), *next;
    for (; x; x = next) {
        next = x->next_woken;
        MHD_resume_connection(x->connection);
        http_drop(x);
    }
}

static void drop_retired(http_server *s) {
    http_exchange *x = atomic_exchange(&s->retired, NULL), *next;
    for (; x; x = next) {
        next = x->next_retired;
        http_drop(x);
    }
}

/* Heads that do not come: a shut socket makes the library close the connection. */
static void shut_clients(http_server *s) {
    double now = clock_seconds();
    pthread_mutex_lock(&s->lock);
    for (http_client *c = s->clients; c; c = c->next) {
        double since = atomic_load(&c->idle_since);
        if (since > 0 && now - since > s->options.head_seconds)
            shutdown(c->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&s->lock);
}

static void wake_deferred(http_server *s) {
    pthread_mutex_lock(&s->lock);
    for (http_exchange *x = s->deferred; x; x = x->next)
        http_wake(x);
    pthread_mutex_unlock(&s->lock);
}

static void *run(void *context) {
    http_server *s = context;
    struct epoll_event event[BATCH];
    double ticked = clock_seconds(), pinged = ticked;
    while (!atomic_load(&s->stop)) {
        atomic_store(&s->asleep, true);
        bool busy = atomic_load(&s->woken) || atomic_load(&s->retired);
        int n = epoll_wait(s->epoll_fd, event, BATCH, busy ? 0 : TICK_MS);
        atomic_store(&s->asleep, false);
        for (int i = 0; i < n; i++) {
            eventfd_t unused;
            if (event[i].data.ptr)
                client_left(event[i].data.ptr);
            else
                (void)!eventfd_read(s->event_fd, &unused);
        }
        resume_woken(s);
        drop_retired(s);
        if (clock_seconds() - ticked >= 1) {
            shut_clients(s);
            ticked = clock_seconds();
        }
        if (ticked - pinged >= PING_SECONDS) {
            wake_deferred(s);
            pinged = ticked;
        }
    }
    return NULL;
}

pleat_status watch_open(http_server *s, pleat_error *error) {
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (s->epoll_fd < 0 || s->event_fd < 0 || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->event_fd, &event))
        return err_set(error, PLEAT_EIO, "clients cannot be watched: %s", strerror(errno));
    int code = pthread_create(&s->thread, NULL, run, s);
    if (code)
        return err_set(error, PLEAT_EMEMORY, "the thread that watches clients cannot be started: %s", strerror(code));
    s->has_thread = true;
    return PLEAT_OK;
}

void watch_close(http_server *s) {
    if (s->has_thread) {
        atomic_store(&s->stop, true);
        (void)!eventfd_write(s->event_fd, 1);
        pthread_join(s->thread, NULL);
    }
    drop_retired(s);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->event_fd >= 0)
        close(s->event_fd);
}
