/* test_policies.c - every policy, split and CriticalKV against a slow double reference on drawn and on real tensors,
 * the worked values of their definitions, bounds on bytes, pins, picks, and what the parser refuses. */
#include "engine/engine.h"
#include "kv/lane.h"
#include "kv/policy_rocket.h"
#include "kv/pooling.h"
#include "support/drive.h"
#include "support/env.h"
#include "support/policy_reference.h"
#include "text/tokenizer.h"
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

#define POOL ((size_t)1 << 30)

static const drive_shape shapes[] = {{.n_head = 2, .n_head_kv = 2, .d = 64},   /* MHA */
                                     {.n_head = 6, .n_head_kv = 2, .d = 64},   /* GQA */
                                     {.n_head = 4, .n_head_kv = 1, .d = 128}}; /* MQA */
enum { N_SHAPES = sizeof(shapes) / sizeof(*shapes) };

/* ---- against the reference, on drawn tensors ---- */

static void fill_scene(const drive *d, scene *s, uint64_t seed) {
    int dim = d->model.head_dim;
    for (int t = 0; t < s->n; t++) {
        for (int h = 0; h < d->model.n_head; h++)
            drive_row(d, seed, 0, s->il, h, t, s->q + (t * d->model.n_head + h) * dim);
        for (int h = 0; h < d->model.n_head_kv; h++) {
            float *k = s->k + (t * d->model.n_head_kv + h) * dim, *v = s->v + (t * d->model.n_head_kv + h) * dim;
            drive_row(d, seed, 1, s->il, h, t, k);
            drive_row(d, seed, 2, s->il, h, t, v);
            for (int j = 0; j < dim; j++) {
                k[j] = f16_to_f32(f16_from_f32(k[j]));
                v[j] = f16_to_f32(f16_from_f32(v[j]));
            }
        }
    }
}

typedef struct trial {
    drive d;
    kv_cache *cache;
    scene scene[DRIVE_LAYERS];
    reference *r[DRIVE_LAYERS];
    const char *spec;
    int max_new;
} trial;

static void trial_open(trial *t, drive_shape shape, const char *spec, int n) {
    drive_open(&t->d, shape, POOL);
    t->spec = spec;
    t->cache = drive_cache(&t->d, spec);
    kv_method method = drive_method(&t->d, spec);
    for (int il = 0; il < DRIVE_LAYERS; il++) {
        t->scene[il] = scene_open(&t->d.model, il, n);
        fill_scene(&t->d, &t->scene[il], 7);
        t->r[il] = reference_open(&t->scene[il], &method);
    }
    t->max_new = 40;
    kv_cache_expect(t->cache, t->max_new);
}

static int trial_close(trial *t) {
    int evictions = 0;
    for (int il = 0; il < DRIVE_LAYERS; il++) {
        evictions += reference_evictions(t->r[il]);
        reference_close(t->r[il]);
        scene_close(&t->scene[il]);
    }
    kv_cache_close(t->cache);
    drive_close(&t->d);
    return evictions;
}

static void trial_step(trial *t, int n, pleat_phase phase, kv_event event, int n_prompt, int n_steps) {
    int from = kv_cache_tokens(t->cache);
    for (int il = 0; il < DRIVE_LAYERS; il++)
        reference_step(t->r[il], t->cache, from, from + n);
    drive_item item = {.cache = t->cache, .seed = 7, .n_tokens = n, .phase = phase};
    drive_step(&t->d, &item, 1);
    for (int il = 0; il < DRIVE_LAYERS; il++) {
        const char *said = reference_check(t->r[il], t->cache, event, n_prompt, n_steps, t->max_new);
        if (said)
            fail_msg("%s, step %d: %s", t->spec, n_steps, said);
    }
}

static void trial_run(drive_shape shape, const char *spec, int n_prompt, int n_steps) {
    trial t;
    trial_open(&t, shape, spec, n_prompt + n_steps);
    int left = n_prompt;
    while (left > 0) {
        int n = kv_cache_cut(t.cache, left);
        bool last = n == left;
        trial_step(&t, n, last ? PLEAT_PROMPT_END : PLEAT_PROMPT, last ? KV_AT_PROMPT_END : KV_AT_GRID, n_prompt, 0);
        left -= n;
    }
    for (int i = 1; i <= n_steps; i++)
        trial_step(&t, 1, PLEAT_DECODE, KV_AT_STEP, n_prompt, i);
    if (!trial_close(&t))
        fail_msg("%s never evicted", spec);
}

static const struct {
    const char *spec;
    int steps; /* enough for an event in decode */
} specs[] = {
    {"streaming:sinks=16,recent=80", 20},
    {"streaming:sinks=4,recent=40,pos=original", 20},
    {"h2o:heavy=24,recent=40", 20},
    {"h2o:heavy=24,recent=40,norm=1", 8},
    {"snapkv:keep=96,window=16", 2},
    {"snapkv:keep=96,window=32,kernel=5,pool=avg", 2},
    {"snapkv:keep=96,window=16,decode=hold", 10},
    {"tova:keep=64", 20},
    {"tova:keep=64,protect=0", 20},
    {"expected:keep=96,every=16,future=100", 33},
    {"expected:keep=96,every=16,cov=0,vnorm=0", 17},
    {"keydiff:keep=96", 70},
    {"knorm:keep=96,skip=1,recent=10", 2},
    {"lagkv:lag=32,sinks=16", 70},
    {"lagkv:lag=20,sinks=3,ratio=0.3", 25},
    {"rkv:keep=96,buffer=16", 33},
    {"rkv:keep=96,window=16,buffer=16,lambda=0.9,tau=0.1,kernel=3", 17},
    {"rocket:budget=64,window=16", 2},
    {"snapkv:keep=96,window=16+pyramid", 2},
    {"h2o:heavy=24,recent=40+pyramid:beta=4", 10},
    {"snapkv:keep=96,window=16+adakv", 2},
    {"snapkv:keep=96,window=16+adakv:alpha=0.5,normalize=1", 2},
    {"h2o:heavy=24,recent=40+adakv", 10},
    {"expected:keep=96,every=16+adakv", 17},
    {"snapkv:keep=96,window=16+critical", 2},
    {"snapkv:keep=96,window=16+critical:alpha=0.25,eps=0.01,vnorm=l2", 2},
    {"snapkv:keep=96,window=16+adakv+critical", 2},
    {"h2o:heavy=24,recent=40+critical", 50},
    {"expected:keep=96,every=16+critical", 17},
};
enum { N_SPECS = sizeof(specs) / sizeof(*specs) };

static void kept_sets_are_the_formulas(void **state) {
    (void)state;
    for (int i = 0; i < N_SPECS; i++)
        for (int k = 0; k < N_SHAPES; k++)
            if (shapes[k].n_head_kv > 1 || !strstr(specs[i].spec, "adakv"))
                trial_run(shapes[k], specs[i].spec, 300, specs[i].steps);
}

/* Prompt and decode on what a real model made of a text, its heads taken as MHA, GQA and MQA; a shallow and a middle
 * layer. */
static void kept_sets_on_rows_of(const char *name, int n_prompt) {
    enum { MOST_STEPS = 70 };
    capture rows = capture_run(env_model(name), n_prompt + MOST_STEPS, n_prompt + MOST_STEPS);
    const kv_model *m = &rows.shape;
    drive_shape taken[] = {{.n_head = m->n_head_kv, .n_head_kv = m->n_head_kv},
                           {.n_head = m->n_head, .n_head_kv = m->n_head_kv},
                           {.n_head = m->n_head / m->n_head_kv, .n_head_kv = 1}};
    for (int k = 0; k < 3; k++) {
        taken[k].d = m->head_dim;
        taken[k].real = &rows;
        taken[k].real_layer[0] = 1;
        taken[k].real_layer[1] = m->n_layer / 2;
        for (int i = 0; i < N_SPECS; i++)
            if (taken[k].n_head_kv > 1 || !strstr(specs[i].spec, "adakv"))
                trial_run(taken[k], specs[i].spec, n_prompt, specs[i].steps);
    }
    capture_free(&rows);
}

static void kept_sets_on_rows_of_smollm2(void **state) {
    (void)state;
    kept_sets_on_rows_of("smollm2-135m", env_sanitized() ? 150 : 300);
}

static void kept_sets_on_rows_of_qwen(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("a model of 500 MB under sanitizers");
    kept_sets_on_rows_of("qwen2.5-coder-0.5b", 300);
}

/* Events at grid points see what the ones before left. */
static void kept_sets_are_the_formulas_in_bounded_prefill(void **state) {
    (void)state;
    char spec[200];
    for (int i = 0; i < N_SPECS; i++) {
        snprintf(spec, sizeof(spec), "%s+prefill:bounded", specs[i].spec);
        trial_run(shapes[1], spec, strstr(spec, "keydiff") ? 300 : 700, 2);
    }
}

/* ---- worked values ---- */

static void near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%.9g, not %.9g", got, want);
}

static void snapkv_pools_as_published(void **state) {
    (void)state;
    static const float x[] = {.1f, 0, .5f, 0, 0, .2f, 0, 0}, most[] = {.1f, .5f, .5f, .5f, .2f, .2f, .2f, 0};
    static const double mean[] = {.0333, .2, .1667, .1667, .0667, .0667, .0667, 0};
    float y[8];
    pooling_run(x, 8, 3, false, y);
    for (int i = 0; i < 8; i++)
        assert_true(y[i] == most[i]);
    pooling_run(x, 8, 3, true, y);
    for (int i = 0; i < 8; i++)
        near((double)y[i], mean[i], 5e-5);
}

static const kv_policy *policy_named(const char *name) {
    for (int i = 0; kv_policies[i]; i++)
        if (!strcmp(kv_policies[i]->name, name))
            return kv_policies[i];
    fail();
    return NULL;
}

static const kv_split *split_named(const char *name) {
    for (int i = 0; kv_splits[i]; i++)
        if (!strcmp(kv_splits[i]->name, name))
            return kv_splits[i];
    fail();
    return NULL;
}

/* The slot that a policy scores least, among one head's. */
static int least(const float *s, int n) {
    int at = 0;
    for (int i = 1; i < n; i++)
        at = s[i] < s[at] ? i : at;
    return at;
}

/* q at position to_q . k at to_k, in double, for rows that were rotated to from_q and from_k. */
static double turned_dot(const drive *d, const float *q, int from_q, int to_q, const float *k, int from_k, int to_k) {
    int half = d->model.n_rot / 2;
    double sum = 0;
    for (int i = 0; i < half; i++) {
        double theta = (double)d->rope_inv[i], x = theta * (to_q - from_q), y = theta * (to_k - from_k);
        double qa = (double)q[i] * cos(x) - (double)q[i + half] * sin(x),
               qb = (double)q[i] * sin(x) + (double)q[i + half] * cos(x),
               ka = (double)k[i] * cos(y) - (double)k[i + half] * sin(y),
               kb = (double)k[i] * sin(y) + (double)k[i + half] * cos(y);
        sum += qa * ka + qb * kb;
    }
    return sum;
}

/* What is attended to at position 5000 with 4 + 1020 places: as if each key had been rotated to its index in the cache,
 * and the query to 1023. A distance inside the recent tokens is the same either way. */
static void streaming_attends_at_places_in_the_cache(void **state) {
    (void)state;
    enum { SINKS = 4, RECENT = 1020, AT = 5000, PLACES = SINKS + RECENT, D = 64 };
    drive d;
    drive_open(&d, (drive_shape){.n_head = 1, .n_head_kv = 1, .d = D}, POOL);
    kv_cache *cache = drive_cache(&d, "streaming:sinks=4,recent=1020+prefill:bounded");
    scene s = scene_open(&d.model, 0, AT + 1);
    fill_scene(&d, &s, 7);
    float *out = malloc(drive_out_floats(&d, 1) * sizeof(*out));
    double p[PLACES], sum = 0, want[D] = {0}, error = 0, size = 0;
    const float *q = s.q + AT * D;
    near(turned_dot(&d, q, AT, AT, s.k + 4500 * D, 4500, 4500), turned_dot(&d, q, AT, 1023, s.k + 4500 * D, 4500, 523),
         1e-10); /* rows are floats of size 4 */
    drive_prompt(&d, cache, 7, AT - 8, 512, true, NULL);
    drive_decode(&d, cache, 7, 9, out);
    assert_int_equal(kv_cache_tokens(cache), AT + 1);
    for (int i = 0; i < PLACES; i++) {
        int t = i < SINKS ? i : AT - PLACES + 1 + i;
        p[i] = exp(turned_dot(&d, q, AT, PLACES - 1, s.k + t * D, t, i) * (double)d.model.score_scale);
        sum += p[i];
    }
    for (int i = 0; i < PLACES; i++)
        for (int j = 0; j < D; j++)
            want[j] += p[i] / sum * (double)s.v[(i < SINKS ? i : AT - PLACES + 1 + i) * D + j];
    for (int j = 0; j < D; j++) {
        error += pow((double)out[j] - want[j], 2);
        size += pow(want[j], 2);
    }
    if (!(sqrt(error / size) < 1e-3))
        fail_msg("relative error %g", sqrt(error / size));
    free(out);
    scene_close(&s);
    kv_cache_close(cache);
    drive_close(&d);
}

static void h2o_steps_as_worked(void **state) {
    (void)state;
    kv_model model = {.n_head = 1, .n_head_kv = 1, .head_dim = 64};
    kv_config c = {{2, 2, 0}}; /* heavy, recent, norm */
    float score[5], *s[1] = {score}, mass[5] = {2.2f, .95f, .6f, 1.05f, .4f};
    const float *m[1] = {mass};
    int32_t pos[5] = {0, 2, 4, 5, 6};
    const int32_t *p[1] = {pos};
    int n[1] = {5};
    kv_view view = {.model = &model, .event = KV_AT_STEP, .n_seen = 7, .n_slots = n, .n_live = n, .pos = p, .mass = m};
    policy_named("h2o")->score(&c, &view, s);
    assert_int_equal(pos[least(score, 5)], 4);
    const int32_t next[5] = {0, 2, 5, 6, 7};
    const float next_mass[5] = {2.3f, 1.0f, 1.35f, .9f, .05f};
    memcpy(pos, next, sizeof(pos));
    memcpy(mass, next_mass, sizeof(mass));
    view.n_seen = 8;
    policy_named("h2o")->score(&c, &view, s);
    assert_int_equal(pos[least(score, 5)], 2);
}

static void pyramid_sums_exactly(void **state) {
    (void)state;
    static const struct {
        int c, w, layers, t, first[3], last[2], sum;
    } list[] = {{512, 8, 32, 4000, {983, 952, 921}, {56, 25}, 16128},
                {512, 32, 30, 2048, {936, 905, 873}, {56, 24}, 14400}};
    kv_config c = {{20}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        int sum = 0, tokens[64];
        for (int il = 0; il < list[i].layers; il++) {
            kv_view view = {.n_full_layers = list[i].layers, .i_full = il, .n_seen = list[i].t, .n_newest = list[i].w};
            tokens[il] = split_named("pyramid")->layer_budget(&c, &view, list[i].c) - list[i].w;
            sum += tokens[il];
            if (il)
                assert_true(tokens[il] <= tokens[il - 1]);
        }
        assert_int_equal(sum, list[i].sum);
        assert_int_equal(tokens[0], list[i].first[0]);
        assert_int_equal(tokens[1], list[i].first[1]);
        assert_int_equal(tokens[list[i].layers - 1], list[i].last[1]);
        kv_view all = {.n_full_layers = 4, .n_seen = list[i].c, .n_newest = list[i].w};
        assert_int_equal(split_named("pyramid")->layer_budget(&c, &all, list[i].c), list[i].c);
        kv_view clamped = {.n_full_layers = 3, .i_full = 0, .n_seen = 700, .n_newest = list[i].w};
        assert_int_equal(split_named("pyramid")->layer_budget(&c, &clamped, list[i].c), 700);
    }
}

static void adakv_blends_as_worked(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shapes[0], POOL);
    kv_cache *cache = drive_cache(&d, "snapkv+adakv");
    assert_true(kv_scratch_grow(d.scratch[0], cache, 64));
    float h0[8] = {.30f, .06f, .05f, .04f, .03f, .02f, .01f, .005f},
          h1[8] = {.29f, .28f, .27f, .26f, .25f, .24f, .23f, .01f};
    const float *s[2] = {h0, h1};
    int32_t pos[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32_t *p[2] = {pos, pos};
    int n[2] = {8, 8}, keep[2];
    kv_config c = {{.25, 0}};
    kv_view view = {.model = &d.model, .n_slots = n, .n_live = n, .pos = p, .scratch = d.scratch[0]};
    split_named("adakv")->heads(&c, &view, s, 4, keep);
    assert_int_equal(keep[0], 2);
    assert_int_equal(keep[1], 6);
    c.value[0] = 0; /* counts alone */
    split_named("adakv")->heads(&c, &view, s, 4, keep);
    assert_int_equal(keep[0], 1);
    assert_int_equal(keep[1], 7);
    h0[7] = INFINITY; /* seven places; of one and six counted, 0.8 each left over: twice to the lower head */
    c.value[0] = .2;
    split_named("adakv")->heads(&c, &view, s, 4, keep);
    assert_int_equal(keep[0], 1 + 2);
    assert_int_equal(keep[1], 5);
    c.value[0] = 0;
    h1[7] = INFINITY; /* a window of one: outside of the budget that is shared */
    split_named("adakv")->heads(&c, &view, s, 5, keep);
    assert_int_equal(keep[0], 2);
    assert_int_equal(keep[1], 8);
    kv_cache_close(cache);
    drive_close(&d);
}

static void critical_chooses_as_worked(void **state) {
    (void)state;
    static const float a[] = {.40f, .30f, .12f, .10f, .08f}, norm[] = {1, 1, 4, 1, 6};
    drive d;
    drive_open(&d, (drive_shape){.n_head = 1, .n_head_kv = 1, .d = 64}, POOL);
    kv_cache *cache = drive_cache(&d, "snapkv:keep=64,window=8+critical");
    drive_prompt(&d, cache, 7, 5, 64, false, NULL);
    kv_lane *lane = lane_of(cache, 0, 0);
    view_store store;
    kv_view view = view_open(cache, 0, KV_AT_PROMPT_END, d.scratch[0], d.kernels, &store);
    float score[5];
    memcpy(score, a, sizeof(a));
    memcpy(lane->norm, norm, sizeof(norm));
    d.scratch[0]->has_ties[0] = false;
    critical_weigh(cache, &view, 0, 3, score);
    assert_true(score[0] > score[2] && score[2] > score[1] && score[4] > score[1] && score[1] > score[3]);
    near((double)score[1], .3001, 1e-6);
    near((double)score[2], .4804, 1e-6);
    near((double)score[3], .1001, 1e-6);
    near((double)score[4], .4806, 1e-6);
    kv_cache_close(cache);
    drive_close(&d);
}

static void formulas_of_the_reference_are_the_worked_ones(void **state) {
    (void)state;
    static const double rho[3][3] = {{1, -.001711, .003694}, {.01, .214579, -.002440}, {1e-4, .992020, .125207}};
    for (int i = 0; i < 3; i++) {
        double re, im;
        reference_rho(rho[i][0], 1000, 512, &re, &im);
        near(re, rho[i][1], 1e-6);
        near(im, rho[i][2], 1e-6);
    }
    static const double k[] = {1, 0, 0, 1, 1, 1, -1, 2}, mu[] = {1, .5}, s[] = {.5, .1, .1, .2};
    static const double want_z[] = {.832107, .403553, 1.285660, .225}, want_p[] = {.265233, .172786, .417449, .144532};
    double z[4], p[4];
    reference_expected(k, 4, 2, mu, s, z, p);
    static const double size[] = {1, 2, .5, 1}, want_score[] = {.275233, .365572, .213724, .154532};
    for (int t = 0; t < 4; t++) {
        near(z[t], want_z[t], 1e-6);
        near(p[t], want_p[t], 1e-6);
        near((p[t] + .01) * size[t], want_score[t], 1e-6);
    }
    static const double x[] = {0, 0, 1, 2, 2, 1, 4, 4}, next[] = {0, 1, 2, 3, 1, 1, 4, 5};
    static const double want_f[] = {.248057, .207864, .296022, .248057};
    double f[4];
    reference_lag(x, next, 4, 2, f);
    for (int t = 0; t < 4; t++)
        near(f[t], want_f[t], 1e-6);
    static const double keys[] = {3, 0, 2, 2, 0, 1, -1, 0}, want_diff[] = {-.382683, -.923880, -.923880, .382683};
    double diff[4];
    reference_keydiff(keys, 4, 2, diff);
    for (int t = 0; t < 4; t++)
        near(diff[t], want_diff[t], 1e-6);
    static const double alike[] = {1, 0, 0, 1, .8, .6, .6, .8, -1, 0}, want_mean[] = {.08, .28, .12, -.12, -.48};
    double mean[5];
    reference_redundancy(alike, 5, 2, .5, mean);
    for (int t = 0; t < 5; t++)
        near(mean[t], want_mean[t], 1e-9);
}

/* A lane of one head whose first two channels are given, the others zero; its policy's scores. */
static void scores_of(const char *spec, const float (*k)[2], const float *value, int n, float *s) {
    drive d;
    drive_open(&d, (drive_shape){.n_head = 1, .n_head_kv = 1, .d = 64}, POOL);
    kv_method method = drive_method(&d, spec);
    kv_cache *cache;
    float rows_k[8 * 64] = {0}, rows_v[8 * 64] = {0}, *score[1] = {s};
    assert_int_equal(kv_cache_open(&d.model, &method, d.pool, &cache, NULL), PLEAT_OK);
    for (int i = 0; i < n; i++) {
        rows_k[i * 64] = k[i][0];
        rows_k[i * 64 + 1] = k[i][1];
        rows_v[i * 64] = value ? value[i] : 1;
    }
    assert_true(kv_pool_reserve(d.pool, kv_cache_step_bytes(cache, n, PLEAT_PROMPT, 1)));
    assert_true(kv_scratch_grow(d.scratch[0], cache, n));
    kv_cache_begin(cache, n, PLEAT_PROMPT);
    for (int il = 0; il < DRIVE_LAYERS; il++)
        kv_cache_append(cache, il, 0, rows_k, rows_v, 64, d.kernels);
    view_store store;
    kv_view view = view_open(cache, 0, KV_AT_PROMPT_END, d.scratch[0], d.kernels, &store);
    float sum[64] = {0}, *outer = calloc(64 * 64, sizeof(*outer));
    double mu[2] = {1, .5}, cov[2][2] = {{.5, .1}, {.1, .2}}; /* as moments of 100 queries */
    for (int i = 0; i < 2; i++) {
        sum[i] = (float)(100 * mu[i]);
        for (int j = 0; j < 2; j++)
            outer[i * 64 + j] = (float)(100 * (cov[i][j] + mu[i] * mu[j]));
    }
    view.moments = (kv_moments){100, sum, outer};
    kv_model model = d.model; /* heads of 2, unrotated */
    model.score_scale = 1 / sqrtf(2);
    model.n_rot = 0;
    view.model = &model;
    d.scratch[0]->has_ties[0] = false;
    method.policy->score(&method.policy_config, &view, score);
    kv_cache_end(cache);
    kv_cache_close(cache);
    drive_close(&d);
    free(outer);
}

static void policies_score_as_worked(void **state) {
    (void)state;
    float s[8];
    static const float keys[4][2] = {{3, 0}, {2, 2}, {0, 1}, {-1, 0}};
    static const double want_diff[] = {-.382683, -.923880, -.923880, .382683};
    scores_of("keydiff:keep=2", keys, NULL, 4, s);
    for (int t = 0; t < 4; t++)
        near((double)s[t], want_diff[t], 1e-6);
    scores_of("knorm:keep=2", keys, NULL, 4, s);
    near((double)s[1], -sqrt(8), 1e-6);
    static const float k[4][2] = {{1, 0}, {0, 1}, {1, 1}, {-1, 2}}, size[] = {1, 2, .5f, 1};
    static const double want_score[] = {.275233, .365572, .213724, .154532};
    scores_of("expected:keep=2,sinks=0", k, size, 4, s);
    for (int t = 0; t < 4; t++)
        near((double)s[t], want_score[t], 2e-6);
}

static void quest_bounds_as_worked(void **state) {
    (void)state;
    drive d;
    drive_open(&d, (drive_shape){.n_head = 1, .n_head_kv = 1, .d = 64}, POOL);
    kv_cache *cache = drive_cache(&d, "quest:budget=48,skip=0");
    float k[2 * 64] = {1, 2, -1}, q[64] = {2, -1, 1}, a[128] = {0}, u[64];
    uint16_t live[32];
    k[64 + 1] = -3;
    k[64 + 2] = 2;
    assert_true(kv_pool_reserve(d.pool, kv_cache_step_bytes(cache, 2, PLEAT_PROMPT_END, 1)));
    assert_true(kv_scratch_grow(d.scratch[0], cache, 2));
    kv_cache_begin(cache, 2, PLEAT_PROMPT_END);
    for (int il = 0; il < DRIVE_LAYERS; il++) {
        kv_cache_append(cache, il, 0, k, k, 64, d.kernels);
        kv_cache_finish_layer(cache, il, d.scratch[0], d.kernels);
    }
    kv_cache_end(cache);
    view_store store;
    kv_view view = view_open(cache, 0, KV_AT_STEP, d.scratch[0], d.kernels, &store);
    kv_pick pick = {.view = &view,
                    .q = q,
                    .bound = (const f16 *const *)lane_of(cache, 0, 0)->bound,
                    .bound_slots = 16,
                    .n_pages = 1};
    for (int j = 0; j < 64; j++) {
        a[j] = q[j] < 0 ? q[j] : 0;
        a[64 + j] = q[j] > 0 ? q[j] : 0;
    }
    assert_int_equal(pick_count(&pick), 1);
    pick_products(&pick, a, 1, u, live);
    near((double)u[0], 7, 0);
    assert_int_equal(live[0], 3);
    kv_cache_close(cache);
    drive_close(&d);
}

static void rocket_sizes_as_worked(void **state) {
    (void)state;
    rocket_sizes a = rocket_sizes_of(4096, 512, 128, 128), b = rocket_sizes_of(32768, 512, 128, 128);
    assert_int_equal(a.prompt, 1730);
    assert_int_equal(a.read, 256);
    assert_int_equal(a.page, 2);
    assert_int_equal(a.channels, 70);
    near(a.ratio, 3.629, 5e-4);
    assert_int_equal(b.prompt, 3063);
    assert_int_equal(b.channels, 61);
    assert_int_equal(b.page, 3);
    near(b.ratio, 6.232, 5e-4);
    assert_int_equal(rocket_sizes_of(400, 512, 128, 128).prompt, 272);
    assert_int_equal(rocket_sizes_of(1000, 100, 600, 128).prompt, 500); /* half of min(2 new, S) */
}

/* ---- on real keys, queries and values ---- */

/* A layer of an open fp16 prompt whose cache keeps every query. */
static scene scene_of(const kv_cache *cache, int il) {
    int n = kv_cache_tokens(cache);
    const kv_model *m = cache->model;
    scene s = scene_open(m, il, n);
    size_t d = (size_t)m->head_dim;
    float *rows = malloc((size_t)n * d * sizeof(*rows));
    for (int t = 0; t < n; t++)
        memcpy(s.q + (size_t)t * (size_t)m->n_head * d, query_row(cache, il, t), (size_t)m->n_head * d * sizeof(*rows));
    for (int ih = 0; ih < m->n_head_kv; ih++)
        for (int side = 0; side < 2; side++) {
            kv_cache_open_rows(cache, il, ih, (kv_side)side, rows);
            for (int t = 0; t < n; t++)
                memcpy((side ? s.v : s.k) + ((size_t)t * (size_t)m->n_head_kv + (size_t)ih) * d, rows + (size_t)t * d,
                       d * sizeof(*rows));
        }
    free(rows);
    return s;
}

static void check_fork(pleat_engine *engine, pleat_seq *prompt, const char *spec, const scene *scenes, int n_scenes) {
    pleat_method *method;
    pleat_seq *seq;
    pleat_error error = {""};
    if (pleat_method_parse(spec, engine_model(engine), &method, &error) ||
        pleat_seq_fork(engine, prompt, method, &seq, &error) || engine_seq_end_prompt(engine, seq, &error))
        fail_msg("%s: %s", spec, error.text);
    int evictions = 0;
    for (int i = 0; i < n_scenes; i++) {
        reference *r = reference_open(&scenes[i], method);
        reference_step(r, engine_seq_cache(prompt), 0, scenes[i].n);
        const char *said = reference_check(r, engine_seq_cache(seq), KV_AT_PROMPT_END, scenes[i].n, 0, 100);
        if (said)
            fail_msg("%s: %s", spec, said);
        evictions += reference_evictions(r);
        reference_close(r);
    }
    assert_true(evictions > 0);
    pleat_seq_close(seq);
    pleat_method_free(method);
}

static void real_model(const char *name, int n_tokens) {
    static const char *const list[] = {"h2o:heavy=64,recent=64",
                                       "snapkv:keep=128,window=32",
                                       "snapkv:keep=128,window=32,kernel=5,pool=avg+adakv",
                                       "snapkv:keep=128,window=32+pyramid",
                                       "snapkv:keep=128,window=32+critical",
                                       "tova:keep=128",
                                       "expected:keep=128",
                                       "keydiff:keep=128",
                                       "knorm:keep=128,skip=0",
                                       "lagkv:lag=64",
                                       "rkv:keep=128",
                                       "rocket:budget=128"};
    enum { N = sizeof(list) / sizeof(*list), N_SCENES = 3 };
    pleat_error error = {""};
    pleat_model *model;
    pleat_engine *engine;
    pleat_seq *prompt;
    pleat_method *all, *method;
    int32_t *ids;
    int n_ids;
    size_t n_bytes;
    char *text = env_data("shakespeare-40k.txt", &n_bytes);
    if (pleat_model_open(env_model(name), 2, &model, &error) || pleat_engine_open(model, NULL, &engine, &error) ||
        pleat_tokenize(model, text, n_bytes, false, &ids, &n_ids, &error) ||
        pleat_method_parse("snapkv:keep=512,window=512", model, &all, &error) ||
        pleat_seq_open(engine, all, &prompt, &error))
        fail_msg("%s", error.text);
    for (int i = 0; i < N; i++) {
        if (pleat_method_parse(list[i], model, &method, &error))
            fail_msg("%s", error.text);
        engine_seq_want(prompt, method);
        pleat_method_free(method);
    }
    assert_int_equal(pleat_seq_expect(prompt, 100, NULL), PLEAT_OK);
    if (pleat_prefill(engine, prompt, ids, n_tokens, false, PLEAT_LOGITS_NONE, NULL, &error))
        fail_msg("%s", error.text);
    int n_layer = pleat_model_describe(model).n_layer, layer[N_SCENES] = {0, n_layer / 2, n_layer - 1};
    scene scenes[N_SCENES];
    for (int i = 0; i < N_SCENES; i++)
        scenes[i] = scene_of(engine_seq_cache(prompt), layer[i]);
    for (int i = 0; i < N; i++)
        check_fork(engine, prompt, list[i], scenes, N_SCENES);
    for (int i = 0; i < N_SCENES; i++)
        scene_close(&scenes[i]);
    pleat_seq_close(prompt);
    pleat_engine_close(engine);
    pleat_method_free(all);
    pleat_model_close(model);
    free(ids);
    free(text);
}

static void kept_sets_on_smollm2(void **state) {
    (void)state;
    real_model("smollm2-135m", env_sanitized() ? 200 : 400);
}

static void kept_sets_on_qwen(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("a model of 500 MB under sanitizers");
    real_model("qwen2.5-coder-0.5b", 400);
}

/* ---- picks ---- */

typedef struct layer_rows { /* of one lane, as stored */
    float *k, *v;
    const int32_t *pos;
    int n;
} layer_rows;

static layer_rows rows_of(const kv_cache *cache, int il, int ih) {
    int n = kv_cache_slots(cache, il, ih);
    size_t floats = (size_t)n * (size_t)cache->model->head_dim;
    layer_rows r = {malloc(floats * sizeof(float)), malloc(floats * sizeof(float)), kv_cache_positions(cache, il, ih),
                    n};
    kv_cache_open_rows(cache, il, ih, KV_K, r.k);
    kv_cache_open_rows(cache, il, ih, KV_V, r.v);
    return r;
}

static void rows_free(layer_rows *r) {
    free(r->k);
    free(r->v);
}

/* Marks the n_best largest of s [n], ties to the smaller index. */
static void mark_best(const double *s, int n, int n_best, bool *marked) {
    for (int i = 0; i < n; i++) {
        int better = 0;
        for (int k = 0; k < n; k++)
            better += s[k] > s[i] || (s[k] == s[i] && k < i);
        marked[i] = better < n_best;
    }
}

/* The largest half that is not above x. */
static double half_below(double x) {
    f16 h = f16_from_f32((float)x);
    while ((double)f16_to_f32(h) > x)
        h = h == 0 || h == 0x8000 ? 0x8001 : (f16)(h & 0x8000 ? h + 1 : h - 1);
    return (double)f16_to_f32(h);
}

/* Upper bound of q . k over live slots from..from+n-1 (only = NULL), or of the chosen channels by the group's signs. */
static double bound(const layer_rows *r, int d, int from, int n, const float *q, const bool *only,
                    const bool *positive) {
    double u = 0;
    bool any = false;
    for (int j = 0; j < d; j++) {
        double low = INFINITY, high = -INFINITY;
        for (int i = from; i < from + n && i < r->n; i++)
            if (r->pos[i] != KV_DEAD) {
                low = fmin(low, (double)r->k[i * d + j]);
                high = fmax(high, (double)r->k[i * d + j]);
                any = true;
            }
        low = any ? half_below(low) : 0;
        high = any ? -half_below(-high) : 0;
        if (any && !only)
            u += fmax((double)q[j] * low, (double)q[j] * high);
        if (any && only && only[j])
            u += (double)q[j] * (positive[j] ? high : low);
    }
    return any ? u : -INFINITY;
}

static void quest_reads(const layer_rows *r, int d, int group, const float *q, int page, int n_best, int newest,
                        bool per_head, bool *read /* [group][n] */) {
    int n = (r->n + page - 1) / page;
    double *mean = calloc((size_t)n, sizeof(*mean)), *u = malloc((size_t)n * sizeof(*u));
    bool *marked = malloc((size_t)n);
    for (int pass = 0; pass < 2; pass++)
        for (int g = 0; g < group; g++) {
            double max = -INFINITY, sum = 0;
            for (int b = 0; b < n; b++) {
                u[b] = bound(r, d, b * page, page, q + g * d, NULL, NULL) / sqrt(d);
                max = fmax(max, u[b]);
            }
            for (int b = 0; b < n; b++)
                sum += exp(u[b] - max);
            for (int b = 0; pass == 0 && b < n; b++)
                mean[b] += exp(u[b] - max) / sum / group;
            if (pass == 0)
                continue;
            double *s = per_head ? u : mean;
            s[newest / page] = INFINITY;
            mark_best(s, n, n_best, marked);
            for (int i = 0; i < r->n; i++)
                read[g * r->n + i] = marked[i / page];
        }
    free(mean);
    free(u);
    free(marked);
}

static void rocket_reads(const layer_rows *r, int d, int group, const float *q, int n_channels, int n_tokens,
                         bool *read) {
    enum { PAGE = 4 };
    double size[KV_MAX_HEAD_DIM], *p = calloc((size_t)r->n, sizeof(*p)), *s = malloc((size_t)r->n * sizeof(*s));
    bool only[KV_MAX_HEAD_DIM], positive[KV_MAX_HEAD_DIM];
    for (int j = 0; j < d; j++) {
        double sum = 0;
        size[j] = 0;
        for (int g = 0; g < group; g++) {
            sum += (double)q[g * d + j];
            size[j] += fabs((double)q[g * d + j]);
        }
        positive[j] = sum > 0;
    }
    mark_best(size, d, n_channels, only);
    for (int g = 0; g < group; g++) {
        double all = 0, chosen = 0, max = -INFINITY, sum = 0;
        for (int j = 0; j < d; j++) {
            all += fabs((double)q[g * d + j]);
            chosen += only[j] ? fabs((double)q[g * d + j]) : 0;
        }
        for (int i = 0; i < r->n; i++) {
            s[i] = r->pos[i] == KV_DEAD
                       ? -INFINITY
                       : bound(r, d, i / PAGE * PAGE, PAGE, q + g * d, only, positive) / sqrt(d * chosen / all);
            max = fmax(max, s[i]);
        }
        for (int i = 0; i < r->n; i++)
            sum += exp(s[i] - max);
        for (int i = 0; i < r->n; i++)
            p[i] += exp(s[i] - max) / sum / group;
    }
    mark_best(p, r->n, n_tokens, read);
    for (int g = 1; g < group; g++)
        memcpy(read + g * r->n, read, (size_t)r->n);
    free(p);
    free(s);
}

static void attend_read(const layer_rows *r, int d, const float *q, const bool *read, float scale, double *out) {
    double max = -INFINITY, sum = 0, *p = malloc((size_t)r->n * sizeof(*p));
    for (int i = 0; i < r->n; i++) {
        p[i] = -INFINITY;
        if (!read[i] || r->pos[i] == KV_DEAD)
            continue;
        p[i] = 0;
        for (int j = 0; j < d; j++)
            p[i] += (double)q[j] * (double)r->k[i * d + j] * (double)scale;
        max = fmax(max, p[i]);
    }
    memset(out, 0, (size_t)d * sizeof(*out));
    for (int i = 0; i < r->n; i++)
        sum += p[i] = exp(p[i] - max);
    for (int i = 0; i < r->n; i++)
        for (int j = 0; j < d; j++)
            out[j] += p[i] / sum * (double)r->v[i * d + j];
    free(p);
}

/* Channels of stage 2 with 4 tokens to a bound, by the paper's sizes: the prompt's part of the compression first. */
static int rocket_channels(int n_prompt, double budget, int d) {
    double c = fmax(1, n_prompt / budget), capacity = floor(n_prompt / pow(c, fmin(0.2 + 0.06 * log2(c), 0.8))),
           ratio = fmax(1, capacity / budget);
    return (int)fmin(d, fmax(1, floor(d * 4 / ratio)));
}

static void compare_picked(const drive *d, kv_cache *cache, int n_prompt, const char *spec, const float *got) {
    int dim = d->model.head_dim, group = d->model.n_head / d->model.n_head_kv, newest = kv_cache_tokens(cache) - 1;
    const kv_method *m = kv_cache_method(cache);
    for (int il = 0; il < DRIVE_LAYERS; il++)
        for (int ih = 0; ih < d->model.n_head_kv; ih++) {
            layer_rows r = rows_of(cache, il, ih);
            float q[KV_MAX_GROUP * KV_MAX_HEAD_DIM];
            bool *read = malloc((size_t)(group * r.n));
            double out[KV_MAX_HEAD_DIM], error = 0, size = 0;
            int slot = 0;
            while (r.pos[slot] != newest)
                slot++;
            for (int g = 0; g < group; g++)
                drive_row(d, 7, 0, il, ih * group + g, newest, q + g * dim);
            memset(read, 1, (size_t)(group * r.n));
            if (!strcmp(m->policy->name, "rocket"))
                rocket_reads(&r, dim, group, q, rocket_channels(n_prompt, m->policy_config.value[0], dim),
                             (int)m->policy_config.value[0] / 2, read);
            else if (il >= (int)m->policy_config.value[2])
                quest_reads(&r, dim, group, q, m->policy_config.value[1] != 0 ? 16 : 4,
                            (int)m->policy_config.value[0] / (m->policy_config.value[1] != 0 ? 16 : 4), slot,
                            m->policy_config.value[3] != 0, read);
            int n_read = 0;
            for (int i = 0; i < r.n; i++)
                n_read += read[i];
            assert_true(n_read < r.n || (il == 0 && strstr(spec, "skip=1")));
            for (int g = 0; g < group; g++) {
                attend_read(&r, dim, q + g * dim, read + g * r.n, d->model.score_scale, out);
                for (int j = 0; j < dim; j++) {
                    double e = (double)got[(il * d->model.n_head + ih * group + g) * dim + j] - out[j];
                    error += e * e;
                    size += out[j] * out[j];
                }
            }
            if (!(sqrt(error / size) < 1e-3))
                fail_msg("%s, layer %d, head %d: relative error %g", spec, il, ih, sqrt(error / size));
            free(read);
            rows_free(&r);
        }
}

/* Decode steps over a prompt, each beside the reference. */
static void picked_as_formulas(drive_shape shape, const char *spec, int n_prompt, int n_steps) {
    drive d;
    drive_open(&d, shape, POOL);
    kv_cache *cache = drive_cache(&d, spec);
    float *out = malloc(drive_out_floats(&d, 1) * sizeof(*out));
    drive_prompt(&d, cache, 7, n_prompt, 512, true, NULL);
    for (int step = 0; step < n_steps; step++) {
        int n_sealed = kv_cache_sealed(cache, 0, 0, KV_K) + kv_cache_sealed(cache, 0, 0, KV_V);
        drive_decode(&d, cache, 7, 1, out);
        if (n_sealed == kv_cache_sealed(cache, 0, 0, KV_K) + kv_cache_sealed(cache, 0, 0, KV_V))
            compare_picked(&d, cache, n_prompt, spec, out); /* else the rows that were read are not there any more */
    }
    free(out);
    kv_cache_close(cache);
    drive_close(&d);
}

/* What a decode query reads is what the double reference picks, for every page as it is stored. */
static void picked_slots_are_the_formulas(void **state) {
    (void)state;
    static const char *const list[] = {"quest:budget=96,skip=1",
                                       "quest:budget=96,skip=0,select=head",
                                       "int8+quest:budget=64,skip=0,page=4",
                                       "kivi:bits=4+quest:budget=96,skip=0",
                                       "rocket:budget=128,window=16",
                                       "int8+rocket:budget=128,window=16",
                                       "rocket:budget=16,window=16", /* 79 tokens for 16: not all channels */
                                       "int8+rocket:budget=8,window=16",
                                       "rot:bits=4+quest:budget=96,skip=0",
                                       "lm:bits=4+rocket:budget=128,window=16",
                                       "fp8+quest:budget=96,skip=0,page=4",
                                       "gear+quest:budget=96,skip=0",
                                       "kitty+rocket:budget=128,window=16"};
    assert_true(rocket_channels(300, 128, 64) == 64 && rocket_channels(300, 16, 64) == 51);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        for (int k = 0; k < N_SHAPES; k++)
            picked_as_formulas(shapes[k], list[i], 300, 30);
}

/* The same over several chunks, with few slots read of many pages. */
static void picked_slots_of_a_long_prompt(void **state) {
    (void)state;
    static const char *const list[] = {"quest:budget=256,skip=0", "quest:budget=128,skip=0,page=4",
                                       "rocket:budget=400,window=16", "rocket:budget=24,window=16"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        for (int k = 0; k < N_SHAPES; k++)
            picked_as_formulas(shapes[k], list[i], 1500, 3);
}

/* Bounds hold for the rows that `open` gives, and are tight for halves. */
static void bounds_hold(void **state) {
    (void)state;
    static const char *const list[] = {"quest", "int8+quest:page=4", "kivi:bits=2,residual=64+quest",
                                       "int8+rocket:budget=128", "kivi:bits=4+rocket:budget=200"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, shapes[1], POOL);
        kv_cache *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, 333, 512, true, NULL);
        for (int turn = 0; turn < 2; turn++) {
            drive_decode(&d, cache, 7, 150, NULL);
            for (int ih = 0; ih < d.model.n_head_kv; ih++) {
                layer_rows r = rows_of(cache, 1, ih);
                int slots = cache->wants.bound_slots, dim = d.model.head_dim;
                for (int s = 0; s < r.n; s++)
                    for (int j = 0; r.pos[s] != KV_DEAD && j < dim; j++) {
                        const f16 *block = lane_of(cache, 1, ih)->bound[s / slots / 32] + s / slots % 32;
                        float low = f16_to_f32(block[j * 32]), high = f16_to_f32(block[(dim + j) * 32]),
                              x = r.k[s * dim + j];
                        assert_true(low <= x && x <= high);
                        bool met = i > 0;
                        for (int k = s / slots * slots; k < (s / slots + 1) * slots && k < r.n; k++)
                            met = met || r.k[k * dim + j] == low;
                        assert_true(met);
                    }
                rows_free(&r);
            }
            drive_prompt(&d, cache, 7, 200, 64, true, NULL);
        }
        assert_int_equal(kv_cache_stats(cache).kv_bytes + drive_queries_bytes(&d, cache), kv_pool_used_bytes(d.pool));
        kv_cache_close(cache);
        drive_close(&d);
    }
}

/* ---- bytes ---- */

static void lanes_of_adakv_differ_and_save(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shapes[1], POOL);
    static const char *const list[] = {"snapkv:keep=256,window=16+adakv:alpha=0",
                                       "int8+snapkv:keep=256,window=16+adakv:alpha=0"};
    for (int i = 0; i < 2; i++) {
        kv_cache *all = drive_cache(&d, "f16"), *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, all, 7, 1500, 512, true, NULL);
        drive_prompt(&d, cache, 7, 1500, 512, true, NULL);
        size_t bytes = 0;
        int tokens[2], differ = 0;
        for (int il = 0; il < DRIVE_LAYERS; il++) {
            for (int ih = 0; ih < 2; ih++) {
                const kv_lane *lane = lane_of(cache, il, ih);
                tokens[ih] = lane->n_live;
                for (int side = 0; side < 2; side++)
                    for (int page = 0; page < page_count(lane->n_slots); page++)
                        bytes += (lane->sealed[side][page].bytes ? lane->keep[side].geometry.page_bytes : 0) +
                                 (lane->tail[side][page] ? cache->f16_bytes : 0);
            }
            assert_int_equal(tokens[0] + tokens[1], 2 * 256);
            differ += abs(tokens[0] - tokens[1]);
        }
        assert_true(differ > 0);
        assert_int_equal(kv_cache_stats(cache).kv_bytes, bytes);
        assert_true(kv_cache_stats(cache).kv_bytes * 4 < kv_cache_stats(all).kv_bytes);
        drive_decode(&d, cache, 7, 100, NULL);
        kv_cache_close(all);
        kv_cache_close(cache);
    }
    drive_close(&d);
}

/* Bytes of fp16 pages for n tokens of every lane. */
static size_t f16_bytes(const drive *d, int n) {
    return (size_t)(DRIVE_LAYERS * d->model.n_head_kv * 2 * page_count(n)) * 64 * (size_t)d->model.head_dim *
           sizeof(f16);
}

/* Every preset with a bound in decode stays flat, within 1.5 times what its bound needs, for thousands of steps. */
static void bounded_methods_stay_flat(void **state) {
    (void)state;
    int n_bounded = 0;
    for (int i = 0; kv_presets[i].name; i++) {
        drive d;
        drive_open(&d, (drive_shape){.n_head = 2, .n_head_kv = 1, .d = 64}, POOL);
        kv_method m = drive_method(&d, kv_presets[i].name);
        int bound = m.policy->bound_tokens ? m.policy->bound_tokens(&m.policy_config) : INT_MAX;
        if (bound != INT_MAX) {
            kv_cache *cache = drive_cache(&d, kv_presets[i].name);
            size_t most = 0, half = 0;
            n_bounded++;
            drive_prompt(&d, cache, 7, 1024, 512, true, NULL);
            for (int step = 1; step <= 4096; step++) {
                drive_decode(&d, cache, 7, 1, NULL);
                size_t now = kv_pool_used_bytes(d.pool);
                most = now > most ? now : most;
                half = step == 2048 ? most : half;
            }
            assert_int_equal(half, most);
            if (most > f16_bytes(&d, bound) * 3 / 2)
                fail_msg("%s: %zu bytes, ideal %zu", kv_presets[i].name, most, f16_bytes(&d, bound));
            kv_cache_close(cache);
        }
        drive_close(&d);
    }
    assert_true(n_bounded >= 6); /* streaming, h2o, tova, expected, keydiff, rkv */
}

/* Peak bytes of a bounded prefill do not grow with the prompt: budget plus one grid step. */
static void bounded_prefill_bounds_every_budget(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int budget, grid;
    } list[] = {{"snapkv:keep=256", 256, 512},
                {"snapkv:keep=256+adakv", 256, 512},
                {"snapkv:keep=256+pyramid", 256, 512},
                {"snapkv:keep=256+critical", 256, 512},
                {"tova:keep=256", 256, 512},
                {"expected:keep=256", 256, 512},
                {"keydiff:keep=256", 256, 128},
                {"knorm:keep=256,skip=0", 256, 512},
                {"rkv:keep=256", 256, 512},
                {"int8+snapkv:keep=256", 256, 512}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        char spec[100];
        drive_open(&d, (drive_shape){.n_head = 2, .n_head_kv = 2, .d = 64}, POOL);
        snprintf(spec, sizeof(spec), "%s+prefill:bounded", list[i].spec);
        kv_cache *cache = drive_cache(&d, spec);
        drive_prompt(&d, cache, 7, 4000, 512, true, NULL);
        size_t peak = kv_cache_stats(cache).kv_peak_bytes, most = f16_bytes(&d, list[i].budget + list[i].grid + 64);
        if (peak > most)
            fail_msg("%s: a peak of %zu bytes, not %zu", spec, peak, most);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

/* ---- pins, layers ---- */

static bool alive(const kv_cache *cache, int il, int ih, int position) {
    const int32_t *pos = kv_cache_positions(cache, il, ih);
    for (int slot = 0; slot < kv_cache_slots(cache, il, ih); slot++)
        if (pos[slot] == position)
            return true;
    return false;
}

static void pinned_spans_survive(void **state) {
    (void)state;
    static const char *const list[] = {"h2o:heavy=10,recent=60",
                                       "snapkv:keep=64,window=8+adakv",
                                       "tova:keep=70",
                                       "keydiff:keep=70",
                                       "lagkv:lag=32,ratio=0.1",
                                       "kivi:bits=4,residual=64+rkv:keep=70,buffer=16",
                                       "streaming:sinks=4,recent=60,pos=original",
                                       "expected:keep=70,every=16+critical"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        for (int pin = 0; pin < 2; pin++) {
            drive d;
            char spec[100];
            drive_open(&d, shapes[1], POOL);
            snprintf(spec, sizeof(spec), "%s%s", list[i], pin ? "+pin" : "");
            kv_cache *cache = drive_cache(&d, spec);
            assert_int_equal(kv_cache_pin(cache, 120, 10, NULL), PLEAT_OK); /* before it is there */
            drive_prompt(&d, cache, 7, 320, 64, false, NULL);
            assert_int_equal(kv_cache_pin(cache, 100, 10, NULL), PLEAT_OK);
            assert_int_equal(kv_cache_pin(cache, 108, 13, NULL), PLEAT_OK); /* 100..129 now */
            drive_prompt(&d, cache, 7, 20, 64, true, NULL);
            drive_decode(&d, cache, 7, 100, NULL);
            int n_alive = 0;
            for (int il = 0; il < DRIVE_LAYERS; il++)
                for (int ih = 0; ih < 2; ih++)
                    for (int t = 100; t < 130; t++)
                        n_alive += alive(cache, il, ih, t);
            if (pin ? n_alive != 30 * 2 * DRIVE_LAYERS : n_alive == 30 * 2 * DRIVE_LAYERS)
                fail_msg("%s: %d pinned tokens are alive", spec, n_alive);
            kv_cache_close(cache);
            drive_close(&d);
        }
}

static void pins_that_cannot_be_are_refused(void **state) {
    (void)state;
    drive d;
    pleat_error error;
    drive_open(&d, shapes[0], POOL);
    kv_cache *cache = drive_cache(&d, "h2o+pin");
    assert_int_equal(kv_cache_pin(cache, -1, 5, &error), PLEAT_EINPUT);
    assert_int_equal(kv_cache_pin(cache, 5, 0, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "position 5"));
    kv_cache_close(cache);
    drive_close(&d);
}

static void layers_have_their_own_formats(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shapes[0], POOL);
    const char *path = env_temp("layers.txt");
    FILE *file = fopen(path, "w");
    fprintf(file, "# layers of the drive\n\n0 int8:group=row # the first\n  1   k=int8,v=f16\n");
    fclose(file);
    char by_file[400];
    snprintf(by_file, sizeof(by_file), "layers:file=%s+kivi-2+h2o-512", path);
    const char *const list[] = {"kivi-2+layers:first=1,format=int8",
                                "layers:1=(k=int8,v=f16),0=int8(group=row)+kivi-2+h2o-512", by_file};
    static const char *const want[][DRIVE_LAYERS][2] = {
        {{"int8", "int8"}, {"kivi", "kivi"}}, {{"int8", "int8"}, {"int8", "f16"}}, {{"int8", "int8"}, {"int8", "f16"}}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_method method = drive_method(&d, list[i]), again = drive_method(&d, method.spec);
        assert_string_equal(method.spec, again.spec);
        kv_cache *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, 300, 512, true, NULL);
        for (int il = 0; il < DRIVE_LAYERS; il++)
            for (int side = 0; side < 2; side++)
                assert_string_equal(lane_of(cache, il, 0)->keep[side].coding.format->name, want[i][il][side]);
        drive_decode(&d, cache, 7, 10, NULL);
        kv_cache_close(cache);
    }
    kv_method a = drive_method(&d, list[1]), b = drive_method(&d, list[2]);
    assert_string_equal(a.spec, b.spec); /* a file's map is spelled out */
    unlink(path);
    drive_close(&d);
}

/* ---- refusals ---- */

static void impossible_specs_are_refused_in_a_sentence(void **state) {
    (void)state;
    static const struct {
        const char *spec, *said;
    } list[] = {
        {"tova-512+adakv", "tova"},
        {"streaming-512+adakv", "streaming"},
        {"streaming-512+pyramid", "streaming"},
        {"quest+pyramid", "quest"},
        {"lagkv+adakv", "lagkv"},
        {"pyramid", "all"},
        {"snapkv+pyramid+adakv", "two different splits"},
        {"snapkv+h2o", "two different policies"},
        {"keydiff+critical", "the scores of the policy keydiff are no attention"},
        {"tova+critical", "the policy tova keeps one set of tokens for all heads of a layer"},
        {"critical", "all"},
        {"snapkv+critical:alpha=2", "alpha"},
        {"snapkv+critical:norm=l2", "norm"},
        {"snapkv+critical+critical:eps=0.1", "critical"},
        {"streaming-512+pin", "pos=original"},
        {"h2o+pin:n=4", "pin"},
        {"snapkv:kernel=4", "kernel=4"},
        {"snapkv:keep=8,window=16", "keep=8"},
        {"rkv:kernel=2", "kernel=2"},
        {"rkv:keep=4", "keep=4"},
        {"rocket:kernel=6", "kernel=6"},
        {"keydiff:block=100", "block=100"},
        {"knorm:keep=4,recent=8", "recent=8"},
        {"lagkv:ratio=0.001", "ratio=0.001"},
        {"quest:page=8", "page=8"},
        {"snapkv:pool=min", "pool=min"},
        {"layers:first=2", "format"},
        {"layers:first=x,format=int8", "first=x"},
        {"layers:first=3,format=int8", "3 first"},
        {"layers:5=int8", "layer 5"},
        {"layers:0-300=int8", "0-300"},
        {"layers:0=int8,0=kivi", "twice"},
        {"layers:0=h2o", "not a format"},
        {"layers:int8", "LAYERS=NAME"},
        {"layers:first=1,format=int8,1=kivi", "stand alone"},
        {"layers:file=/nonexistent/map", "/nonexistent/map"},
        {"layers:0=int8+layers:1=int8", "two modifiers layers"},
        {"layers:0=int8(tail=3)", "tail=3"},
    };
    drive d;
    drive_open(&d, shapes[0], POOL);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_method method;
        pleat_error error = {""};
        if (kv_method_parse(list[i].spec, &d.model, &method, &error) !=
            (strstr(list[i].spec, "file=") ? PLEAT_EIO : PLEAT_EINPUT))
            fail_msg("%s is not refused", list[i].spec);
        if (!strstr(error.text, list[i].said))
            fail_msg("%s: \"%s\" does not say %s", list[i].spec, error.text, list[i].said);
    }
    d.model.open_wo = NULL;
    kv_method method;
    pleat_error error = {""};
    assert_int_equal(kv_method_parse("snapkv+critical", &d.model, &method, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "output projection"));
    drive_close(&d);
}

static void presets_and_canonical_specs_are_stable(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shapes[0], POOL);
    static const char *const joined[] = {"snapkv-512+pyramid", "snapkv-512+adakv", "h2o-512+critical+adakv",
                                         "kivi-4+expected-512+critical+pin+sinks:n=4+prefill:bounded"};
    for (int i = 0; kv_presets[i].name; i++) {
        kv_method a = drive_method(&d, kv_presets[i].name), b = drive_method(&d, a.spec);
        assert_string_equal(a.spec, b.spec);
    }
    for (size_t i = 0; i < sizeof(joined) / sizeof(*joined); i++) {
        kv_method a = drive_method(&d, joined[i]), b = drive_method(&d, a.spec);
        assert_string_equal(a.spec, b.spec);
    }
    const char *warning[KV_MOST_WARNINGS];
    kv_method knorm = drive_method(&d, "knorm-512");
    assert_int_equal(kv_method_warnings(&knorm, &d.model, warning, 0), 0);
    d.model.has_qk_norm = true;
    assert_int_equal(kv_method_warnings(&knorm, &d.model, warning, 0), 1);
    assert_non_null(strstr(warning[0], "norms"));
    drive_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_sets_are_the_formulas),
        cmocka_unit_test(kept_sets_on_rows_of_smollm2),
        cmocka_unit_test(kept_sets_on_rows_of_qwen),
        cmocka_unit_test(kept_sets_are_the_formulas_in_bounded_prefill),
        cmocka_unit_test(snapkv_pools_as_published),
        cmocka_unit_test(streaming_attends_at_places_in_the_cache),
        cmocka_unit_test(h2o_steps_as_worked),
        cmocka_unit_test(pyramid_sums_exactly),
        cmocka_unit_test(adakv_blends_as_worked),
        cmocka_unit_test(critical_chooses_as_worked),
        cmocka_unit_test(formulas_of_the_reference_are_the_worked_ones),
        cmocka_unit_test(policies_score_as_worked),
        cmocka_unit_test(quest_bounds_as_worked),
        cmocka_unit_test(rocket_sizes_as_worked),
        cmocka_unit_test(kept_sets_on_smollm2),
        cmocka_unit_test(kept_sets_on_qwen),
        cmocka_unit_test(picked_slots_are_the_formulas),
        cmocka_unit_test(picked_slots_of_a_long_prompt),
        cmocka_unit_test(bounds_hold),
        cmocka_unit_test(lanes_of_adakv_differ_and_save),
        cmocka_unit_test(bounded_methods_stay_flat),
        cmocka_unit_test(bounded_prefill_bounds_every_budget),
        cmocka_unit_test(pinned_spans_survive),
        cmocka_unit_test(pins_that_cannot_be_are_refused),
        cmocka_unit_test(layers_have_their_own_formats),
        cmocka_unit_test(impossible_specs_are_refused_in_a_sentence),
        cmocka_unit_test(presets_and_canonical_specs_are_stable),
    };
    return cmocka_run_group_tests_name("policies", tests, NULL, NULL);
}
