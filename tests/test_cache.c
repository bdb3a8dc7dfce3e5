/* test_cache.c - the cache mechanism: formats x policies (a third of them, all with PLEAT_ALL) against a double
 * reference of what the cache holds, bit-equality where it is promised, bytes, windows, slot reuse, bounded prefill,
 * forks, second turns. */
#include "support/drive.h"
#include "support/env.h"
#include "support/sealed.h"
#include "support/small.h"
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static const drive_shape plain = {.n_head = 6, .n_head_kv = 2, .d = 64};
static const drive_shape windowed = {.n_head = 4, .n_head_kv = 1, .d = 64, .window = 100};
#define POOL ((size_t)1 << 30)

/* Formats in the variants that take another way through the cache; those of methods.def that none of them names join in
 * with their defaults. */
static const char *formats[64] = {"int8",
                                  "int8:group=row",
                                  "int8:axis=channel",
                                  "int8:tail=128",
                                  "int4:axis=channel,tail=64",
                                  "kivi:bits=4",
                                  "kivi:bits=2",
                                  "kivi:bits=4,residual=64,group=64",
                                  "kivi:bits=4,vseal=token",
                                  "kivi:bits=2,params=8",
                                  "k=kivi(bits=4),v=int8",
                                  "k=int8,v=f16",
                                  "k=f16,v=kivi(bits=2)",
                                  "k=int8,v=rot",
                                  "kitty",
                                  "kitty:sinks=5,page=64,window=64,boost=0",
                                  "k=kitty(sinks=64),v=int8",
                                  "k=int8,v=kitty",
                                  "gear",
                                  "gear:buffer=20,rank=0.02",
                                  "gear:run=prompt,backbone=kivi,bits=2",
                                  "k=gear(buffer=20),v=kivi",
                                  "k=kitty,v=gear(buffer=128)"};
static int n_formats;

static void list_formats(void) {
    while (formats[n_formats])
        n_formats++;
    for (int i = 0, n = n_formats; kv_formats[i]; i++) {
        bool named = false;
        size_t bytes = strlen(kv_formats[i]->name);
        for (int j = 0; j < n; j++)
            named |= !strncmp(formats[j], kv_formats[i]->name, bytes) && strchr(":", formats[j][bytes]);
        if (!named)
            formats[n_formats++] = kv_formats[i]->name;
    }
}

/* The same for policies; those of methods.def that none of them names join in, cut down to act on short prompts. */
static const char *policies[64] = {"all",
                                   "streaming:sinks=16,recent=112",
                                   "streaming:sinks=16,recent=112,pos=original",
                                   "h2o:heavy=48,recent=80",
                                   "h2o:heavy=48,recent=80,norm=1",
                                   "h2o:heavy=48,recent=80+sinks:n=4",
                                   "snapkv:keep=128,window=16",
                                   "snapkv:keep=128,window=32,kernel=5,pool=avg,decode=hold",
                                   "snapkv:keep=128+pyramid",
                                   "snapkv:keep=128+adakv:normalize=1+critical",
                                   "h2o:heavy=48,recent=80+adakv+critical:vnorm=l2",
                                   "tova:keep=100",
                                   "expected:keep=128,every=16",
                                   "keydiff:keep=128",
                                   "knorm:keep=128,skip=1",
                                   "lagkv:lag=32",
                                   "rkv:keep=128,buffer=16",
                                   "quest:budget=128,skip=0",
                                   "rocket:budget=128+pin"};
static int n_policies;

static void list_policies(void) {
    static char small[64][200];
    while (policies[n_policies])
        n_policies++;
    for (int i = 0, n = n_policies; kv_policies[i]; i++) {
        bool named = false;
        size_t bytes = strlen(kv_policies[i]->name);
        for (int j = 0; j < n; j++)
            named |= !strncmp(policies[j], kv_policies[i]->name, bytes) && strchr(":", policies[j][bytes]);
        if (named)
            continue;
        small_part(kv_policies[i]->name, kv_policies[i]->params, 4, small[i], sizeof(small[i]));
        policies[n_policies++] = small[i];
    }
}

/* ---- against the reference ---- */

static void compare(const drive *d, const float *got, const double *want, const char *what, int step) {
    int n = d->model.n_head * d->model.head_dim;
    double error = 0, size = 0;
    for (int i = 0; i < n; i++) {
        double e = (double)got[i] - want[i];
        error += e * e;
        size += want[i] * want[i];
    }
    if (!(sqrt(error / size) < 1e-3))
        fail_msg("%s, step %d: relative error %g", what, step, sqrt(error / size));
}

static void decode_and_compare(drive *d, kv_cache *cache, const char *what, int n_steps) {
    size_t width = (size_t)(d->model.n_head * d->model.head_dim);
    float *out = malloc(drive_out_floats(d, 1) * sizeof(*out));
    double *want = malloc(DRIVE_LAYERS * width * sizeof(*want));
    for (int step = 0; step < n_steps; step++) {
        for (int il = 0; il < DRIVE_LAYERS; il++)
            drive_expect(d, cache, 7, il, want + (size_t)il * width, NULL);
        drive_decode(d, cache, 7, 1, out);
        for (int il = 0; il < DRIVE_LAYERS && !kv_cache_method(cache)->policy->pick; il++) /* the reference reads all */
            compare(d, out + (size_t)il * width, want + (size_t)il * width, what, step);
        assert_int_equal(kv_cache_stats(cache).kv_bytes + drive_queries_bytes(d, cache), kv_pool_used_bytes(d->pool));
    }
    free(out);
    free(want);
}

static void one_method(drive_shape shape, const char *spec, int prompt, int steps) {
    drive d;
    drive_open(&d, shape, POOL);
    kv_cache *cache = drive_cache(&d, spec);
    drive_prompt(&d, cache, 7, prompt, 512, true, NULL);
    decode_and_compare(&d, cache, spec, steps);
    drive_prompt(&d, cache, 7, 70, 64, true, NULL); /* a second turn */
    decode_and_compare(&d, cache, spec, 3);
    kv_cache_close(cache);
    drive_close(&d);
}

/* Two thirds of the pairs, each in one mode of prefill, a sixth under sanitizers (every format and every policy is
 * among them); with PLEAT_ALL all pairs in both modes. */
static void every_combination_matches_the_reference(void **state) {
    (void)state;
    char spec[200];
    for (int i = 0; i < n_formats; i++)
        for (int j = 0; j < n_policies; j++)
            for (int bounded = 0; bounded < 2; bounded++) {
                if (!env_all() && (i + j + bounded) % (env_sanitized() ? 12 : 3))
                    continue;
                snprintf(spec, sizeof(spec), "%s+%s+prefill:%s", formats[i], policies[j],
                         bounded ? "bounded" : "exact");
                one_method(plain, spec, 600, 40);
            }
}

static void windowed_layers_match_the_reference(void **state) {
    (void)state;
    char spec[200];
    for (int i = 0; i < n_formats; i++)
        for (int j = 0; j < n_policies; j += env_sanitized() ? 9 : 3) {
            snprintf(spec, sizeof(spec), "%s+%s", formats[i], policies[(j + 3 * i) % n_policies]);
            one_method(windowed, spec, 333, 40);
        }
}

static void heads_of_128_and_256(void **state) {
    (void)state;
    one_method((drive_shape){.n_head = 3, .n_head_kv = 3, .d = 128}, "kivi:bits=4+h2o:heavy=48,recent=80", 300, 20);
    one_method((drive_shape){.n_head = 4, .n_head_kv = 1, .d = 256, .window = 64}, "kivi:bits=2", 300, 20);
    one_method((drive_shape){.n_head = 7, .n_head_kv = 1, .d = 128}, "int8+streaming:sinks=4,recent=60", 300, 20);
}

/* Thousands of steps, so that holes, rebuilds and reuse all happen. */
static void long_decode_matches_the_reference(void **state) {
    (void)state;
    static const char *const list[] = {"int8+h2o:heavy=48,recent=80",
                                       "kivi:bits=4+h2o:heavy=48,recent=80",
                                       "kivi:bits=4,vseal=token+streaming:sinks=16,recent=112",
                                       "kitty+h2o:heavy=48,recent=80",
                                       "k=kitty,v=int8+h2o:heavy=48,recent=80",
                                       "k=f16,v=kivi(bits=2)+h2o:heavy=48,recent=80"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, plain, POOL);
        kv_cache *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, 200, 512, true, NULL);
        drive_decode(&d, cache, 7, 1000, NULL);
        decode_and_compare(&d, cache, list[i], 70);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

/* A buffer of 2 leaves 62 places of each page empty: lanes number many times the context's slots. */
static void gaps_number_more_slots_than_the_context(void **state) {
    (void)state;
    drive_shape small = plain;
    small.context_tokens = 256;
    one_method(small, "gear:buffer=2+h2o:heavy=8,recent=24", 40, 300);
}

/* ---- bits ---- */

typedef struct run {
    int cut, n_workers;
    bool backwards, company; /* company: other sequences in every decode step */
} run;

/* Output of a prompt of n tokens and 20 decode steps. */
static void run_bits(drive_shape shape, const char *spec, int n, run r, float *prompt, float *last) {
    drive d;
    drive_open(&d, shape, POOL);
    d.n_workers = r.n_workers;
    d.backwards = r.backwards;
    kv_cache *cache = drive_cache(&d, spec), *other = drive_cache(&d, "f16"), *third = drive_cache(&d, "kivi+h2o");
    drive_prompt(&d, other, 3, 90, 64, true, NULL);
    drive_prompt(&d, third, 4, 700, 512, true, NULL);
    drive_prompt(&d, cache, 7, n, r.cut, true, prompt);
    for (int i = 0; i < 20; i++) {
        drive_item items[] = {
            {other, 3, 1, PLEAT_DECODE, NULL}, {cache, 7, 1, PLEAT_DECODE, last}, {third, 4, 1, PLEAT_DECODE, NULL}};
        drive_step(&d, r.company ? items : items + 1, r.company ? 3 : 1);
    }
    kv_cache_close(cache);
    kv_cache_close(other);
    kv_cache_close(third);
    drive_close(&d);
}

/* Under sanitizers every other schedule. */
static void bits_do_not_depend_on_the_schedule(void **state) {
    (void)state;
    enum { N = 1234 };
    static const run runs[] = {{512, 1, false, false}, {64, 1, false, false}, {128, 2, true, true},
                               {192, 4, false, true},  {256, 3, true, false}, {1024, 2, true, true}};
    static const char *const list[] = {"f16",
                                       "int8+h2o:heavy=48,recent=80",
                                       "kivi+streaming:sinks=16,recent=112",
                                       "kivi:bits=2+h2o:heavy=48,recent=80+prefill:bounded",
                                       "int8+prefill:bounded",
                                       "rot+streaming:sinks=16,recent=112",
                                       "snapkv:keep=100,window=24,decode=hold+adakv+critical",
                                       "tova:keep=100+prefill:bounded",
                                       "expected:keep=100,every=8",
                                       "rkv:keep=100,buffer=8+prefill:bounded",
                                       "quest:budget=128,skip=0",
                                       "int8+rocket:budget=100,window=16"};
    drive d;
    drive_open(&d, plain, POOL);
    size_t n_prompt = drive_out_floats(&d, N), n_last = drive_out_floats(&d, 1);
    drive_close(&d);
    for (int shape = 0; shape < 2; shape++)
        for (size_t i = 0; i < (shape && env_sanitized() ? 5 : sizeof(list) / sizeof(*list)); i++) {
            float *prompt[2] = {malloc(n_prompt * sizeof(float)), malloc(n_prompt * sizeof(float))};
            float *last[2] = {malloc(n_last * sizeof(float)), malloc(n_last * sizeof(float))};
            memset(prompt[0], 0, n_prompt * sizeof(float));
            memset(prompt[1], 0, n_prompt * sizeof(float));
            memset(last[0], 0, n_last * sizeof(float));
            memset(last[1], 0, n_last * sizeof(float));
            drive_shape s = shape ? windowed : plain;
            size_t n_runs = i < 5 || env_all() ? sizeof(runs) / sizeof(*runs) : shape ? 1 : 4;
            run_bits(s, list[i], N, runs[0], prompt[0], last[0]);
            for (size_t j = n_runs > 4 ? 1 : 2; j < n_runs; j += env_sanitized() ? 2 : 1) {
                run_bits(s, list[i], N, runs[j], prompt[1], last[1]);
                assert_memory_equal(prompt[0], prompt[1], n_prompt * sizeof(float));
                assert_memory_equal(last[0], last[1], n_last * sizeof(float));
            }
            for (int k = 0; k < 2; k++) {
                free(prompt[k]);
                free(last[k]);
            }
        }
}

/* f16: a token's output is the same bits by prefill and by decode. */
static void decode_equals_prefill(void **state) {
    (void)state;
    enum { N = 1300, FROM = 1000 };
    for (int shape = 0; shape < 2; shape++) {
        drive d;
        drive_open(&d, shape ? windowed : plain, POOL);
        size_t width = (size_t)(d.model.n_head * d.model.head_dim);
        float *all = malloc(drive_out_floats(&d, N) * sizeof(*all)),
              *one = malloc(drive_out_floats(&d, 1) * sizeof(*one));
        kv_cache *a = drive_cache(&d, "f16"), *b = drive_cache(&d, "f16");
        drive_prompt(&d, a, 7, N, 512, true, all);
        drive_prompt(&d, b, 7, FROM, 512, true, NULL);
        for (int t = FROM; t < N; t++) {
            drive_decode(&d, b, 7, 1, one);
            for (size_t il = 0; il < DRIVE_LAYERS; il++)
                assert_memory_equal(all + (il * N + (size_t)t) * width, one + il * width, width * sizeof(float));
        }
        kv_cache_close(a);
        kv_cache_close(b);
        free(all);
        free(one);
        drive_close(&d);
    }
}

/* Prompt of 500 and 60 steps under spec give f16's bits. */
static void assert_f16_bits(const char *spec, bool equal) {
    enum { N = 500 };
    drive d;
    drive_open(&d, plain, POOL);
    float *out[2];
    for (int i = 0; i < 2; i++) {
        kv_cache *cache = drive_cache(&d, i ? spec : "f16");
        out[i] = malloc(drive_out_floats(&d, 1) * sizeof(float));
        drive_prompt(&d, cache, 7, N, 512, true, NULL);
        drive_decode(&d, cache, 7, 60, out[i]);
        kv_cache_close(cache);
    }
    if (equal)
        assert_memory_equal(out[0], out[1], drive_out_floats(&d, 1) * sizeof(float));
    else
        assert_memory_not_equal(out[0], out[1], drive_out_floats(&d, 1) * sizeof(float));
    free(out[0]);
    free(out[1]);
    drive_close(&d);
}

static void budget_or_tail_above_the_length_is_f16(void **state) {
    (void)state;
    assert_f16_bits("streaming:sinks=64,recent=600", true);
    assert_f16_bits("h2o:heavy=64,recent=600", true);
    assert_f16_bits("h2o:heavy=600,recent=16,norm=1", true);
    assert_f16_bits("snapkv:keep=600,decode=hold+adakv+critical", true);
    assert_f16_bits("snapkv:keep=600+pyramid", true);
    assert_f16_bits("tova:keep=600", true);
    assert_f16_bits("expected:keep=600,every=16", true);
    assert_f16_bits("keydiff:keep=600", true);
    assert_f16_bits("knorm:keep=600", true);
    assert_f16_bits("lagkv:lag=400", true);
    assert_f16_bits("rkv:keep=600,buffer=16", true);
    assert_f16_bits("quest:budget=600", true);
    assert_f16_bits("quest:budget=64,skip=2", true);
    assert_f16_bits("rocket:budget=1200", true);
    assert_f16_bits("quest:budget=64,skip=1", false);
    assert_f16_bits("rocket:budget=600", false);
    assert_f16_bits("kivi:bits=2,residual=640", true);
    assert_f16_bits("int8:tail=640", true);
    assert_f16_bits("kivi:bits=4,residual=640,vseal=token+h2o:heavy=64,recent=600+prefill:exact", true);
    assert_f16_bits("streaming:sinks=64,recent=100", false);
    assert_f16_bits("kivi:bits=4,residual=128", false);
}

/* An exact prompt of a format with sinks is f16's in every bit, and its first seal moves nothing out of order: the
 * sinks are exact for ever, and sealed pages begin behind them. */
static void sinks_stay_exact(void **state) {
    (void)state;
    enum { N = 1000 };
    drive d;
    drive_open(&d, plain, POOL);
    kv_cache *a = drive_cache(&d, "f16"), *b = drive_cache(&d, "kitty");
    size_t n = drive_out_floats(&d, N);
    float *x = malloc(n * sizeof(*x)), *y = malloc(n * sizeof(*y)), rows[1088 * 64], row[64];
    drive_prompt(&d, a, 7, N, 512, true, x);
    drive_prompt(&d, b, 7, N, 128, true, y);
    assert_memory_equal(x, y, n * sizeof(*x));
    drive_decode(&d, b, 7, 10, NULL);
    for (int side = 0; side < 2; side++) {
        kv_cache_open_rows(b, 0, 1, (kv_side)side, rows);
        const int32_t *pos = kv_cache_positions(b, 0, 1);
        assert_int_equal(kv_cache_slots(b, 0, 1), N + 10 + 32);
        for (int slot = 0; slot < N + 10 + 32; slot++) {
            int t = slot < 32 ? slot : slot - 32;
            if (slot >= 32 && slot < 64) {
                assert_int_equal(pos[slot], KV_DEAD);
                continue;
            }
            assert_int_equal(pos[slot], t);
            drive_row(&d, 7, 1 + side, 0, 1, t, row);
            bool exact = true;
            for (int j = 0; j < 64; j++)
                exact &= rows[slot * 64 + j] == f16_to_f32(f16_from_f32(row[j]));
            assert_int_equal(exact, slot < 64 || slot >= kv_cache_sealed(b, 0, 1, (kv_side)side));
        }
    }
    kv_cache_close(a);
    kv_cache_close(b);
    free(x);
    free(y);
    drive_close(&d);
}

/* Under bounded the events lie behind the sinks' page, and seal whole runs. */
static void grid_points_lie_behind_the_sinks(void **state) {
    (void)state;
    drive d;
    drive_open(&d, plain, POOL);
    kv_cache *cache = drive_cache(&d, "kitty+prefill:bounded");
    assert_int_equal(kv_cache_cut(cache, 2000), 64 + 512);
    drive_prompt(&d, cache, 7, 64 + 512, 64, false, NULL);
    assert_int_equal(kv_cache_cut(cache, 2000), 512);
    for (int side = 0; side < 2; side++)
        assert_int_equal(kv_cache_sealed(cache, 0, 0, (kv_side)side), 64 + 512);
    drive_prompt(&d, cache, 7, 511, 512, false, NULL);
    assert_int_equal(kv_cache_sealed(cache, 0, 0, KV_K), 64 + 512);
    kv_cache_close(cache);
    drive_close(&d);
}

/* Streaming has one segment until the first eviction, at exactly sinks + recent tokens. */
static void streaming_is_f16_until_it_evicts(void **state) {
    (void)state;
    drive d;
    drive_open(&d, plain, POOL);
    kv_cache *a = drive_cache(&d, "f16"), *b = drive_cache(&d, "streaming:sinks=16,recent=84");
    float *x = malloc(drive_out_floats(&d, 1) * sizeof(*x)), *y = malloc(drive_out_floats(&d, 1) * sizeof(*y));
    drive_prompt(&d, a, 7, 90, 64, true, NULL);
    drive_prompt(&d, b, 7, 90, 64, true, NULL);
    for (int n = 91; n <= 110; n++) { /* tokens that the step attends over */
        drive_decode(&d, a, 7, 1, x);
        drive_decode(&d, b, 7, 1, y);
        if (n <= 100)
            assert_memory_equal(x, y, drive_out_floats(&d, 1) * sizeof(*x));
        else
            assert_memory_not_equal(x, y, drive_out_floats(&d, 1) * sizeof(*x));
    }
    kv_cache_close(a);
    kv_cache_close(b);
    free(x);
    free(y);
    drive_close(&d);
}

/* ---- what is kept ---- */

static void kivi_windows_are_the_papers(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int n, steps, k_sealed, v_sealed;
    } list[] = {
        {"kivi:residual=128,vseal=page", 1000, 0, 896, 832},
        {"kivi:residual=128,vseal=page", 1000, 30, 1024, 896},
        {"kivi:residual=128,vseal=page", 256, 0, 256, 128},
        {"kivi:residual=128,vseal=page", 100, 0, 0, 0},
        {"kivi:residual=128,vseal=token", 1000, 0, 896, 872},
        {"kivi:residual=128,vseal=token", 1000, 30, 1024, 902},
        {"kivi:residual=128,vseal=token", 100, 30, 128, 2},
        {"kivi:residual=128,vseal=token", 256, 0, 256, 128},
        {"int8", 1000, 30, 1024, 1024},
        {"int8:tail=128", 1000, 0, 832, 832},
        {"kitty", 1000, 0, 64 + 896, 64 + 832}, /* behind 32 sinks in a page of their own */
        {"kitty", 1000, 56, 64 + 1024, 64 + 896},
        {"kitty", 159, 0, 0, 0},
        {"gear", 1000, 0, 960, 960},
        {"gear", 1000, 24, 1024, 1024},
        {"gear:buffer=20", 1000, 19, 1024, 1024}, /* 1,000 tokens, the last page in part */
        {"gear:buffer=20", 1000, 20, 1088, 1088},
        {"gear:buffer=20", 1010, 9, 1024, 1024},
        {"gear:buffer=20", 1010, 10, 1088, 1088},
        {"gear:buffer=128", 1000, 24, 1024, 1024},
        {"k=gear(buffer=20),v=kivi", 1000, 19, 960, 832}, /* other windows on the other side: whole pages */
        {"kitty", 160, 0, 64 + 128, 64},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, plain, POOL);
        kv_cache *cache = drive_cache(&d, list[i].spec);
        drive_prompt(&d, cache, 7, list[i].n, 512, true, NULL);
        drive_decode(&d, cache, 7, list[i].steps, NULL);
        for (int ih = 0; ih < d.model.n_head_kv; ih++) {
            assert_int_equal(kv_cache_sealed(cache, 0, ih, KV_K), list[i].k_sealed);
            assert_int_equal(kv_cache_sealed(cache, 1, ih, KV_V), list[i].v_sealed);
        }
        kv_cache_close(cache);
        drive_close(&d);
    }
}

/* H2O beside a simulation in double over the full attention of what is kept. */
static void h2o_keeps_what_its_definition_keeps(void **state) {
    (void)state;
    enum { HEAVY = 10, RECENT = 20, STEPS = 300 };
    drive d;
    drive_open(&d, plain, POOL);
    kv_cache *cache = drive_cache(&d, "h2o:heavy=10,recent=20");
    double out[6 * 64], *mass[2], acc[2][STEPS + 8] = {{0}};
    bool kept[2][STEPS + 8] = {{0}};
    mass[0] = malloc(1000 * sizeof(double));
    mass[1] = malloc(1000 * sizeof(double));
    drive_prompt(&d, cache, 7, 1, 64, true, NULL);
    for (int ih = 0; ih < 2; ih++) {
        kept[ih][0] = true;
        acc[ih][0] = 3; /* one token takes all of three heads */
    }
    for (int t = 1; t < STEPS; t++) {
        drive_expect(&d, cache, 7, 0, out, mass);
        for (int ih = 0; ih < 2; ih++) {
            const int32_t *pos = kv_cache_positions(cache, 0, ih);
            int n = kv_cache_slots(cache, 0, ih), n_live = 1;
            for (int i = 0; i < n; i++)
                if (pos[i] != KV_DEAD) {
                    acc[ih][pos[i]] += mass[ih][i];
                    n_live++;
                }
            acc[ih][t] = mass[ih][n];
            kept[ih][t] = true;
            int worst = -1;
            for (int p = 0; p <= t - RECENT; p++)
                if (kept[ih][p] && (worst < 0 || acc[ih][p] < acc[ih][worst]))
                    worst = p;
            if (n_live > HEAVY + RECENT)
                kept[ih][worst] = false;
        }
        drive_decode(&d, cache, 7, 1, NULL);
        for (int ih = 0; ih < 2; ih++) {
            const int32_t *pos = kv_cache_positions(cache, 0, ih);
            int n_live = 0;
            for (int i = 0; i < kv_cache_slots(cache, 0, ih); i++)
                if (pos[i] != KV_DEAD) {
                    assert_true(kept[ih][pos[i]]);
                    assert_true(fabs((double)kv_cache_mass(cache, 0, ih)[i] - acc[ih][pos[i]]) <
                                1e-3 * (1 + acc[ih][pos[i]]));
                    n_live++;
                }
            assert_int_equal(n_live, t + 1 < HEAVY + RECENT ? t + 1 : HEAVY + RECENT);
        }
    }
    kv_cache_close(cache);
    free(mass[0]);
    free(mass[1]);
    drive_close(&d);
}

/* Pages that n live tokens need in one lane of a format, without the tail's page. */
static size_t ideal_bytes(const kv_method *method, int d, int n) {
    size_t bytes = 0;
    for (int side = 0; side < 2; side++) {
        kv_geometry g;
        method->coding[side].format->geometry(&method->coding[side].config, (kv_side)side, d, &g);
        int n_tail = g.page_bytes ? g.keep_tokens : 0;
        bytes += (size_t)(n - n_tail + 63) / 64 * (g.page_bytes ? g.page_bytes : (size_t)(128 * d));
        bytes += (size_t)(n_tail + (g.page_bytes ? g.step_tokens + 63 : 0) + 63) / 64 * (size_t)(128 * d);
    }
    return bytes;
}

static void h2o_512_stays_near_its_ideal_bytes(void **state) {
    (void)state;
    static const char *const list[] = {"h2o-512",
                                       "int8+h2o-512",
                                       "kivi-4+h2o-512",
                                       "kivi-2+h2o-512",
                                       "kivi:bits=4,vseal=token+h2o-512",
                                       "kitty-2+h2o-512",
                                       "gear-4+h2o-512",
                                       "rot4+h2o-512",
                                       "k=kivi(bits=4),v=int8+h2o-512",
                                       "k=f16,v=kivi(bits=2)+h2o-512"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, (drive_shape){.n_head = 2, .n_head_kv = 1, .d = 64}, POOL);
        kv_cache *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, 1024, 512, true, NULL);
        size_t most = 0;
        for (int step = 0; step < 4096; step++) {
            drive_decode(&d, cache, 7, 1, NULL);
            size_t now = kv_pool_used_bytes(d.pool);
            most = now > most ? now : most;
        }
        size_t ideal = DRIVE_LAYERS * ideal_bytes(kv_cache_method(cache), 64, 512);
        if (most > ideal * 3 / 2)
            fail_msg("%s: %zu bytes, ideal %zu", list[i], most, ideal);
        assert_int_equal(kv_cache_stats(cache).kept_tokens_total, 512 * DRIVE_LAYERS);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

/* What formats hold of a prompt of 8,192 tokens, as a share of f16's bytes. */
static void bytes_at_8k_are_those_promised(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int d;
        double most, least;
    } list[] = {
        {"kivi-4", 64, .33, .31},
        {"kivi-4", 128, .33, .31},
        {"kivi:bits=4,params=8", 64, .30, .28},
        {"kivi:bits=4,params=8", 128, .30, .28},
        {"kivi-2", 64, .21, .18},
        {"kivi-2", 128, .21, .18},
        {"kivi:bits=2,params=8", 64, .175, .15},
        {"kivi:bits=2,params=8", 128, .175, .15},
        {"gear-4", 64, .40, .36},
        {"gear-4", 128, .35, .32},
        {"int8", 64, .54, .53},
        {"int8", 128, .54, .53},
        {"int8:tail=64", 64, .54, .53},
        {"int4", 64, .32, .31},
        {"int4", 128, .32, .31},
        {"rot8", 128, .54, .53},
        {"rot4", 128, .32, .31},
        {"fp8", 64, .52, .51},
        {"lm4", 64, .27, .26},
        {"lm3", 64, .21, .20},
        {"lm4-lm3", 128, .24, .22},
        {"kitty-2", 64, .20, .18},
        {"kitty-2", 128, .19, .17},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, (drive_shape){.n_head = 1, .n_head_kv = 1, .d = list[i].d, .context_tokens = 8192}, POOL);
        kv_cache *cache = drive_cache(&d, list[i].spec);
        assert_int_equal(kv_cache_fill(cache, 8192, 3, d.scratch[0], d.kernels, NULL), PLEAT_OK);
        double share = (double)kv_cache_stats(cache).kv_bytes / (DRIVE_LAYERS * 8192.0 * 4 * list[i].d);
        if (share > list[i].most || share < list[i].least)
            fail_msg("%s, d %d: %.4f of f16", list[i].spec, list[i].d, share);
        if (env_all())
            printf("%s, d %d: %.4f of f16's bytes at 8192 tokens\n", list[i].spec, list[i].d, share);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

static void bounded_prefill_bounds_the_peak(void **state) {
    (void)state;
    drive d;
    drive_open(&d, (drive_shape){.n_head = 2, .n_head_kv = 1, .d = 64}, POOL);
    static const char *const list[] = {"h2o-512", "streaming-512", "kivi-4+h2o-512", "int8+streaming-512"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        size_t peak[2];
        for (int long_prompt = 0; long_prompt < 2; long_prompt++) {
            char spec[100];
            snprintf(spec, sizeof(spec), "%s+prefill:bounded", list[i]);
            kv_cache *cache = drive_cache(&d, spec);
            drive_prompt(&d, cache, 7, long_prompt ? 6000 : 1500, 512, true, NULL);
            peak[long_prompt] = kv_cache_stats(cache).kv_peak_bytes;
            kv_cache_close(cache);
        }
        size_t budget_and_grid = DRIVE_LAYERS * 2 * (512 + 512 + 128) * 64 * 2;
        assert_true(peak[1] <= budget_and_grid);
        assert_true(peak[1] <= peak[0] * 11 / 10);
    }
    drive_close(&d);
}

static void pages_behind_a_window_are_given_back(void **state) {
    (void)state;
    drive d;
    drive_open(&d, (drive_shape){.n_head = 2, .n_head_kv = 1, .d = 64, .window = 64}, POOL);
    kv_cache *cache = drive_cache(&d, "streaming:sinks=4,recent=60");
    drive_prompt(&d, cache, 7, 64, 64, true, NULL);
    drive_decode(&d, cache, 7, 200, NULL);
    size_t now = kv_pool_used_bytes(d.pool);
    drive_decode(&d, cache, 7, 640, NULL);
    assert_int_equal(kv_pool_used_bytes(d.pool), now);
    assert_true(now <= 2 * 128 * 64 * (2 + 3)); /* at most two pages of layer 0 and three of the window, both sides */
    kv_cache_close(cache);
    drive_close(&d);
}

/* ---- turns, forks, ends ---- */

/* A fork of an f16 prompt is the same bits as a prompt run under the method itself. */
static void forks_equal_runs_of_their_own(void **state) {
    (void)state;
    static const char *const list[] = {"f16",
                                       "int8",
                                       "kivi-2",
                                       "h2o:heavy=48,recent=80",
                                       "kivi-4+streaming:sinks=4,recent=100",
                                       "snapkv:keep=100,window=16+critical",
                                       "int8+snapkv:keep=100,window=24",
                                       "tova:keep=100",
                                       "expected:keep=100,every=16",
                                       "keydiff:keep=100",
                                       "lagkv:lag=32",
                                       "rkv:keep=100,buffer=16",
                                       "kivi-4+quest:budget=128,skip=0",
                                       "rocket:budget=100,window=16",
                                       "kitty-2",
                                       "gear-4"};
    drive d;
    drive_open(&d, windowed, POOL);
    size_t n = drive_out_floats(&d, 1);
    float *x = malloc(n * sizeof(*x)), *y = malloc(n * sizeof(*y));
    kv_cache *src = drive_cache(&d, "f16");
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_method method = drive_method(&d, list[i]);
        kv_cache_want(src, kv_method_wants(&method));
    }
    drive_prompt(&d, src, 7, 777, 512, false, NULL);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_method method = drive_method(&d, list[i]);
        kv_cache *fork, *own = drive_cache(&d, list[i]);
        assert_int_equal(kv_cache_fork(src, &method, &fork, NULL), PLEAT_OK);
        drive_item end = {.cache = fork, .n_tokens = 0, .phase = PLEAT_PROMPT_END};
        assert_true(kv_pool_reserve(d.pool, kv_cache_step_bytes(fork, 0, PLEAT_PROMPT_END, 1)));
        assert_true(kv_scratch_grow(d.scratch[0], fork, 0));
        kv_cache_begin(end.cache, 0, PLEAT_PROMPT_END);
        for (int il = 0; il < DRIVE_LAYERS; il++)
            kv_cache_finish_layer(fork, il, d.scratch[0], d.kernels);
        kv_cache_end(fork);
        drive_prompt(&d, own, 7, 777, 512, true, NULL);
        assert_int_equal(kv_cache_stats(fork).kv_bytes, kv_cache_stats(own).kv_bytes);
        drive_decode(&d, fork, 7, 30, x);
        drive_decode(&d, own, 7, 30, y);
        assert_memory_equal(x, y, n * sizeof(*x));
        kv_cache_close(fork);
        kv_cache_close(own);
    }
    kv_cache_close(src);
    free(x);
    free(y);
    drive_close(&d);
}

static void forks_that_cannot_be_are_refused(void **state) {
    (void)state;
    drive d;
    drive_open(&d, plain, (size_t)3 << 20);
    kv_cache *src = drive_cache(&d, "f16"), *fork = NULL;
    kv_method h2o = drive_method(&d, "h2o-512"), same = drive_method(&d, "f16"),
              bounded = drive_method(&d, "int8+prefill:bounded");
    pleat_error error;
    drive_prompt(&d, src, 7, 2000, 512, false, NULL);
    assert_int_equal(kv_cache_fork(src, &h2o, &fork, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "h2o"));
    assert_int_equal(kv_cache_fork(src, &bounded, &fork, &error), PLEAT_EINPUT);
    size_t before = kv_pool_used_bytes(d.pool);
    assert_int_equal(kv_cache_fork(src, &same, &fork, &error), PLEAT_EFULL);
    assert_int_equal(kv_pool_used_bytes(d.pool), before);
    drive_prompt(&d, src, 7, 48, 512, true, NULL);
    assert_int_equal(kv_cache_fork(src, &same, &fork, &error), PLEAT_EINPUT);
    assert_null(fork);
    kv_cache_close(src);
    drive_close(&d);
}

/* A second turn attends to the compressed past and, under exact, to its own tokens in fp16. */
static void second_turn_sees_itself_in_fp16(void **state) {
    (void)state;
    enum { FIRST = 600, SECOND = 150 };
    drive d;
    drive_open(&d, plain, POOL);
    kv_cache *cache = drive_cache(&d, "kivi:bits=2,residual=64");
    drive_prompt(&d, cache, 7, FIRST, 512, true, NULL);
    drive_decode(&d, cache, 7, 5, NULL);
    int n_sealed = kv_cache_sealed(cache, 0, 0, KV_K);
    drive_prompt(&d, cache, 7, 59 + 64, 64, false, NULL);
    assert_int_equal(kv_cache_sealed(cache, 0, 0, KV_K), n_sealed);
    assert_int_equal(kv_cache_slots(cache, 0, 0), FIRST + 5 + 59 + 64);
    drive_prompt(&d, cache, 7, 30, 64, true, NULL);
    assert_int_equal(kv_cache_sealed(cache, 0, 0, KV_K), (FIRST + 5 + 59 + 64 + 30) / 64 * 64);
    decode_and_compare(&d, cache, "second turn", 3);
    kv_cache_close(cache);
    drive_close(&d);
}

static struct {
    const kv_format *format;
    int n;
} opened;

static void note_open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    opened.format->open(c, side, d, page, x);
    opened.n++;
}

/* Of a format without score and mix of its own each page is opened once for a tile of a prompt's queries, not once for
 * each, and gives what the format's own products give. */
static void a_page_is_opened_once_a_tile(void **state) {
    (void)state;
    enum { FIRST = 320, SECOND = 40, TILES = 3 };
    drive d;
    drive_open(&d, plain, POOL);
    kv_method method = drive_method(&d, "int8");
    opened.format = method.coding[KV_K].format;
    kv_format without = *opened.format;
    without.open = note_open;
    without.score = NULL;
    without.mix = NULL;
    size_t n = drive_out_floats(&d, SECOND);
    float *out[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
    for (int i = 0; i < 2; i++) {
        kv_cache *cache;
        for (int side = 0; i && side < 2; side++)
            method.coding[side].format = &without;
        assert_int_equal(kv_cache_open(&d.model, &method, d.pool, &cache, NULL), PLEAT_OK);
        drive_prompt(&d, cache, 7, FIRST, 512, true, NULL);
        assert_int_equal(kv_cache_sealed(cache, 0, 0, KV_K), FIRST);
        opened.n = 0;
        drive_prompt(&d, cache, 7, SECOND, 64, false, out[i]);
        assert_int_equal(opened.n, i * 2 * DRIVE_LAYERS * plain.n_head_kv * TILES * FIRST / PAGE_TOKENS);
        kv_cache_close(cache);
    }
    assert_true(rows_error(out[0], out[1], (int)n) < 1e-6);
    free(out[0]);
    free(out[1]);
    drive_close(&d);
}

static void room_counts_live_tokens_only_for_streaming(void **state) {
    (void)state;
    drive d;
    drive_open(&d, (drive_shape){.n_head = 2, .n_head_kv = 1, .d = 64, .context_tokens = 256}, POOL);
    kv_cache *a = drive_cache(&d, "h2o:heavy=4,recent=60"), *b = drive_cache(&d, "streaming:sinks=4,recent=60");
    drive_prompt(&d, a, 7, 200, 64, true, NULL);
    drive_prompt(&d, b, 7, 200, 64, true, NULL);
    assert_int_equal(kv_cache_room(a), 56);
    assert_int_equal(kv_cache_room(b), 256 - 63);
    drive_decode(&d, b, 7, 700, NULL);
    assert_int_equal(kv_cache_room(b), 256 - 63);
    assert_int_equal(kv_cache_tokens(b), 900);
    kv_cache_close(a);
    kv_cache_close(b);
    drive_close(&d);
}

/* A synthetic fill leaves the lanes that a real prompt of this length leaves. */
static void fill_looks_like_a_prompt(void **state) {
    (void)state;
    static const char *const list[] = {"f16",
                                       "int8",
                                       "kivi-4",
                                       "h2o-512",
                                       "streaming-512",
                                       "kivi-2+h2o-512",
                                       "snapkv-512",
                                       "tova-512",
                                       "expected-512",
                                       "keydiff-512",
                                       "knorm-512",
                                       "lagkv",
                                       "rkv-512",
                                       "quest-1024",
                                       "rocket-512",
                                       "snapkv-512+pyramid",
                                       "snapkv-512+critical",
                                       "kitty-2",
                                       "gear-4+h2o-512",
                                       "gear:buffer=20"};
    drive d;
    drive_open(&d, windowed, POOL);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_cache *real = drive_cache(&d, list[i]), *filled = drive_cache(&d, list[i]);
        drive_prompt(&d, real, 7, 1500, 512, true, NULL);
        assert_int_equal(kv_cache_fill(filled, 1500, 5, d.scratch[0], d.kernels, NULL), PLEAT_OK);
        pleat_seq_stats a = kv_cache_stats(real), b = kv_cache_stats(filled);
        assert_int_equal(a.kv_bytes, b.kv_bytes);
        assert_int_equal(a.kept_tokens_total, b.kept_tokens_total);
        assert_int_equal(a.seals, b.seals);
        drive_decode(&d, filled, 7, 5, NULL);
        kv_cache_close(real);
        kv_cache_close(filled);
    }
    drive_close(&d);
}

/* The table of key bounds grows with the lane, by its own steps: blocks of 4 slots a bound end at 1,024 slots. */
static void bounds_reach_as_far_as_slots(void **state) {
    (void)state;
    drive d;
    drive_open(&d, plain, POOL);
    kv_cache *cache = drive_cache(&d, "rocket:budget=1200");
    drive_prompt(&d, cache, 7, 500, 512, true, NULL);
    drive_decode(&d, cache, 7, 540, NULL);
    assert_int_equal(kv_cache_slots(cache, 0, 0), 1040);
    decode_and_compare(&d, cache, "rocket", 2);
    kv_cache_close(cache);
    drive_close(&d);
}

/* ---- bytes asked for ---- */

/* A prompt, an answer, a second turn, an answer. The pool's highest point, or 0 when a step was refused (drive_step
 * fails the test if one is overrun). */
static size_t run_in_pool(drive_shape shape, const char *spec, int n_prompt, size_t pool_bytes) {
    drive d;
    drive_open(&d, shape, pool_bytes);
    kv_cache *cache = drive_cache(&d, spec);
    static const int turns[] = {1, 300, 70, 150}; /* tokens; the first is the prompt's */
    bool fits = true;
    for (int turn = 0; turn < 4; turn++) {
        int left = turn ? turns[turn] : n_prompt;
        while (left && fits) {
            int n = turn % 2 ? 1 : kv_cache_cut(cache, left < 512 ? left : 512);
            drive_item item = {.cache = cache, .seed = 7, .n_tokens = n, .phase = PLEAT_PROMPT};
            if (turn % 2)
                item.phase = PLEAT_DECODE;
            else if (n == left)
                item.phase = PLEAT_PROMPT_END;
            fits = kv_pool_reserve(d.pool, kv_cache_step_bytes(cache, n, item.phase, 1));
            if (fits)
                drive_step(&d, &item, 1);
            left -= n;
        }
    }
    size_t peak = fits ? kv_cache_stats(cache).kv_peak_bytes + drive_queries_bytes(&d, cache) : 0;
    kv_cache_close(cache);
    drive_close(&d);
    return peak;
}

/* What is reserved is what a step takes at its highest point: a pool of exactly the peak serves the whole request, and
 * one of a page less does not. Presets either evict or seal; where a method does both it may ask for more, never for
 * less. Under sanitizers each in one mode of prefill. */
static void a_pool_of_the_peak_is_enough(void **state) {
    (void)state;
    static const int lengths[] = {865, 1023, 200};
    char spec[KV_MAX_SPEC_BYTES];
    for (int i = 0; kv_presets[i].name; i++)
        for (int k = env_sanitized() ? i % 2 * 3 : 0; k < 6; k += env_sanitized() ? 6 : 1) {
            snprintf(spec, sizeof(spec), "%s+prefill:%s", kv_presets[i].name, k % 2 ? "bounded" : "exact");
            drive_shape shape = k == 4 ? windowed : plain;
            size_t peak = run_in_pool(shape, spec, lengths[k / 2], POOL);
            if (run_in_pool(shape, spec, lengths[k / 2], peak) != peak)
                fail_msg("%s: a prompt of %d tokens takes %zu bytes, and is refused in a pool of them", spec,
                         lengths[k / 2], peak);
            assert_int_equal(run_in_pool(shape, spec, lengths[k / 2], peak - 64), 0);
        }
}

/* Tasks of a decode step's layer, for some caches of these lengths; dealt, unless NULL: pages of each of 4 threads. */
static int count_tasks(const int *n_slots, int n_caches, int *dealt) {
    enum { MOST = 16 };
    drive d;
    drive_item items[MOST];
    drive_open(&d, (drive_shape){.n_head = 6, .n_head_kv = 2, .d = 64}, (size_t)256 << 20);
    for (int i = 0; i < n_caches; i++) {
        kv_cache *cache = drive_cache(&d, "f16");
        assert_int_equal(kv_cache_fill(cache, n_slots[i] - 1, 7, d.scratch[0], d.kernels, NULL), PLEAT_OK);
        items[i] = (drive_item){.cache = cache, .seed = 7, .n_tokens = 1, .phase = PLEAT_DECODE};
    }
    drive_step(&d, items, n_caches);
    int n = kv_attend_tasks(d.attend);
    if (dealt)
        memcpy(dealt, d.dealt_pages, sizeof(d.dealt_pages));
    for (int i = 0; i < n_caches; i++)
        kv_cache_close(items[i].cache);
    drive_close(&d);
    return n;
}

/* Few lanes are shared out in chunks that end at 128, 256, 512, 1,024 slots and so on; many are not; and a long one is
 * beside short ones. */
static void lanes_are_shared_out_in_chunks(void **state) {
    (void)state;
    enum { LANES = 2, MANY = 16 };
    static const struct {
        int n_slots, n_chunks;
    } list[] = {{64, 1}, {128, 1}, {129, 2}, {256, 2}, {257, 3}, {512, 3}, {513, 4}, {1024, 4}, {1025, 5}, {2049, 6}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        assert_int_equal(count_tasks(&list[i].n_slots, 1, NULL), LANES * list[i].n_chunks);
    int n_slots[MANY];
    for (int i = 0; i < MANY; i++)
        n_slots[i] = 200;
    assert_int_equal(count_tasks(n_slots, MANY, NULL), LANES * MANY);
    for (int i = 1; i < MANY; i++)
        n_slots[i] = 64;
    n_slots[0] = 1000;
    assert_int_equal(count_tasks(n_slots, MANY, NULL), LANES * (MANY - 1 + 4));
}

/* Where a lane is split, threads get about the same number of pages, whatever order the lanes come in. */
static void pages_are_dealt_evenly(void **state) {
    (void)state;
    enum { N = 7, CHUNK = 16 };
    static const int n_slots[2][N] = {{2500, 1000, 400, 60, 40, 20, 10}, {20, 10, 400, 1000, 40, 2500, 60}};
    for (int i = 0; i < 2; i++) {
        int dealt[4], least = INT_MAX, most = 0;
        assert_true(count_tasks(n_slots[i], N, dealt) > 2 * N);
        for (int w = 0; w < 4; w++) {
            least = dealt[w] < least ? dealt[w] : least;
            most = dealt[w] > most ? dealt[w] : most;
        }
        if (most - least > CHUNK)
            fail_msg("pages of the threads: %d, %d, %d, %d", dealt[0], dealt[1], dealt[2], dealt[3]);
    }
}

/* Many lanes of a decode step ask for many small parts; few tiles of a prompt for fewer and larger ones. */
static void parts_have_room_whatever_came_before(void **state) {
    (void)state;
    enum { N = 16, SLOTS = 300, TURN = 64 };
    drive d;
    kv_cache *cache[N];
    drive_item items[N];
    drive_open(&d, (drive_shape){.n_head = 6, .n_head_kv = 2, .d = 64}, (size_t)256 << 20);
    for (int i = 0; i < N; i++) {
        cache[i] = drive_cache(&d, "f16");
        drive_prompt(&d, cache[i], 7, 1, 64, true, NULL);
    }
    for (int step = 0; step < SLOTS; step++) {
        for (int i = 0; i < N; i++)
            items[i] = (drive_item){.cache = cache[i], .seed = 7, .n_tokens = 1, .phase = PLEAT_DECODE};
        drive_step(&d, items, N);
    }
    float *small = malloc(drive_out_floats(&d, TURN) * sizeof(*small)),
          *large = malloc(drive_out_floats(&d, TURN) * sizeof(*large));
    drive_prompt(&d, cache[0], 7, TURN, TURN, true, small);
    drive_prompt(&d, cache[1], 7, 1, 64, true, NULL);
    drive_prompt(&d, cache[2], 7, TURN, TURN, true, large);
    assert_memory_equal(small, large, drive_out_floats(&d, TURN) * sizeof(*small));
    free(small);
    free(large);
    for (int i = 0; i < N; i++)
        kv_cache_close(cache[i]);
    drive_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_reach_as_far_as_slots),
        cmocka_unit_test(a_pool_of_the_peak_is_enough),
        cmocka_unit_test(every_combination_matches_the_reference),
        cmocka_unit_test(windowed_layers_match_the_reference),
        cmocka_unit_test(heads_of_128_and_256),
        cmocka_unit_test(long_decode_matches_the_reference),
        cmocka_unit_test(bits_do_not_depend_on_the_schedule),
        cmocka_unit_test(lanes_are_shared_out_in_chunks),
        cmocka_unit_test(pages_are_dealt_evenly),
        cmocka_unit_test(parts_have_room_whatever_came_before),
        cmocka_unit_test(decode_equals_prefill),
        cmocka_unit_test(budget_or_tail_above_the_length_is_f16),
        cmocka_unit_test(sinks_stay_exact),
        cmocka_unit_test(grid_points_lie_behind_the_sinks),
        cmocka_unit_test(gaps_number_more_slots_than_the_context),
        cmocka_unit_test(streaming_is_f16_until_it_evicts),
        cmocka_unit_test(kivi_windows_are_the_papers),
        cmocka_unit_test(h2o_keeps_what_its_definition_keeps),
        cmocka_unit_test(h2o_512_stays_near_its_ideal_bytes),
        cmocka_unit_test(bytes_at_8k_are_those_promised),
        cmocka_unit_test(bounded_prefill_bounds_the_peak),
        cmocka_unit_test(pages_behind_a_window_are_given_back),
        cmocka_unit_test(forks_equal_runs_of_their_own),
        cmocka_unit_test(forks_that_cannot_be_are_refused),
        cmocka_unit_test(second_turn_sees_itself_in_fp16),
        cmocka_unit_test(a_page_is_opened_once_a_tile),
        cmocka_unit_test(room_counts_live_tokens_only_for_streaming),
        cmocka_unit_test(fill_looks_like_a_prompt),
    };
    list_formats();
    list_policies();
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
