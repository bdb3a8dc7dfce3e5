/* test_predict.c - the throughput predictor: the formula on a profile small enough to do by hand (tests/data/predict),
 * fits that find what made the points, the store, bad files, and the published data where it is. */
#include "predict/cases.h"
#include "predict/grid.h"
#include "support/env.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

#define SMALL "tests/data/predict"
static const double close_to = 1e-9;

static predict_profile *small(const predict_profile_options *options) {
    predict_profile *p = NULL;
    pleat_error error = {""};
    predict_profile_load(SMALL, "plain", options, &p, &error);
    assert_string_equal(error.text, "");
    return p;
}

static double decode_ms(const predict_profile *p, int batch, double reads) {
    return predict_step_ms(p, &(predict_step){.decode_batch = batch, .decode_reads = reads});
}

static double prefill_ms(const predict_profile *p, int n_seq, int tokens, int context) {
    predict_chunk chunk = {n_seq, tokens, context};
    return predict_step_ms(p, &(predict_step){.chunk = &chunk, .n_chunk = 1});
}

/* Two layers; operators 1, 2, 4, 8 ms at 1, 3, 8, 16 tokens, embedding 0.5 ms to 8 tokens and 1.5 ms at 16. */
static void steps_are_the_sum_by_hand(void **state) {
    (void)state;
    predict_profile *p = small(&(predict_profile_options){.n_layer = 2});
    assert_float_equal(decode_ms(p, 1, 10), 0.5 + 2 * (1 + 0.1), close_to);
    assert_float_equal(decode_ms(p, 2, 15), 0.5 + 2 * (1.5 + 0.4), close_to);
    assert_float_equal(decode_ms(p, 3, 10), 0.5 + 2 * (2 + 0.4), close_to); /* the four columns of attention */
    assert_float_equal(prefill_ms(p, 1, 4, 0), 0.5 + 2 * (2.4 + 1), close_to);
    assert_float_equal(prefill_ms(p, 1, 8, 0), 0.5 + 2 * (4 + 7.2), close_to);   /* half of a row of two prompts */
    assert_float_equal(prefill_ms(p, 2, 4, 0), 0.5 + 2 * (4 + 2), close_to);     /* operators share their weights */
    assert_float_equal(prefill_ms(p, 1, 4, 2), 0.5 + 2 * (2.4 + 1.5), close_to); /* along context */
    assert_float_equal(prefill_ms(p, 1, 6, 0), 0.5 + 2 * (3.2 + 0.15 * 21), close_to); /* 0.1 to 0.2 ms a pair */
    assert_float_equal(predict_step_ms(p, &(predict_step){.n_chunk = 0}), 0, 0);
    predict_profile_free(p);
}

static void outside_the_grid_goes_on(void **state) {
    (void)state;
    predict_profile *p = small(&(predict_profile_options){.n_layer = 2});
    assert_float_equal(decode_ms(p, 1, 2), 0.5 + 2 * (1 + 0.1), close_to);     /* below: the nearest */
    assert_float_equal(decode_ms(p, 1, 30), 0.5 + 2 * (1 + 0.5), close_to);    /* above: a line */
    assert_float_equal(decode_ms(p, 5, 10), 0.5 + 2 * (2.8 + 0.7), close_to);  /* batch too */
    assert_float_equal(prefill_ms(p, 1, 2, 0), 0.5 + 2 * (1.5 + 1), close_to); /* a launch costs what it costs */
    assert_float_equal(prefill_ms(p, 1, 4, 8), 0.5 + 2 * (2.4 + 2.0 * 42 / 26), close_to); /* with the pairs */
    assert_float_equal(prefill_ms(p, 1, 24, 0), 2.5 + 2 * (12 + 0.2 * 300), close_to);
    for (int batch = 1; batch < 1 << 20; batch *= 3)
        for (int n = 1; n < 1 << 20; n *= 3) {
            double d = decode_ms(p, batch, n), f = prefill_ms(p, batch, n, n / 2);
            assert_true(isfinite(d) && d > 0 && isfinite(f) && f > 0);
            assert_true(decode_ms(p, batch, 2 * n) >= d && prefill_ms(p, batch, 2 * n, n / 2) >= f);
        }
    predict_profile_free(p);
}

static void mixed_steps_add_attention_and_share_operators(void **state) {
    (void)state;
    predict_profile_options o = {.n_layer = 2, .terms = {{2, 3}, {5, 7}}};
    predict_profile *p = small(&o);
    predict_chunk chunk[] = {{1, 4, 0}, {1, 2, 0}};
    predict_step step = {chunk, 2, 2, 15};
    double operators = 0.5 + 2 * 4; /* 8 tokens, a quarter of them decode's */
    assert_float_equal(predict_step_ms(p, &step), (0.75 * 2 + 0.25 * 5) * operators + 3 * 2 * (1 + 1) + 7 * 2 * 0.4,
                       close_to);
    predict_profile_free(p);
}

static void an_evicting_method_reads_its_budget(void **state) {
    (void)state;
    predict_profile *p = small(&(predict_profile_options){.n_layer = 2}),
                    *q = small(&(predict_profile_options){.n_layer = 2, .budget = 20});
    assert_float_equal(predict_reads(p, 1e6), 1e6, 0);
    assert_float_equal(predict_reads(q, 12), 12, 0);
    assert_float_equal(predict_reads(q, 1e6), 20, 0);
    /* 64 steps from 11 tokens on: all of them, mean 42.5; with the budget 11 to 19, then 20 */
    assert_float_equal(predict_rate(p, PREDICT_DECODE, 1, 10), 1000 / (0.5 + 2 * (1 + 0.75)), close_to);
    assert_float_equal(predict_rate(q, PREDICT_DECODE, 1, 10), 1000 / (0.5 + 2 * (1 + (1.8 + 55 * 0.3) / 64)),
                       close_to);
    assert_float_equal(predict_rate(q, PREDICT_PREFILL, 2, 8), 16000 / (1.5 + 2 * (8 + 14.4)), close_to);
    assert_int_equal(predict_study_budget("stream"), 512);
    assert_int_equal(predict_study_budget("kivi"), 0);
    predict_profile_free(p);
    predict_profile_free(q);
}

static void order_of_rows_has_no_meaning(void **state) {
    (void)state;
    predict_rows rows = {0}, back = {0};
    predict_profile *p = NULL, *q = NULL;
    assert_int_equal(predict_rows_load(SMALL, "plain", &rows, NULL), PLEAT_OK);
    for (int i = rows.n - 1; i >= 0; i--)
        assert_int_equal(predict_rows_add(&back, &rows.row[i], NULL), PLEAT_OK);
    assert_int_equal(predict_profile_make(&rows, NULL, &p, NULL), PLEAT_OK);
    assert_int_equal(predict_profile_make(&back, NULL, &q, NULL), PLEAT_OK);
    assert_int_equal(predict_profile_options_of(p).n_layer, 32);
    for (int n = 1; n < 40; n++)
        assert_float_equal(decode_ms(p, n, n), decode_ms(q, n, n), 1e-12);
    predict_rows_free(&rows);
    predict_rows_free(&back);
    predict_profile_free(p);
    predict_profile_free(q);
}

/* ---- measured points ---- */

static void add(predict_points *points, predict_stage stage, int batch, int prompt, double rate) {
    predict_point p = {.stage = stage, .batch = batch, .prompt_tokens = prompt, .rate = rate};
    assert_int_equal(predict_points_add(points, &p, NULL), PLEAT_OK);
}

static void measured_rows_become_points(void **state) {
    (void)state;
    predict_points points = {0};
    int batch[PREDICT_MOST_SIZES], prompt[PREDICT_MOST_SIZES], n_batch, n_prompt;
    assert_int_equal(predict_points_load(SMALL "/measured.csv", &points, NULL), PLEAT_OK);
    assert_int_equal(points.n, 4);
    const predict_point *mean = predict_points_find(&points, PREDICT_PREFILL, 1, 8);
    assert_float_equal(mean->rate, 500, close_to);
    assert_int_equal(mean->n_rows, 2);
    assert_float_equal(mean->row[1], 600, 0);
    assert_float_equal(predict_points_find(&points, PREDICT_DECODE, 1, 10)->rate, 200, 0);
    assert_float_equal(predict_points_find(&points, PREDICT_DECODE, 1, 11)->rate, 150, 0); /* 75 with the new 64 */
    assert_null(predict_points_find(&points, PREDICT_PREFILL, 1, 10));
    predict_points_sizes(&points, PREDICT_PREFILL, batch, &n_batch, prompt, &n_prompt);
    assert_true(n_batch == 2 && batch[0] == 1 && batch[1] == 2 && n_prompt == 1 && prompt[0] == 8);
    predict_points_free(&points);
}

static void accuracy_and_calibration_by_hand(void **state) {
    (void)state;
    predict_points points = {0};
    predict_profile *p = small(&(predict_profile_options){.n_layer = 2});
    int n;
    assert_int_equal(predict_points_load(SMALL "/measured.csv", &points, NULL), PLEAT_OK);
    double a = 250.0 / 200, b = 1000 / 4.04 / 150; /* predicted over measured */
    assert_float_equal(predict_accuracy(p, &points, PREDICT_DECODE, &n), 1 - (a - 1 + b - 1) / 2, close_to);
    assert_int_equal(n, 2);
    assert_float_equal(predict_held_out(p, &points, PREDICT_DECODE, true), 1 - (b / a - 1 + 1 - a / b) / 2, close_to);
    assert_float_equal(predict_held_out(p, &points, PREDICT_DECODE, false), 0, 0); /* one batch size only */
    predict_calibrate(p, &points); /* b weighs more than half: its factor */
    predict_profile_options o = predict_profile_options_of(p);
    assert_float_equal(o.terms[PREDICT_DECODE].operators, b, close_to);
    assert_float_equal(o.terms[PREDICT_DECODE].attention, b, close_to);
    assert_float_equal(predict_accuracy(p, &points, PREDICT_DECODE, &n), 1 - (1 - a / b) / 2, close_to);
    predict_points_free(&points);
    predict_profile_free(p);
}

/* Points that a profile with other terms would give. */
static predict_points points_of(const predict_profile_options *truth, int n_batch, int n_prompt) {
    predict_points points = {0};
    predict_profile *p = small(truth);
    for (int stage = 0; stage < PREDICT_STAGES; stage++)
        for (int b = 1; b <= n_batch; b++)
            for (int k = 0; k < n_prompt; k++)
                add(&points, (predict_stage)stage, b, 4 << k, predict_rate(p, (predict_stage)stage, b, 4 << k));
    predict_profile_free(p);
    return points;
}

/* The point's run, when the n points of its stage, sorted by the share of attention, are cut into as many as are
 * picked. */
static int run_of(const predict_points *points, const predict_profile *p, int at, int n, int n_picked) {
    const predict_point *own = &points->point[at];
    int rank = 0, run = 0;
    predict_parts parts = predict_rate_parts(p, own->stage, own->batch, own->prompt_tokens);
    double share = parts.attention_ms[own->stage] / (parts.attention_ms[own->stage] + parts.operators_ms);
    for (int i = 0; i < points->n; i++) {
        const predict_point *q = &points->point[i];
        parts = predict_rate_parts(p, q->stage, q->batch, q->prompt_tokens);
        rank += q->stage == own->stage &&
                parts.attention_ms[q->stage] / (parts.attention_ms[q->stage] + parts.operators_ms) < share;
    }
    while (n * (run + 1) / n_picked <= rank)
        run++;
    return run;
}

static void a_fifth_is_picked_spread_and_repeatably(void **state) {
    (void)state;
    predict_profile *p = small(NULL);
    predict_points a = points_of(NULL, 5, 6), b = points_of(NULL, 5, 6);
    int different = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        int n[PREDICT_STAGES] = {0};
        assert_int_equal(predict_points_pick(&a, p, seed, NULL), PLEAT_OK);
        assert_int_equal(predict_points_pick(&b, p, seed, NULL), PLEAT_OK);
        for (int i = 0; i < a.n; i++) {
            assert_int_equal(a.point[i].fitted, b.point[i].fitted);
            n[a.point[i].stage] += a.point[i].fitted;
        }
        assert_int_equal(n[PREDICT_PREFILL], 6);
        assert_int_equal(n[PREDICT_DECODE], 6);
        bool taken[PREDICT_STAGES][6] = {{false}};
        for (int i = 0; i < a.n; i++)
            if (a.point[i].fitted)
                taken[a.point[i].stage][run_of(&a, p, i, 30, 6)] = true;
        for (int run = 0; run < 6; run++)
            assert_true(taken[PREDICT_PREFILL][run] && taken[PREDICT_DECODE][run]);
        assert_int_equal(predict_points_pick(&b, p, seed + 1, NULL), PLEAT_OK);
        for (int i = 0; i < a.n; i++)
            different += a.point[i].fitted != b.point[i].fitted;
    }
    assert_true(different > 50);
    predict_points few = points_of(NULL, 1, 2);
    assert_int_equal(predict_points_pick(&few, p, 1, NULL), PLEAT_OK);
    assert_int_equal(few.point[0].fitted + few.point[1].fitted, 1);
    predict_points_free(&a);
    predict_points_free(&b);
    predict_points_free(&few);
    predict_profile_free(p);
}

static void a_correction_finds_the_method_s_own_attention(void **state) {
    (void)state;
    predict_profile_options truth = {.terms = {{1.02, 0.5}, {0.98, 1.7}}};
    predict_points points = points_of(&truth, 5, 6);
    predict_profile *p = small(NULL);
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        int n;
        double plain = predict_accuracy(p, &points, (predict_stage)stage, &n);
        assert_int_equal(n, 30);
        assert_true(plain < 0.9);
    }
    assert_int_equal(predict_points_pick(&points, p, 3, NULL), PLEAT_OK);
    predict_correct(p, &points, true);
    for (int stage = 0; stage < PREDICT_STAGES; stage++) {
        int n;
        assert_true(predict_accuracy(p, &points, (predict_stage)stage, &n) > 0.99);
        assert_int_equal(n, 24); /* what was fitted on is not scored */
        assert_float_equal(predict_profile_options_of(p).terms[stage].attention, truth.terms[stage].attention, 0.03);
    }
    predict_points_free(&points);
    predict_profile_free(p);
}

/* ---- whole steps ---- */

static double whole_ms(predict_stage stage, int batch, int prompt, int budget) {
    if (stage == PREDICT_PREFILL)
        return 3 + 0.5 * batch * prompt + 0.001 * batch * prompt * (prompt + 1) / 2;
    double reads = 0;
    for (int i = 1; i <= PREDICT_DECODE_TOKENS; i++)
        reads += budget && prompt + i > budget ? budget : prompt + i;
    return 5 + 2 * batch + 0.01 * batch * reads / PREDICT_DECODE_TOKENS;
}

static predict_points whole_points(int budget) {
    predict_points points = {0};
    for (int stage = 0; stage < PREDICT_STAGES; stage++)
        for (int batch = 1; batch <= 8; batch *= 2)
            for (int prompt = 128; prompt <= 1024; prompt *= 2)
                add(&points, (predict_stage)stage, batch, prompt,
                    1000.0 * batch * (stage == PREDICT_PREFILL ? prompt : 1) /
                        whole_ms((predict_stage)stage, batch, prompt, budget));
    return points;
}

static void a_grid_gives_back_the_step_that_made_it(void **state) {
    (void)state;
    for (int budget = 0; budget <= 300; budget += 300) {
        predict_points points = whole_points(budget);
        predict_rows rows = {0};
        predict_profile *p = NULL;
        predict_profile_options o = {.n_layer = 1, .budget = budget};
        for (int stage = 0; stage < PREDICT_STAGES; stage++) {
            assert_true(predict_grid_held_out(&points, budget, (predict_stage)stage, false) > 1 - 1e-6);
            assert_true(predict_grid_held_out(&points, budget, (predict_stage)stage, true) > 1 - 1e-6);
        }
        for (int i = 0; i < points.n; i++)
            points.point[i].fitted = true;
        assert_int_equal(predict_grid_fit(&points, budget, &rows, NULL), PLEAT_OK);
        assert_int_equal(predict_profile_make(&rows, &o, &p, NULL), PLEAT_OK);
        assert_float_equal(predict_rate(p, PREDICT_DECODE, 3, 5000), 3000 / whole_ms(PREDICT_DECODE, 3, 5000, budget),
                           1e-6);
        assert_float_equal(predict_rate(p, PREDICT_PREFILL, 3, 5000),
                           3000 * 5000 / whole_ms(PREDICT_PREFILL, 3, 5000, budget), 1e-6);
        predict_points_free(&points);
        predict_rows_free(&rows);
        predict_profile_free(p);
    }
}

static void no_term_of_a_grid_is_negative(void **state) {
    (void)state;
    predict_points points = {0};
    predict_rows rows = {0};
    predict_profile *p = NULL;
    for (int batch = 1; batch <= 4; batch++)
        for (int prompt = 128; prompt <= 1024; prompt *= 2) { /* faster with context, which no machine is */
            add(&points, PREDICT_DECODE, batch, prompt, 1000.0 * batch / (10 - 0.002 * prompt));
            add(&points, PREDICT_PREFILL, batch, prompt, 1000);
        }
    for (int i = 0; i < points.n; i++)
        points.point[i].fitted = true;
    assert_int_equal(predict_grid_fit(&points, 0, &rows, NULL), PLEAT_OK);
    assert_int_equal(predict_profile_make(&rows, &(predict_profile_options){.n_layer = 1}, &p, NULL), PLEAT_OK);
    assert_float_equal(predict_rate(p, PREDICT_DECODE, 1, 1 << 20), predict_rate(p, PREDICT_DECODE, 1, 16), close_to);
    assert_float_equal(predict_rate(p, PREDICT_PREFILL, 1, 2048), 1000, 1e-6);
    predict_points_free(&points);
    predict_rows_free(&rows);
    predict_profile_free(p);
}

/* ---- cases and the store ---- */

static const predict_published small_case = {
    .directory = SMALL, .method = "plain", .measured = SMALL "/measured.csv", .base = "plain", .budget = -1};

static void a_case_says_what_it_was_fitted_on(void **state) {
    (void)state;
    predict_published from = small_case;
    predict_case c;
    assert_int_equal(predict_case_load(&from, &c, NULL), PLEAT_OK);
    assert_false(c.calibrated || c.in_sample);
    predict_case_free(&c);
    from.calibrate = from.measured;
    assert_int_equal(predict_case_load(&from, &c, NULL), PLEAT_OK);
    assert_true(c.calibrated && c.in_sample);
    predict_case_score(&c);
    assert_int_equal(c.n_cells, 2);
    assert_true(c.cell[1].held_out_length > 0 && c.cell[1].held_out_length < c.cell[1].accuracy);
    assert_int_equal(predict_case_correct(&c, 1, NULL), PLEAT_OK); /* the scored points must not have been seen */
    assert_false(c.calibrated || c.in_sample);
    predict_case_score(&c);
    assert_int_equal(c.cell[0].n + c.cell[0].n_fitted, 2);
    predict_case_free(&c);
}

static void a_stored_case_is_the_same_case(void **state) {
    (void)state;
    const char *path = env_temp("predict.db");
    predict_published from = small_case;
    predict_case c, d;
    store *db = NULL;
    store_runs runs;
    const store_run *run;
    int64_t id, again;
    from.calibrate = from.measured;
    from.budget = 20;
    assert_int_equal(predict_case_load(&from, &c, NULL), PLEAT_OK);
    assert_int_equal(store_open(path, true, &db, NULL), PLEAT_OK);
    for (int turn = 0; turn < 2; turn++) { /* twice: nothing doubles */
        assert_int_equal(predict_run_publish(db, &c, "tiny", SMALL, turn ? &again : &id, NULL), PLEAT_OK);
        assert_int_equal(predict_case_put(db, id, &c, NULL), PLEAT_OK);
    }
    assert_int_equal(id, again);
    assert_int_equal(store_runs_read(db, &runs, NULL), PLEAT_OK);
    assert_int_equal(predict_run_find(&runs, db, 0, &run, NULL), PLEAT_OK);
    assert_int_equal(predict_case_get(db, run, "plain", &d, NULL), PLEAT_OK);
    assert_int_equal(d.rows.n, c.rows.n);
    assert_true(d.calibrated && d.in_sample && predict_points_equal(&c.points, &d.points));
    predict_case_score(&c);
    predict_case_score(&d);
    assert_memory_equal(c.cell, d.cell, sizeof(c.cell));
    predict_case_free(&d);
    pleat_error error;
    assert_int_equal(predict_case_get(db, run, "gear", &d, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "holds no gear; it holds plain"));
    predict_case_free(&d);
    predict_case_free(&c);
    store_runs_free(&runs);
    store_close(db);
    unlink(path);
}

/* Beside run `usual`, a newer one of --repack off: taken only when it is asked for, or alone. */
static void prefers_packed_weights(store *db, store_run identity, const store_point *row, int n, int64_t usual) {
    store_begun begun;
    store_runs all;
    const store_run *found;
    identity.options = "{\"repack\":\"off\"}";
    assert_int_equal(store_run_begin(db, &identity, STORE_ANEW, &begun, NULL), PLEAT_OK);
    assert_int_equal(store_points_put(db, begun.id, row, n, NULL), PLEAT_OK);
    assert_int_equal(store_runs_read(db, &all, NULL), PLEAT_OK);
    assert_int_equal(predict_run_find(&all, db, 0, &found, NULL), PLEAT_OK);
    assert_int_equal(found->id, usual);
    assert_int_equal(predict_run_find(&all, db, begun.id, &found, NULL), PLEAT_OK);
    assert_int_equal(found->id, begun.id);
    store_runs only = {.run = &all.run[all.n - 1], .n = 1};
    assert_int_equal(predict_run_find(&only, db, 0, &found, NULL), PLEAT_OK);
    assert_int_equal(found->id, begun.id);
    store_runs_free(&all);
}

/* Points as `pleat bench` stores them: no profile, budgets from specs, errors and fills beside. */
static void a_bench_is_fitted_on_its_grid(void **state) {
    (void)state;
    const char *path = env_temp("predict-bench.db");
    predict_points points = whole_points(300);
    store_point row[64];
    store *db = NULL;
    store_begun begun;
    int n = 0;
    for (int i = 0; i < points.n; i++) {
        const predict_point *p = &points.point[i];
        row[n++] = (store_point){.label = "short",
                                 .spec = "f16+h2o:heavy=100,recent=200",
                                 .batch = p->batch,
                                 .prompt_tokens = p->prompt_tokens,
                                 .stage = p->stage == PREDICT_DECODE ? "decode" : "prefill",
                                 .n_repeats = 1,
                                 .rate = {p->rate},
                                 .median = p->rate};
    }
    row[n] = row[n - 1]; /* a fill of a cell that was measured, and a cell with no room */
    row[n].filled = true;
    row[n++].median *= 9;
    row[n] = (store_point){.label = "short", .batch = 64, .prompt_tokens = 9, .stage = "decode", .error = "no room"};
    n++;
    assert_int_equal(store_open(path, true, &db, NULL), PLEAT_OK);
    store_run identity = {.what = "bench",
                          .model_name = "m",
                          .model_path = "m",
                          .model_hash = "0",
                          .machine = "here",
                          .level = "portable",
                          .version = "0",
                          .options = "{}"};
    assert_int_equal(store_run_begin(db, &identity, STORE_ANEW, &begun, NULL), PLEAT_OK);
    assert_int_equal(store_points_put(db, begun.id, row, n, NULL), PLEAT_OK);
    store_runs runs;
    const store_run *run;
    char **names;
    predict_case c;
    int n_names;
    assert_int_equal(store_runs_read(db, &runs, NULL), PLEAT_OK);
    assert_int_equal(predict_run_find(&runs, db, 0, &run, NULL), PLEAT_OK);
    assert_int_equal(predict_case_list(db, run, &names, &n_names, NULL), PLEAT_OK);
    assert_int_equal(n_names, 1);
    assert_int_equal(predict_case_get(db, run, names[0], &c, NULL), PLEAT_OK);
    assert_int_equal(predict_profile_options_of(c.profile).budget, 300);
    assert_true(c.from_grid && c.points.n == 32);
    store_begun later;
    store_runs two;
    assert_int_equal(store_run_begin(db, &identity, STORE_ANEW, &later, NULL), PLEAT_OK);
    assert_int_equal(store_points_put(db, later.id, row, n, NULL), PLEAT_OK);
    assert_int_equal(store_runs_read(db, &two, NULL), PLEAT_OK);
    const store_run *found;
    assert_int_equal(predict_run_find(&two, db, 0, &found, NULL), PLEAT_OK);
    assert_int_equal(found->id, later.id); /* the newest */
    assert_int_equal(predict_run_find(&two, db, begun.id, &found, NULL), PLEAT_OK);
    assert_int_equal(found->id, begun.id);
    assert_int_equal(predict_run_find(&two, db, 999, &found, NULL), PLEAT_EINPUT);
    store_runs_free(&two);
    prefers_packed_weights(db, identity, row, n, later.id);
    predict_case_score(&c);
    for (int i = 0; i < 2; i++)
        assert_true(c.cell[i].accuracy > 1 - 1e-6 && c.cell[i].held_out_batch > 1 - 1e-6);
    assert_int_equal(predict_case_correct(&c, 1, NULL), PLEAT_EINPUT);
    assert_int_equal(predict_case_put(db, begun.id, &c, NULL), PLEAT_OK);
    char *fitted;
    assert_int_equal(store_model_read(db, begun.id, "throughput", "short", &fitted, NULL), PLEAT_OK);
    assert_non_null(strstr(fitted, "\"from\":\"grid\""));
    free(fitted);
    free(names[0]);
    free(names);
    predict_case_free(&c);
    predict_points_free(&points);
    store_runs_free(&runs);
    store_close(db);
    unlink(path);
}

/* ---- bad input ---- */

static void refuses_points(const char *file, const char *sentence) {
    const char *path = env_temp("predict-bad.csv");
    predict_points points = {0};
    pleat_error error = {""};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(file, f);
    fclose(f);
    assert_int_equal(predict_points_load(path, &points, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, path));
    if (!strstr(error.text, sentence))
        fail_msg("\"%s\" does not say \"%s\"", error.text, sentence);
    predict_points_free(&points);
    unlink(path);
}

static void bad_files_get_a_sentence(void **state) {
    (void)state;
    refuses_points("bsz,prompt_len,stage,thr\n1,8,prefill,1\n1,8,prefill,fast\n", "line 3: thr is \"fast\"");
    refuses_points("bsz,prompt_len,stage,thr\n1,8,middle,1\n", "line 2: stage is \"middle\"");
    refuses_points("bsz,prompt_len,stage,thr\n0,8,prefill,1\n", "line 2: bsz is 0,");
    refuses_points("bsz,prompt_len,stage,thr\n1,8,prefill,0\n", "line 2: thr is 0,");
    refuses_points("bsz,prompt_len,stage\n1,8,prefill\n", "\"thr\"");
    refuses_points("bsz,prompt_len,stage,thr\n", "holds no measured point");
    pleat_error error;
    predict_rows rows = {0};
    assert_int_equal(predict_rows_load(SMALL, "absent", &rows, &error), PLEAT_EIO);
    assert_non_null(strstr(error.text, "attention-absent.csv"));
    assert_int_equal(predict_rows_load(SMALL, "../plain", &rows, &error), PLEAT_EINPUT);
    predict_rows_free(&rows);
}

static void bad_profiles_get_a_sentence(void **state) {
    (void)state;
    static const predict_row good[] = {{PREDICT_LAYER, 0, 0, 1, 0, 1},
                                       {PREDICT_ATTENTION, PREDICT_PREFILL, 1, 1, 0, 1},
                                       {PREDICT_ATTENTION, PREDICT_DECODE, 1, 1, 0, 1}};
    static const char *const without[] = {"no operators", "no attention rows for prefill",
                                          "no attention rows for decode"};
    predict_profile *p = NULL;
    pleat_error error;
    for (int i = 0; i < 3; i++) {
        predict_row list[2] = {good[(i + 1) % 3], good[(i + 2) % 3]};
        assert_int_equal(predict_profile_make(&(predict_rows){list, 2, 2}, NULL, &p, &error), PLEAT_EINPUT);
        assert_non_null(strstr(error.text, without[i]));
    }
    static const predict_row bad[] = {{PREDICT_LAYER, 0, 0, 1, 0, NAN},
                                      {PREDICT_LAYER, 0, 0, 1, 0, 0},
                                      {PREDICT_LAYER, 0, 0, 0, 0, 1},
                                      {PREDICT_ATTENTION, PREDICT_DECODE, 0, 1, 0, 1},
                                      {PREDICT_ATTENTION, PREDICT_PREFILL, 1, 1, -1, 1}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        predict_row list[4] = {good[0], good[1], good[2], bad[i]};
        assert_int_equal(predict_profile_make(&(predict_rows){list, 4, 4}, NULL, &p, &error), PLEAT_EINPUT);
        assert_non_null(strstr(error.text, "row 4 of the profile"));
    }
    predict_points few = {0};
    predict_rows rows = {0};
    add(&few, PREDICT_DECODE, 1, 8, 1);
    few.point[0].fitted = true;
    assert_int_equal(predict_grid_fit(&few, 0, &rows, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "0 measured points of prefill and 1 of decode"));
    predict_points_free(&few);
}

/* ---- the published figures ---- */

#define PUBLISHED_FOLDER "paper-data/throughput/"

static void load_published(const char *method, predict_case *c) {
    char folder[4200], measured[4200], base[4200], name[100];
    pleat_error error = {""};
    snprintf(name, sizeof(name), PUBLISHED_FOLDER "measured/llama-7b-%s.csv", method);
    snprintf(folder, sizeof(folder), "%s", env_reference(PUBLISHED_FOLDER "profile"));
    snprintf(base, sizeof(base), "%s", env_reference(PUBLISHED_FOLDER "measured/llama-7b-fp16.csv"));
    snprintf(measured, sizeof(measured), "%s", env_reference(name));
    predict_published from = {folder, method, measured, base, "fp16", -1};
    predict_case_load(&from, c, &error);
    assert_string_equal(error.text, "");
}

static const char *const published[] = {"fp16", "kivi", "stream"};

static void published_points_are_met(void **state) {
    (void)state;
    static const int n_points[3][2] = {{28, 30}, {30, 30}, {28, 30}};
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        predict_case c;
        load_published(published[i], &c);
        assert_int_equal(c.in_sample, i == 0);
        predict_case_score(&c);
        for (int k = 0; k < 2; k++) {
            bool kivi_decode = i == 1 && k == PREDICT_DECODE;
            assert_int_equal(c.cell[k].n, n_points[i][k]);
            assert_true(c.cell[k].accuracy >= (kivi_decode ? 0.92 : 0.94));
            sum += c.cell[k].accuracy;
        }
        predict_case_free(&c);
    }
    assert_true(sum / 6 >= 0.96);
}

static void a_published_fifth_corrects(void **state) {
    (void)state;
    enum { SEEDS = 40 };
    double sum = 0;
    for (int i = 0; i < 3; i++)
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            predict_case c;
            load_published(published[i], &c);
            assert_int_equal(predict_case_correct(&c, seed, NULL), PLEAT_OK);
            predict_case_score(&c);
            for (int k = 0; k < 2; k++) {
                assert_true(c.cell[k].accuracy >= 0.96);
                sum += c.cell[k].accuracy / SEEDS / 6;
            }
            predict_case_free(&c);
        }
    assert_true(sum >= 0.98);
}

static void unmeasured_methods_have_a_profile(void **state) {
    (void)state;
    static const char *const methods[] = {"gear", "h2o"};
    char folder[4200];
    snprintf(folder, sizeof(folder), "%s", env_reference(PUBLISHED_FOLDER "profile"));
    for (int i = 0; i < 2; i++) {
        predict_published from = {.directory = folder, .method = methods[i], .budget = -1};
        predict_case c;
        assert_int_equal(predict_case_load(&from, &c, NULL), PLEAT_OK);
        assert_int_equal(predict_profile_options_of(c.profile).budget, i ? 512 : 0);
        assert_true(predict_rate(c.profile, PREDICT_DECODE, 16, 8192) > 0);
        predict_case_score(&c);
        assert_int_equal(c.n_cells, 0);
        predict_case_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_the_sum_by_hand),
        cmocka_unit_test(outside_the_grid_goes_on),
        cmocka_unit_test(mixed_steps_add_attention_and_share_operators),
        cmocka_unit_test(an_evicting_method_reads_its_budget),
        cmocka_unit_test(order_of_rows_has_no_meaning),
        cmocka_unit_test(measured_rows_become_points),
        cmocka_unit_test(accuracy_and_calibration_by_hand),
        cmocka_unit_test(a_fifth_is_picked_spread_and_repeatably),
        cmocka_unit_test(a_correction_finds_the_method_s_own_attention),
        cmocka_unit_test(a_grid_gives_back_the_step_that_made_it),
        cmocka_unit_test(no_term_of_a_grid_is_negative),
        cmocka_unit_test(a_case_says_what_it_was_fitted_on),
        cmocka_unit_test(a_stored_case_is_the_same_case),
        cmocka_unit_test(a_bench_is_fitted_on_its_grid),
        cmocka_unit_test(bad_files_get_a_sentence),
        cmocka_unit_test(bad_profiles_get_a_sentence),
        cmocka_unit_test(published_points_are_met),
        cmocka_unit_test(a_published_fifth_corrects),
        cmocka_unit_test(unmeasured_methods_have_a_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
