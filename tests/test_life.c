/* test_life.c - the life of a cache beyond one run: long prompts taken over from earlier ones give the bits of a cold
 * run, tenants never meet, memory pressure lets go, caches move out and in bit for bit, damaged and foreign files are
 * refused. Every method in every turn of a life, on shorter prompts: test_matrix.c. */
#include "base/hash.h"
#include "base/rng.h"
#include "kv/image.h"
#include "kv/share.h"
#include "support/bed.h"
#include "support/env.h"
#include "support/trail.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { CONTEXT = 2048, N_COMMON = 1100, N_OTHER = 70, N_DECODE = 70 };
enum { VERSION = 3 }; /* of docs/cache_image.md */

static tiny_options long_model(void) {
    tiny_options o = tiny_default();
    o.context = CONTEXT;
    return o;
}

static bed open_with(tiny_options o, size_t prefix_bytes) {
    return bed_open(
        o, (pleat_engine_options){.n_threads = 2, .pool_bytes = (size_t)1 << 30, .prefix_bytes = prefix_bytes});
}

/* A prompt that begins like all others and ends in its own way. */
static int32_t *prompt_of(const bed *b, int variant, int *n) {
    *n = N_COMMON + N_OTHER;
    int32_t *ids = bed_tokens(b, *n);
    for (int i = N_COMMON; variant && i < *n; i++)
        ids[i] = bed_token(b, i + 1000 * variant);
    return ids;
}

static void decode_on(const bed *b, pleat_seq *seq, int n, trail *t) {
    for (int i = 0; i < n; i++) {
        int32_t token = bed_token(b, 77 + t->n);
        bed_decode(b, seq, token, trail_next(t));
    }
}

/* A whole request; salt NULL: without reuse. Returns the tokens reused. */
static int request(const bed *b, const char *spec, int variant, const char *salt, trail *t) {
    int n, n_reused = 0;
    int32_t *ids = prompt_of(b, variant, &n);
    pleat_error error = {""};
    pleat_seq *seq = bed_seq(b, spec);
    if (salt && pleat_seq_reuse(seq, ids, n, salt, &n_reused, &error))
        fail_msg("%s: %s", spec, error.text);
    bed_prefill(b, seq, ids + n_reused, n - n_reused, trail_next(t));
    decode_on(b, seq, N_DECODE, t);
    pleat_seq_close(seq);
    free(ids);
    return n_reused;
}

/* ---- reuse ---- */

static int expected_reuse(const bed *b, const char *spec) {
    kv_method method;
    assert_int_equal(kv_method_parse(spec, &engine_model(b->engine)->kv, &method, NULL), PLEAT_OK);
    kv_share_kind kind = kv_share_kind_of(&method, &engine_model(b->engine)->kv);
    if (kind == KV_SHARE_F16)
        return N_COMMON / 64 * 64;
    int first = kv_share_first_tokens(&method, &engine_model(b->engine)->kv, kind);
    return method.bounded ? first + (N_COMMON - first) / method.grid_tokens * method.grid_tokens : 0;
}

static void compare_with_cold(tiny_options o, const char *spec) {
    bed b = open_with(o, (size_t)512 << 20);
    trail cold = trail_new(&b, N_DECODE + 1), first = trail_new(&b, N_DECODE + 1), warm = trail_new(&b, N_DECODE + 1);
    request(&b, spec, 1, NULL, &cold);
    assert_int_equal(request(&b, spec, 0, "", &first), 0);
    int n_reused = request(&b, spec, 1, "", &warm), want = expected_reuse(&b, spec);
    if (n_reused != want)
        fail_msg("%s: %d tokens were reused, not %d", spec, n_reused, want);
    trail_compare(&cold, &warm, spec);
    trail_free(&cold);
    trail_free(&first);
    trail_free(&warm);
    bed_close(&b);
}

/* Over several grid points. */
static const char *const joined[] = {"f16",
                                     "keydiff-512+prefill:bounded",
                                     "kitty-2+prefill:bounded",
                                     "int8+prefill:bounded",
                                     "kivi-4+prefill:bounded",
                                     "kivi-2+h2o-512",
                                     "int8+streaming-512+prefill:bounded",
                                     "h2o-512+prefill:bounded",
                                     "kivi-4+h2o-512+prefill:bounded",
                                     "f16+prefill:bounded",
                                     "k=int8,v=kivi(bits=2)+prefill:bounded"};
enum { N_JOINED = sizeof(joined) / sizeof(*joined) };

static void for_each_joined(void (*check)(tiny_options, const char *)) {
    for (int i = 0; i < N_JOINED; i++)
        check(long_model(), joined[i]);
}

static void a_reused_prompt_gives_the_bits_of_a_cold_run(void **state) {
    (void)state;
    for_each_joined(compare_with_cold);
}

static void windowed_layers_are_reused_as_far_as_they_reach(void **state) {
    (void)state;
    tiny_options o = long_model();
    o.arch = "gemma3";
    o.window = 100;
    o.period = 2;
    compare_with_cold(o, "f16");
    compare_with_cold(o, "int8+prefill:bounded");
    o.window = 700; /* begins inside a run */
    compare_with_cold(o, "gear-4+prefill:bounded");
}

static void what_is_offered_is_what_a_cold_run_computes(void **state) {
    (void)state;
    bed b = open_with(long_model(), (size_t)512 << 20);
    static const char *const specs[] = {"f16", "kivi-4"};
    static const int expected[] = {N_COMMON + N_OTHER + N_DECODE, N_COMMON + N_OTHER};
    for (int i = 0; i < 2; i++) {
        int n, n_reused;
        int32_t *ids = prompt_of(&b, 2 + i, &n);
        ids = realloc(ids, (size_t)CONTEXT * sizeof(*ids));
        trail t = trail_new(&b, N_DECODE + 1);
        request(&b, specs[i], 2 + i, "", &t);
        for (int k = 0; n < CONTEXT - 1; k++)
            ids[n++] = bed_token(&b, 77 + 1 + k);
        pleat_seq *seq = bed_seq(&b, specs[i]);
        assert_int_equal(pleat_seq_reuse(seq, ids, n, "", &n_reused, NULL), PLEAT_OK);
        /* f16 offers its answer too; a lossy method its prompt alone. */
        assert_int_equal(n_reused, expected[i] / 64 * 64);
        pleat_seq_close(seq);
        trail_free(&t);
        free(ids);
    }
    bed_close(&b);
}

static void salts_and_methods_never_meet(void **state) {
    (void)state;
    bed b = open_with(long_model(), (size_t)512 << 20);
    trail t = trail_new(&b, N_DECODE + 1);
    request(&b, "kivi-4+prefill:bounded", 0, "tenant a", &t);
    t.n = 0;
    assert_int_equal(request(&b, "kivi-4+prefill:bounded", 0, "tenant b", &t), 0);
    t.n = 0;
    assert_int_equal(request(&b, "kivi-2+prefill:bounded", 0, "tenant a", &t), 0);
    t.n = 0;
    assert_int_equal(request(&b, "kivi-4+prefill:bounded", 0, "tenant a", &t), 1024);
    t.n = 0;
    assert_int_equal(request(&b, "f16", 0, "tenant a", &t), 0);
    t.n = 0;
    assert_true(request(&b, "int8", 0, "tenant a", &t) > 0); /* before its event an exact prompt is f16's */
    trail_free(&t);
    bed_close(&b);
}

/* Tokens that a new prompt takes over of one that was told otherwise: pinned spans, tokens expected. */
static int reused_when_told(const char *spec, int pin, int expect, int pin_other, int expect_other) {
    bed b = open_with(long_model(), (size_t)512 << 20);
    int n, n_reused = 0;
    int32_t *ids = prompt_of(&b, 0, &n);
    for (int i = 0; i < 2; i++) {
        pleat_seq *seq = bed_seq(&b, spec);
        assert_int_equal(pleat_seq_pin(seq, i ? pin_other : pin, 20, NULL), PLEAT_OK);
        assert_int_equal(pleat_seq_expect(seq, i ? expect_other : expect, NULL), PLEAT_OK);
        assert_int_equal(pleat_seq_reuse(seq, ids, n, "", &n_reused, NULL), PLEAT_OK);
        if (!i)
            bed_prefill(&b, seq, ids, n, NULL);
        pleat_seq_close(seq);
    }
    free(ids);
    bed_close(&b);
    return n_reused;
}

/* A copy of an evicted cache is for those alone who would have kept the same. */
static void copies_are_for_those_who_were_told_the_same(void **state) {
    (void)state;
    assert_int_equal(reused_when_told("h2o-512+pin+prefill:bounded", 30, 5, 30, 6), 1024);
    assert_int_equal(reused_when_told("h2o-512+pin+prefill:bounded", 30, 5, 31, 5), 0);
    assert_int_equal(reused_when_told("h2o-512+prefill:bounded", 30, 5, 31, 5), 1024);
    assert_int_equal(reused_when_told("kivi-4+pin+prefill:bounded", 30, 5, 31, 5), 1024); /* evicts nothing */
    assert_int_equal(reused_when_told("rocket-512+prefill:bounded", 30, 5, 30, 5), 1024);
    assert_int_equal(reused_when_told("rocket-512+prefill:bounded", 30, 5, 30, 100), 0);
}

static void only_an_empty_sequence_takes_over(void **state) {
    (void)state;
    bed b = open_with(long_model(), (size_t)512 << 20);
    int n, n_reused;
    int32_t *ids = prompt_of(&b, 0, &n);
    pleat_error error = {""};
    pleat_seq *seq = bed_seq(&b, "int8");
    bed_prefill(&b, seq, ids, 100, NULL);
    assert_int_equal(pleat_seq_reuse(seq, ids, n, "", &n_reused, &error), PLEAT_EINPUT);
    assert_string_equal(error.text, "only an empty sequence can take over a prompt");
    pleat_seq_close(seq);
    free(ids);
    bed_close(&b);
}

static void held_prompts_give_way_to_running_ones(void **state) {
    (void)state;
    bed b = bed_open(long_model(), (pleat_engine_options){.n_threads = 1});
    size_t need = pleat_model_describe(b.model).f16_token_bytes * 1344;
    bed_close(&b);
    b = bed_open(long_model(), (pleat_engine_options){
                                   .n_threads = 1, .pool_bytes = need + need / 2, .prefix_bytes = (size_t)1 << 30});
    trail t = trail_new(&b, N_DECODE + 1);
    for (int variant = 0; variant < 4; variant++) {
        t.n = 0;
        request(&b, "f16", variant, variant % 2 ? "odd" : "even", &t); /* fails the test if the pool is full */
    }
    assert_true(kv_pool_used_bytes(engine_pool(b.engine)) > 0);
    trail_free(&t);
    bed_close(&b);
}

/* A page that is held gives nothing back when it is sealed or copied. Steps know that before, and stop holding rather
 * than fail: whatever a request needs alone is enough with held prompts too. */
static void held_pages_never_overrun_a_tight_pool(void **state) {
    (void)state;
    static const char *const specs[] = {"int8", "kivi-4", "snapkv:keep=64,window=16", "int8+snapkv:keep=64"};
    for (size_t i = 0; i < sizeof(specs) / sizeof(*specs); i++) {
        pleat_engine_options options = {.n_threads = 1, .pool_bytes = (size_t)1 << 30};
        bed b = bed_open(long_model(), options);
        int n;
        int32_t *ids = prompt_of(&b, 0, &n);
        pleat_seq *seq = bed_seq(&b, specs[i]);
        trail t = trail_new(&b, N_DECODE + 1);
        bed_prefill(&b, seq, ids, n, trail_next(&t));
        decode_on(&b, seq, N_DECODE, &t);
        kv_wants wants = kv_method_wants(kv_cache_method(engine_seq_cache(seq)));
        size_t peak = pleat_seq_describe(seq).kv_peak_bytes + kv_queries_bytes(&b.model->kv, &wants);
        pleat_seq_close(seq);
        free(ids);
        bed_close(&b);
        peak += !strncmp(specs[i], "int8+", 5) ? peak / 10 : 0; /* evicting and sealing asks for more than it takes */
        options.prefix_bytes = (size_t)1 << 30;
        for (size_t tenths = 10; tenths <= 22; tenths += 2) {
            options.pool_bytes = peak * tenths / 10 / 64 * 64;
            b = bed_open(long_model(), options);
            for (int variant = 0; variant < 3; variant++) {
                t.n = 0;
                request(&b, specs[i], variant, "", &t); /* fails the test if the pool is full */
            }
            bed_close(&b);
        }
        free(t.logits);
    }
}

static void the_budget_of_held_prompts_holds(void **state) {
    (void)state;
    size_t budget = (size_t)1 << 20;
    bed b = open_with(long_model(), budget);
    trail t = trail_new(&b, N_DECODE + 1);
    for (int variant = 0; variant < 3; variant++) {
        t.n = 0;
        request(&b, "f16", variant, "", &t);
        assert_true(kv_pool_used_bytes(engine_pool(b.engine)) <= budget);
    }
    trail_free(&t);
    bed_close(&b);
}

static uint8_t *slurp(const char *path, size_t *n) {
    struct stat st;
    FILE *from = fopen(path, "rb");
    assert_non_null(from);
    assert_int_equal(fstat(fileno(from), &st), 0);
    uint8_t *bytes = malloc((size_t)st.st_size);
    *n = fread(bytes, 1, (size_t)st.st_size, from);
    fclose(from);
    return bytes;
}

/* docs/prefix_cache.md has a row for each preset: what it shares under exact and under bounded, and at which grid. */
static void the_manual_says_what_is_shared(void **state) {
    (void)state;
    bed b = open_with(long_model(), 0);
    const kv_model *model = &engine_model(b.engine)->kv;
    size_t n;
    uint8_t *doc = slurp("docs/prefix_cache.md", &n);
    for (int i = 0; kv_presets[i].name; i++) {
        char row[300], cell[2][64], spec[256];
        for (int bounded = 0; bounded < 2; bounded++) {
            kv_method method;
            snprintf(spec, sizeof(spec), "%s+prefill:%s", kv_presets[i].name, bounded ? "bounded" : "exact");
            assert_int_equal(kv_method_parse(spec, model, &method, NULL), PLEAT_OK);
            kv_share_kind kind = kv_share_kind_of(&method, model);
            int grid = kv_share_grid_tokens(&method, kind), first = kv_share_first_tokens(&method, model, kind);
            const char *name = kind == KV_SHARE_F16 ? "fp16" : kind == KV_SHARE_SEALED ? "sealed" : "image";
            if (!grid)
                strcpy(cell[bounded], "-");
            else if (first != grid)
                snprintf(cell[bounded], sizeof(cell[bounded]), "%s, %d + %d", name, first - grid, grid);
            else
                snprintf(cell[bounded], sizeof(cell[bounded]), "%s, %d", name, grid);
        }
        snprintf(row, sizeof(row), "\n| `%s` | %s | %s |\n", kv_presets[i].name, cell[0], cell[1]);
        if (!memmem(doc, n, row, strlen(row)))
            fail_msg("docs/prefix_cache.md has no row %s", row + 1);
    }
    free(doc);
    bed_close(&b);
}

/* ---- out and in ---- */

/* An image has the bytes that are said beforehand. */
static void check_image_bytes(pleat_seq *seq) {
    const kv_cache *cache = engine_seq_cache(seq);
    kv_image image;
    assert_int_equal(kv_image_save(cache, &image, NULL), PLEAT_OK);
    assert_int_equal(image.n_bytes, kv_image_bytes(cache));
    kv_image_free(&image);
}

static void move(pleat_seq *seq, const char *folder) {
    pleat_error error = {""};
    size_t held = pleat_seq_describe(seq).kv_bytes;
    check_image_bytes(seq);
    if (pleat_seq_move_out(seq, folder, &error))
        fail_msg("%s", error.text);
    assert_int_equal(kv_cache_stats(engine_seq_cache(seq)).kv_bytes, 0);
    if (pleat_seq_move_in(seq, &error))
        fail_msg("%s", error.text);
    assert_int_equal(pleat_seq_describe(seq).kv_bytes, held);
}

static void compare_with_unmoved(tiny_options o, const char *spec) {
    bed b = open_with(o, 0);
    int n;
    int32_t *ids = prompt_of(&b, 0, &n);
    trail still = trail_new(&b, N_DECODE + 1), moved = trail_new(&b, N_DECODE + 1);
    request(&b, spec, 0, NULL, &still);
    pleat_error error = {""};
    pleat_seq *seq = bed_seq(&b, spec);
    move(seq, NULL); /* before anything is in it */
    if (pleat_prefill(b.engine, seq, ids, 512, false, PLEAT_LOGITS_NONE, NULL, &error))
        fail_msg("%s", error.text);
    move(seq, NULL); /* inside the prompt */
    bed_prefill(&b, seq, ids + 512, n - 512, trail_next(&moved));
    move(seq, "/tmp"); /* after it */
    decode_on(&b, seq, N_DECODE / 2, &moved);
    move(seq, NULL);
    decode_on(&b, seq, N_DECODE - N_DECODE / 2, &moved);
    trail_compare(&still, &moved, spec);
    pleat_seq_close(seq);
    free(ids);
    trail_free(&still);
    trail_free(&moved);
    bed_close(&b);
}

static void a_moved_cache_goes_on_bit_for_bit(void **state) {
    (void)state;
    for_each_joined(compare_with_unmoved);
    tiny_options o = long_model();
    o.arch = "gemma3";
    o.window = 100;
    o.period = 2;
    compare_with_unmoved(o, "kivi-4+h2o-512");
}

static void a_moved_out_sequence_takes_part_in_no_step(void **state) {
    (void)state;
    bed b = open_with(long_model(), 0);
    pleat_error error = {""};
    pleat_seq *seq = bed_seq(&b, "int8");
    int32_t *ids = bed_tokens(&b, 100);
    bed_prefill(&b, seq, ids, 100, NULL);
    assert_int_equal(pleat_seq_move_in(seq, &error), PLEAT_EINPUT);
    assert_int_equal(pleat_seq_move_out(seq, "/no/such/folder", &error), PLEAT_EIO);
    assert_non_null(strstr(error.text, "/no/such/folder"));
    assert_int_equal(pleat_seq_move_out(seq, NULL, &error), PLEAT_OK);
    assert_int_equal(pleat_seq_move_out(seq, NULL, &error), PLEAT_EINPUT);
    pleat_item item = {seq, ids, 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL};
    assert_int_equal(pleat_step(b.engine, &item, 1, &error), PLEAT_EINPUT);
    assert_non_null(strstr(error.text, "moved out"));
    pleat_seq_close(seq); /* also from there */
    free(ids);
    bed_close(&b);
}

/* ---- kept files ---- */

static char *saved(const bed *b, const char *spec, int n_tokens, int32_t **tokens) {
    pleat_error error = {""};
    pleat_seq *seq = bed_seq(b, spec);
    char *path = strdup(env_temp("kept.kv"));
    *tokens = bed_tokens(b, n_tokens);
    bed_prefill(b, seq, *tokens, n_tokens, NULL);
    if (pleat_seq_save(seq, *tokens, n_tokens, path, &error))
        fail_msg("%s", error.text);
    assert_int_equal(pleat_seq_save(seq, *tokens, n_tokens - 1, path, &error), PLEAT_EINPUT);
    pleat_seq_close(seq);
    return path;
}

static void spill(const char *path, const uint8_t *bytes, size_t n) {
    FILE *to = fopen(path, "wb");
    assert_non_null(to);
    assert_int_equal(fwrite(bytes, 1, n, to), n);
    fclose(to);
}

static void a_kept_file_goes_on_in_another_engine(void **state) {
    (void)state;
    enum { N = 700 };
    int32_t *tokens, *loaded;
    int n_loaded;
    pleat_error error = {""};
    pleat_seq *seq;
    bed b = open_with(long_model(), 0);
    trail still = trail_new(&b, N_DECODE + 1), kept = trail_new(&b, N_DECODE + 1);
    char *path = saved(&b, "kivi-2+h2o-512", N, &tokens);
    seq = bed_seq(&b, "kivi-2+h2o-512");
    bed_prefill(&b, seq, tokens, N, trail_next(&still));
    decode_on(&b, seq, N_DECODE, &still);
    memcpy(trail_next(&kept), still.logits, (size_t)b.n_vocab * sizeof(float));
    pleat_seq_close(seq);
    bed_close(&b);
    b = open_with(long_model(), 0);
    if (pleat_seq_load(b.engine, path, &seq, &loaded, &n_loaded, &error))
        fail_msg("%s", error.text);
    assert_int_equal(n_loaded, N);
    assert_memory_equal(loaded, tokens, N * sizeof(*loaded));
    decode_on(&b, seq, N_DECODE, &kept);
    trail_compare(&still, &kept, "a kept file");
    pleat_seq_close(seq);
    bed_close(&b);
    unlink(path);
    free(path);
    free(tokens);
    free(loaded);
    trail_free(&still);
    trail_free(&kept);
}

/* Where docs/cache_image.md says that things are; another layout needs another version. */
static void a_kept_file_is_laid_out_as_its_manual_says(void **state) {
    (void)state;
    enum { N = 100, HEAD = 24 + 4 * N };
    size_t n;
    int32_t *tokens;
    bed b = open_with(long_model(), 0);
    const kv_model *model = &engine_model(b.engine)->kv;
    char *path = saved(&b, "int8", N, &tokens);
    uint8_t *bytes = slurp(path, &n), *image = bytes + HEAD;
    const struct {
        size_t at, n;
        uint64_t value;
    } number[] = {{8, 8, N},
                  {16, 8, hash_bytes(tokens, N * sizeof(*tokens), 0)},
                  {HEAD + 8, 4, VERSION},
                  {HEAD + 12, 4, (uint64_t)model->n_layer},
                  {HEAD + 16, 4, (uint64_t)model->n_head_kv},
                  {HEAD + 20, 4, (uint64_t)model->head_dim},
                  {HEAD + 24, 8, 0x0102030405060708u},
                  {HEAD + 32, 8, n - HEAD},
                  {HEAD + 40, 8, model->fingerprint},
                  {HEAD + 2096, 4, N},          /* tokens seen */
                  {HEAD + 2096 + 27, 4, N},     /* slots of the first lane: all of them, */
                  {HEAD + 2096 + 31, 4, N},     /* all alive, */
                  {HEAD + 2096 + 43, 4, 64},    /* a page of K sealed, */
                  {HEAD + 2096 + 80 + 8, 4, 2}, /* the third at position 2 */
                  {n - 8, 8, hash_bytes(image, n - HEAD - 8, VERSION)}};
    assert_memory_equal(bytes, "PLEATSQ", 8);
    assert_memory_equal(bytes + 24, tokens, N * sizeof(*tokens));
    assert_memory_equal(image, "PLEATKV", 8);
    assert_string_equal((char *)image + 48, "int8:group=32,axis=token,tail=0");
    for (size_t i = 0; i < sizeof(number) / sizeof(*number); i++) {
        uint64_t value = 0;
        memcpy(&value, bytes + number[i].at, number[i].n);
        if (value != number[i].value)
            fail_msg("byte %zu of a kept file: %llu, not %llu", number[i].at, (unsigned long long)value,
                     (unsigned long long)number[i].value);
    }
    unlink(path);
    free(path);
    free(bytes);
    free(tokens);
    bed_close(&b);
}

static void refused(const bed *b, const char *path, const char *why) {
    pleat_error error = {""};
    pleat_seq *seq;
    int32_t *tokens;
    int n;
    pleat_status status = pleat_seq_load(b->engine, path, &seq, &tokens, &n, &error);
    if (status != PLEAT_EINPUT || !strstr(error.text, why))
        fail_msg("status %d, \"%s\" instead of \"%s\"", (int)status, error.text, why);
    assert_int_equal(kv_pool_used_bytes(engine_pool(b->engine)), 0);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    size_t n;
    int32_t *tokens;
    bed b = open_with(long_model(), 0);
    char *path = saved(&b, "kivi-4", 300, &tokens);
    uint8_t *bytes = slurp(path, &n);
    for (size_t cut = 0; cut < n; cut += cut < 2000 ? 13 : 4999) {
        spill(path, bytes, cut);
        refused(&b, path, "");
    }
    for (size_t at = 0; at < n; at += at < 2000 ? 7 : 2999) {
        bytes[at] ^= 0x40;
        spill(path, bytes, n);
        refused(&b, path, "");
        bytes[at] ^= 0x40;
    }
    refused(&b, "/dev", "not a file");
    unlink(path);
    free(path);
    free(bytes);
    free(tokens);
    bed_close(&b);
}

/* Makes the hash of an image's bytes fit what they now are, and its length. */
static void make_fit(uint8_t *image, size_t n) {
    uint64_t n_bytes = n;
    memcpy(image + 32, &n_bytes, sizeof(n_bytes));
    uint64_t sum = hash_bytes(image, n - sizeof(sum), VERSION);
    memcpy(image + n - sizeof(sum), &sum, sizeof(sum));
}

enum { N_FORGED = 100, IMAGE = 24 + 4 * N_FORGED, LANE = IMAGE + 2096 + 27, COUNTS = 53 };

/* What a file says of a lane that the rest of it, or the method, cannot have: each is refused for that alone. */
static void forged_counts_are_refused(void **state) {
    (void)state;
    /* Of a tova lane in fp16: counts, position and probability of each slot, a page of K and one of V. */
    enum { KEEP = 40, F16_PAGE = 1 + 2 * 64 * 64, TOVA_LANE = COUNTS + 8 * KEEP + 2 * F16_PAGE };
    /* Of a kitty lane: the sinks' page and its gap, then a sealed page, whose run begins with 64 scales and minima. */
    enum { KITTY_SLOTS = N_FORGED + 56, KITTY_ROWS = LANE + COUNTS + 4 * KITTY_SLOTS + F16_PAGE + 9 + 4 * 64 };
    /* Of a gear lane: a sealed page, whose run has 64 scales and minima and a low rank of 4 before its outliers. */
    enum { GEAR_BEGIN = LANE + COUNTS + 4 * N_FORGED + 9 + 4 * 64 + 2 * 2 * 4 * 64 };
    static const struct {
        const char *spec;
        size_t at, n;
        uint64_t value;
        const char *why;
    } list[] = {{"tova:keep=40", LANE + TOVA_LANE + COUNTS, 8, 1, "one set for all"}, /* positions 1 and 0 */
                {"gear", LANE + 16, 4, 32, "sealed in part"},
                {"gear", LANE + COUNTS + 4 * N_FORGED, 8, 2ull << 32 | 1, "begins before the lane's first page"},
                {"gear", GEAR_BEGIN + 4, 4, 1000, "its format never writes"},
                {"gear", GEAR_BEGIN + 8, 2, 64 << 8, "its format never writes"},
                {"gear", GEAR_BEGIN + 8, 2, 64, "its format never writes"},
                {"f16", LANE + COUNTS + 4 * N_FORGED, 1, 0, "have no page"},
                {"kitty:sinks=8,page=64,window=64", KITTY_ROWS, 1, 200, "its format never writes"}};
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        size_t n;
        int32_t *tokens;
        bed b = open_with(long_model(), 0);
        char *path = saved(&b, list[i].spec, N_FORGED, &tokens);
        uint8_t *bytes = slurp(path, &n);
        assert_memory_not_equal(bytes + list[i].at, &list[i].value, list[i].n);
        memcpy(bytes + list[i].at, &list[i].value, list[i].n);
        make_fit(bytes + IMAGE, n - IMAGE);
        spill(path, bytes, n);
        refused(&b, path, list[i].why);
        unlink(path);
        free(path);
        free(bytes);
        free(tokens);
        bed_close(&b);
    }
}

/* The last slot of the second head is taken out, so that it has one less than the first. */
static void heads_of_one_set_have_the_same_slots(void **state) {
    (void)state;
    enum { KEEP = 40, SECOND = LANE + COUNTS + 8 * KEEP + 2 * (1 + 2 * 64 * 64), POS = SECOND + COUNTS };
    size_t n;
    int32_t *tokens, less = KEEP - 1;
    bed b = open_with(long_model(), 0);
    char *path = saved(&b, "tova:keep=40", N_FORGED, &tokens);
    uint8_t *bytes = slurp(path, &n);
    memcpy(bytes + SECOND, &less, 4);     /* slots */
    memcpy(bytes + SECOND + 4, &less, 4); /* live ones */
    memmove(bytes + POS + 4 * less, bytes + POS + 4 * KEEP, n - POS - 4 * KEEP);
    n -= 4;
    memmove(bytes + POS + 8 * less, bytes + POS + 8 * less + 4, n - POS - 8 * (size_t)less - 4);
    n -= 4;
    make_fit(bytes + IMAGE, n - IMAGE);
    spill(path, bytes, n);
    refused(&b, path, "one set for all");
    unlink(path);
    free(path);
    free(bytes);
    free(tokens);
    bed_close(&b);
}

/* ---- forged files ---- */

enum { MOST_LANES = 8 };

typedef struct forgery {
    const bed *b;
    char *path;
    uint8_t *bytes;
    size_t n, lane[MOST_LANES]; /* where each lane's counts are */
    int n_lanes;
    int32_t *tokens;
} forgery;

/* Lanes' counts follow one another in the file, so the first place with the right two is good enough to aim at. */
static void find_lanes(forgery *f) {
    pleat_error error = {""};
    pleat_seq *seq;
    int32_t *loaded;
    int n_loaded;
    if (pleat_seq_load(f->b->engine, f->path, &seq, &loaded, &n_loaded, &error))
        fail_msg("%s", error.text);
    const kv_cache *cache = engine_seq_cache(seq);
    const kv_model *m = &engine_model(f->b->engine)->kv;
    size_t at = IMAGE + 2096;
    f->n_lanes = m->n_layer * m->n_head_kv;
    assert_true(f->n_lanes <= MOST_LANES);
    for (int i = 0; i < f->n_lanes; i++, at++) {
        int il = i / m->n_head_kv, ih = i % m->n_head_kv, count[2] = {kv_cache_slots(cache, il, ih), 0};
        for (int slot = 0; slot < count[0]; slot++)
            count[1] += kv_cache_positions(cache, il, ih)[slot] != KV_DEAD;
        while (at + sizeof(count) < f->n && memcmp(f->bytes + at, count, sizeof(count)))
            at++;
        f->lane[i] = at;
    }
    pleat_seq_close(seq);
    free(loaded);
}

/* Half of the draws fall into a lane's counts and first positions, the others anywhere behind the spec (or there too).
 */
static size_t draw_place(const forgery *f, uint64_t round) {
    size_t first = IMAGE + 2096, n = f->n - 8 - first;
    if (round % 2) {
        first = f->lane[rng_u64(3, 2, round) % (uint64_t)f->n_lanes];
        n = COUNTS + 24;
    } else if (round % 8 == 0) {
        n = 27; /* the sequence's own */
    }
    size_t at = first + rng_u64(3, 0, round) % n;
    return at < f->n - 8 ? at : f->n - 9;
}

static uint8_t draw_byte(uint8_t before, uint64_t round) {
    const uint8_t liked[] = {0, 1, 0x7f, 0x80, 0xff, 64, (uint8_t)(before + 1), (uint8_t)(before - 1)};
    uint64_t x = rng_u64(3, 1, round);
    return x & 1 ? (uint8_t)(x >> 8) : liked[x >> 8 & 7];
}

/* Loads what is in the file; what is accepted lives on: answers, a second turn, answers. */
static bool loads_and_lives(const forgery *f) {
    pleat_seq *seq;
    int32_t *loaded;
    int n_loaded;
    if (pleat_seq_load(f->b->engine, f->path, &seq, &loaded, &n_loaded, NULL))
        return false;
    static const int n[] = {1, 1, 70, 1, 1};
    for (int i = 0; i < 5; i++) {
        pleat_item item = {seq, f->tokens, n[i], n[i] > 1 ? PLEAT_PROMPT_END : PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL};
        pleat_step(f->b->engine, &item, 1, NULL); /* it may be refused: there is no room, or a prompt is open */
    }
    pleat_seq_close(seq);
    free(loaded);
    return true;
}

static void forge(const bed *b, const char *spec, int n_rounds) {
    forgery f = {.b = b};
    int n_refused = 0;
    f.path = saved(b, spec, N_FORGED, &f.tokens);
    f.bytes = slurp(f.path, &f.n);
    find_lanes(&f);
    for (int i = 0; i < n_rounds; i++) {
        size_t at = draw_place(&f, (uint64_t)i);
        uint8_t before = f.bytes[at];
        f.bytes[at] = draw_byte(before, (uint64_t)i);
        make_fit(f.bytes + IMAGE, f.n - IMAGE);
        spill(f.path, f.bytes, f.n);
        n_refused += !loads_and_lives(&f);
        assert_int_equal(kv_pool_used_bytes(engine_pool(b->engine)), 0);
        f.bytes[at] = before;
    }
    assert_true(n_refused > n_rounds / 8 && n_refused < n_rounds);
    unlink(f.path);
    free(f.path);
    free(f.bytes);
    free(f.tokens);
}

/* Files whose hashes were made to fit: numbers contradict each other, and are refused or harmless, never followed. */
static void forged_files_do_no_harm(void **state) {
    (void)state;
    static const char *const list[] = {
        "kivi-4+h2o:heavy=8,recent=50",  "tova:keep=40",
        "gear+h2o:heavy=8,recent=20",    "kitty:sinks=8,page=64,window=64+quest:budget=48,skip=0",
        "int8+expected:keep=40,every=2", "int8+snapkv:keep=40,window=8+adakv+critical"};
    tiny_options o = long_model();
    o.head_dim = 32; /* so that pages are small beside the counts */
    bed b = open_with(o, 0);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        forge(&b, list[i], env_all() ? 10000 : env_sanitized() ? 120 : 300);
    bed_close(&b);
}

static void files_of_another_model_are_refused(void **state) {
    (void)state;
    int32_t *tokens;
    bed b = open_with(long_model(), 0);
    char *path = saved(&b, "int8", 100, &tokens);
    bed_close(&b);
    tiny_options o = long_model();
    o.seed++;
    b = open_with(o, 0);
    refused(&b, path, "another model");
    unlink(path);
    free(path);
    free(tokens);
    bed_close(&b);
}

static void saving_is_all_or_nothing(void **state) {
    (void)state;
    int32_t *tokens;
    size_t n, n_after;
    bed b = open_with(long_model(), 0);
    char *path = saved(&b, "f16", 500, &tokens);
    uint8_t *before = slurp(path, &n);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit most = {n / 2, n / 2};
        pleat_error error = {""};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &most);
        pleat_seq *seq;
        pleat_engine_options one = {.n_threads = 1, .pool_bytes = (size_t)1 << 30};
        pleat_engine *engine; /* the parent's threads are not here */
        pleat_method *method;
        if (pleat_engine_open(b.model, &one, &engine, &error) || pleat_method_parse("f16", b.model, &method, &error) ||
            pleat_seq_open(engine, method, &seq, &error) ||
            pleat_prefill(engine, seq, tokens, 500, true, PLEAT_LOGITS_NONE, NULL, &error))
            _exit(2);
        _exit(pleat_seq_save(seq, tokens, 500, path, &error) == PLEAT_EIO && strstr(error.text, path) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    uint8_t *after = slurp(path, &n_after);
    assert_int_equal(n_after, n);
    assert_memory_equal(after, before, n);
    free(before);
    free(after);
    unlink(path);
    free(path);
    free(tokens);
    bed_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reused_prompt_gives_the_bits_of_a_cold_run),
        cmocka_unit_test(windowed_layers_are_reused_as_far_as_they_reach),
        cmocka_unit_test(what_is_offered_is_what_a_cold_run_computes),
        cmocka_unit_test(salts_and_methods_never_meet),
        cmocka_unit_test(copies_are_for_those_who_were_told_the_same),
        cmocka_unit_test(only_an_empty_sequence_takes_over),
        cmocka_unit_test(held_prompts_give_way_to_running_ones),
        cmocka_unit_test(held_pages_never_overrun_a_tight_pool),
        cmocka_unit_test(the_manual_says_what_is_shared),
        cmocka_unit_test(a_kept_file_is_laid_out_as_its_manual_says),
        cmocka_unit_test(the_budget_of_held_prompts_holds),
        cmocka_unit_test(a_moved_cache_goes_on_bit_for_bit),
        cmocka_unit_test(a_moved_out_sequence_takes_part_in_no_step),
        cmocka_unit_test(a_kept_file_goes_on_in_another_engine),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(forged_counts_are_refused),
        cmocka_unit_test(heads_of_one_set_have_the_same_slots),
        cmocka_unit_test(forged_files_do_no_harm),
        cmocka_unit_test(files_of_another_model_are_refused),
        cmocka_unit_test(saving_is_all_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
