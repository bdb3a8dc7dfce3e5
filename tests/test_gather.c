/* test_gather.c - pages that move closer together: no bit of a cache changes, memory comes back, and a busy engine's
 * stays near its budget. */
#include "engine/engine.h"
#include "kv/gather.h"
#include "kv/image.h"
#include "kv/pool.h"
#include "support/bed.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { PIECE = 64, MB = 1 << 20 };

/* N prompts of n tokens (a multiple of PIECE) in turn, a piece each, so that their pages lie between each other's. */
static void prefill_in_turn(const bed *b, pleat_seq **seq, int n_seq, const int32_t *ids, int n) {
    for (int from = 0; from < n; from += PIECE)
        for (int i = 0; i < n_seq; i++)
            if (pleat_prefill(b->engine, seq[i], ids + from, PIECE, from + PIECE == n, PLEAT_LOGITS_NONE, NULL, NULL))
                fail_msg("sequence %d, token %d", i, from);
}

static kv_image image_of(pleat_seq *seq) {
    kv_image image;
    assert_int_equal(kv_image_save(engine_seq_cache(seq), &image, NULL), PLEAT_OK);
    return image;
}

/* ---- a cache ---- */

enum { N = 24, KEPT = 8, TOKENS = 384 };

static void check_method(const char *spec, const char *arch) {
    tiny_options o = tiny_default();
    o.arch = arch;
    o.window = 128;
    o.period = 2;
    o.context = 2 * TOKENS;
    bed b = bed_open(o, (pleat_engine_options){.n_threads = 1, .max_sequences = N, .pool_bytes = (size_t)512 * MB});
    kv_pool *pool = engine_pool(b.engine);
    int32_t *ids = bed_tokens(&b, TOKENS);
    pleat_seq *seq[N];
    kv_image before[N];
    for (int i = 0; i < N; i++)
        seq[i] = bed_seq(&b, spec);
    prefill_in_turn(&b, seq, N, ids, TOKENS);
    for (int i = 0; i < N; i++) {
        bed_decode(&b, seq[i], bed_token(&b, i), NULL);
        before[i] = image_of(seq[i]);
    }
    for (int i = 0; i < N; i++)
        if (i % KEPT)
            pleat_seq_close(seq[i]);
    size_t used = kv_pool_used_bytes(pool), could = kv_pool_mark(pool, SIZE_MAX);
    if (!could)
        fail_msg("%s: nothing lies apart", spec);
    for (int i = 0; i < N; i += KEPT)
        kv_cache_gather(engine_seq_cache(seq[i]));
    assert_int_equal(kv_pool_used_bytes(pool), used);
    if (kv_pool_mark(pool, SIZE_MAX) > could / 8)
        fail_msg("%s: %zu of %zu bytes are left to gather", spec, kv_pool_mark(pool, SIZE_MAX), could);
    for (int i = 0; i < N; i++) /* what was free is written to */
        if (i % KEPT)
            seq[i] = bed_seq(&b, spec);
    for (int i = 0; i < N; i++)
        if (i % KEPT && i < KEPT)
            bed_prefill(&b, seq[i], ids, TOKENS, NULL);
    for (int i = 0; i < N; i++) {
        if (i % KEPT == 0) {
            kv_image after = image_of(seq[i]);
            assert_int_equal(after.n_bytes, before[i].n_bytes);
            assert_memory_equal(after.bytes, before[i].bytes, after.n_bytes);
            kv_image_free(&after);
        }
        kv_image_free(&before[i]);
        pleat_seq_close(seq[i]);
    }
    free(ids);
    bed_close(&b);
}

static void no_bit_of_a_cache_changes(void **state) {
    (void)state;
    static const char *const specs[] = {"f16",         "kivi-4", "gear-4", "kitty-2", "quest:budget=128,page=16",
                                        "h2o-512+int8"};
    for (size_t i = 0; i < sizeof(specs) / sizeof(*specs); i++)
        check_method(specs[i], i % 2 ? "gemma3" : "llama");
}

/* ---- an engine ---- */

enum { ROUNDS = 4, AT_ONCE = 16, LONG = 1024 };

static void decode_all(const bed *b, pleat_seq **seq, int n) {
    pleat_item item[ROUNDS * AT_ONCE / 4];
    int32_t token = 3;
    for (int i = 0; i < n; i++)
        item[i] = (pleat_item){seq[i], &token, 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL};
    assert_int_equal(pleat_step(b->engine, item, n, NULL), PLEAT_OK);
}

/* Sequences of one method come, all but every fourth go, and those of another take what they left: without moving,
 * free places of the first size are kept, and the second takes new memory. */
static void memory_stays_near_the_budget(void **state) {
    (void)state;
    static const char *const specs[] = {"f16", "int8+prefill:bounded", "kivi-2+prefill:bounded",
                                        "int4+prefill:bounded"};
    tiny_options o = tiny_default();
    o.context = 2 * LONG;
    size_t f16_bytes = AT_ONCE * (size_t)LONG * 2 * 2 * 2 * 64 * sizeof(f16), most = 0, budget = f16_bytes * 9 / 8;
    bed b = bed_open(o, (pleat_engine_options){.n_threads = 1, .max_sequences = 8 * AT_ONCE, .pool_bytes = budget});
    kv_pool *pool = engine_pool(b.engine);
    int32_t *ids = bed_tokens(&b, LONG);
    pleat_seq *seq[AT_ONCE], *kept[ROUNDS * AT_ONCE / 4];
    int n_kept = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++)
            seq[i] = bed_seq(&b, specs[round % 4]);
        int n = round ? LONG / 2 : LONG;
        prefill_in_turn(&b, seq, AT_ONCE, ids, n);
        for (int i = 0; i < AT_ONCE; i++)
            if (i % 4 == 0)
                kept[n_kept++] = seq[i];
            else
                pleat_seq_close(seq[i]);
        decode_all(&b, kept, n_kept);
        most = kv_pool_resident_bytes(pool) > most ? kv_pool_resident_bytes(pool) : most;
    }
    if (most > budget + budget / 16)
        fail_msg("%zu MB at most, of %d", most / MB, (int)(budget / MB));
    for (int i = 0; i < n_kept; i++)
        pleat_seq_close(kept[i]);
    free(ids);
    bed_close(&b);
}

/* A prompt that is offered to later ones; its sequence is gone. */
static void leave_prompt(const bed *b, const char *spec, const int32_t *ids, int n, const char *salt) {
    int n_reused;
    pleat_seq *seq = bed_seq(b, spec);
    assert_int_equal(pleat_seq_reuse(seq, ids, n, salt, &n_reused, NULL), PLEAT_OK);
    assert_int_equal(n_reused, 0);
    bed_prefill(b, seq, ids, n, NULL);
    pleat_seq_close(seq);
}

/* Pages of earlier prompts, of which every other was forgotten in between. */
static void pages_of_earlier_prompts_move(void **state) {
    (void)state;
    enum { PROMPTS = 40, N_TOKENS = 4 * PIECE, BLOCK = 2 * 2 * 2 * PIECE * 64 * 2, APART = 7 };
    tiny_options o = tiny_default();
    bed b = bed_open(o, (pleat_engine_options){.n_threads = 1, .pool_bytes = 16 * MB, .prefix_bytes = 16 * MB});
    kv_pool *pool = engine_pool(b.engine);
    int32_t *ids = bed_tokens(&b, N_TOKENS);
    char salt[16];
    static void *between[PROMPTS * APART];
    for (int i = 0; i < PROMPTS; i++) {
        snprintf(salt, sizeof(salt), "%d", i);
        leave_prompt(&b, "f16", ids, N_TOKENS - 1, salt); /* three whole blocks */
        for (int k = 0; k < APART; k++) {
            between[i * APART + k] = kv_pool_take(pool, PIECE * 64 * 2);
            assert_non_null(between[i * APART + k]);
        }
    }
    for (int i = 0; i < PROMPTS * APART; i++)
        kv_pool_give(pool, between[i], PIECE * 64 * 2);
    size_t used = kv_pool_used_bytes(pool), apart = kv_pool_mark(pool, SIZE_MAX);
    assert_int_equal(used, (size_t)PROMPTS * 3 * BLOCK);
    assert_true(apart >= MB);
    void *large[64]; /* until the memory is above the budget */
    int n = 0;
    while (n < 64 && (large[n] = kv_pool_take(pool, 192 << 10)))
        n++;
    assert_true(kv_pool_resident_bytes(pool) > 16 * MB);
    kv_pool_give(pool, large[--n], 192 << 10);
    pleat_seq *seq = bed_seq(&b, "f16");
    bed_prefill(&b, seq, ids, 1, NULL);
    assert_true(kv_pool_mark(pool, SIZE_MAX) <= apart / 2);
    pleat_seq_close(seq);
    int n_reused;
    seq = bed_seq(&b, "f16");
    assert_int_equal(pleat_seq_reuse(seq, ids, N_TOKENS, "39", &n_reused, NULL), PLEAT_OK);
    assert_int_equal(n_reused, 3 * PIECE);
    while (n)
        kv_pool_give(pool, large[--n], 192 << 10);
    float *found = malloc((size_t)b.n_vocab * sizeof(*found)), *cold = malloc((size_t)b.n_vocab * sizeof(*cold));
    bed_prefill(&b, seq, ids + n_reused, N_TOKENS - n_reused, found);
    pleat_seq_close(seq);
    seq = bed_seq(&b, "f16");
    bed_prefill(&b, seq, ids, N_TOKENS, cold);
    assert_memory_equal(found, cold, (size_t)b.n_vocab * sizeof(*cold));
    pleat_seq_close(seq);
    free(found);
    free(cold);
    free(ids);
    bed_close(&b);
}

/* Images of earlier prompts lie beside the pool's pages and count as used; they go before its memory is above its
 * budget for long. */
static void images_of_earlier_prompts_give_way(void **state) {
    (void)state;
    enum { N_TOKENS = 1024, PAGE = 48 << 10, MOST = 1024 };
    bed b = bed_open(tiny_default(),
                     (pleat_engine_options){.n_threads = 1, .pool_bytes = 16 * MB, .prefix_bytes = 16 * MB});
    kv_pool *pool = engine_pool(b.engine);
    int32_t *ids = bed_tokens(&b, N_TOKENS);
    leave_prompt(&b, "streaming:sinks=64,recent=192+prefill:bounded", ids, N_TOKENS, NULL);
    size_t images = kv_pool_used_bytes(pool);
    assert_true(images > 256 * 2 * 2 * 2 * 64 * sizeof(f16) / 2);
    pleat_seq *seq = bed_seq(&b, "f16");
    bed_prefill(&b, seq, ids, 1, NULL);
    void *page[MOST];
    int n = 0;
    while (n < MOST && (page[n] = kv_pool_take(pool, PAGE)))
        n++;
    assert_true(kv_pool_resident_bytes(pool) > 16 * MB); /* the ends of slabs */
    size_t used = kv_pool_used_bytes(pool);
    bed_decode(&b, seq, 3, NULL);
    assert_true(used - kv_pool_used_bytes(pool) >= images / 2);
    while (n)
        kv_pool_give(pool, page[--n], PAGE);
    pleat_seq_close(seq);
    free(ids);
    bed_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bit_of_a_cache_changes),
        cmocka_unit_test(memory_stays_near_the_budget),
        cmocka_unit_test(pages_of_earlier_prompts_move),
        cmocka_unit_test(images_of_earlier_prompts_give_way),
    };
    return cmocka_run_group_tests_name("gather", tests, NULL, NULL);
}
