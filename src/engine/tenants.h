/* tenants.h - who has how many places in the queue, and in the batch.
 *
 * The queue has a bound. While there is room everybody may come in. When it is full, a tenant with fewer requests in it
 * than another still gets a place: that of the newest request of the tenant who has the most (longest queue drop), so
 * that nobody keeps the others out by asking often. Places are counted at submission, under a lock that no step takes;
 * the engine's thread then ends what must go. */
#ifndef ENGINE_TENANTS_H
#define ENGINE_TENANTS_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct tenant {
    struct tenant *next;
    int n_requests;       /* that name it: the last one that goes frees it */
    int n_waiting;        /* places in the queue */
    int n_running;        /* in the batch; the engine's thread's own */
    atomic_int n_surplus; /* requests that wait without a place: so many must go */
    char name[];
} tenant;

typedef struct tenants {
    pthread_mutex_t lock;
    tenant *first;
    int most_waiting;
    atomic_int n_waiting; /* places taken by all */
    atomic_int n_surplus;
} tenants;

void tenants_open(tenants *all, int most_waiting);
void tenants_close(tenants *all); /* nobody is left */
/* Would tenants_enter say that the queue is full? */
bool tenants_full(tenants *all, const char *name);
/* A place for one more request of this tenant. false, with NULL: the queue is full for it; true, with NULL: no memory.
 */
bool tenants_enter(tenants *all, const char *name, tenant **out);
/* The engine's thread: a request waits no longer, as it was admitted or ended. Of a tenant with a surplus that settles
 * one. */
void tenants_give(tenants *all, tenant *t);
/* The request has ended. */
void tenants_leave(tenants *all, tenant *t);
#endif
