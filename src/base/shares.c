/* shares.c - see shares.h. There are no more holders than requests are under way: a list is enough. */
#include "base/shares.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

void shares_open(shares *all, size_t most_bytes) {
    *all = (shares){.most = most_bytes};
    pthread_mutex_init(&all->lock, NULL);
}

/* Those whom nobody holds any more. */
static void sweep(shares *all) {
    for (share **at = &all->first; *at;) {
        share *s = *at;
        if (atomic_load(&s->n_holds)) {
            at = &s->next;
            continue;
        }
        assert(!atomic_load(&s->bytes));
        *at = s->next;
        free(s);
    }
}

void shares_close(shares *all) {
    sweep(all);
    assert(!all->first && !atomic_load(&all->used));
    pthread_mutex_destroy(&all->lock);
}

static share *find_or_make(shares *all, const char *name) {
    share *s = all->first;
    size_t n = strlen(name) + 1;
    while (s && strcmp(s->name, name))
        s = s->next;
    if (s || !(s = calloc(1, sizeof(*s) + n)))
        return s;
    memcpy(s->name, name, n);
    s->next = all->first;
    all->first = s;
    return s;
}

share *shares_hold(shares *all, const char *name) {
    pthread_mutex_lock(&all->lock);
    sweep(all);
    share *s = find_or_make(all, name);
    if (s)
        atomic_fetch_add(&s->n_holds, 1);
    pthread_mutex_unlock(&all->lock);
    return s;
}

void shares_drop(share *s) {
    if (s)
        atomic_fetch_sub(&s->n_holds, 1);
}

/* Of what others leave. */
static size_t most_of(size_t left) {
    return left - left / 8;
}

size_t shares_most_of_one(const shares *all) {
    return most_of(all->most);
}

bool shares_take(shares *all, share *s, size_t n_bytes) {
    pthread_mutex_lock(&all->lock);
    size_t own = atomic_load(&s->bytes), used = atomic_load(&all->used), others = used > own ? used - own : 0;
    size_t most = most_of(all->most > others ? all->most - others : 0);
    bool ok = !all->most || (own <= most && n_bytes <= most - own);
    if (ok) {
        atomic_fetch_add(&s->bytes, n_bytes);
        atomic_fetch_add(&all->used, n_bytes);
    }
    pthread_mutex_unlock(&all->lock);
    return ok;
}

/* Whoever takes meanwhile may see its own bytes too large and those of others too small by as much, and is told no
 * sooner. */
void shares_give(shares *all, share *s, size_t n_bytes) {
    size_t own = atomic_fetch_sub(&s->bytes, n_bytes), used = atomic_fetch_sub(&all->used, n_bytes);
    assert(own >= n_bytes && used >= n_bytes);
    (void)own;
    (void)used;
}
