/* test_runs.c - what score keeps of the queries (kv_query_rows): GEAR's q B, made once per run and tile, and never that
 * of another run, other queries or another rotation. A table of kernels that looks at each product with a factor says
 * so: with heads of 128, B has 128 rows and a page's A has 64. And queries as whole numbers, folded once per tile where
 * maps are by token: a table that counts the rows which no scale goes into says so. */
#include "kv/tile.h"
#include "support/drive.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { D = 128, GROUP = 3, LANES = DRIVE_LAYERS * 2, PROMPT = 1100, MOST_MADE = 16 };
enum { MOST_ROWS = ATTEND_TILE_TOKENS * GROUP };
static const drive_shape shape = {.n_head = 2 * GROUP, .n_head_kv = 2, .d = D};
#define POOL ((size_t)1 << 30)

/* ---- kernels that look ---- */

typedef struct made { /* q B, as it was made */
    const float *c, *x;
    const f16 *b;
    int n_rows;
    float x_then[MOST_ROWS * D];
} made;

static struct watch {
    const cpu_kernels *kernels;
    made list[MOST_MADE]; /* one for each c */
    int n_list, n_made, n_used;
    size_t run_bytes; /* of the longest run */
} watch;

static made *made_of(const float *c) {
    for (int i = 0; i < watch.n_list; i++)
        if (watch.list[i].c == c)
            return &watch.list[i];
    return NULL;
}

static void watched_dots(const low_rank_factor *left, const float *x, int n_rows, float *c) {
    watch.kernels->low_rank_dots(left, x, n_rows, c);
    if (left->n != D)
        return;
    watch.n_made++;
    made *m = made_of(c);
    if (!m) {
        assert_true(watch.n_list < MOST_MADE);
        m = &watch.list[watch.n_list++];
    }
    assert_true(n_rows <= MOST_ROWS);
    m->c = c;
    m->x = x;
    m->b = left->x;
    m->n_rows = n_rows;
    memcpy(m->x_then, x, (size_t)(n_rows * D) * sizeof(*x));
}

/* A run's B lies in front of its pages' A, in one block. */
static void watched_add(const low_rank_factor *right, const float *c, int n_rows, float *out) {
    watch.kernels->low_rank_add(right, c, n_rows, out);
    if (right->n != PAGE_TOKENS)
        return;
    watch.n_used++;
    const made *m = made_of(c);
    assert_non_null(m);
    assert_int_equal(m->n_rows, n_rows);
    if (right->x < m->b || (size_t)((const char *)right->x - (const char *)m->b) >= watch.run_bytes)
        fail_msg("a page is scored with the q B of another run");
    if (memcmp(m->x, m->x_then, (size_t)(n_rows * D) * sizeof(*m->x)))
        fail_msg("a page is scored with the q B of other queries");
}

static void open_watched(drive *d, const char *spec) {
    static cpu_kernels looking;
    drive_open(d, shape, POOL);
    kv_method method = drive_method(d, spec);
    const kv_coding *coding = &method.coding[KV_K];
    kv_geometry geometry;
    coding->format->geometry(&coding->config, KV_K, D, &geometry);
    memset(&watch, 0, sizeof(watch));
    watch.kernels = d->kernels;
    watch.run_bytes = coding->format->run_bytes(&coding->config, KV_K, D, geometry.run_pages, false);
    looking = *d->kernels;
    looking.low_rank_dots = watched_dots;
    looking.low_rank_add = watched_add;
    d->kernels = &looking;
}

/* ---- once ---- */

/* 17 sealed pages in runs of 8, 8 and 1; a tile is at least a chunk. */
static void a_decode_step_makes_it_once_for_each_run_and_tile(void **state) {
    (void)state;
    drive d;
    open_watched(&d, "gear");
    kv_cache *cache = drive_cache(&d, "gear");
    drive_prompt(&d, cache, 7, PROMPT, 512, true, NULL);
    assert_int_equal(watch.n_used, 0);
    drive_decode(&d, cache, 7, 1, NULL);
    int n_pages = PROMPT / PAGE_TOKENS, n_runs = (n_pages + 7) / 8, n_chunks = chunk_of_page(n_pages) + 1;
    assert_int_equal(watch.n_used, LANES * n_pages);
    assert_in_range(watch.n_made, LANES * n_runs, LANES * (n_runs + n_chunks - 1));
    kv_cache_close(cache);
    drive_close(&d);
}

/* A second turn: the tiles of its tokens; and those of a policy's window, where a turn of one token leaves little else.
 */
static void prompts_and_policies_make_it_once_too(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int n_tokens;
    } list[] = {{"gear", 64}, {"gear+snapkv:keep=1024,window=32", 1}};
    for (size_t i = 0; i < 2; i++) {
        drive d;
        open_watched(&d, list[i].spec);
        kv_cache *cache = drive_cache(&d, list[i].spec);
        drive_prompt(&d, cache, 7, PROMPT, 512, true, NULL);
        assert_int_equal(watch.n_used, 0);
        drive_prompt(&d, cache, 7, list[i].n_tokens, 64, true, NULL);
        assert_in_range(watch.n_made, 1, watch.n_used / 3);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

/* ---- and of nothing else ---- */

static void compare(drive *d, kv_cache *cache, const char *spec) {
    int n = d->model.n_head * D;
    float *out = malloc(drive_out_floats(d, 1) * sizeof(*out));
    double *want = malloc(drive_out_floats(d, 1) * sizeof(*want));
    for (int il = 0; il < DRIVE_LAYERS; il++)
        drive_expect(d, cache, 7, il, want + il * n, NULL);
    drive_decode(d, cache, 7, 1, out);
    double error = 0, size = 0;
    for (int i = 0; i < DRIVE_LAYERS * n; i++) {
        error += ((double)out[i] - want[i]) * ((double)out[i] - want[i]);
        size += want[i] * want[i];
    }
    if (!(sqrt(error / size) < 1e-3))
        fail_msg("%s: relative error %g", spec, sqrt(error / size));
    free(out);
    free(want);
}

/* Two bits and a high rank, so that much of a key is in its low-rank part. Under streaming the first pages are scored
 * under two rotations, one of them under both. */
static void runs_queries_and_rotations_are_kept_apart(void **state) {
    (void)state;
#define GEAR "gear:bits=2,s=0,rank=16,rank_decode=8"
    static const char *const list[] = {
        GEAR,
        GEAR ",buffer=20",
        GEAR ",run=prompt,backbone=kivi",
        GEAR "+streaming:sinks=16,recent=912",
        GEAR "+streaming:sinks=100,recent=828+prefill:bounded",
        GEAR "+snapkv:keep=1024,window=32,decode=hold+prefill:bounded",
        GEAR "+h2o:heavy=600,recent=200",
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        open_watched(&d, list[i]);
        d.n_workers = 2;
        kv_cache *cache = drive_cache(&d, list[i]), *other = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, PROMPT, 512, true, NULL);
        drive_prompt(&d, other, 8, PROMPT, 512, true, NULL);
        for (int step = 0; step < 150; step++) {
            drive_item both[] = {{cache, 7, 1, PLEAT_DECODE, NULL}, {other, 8, 1, PLEAT_DECODE, NULL}};
            drive_step(&d, both, 2);
            if (step % 15 == 0)
                compare(&d, cache, list[i]);
        }
        drive_prompt(&d, cache, 7, 70, 64, true, NULL);
        compare(&d, cache, list[i]);
        assert_true(watch.n_made > 0);
        kv_cache_close(cache);
        kv_cache_close(other);
        drive_close(&d);
    }
}

/* ---- queries as whole numbers ---- */

static int n_plain; /* folds of rows without a scale: those of queries for maps by token */

static void counted_fold(const fold_item *items, int n_items, int n, dot_row *rows) {
    n_plain += !items->scale;
    watch.kernels->fold(items, n_items, n, rows);
}

/* Under streaming every page is scored under one of two rotations, or both. */
static void queries_are_folded_once_for_each_tile(void **state) {
    (void)state;
    static const char *const list[] = {"int8", "k=int4,v=f16", "rot4", "lm4", "int8+streaming:sinks=100,recent=828"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, shape, POOL);
        cpu_kernels counting = *d.kernels;
        watch.kernels = d.kernels;
        counting.fold = counted_fold;
        d.kernels = &counting;
        kv_cache *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, PROMPT, 512, true, NULL);
        n_plain = 0;
        drive_decode(&d, cache, 7, 1, NULL);
        int n_pages = PROMPT / PAGE_TOKENS, n_chunks = chunk_of_page(n_pages) + 1, rotations = i == 4 ? 2 : 1;
        assert_in_range(n_plain, LANES, LANES * n_chunks * rotations);
        assert_true(n_chunks * rotations < n_pages); /* or nothing is kept */
        for (int step = 0; step < 70; step++)
            if (step % 23 == 0)
                compare(&d, cache, list[i]);
            else
                drive_decode(&d, cache, 7, 1, NULL);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decode_step_makes_it_once_for_each_run_and_tile),
        cmocka_unit_test(prompts_and_policies_make_it_once_too),
        cmocka_unit_test(runs_queries_and_rotations_are_kept_apart),
        cmocka_unit_test(queries_are_folded_once_for_each_tile),
    };
    return cmocka_run_group_tests_name("runs", tests, NULL, NULL);
}
