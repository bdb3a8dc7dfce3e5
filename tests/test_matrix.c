/* test_matrix.c - every method in every combination through every turn of a sequence's life: however a prompt is cut,
 * whoever shares its batch, whether it takes over an earlier prompt's pages and whenever it is moved out and in, its
 * logits have the bits of a run that went straight through.
 *
 * The factors' levels come from methods.def, so a new line there is in the matrix by itself. Usually a set of rows runs
 * in which every two levels of two factors meet (built greedily); with PLEAT_ALL every method meets every life. */
#include "base/rng.h"
#include "kv/capability.h"
#include "support/env.h"
#include "support/small.h"
#include "support/trail.h"
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

enum { N_COMMON = 600, N_OTHER = 110, N_DECODE = 12, N_TURN = 40, N_COMPANY = 90 };
enum { N_KEYDIFF = 66, N_LOGITS = N_KEYDIFF + N_DECODE + 2 }; /* keydiff cuts in decode every 64 steps, the others 8 */
enum { FORMAT, POLICY, SPLIT, PREFILL, MODIFIER, SHAPE, CUT, REUSE, MOVE, COMPANY, N_FACTORS };
enum { MOST_LEVELS = 64, MOST_PART = 200, MOST_SPEC = 400 };

/* ---- levels ---- */

static const char *const prefills[] = {"exact", "bounded", NULL}, *const modifiers[] = {"",
                                                                                        "sinks:n=4",
                                                                                        "pin",
                                                                                        "critical",
                                                                                        "layers:first=1,format=int8",
                                                                                        NULL};
static const int cuts[] = {512, 64, 192};
enum { N_CUTS = sizeof(cuts) / sizeof(*cuts) };
enum { MOVE_NEVER, MOVE_IN_PROMPT, MOVE_AFTER_PROMPT, MOVE_IN_DECODE, N_MOVES };
enum { MHA, GQA, MQA, WINDOWED, WIDE, N_SHAPES };
static const char *formats[MOST_LEVELS];
static char policies[MOST_LEVELS][MOST_PART];
static int n_levels[N_FACTORS];
static bed beds[N_SHAPES];

/* Presets that are formats alone, and the formats that none of them names; under sanitizers, which are ten times
 * slower, each format once. */
static void list_formats(void) {
    int *n = &n_levels[FORMAT];
    kv_method method;
    bool named[MOST_LEVELS] = {false};
    for (int i = 0; kv_presets[i].name && !env_sanitized(); i++) {
        if (kv_method_parse(kv_presets[i].name, NULL, &method, NULL) || method.policy != kv_policies[0])
            continue;
        formats[(*n)++] = kv_presets[i].name;
        for (int f = 0; kv_formats[f]; f++)
            named[f] |= method.coding[0].format == kv_formats[f] || method.coding[1].format == kv_formats[f];
    }
    for (int f = 0; kv_formats[f]; f++)
        if (!named[f])
            formats[(*n)++] = kv_formats[f]->name;
}

static int count(const char *const *list) {
    int n = 0;
    while (list[n])
        n++;
    return n;
}

static int list_levels(void **state) {
    (void)state;
    list_formats();
    for (int p = 0; kv_policies[p]; p++)
        small_part(kv_policies[p]->name, kv_policies[p]->params, 4, policies[n_levels[POLICY]++], MOST_PART);
    while (kv_splits[n_levels[SPLIT]])
        n_levels[SPLIT]++;
    n_levels[PREFILL] = count(prefills);
    n_levels[MODIFIER] = count(modifiers);
    n_levels[SHAPE] = N_SHAPES;
    n_levels[CUT] = N_CUTS;
    n_levels[REUSE] = n_levels[COMPANY] = 2;
    n_levels[MOVE] = N_MOVES;
    for (int i = 0; i < N_SHAPES; i++) {
        tiny_options o = tiny_default();
        o.n_head_kv = i == MHA ? 4 : i == MQA ? 1 : 2;
        o.head_dim = i == WIDE ? 128 : 64;
        o.arch = i == WINDOWED ? "gemma3" : o.arch;
        o.window = 100;
        o.seed = (uint64_t)i + 1;
        beds[i] = bed_open(o, (pleat_engine_options){.n_threads = 2,
                                                     .max_step_tokens = 1024,
                                                     .pool_bytes = (size_t)1 << 30,
                                                     .prefix_bytes = (size_t)64 << 20});
        unlink(beds[i].path); /* it stays mapped; the next bed has the same name */
    }
    return 0;
}

static int close_beds(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++)
        bed_close(&beds[i]);
    return 0;
}

typedef struct row {
    int level[N_FACTORS];
} row;

static void spec_of(const row *r, char *out) {
    const char *modifier = modifiers[r->level[MODIFIER]];
    snprintf(out, MOST_SPEC, "%s+%.199s+%s+prefill:%s%s%s", formats[r->level[FORMAT]], policies[r->level[POLICY]],
             kv_splits[r->level[SPLIT]]->name, prefills[r->level[PREFILL]], *modifier ? "+" : "", modifier);
}

/* Only a policy refuses: a split, or a modifier. */
static bool possible(int policy, int split, int modifier) {
    row r = {.level = {[POLICY] = policy, [SPLIT] = split, [MODIFIER] = modifier}};
    char spec[MOST_SPEC];
    kv_method method;
    spec_of(&r, spec);
    return !kv_method_parse(spec, NULL, &method, NULL);
}

/* ---- lives ---- */

static void check(pleat_status status, const char *what, const pleat_error *error) {
    if (status)
        fail_msg("%s: %s", what, error->text);
}

static int32_t *prompt_of(const bed *b, int variant) {
    int32_t *ids = bed_tokens(b, N_COMMON + N_OTHER);
    for (int i = N_COMMON; variant && i < N_COMMON + N_OTHER; i++)
        ids[i] = bed_token(b, i + 1000 * variant);
    return ids;
}

static void move(pleat_seq *seq, const char *folder, const char *what) {
    pleat_error error = {""};
    check(pleat_seq_move_out(seq, folder, &error), what, &error);
    check(pleat_seq_move_in(seq, &error), what, &error);
}

typedef struct life {
    const bed *b;
    const char *spec;
    pleat_seq *seq, *company[2]; /* company: NULL, or decodes a token in each of seq's steps */
    int cut, move_at, n_decoded;
    trail *t;
    int64_t evicted[2]; /* in prompts, while decoding */
} life;

/* One step of the sequence, with its company. */
static void step(life *l, const int32_t *ids, int n, pleat_phase phase) {
    bool last = phase != PLEAT_PROMPT;
    int32_t token = bed_token(l->b, 5 + l->n_decoded);
    pleat_error error = {""};
    pleat_item items[3] = {
        {l->seq, ids, n, phase, last ? PLEAT_LOGITS_LAST : PLEAT_LOGITS_NONE, last ? trail_next(l->t) : NULL}};
    int n_items = 1;
    for (int i = 0; i < 2 && l->company[i]; i++)
        items[n_items++] = (pleat_item){l->company[i], &token, 1, PLEAT_DECODE, PLEAT_LOGITS_NONE, NULL};
    int64_t before = pleat_seq_describe(l->seq).evicted;
    check(pleat_step(l->b->engine, items, n_items, &error), l->spec, &error);
    l->evicted[phase == PLEAT_DECODE] += pleat_seq_describe(l->seq).evicted - before;
}

static void prompt(life *l, const int32_t *ids, int n) {
    for (int at = 0, piece; at < n; at += piece) {
        bool moves = l->move_at == MOVE_IN_PROMPT && at == 0;
        int left = n - at, most = moves ? PAGE_TOKENS : l->cut; /* so that something is left behind the move */
        piece = pleat_seq_cut(l->b->engine, l->seq, left < most ? left : most);
        step(l, ids + at, piece, piece == left ? PLEAT_PROMPT_END : PLEAT_PROMPT);
        if (moves && piece < left)
            move(l->seq, NULL, l->spec);
    }
}

static void decode(life *l) {
    int n = l->n_decoded == 0 && strstr(l->spec, "keydiff") ? N_KEYDIFF : N_DECODE;
    for (int i = 0; i < n; i++) {
        int32_t token = bed_token(l->b, 77 + l->n_decoded++);
        step(l, &token, 1, PLEAT_DECODE);
        if (l->move_at == MOVE_IN_DECODE && i == N_DECODE / 2)
            move(l->seq, NULL, l->spec);
    }
}

static pleat_seq *open_pinned(const bed *b, const char *spec) {
    pleat_error error = {""};
    pleat_seq *seq = bed_seq(b, spec);
    check(pleat_seq_pin(seq, 30, 20, &error), spec, &error);
    check(pleat_seq_expect(seq, 2 * N_DECODE, &error), spec, &error);
    return seq;
}

static int expected_reuse(const bed *b, const char *spec) {
    int first, grid;
    kv_method method;
    assert_int_equal(kv_method_parse(spec, &engine_model(b->engine)->kv, &method, NULL), PLEAT_OK);
    kv_reuse reuse = kv_reuse_of(&method, &engine_model(b->engine)->kv, &first, &grid);
    return reuse == KV_REUSE_NONE || first > N_COMMON ? 0 : first + (N_COMMON - first) / grid * grid;
}

/* An earlier request that begins alike leaves its pages; the tokens that seq takes over of them. */
static int take_over(life *l, const int32_t *ids, const char *salt) {
    pleat_error error = {""};
    int32_t *other = prompt_of(l->b, 1);
    int n = N_COMMON + N_OTHER, n_reused;
    pleat_seq *donor = open_pinned(l->b, l->spec);
    check(pleat_seq_reuse(donor, other, n, salt, &n_reused, &error), l->spec, &error);
    assert_int_equal(n_reused, 0);
    bed_prefill(l->b, donor, other, n, NULL);
    pleat_seq_close(donor);
    free(other);
    check(pleat_seq_reuse(l->seq, ids, n, salt, &n_reused, &error), l->spec, &error);
    if (n_reused != expected_reuse(l->b, l->spec))
        fail_msg("%s: %d tokens were reused, not %d", l->spec, n_reused, expected_reuse(l->b, l->spec));
    return n_reused;
}

static void open_company(life *l) {
    static const char *const specs[] = {"f16", "kivi-4+h2o:heavy=20,recent=40"};
    int32_t *ids = bed_tokens(l->b, N_COMPANY);
    for (int i = 0; i < 2; i++) {
        l->company[i] = bed_seq(l->b, specs[i]);
        bed_prefill(l->b, l->company[i], ids, N_COMPANY, NULL);
    }
    free(ids);
}

/* A prompt, an answer, a second turn and its answer; salt: of this run alone. evicted: in prompts and while decoding,
 * or NULL. */
static void live(const row *r, const char *spec, const char *salt, trail *t, int64_t *evicted) {
    life l = {.b = &beds[r->level[SHAPE]], .spec = spec, .cut = cuts[r->level[CUT]], .move_at = r->level[MOVE], .t = t};
    int32_t *ids = prompt_of(l.b, 0), *turn = bed_tokens(l.b, N_TURN);
    l.seq = open_pinned(l.b, spec);
    int n_reused = r->level[REUSE] ? take_over(&l, ids, salt) : 0;
    if (r->level[COMPANY])
        open_company(&l);
    prompt(&l, ids + n_reused, N_COMMON + N_OTHER - n_reused);
    if (l.move_at == MOVE_AFTER_PROMPT)
        move(l.seq, "/tmp", spec);
    decode(&l);
    prompt(&l, turn, N_TURN);
    decode(&l);
    pleat_seq_close(l.seq);
    for (int i = 0; i < 2; i++)
        pleat_seq_close(l.company[i]);
    if (evicted)
        memcpy(evicted, l.evicted, sizeof(l.evicted));
    free(ids);
    free(turn);
}

static bool lives_straight(const row *r) {
    return !r->level[CUT] && !r->level[REUSE] && !r->level[MOVE] && !r->level[COMPANY];
}

static void compare(const row *r, const trail *straight, int number) {
    char spec[MOST_SPEC], salt[24], what[MOST_SPEC + 100];
    trail t = trail_new(&beds[r->level[SHAPE]], N_LOGITS);
    spec_of(r, spec);
    snprintf(salt, sizeof(salt), "%d", number);
    snprintf(what, sizeof(what), "%s (shape %d, cut %d, reuse %d, move %d, company %d)", spec, r->level[SHAPE],
             cuts[r->level[CUT]], r->level[REUSE], r->level[MOVE], r->level[COMPANY]);
    live(r, spec, salt, &t, NULL);
    trail_compare(straight, &t, what);
    trail_free(&t);
}

static trail straight_of(const row *r, int64_t *evicted) {
    char spec[MOST_SPEC];
    row straight = *r;
    straight.level[CUT] = straight.level[REUSE] = straight.level[MOVE] = straight.level[COMPANY] = 0;
    trail t = trail_new(&beds[r->level[SHAPE]], N_LOGITS);
    spec_of(r, spec);
    live(&straight, spec, "", &t, evicted);
    return t;
}

/* ---- rows ---- */

/* met[f][i][g][k]: level i of factor f and level k of factor g have met, or cannot. */
typedef bool pairs[N_FACTORS][MOST_LEVELS][N_FACTORS][MOST_LEVELS];

static bool together(int f, int i, int g, int k) {
    if (f > g)
        return together(g, k, f, i);
    if (f == POLICY && g == SPLIT)
        return possible(i, k, 0);
    return f != POLICY || g != MODIFIER || possible(i, 0, k);
}

static int gain(bool (*met)[MOST_LEVELS][N_FACTORS][MOST_LEVELS], bool (*never)[MOST_LEVELS][N_FACTORS][MOST_LEVELS],
                const row *r, int f, int i) {
    int n = 0;
    for (int g = 0; g < N_FACTORS; g++) {
        if (g == f || r->level[g] < 0)
            continue;
        if (never[f][i][g][r->level[g]])
            return -1;
        n += !met[f][i][g][r->level[g]];
    }
    return n;
}

/* Fills the factors of a row that are open, each with the level that brings most new pairs; ties are drawn, so that
 * rows whose pairs have all met still mix the factors. */
static void complete(bool (*met)[MOST_LEVELS][N_FACTORS][MOST_LEVELS],
                     bool (*never)[MOST_LEVELS][N_FACTORS][MOST_LEVELS], row *r, int number) {
    for (int f = 0; f < N_FACTORS; f++) {
        int best = -1, most = -1, start = (int)(rng_u64(1, (uint64_t)number, (uint64_t)f) % (uint64_t)n_levels[f]);
        for (int k = 0; r->level[f] < 0 && k < n_levels[f]; k++) {
            int i = (k + start) % n_levels[f], n = gain(met, never, r, f, i);
            if (n > most) {
                most = n;
                best = i;
            }
        }
        if (r->level[f] < 0) {
            assert_true(best >= 0);
            r->level[f] = best;
        }
    }
    for (int f = 0; f < N_FACTORS; f++)
        for (int g = 0; g < N_FACTORS; g++)
            met[f][r->level[f]][g][r->level[g]] = true;
}

/* Rows in which every possible pair of levels meets; returns how many, at most `most`. */
static int cover(row *rows, int most) {
    pairs *met = calloc(1, sizeof(*met)), *never = calloc(1, sizeof(*never));
    int n = 0;
    for (int f = 0; f < N_FACTORS; f++)
        for (int g = 0; g < N_FACTORS; g++)
            for (int i = 0; f != g && i < n_levels[f]; i++)
                for (int k = 0; k < n_levels[g]; k++)
                    (*met)[f][i][g][k] = (*never)[f][i][g][k] = !together(f, i, g, k);
    for (int f = 0; f < N_FACTORS; f++)
        for (int g = f + 1; g < N_FACTORS; g++)
            for (int i = 0; i < n_levels[f]; i++)
                for (int k = 0; k < n_levels[g]; k++) {
                    if ((*met)[f][i][g][k])
                        continue;
                    assert_true(n < most);
                    for (int h = 0; h < N_FACTORS; h++)
                        rows[n].level[h] = h == f ? i : h == g ? k : -1;
                    complete(*met, *never, &rows[n], n);
                    n++;
                }
    free(met);
    free(never);
    return n;
}

/* ---- tests ---- */

/* A method that leaves everything as it is would pass all the rest: each must evict, in decode too where it says that
 * lanes stay bounded there, and each must change what comes out, as those that only read less do too. */
static void every_policy_acts(void **state) {
    (void)state;
    trail whole = {0};
    for (int p = 0; p < n_levels[POLICY]; p++) {
        const kv_policy *policy = kv_policies[p];
        int64_t evicted[2];
        row r = {.level = {[POLICY] = p, [SHAPE] = GQA}};
        kv_method method;
        assert_int_equal(kv_method_parse(policies[p], NULL, &method, NULL), PLEAT_OK);
        trail t = straight_of(&r, evicted);
        bool bounded = policy->bound_tokens && policy->bound_tokens(&method.policy_config) != INT_MAX;
        if (policy->score && !(evicted[0] + evicted[1]))
            fail_msg("%s never evicts", policies[p]);
        if (bounded && !evicted[1])
            fail_msg("%s never evicts while decoding", policies[p]);
        if (p == 0)
            whole = t;
        else if (!memcmp(whole.logits + (size_t)whole.n_vocab, t.logits + (size_t)t.n_vocab, /* behind the first */
                         (size_t)(N_DECODE - 1) * (size_t)t.n_vocab * sizeof(float)))
            fail_msg("%s changes nothing", policies[p]);
        if (p)
            trail_free(&t);
    }
    trail_free(&whole);
}

static void every_pair_gives_the_bits_of_a_straight_run(void **state) {
    (void)state;
    enum { MOST_ROWS = 2000 };
    row *rows = malloc(MOST_ROWS * sizeof(*rows));
    int n = cover(rows, MOST_ROWS), at_least = n_levels[FORMAT] * n_levels[POLICY];
    assert_true(n >= at_least && n < 2 * at_least);
    for (int i = 0; i < n; i++) {
        trail straight = straight_of(&rows[i], NULL);
        compare(&rows[i], &straight, i);
        trail_free(&straight);
    }
    free(rows);
}

static void every_method_lives_every_life(void **state) {
    (void)state;
    if (!env_all() || env_sanitized())
        skip();
    int number = 1 << 20, n_methods = 0;
    row r;
    for (r.level[FORMAT] = 0; r.level[FORMAT] < n_levels[FORMAT]; r.level[FORMAT]++)
        for (r.level[POLICY] = 0; r.level[POLICY] < n_levels[POLICY]; r.level[POLICY]++)
            for (r.level[SPLIT] = 0; r.level[SPLIT] < n_levels[SPLIT]; r.level[SPLIT]++)
                for (r.level[PREFILL] = 0; r.level[PREFILL] < n_levels[PREFILL]; r.level[PREFILL]++)
                    for (r.level[MODIFIER] = 0; r.level[MODIFIER] < n_levels[MODIFIER]; r.level[MODIFIER]++) {
                        if (!possible(r.level[POLICY], r.level[SPLIT], r.level[MODIFIER]))
                            continue;
                        r.level[SHAPE] = n_methods % N_SHAPES;
                        r.level[COMPANY] = n_methods++ % 2;
                        trail straight = straight_of(&r, NULL);
                        for (r.level[CUT] = 0; r.level[CUT] < N_CUTS; r.level[CUT]++)
                            for (r.level[REUSE] = 0; r.level[REUSE] < 2; r.level[REUSE]++)
                                for (r.level[MOVE] = 0; r.level[MOVE] < N_MOVES; r.level[MOVE]++)
                                    if (!lives_straight(&r))
                                        compare(&r, &straight, number++);
                        trail_free(&straight);
                    }
    printf("%d methods, %d lives\n", n_methods, number - (1 << 20));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_acts),
        cmocka_unit_test(every_pair_gives_the_bits_of_a_straight_run),
        cmocka_unit_test(every_method_lives_every_life),
    };
    return cmocka_run_group_tests_name("matrix", tests, list_levels, close_beds);
}
