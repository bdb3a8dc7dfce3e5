/* test_simulate.c - the simulator against hand computations and queueing laws.
 *
 * Profiles are lines: a step of n tokens with `batch` decoding takes 10 + 0.1 n + 0.001 batch x reads ms, or 10 ms. */
#include "base/rng.h"
#include "route/fleet.h"
#include "route/kept.h"
#include "route/sweep.h"
#include "support/env.h"
#include "support/profile.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static predict_profile *line, *flat, *evicting;

static int open_profiles(void **state) {
    (void)state;
    line = profile_line(10, 0.1, 0.001, 0);
    flat = profile_line(10, 0, 0, 0);
    evicting = profile_line(10, 0.1, 0.001, 200);
    return 0;
}

static int close_profiles(void **state) {
    (void)state;
    predict_profile_free(line);
    predict_profile_free(flat);
    predict_profile_free(evicting);
    return 0;
}

static route_replica replica(const predict_profile *profile, int batch, double room_tokens) {
    return (route_replica){.profile = profile,
                           .kv_bytes = room_tokens,
                           .token_bytes = 1,
                           .most_kept_tokens = profile == evicting ? 200 : 0,
                           .most_batch = batch,
                           .step_tokens = 512};
}

/* ---- loads made here ---- */

static sim_load own_load(int n, const double *arrival_s, const int *prompt, const int *answer) {
    sim_load l = {.n = n, .n_methods = 1};
    l.arrival_s = calloc((size_t)n, sizeof(double));
    l.prompt = calloc((size_t)n, sizeof(int32_t));
    l.answer = calloc((size_t)n, sizeof(int32_t));
    l.predicted = calloc((size_t)n, sizeof(float));
    for (int i = 0; i < n; i++) {
        l.arrival_s[i] = arrival_s[i];
        l.prompt[i] = prompt[i];
        l.answer[i] = answer[i];
        l.predicted[i] = (float)answer[i];
    }
    return l;
}

static void free_own(sim_load *l) {
    free(l->arrival_s);
    free(l->prompt);
    free(l->answer);
    free(l->predicted);
}

static const sim_size two_sizes[] = {{50, 100}, {200, 300}};

static sim_load_options drawn(int n, double rate, uint64_t seed) {
    static const sim_sizes sizes = {(sim_size *)two_sizes, 2, 2, ""};
    return (sim_load_options){
        .n = n, .seed = seed, .n_methods = 1, .method = {"plain"}, .sizes = &sizes, .rate = rate, .variation = 1};
}

static sim_load draw(const sim_load_options *options) {
    sim_load l;
    pleat_error error = {""};
    if (sim_load_make(options, &l, &error))
        fail_msg("%s", error.text);
    return l;
}

static sim_answer *simulate(const route_replica *pool, int n, const sim_load *load, const sim_run_options *options) {
    sim_answer *answers = calloc((size_t)load->n, sizeof(*answers));
    pleat_error error = {""};
    if (sim_run(pool, n, load, options, answers, &error))
        fail_msg("%s", error.text);
    return answers;
}

static void near(double value, double expected) {
    if (fabs(value - expected) > 1e-9 * (1 + fabs(expected)))
        fail_msg("%.12g, not %.12g", value, expected);
}

/* ---- steps by hand ---- */

/* 100 tokens: one step of 10 + 10 ms and the first token; then steps with 101 + 1, 103, 104 in context. */
static void one_request(void **state) {
    (void)state;
    sim_load load = own_load(1, (const double[]){2}, (const int[]){100}, (const int[]){4});
    route_replica r = replica(line, 8, 1e6);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    near(a->first_s, 2.020);
    near(a->end_s, 2.020 + 3 * 0.0101 + 1e-6 * (102 + 103 + 104));
    assert_int_equal(a->tokens, 4);
    free(a);
    free_own(&load);
}

/* 700 and 400 tokens at once, 512 a step: 512; 188 of the first and 324 of the second; then 76 and one decoding. */
static void prompts_are_cut_by_the_budget(void **state) {
    (void)state;
    sim_load load = own_load(2, (const double[]){0, 0}, (const int[]){700, 400}, (const int[]){9, 1});
    route_replica r = replica(line, 8, 1e6);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_RANDOM});
    double step = 0.010 + 0.0512;
    near(a[0].first_s, 2 * step);
    near(a[1].first_s, 2 * step + 0.010 + 0.0077 + 1e-6 * 702);
    near(a[1].end_s, a[1].first_s);
    free(a);
    free_own(&load);
}

/* While the first decodes, the second waits for the next step to begin. */
static void a_step_under_way_is_not_joined(void **state) {
    (void)state;
    sim_load load = own_load(2, (const double[]){0, 0.021}, (const int[]){100, 50}, (const int[]){3, 2});
    route_replica r = replica(line, 8, 1e6);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_LEAST_REQUESTS});
    double first = 0.020, second = first + 0.0101 + 102e-6 / 100 * 1, third;
    second = first + 0.0101 + 1e-6 * 102;         /* the second has come meanwhile */
    third = second + 0.010 + 0.0051 + 1e-6 * 103; /* 50 tokens and one decoding */
    near(a[0].end_s, third);
    near(a[1].first_s, third);
    near(a[1].end_s, third + 0.0101 + 1e-6 * 52);
    free(a);
    free_own(&load);
}

static void evicting_methods_read_their_budget(void **state) {
    (void)state;
    sim_load load = own_load(1, (const double[]){0}, (const int[]){500}, (const int[]){3});
    route_replica r = replica(evicting, 8, 1e6);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    near(a->end_s, 0.060 + 2 * (0.0101 + 1e-6 * 200));
    free(a);
    free_own(&load);
}

/* ---- queues ---- */

/* One at a time and 10 ms a step: first come, first served, by Lindley's recursion. */
static void one_at_a_time_is_a_queue(void **state) {
    (void)state;
    sim_load_options options = drawn(3000, 0.25, 4);
    sim_load load = draw(&options);
    route_replica r = replica(flat, 1, 1e6);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_LEAST_TOKENS});
    double free_s = 0;
    for (int i = 0; i < load.n; i++) {
        double begin = load.arrival_s[i] > free_s ? load.arrival_s[i] : free_s;
        free_s = begin + 0.010 * load.answer[i];
        assert_true(fabs(a[i].end_s - free_s) < 1e-6);
    }
    free(a);
    sim_load_free(&load);
}

/* Equal work: M/D/1. The mean wait is rho D / (2 (1 - rho)) (Pollaczek and Khinchine). */
static void poisson_and_equal_work_is_m_d_1(void **state) {
    (void)state;
    static const sim_size size[] = {{10, 100}};
    static const sim_sizes sizes = {(sim_size *)size, 1, 1, ""};
    double work = 1.0, rho = 0.7, wait = 0;
    int n = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        sim_load_options options = drawn(40000, rho / work, seed);
        options.sizes = &sizes;
        sim_load load = draw(&options);
        route_replica r = replica(flat, 1, 1e6);
        sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_RANDOM});
        for (int i = 0; i < load.n; i++, n++)
            wait += a[i].end_s - load.arrival_s[i] - work;
        free(a);
        sim_load_free(&load);
    }
    assert_true(fabs(wait / n / (rho * work / (2 * (1 - rho))) - 1) < 0.03);
}

/* N = lambda x W over the middle of a long run, N counted from the other side: at sampled moments. */
static void littles_law(void **state) {
    (void)state;
    sim_load_options options = drawn(20000, 8, 2);
    sim_load load = draw(&options);
    route_replica pool[2] = {replica(line, 64, 1e6), replica(line, 64, 1e6)};
    sim_answer *a = simulate(pool, 2, &load, &(sim_run_options){.policy = ROUTE_STATE});
    double from = load.arrival_s[2000], to = load.arrival_s[18000], delay = 0, inside = 0;
    int n = 0, samples = 4000;
    for (int i = 2000; i < 18000; i++, n++)
        delay += a[i].end_s - load.arrival_s[i];
    for (int k = 0; k < samples; k++) {
        double at = from + (to - from) * (k + 0.5) / samples;
        for (int i = 0; i < load.n && load.arrival_s[i] <= at; i++)
            inside += a[i].end_s > at;
    }
    double number = inside / samples, law = n / (to - from) * (delay / n);
    assert_true(number > 4);
    assert_true(fabs(number / law - 1) < 0.02);
    free(a);
    sim_load_free(&load);
}

/* ---- every request ends once ---- */

static void check_ends(const sim_load *load, const sim_answer *a, int n_replicas) {
    for (int i = 0; i < load->n; i++) {
        assert_in_range(a[i].replica, 0, n_replicas - 1);
        assert_false(a[i].cut);
        assert_int_equal(a[i].tokens, load->answer[i * load->n_methods]);
        assert_true(a[i].first_s > load->arrival_s[i]);
        assert_true(a[i].end_s >= a[i].first_s);
    }
}

static void every_request_ends_once(void **state) {
    (void)state;
    sim_load_options options = drawn(1500, 25, 3); /* more than the pool can do for a while */
    sim_load load = draw(&options);
    route_replica pool[3] = {replica(line, 16, 3000), replica(evicting, 16, 3000), replica(line, 16, 1200)};
    int n_preempted = 0;
    for (int p = 0; p < ROUTE_POLICIES; p++)
        for (int routers = 1; routers <= 3; routers += 2) {
            sim_run_options o = {(route_policy)p, 7, routers, routers > 1 ? 0.5 : 0, false};
            sim_answer *a = simulate(pool, 3, &load, &o);
            check_ends(&load, a, 3);
            for (int i = 0; i < load.n; i++)
                n_preempted += a[i].n_preempted;
            free(a);
        }
    assert_true(n_preempted > 100);
    sim_load_free(&load);
}

/* Room for 250: the second request's prompt fits, its growth does not. The first, older, is never put back. */
static void the_newest_is_put_back(void **state) {
    (void)state;
    sim_load load = own_load(2, (const double[]){0, 0.001}, (const int[]){100, 100}, (const int[]){60, 60});
    route_replica r = replica(line, 8, 250);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    assert_int_equal(a[0].n_preempted, 0);
    assert_true(a[1].n_preempted >= 1);
    check_ends(&load, a, 1);
    assert_true(a[1].end_s > a[0].end_s);
    free(a);
    free_own(&load);
}

/* Room for 1,000: 501 and 495 would fit, but a hundredth stays free for what grows. */
static void a_hundredth_of_the_memory_is_kept_back(void **state) {
    (void)state;
    sim_load load = own_load(2, (const double[]){0, 0.001}, (const int[]){500, 495}, (const int[]){3, 3});
    route_replica r = replica(line, 8, 1000);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    assert_true(a[1].first_s > a[0].end_s);
    r = replica(line, 8, 1007); /* 996 are within 0.99 of it */
    free(a);
    a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    assert_true(a[1].first_s < a[0].end_s);
    free(a);
    free_own(&load);
}

static void what_cannot_fit_is_refused_or_cut(void **state) {
    (void)state;
    sim_load load = own_load(3, (const double[]){0, 5, 10}, (const int[]){300, 200, 50}, (const int[]){5, 100, 5});
    route_replica r = replica(line, 8, 250);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    assert_int_equal(a[0].replica, -1);
    assert_true(a[1].cut);
    assert_int_equal(a[1].tokens, 50); /* 200 + 50 */
    assert_int_equal(a[2].tokens, 5);
    free(a);
    free_own(&load);
}

static void full_batches_wait(void **state) {
    (void)state;
    double arrival[20];
    int prompt[20], answer[20];
    for (int i = 0; i < 20; i++)
        arrival[i] = 0, prompt[i] = 10, answer[i] = 100;
    sim_load load = own_load(20, arrival, prompt, answer);
    route_replica r = replica(flat, 10, 1e6);
    sim_answer *a = simulate(&r, 1, &load, &(sim_run_options){.policy = ROUTE_STATE});
    for (int i = 0; i < 20; i++)
        assert_true(i < 10 ? a[i].end_s < 1.02 : a[i].first_s > 0.99);
    free(a);
    free_own(&load);
}

static void capacity_is_what_is_done_without_pause(void **state) {
    (void)state;
    static const sim_size size[] = {{10, 100}};
    static const sim_sizes sizes = {(sim_size *)size, 1, 1, ""};
    sim_load_options options = drawn(2000, 0, 1);
    options.sizes = &sizes;
    sim_load load = draw(&options);
    route_replica r = replica(flat, 1, 1e6);
    double per_s;
    assert_int_equal(sim_capacity(&r, &load, &per_s, NULL), PLEAT_OK);
    assert_true(fabs(per_s - 1) < 0.01); /* 100 steps of 10 ms */
    r.most_batch = 20;
    assert_int_equal(sim_capacity(&r, &load, &per_s, NULL), PLEAT_OK);
    assert_true(fabs(per_s / 20 - 1) < 0.05);
    r.kv_bytes = 550; /* each holds 60 of these on average */
    assert_int_equal(sim_capacity(&r, &load, &per_s, NULL), PLEAT_OK);
    assert_true(per_s < 550.0 / 60 && per_s > 4);
    r = replica(flat, 1, 1e6);
    load.prompt[0] = load.prompt[1] = 5000;
    double all;
    assert_int_equal(sim_capacity(&r, &load, &all, NULL), PLEAT_OK);
    r.most_context_tokens = 4096; /* two are refused, and count as taken */
    assert_int_equal(sim_capacity(&r, &load, &per_s, NULL), PLEAT_OK);
    assert_true(per_s > all && fabs(per_s - 1) < 0.01);
    r.most_context_tokens = 5;
    assert_int_equal(sim_capacity(&r, &load, &per_s, NULL), PLEAT_OK);
    assert_true(per_s == 0);
    sim_load_free(&load);
}

/* ---- loads ---- */

static void arrivals_have_their_rate_and_variation(void **state) {
    (void)state;
    static const double variations[] = {1, 0.5, 2, 4};
    for (int k = 0; k < 4; k++) {
        sim_load_options options = drawn(60000, 5, 8);
        options.variation = variations[k];
        sim_load load = draw(&options);
        double sum = 0, square = 0, before = 0;
        for (int i = 0; i < load.n; i++) {
            double gap = load.arrival_s[i] - before;
            before = load.arrival_s[i];
            assert_true(gap >= 0);
            sum += gap;
            square += gap * gap;
        }
        double mean = sum / load.n, cv = sqrt(square / load.n - mean * mean) / mean;
        assert_true(fabs(mean * 5 - 1) < 0.05);
        assert_true(fabs(cv / variations[k] - 1) < 0.06);
        sim_load_free(&load);
    }
}

/* The same requests at every rate, noise and pool, so that differences are the policies'. */
static void seeds_are_paired(void **state) {
    (void)state;
    sim_growths growths;
    assert_int_equal(sim_growths_read(NULL, &growths, NULL), PLEAT_OK);
    sim_load_options slow = drawn(500, 1, 6), fast = drawn(500, 4, 6), other = drawn(500, 1, 7);
    slow.n_methods = 2, fast.n_methods = 3;
    slow.method[1] = "kivi", slow.growth[1] = sim_growth_find(&growths, "kivi");
    fast.method[1] = "h2o", fast.growth[1] = sim_growth_find(&growths, "h2o");
    fast.method[2] = "kivi", fast.growth[2] = slow.growth[1];
    fast.noise = 0.3;
    sim_load a = draw(&slow), b = draw(&fast), c = draw(&other);
    int n_differ = 0, n_noisy = 0;
    for (int i = 0; i < 500; i++) {
        near(a.arrival_s[i], 4 * b.arrival_s[i]);
        assert_int_equal(a.prompt[i], b.prompt[i]);
        assert_int_equal(a.answer[2 * i], b.answer[3 * i]);
        assert_int_equal(a.answer[2 * i + 1], b.answer[3 * i + 2]);
        assert_true(a.predicted[2 * i + 1] == (float)a.answer[2 * i + 1]);
        n_noisy += fabs((double)b.predicted[3 * i] / b.answer[3 * i] - 1) > 0.05;
        n_differ += a.arrival_s[i] != c.arrival_s[i];
    }
    assert_int_equal(n_differ, 500);
    assert_true(n_noisy > 350);
    sim_load_free(&a);
    sim_load_free(&b);
    sim_load_free(&c);
    sim_growths_free(&growths);
}

static void noise_is_the_mean_error_of_the_logarithm(void **state) {
    (void)state;
    sim_load_options options = drawn(40000, 1, 6);
    options.noise = 0.3;
    sim_load load = draw(&options);
    double sum = 0;
    for (int i = 0; i < load.n; i++)
        sum += fabs(log((double)load.predicted[i] / load.answer[i]));
    assert_true(fabs(sum / load.n / 0.3 - 1) < 0.02);
    sim_load_free(&load);
    options.most_answer = 100;
    load = draw(&options);
    for (int i = 0; i < load.n; i++)
        assert_true(load.answer[i] == 100 && load.predicted[i] <= 100);
    sim_load_free(&load);
}

/* The study's figures, which the built-in file is made from. */
static void built_in_growth(void **state) {
    (void)state;
    static const struct {
        const char *method;
        double growth_of_grown;
    } study[] = {{"kivi", 1.69}, {"gear", 1.70}, {"h2o", 1.55}, {"stream", 1.76}};
    sim_growths growths;
    assert_int_equal(sim_growths_read(NULL, &growths, NULL), PLEAT_OK);
    assert_int_equal(growths.n, 4);
    for (int i = 0; i < 4; i++) {
        const sim_growth *g = sim_growth_find(&growths, study[i].method);
        double sum = 0;
        int n = 0, n_long = 0, steps = 100000;
        for (int k = 0; k < steps; k++) {
            double x = sim_growth_at(g, (k + 0.5) / steps);
            n += x > 1;
            n_long += x >= 1.5;
            sum += x > 1 ? x : 0;
        }
        assert_true(fabs(sum / n - study[i].growth_of_grown) < 0.005);
        assert_true(n_long > 0.2 * steps);
        assert_true(fabs((double)n / steps - 0.5) < 0.01);
    }
    assert_null(sim_growth_find(&growths, "fp16"));
    near(sim_growth_at(NULL, 0.9), 1);
    sim_growths_free(&growths);
}

/* ---- sweeps ---- */

static void sweep_of(int n_threads, int n_seeds, sim_result *results) {
    static route_replica pool[2];
    static const route_policy policies[] = {ROUTE_RANDOM, ROUTE_POWER_OF_TWO, ROUTE_STATE};
    static sim_case cases[2];
    pool[0] = replica(line, 32, 4000), pool[1] = replica(evicting, 32, 4000);
    for (int i = 0; i < 2; i++)
        cases[i] = (sim_case){"two", pool, 2, drawn(400, 6 + 4 * i, 0), 0.1 * (i + 1)};
    sim_sweep_options options = {
        .policy = policies, .n_policies = 3, .n_seeds = n_seeds, .first_seed = 5, .n_threads = n_threads};
    pleat_error error = {""};
    if (sim_sweep(cases, 2, &options, results, &error))
        fail_msg("%s", error.text);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    sim_result one[6], some[6];
    sweep_of(1, 6, one);
    for (int n_threads = 2; n_threads <= 5; n_threads++) {
        sweep_of(n_threads, 6, some);
        for (int i = 0; i < 6; i++) {
            assert_memory_equal(one[i].seed, some[i].seed, 6 * sizeof(sim_seed));
            assert_true(one[i].ci95 == some[i].ci95);
        }
        sim_results_free(some, 6);
    }
    assert_true(one[0].seed[0].mean_s != one[0].seed[1].mean_s); /* seeds differ */
    assert_true(one[0].mean.mean_s != one[1].mean.mean_s);       /* policies differ */
    assert_true(one[3].mean.mean_s > one[0].mean.mean_s);        /* more load, more delay */
    sweep_of(1, 3, some);                                        /* fewer seeds: the same first ones */
    for (int i = 0; i < 6; i++)
        assert_memory_equal(one[i].seed, some[i].seed, 3 * sizeof(sim_seed));
    sim_results_free(some, 6);
    sim_results_free(one, 6);
}

/* Three seeds with 1, 2, 3 s: mean 2, t(2) x 1 / sqrt 3. Ratios of 2 in each: no spread. */
static void intervals(void **state) {
    (void)state;
    sim_result r[6];
    sweep_of(1, 3, r);
    const sim_result *best = sim_best_usual(r, 3, false), *worst = best == &r[0] ? &r[1] : &r[0];
    assert_true(best->policy != ROUTE_STATE && best->mean.mean_s <= worst->mean.mean_s);
    double mean = (r[0].seed[0].mean_s + r[0].seed[1].mean_s + r[0].seed[2].mean_s) / 3, square = 0;
    for (int i = 0; i < 3; i++)
        square += pow(r[0].seed[i].mean_s - mean, 2);
    near(r[0].mean.mean_s, mean);
    assert_true(fabs(r[0].ci95 / (4.302653 * sqrt(square / 2 / 3)) - 1) < 1e-6);
    for (int i = 0; i < 3; i++) {
        r[1].seed[i] = r[0].seed[i];
        r[1].seed[i].mean_s *= 2;
        r[1].seed[i].p99_s *= i == 1 ? 4 : 1;
    }
    sim_gain gain = sim_gain_mean(&r[0], &r[1]);
    assert_true(fabs(gain.times - 2) < 1e-9 && fabs(gain.low - 2) < 1e-9 && fabs(gain.high - 2) < 1e-9);
    gain = sim_gain_p99(&r[0], &r[1]);
    assert_true(fabs(gain.times - cbrt(4)) < 1e-9);
    double half = 4.302653 * log(4) / 3; /* 0, log 4, 0: deviation log 4 / sqrt 3 */
    assert_true(fabs(gain.high / gain.times / exp(half) - 1) < 1e-6);
    assert_true(fabs(gain.low * gain.high / gain.times / gain.times - 1) < 1e-9);
    sim_results_free(r, 6);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What a sweep says of a run is what the run's answers say. */
static void a_sweep_sums_up_its_runs(void **state) {
    (void)state;
    sim_result r[6];
    double delay_s[400], mean_s = 0, first_s = 0, tokens = 0;
    sweep_of(1, 2, r);
    const sim_case *c = r[1].of;
    sim_load_options options = c->load;
    options.seed = 6; /* the second seed */
    sim_load load = draw(&options);
    sim_answer *a = simulate(c->replica, c->n_replicas, &load, &(sim_run_options){.policy = r[1].policy, .seed = 6});
    for (int i = 0; i < 400; i++) {
        delay_s[i] = a[i].end_s - load.arrival_s[i];
        mean_s += delay_s[i] / 400;
        first_s += (a[i].first_s - load.arrival_s[i]) / 400;
        tokens += a[i].tokens / 400.0;
    }
    qsort(delay_s, 400, sizeof(*delay_s), by_value);
    near(r[1].seed[1].mean_s, mean_s);
    near(r[1].seed[1].first_s, first_s);
    near(r[1].seed[1].tokens, tokens);
    near(r[1].seed[1].p50_s, delay_s[199]); /* nearest rank */
    near(r[1].seed[1].p99_s, delay_s[395]);
    free(a);
    sim_load_free(&load);
    sim_results_free(r, 6);
}

/* The best in the mean need not be the best at the 99th percentile. */
static void the_best_is_by_mean_or_by_p99(void **state) {
    (void)state;
    const sim_result r[] = {{.policy = ROUTE_BOTH, .mean = {.mean_s = 1, .p99_s = 1}},
                            {.policy = ROUTE_ROUND_ROBIN, .mean = {.mean_s = 2, .p99_s = 9}},
                            {.policy = ROUTE_LEAST_TOKENS, .mean = {.mean_s = 3, .p99_s = 8}},
                            {.policy = ROUTE_STATE, .mean = {.mean_s = 1, .p99_s = 1}}};
    assert_ptr_equal(sim_best_usual(r, 4, false), &r[1]);
    assert_ptr_equal(sim_best_usual(r, 4, true), &r[2]);
    assert_null(sim_best_usual(r, 1, true));
}

static void routers_share_or_do_not(void **state) {
    (void)state;
    sim_load_options options = drawn(3000, 12, 3);
    sim_load load = draw(&options);
    route_replica pool[4];
    double mean[4] = {0};
    for (int i = 0; i < 4; i++)
        pool[i] = replica(line, 64, 1e6);
    static const sim_run_options runs[4] = {{ROUTE_LEAST_REQUESTS, 1, 1, 0, false},
                                            {ROUTE_LEAST_REQUESTS, 1, 4, 0, false},
                                            {ROUTE_LEAST_REQUESTS, 1, 4, 0, true},
                                            {ROUTE_LEAST_REQUESTS, 1, 1, 30, false}};
    for (int k = 0; k < 4; k++) {
        sim_answer *a = simulate(pool, 4, &load, &runs[k]);
        for (int i = 0; i < load.n; i++)
            mean[k] += (a[i].end_s - load.arrival_s[i]) / load.n;
        free(a);
    }
    assert_true(fabs(mean[1] / mean[0] - 1) < 0.01); /* told of each other at once, they act as one */
    assert_true(mean[2] > mean[1]);
    assert_true(mean[3] != mean[0]); /* ends heard of 30 s late */
    sim_load_free(&load);
}

/* ---- files ---- */

static const char *file_of(const char *tag, const char *text) {
    const char *path = env_temp(tag);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static void check_trace(const char *text, int n, const double *at_s, const int *prompt, const int *answer) {
    sim_trace t;
    pleat_error error = {""};
    const char *path = file_of("trace", text);
    if (sim_trace_read(path, &t, &error))
        fail_msg("%s", error.text);
    assert_int_equal(t.n, n);
    for (int i = 0; i < n; i++) {
        assert_true(fabs(t.row[i].at_s - at_s[i]) < 1e-6);
        assert_int_equal(t.row[i].size.prompt, prompt[i]);
        assert_int_equal(t.row[i].size.answer, answer[i]);
    }
    sim_trace_free(&t);
    remove(path);
}

static void traces_of_three_forms(void **state) {
    (void)state;
    check_trace("TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.9799600,4808,10\r\n"
                "2023-11-17 00:00:01,3180,0\r\n",
                2, (const double[]){0, 1.02004}, (const int[]){4808, 3180}, (const int[]){10, 1});
    check_trace("timestamp_ms,input_tokens,output_tokens\n3000,5,6\n0,1,2\n3000,7,8\n", 3, (const double[]){0, 3, 3},
                (const int[]){1, 5, 7}, (const int[]){2, 6, 8});
    check_trace("{\"timestamp\": 1000, \"input_length\": 5, \"output_length\": 6, \"hash_ids\": [1, 2]}\n\n"
                "{\"timestamp\": 2500, \"input_length\": 7, \"output_length\": 8}\n",
                2, (const double[]){0, 1.5}, (const int[]){5, 7}, (const int[]){6, 8});
}

static void check_bad_trace(const char *text, const char *expected) {
    sim_trace t;
    pleat_error error = {""};
    const char *path = file_of("bad", text);
    assert_int_equal(sim_trace_read(path, &t, &error), PLEAT_EINPUT);
    if (!strstr(error.text, expected) || !strstr(error.text, path))
        fail_msg("\"%s\" does not name the file or hold \"%s\"", error.text, expected);
    remove(path);
}

static void bad_traces_are_named_by_line(void **state) {
    (void)state;
    sim_trace t;
    pleat_error error;
    static const char azure[] = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    char text[400];
    snprintf(text, sizeof(text), "%s2023-11-16 18:15:46,1,1\n16.11.2023,1,1\n", azure);
    check_bad_trace(text, "line 3: TIMESTAMP is \"16.11.2023\"");
    snprintf(text, sizeof(text), "%s2023-11-16 18:15:46.5x,1,1\n", azure);
    check_bad_trace(text, "line 2: TIMESTAMP");
    snprintf(text, sizeof(text), "%s2023-11-16 18:15:46,1,-5\n", azure);
    check_bad_trace(text, "line 2: ");
    snprintf(text, sizeof(text), "%s2023-11-16 18:15:46,1\n", azure);
    check_bad_trace(text, "line 2: ");
    check_bad_trace(azure, "holds no request");
    check_bad_trace("timestamp_ms,input_tokens,output_tokens\n1,2,3\n1,x,3\n", "line 3: input_tokens");
    check_bad_trace("timestamp_ms,input_tokens\n1,2\n", "output_tokens");
    check_bad_trace("{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 6}\n{\"timestamp\": 2\n", "line 2: not "
                                                                                                          "JSON");
    check_bad_trace("{\"timestamp\": 1, \"input_length\": 5}\n", "line 1: output_length is missing");
    check_bad_trace("{\"timestamp\": -1, \"input_length\": 5, \"output_length\": 6}\n", "line 1: timestamp is -1");
    check_bad_trace("a,b\n1,2\n", "line 1: not a trace");
    check_bad_trace("", "line 1: not a trace");
    assert_int_equal(sim_trace_read("/no/such/file", &t, &error), PLEAT_EIO);
    assert_non_null(strstr(error.text, "/no/such/file"));
}

/* A trace keeps its own sizes and pattern; a rate stretches it. */
static void traces_become_loads(void **state) {
    (void)state;
    sim_trace_row rows[4] = {{0, {10, 20}, 0}, {1, {11, 21}, 1}, {1, {12, 22}, 2}, {6, {13, 23}, 3}};
    sim_trace trace = {rows, 4, 4};
    sim_load_options options = {.n = 100, .n_methods = 1, .method = {"plain"}, .trace = &trace, .variation = 1};
    sim_load load = draw(&options);
    assert_int_equal(load.n, 4);
    for (int i = 0; i < 4; i++) {
        near(load.arrival_s[i], rows[i].at_s);
        assert_int_equal(load.prompt[i], rows[i].size.prompt);
        assert_int_equal(load.answer[i], rows[i].size.answer);
    }
    sim_load_free(&load);
    options.rate = 1; /* three gaps in three seconds */
    load = draw(&options);
    near(load.arrival_s[3], 3);
    near(load.arrival_s[1], 0.5);
    sim_load_free(&load);
    options.n = 2; /* windows by seed */
    bool seen[3] = {false};
    for (options.seed = 0; options.seed < 60; options.seed++) {
        load = draw(&options);
        near(load.arrival_s[0], 0);
        seen[load.prompt[0] - 10] = true;
        sim_load_free(&load);
    }
    assert_true(seen[0] && seen[1] && seen[2]);
}

static void sharegpt_that_breaks_off(void **state) {
    (void)state;
    static const char whole[] =
        "[ {\"id\": \"a\", \"conversations\": [{\"from\": \"human\", \"value\": \"12345\"},"
        " {\"from\": \"gpt\", \"value\": \"a } \\\" ] {\"}, {\"from\": \"human\", \"value\": \"more\"}]},\n"
        " {\"id\": \"b\", \"conversations\": [{\"from\": \"gpt\", \"value\": \"first\"},"
        " {\"from\": \"human\", \"value\": \"second\"}]},\n"
        " {\"id\": \"c\", \"conversations\": [{\"from\": \"human\", \"value\": \"to\"},"
        " {\"from\": \"human\", \"value\": \"himself\"}]},\n"
        " {\"id\": \"g\", \"conversations\": []},\n"
        " {\"id\": \"d\", \"conversations\": [{\"from\": \"human\", \"value\": \"12345678901234567890\"},"
        " {\"from\": \"gpt\", \"value\": \"long\"}]},\n"
        " {\"id\": \"e\", \"conversations\": [{\"from\": \"human\", \"value\": "
        "\"\xC3\xA4\xC3\xB6\xC3\xBC\xE2\x82\xAC\"},"
        " {\"from\": \"gpt\", \"value\": \"ok\"}]}";
    char text[2000];
    sim_sizes s;
    pleat_error error = {""};
    snprintf(text, sizeof(text), "%s]", whole);
    const char *path = file_of("sharegpt", text);
    assert_int_equal(sim_sizes_sharegpt(path, 4, &s, &error), PLEAT_OK);
    assert_int_equal(s.n, 2);
    assert_true(s.size[0].prompt == 2 && s.size[0].answer == 3); /* 5 and 9 characters */
    assert_true(s.size[1].prompt == 1 && s.size[1].answer == 1); /* four, of more bytes */
    assert_string_equal(s.note, "2 of 6 conversations: 3 begin otherwise, 1 are too long");
    sim_sizes_free(&s);
    snprintf(text, sizeof(text), "%s,\n {\"id\": \"f\", \"conversations\": [{\"from\": \"human\", \"value\": \"cut }]}",
             whole);
    file_of("sharegpt", text);
    path = file_of("sharegpt2", text);
    assert_int_equal(sim_sizes_sharegpt(path, 0, &s, &error), PLEAT_OK);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.note,
                        "3 of 6 conversations: 3 begin otherwise, 0 are too long; the file breaks off after them");
    sim_sizes_free(&s);
    remove(path);
}

static void check_bad_sharegpt(const char *text, const char *expected) {
    sim_sizes s;
    pleat_error error = {""};
    const char *path = file_of("badgpt", text);
    assert_int_equal(sim_sizes_sharegpt(path, 0, &s, &error), PLEAT_EINPUT);
    if (!strstr(error.text, expected))
        fail_msg("\"%s\" does not hold \"%s\"", error.text, expected);
    remove(path);
}

static void bad_sharegpt_files(void **state) {
    (void)state;
    check_bad_sharegpt("", "is empty");
    check_bad_sharegpt("{}", "does not begin with a list");
    check_bad_sharegpt("[]", "holds no conversation");
    check_bad_sharegpt("[1]", "an object is expected at byte 1");
    check_bad_sharegpt("[{\"a\": 1}]", "conversation 1 has no list");
    check_bad_sharegpt("[{\"conversations\": [}]", "conversation 1, at byte");
    check_bad_sharegpt("[{\"conversations\": [{\"from\": \"human\"", "holds no conversation");
}

static void sizes_and_growth_files(void **state) {
    (void)state;
    sim_sizes s;
    sim_growths g;
    pleat_error error = {""};
    const char *path = file_of("sizes", "answer_tokens,prompt_tokens\n7,5\n");
    assert_int_equal(sim_sizes_read(path, &s, &error), PLEAT_OK);
    assert_true(s.n == 1 && s.size[0].prompt == 5 && s.size[0].answer == 7);
    sim_sizes_free(&s);
    path = file_of("sizes2", "prompt_tokens,answer_tokens\n5,7\n5,0\n");
    assert_int_equal(sim_sizes_read(path, &s, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "line 3: answer_tokens"));
    path = file_of("growth", "method,quantile,growth\nx,0,0.5\ny,0.5,3\nx,1,2\n");
    assert_int_equal(sim_growths_read(path, &g, &error), PLEAT_OK);
    near(sim_growth_at(sim_growth_find(&g, "x"), 0.5), 1); /* half way between 0.5 and 2 */
    near(sim_growth_at(sim_growth_find(&g, "y"), 0.9), 3);
    sim_growths_free(&g);
    path = file_of("growth2", "method,quantile,growth\nx,0.5,2\nx,0.4,3\n");
    assert_int_equal(sim_growths_read(path, &g, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "line 3: quantile 0.4"));
    path = file_of("growth3", "method,quantile,growth\nx,0.5,0\n");
    assert_int_equal(sim_growths_read(path, &g, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "line 2: growth"));
    path = file_of("growth4", "method,quantile,growth\n");
    assert_int_equal(sim_growths_read(path, &g, &error), PLEAT_EINPUT);
}

/* ---- keeping ---- */

static void results_come_back_from_a_store(void **state) {
    (void)state;
    sim_result r[6];
    store *db;
    store_begun run;
    sim_kept kept;
    pleat_error error = {""};
    store_run identity = {.what = "simulate",
                          .model_name = "",
                          .model_hash = "",
                          .machine = "",
                          .level = "",
                          .version = PLEAT_VERSION,
                          .options = "{}"};
    sweep_of(1, 4, r);
    assert_int_equal(store_open(STORE_IN_MEMORY, true, &db, &error), PLEAT_OK);
    assert_int_equal(store_run_begin(db, &identity, STORE_ANEW, &run, &error), PLEAT_OK);
    assert_int_equal(sim_kept_read(db, run.id, &kept, &error), PLEAT_OK);
    assert_int_equal(kept.n, 0);
    sim_kept_free(&kept);
    assert_int_equal(sim_results_put(db, run.id, r, 6, &error), PLEAT_OK);
    assert_int_equal(sim_results_put(db, run.id, r, 6, &error), PLEAT_OK); /* replaces */
    if (sim_kept_read(db, run.id, &kept, &error))
        fail_msg("%s", error.text);
    assert_int_equal(kept.n, 6);
    assert_int_equal(kept.n_cases, 2);
    for (int i = 0; i < 6; i++) {
        const sim_result *k = &kept.results[i];
        assert_int_equal(k->policy, r[i].policy);
        assert_string_equal(k->of->method, r[i].of->method);
        assert_true(k->of->load.rate == r[i].of->load.rate && k->of->utilisation == r[i].of->utilisation);
        assert_memory_equal(k->seed, r[i].seed, 4 * sizeof(sim_seed));
        assert_true(k->mean.mean_s == r[i].mean.mean_s && k->ci95 == r[i].ci95);
    }
    sim_kept_free(&kept);
    store_simulation bad = {"pool", "no-such-policy", 0.5, 1, 1, 1, 1, 1, 1, (double[9]){0}};
    assert_int_equal(store_simulations_put(db, run.id, &bad, 1, &error), PLEAT_OK);
    assert_int_equal(sim_kept_read(db, run.id, &kept, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "no-such-policy"));
    store_close(db);
    sim_results_free(r, 6);
}

/* ---- pools ---- */

static void pools_by_spec(void **state) {
    (void)state;
    sim_engine engine = sim_engine_default();
    static sim_fleet fleet;
    pleat_error error = {""};
    engine.directory = "tests/data/profile";
    engine.base = "plain";
    assert_int_equal(sim_engine_set(&engine, "kv", "packed=0.25", false, &error), PLEAT_OK);
    assert_int_equal(sim_engine_set(&engine, "budget", "small=64,packed=1000", true, &error), PLEAT_OK);
    if (sim_fleet_open(&engine, "packed", &fleet, &error))
        fail_msg("%s", error.text);
    assert_int_equal(fleet.n, 4);
    assert_int_equal(fleet.replica[0].method, 0);
    assert_int_equal(fleet.replica[3].method, 1);
    near(fleet.replica[1].token_bytes, 0.25 * engine.token_bytes);
    near(fleet.replica[1].most_kept_tokens, 1000);
    sim_fleet_close(&fleet);
    if (sim_fleet_open(&engine, "plain*2,small", &fleet, &error))
        fail_msg("%s", error.text);
    assert_int_equal(fleet.n, 3);
    assert_int_equal(fleet.replica[1].method, 0);
    assert_int_equal(fleet.replica[2].method, 1);
    near(predict_reads(fleet.replica[2].profile, 500), 64);
    sim_fleet_close(&fleet);
    engine.calibrate = "tests/data/predict/measured.csv"; /* the base's factors hold for every method */
    if (sim_fleet_open(&engine, "packed", &fleet, &error))
        fail_msg("%s", error.text);
    predict_profile_options base = predict_profile_options_of(fleet.profile[0]),
                            other = predict_profile_options_of(fleet.profile[1]);
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        assert_true(fabs(base.terms[stage].operators - 1) > 0.01);
        near(other.terms[stage].operators, base.terms[stage].operators);
        near(other.terms[stage].attention, base.terms[stage].attention);
    }
    sim_fleet_close(&fleet);
    engine.calibrate = NULL;
    static const char *const bad[][2] = {{"plain*0", "\"plain*0\" is not"},    {"plain,,small", "\"\" is not"},
                                         {"plain*2x", "\"plain*2x\" is not"},  {"", "\"\" is not"},
                                         {"nothing", "attention-nothing.csv"}, {"plain*400", "is not METHOD"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_not_equal(sim_fleet_open(&engine, bad[i][0], &fleet, &error), PLEAT_OK);
        if (!strstr(error.text, bad[i][1]))
            fail_msg("\"%s\" does not hold \"%s\"", error.text, bad[i][1]);
    }
    assert_int_equal(sim_engine_set(&engine, "kv", "packed", false, &error), PLEAT_EINPUT);
    assert_int_equal(sim_engine_set(&engine, "kv", "packed=0", false, &error), PLEAT_EINPUT);
    assert_int_equal(sim_engine_set(&engine, "budget", "packed=1.5", true, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "--budget: packed is 1.5"));
}

static void the_study_s_methods_are_known(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double share;
        int budget;
    } known[] = {{"kivi", 0.32, 0}, {"gear", 0.35, 0}, {"h2o", 1, 512}, {"stream", 1, 512}};
    char directory[4200];
    static sim_fleet fleet;
    pleat_error error = {""};
    sim_engine engine = sim_engine_default();
    snprintf(directory, sizeof(directory), "%s", env_reference("paper-data/throughput/profile/operators.csv"));
    *strrchr(directory, '/') = 0;
    engine.directory = directory;
    for (int i = 0; i < 4; i++) {
        if (sim_fleet_open(&engine, known[i].name, &fleet, &error))
            fail_msg("%s", error.text);
        near(fleet.replica[1].token_bytes, known[i].share * 524288);
        near(fleet.replica[1].most_kept_tokens, known[i].budget);
        sim_fleet_close(&fleet);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_request),
        cmocka_unit_test(prompts_are_cut_by_the_budget),
        cmocka_unit_test(a_step_under_way_is_not_joined),
        cmocka_unit_test(evicting_methods_read_their_budget),
        cmocka_unit_test(one_at_a_time_is_a_queue),
        cmocka_unit_test(poisson_and_equal_work_is_m_d_1),
        cmocka_unit_test(littles_law),
        cmocka_unit_test(every_request_ends_once),
        cmocka_unit_test(the_newest_is_put_back),
        cmocka_unit_test(a_hundredth_of_the_memory_is_kept_back),
        cmocka_unit_test(what_cannot_fit_is_refused_or_cut),
        cmocka_unit_test(full_batches_wait),
        cmocka_unit_test(capacity_is_what_is_done_without_pause),
        cmocka_unit_test(arrivals_have_their_rate_and_variation),
        cmocka_unit_test(seeds_are_paired),
        cmocka_unit_test(noise_is_the_mean_error_of_the_logarithm),
        cmocka_unit_test(built_in_growth),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(intervals),
        cmocka_unit_test(a_sweep_sums_up_its_runs),
        cmocka_unit_test(the_best_is_by_mean_or_by_p99),
        cmocka_unit_test(routers_share_or_do_not),
        cmocka_unit_test(traces_of_three_forms),
        cmocka_unit_test(bad_traces_are_named_by_line),
        cmocka_unit_test(traces_become_loads),
        cmocka_unit_test(sharegpt_that_breaks_off),
        cmocka_unit_test(bad_sharegpt_files),
        cmocka_unit_test(sizes_and_growth_files),
        cmocka_unit_test(results_come_back_from_a_store),
        cmocka_unit_test(pools_by_spec),
        cmocka_unit_test(the_study_s_methods_are_known),
    };
    return cmocka_run_group_tests(tests, open_profiles, close_profiles);
}
