/* tenants.c - see tenants.h. There are no more tenants than requests wait and run: a list is enough. */
#include "engine/tenants.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tenants_open(tenants *all, int most_waiting) {
    *all = (tenants){.most_waiting = most_waiting};
    pthread_mutex_init(&all->lock, NULL);
}

void tenants_close(tenants *all) {
    assert(!all->first);
    pthread_mutex_destroy(&all->lock);
}

static tenant *find(const tenants *all, const char *name) {
    tenant *t = all->first;
    while (t && strcmp(t->name, name))
        t = t->next;
    return t;
}

static tenant *find_or_make(tenants *all, const char *name) {
    tenant *t = find(all, name);
    size_t n = strlen(name) + 1;
    if (t || !(t = calloc(1, sizeof(*t) + n)))
        return t;
    memcpy(t->name, name, n);
    t->next = all->first;
    all->first = t;
    return t;
}

static tenant *largest(const tenants *all) {
    tenant *most = all->first;
    for (tenant *t = all->first; t; t = t->next)
        if (t->n_waiting > most->n_waiting)
            most = t;
    return most;
}

/* Whose place a request of t (NULL: a new tenant) would take. */
static tenant *victim_for(const tenants *all, const tenant *t) {
    tenant *most = largest(all);
    return most && most->n_waiting > (t ? t->n_waiting : 0) + 1 ? most : NULL;
}

static bool has_room(const tenants *all) {
    return atomic_load(&all->n_waiting) < all->most_waiting;
}

bool tenants_full(tenants *all, const char *name) {
    pthread_mutex_lock(&all->lock);
    bool full = !has_room(all) && !victim_for(all, find(all, name));
    pthread_mutex_unlock(&all->lock);
    return full;
}

bool tenants_enter(tenants *all, const char *name, tenant **out) {
    *out = NULL;
    pthread_mutex_lock(&all->lock);
    tenant *victim = has_room(all) ? NULL : victim_for(all, find(all, name));
    bool enters = victim || has_room(all);
    tenant *t = enters ? find_or_make(all, name) : NULL;
    if (t) {
        t->n_requests++;
        t->n_waiting++;
        if (victim) {
            victim->n_waiting--;
            atomic_fetch_add(&victim->n_surplus, 1);
            atomic_fetch_add(&all->n_surplus, 1);
        } else {
            atomic_fetch_add(&all->n_waiting, 1);
        }
    }
    pthread_mutex_unlock(&all->lock);
    *out = t;
    return enters;
}

void tenants_give(tenants *all, tenant *t) {
    pthread_mutex_lock(&all->lock);
    if (atomic_load(&t->n_surplus) > 0) {
        atomic_fetch_sub(&t->n_surplus, 1);
        atomic_fetch_sub(&all->n_surplus, 1);
    } else {
        t->n_waiting--;
        atomic_fetch_sub(&all->n_waiting, 1);
    }
    pthread_mutex_unlock(&all->lock);
}

void tenants_leave(tenants *all, tenant *t) {
    pthread_mutex_lock(&all->lock);
    if (--t->n_requests == 0) {
        assert(t->n_waiting == 0 && t->n_surplus == 0);
        tenant **at = &all->first;
        while (*at != t)
            at = &(*at)->next;
        *at = t->next;
        free(t);
    }
    pthread_mutex_unlock(&all->lock);
}
