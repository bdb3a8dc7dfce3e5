/* tenants.c - see tenants.h. */
#include "engine/tenants.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t one_waiting = 1, one_surplus = (uint64_t)1 << 32;

static int waiting_of(uint64_t n) {
    return (int)(uint32_t)n;
}

static int surplus_of(uint64_t n) {
    return (int)(n >> 32);
}

int tenants_surplus(const tenant *t) {
    return surplus_of(atomic_load(&t->n));
}

void tenants_open(tenants *all, int most_waiting) {
    *all = (tenants){.most_waiting = most_waiting};
    pthread_mutex_init(&all->lock, NULL);
}

void tenants_close(tenants *all) {
    members_sweep(&all->first);
    assert(!all->first);
    pthread_mutex_destroy(&all->lock);
}

/* ---- who submits; under the lock ---- */

/* Places that others would lose before one of them had fewer than `least`. */
static int places_above(const tenants *all, const tenant *but, int least) {
    int n = 0;
    for (const member *m = all->first; m; m = m->next) {
        const tenant *t = (const tenant *)m;
        int more = waiting_of(atomic_load(&t->n)) - least;
        n += t != but && more > 0 ? more : 0;
    }
    return n;
}

/* Could n more requests of t (NULL: of nobody yet) come in? */
static bool could_enter(const tenants *all, const tenant *t, int n) {
    int room = all->most_waiting - atomic_load(&all->n_waiting), own = t ? waiting_of(atomic_load(&t->n)) : 0;
    return room >= n || room + places_above(all, t, own + n) >= n;
}

static bool take_room(tenants *all) {
    int n = atomic_load(&all->n_waiting);
    while (n < all->most_waiting)
        if (atomic_compare_exchange_weak(&all->n_waiting, &n, n + 1))
            return true;
    return false;
}

/* The place of one request of whoever has the most; the engine's thread may be giving some of them back. */
static bool take_from_largest(tenants *all, const tenant *but, int least) {
    tenant *most = NULL;
    uint64_t n = 0;
    for (member *m = all->first; m; m = m->next) {
        tenant *t = (tenant *)m;
        uint64_t its = atomic_load(&t->n);
        if (t != but && waiting_of(its) > least && (!most || waiting_of(its) > waiting_of(n))) {
            most = t;
            n = its;
        }
    }
    if (!most || !atomic_compare_exchange_strong(&most->n, &n, n - one_waiting + one_surplus))
        return false;
    atomic_fetch_add(&all->n_surplus, 1);
    return true;
}

bool tenants_full(tenants *all, const char *name, int n) {
    pthread_mutex_lock(&all->lock);
    bool full = !could_enter(all, (const tenant *)members_find(all->first, name), n);
    pthread_mutex_unlock(&all->lock);
    return full;
}

/* Once n could enter they still can: what the engine's thread gives back is room, whoever had it. */
bool tenants_enter(tenants *all, const char *name, int n, tenant **out) {
    *out = NULL;
    pthread_mutex_lock(&all->lock);
    members_sweep(&all->first);
    bool enters = could_enter(all, (const tenant *)members_find(all->first, name), n);
    tenant *t = enters ? (tenant *)members_find_or_make(&all->first, name, sizeof(*t)) : NULL;
    if (t) {
        int least = waiting_of(atomic_load(&t->n)) + n;
        atomic_fetch_add(&t->member.n_users, n);
        for (int i = 0; i < n; i++) {
            while (!take_room(all) && !take_from_largest(all, t, least))
                ;
            atomic_fetch_add(&t->n, one_waiting);
        }
    }
    pthread_mutex_unlock(&all->lock);
    *out = t;
    return enters;
}

/* ---- the engine's thread ---- */

void tenants_give(tenants *all, tenant *t) {
    uint64_t n = atomic_load(&t->n);
    while (!atomic_compare_exchange_weak(&t->n, &n, surplus_of(n) ? n - one_surplus : n - one_waiting))
        ;
    atomic_fetch_sub(surplus_of(n) ? &all->n_surplus : &all->n_waiting, 1);
}

void tenants_leave(tenant *t) {
    atomic_fetch_sub(&t->member.n_users, 1);
}
