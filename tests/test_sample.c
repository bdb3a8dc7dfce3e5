/* test_sample.c - one token from logits: every filter and penalty against plain arithmetic, the draw as a pure function
 * of seed and position, its distribution by chi-square, and logits that are no numbers refused. */
#include "model/sample.h"
#include "base/rng.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static pleat_sampling with(float temperature) {
    pleat_sampling p = pleat_sampling_default();
    p.temperature = temperature;
    return p;
}

/* Samples from a copy of the logits. */
static int32_t sample(int n, const float *logits, pleat_sampling p, const int32_t *history, int n_history) {
    sampler *s;
    int32_t token = -1;
    float *copy = malloc((size_t)n * sizeof(*copy));
    pleat_error error;
    memcpy(copy, logits, (size_t)n * sizeof(*copy));
    assert_int_equal(sampler_open(n, &s, NULL), PLEAT_OK);
    if (sample_token(s, &p, copy, history, n_history, &token, &error))
        fail_msg("%s", error.text);
    sampler_close(s);
    free(copy);
    return token;
}

/* ---- greedy ---- */

static void greedy_takes_the_first_of_the_largest(void **state) {
    (void)state;
    assert_int_equal(sample(5, (float[]){1, 3, 2, 3, 3}, with(0), NULL, 0), 1);
    assert_int_equal(sample(3, (float[]){-2, -2, -2}, with(0), NULL, 0), 0);
    assert_int_equal(sample(3, (float[]){-INFINITY, -5, -INFINITY}, with(0), NULL, 0), 1);
    assert_int_equal(sample(1, (float[]){7}, with(0), NULL, 0), 0);
    pleat_sampling p = with(0); /* every penalty and filter is off */
    p.repeat_penalty = 50;
    p.presence_penalty = 90;
    p.frequency_penalty = 90;
    p.top_k = 1;
    p.top_p = 0;
    p.min_p = 1;
    p.seed = 99;
    assert_int_equal(sample(3, (float[]){1, 3, 2}, p, (int32_t[]){1, 1}, 2), 1);
    assert_true(pleat_sampling_default().temperature == 0);
}

/* ---- against a plain sampler ---- */

typedef struct pair {
    double logit;
    int id;
} pair;

static int by_logit(const void *a, const void *b) {
    const pair *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

/* The same by a full sort and sums in order; *near: a boundary lies within rounding, so that the answer may differ. */
static int plain_sample(int n, const float *logits, const pleat_sampling *p, int n_history, bool *near) {
    pair *list = malloc((size_t)n * sizeof(*list));
    double sum = 0, kept = 0, *weight = malloc((size_t)n * sizeof(*weight));
    for (int i = 0; i < n; i++)
        list[i] = (pair){(double)logits[i], i};
    qsort(list, (size_t)n, sizeof(*list), by_logit);
    if (p->top_k && p->top_k < n)
        n = p->top_k;
    for (int i = 0; i < n; i++)
        sum += weight[i] = exp((list[i].logit - list[0].logit) / (double)p->temperature);
    int n_kept = 0;
    *near = false;
    while (n_kept < n && (n_kept == 0 || (weight[n_kept] >= (double)p->min_p && kept < (double)p->top_p * sum))) {
        *near = *near || (n_kept && fabs(kept - (double)p->top_p * sum) < 1e-9 * sum);
        kept += weight[n_kept++];
    }
    double at = rng_uniform(p->seed, 0, (uint64_t)n_history) * kept;
    int token = list[0].id;
    for (int i = 0; i < n_kept; i++) {
        at -= weight[i];
        *near = *near || fabs(at) < 1e-9 * kept;
        if (at < 0) {
            token = list[i].id;
            break;
        }
    }
    free(list);
    free(weight);
    return token;
}

static void filters_are_those_of_a_plain_sampler(void **state) {
    (void)state;
    enum { MOST = 3000, ROUNDS = 1500 };
    static float logits[MOST];
    int n_checked = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t draw = rng_u64(11, round, 0);
        int n = 1 + (int)(draw % MOST);
        pleat_sampling p = with((float)(0.1 + 2 * rng_uniform(11, round, 1)));
        for (int i = 0; i < n; i++) /* coarse, so that there are ties */
            logits[i] = (float)floor(8 * rng_normal(12, round, (uint64_t)i)) / 4;
        p.top_k = draw >> 32 & 1 ? (int)(draw >> 40) % (n + 2) : 0;
        p.top_p = draw >> 33 & 1 ? (float)rng_uniform(11, round, 2) : 1;
        p.min_p = draw >> 34 & 1 ? (float)rng_uniform(11, round, 3) / 4 : 0;
        p.seed = draw;
        bool near;
        int want = plain_sample(n, logits, &p, (int)round, &near);
        if (near)
            continue;
        n_checked++;
        static int32_t history[ROUNDS];
        int32_t got = sample(n, logits, p, history, (int)round);
        if (got != want)
            fail_msg("round %d: %d of %d, not %d (top-k %d, top-p %g, min-p %g)", (int)round, (int)got, n, want,
                     p.top_k, (double)p.top_p, (double)p.min_p);
    }
    assert_true(n_checked > ROUNDS * 9 / 10);
}

/* Which of the first n tokens are ever drawn, as bits. */
static unsigned drawn(int n, const float *logits, pleat_sampling p) {
    static int32_t history[4000];
    unsigned seen = 0;
    for (int position = 0; position < 4000; position++)
        seen |= 1u << sample(n, logits, p, history, position);
    return seen;
}

static void small_cases_by_hand(void **state) {
    (void)state;
    /* probabilities 0.5, 0.25, 0.125, 0.125 */
    const float logits[] = {logf(4), logf(1), logf(2), logf(1)};
    pleat_sampling p = with(1);
    assert_int_equal(drawn(4, logits, p), 15);
    p.top_k = 1;
    assert_int_equal(drawn(4, logits, p), 1);
    p.top_k = 2;
    assert_int_equal(drawn(4, logits, p), 1 | 4);
    p.top_k = 3; /* the tie goes to the smaller id */
    assert_int_equal(drawn(4, logits, p), 1 | 4 | 2);
    p.top_k = 5;
    assert_int_equal(drawn(4, logits, p), 15);
    p = with(1);
    p.top_p = 0;
    assert_int_equal(drawn(4, logits, p), 1);
    p.top_p = 0.4f;
    assert_int_equal(drawn(4, logits, p), 1);
    p.top_p = 0.6f;
    assert_int_equal(drawn(4, logits, p), 1 | 4);
    p.top_p = 0.8f;
    assert_int_equal(drawn(4, logits, p), 1 | 4 | 2);
    p = with(1);
    p.min_p = 1;
    assert_int_equal(drawn(4, logits, p), 1);
    p.min_p = 0.4f;
    assert_int_equal(drawn(4, logits, p), 1 | 4);
    p.min_p = 0.2f;
    assert_int_equal(drawn(4, logits, p), 15);
    p.temperature = 0.25f; /* 0.2 of the best: only tokens within 1/16 of it stay at this temperature */
    assert_int_equal(drawn(4, logits, p), 1);
    p = with(1e-3f);
    assert_int_equal(drawn(4, logits, p), 1);
    assert_int_equal(drawn(3, (const float[]){0, -INFINITY, 0}, with(100)), 1 | 4);
}

/* ---- penalties ---- */

/* The logits as the penalties leave them. */
static void penalised(pleat_sampling p, float *logits, int n, const int32_t *history, int n_history) {
    sampler *s;
    int32_t token;
    assert_int_equal(sampler_open(n, &s, NULL), PLEAT_OK);
    assert_int_equal(sample_token(s, &p, logits, history, n_history, &token, NULL), PLEAT_OK);
    sampler_close(s);
}

static void penalties_are_exact(void **state) {
    (void)state;
    pleat_sampling p = with(1);
    float x[] = {2, -2, 0, 4, 8};
    p.repeat_penalty = 2;
    p.presence_penalty = 0.5f;
    penalised(p, x, 5, (int32_t[]){0, 1, 0, 2, 0}, 5); /* once for each token, however often it stands there */
    static const float want[] = {0.5f, -4.5f, -0.5f, 4, 8};
    assert_memory_equal(x, want, sizeof(want));
    p.frequency_penalty = 0.25f; /* once for each time that a token stands there */
    float often[] = {2, -2, 0, 4, 8};
    penalised(p, often, 5, (int32_t[]){0, 1, 0, 2, 0}, 5);
    assert_memory_equal(often, ((float[]){-0.25f, -4.75f, -0.75f, 4, 8}), sizeof(often));
    p.frequency_penalty = 0;
    float y[] = {2, -2, 3};
    penalised(with(1), y, 3, (int32_t[]){0, 1, 2}, 3);
    assert_memory_equal(y, ((float[]){2, -2, 3}), sizeof(y));
    int32_t history[70]; /* token 0 at the beginning, 65 places back; token 1 just 64 back */
    for (int i = 0; i < 70; i++)
        history[i] = 2;
    history[5] = 0;
    history[6] = 1;
    float z[] = {1, 1, 1};
    p.repeat_penalty = 1;
    penalised(p, z, 3, history, 70);
    assert_memory_equal(z, ((float[]){1, 0.5f, 0.5f}), sizeof(z));
    float w[] = {1, 1};
    penalised(p, w, 2, (int32_t[]){-1, 2, INT32_MAX, INT32_MIN}, 4); /* ids of another vocabulary: passed over */
    assert_memory_equal(w, ((float[]){1, 1}), sizeof(w));
    p.presence_penalty = -1; /* a reward */
    penalised(p, w, 2, (int32_t[]){1}, 1);
    assert_memory_equal(w, ((float[]){1, 2}), sizeof(w));
}

/* ---- the draw ---- */

static void draws_depend_on_seed_and_position_alone(void **state) {
    (void)state;
    enum { N = 1000, POSITIONS = 300 };
    static float logits[N], other[N];
    int32_t zeros[POSITIONS] = {0}, ones[POSITIONS];
    sampler *s;
    int n_other_seed = 0, n_other_place = 0;
    for (int i = 0; i < N; i++) {
        logits[i] = (float)rng_normal(1, 0, (uint64_t)i);
        other[i] = (float)rng_normal(2, 0, (uint64_t)i);
    }
    for (int i = 0; i < POSITIONS; i++)
        ones[i] = i;
    assert_int_equal(sampler_open(N, &s, NULL), PLEAT_OK);
    for (int i = 1; i < POSITIONS; i++) {
        pleat_sampling p = with(1);
        p.seed = 5;
        int32_t want = sample(N, logits, p, zeros, i), got, moved;
        float copy[N];
        memcpy(copy, other, sizeof(copy)); /* another draw before, another history */
        assert_int_equal(sample_token(s, &p, copy, ones, i, &got, NULL), PLEAT_OK);
        memcpy(copy, logits, sizeof(copy));
        assert_int_equal(sample_token(s, &p, copy, ones, i, &got, NULL), PLEAT_OK);
        assert_int_equal(got, want);
        moved = sample(N, logits, p, zeros, i - 1);
        n_other_place += moved != want;
        p.seed = 6;
        n_other_seed += sample(N, logits, p, zeros, i) != want;
    }
    sampler_close(s);
    assert_true(n_other_seed > POSITIONS * 9 / 10 && n_other_place > POSITIONS * 9 / 10);
}

/* Pearson's statistic of 20,000 draws against probabilities p [n]. */
static double chi_square(int n, const float *logits, pleat_sampling sampling, const double *p) {
    enum { DRAWS = 20000 };
    static int32_t history[DRAWS];
    int count[16] = {0};
    double sum = 0;
    for (int position = 0; position < DRAWS; position++)
        count[sample(n, logits, sampling, history, position)]++;
    for (int i = 0; i < n; i++) {
        if (p[i] == 0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        double off = count[i] - p[i] * DRAWS;
        sum += off * off / (p[i] * DRAWS);
    }
    return sum;
}

/* The bound is the 1 - 1e-4 quantile of chi-square with 7 degrees of freedom; the seeds are fixed. */
static void draws_have_the_distribution_of_the_softmax(void **state) {
    (void)state;
    const float logits[] = {0, 1, -1, 2, 0.5f, -2, 1.5f, 0.25f};
    static const float temperatures[] = {0.5f, 1, 3};
    for (int t = 0; t < 3; t++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            double p[8], sum = 0;
            pleat_sampling sampling = with(temperatures[t]);
            sampling.seed = seed;
            for (int i = 0; i < 8; i++)
                sum += p[i] = exp((double)logits[i] / (double)temperatures[t]);
            for (int i = 0; i < 8; i++)
                p[i] /= sum;
            assert_true(chi_square(8, logits, sampling, p) < 29.88);
            sampling.top_k = 3; /* 3, 6 and 1 stay */
            sum = p[3] + p[6] + p[1];
            for (int i = 0; i < 8; i++)
                p[i] = i == 3 || i == 6 || i == 1 ? p[i] / sum : 0;
            assert_true(chi_square(8, logits, sampling, p) < 29.88);
        }
}

/* ---- refused ---- */

static void refused(pleat_sampling p, const float *logits, int n, const char *word) {
    sampler *s;
    int32_t token = -7;
    float copy[8];
    pleat_error error = {""};
    memcpy(copy, logits, (size_t)n * sizeof(*copy));
    assert_int_equal(sampler_open(n, &s, NULL), PLEAT_OK);
    assert_int_equal(sample_token(s, &p, copy, NULL, 0, &token, &error), PLEAT_EINPUT);
    assert_int_equal(token, -7);
    if (!strstr(error.text, word))
        fail_msg("\"%s\" is not in: %s", word, error.text);
    sampler_close(s);
}

static void logits_that_are_no_numbers_are_refused(void **state) {
    (void)state;
    for (int greedy = 0; greedy < 2; greedy++) {
        pleat_sampling p = with(greedy ? 0 : 0.7f);
        p.top_k = 2;
        refused(p, (const float[]){1, 2, NAN}, 3, "the logit of token 2 is not a number");
        refused(p, (const float[]){-NAN, 2, 1}, 3, "the logit of token 0 is not a number");
        refused(p, (const float[]){1, INFINITY, 0}, 3, "the largest logit (token 1) is not finite");
        refused(p, (const float[]){-INFINITY, -INFINITY}, 2, "is not finite");
    }
}

static void parameters_out_of_range_are_named(void **state) {
    (void)state;
    const float logits[] = {1, 2};
    pleat_sampling p;
#define BAD(field, value, word)                                                                                        \
    p = with(1);                                                                                                       \
    p.field = value;                                                                                                   \
    refused(p, logits, 2, word)
    BAD(temperature, -1, "temperature is -1");
    BAD(temperature, NAN, "temperature is nan");
    BAD(temperature, INFINITY, "temperature is inf");
    BAD(top_k, -1, "top_k is -1");
    BAD(top_p, 1.1f, "top_p is 1.1");
    BAD(top_p, -0.1f, "top_p is -0.1");
    BAD(top_p, NAN, "top_p is nan");
    BAD(min_p, 2, "min_p is 2");
    BAD(repeat_penalty, 0, "repeat_penalty is 0");
    BAD(repeat_penalty, NAN, "repeat_penalty is nan");
    BAD(presence_penalty, 1e30f, "presence_penalty is 1e+30");
    BAD(frequency_penalty, -101, "frequency_penalty is -101");
#undef BAD
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_largest),
        cmocka_unit_test(filters_are_those_of_a_plain_sampler),
        cmocka_unit_test(small_cases_by_hand),
        cmocka_unit_test(penalties_are_exact),
        cmocka_unit_test(draws_depend_on_seed_and_position_alone),
        cmocka_unit_test(draws_have_the_distribution_of_the_softmax),
        cmocka_unit_test(logits_that_are_no_numbers_are_refused),
        cmocka_unit_test(parameters_out_of_range_are_named),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
