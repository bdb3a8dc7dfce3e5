/* shares.c - see shares.h. */
#include "base/shares.h"
#include <assert.h>

void shares_open(shares *all, size_t most_bytes) {
    *all = (shares){.most = most_bytes};
    pthread_mutex_init(&all->lock, NULL);
}

static void sweep(shares *all) {
    for (const member *m = all->first; m; m = m->next)
        assert(atomic_load(&m->n_users) || !atomic_load(&((const share *)m)->bytes));
    members_sweep(&all->first);
}

void shares_close(shares *all) {
    sweep(all);
    assert(!all->first && !atomic_load(&all->used));
    pthread_mutex_destroy(&all->lock);
}

share *shares_hold(shares *all, const char *name) {
    pthread_mutex_lock(&all->lock);
    sweep(all);
    share *s = (share *)members_find_or_make(&all->first, name, sizeof(*s));
    if (s)
        atomic_fetch_add(&s->member.n_users, 1);
    pthread_mutex_unlock(&all->lock);
    return s;
}

void shares_drop(share *s) {
    if (s)
        atomic_fetch_sub(&s->member.n_users, 1);
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
