/* test_tenants.c - places in the queue: who gets one, whose it was, and that the counts hold whoever moves first. */
#include "engine/tenants.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <cmocka.h>

static tenant *must_enter(tenants *all, const char *name, int n) {
    tenant *t;
    assert_false(tenants_full(all, name, n));
    assert_true(tenants_enter(all, name, n, &t));
    assert_non_null(t);
    return t;
}

static void must_not(tenants *all, const char *name, int n) {
    tenant *t;
    assert_true(tenants_full(all, name, n));
    assert_false(tenants_enter(all, name, n, &t));
    assert_null(t);
}

static void give(tenants *all, tenant *t, int n) {
    for (int i = 0; i < n; i++)
        tenants_give(all, t);
}

static void leave(tenant *t, int n) {
    for (int i = 0; i < n; i++)
        tenants_leave(t);
}

/* n requests end, or are admitted and end. */
static void go(tenants *all, tenant *t, int n) {
    give(all, t, n);
    leave(t, n);
}

static void expect(const tenants *all, int n_waiting, int n_surplus) {
    assert_int_equal(atomic_load(&all->n_waiting), n_waiting);
    assert_int_equal(atomic_load(&all->n_surplus), n_surplus);
}

static void a_full_queue_is_shared_evenly(void **state) {
    (void)state;
    tenants all;
    tenants_open(&all, 6);
    tenant *a = must_enter(&all, "a", 6), *b;
    must_not(&all, "a", 1);
    for (int i = 0; i < 3; i++)
        b = must_enter(&all, "b", 1);
    must_not(&all, "b", 1); /* three each */
    must_not(&all, "a", 1);
    expect(&all, 6, 3);
    assert_int_equal(tenants_surplus(a), 3);
    assert_int_equal(tenants_surplus(b), 0);
    tenant *c = must_enter(&all, "c", 2); /* of the larger ones in turn */
    assert_int_equal(tenants_surplus(a) + tenants_surplus(b), 5);
    assert_int_equal(tenants_surplus(b), 1);
    go(&all, a, 6); /* four of them settle a's surplus */
    go(&all, b, 3);
    go(&all, c, 2);
    expect(&all, 0, 0);
    tenants_close(&all);
}

static void places_are_given_all_or_none(void **state) {
    (void)state;
    tenants all;
    tenants_open(&all, 4);
    tenant *a = must_enter(&all, "a", 4);
    must_not(&all, "b", 3);
    expect(&all, 4, 0); /* and nobody has lost anything */
    tenant *b = must_enter(&all, "b", 2);
    expect(&all, 4, 2);
    must_not(&all, "c", 2);
    must_not(&all, "c", 5);
    tenant *c = must_enter(&all, "c", 1);
    go(&all, a, 4);
    go(&all, b, 2);
    go(&all, c, 1);
    expect(&all, 0, 0);
    must_enter(&all, "d", 4);
    tenant *d = (tenant *)all.first; /* the others have gone from the list */
    assert_null(d->member.next);
    go(&all, d, 4);
    tenants_close(&all);
}

/* A request that has lost its place, and is admitted or cancelled before it is ended: then nobody need go. */
static void whoever_goes_first_settles_a_surplus(void **state) {
    (void)state;
    tenants all;
    tenants_open(&all, 2);
    tenant *a = must_enter(&all, "a", 2), *b = must_enter(&all, "b", 1);
    assert_int_equal(tenants_surplus(a), 1);
    tenants_give(&all, a);
    assert_int_equal(tenants_surplus(a), 0);
    expect(&all, 2, 0);
    must_not(&all, "a", 1);
    tenants_give(&all, a);
    expect(&all, 1, 0);
    must_enter(&all, "a", 1);
    give(&all, a, 1);
    give(&all, b, 1);
    leave(a, 3);
    leave(b, 1);
    expect(&all, 0, 0);
    tenants_close(&all);
}

/* ---- threads that submit, and one that takes ---- */

enum { SUBMITTERS = 3, TURNS = 20000, BOX = 64 };

typedef struct box {
    tenants all;
    _Atomic(tenant *) slot[BOX];
    atomic_int n_over;
} box;

typedef struct submitter {
    box *b;
    const char *name;
    int n;
} submitter;

static void *submit(void *context) {
    submitter *s = context;
    for (int i = 0; i < TURNS; i++) {
        tenant *t;
        if (!tenants_enter(&s->b->all, s->name, s->n, &t)) {
            sched_yield();
            continue;
        }
        for (int k = 0, at = 0; k < s->n; at = (at + 1) % BOX) {
            tenant *none = NULL;
            k += atomic_compare_exchange_strong(&s->b->slot[at], &none, t);
        }
    }
    atomic_fetch_add(&s->b->n_over, 1);
    return NULL;
}

static void counts_hold_under_threads(void **state) {
    (void)state;
    box *b = calloc(1, sizeof(*b));
    pthread_t thread[SUBMITTERS];
    submitter s[SUBMITTERS] = {{b, "a", 5}, {b, "b", 1}, {b, "c", 2}};
    tenants_open(&b->all, 8);
    for (int i = 0; i < SUBMITTERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, submit, &s[i]), 0);
    for (bool over = false; !over;) { /* the engine's thread */
        over = atomic_load(&b->n_over) == SUBMITTERS;
        assert_true(atomic_load(&b->all.n_waiting) <= 8);
        for (int at = 0; at < BOX; at++) {
            tenant *t = atomic_exchange(&b->slot[at], NULL);
            if (!t)
                continue;
            assert_true(tenants_surplus(t) >= 0);
            tenants_give(&b->all, t);
            tenants_leave(t);
        }
    }
    for (int i = 0; i < SUBMITTERS; i++)
        pthread_join(thread[i], NULL);
    for (int at = 0; at < BOX; at++)
        assert_null(atomic_load(&b->slot[at]));
    expect(&b->all, 0, 0);
    tenants_close(&b->all);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_queue_is_shared_evenly),
        cmocka_unit_test(places_are_given_all_or_none),
        cmocka_unit_test(whoever_goes_first_settles_a_surplus),
        cmocka_unit_test(counts_hold_under_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
