/* test_shares.c - what one holder may have of a bound, what it leaves to others, and that threads lose no byte of it.
 */
#include "base/shares.h"
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <setjmp.h>
#include <cmocka.h>

static void one_holder_leaves_an_eighth(void **state) {
    (void)state;
    shares all;
    shares_open(&all, 800);
    share *a = shares_hold(&all, "a");
    assert_int_equal(shares_most_of_one(&all), 700);
    assert_true(shares_take(&all, a, 700));
    assert_false(shares_take(&all, a, 1));
    assert_true(shares_take(&all, a, 0));
    shares_give(&all, a, 300);
    assert_int_equal(all.used, 400);
    assert_true(shares_take(&all, a, 300));
    shares_give(&all, a, 700);
    shares_drop(a);
    shares_close(&all);
}

static void others_get_most_of_the_rest(void **state) {
    (void)state;
    shares all;
    shares_open(&all, 800);
    share *a = shares_hold(&all, "a"), *b = shares_hold(&all, "b"), *again = shares_hold(&all, "a");
    assert_ptr_equal(a, again);
    assert_true(shares_take(&all, a, 700));
    assert_true(shares_take(&all, b, 88)); /* of 100 */
    assert_false(shares_take(&all, b, 1));
    shares_give(&all, a, 400);
    assert_true(shares_take(&all, b, 350)); /* 438 of 500 */
    assert_false(shares_take(&all, b, 1));
    assert_true(shares_take(&all, a, 16)); /* 316 of 361 */
    assert_int_equal(all.used, 754);
    shares_give(&all, a, 316);
    shares_give(&all, b, 438);
    shares_drop(again);
    shares_drop(a);
    shares_drop(b);
    shares_close(&all);
}

static void without_a_bound_it_counts(void **state) {
    (void)state;
    shares all;
    shares_open(&all, 0);
    share *a = shares_hold(&all, "");
    assert_true(shares_take(&all, a, SIZE_MAX / 2));
    assert_int_equal(all.used, SIZE_MAX / 2);
    shares_give(&all, a, SIZE_MAX / 2);
    shares_drop(a);
    shares_close(&all);
}

/* A share that nobody holds is gone, whoever comes next. */
static void names_are_forgotten(void **state) {
    (void)state;
    char name[20];
    shares all;
    shares_open(&all, 100);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "%d", i);
        share *s = shares_hold(&all, name);
        assert_null(s->member.next);
        assert_true(shares_take(&all, s, 80));
        shares_give(&all, s, 80);
        shares_drop(s);
    }
    shares_close(&all);
}

enum { THREADS = 4, ROUNDS = 20000, MOST = 1000 };

static void *churn(void *context) {
    shares *all = context;
    for (int i = 0; i < ROUNDS; i++) {
        char name[2] = {(char)('a' + i % 3), 0};
        share *s = shares_hold(all, name);
        size_t n = (size_t)(i * 37 % 400);
        if (shares_take(all, s, n)) {
            if (atomic_load(&all->used) > MOST)
                return all;
            shares_give(all, s, n);
        }
        shares_drop(s);
    }
    return NULL;
}

static void threads_share_it(void **state) {
    (void)state;
    shares all;
    pthread_t thread[THREADS];
    void *above;
    shares_open(&all, MOST);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, &all), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], &above);
        assert_null(above);
    }
    assert_int_equal(all.used, 0);
    shares_close(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_holder_leaves_an_eighth),
        cmocka_unit_test(others_get_most_of_the_rest),
        cmocka_unit_test(without_a_bound_it_counts),
        cmocka_unit_test(names_are_forgotten),
        cmocka_unit_test(threads_share_it),
    };
    return cmocka_run_group_tests_name("shares", tests, NULL, NULL);
}
