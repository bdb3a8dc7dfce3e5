/* test_route.c - every policy's rule on cases worked out by hand, the ledger, receipts, trust in predictions.
 *
 * Profiles are lines: a step of n tokens with `batch` decoding takes 10 + 0.1 n + 0.001 batch x reads ms. */
#include "base/rng.h"
#include "route/route.h"
#include "support/profile.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static predict_profile *plain, *evicting;

static int open_profiles(void **state) {
    (void)state;
    plain = profile_line(10, 0.1, 0.001, 0);
    evicting = profile_line(10, 0.1, 0.001, 200);
    return 0;
}

static int close_profiles(void **state) {
    (void)state;
    predict_profile_free(plain);
    predict_profile_free(evicting);
    return 0;
}

/* Method 0: plain, 2 bytes a token; method 1: half of that; method 2: keeps 200 tokens. Room for 10,000 plain tokens.
 */
static route_replica replica(int method) {
    return (route_replica){.profile = method == 2 ? evicting : plain,
                           .method = method,
                           .kv_bytes = 20000,
                           .token_bytes = method == 1 ? 1 : 2,
                           .most_kept_tokens = method == 2 ? 200 : 0,
                           .most_batch = 32,
                           .step_tokens = 512};
}

static route_table *open_table(int n, const int *methods, uint64_t seed) {
    route_replica replicas[8];
    route_table *table = NULL;
    pleat_error error = {""};
    for (int i = 0; i < n; i++)
        replicas[i] = replica(methods ? methods[i] : 0);
    if (route_open(replicas, n, 200, seed, &table, &error))
        fail_msg("%s", error.text);
    return table;
}

static int pick(route_table *table, route_policy policy, int prompt, const float *answer, route_receipt *receipt) {
    static const float usual[3] = {100, 100, 100};
    route_request request = {prompt, answer ? answer : usual, 0};
    return route_pick(table, policy, &request, receipt);
}

/* Puts a request on one replica. */
static int put(route_table *table, int n, int to, int prompt, const float *answer) {
    route_receipt receipt;
    for (int i = 0; i < n; i++)
        route_ready(table, i, i == to);
    int ticket = pick(table, ROUTE_LEAST_REQUESTS, prompt, answer, &receipt);
    assert_int_equal(receipt.replica, to);
    for (int i = 0; i < n; i++)
        route_ready(table, i, true);
    return ticket;
}

static route_receipt choose(route_table *table, route_policy policy, int prompt, const float *answer) {
    route_receipt receipt;
    int ticket = pick(table, policy, prompt, answer, &receipt);
    assert_true(ticket >= 0);
    route_end(table, ticket, -1);
    return receipt;
}

static void names_are_found(void **state) {
    (void)state;
    route_policy policy;
    for (int i = 0; i < ROUTE_POLICIES; i++) {
        assert_true(route_policy_find(route_policy_name((route_policy)i), &policy));
        assert_int_equal(policy, i);
    }
    assert_false(route_policy_find("leastrequests", &policy));
}

/* ---- policies ---- */

static void memory_counts_bytes(void **state) {
    (void)state;
    route_table *t = open_table(3, (const int[]){0, 1, 2}, 1);
    put(t, 3, 0, 100, NULL);
    put(t, 3, 1, 190, NULL);
    int evicted = put(t, 3, 2, 99, NULL);
    route_receipt r = choose(t, ROUTE_LEAST_MEMORY, 10, NULL); /* 200, 190, 198 bytes */
    assert_int_equal(r.replica, 1);
    assert_true(r.score == 190);
    assert_int_equal(r.next, 2);
    assert_true(r.next_score == 198);
    route_progress(t, evicted, 1000);
    assert_true(route_load_of(t, 2).kv_bytes == 400); /* keeps 200 of 1,099 */
    route_close(t);
}

static void requests_and_tokens(void **state) {
    (void)state;
    route_table *t = open_table(3, NULL, 1);
    put(t, 3, 0, 10, NULL);
    put(t, 3, 0, 10, NULL);
    int long_one = put(t, 3, 1, 500, NULL);
    put(t, 3, 2, 10, NULL);
    put(t, 3, 2, 600, NULL);
    route_receipt r = choose(t, ROUTE_LEAST_REQUESTS, 10, NULL);
    assert_int_equal(r.replica, 1);
    assert_int_equal(r.reason, ROUTE_BEST);
    assert_true(r.score == 1 && r.next_score == 2);
    r = choose(t, ROUTE_LEAST_TOKENS, 10, NULL);
    assert_int_equal(r.replica, 0);
    assert_true(r.score == 20 && r.next_score == 500);
    route_progress(t, long_one, 200); /* 700 tokens at 1 now, 610 at 2 */
    r = choose(t, ROUTE_LEAST_TOKENS, 10, NULL);
    assert_int_equal(r.next, 2);
    route_close(t);
}

static void length_takes_the_shortest_answer(void **state) {
    (void)state;
    route_table *t = open_table(3, (const int[]){0, 1, 2}, 1);
    for (int i = 0; i < 5; i++)
        put(t, 3, 1, 100, NULL);
    route_receipt r = choose(t, ROUTE_LENGTH, 100, (const float[]){300, 200, 400}); /* however full it is there */
    assert_int_equal(r.replica, 1);
    assert_true(r.score == 200 && r.next_score == 300 && r.next == 0);
    route_close(t);
}

/* A prompt of 100 adds 10 + 10 ms less a step of one with 256 in context, 10.356. A step of two with 100 each: 10.4. */
static void both_adds_prefill_and_decode(void **state) {
    (void)state;
    route_table *t = open_table(2, (const int[]){0, 1}, 1);
    put(t, 2, 0, 100, NULL);
    const float answer[2] = {50, 60};
    route_receipt r = choose(t, ROUTE_BOTH, 100, answer);
    assert_int_equal(r.replica, 0);
    assert_true(fabs(r.prefill_s - 0.009644) < 1e-9);
    assert_true(fabs(r.decode_s - 50 * 0.0104) < 1e-9);
    assert_true(fabs(r.score - r.prefill_s - r.decode_s) < 1e-12);
    assert_true(fabs(r.next_score - 0.009644 - 60 * 0.0102) < 1e-9);
    r = choose(t, ROUTE_THROUGHPUT, 100, answer); /* 50 tokens wherever: the empty one */
    assert_int_equal(r.replica, 1);
    assert_true(fabs(r.decode_s - 50 * 0.0102) < 1e-9);
    route_close(t);
}

static void work_counts_what_is_to_come(void **state) {
    (void)state;
    route_table *t = open_table(2, NULL, 1);
    int a = put(t, 2, 0, 10, (const float[]){500}), b = put(t, 2, 1, 10, (const float[]){400});
    route_receipt r = choose(t, ROUTE_LEAST_WORK, 30, (const float[]){100});
    assert_int_equal(r.replica, 1);
    assert_true(fabs(r.score - (400 + 10 + 100 + 30)) < 1e-3);
    route_progress(t, a, 450); /* 50 to come, prompt done */
    route_progress(t, b, 1);   /* 399 to come */
    r = choose(t, ROUTE_LEAST_WORK, 30, (const float[]){100});
    assert_int_equal(r.replica, 0);
    assert_true(fabs(r.score - 180) < 1e-3);
    route_progress(t, a, 600); /* outgrown: a little more, never less than nothing */
    assert_true(route_load_of(t, 0).left_tokens >= 1);
    route_close(t);
}

static void turns_skip_who_is_not_ready(void **state) {
    (void)state;
    route_table *t = open_table(4, NULL, 1);
    static const int expected[] = {0, 1, 3, 0, 1, 3, 0};
    route_ready(t, 2, false);
    for (int i = 0; i < 7; i++) {
        route_receipt r = choose(t, ROUTE_ROUND_ROBIN, 10, NULL);
        assert_int_equal(r.replica, expected[i]);
        assert_int_equal(r.reason, ROUTE_BLIND);
        assert_true(isnan(r.score));
    }
    route_close(t);
}

static void random_is_even_and_seeded(void **state) {
    (void)state;
    route_table *a = open_table(4, NULL, 5), *b = open_table(4, NULL, 5), *c = open_table(4, NULL, 6);
    int count[4] = {0}, n_other = 0;
    for (int i = 0; i < 4000; i++) {
        int at = choose(a, ROUTE_RANDOM, 10, NULL).replica;
        count[at]++;
        assert_int_equal(choose(b, ROUTE_RANDOM, 10, NULL).replica, at);
        n_other += choose(c, ROUTE_RANDOM, 10, NULL).replica != at;
    }
    for (int i = 0; i < 4; i++)
        assert_in_range(count[i], 850, 1150);
    assert_in_range(n_other, 2700, 3300);
    route_close(a);
    route_close(b);
    route_close(c);
}

static void two_choices_never_take_the_fullest(void **state) {
    (void)state;
    route_table *t = open_table(3, NULL, 1);
    int count[3] = {0};
    for (int i = 0; i < 6; i++)
        put(t, 3, i < 1 ? 0 : i < 3 ? 1 : 2, 10, NULL); /* 1, 2, 3 requests */
    for (int i = 0; i < 900; i++)
        count[choose(t, ROUTE_POWER_OF_TWO, 10, NULL).replica]++;
    assert_int_equal(count[2], 0);
    assert_in_range(count[0], 540, 660); /* two of three pairs hold it */
    assert_in_range(count[1], 240, 360);
    route_close(t);
}

static void ties_are_broken_evenly(void **state) {
    (void)state;
    int count[4] = {0};
    route_table *t = open_table(4, NULL, 9);
    put(t, 4, 2, 10, NULL);
    for (int i = 0; i < 900; i++) {
        route_receipt r = choose(t, ROUTE_LEAST_REQUESTS, 10, NULL);
        assert_int_equal(r.reason, ROUTE_TIED);
        assert_true(r.next_score == r.score);
        count[r.replica]++;
    }
    assert_int_equal(count[2], 0);
    for (int i = 0; i < 4; i++)
        if (i != 2)
            assert_in_range(count[i], 230, 370);
    route_close(t);
}

/* ---- state ---- */

static double fourth(double x) {
    return x * x * x * x;
}

/* Alone: nothing waits, nobody is harmed, and S^4 is twice its own delay's. */
static void state_alone(void **state) {
    (void)state;
    route_table *t = open_table(1, NULL, 1);
    route_receipt r = choose(t, ROUTE_STATE, 100, (const float[]){50});
    double step_s = 0.0101 + 1e-6 * (100 + 25), own = 0.009644 + 51 * step_s;
    assert_int_equal(r.reason, ROUTE_ONLY);
    assert_true(r.wait_s == 0 && r.harm_s == 0);
    assert_true(fabs(r.prefill_s - 0.009644 - step_s) < 1e-6);
    assert_true(fabs(r.decode_s - 50 * step_s) < 1e-6);
    assert_true(fabs(r.tail_s - own / 10) < 1e-6);
    assert_true(fabs(r.score - own - r.tail_s) < 1e-6);
    route_close(t);
}

/* One there, 300 of 400 tokens to come, its prompt done. The new one shares 50 steps with it. */
static void state_counts_the_harm(void **state) {
    (void)state;
    route_table *t = open_table(1, NULL, 1);
    int there = put(t, 1, 0, 100, (const float[]){400});
    route_progress(t, there, 100);
    route_receipt r = choose(t, ROUTE_STATE, 100, (const float[]){50});
    double step_s = 0.0102 + 1e-6 * (100 + 100 + 100 + 25), slope_s = step_s - 0.010356;
    double own = 0.009644 + 51 * step_s, theirs = 400 * step_s;
    assert_true(r.wait_s == 0);
    assert_true(fabs(r.tail_s - own * fourth(own / theirs) / 10) < 1e-7);
    assert_true(fabs(r.harm_s - (slope_s * 50 + 0.009644) * 1.5) < 1e-6);
    route_close(t);
}

/* A prompt in front costs its prefill; with 32 in the batch the next one waits for a departure: 100 tokens to come at
 * 32 a step. */
static void state_waits_for_batch_and_prompts(void **state) {
    (void)state;
    route_table *t = open_table(1, NULL, 1);
    int ticket[33];
    for (int i = 0; i < 32; i++)
        ticket[i] = put(t, 1, 0, 100, NULL);
    assert_true(fabs(choose(t, ROUTE_STATE, 100, NULL).wait_s - 32 * 0.009644) > 0.01); /* and the batch is full */
    for (int i = 1; i < 32; i++)
        route_end(t, ticket[i], -1);
    assert_true(fabs(choose(t, ROUTE_STATE, 100, NULL).wait_s - 0.009644) < 1e-8);
    route_progress(t, ticket[0], 1);
    assert_true(choose(t, ROUTE_STATE, 100, NULL).wait_s == 0);
    for (int i = 1; i < 32; i++)
        route_progress(t, ticket[i] = put(t, 1, 0, 100, NULL), 1);
    route_receipt r = choose(t, ROUTE_STATE, 100, NULL);
    double step_s = 0.0132 + 32e-6 * (32 * 101 + 150) / 33;
    assert_true(fabs(r.wait_s - 1 * 99 * step_s / 32) < 1e-6);
    route_close(t);
}

static void state_sees_full_memory(void **state) {
    (void)state;
    route_table *t = open_table(2, (const int[]){0, 1}, 1);
    const float answer[2] = {100, 160};
    for (int i = 0; i < 3; i++)
        route_progress(t, put(t, 2, 0, 3200, answer), 1); /* 9,603 of 10,000 tokens */
    assert_int_equal(choose(t, ROUTE_STATE, 10, (const float[]){100, 500}).replica, 0);
    route_receipt r = choose(t, ROUTE_STATE, 900, answer);
    assert_int_equal(r.replica, 1); /* the answer is longer there, but there is room */
    assert_true(r.wait_s == 0);
    route_close(t);
}

/* 30 that hold 191 tokens each and grow to 200, not to 590: they leave room in 10,000. */
static void state_knows_what_an_evicting_method_will_hold(void **state) {
    (void)state;
    route_table *t = open_table(1, (const int[]){2}, 1);
    const float answer[3] = {400, 400, 400};
    for (int i = 0; i < 30; i++)
        route_progress(t, put(t, 1, 0, 190, answer), 1);
    assert_true(choose(t, ROUTE_STATE, 100, answer).wait_s == 0);
    route_close(t);
}

static void state_takes_the_short_answer_and_the_idle_replica(void **state) {
    (void)state;
    route_table *t = open_table(3, (const int[]){0, 1, 1}, 1);
    assert_int_equal(choose(t, ROUTE_STATE, 100, (const float[]){300, 100}).replica > 0, 1);
    assert_int_equal(choose(t, ROUTE_STATE, 100, (const float[]){100, 300}).replica, 0);
    for (int i = 0; i < 8; i++)
        put(t, 3, 1, 100, NULL);
    assert_int_equal(choose(t, ROUTE_STATE, 100, (const float[]){300, 100}).replica, 2);
    for (int i = 0; i < 8; i++)
        put(t, 3, 2, 100, NULL);
    assert_int_equal(choose(t, ROUTE_STATE, 100, (const float[]){101, 100}).replica, 0);
    route_close(t);
}

/* What was in flight and has ended leaves no trace. */
static void state_forgets_what_ended(void **state) {
    (void)state;
    static const int methods[] = {0, 2};
    route_table *used = open_table(2, methods, 1), *fresh = open_table(2, methods, 1);
    int ticket[60];
    for (int i = 0; i < 60; i++) {
        ticket[i] = put(used, 2, i % 2, 100 + i, (const float[]){(float)(50 + 7 * i), 90, 80});
        route_progress(used, ticket[i], i);
    }
    for (int i = 0; i < 60; i++)
        if (i != 20 && i != 33)
            route_end(used, ticket[i], -1);
    route_progress(fresh, put(fresh, 2, 0, 120, (const float[]){190, 90, 80}), 20);
    route_progress(fresh, put(fresh, 2, 1, 133, (const float[]){90, 90, 80}), 33);
    route_receipt a = choose(used, ROUTE_STATE, 77, NULL), b = choose(fresh, ROUTE_STATE, 77, NULL);
    assert_int_equal(a.replica, b.replica);
    assert_true(a.score == b.score && a.next_score == b.next_score);
    route_close(used);
    route_close(fresh);
}

/* ---- the ledger ---- */

static void a_pick_counts_at_once(void **state) {
    (void)state;
    route_table *t = open_table(4, NULL, 1);
    for (int i = 0; i < 40; i++) /* a burst, before anybody answers */
        pick(t, ROUTE_LEAST_REQUESTS, 10, NULL, NULL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(route_load_of(t, i).requests, 10);
    route_close(t);
}

static void the_ledger_adds_up(void **state) {
    (void)state;
    enum { N = 200, TURNS = 5000 };
    static const int methods[] = {0, 1, 2};
    route_table *t = open_table(3, methods, 3);
    int ticket[N], prompt[N], done[N], at[N], n = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        double what = rng_uniform(11, 0, (uint64_t)turn);
        int i = n ? (int)(rng_uniform(11, 1, (uint64_t)turn) * n) : 0;
        if (n == 0 || (what < 0.4 && n < N)) {
            route_receipt r;
            prompt[n] = 1 + (int)(300 * rng_uniform(11, 2, (uint64_t)turn));
            ticket[n] = pick(t, ROUTE_RANDOM, prompt[n], NULL, &r);
            at[n] = r.replica;
            done[n++] = 0;
        } else if (what < 0.7) {
            route_progress(t, ticket[i], done[i] += 1 + (int)(50 * rng_uniform(11, 3, (uint64_t)turn)));
        } else {
            route_end(t, ticket[i], done[i]);
            n--;
            ticket[i] = ticket[n], prompt[i] = prompt[n], done[i] = done[n], at[i] = at[n];
        }
    }
    for (int r = 0; r < 3; r++) {
        route_load load = route_load_of(t, r);
        int requests = 0, waiting = 0;
        double prompts = 0, answers = 0, bytes = 0;
        for (int i = 0; i < n; i++)
            if (at[i] == r) {
                double kept = prompt[i] + done[i];
                requests++;
                waiting += done[i] == 0;
                prompts += prompt[i];
                answers += done[i];
                bytes += r == 1 ? kept : r == 2 && kept > 200 ? 400 : 2 * kept;
            }
        assert_int_equal(load.requests, requests);
        assert_int_equal(load.waiting, waiting);
        assert_true(load.prompt_tokens == prompts && load.answer_tokens == answers && load.kv_bytes == bytes);
    }
    while (n > 0)
        route_end(t, ticket[--n], -1);
    for (int r = 0; r < 3; r++) {
        route_load load = route_load_of(t, r);
        assert_true(load.requests == 0 && load.waiting == 0 && load.kv_bytes == 0 && load.left_tokens == 0);
    }
    route_close(t);
}

static void refusals_have_reasons(void **state) {
    (void)state;
    route_table *t = open_table(2, (const int[]){0, 1}, 1);
    route_receipt r;
    assert_int_equal(pick(t, ROUTE_STATE, 20000, NULL, &r), -1); /* 20,001 bytes at least */
    assert_int_equal(r.reason, ROUTE_NO_ROOM);
    assert_int_equal(r.replica, -1);
    assert_int_equal(choose(t, ROUTE_STATE, 15000, NULL).reason, ROUTE_ONLY); /* half the bytes a token */
    route_ready(t, 1, false);
    assert_int_equal(pick(t, ROUTE_STATE, 15000, NULL, &r), -1);
    assert_int_equal(r.reason, ROUTE_NO_ROOM);
    assert_int_equal(choose(t, ROUTE_RANDOM, 10, NULL).reason, ROUTE_ONLY);
    route_ready(t, 0, false);
    assert_int_equal(pick(t, ROUTE_ROUND_ROBIN, 10, NULL, &r), -1);
    assert_int_equal(r.reason, ROUTE_NO_READY);
    route_ready(t, 0, true);
    for (int i = 0; i < 200; i++)
        assert_true(pick(t, ROUTE_LEAST_TOKENS, 10, NULL, NULL) >= 0);
    assert_int_equal(pick(t, ROUTE_LEAST_TOKENS, 10, NULL, &r), -1);
    assert_int_equal(r.reason, ROUTE_FULL);
    route_end(t, 77, 5);
    assert_int_equal(pick(t, ROUTE_LEAST_TOKENS, 10, NULL, &r), 77); /* the ticket comes back */
    route_close(t);
}

static void context_is_a_limit(void **state) {
    (void)state;
    route_replica r = replica(0);
    route_table *t;
    route_receipt receipt;
    r.most_context_tokens = 4096;
    assert_int_equal(route_open(&r, 1, 10, 1, &t, NULL), PLEAT_OK);
    assert_true(pick(t, ROUTE_STATE, 4095, NULL, &receipt) >= 0);
    assert_int_equal(pick(t, ROUTE_STATE, 4096, NULL, &receipt), -1);
    assert_int_equal(receipt.reason, ROUTE_NO_ROOM);
    route_close(t);
}

static void others_requests_count_until_the_next_word(void **state) {
    (void)state;
    route_table *t = open_table(2, NULL, 1);
    put(t, 2, 0, 10, NULL);
    put(t, 2, 0, 10, NULL);
    route_observe(t, 0, 2, 20); /* all of them ours */
    route_observe(t, 1, 5, 900);
    assert_int_equal(route_load_of(t, 0).other_requests, 0);
    assert_int_equal(route_load_of(t, 1).other_requests, 5);
    static const route_policy policies[] = {ROUTE_LEAST_REQUESTS, ROUTE_LEAST_TOKENS, ROUTE_LEAST_MEMORY,
                                            ROUTE_BOTH,           ROUTE_LEAST_WORK,   ROUTE_STATE};
    for (int i = 0; i < 6; i++)
        assert_int_equal(choose(t, policies[i], 10, NULL).replica, 0);
    route_observe(t, 1, 0, 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(choose(t, policies[i], 10, NULL).replica, 1);
    route_close(t);
}

static void same_delay(route_table *a, route_table *b) {
    route_receipt x = choose(a, ROUTE_STATE, 100, (const float[]){50}),
                  y = choose(b, ROUTE_STATE, 100, (const float[]){50});
    assert_true(x.harm_s > 0);
    assert_true(fabs(x.wait_s - y.wait_s) < 1e-9 && fabs(x.decode_s - y.decode_s) < 1e-9);
    assert_true(fabs(x.tail_s - y.tail_s) < 1e-6 * y.tail_s && fabs(x.harm_s - y.harm_s) < 1e-6 * y.harm_s);
}

/* To `state` two of another router's beside one of 400 tokens are three of these; beside none, they are like the new
 * request half way. */
static void others_requests_are_like_those_known(void **state) {
    (void)state;
    route_table *told = open_table(1, NULL, 1), *own = open_table(1, NULL, 1);
    route_progress(told, put(told, 1, 0, 100, (const float[]){400}), 100);
    route_observe(told, 0, 3, 600);
    for (int i = 0; i < 3; i++)
        route_progress(own, put(own, 1, 0, 100, (const float[]){400}), 100);
    same_delay(told, own);
    route_close(told);
    route_close(own);
    told = open_table(1, NULL, 1), own = open_table(1, NULL, 1);
    route_observe(told, 0, 2, 250);
    for (int i = 0; i < 2; i++)
        route_progress(own, put(own, 1, 0, 100, (const float[]){50}), 25);
    same_delay(told, own);
    route_close(told);
    route_close(own);
}

/* ---- trust ---- */

/* What an idle replica believes of an answer, told to be so long. */
static double believed(route_table *t, float told) {
    return choose(t, ROUTE_LEAST_WORK, 10, (const float[]){told}).score - 10;
}

/* A thousand answers, each told to be `told` and turning out `real`. */
static route_table *teach(float (*told)(double), double (*real)(double)) {
    route_table *t = open_table(1, NULL, 1);
    for (int i = 0; i < 1000; i++) {
        double u = exp(5.5 + 0.7 * rng_normal(3, 0, (uint64_t)i));
        int ticket = pick(t, ROUTE_LEAST_WORK, 10, (const float[]){told(u)}, NULL);
        route_end(t, ticket, (int)real(u));
    }
    return t;
}

static float as_it_is(double u) {
    return (float)(int)u;
}
static double right(double u) {
    return u;
}
static double doubled(double u) {
    return 2 * (int)u;
}
static double always_300(double u) {
    (void)u;
    return 300;
}

static float told_300(double u) {
    (void)u;
    return 300;
}

/* All are told 300, and are log-normal: believed is their mean, exp(5.5 + 0.7^2 / 2), not the lower median. */
static void the_mean_is_believed(void **state) {
    (void)state;
    route_table *t = teach(told_300, right);
    assert_true(fabs(believed(t, 300) / exp(5.5 + 0.245) - 1) < 0.05);
    route_close(t);
}

static void right_predictions_are_believed(void **state) {
    (void)state;
    route_table *t = teach(as_it_is, right);
    assert_true(fabs(believed(t, 100) / 100 - 1) < 0.002);
    assert_true(fabs(believed(t, 900) / 900 - 1) < 0.002);
    route_close(t);
}

static void a_bias_is_taken_off(void **state) {
    (void)state;
    route_table *t = teach(as_it_is, doubled);
    assert_true(fabs(believed(t, 100) / 200 - 1) < 0.05);
    assert_true(fabs(believed(t, 700) / 1400 - 1) < 0.05);
    route_close(t);
}

static void useless_predictions_lose_their_weight(void **state) {
    (void)state;
    route_table *t = teach(as_it_is, always_300);
    assert_true(fabs(believed(t, 80) / 300 - 1) < 0.1);
    assert_true(fabs(believed(t, 900) / 300 - 1) < 0.1);
    route_close(t);
}

/* Answers were twice as long as told, and then no more. */
static void old_answers_are_forgotten(void **state) {
    (void)state;
    route_table *t = teach(as_it_is, doubled);
    for (int i = 0; i < 8000; i++) {
        int told = (int)exp(5.5 + 0.7 * rng_normal(4, 0, (uint64_t)i));
        route_end(t, pick(t, ROUTE_LEAST_WORK, 10, (const float[]){(float)told}, NULL), told);
    }
    assert_true(fabs(believed(t, 250) / 250 - 1) < 0.03);
    route_close(t);
}

static void broken_answers_teach_nothing(void **state) {
    (void)state;
    route_table *t = open_table(1, NULL, 1);
    for (int i = 0; i < 300; i++)
        route_end(t, pick(t, ROUTE_STATE, 10, (const float[]){400}, NULL), -1);
    assert_true(fabs(believed(t, 400) - 400) < 1e-3);
    route_close(t);
}

static void a_limit_caps_what_is_believed(void **state) {
    (void)state;
    route_table *t = open_table(1, NULL, 1);
    route_request request = {10, (const float[]){400}, 64};
    route_receipt r;
    route_pick(t, ROUTE_LEAST_WORK, &request, &r);
    assert_true(fabs(r.score - 74) < 1e-4);
    route_close(t);
}

/* ---- words ---- */

static void receipts_say_why(void **state) {
    (void)state;
    char out[300];
    route_table *t = open_table(2, NULL, 1);
    put(t, 2, 0, 100, NULL);
    route_receipt r = choose(t, ROUTE_BOTH, 100, (const float[]){50});
    assert_string_equal(route_receipt_text(&r, out, sizeof(out)),
                        "both: replica 1, 0.5196 s = prefill 0.00964 + decode 0.51; next best replica 0, 0.5296 s");
    r = choose(t, ROUTE_LEAST_REQUESTS, 100, NULL);
    assert_string_equal(route_receipt_text(&r, out, sizeof(out)),
                        "least-requests: replica 1, 0 requests; next best replica 0, 1 requests");
    r = choose(t, ROUTE_ROUND_ROBIN, 100, NULL);
    assert_string_equal(route_receipt_text(&r, out, sizeof(out)), "round-robin: replica 0; one of 2");
    r = choose(t, ROUTE_STATE, 100, NULL);
    assert_non_null(strstr(route_receipt_text(&r, out, sizeof(out)), " = wait 0 + prefill "));
    route_ready(t, 1, false);
    r = choose(t, ROUTE_LENGTH, 100, NULL);
    assert_string_equal(route_receipt_text(&r, out, sizeof(out)),
                        "length: replica 0, 100 tokens; no other can take it");
    route_ready(t, 0, false);
    pick(t, ROUTE_STATE, 100, NULL, &r);
    assert_string_equal(route_receipt_text(&r, out, sizeof(out)), "state: none, no replica is ready");
    route_receipt_text(&r, out, 8);
    assert_int_equal(strlen(out), 7);
    route_close(t);
}

static void bad_replicas_are_named(void **state) {
    (void)state;
    pleat_error error;
    route_table *t = NULL;
    route_replica r[2] = {replica(0), replica(0)};
    r[1].token_bytes = 0;
    assert_int_equal(route_open(r, 2, 10, 1, &t, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "replica 1: token_bytes is 0, which is out of range");
    r[1] = replica(0);
    r[1].kv_bytes = NAN;
    assert_int_equal(route_open(r, 2, 10, 1, &t, &error), PLEAT_EINPUT);
    r[1].profile = NULL;
    assert_int_equal(route_open(r, 2, 10, 1, &t, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "replica 1 has no profile");
    assert_int_equal(route_open(r, 0, 10, 1, &t, &error), PLEAT_EINPUT);
    assert_int_equal(route_open(r, 1, 0, 1, &t, &error), PLEAT_EINPUT);
    assert_null(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found),
        cmocka_unit_test(memory_counts_bytes),
        cmocka_unit_test(requests_and_tokens),
        cmocka_unit_test(length_takes_the_shortest_answer),
        cmocka_unit_test(both_adds_prefill_and_decode),
        cmocka_unit_test(work_counts_what_is_to_come),
        cmocka_unit_test(turns_skip_who_is_not_ready),
        cmocka_unit_test(random_is_even_and_seeded),
        cmocka_unit_test(two_choices_never_take_the_fullest),
        cmocka_unit_test(ties_are_broken_evenly),
        cmocka_unit_test(state_alone),
        cmocka_unit_test(state_counts_the_harm),
        cmocka_unit_test(state_waits_for_batch_and_prompts),
        cmocka_unit_test(state_sees_full_memory),
        cmocka_unit_test(state_knows_what_an_evicting_method_will_hold),
        cmocka_unit_test(state_takes_the_short_answer_and_the_idle_replica),
        cmocka_unit_test(state_forgets_what_ended),
        cmocka_unit_test(a_pick_counts_at_once),
        cmocka_unit_test(the_ledger_adds_up),
        cmocka_unit_test(refusals_have_reasons),
        cmocka_unit_test(context_is_a_limit),
        cmocka_unit_test(others_requests_count_until_the_next_word),
        cmocka_unit_test(others_requests_are_like_those_known),
        cmocka_unit_test(the_mean_is_believed),
        cmocka_unit_test(right_predictions_are_believed),
        cmocka_unit_test(a_bias_is_taken_off),
        cmocka_unit_test(useless_predictions_lose_their_weight),
        cmocka_unit_test(old_answers_are_forgotten),
        cmocka_unit_test(broken_answers_teach_nothing),
        cmocka_unit_test(a_limit_caps_what_is_believed),
        cmocka_unit_test(receipts_say_why),
        cmocka_unit_test(bad_replicas_are_named),
    };
    return cmocka_run_group_tests(tests, open_profiles, close_profiles);
}
