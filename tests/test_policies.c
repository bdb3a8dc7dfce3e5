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

/* Events at grid points see what the ones before left. */
static void kept_sets_are_the_formulas_in_bounded_prefill(void **state) {
    (void)state;
    char spec[200];
    for (int i = 0; i < N_SPECS; i++) {
        snprintf(spec, sizeof(spec), "%s+prefill:bounded", specs[i].spec);
        trial_run(shapes[1], spec, strstr(spec, "keydiff") ? 300 : 700, 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_sets_are_the_formulas),
        cmocka_unit_test(kept_sets_are_the_formulas_in_bounded_prefill),
    };
    return cmocka_run_group_tests_name("policies", tests, NULL, NULL);
}
