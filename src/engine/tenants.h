/* tenants.h - who has how many places in the queue, and in the batch.
 *
 * The queue has a bound. While there is room everybody may come in. When it is full, a tenant with fewer requests in it
 * than another still gets places, as long as the other keeps no fewer than it: those of the newest requests of whoever
 * has the most (longest queue drop), so that nobody keeps the others out by asking often. The engine's thread then ends
 * what must go.
 *
 * Threads that submit hold a lock among themselves. The engine's thread takes none: it changes a tenant's two counts in
 * one atomic word, and what it leaves behind is freed by the next who submits.
 *
 *   of each tenant, always:   requests that wait = n_waiting + n_surplus,   n_surplus of them without a place
 *   of all:                   sum of n_waiting = n_waiting <= most_waiting */
#ifndef ENGINE_TENANTS_H
#define ENGINE_TENANTS_H
#include "base/members.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct tenant {
    member member;      /* its users: requests */
    _Atomic uint64_t n; /* n_waiting | n_surplus << 32 */
    int n_running;      /* in the batch; the engine's thread's own */
} tenant;

typedef struct tenants {
    pthread_mutex_t lock; /* of those who submit */
    member *first;
    int most_waiting;
    atomic_int n_waiting; /* places taken by all */
    atomic_int n_surplus; /* of all; may lag behind theirs */
} tenants;

void tenants_open(tenants *all, int most_waiting);
void tenants_close(tenants *all); /* nobody waits or runs */
/* Places for n more requests of this tenant, all or none; each is then one of its requests. false, with NULL: the queue
 * is full for it; true, with NULL: no memory. */
bool tenants_enter(tenants *all, const char *name, int n, tenant **out);
/* Would that say that the queue is full? */
bool tenants_full(tenants *all, const char *name, int n);
int tenants_surplus(const tenant *t);
/* The engine's thread: a request waits no longer, as it was admitted or ended. Of a tenant with a surplus that settles
 * one. */
void tenants_give(tenants *all, tenant *t);
/* The engine's thread: a request has ended; the last touch. */
void tenants_leave(tenant *t);
#endif
