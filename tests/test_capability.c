/* test_capability.c - what goes with what: every combination of methods.def's lines that is called possible opens a
 * cache and runs, every other is refused with its sentence; and every sentence with which a spec can be refused. */
#include "kv/capability.h"
#include "support/drive.h"
#include "support/env.h"
#include "support/small.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

#define POOL ((size_t)1 << 28)
static const drive_shape plain = {.n_head = 2, .n_head_kv = 1, .d = 64, .context_tokens = 2048},
                         windowed = {.n_head = 2, .n_head_kv = 1, .d = 64, .context_tokens = 2048, .window = 100};

/* What the parts say of themselves, apart from the parser. */
static bool should_be_possible(const kv_policy *policy, const kv_split *split) {
    if (split->needs_head_scores && !policy->per_head_scores)
        return false;
    return split == kv_splits[0] || policy->shares_budget;
}

static void for_each(void (*check)(const kv_format *, const kv_policy *, const kv_split *, bool bounded)) {
    for (int f = 0; kv_formats[f]; f++)
        for (int p = 0; kv_policies[p]; p++)
            for (int s = 0; kv_splits[s]; s++)
                for (int bounded = 0; bounded < 2; bounded++)
                    check(kv_formats[f], kv_policies[p], kv_splits[s], bounded);
}

static void check_refusal(const kv_format *format, const kv_policy *policy, const kv_split *split, bool bounded) {
    kv_capability c = kv_capability_of(format, policy, split, bounded, NULL);
    bool possible = should_be_possible(policy, split);
    if (possible != !*c.refusal.text)
        fail_msg("%s+%s+%s: \"%s\"", format->name, policy->name, split->name, c.refusal.text);
    if (!possible && (!strstr(c.refusal.text, policy->name) || !strstr(c.refusal.text, split->name)))
        fail_msg("%s+%s: \"%s\" does not name both", policy->name, split->name, c.refusal.text);
    assert_int_equal(c.windowed, possible);
    assert_int_equal(c.reuse != KV_REUSE_NONE, c.grid_tokens > 0);
}

static void refused_pairs_are_those_of_the_parts(void **state) {
    (void)state;
    for_each(check_refusal);
}

/* What is possible runs, on a plain and on a windowed model: three pages of a prompt and a few steps, with budgets that
 * make every policy act. */
static void check_runs(const kv_format *format, const kv_policy *policy, const kv_split *split, bool bounded) {
    char spec[300], small[200];
    kv_capability c = kv_capability_of(format, policy, split, bounded, NULL);
    if (*c.refusal.text)
        return;
    small_part(policy->name, policy->params, 8, small, sizeof(small));
    snprintf(spec, sizeof(spec), "%s+%s+%s+prefill:%s", format->name, small, split->name,
             bounded ? "bounded" : "exact");
    for (int i = 0; i < 2; i++) {
        drive d;
        drive_open(&d, i ? windowed : plain, POOL);
        kv_cache *cache = drive_cache(&d, spec);
        drive_prompt(&d, cache, 7, 200, 128, true, NULL);
        drive_decode(&d, cache, 7, 3, NULL);
        assert_int_equal(kv_cache_tokens(cache), 203);
        bool spared = i && !strcmp(policy->name, "simlayer"); /* its last layer without a window is never cut */
        if (policy->score && !spared && !kv_cache_stats(cache).evicted)
            fail_msg("%s evicts nothing", spec);
        kv_cache_close(cache);
        drive_close(&d);
    }
}

static void what_is_possible_runs(void **state) {
    (void)state;
    for_each(check_runs);
}

static void known_cells_are_as_designed(void **state) {
    (void)state;
    static const struct {
        const char *format, *policy;
        bool bounded;
        kv_reuse reuse;
        int first, grid;
    } list[] = {
        {"f16", "all", false, KV_REUSE_F16, 64, 64},        {"f16", "all", true, KV_REUSE_F16, 64, 64},
        {"kivi", "all", false, KV_REUSE_F16, 64, 64},       {"kivi", "all", true, KV_REUSE_SEALED, 512, 512},
        {"kitty", "all", false, KV_REUSE_F16, 64, 64},      {"kitty", "all", true, KV_REUSE_COPY, 576, 512},
        {"int8", "h2o", false, KV_REUSE_NONE, 0, 0},        {"int8", "expected", false, KV_REUSE_NONE, 0, 0},
        {"int8", "snapkv", false, KV_REUSE_F16, 64, 64},    {"int8", "snapkv", true, KV_REUSE_COPY, 512, 512},
        {"int8", "keydiff", true, KV_REUSE_COPY, 128, 128}, {"gear", "streaming", true, KV_REUSE_COPY, 512, 512},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        const kv_format *format = NULL;
        const kv_policy *policy = NULL;
        for (int f = 0; kv_formats[f]; f++)
            format = strcmp(kv_formats[f]->name, list[i].format) ? format : kv_formats[f];
        for (int p = 0; kv_policies[p]; p++)
            policy = strcmp(kv_policies[p]->name, list[i].policy) ? policy : kv_policies[p];
        kv_capability c = kv_capability_of(format, policy, kv_splits[0], list[i].bounded, NULL);
        assert_string_equal(c.refusal.text, "");
        assert_int_equal(c.reuse, list[i].reuse);
        assert_int_equal(c.first_tokens, list[i].first);
        assert_int_equal(c.grid_tokens, list[i].grid);
    }
}

static void modifiers_go_with_those_who_can(void **state) {
    (void)state;
    for (int p = 0; kv_policies[p]; p++) {
        const kv_policy *policy = kv_policies[p];
        kv_config config = {{0}};
        for (int i = 0; policy->params && policy->params[i].name; i++)
            config.value[i] = policy->params[i].fallback;
        bool moves = policy->cache_positions && policy->cache_positions(&config);
        kv_capability critical = kv_capability_of(kv_formats[0], policy, kv_splits[0], false, "critical"),
                      pin = kv_capability_of(kv_formats[0], policy, kv_splits[0], false, "pin");
        bool weighs = policy->attention_scores && policy->per_head_scores;
        assert_int_equal(!*critical.refusal.text, weighs);
        assert_int_equal(!*pin.refusal.text, !moves);
        assert_true(weighs || strstr(critical.refusal.text, policy->name));
        assert_true(!moves || strstr(pin.refusal.text, policy->name));
    }
}

/* The grammar's own refusals; those of parts together and of their parameters: tests/test_policies.c, test_formats.c.
 */
static void every_way_to_write_it_wrong_has_its_sentence(void **state) {
    (void)state;
    static char too_long[3000];
    memset(too_long, 'x', sizeof(too_long) - 1);
    const struct {
        const char *spec, *said;
    } list[] = {
        {"kivi+int8", "two different formats in one method (kivi and int8)"},
        {"kivi:bits=2+kivi:bits=4", "two different formats"},
        {"prefill:exact+prefill:bounded", "two different prefill modes"},
        {"prefill:maybe", "exact|bounded"},
        {"sinks:n=1+sinks:n=2", "two different numbers of sinks"},
        {"k=kivi(bits=4,v=int8", "lacks its closing parenthesis"},
        {"k=kivi(bits=4,v=int8)", "kivi has no parameter \"v\""},
        {"k=kivi(bits=4)x,v=int8", "lacks its closing parenthesis"},
        {"k=h2o,v=int8", "\"h2o\" is not a format"},
        {"k=int8,k=int4", "each side once"},
        {"k=int8,x=int4", "each side once"},
        {"k=int8", "names only one side"},
        {"int8++h2o", "a method has an empty part"},
        {"", "a method has an empty part"},
        {too_long, "a method of 2999 bytes"},
        {"kiwi", "\"kiwi\" is no part of a method; known are formats: f16"},
        {"kivi:bits", "bits needs a value (bits=...)"},
        {"kivi:bits=2,bits=4", "bits is given twice"},
        {"kivi:bits=3", "bits=3 is not possible; it must be one of"},
        {"kivi:group=x", "group=x is not possible"},
        {"h2o:heavy=1.5", "heavy=1.5 is not a whole number"},
        {"h2o:heavy=", "is not a whole number"},
        {"gear:s=x", "s=x is not a number"},
        {"h2o:heavy=-1", "heavy=-1 must be between"},
        {"h2o:weight=3", "h2o has no parameter \"weight\"; it has heavy"},
        {"pin:n=4", "pin has no parameter \"n\"; it has none"},
        {"layers:x=int8", "\"x\" is no layer and no range of layers"},
        {"layers:first=x,format=int8", "is not a number of layers"},
        {"layers:first=2", "belong together"},
        {"layers:0=int8,1=int4,2=fp8,3=rot,4=lm", "more than 4 different formats"},
        {"layers:file=/dev/zero", "no map of layers"},
        {"streaming:sinks=0,recent=0", "must be between"},
        {"streaming:sinks=0,recent=1", "leave no token to attend to"},
        {"lagkv:ratio=0.001", "leaves no token"},
        {"gear:buffer=65", "is neither at most 64 nor a multiple of it"},
        {"gear:rank=2.5", "neither a whole number nor a ratio"},
        {"int8:tail=65", "int8: tail=65 is not a multiple of 64"},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_method method;
        pleat_error error = {""};
        if (kv_method_parse(list[i].spec, NULL, &method, &error) != PLEAT_EINPUT)
            fail_msg("%.60s is not refused", list[i].spec);
        if (!strstr(error.text, list[i].said))
            fail_msg("%.60s: \"%s\" does not say \"%s\"", list[i].spec, error.text, list[i].said);
        assert_null(strchr(error.text, '\n'));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_pairs_are_those_of_the_parts),
        cmocka_unit_test(what_is_possible_runs),
        cmocka_unit_test(known_cells_are_as_designed),
        cmocka_unit_test(modifiers_go_with_those_who_can),
        cmocka_unit_test(every_way_to_write_it_wrong_has_its_sentence),
    };
    return cmocka_run_group_tests_name("capability", tests, NULL, NULL);
}
