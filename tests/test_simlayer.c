/* test_simlayer.c - SimLayerKV: a layer is judged by the share of attention of the first decode step, beside a double
 * reference of it; lazy ones are cut once and grow from then on. */
#include "support/drive.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>

#define POOL ((size_t)1 << 28)
enum { N = 500, INITIAL = 4, RECENT = 100 };
static const drive_shape shape = {.n_head = 6, .n_head_kv = 2, .d = 64};

static int live(const kv_cache *cache, int il, int ih) {
    const int32_t *pos = kv_cache_positions(cache, il, ih);
    int n = 0;
    for (int slot = 0; slot < kv_cache_slots(cache, il, ih); slot++)
        n += pos[slot] != KV_DEAD;
    return n;
}

static kv_cache *open_at(drive *d, double threshold, int n_prompt) {
    char spec[100];
    snprintf(spec, sizeof(spec), "simlayer:threshold=%.9f,initial=%d,recent=%d", threshold, INITIAL, RECENT);
    kv_cache *cache = drive_cache(d, spec);
    drive_prompt(d, cache, 7, n_prompt, 512, true, NULL);
    return cache;
}

/* Tokens of each lane of a layer after a prompt and n_steps steps. */
static void check_live(double threshold, int n_prompt, int n_steps, int first_layer, int last_layer) {
    drive d;
    drive_open(&d, shape, POOL);
    kv_cache *cache = open_at(&d, threshold, n_prompt);
    for (int ih = 0; ih < 2; ih++)
        assert_int_equal(live(cache, 0, ih), n_prompt); /* the prompt is kept until the first step */
    drive_decode(&d, cache, 7, n_steps, NULL);
    for (int ih = 0; ih < 2; ih++) {
        assert_int_equal(live(cache, 0, ih), first_layer);
        assert_int_equal(live(cache, 1, ih), last_layer);
    }
    kv_cache_close(cache);
    drive_close(&d);
}

static void lazy_layers_are_cut_once_and_grow(void **state) {
    (void)state;
    check_live(0, N, 1, INITIAL + RECENT, N + 1); /* the last layer is never cut */
    check_live(0, N, 90, INITIAL + RECENT + 89, N + 90);
    check_live(1, N, 90, N + 90, N + 90); /* no share exceeds 1 */
    check_live(0, INITIAL + RECENT - 2, 1, INITIAL + RECENT - 1, INITIAL + RECENT - 1);
}

/* The share that the next step's queries give to the tokens that would stay, in double. */
static double share_of(const drive *d, const kv_cache *cache) {
    double out[6 * 64], *mass[2], share = 0;
    for (int ih = 0; ih < 2; ih++)
        mass[ih] = malloc((size_t)(kv_cache_slots(cache, 0, ih) + 1) * sizeof(double));
    drive_expect(d, cache, 7, 0, out, mass);
    for (int ih = 0; ih < 2; ih++) {
        const int32_t *pos = kv_cache_positions(cache, 0, ih);
        int n = kv_cache_slots(cache, 0, ih);
        for (int slot = 0; slot < n; slot++)
            share += pos[slot] < INITIAL || (pos[slot] != KV_DEAD && pos[slot] > N - RECENT) ? mass[ih][slot] : 0;
        share += mass[ih][n]; /* the new token */
        free(mass[ih]);
    }
    return share / 6;
}

static void the_share_of_attention_decides(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shape, POOL);
    kv_cache *cache = open_at(&d, 1, N);
    double share = share_of(&d, cache);
    kv_cache_close(cache);
    drive_close(&d);
    assert_true(share > 0.05 && share < 0.95);
    check_live(share - 1e-5, N, 1, INITIAL + RECENT, N + 1);
    check_live(share + 1e-5, N, 1, N + 1, N + 1);
}

static void what_stays_is_the_first_and_the_newest(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shape, POOL);
    kv_cache *cache = open_at(&d, 0, N);
    drive_decode(&d, cache, 7, 1, NULL);
    for (int ih = 0; ih < 2; ih++) {
        const int32_t *pos = kv_cache_positions(cache, 0, ih);
        for (int slot = 0; slot < kv_cache_slots(cache, 0, ih); slot++)
            assert_true(pos[slot] == KV_DEAD || pos[slot] < INITIAL || pos[slot] > N - RECENT);
    }
    kv_cache_close(cache);
    drive_close(&d);
}

/* Each turn is judged at its own first step: what grew since the last one goes again. */
static void each_turn_is_judged(void **state) {
    (void)state;
    drive d;
    drive_open(&d, shape, POOL);
    kv_cache *cache = open_at(&d, 0, N);
    drive_decode(&d, cache, 7, 30, NULL);
    drive_prompt(&d, cache, 7, 70, 512, true, NULL);
    for (int ih = 0; ih < 2; ih++)
        assert_int_equal(live(cache, 0, ih), INITIAL + RECENT + 29 + 70);
    drive_decode(&d, cache, 7, 3, NULL);
    for (int ih = 0; ih < 2; ih++) {
        assert_int_equal(live(cache, 0, ih), INITIAL + RECENT + 2);
        assert_int_equal(live(cache, 1, ih), N + 30 + 70 + 3);
    }
    kv_cache_close(cache);
    drive_close(&d);
}

/* Under prefill:bounded a grid point judges too, and the cuts are the same whatever the format. */
static void grid_points_judge_and_formats_do_not_matter(void **state) {
    (void)state;
    enum { GRID = 512, PROMPT = 700 };
    static const char *const list[] = {"simlayer:threshold=0,initial=4,recent=100+prefill:bounded",
                                       "kivi-4+simlayer:threshold=0,initial=4,recent=100+prefill:bounded",
                                       "kivi-4+simlayer:threshold=0,initial=4,recent=100"};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        drive d;
        drive_open(&d, shape, POOL);
        kv_cache *cache = drive_cache(&d, list[i]);
        drive_prompt(&d, cache, 7, PROMPT, GRID, true, NULL);
        for (int ih = 0; ih < 2; ih++) {
            assert_int_equal(live(cache, 0, ih), i < 2 ? INITIAL + RECENT + PROMPT - GRID : PROMPT);
            assert_int_equal(live(cache, 1, ih), PROMPT);
        }
        drive_decode(&d, cache, 7, 1, NULL);
        for (int ih = 0; ih < 2; ih++) {
            const int32_t *pos = kv_cache_positions(cache, 0, ih);
            assert_int_equal(live(cache, 0, ih), INITIAL + RECENT);
            assert_int_equal(live(cache, 1, ih), PROMPT + 1);
            for (int slot = 0; slot < kv_cache_slots(cache, 0, ih); slot++)
                assert_true(pos[slot] == KV_DEAD || pos[slot] < INITIAL || pos[slot] > PROMPT - RECENT);
        }
        drive_decode(&d, cache, 7, 150, NULL);
        assert_int_equal(live(cache, 0, 0), INITIAL + RECENT + 150);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lazy_layers_are_cut_once_and_grow),           cmocka_unit_test(the_share_of_attention_decides),
        cmocka_unit_test(what_stays_is_the_first_and_the_newest),      cmocka_unit_test(each_turn_is_judged),
        cmocka_unit_test(grid_points_judge_and_formats_do_not_matter),
    };
    return cmocka_run_group_tests_name("simlayer", tests, NULL, NULL);
}
