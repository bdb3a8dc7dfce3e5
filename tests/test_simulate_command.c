/* test_simulate_command.c - `pleat simulate` as a person calls it: JSON fields, exit codes, the page, the store; and on
 * the study's own profiles what the router must show. Sizes are made up (tests/data/lengths.csv). */
#include "support/env.h"
#include "support/page.h"
#include "support/program.h"
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static char output[1 << 18];

/* Runs the command; stdout and stderr go to output. Returns the exit code. */
static int run(const char *arguments) {
    return program_line("simulate", arguments, output, sizeof(output));
}

static json_t *run_json(const char *arguments) {
    if (run(arguments))
        fail_msg("%s", output);
    json_t *object = json_loads(output, 0, NULL);
    assert_non_null(object);
    return object;
}

static void says(const char *arguments, int code, const char *words) {
    assert_int_equal(run(arguments), code);
    if (!strstr(output, words))
        fail_msg("\"%s\" does not hold \"%s\"", output, words);
    assert_int_equal(strcspn(output, "\n"), strlen(output) - 1); /* one line */
}

static double real(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static const json_t *find(const json_t *all, const char *method, const char *policy, double utilisation) {
    json_t *r;
    size_t i;
    json_array_foreach(json_object_get(all, "results"), i, r) {
        if (!strcmp(json_string_value(json_object_get(r, "method")), method) &&
            !strcmp(json_string_value(json_object_get(r, "policy")), policy) &&
            (utilisation == 0 || fabs(real(r, "utilisation") - utilisation) < 1e-6))
            return r;
    }
    fail_msg("there is no result of %s under %s", method, policy);
    return NULL;
}

static double times(const json_t *result, const char *gain) {
    return real(json_object_get(result, gain), "times");
}

/* The study's profiles; skips without them. */
static const char *profile_directory(void) {
    static char path[4200];
    snprintf(path, sizeof(path), "%s", env_reference("paper-data/throughput/profile/operators.csv"));
    *strrchr(path, '/') = 0;
    return path;
}

#define OWN "--profile tests/data/profile --base plain --lengths tests/data/lengths.csv "

static void json_has_the_fields(void **state) {
    (void)state;
    json_t *all = run_json(OWN "--methods packed,plain --rate 50 -n 400 --seeds 3 --kv packed=0.3 --json");
    static const char *const numbers[] = {"utilisation", "rate", "mean_s", "p50_s", "p99_s", "ci95", "ttft_s"};
    json_t *r;
    size_t i;
    assert_int_equal(json_array_size(json_object_get(all, "results")), 22);
    json_array_foreach(json_object_get(all, "results"), i, r) {
        assert_true(json_is_string(json_object_get(r, "policy")) && json_is_string(json_object_get(r, "method")));
        assert_int_equal(json_integer_value(json_object_get(r, "seeds")), 3);
        for (int k = 0; k < 7; k++)
            assert_true(real(r, numbers[k]) >= 0);
        assert_true(real(r, "p50_s") < real(r, "p99_s"));
    }
    assert_string_equal(json_string_value(json_object_get(json_object_get(all, "conditions"), "arrivals")), "poisson");
    json_decref(all);
}

/* Whatever changes the figures is among the conditions. */
static void conditions_say_what_was_simulated(void **state) {
    (void)state;
    json_t *all = run_json(OWN "--methods packed --rate 9 -n 20 --seeds 2 --seed 8589934593 --kv packed=0.3 --budget "
                               "packed=99 --context 900 --max-answer 700 --calibrate tests/data/predict/measured.csv "
                               "--policies random --json");
    const json_t *of = json_object_get(all, "conditions");
    static const char *const words[][2] = {{"base", "plain"},
                                           {"calibrated_on", "tests/data/predict/measured.csv"},
                                           {"kv", "packed=0.3"},
                                           {"budget", "packed=99"}};
    for (int i = 0; i < 4; i++)
        assert_string_equal(json_string_value(json_object_get(of, words[i][0])), words[i][1]);
    assert_int_equal(json_integer_value(json_object_get(of, "seeds")), 2);
    assert_int_equal(json_integer_value(json_object_get(of, "seed")), 8589934593);
    assert_int_equal(json_integer_value(json_object_get(of, "context")), 900);
    assert_int_equal(json_integer_value(json_object_get(of, "most_answer")), 700);
    json_decref(all);
}

static json_t *results_of(const char *options) {
    char line[600];
    snprintf(line, sizeof(line), OWN "--methods packed -n 300 --seeds 1 --policies power-of-two,state --json %s",
             options);
    json_t *all = run_json(line), *results = json_incref(json_object_get(all, "results"));
    json_decref(all);
    return results;
}

/* Whatever an option is for, the figures hear of it. */
static void every_option_changes_the_figures(void **state) {
    (void)state;
    static const char *const changes[][2] = {
        {"", "--rate 11"},
        {"", "--utilisation 0.9"},
        {"", "--arrivals gamma:3"},
        {"", "--stale 5000"},
        {"", "--routers 3"},
        {"--routers 3", "--routers 3 --unshared"},
        {"", "--length-noise 0.5"},
        {"", "--calibrate tests/data/predict/measured.csv"},
        {"", "--batch 3"},
        {"--batch 100", "--batch 100 --step-tokens 101"},
        {"", "--max-answer 50"},
        {"", "--context 60"},
        {"", "--memory 0.3"},
        {"--memory 0.3", "--memory 0.3 --token 600"},
        {"--memory 0.3", "--memory 0.3 --kv packed=0.2"},
        {"", "--budget packed=20"},
    };
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        json_t *a = results_of(changes[i][0]), *b = results_of(changes[i][1]);
        if (json_equal(a, b))
            fail_msg("%s and %s give the same", changes[i][0], changes[i][1]);
        json_decref(a);
        json_decref(b);
    }
}

static void the_same_whatever_the_threads(void **state) {
    (void)state;
    static char first[sizeof(output)];
    run(OWN "--methods small --utilisation 0.7,1.1 -n 300 --seeds 4 --length-noise 0.3 -t 1 --json");
    memcpy(first, output, sizeof(first));
    run(OWN "--methods small --utilisation 0.7,1.1 -n 300 --seeds 4 --length-noise 0.3 -t 3 --json");
    assert_string_equal(first, output);
    run(OWN "--methods small --utilisation 0.7,1.1 -n 300 --seeds 4 --length-noise 0.3 --seed 2 --json");
    assert_string_not_equal(first, output);
}

static void people_get_tables(void **state) {
    (void)state;
    assert_int_equal(run(OWN "--pool 'plain*2,packed' --utilisation 0.5 -n 200 --seeds 2 --policies state,random"), 0);
    assert_non_null(strstr(output, "\nplain*2,packed: "));
    assert_non_null(strstr(output, ", 0.50 of what the pool can do\n"));
    assert_non_null(strstr(output, "\nstate "));
    assert_non_null(strstr(output, "\nrandom "));
    assert_null(strstr(output, "\nboth "));
    assert_non_null(strstr(output, "\nno growth is known of packed: "));
    assert_null(strstr(output, " refused "));
    assert_int_equal(run(OWN "--methods packed -n 100 --seeds 1 --policies state --context 60"), 0);
    assert_non_null(strstr(output, " requests were refused (no replica could hold the prompt), 0 answers cut"));
}

static void people_see_the_study_s_figures_beside(void **state) {
    (void)state;
    char line[4700];
    snprintf(line, sizeof(line), "--profile %s --lengths tests/data/lengths.csv --methods kivi -n 50 --seeds 1",
             profile_directory());
    assert_int_equal(run(line), 0);
    const char *both = strstr(output, "\nboth ");
    assert_non_null(both);
    assert_int_equal(strncmp(strchr(both + 1, '\n') - 12, "1.44x    6.3\n", 13), 0);
}

static void a_page_and_a_store(void **state) {
    (void)state;
    char line[1000];
    char page[300], db[300];
    snprintf(page, sizeof(page), "%s", env_temp("routing.html"));
    snprintf(db, sizeof(db), "%s", env_temp("routing.db"));
    snprintf(line, sizeof(line),
             OWN "--methods packed --utilisation 0.5,0.9 -n 200 --seeds 2 --json --report %s --store %s", page, db);
    json_t *all = run_json(line);
    assert_int_equal(run(line), 0); /* again: a run beside it */
    page_read(page);
    assert_non_null(strstr(page_text(), "Where should requests go?"));
    assert_non_null(strstr(page_text(), "200 requests a run, 2 runs of each policy"));
    assert_non_null(strstr(page_text(), "packed, 0.90 of what the pool can do"));
    assert_null(strstr(page_text(), "Table 8")); /* these pools are not the study's */
    assert_int_equal(page_drawings(2), 2);
    const json_t *state_09 = find(all, "packed", "state", 0.9), *both = find(all, "packed", "both", 0.5);
    page_shows("What a policy gains", "0.90", "%.2fx", times(state_09, "gain_mean"));
    page_shows("What a policy gains", "0.90", "%.2fx", times(state_09, "gain_p99"));
    page_shows("What a policy gains", "0.50", "%.2fx", times(both, "gain_mean"));
    page_shows("packed, 0.50 of what", "both", "%.2fx", times(both, "gain_p99"));
    page_shows("packed, 0.50 of what", "both", "%.2f", real(both, "mean_s"));
    page_shows("packed, 0.50 of what", "both", "%.2f", real(both, "p99_s"));
    assert_non_null(strstr(page_row("Conditions", "profile"), "tests/data/profile"));
    page_shows("Conditions", "requests a run", "%.0f", 200);
    assert_null(strstr(page_text(), "length_noise")); /* the store's names are not people's */
    json_decref(all);
    remove(page);
    remove(db);
}

static void the_page_has_table_8(void **state) {
    (void)state;
    char line[4700], page[300];
    snprintf(page, sizeof(page), "%s", env_temp("table-8.html"));
    snprintf(line, sizeof(line),
             "--profile %s --lengths tests/data/lengths.csv --methods fp16,kivi -n 100 --seeds 2 --json --report %s",
             profile_directory(), page);
    json_t *all = run_json(line);
    page_read(page);
    const json_t *both = find(all, "kivi", "both", 0), *memory = find(all, "kivi", "least-memory", 0);
    page_shows("Table 8", "both", "%.1f", real(both, "mean_s"));
    page_shows("Table 8", "both", "%.2fx", real(memory, "mean_s") / real(both, "mean_s"));
    page_shows("Table 8", "both", "%.1f", 6.3);
    page_shows("Table 8", "both", "%.2fx", 9.1 / 6.3);
    page_shows("Table 8", "length", "%.2fx", 9.1 / 10.9);
    assert_non_null(strstr(page_text(), "fp16 alone, under least-memory: "));
    assert_non_null(strstr(page_text(), " s here, 11.4 s in the study."));
    char pool[32];
    snprintf(pool, sizeof(pool), "kivi, %.2f", real(both, "utilisation"));
    page_shows("What a policy gains", pool, "%.2fx", times(both, "gain_mean"));
    json_decref(all);
    remove(page);
}

static void traces_drive_it(void **state) {
    (void)state;
    char line[1000], path[300];
    snprintf(path, sizeof(path), "%s", env_temp("trace.csv"));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("timestamp_ms,input_tokens,output_tokens\n", f);
    for (int i = 0; i < 300; i++)
        fprintf(f, "%d,%d,%d\n", i / 3 * 100, 20 + i, 50 + i % 40);
    fclose(f);
    snprintf(line, sizeof(line),
             "--profile tests/data/profile --base plain --methods packed --arrivals %s --seeds 2 --json", path);
    json_t *all = run_json(line);
    const json_t *r = find(all, "packed", "state", 0);
    assert_true(real(r, "rate") == 0); /* as it is */
    assert_true(real(r, "utilisation") > 0 && real(r, "tokens") > 60);
    json_decref(all);
    remove(path);
}

static void growth_can_be_shown_and_given(void **state) {
    (void)state;
    char line[1000], path[300];
    assert_int_equal(run("--show-growth"), 0);
    assert_int_equal(strncmp(output, "method,quantile,growth\n", 23), 0);
    snprintf(path, sizeof(path), "%s", env_temp("growth.csv"));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("method,quantile,growth\npacked,0.5,2\n", f);
    fclose(f);
    snprintf(line, sizeof(line), OWN "--methods packed --rate 20 -n 300 --seeds 2 --policies round-robin --json %s%s",
             "--growth ", path);
    json_t *grown = run_json(line);
    json_t *plain = run_json(OWN "--methods packed --rate 20 -n 300 --seeds 2 --policies round-robin --json");
    double ratio = real(find(grown, "packed", "round-robin", 0), "tokens") /
                   real(find(plain, "packed", "round-robin", 0), "tokens");
    assert_true(ratio > 1.5 && ratio < 1.76); /* three of four twice as long, some cut at 1,024 */
    json_decref(grown);
    json_decref(plain);
    remove(path);
}

/* --context 0 is no limit: no prompt of ShareGPT's is left out for its length. */
static void no_limit_takes_every_prompt(void **state) {
    (void)state;
    char home[300], path[400];
    const char *before = getenv("PLEAT_HOME");
    snprintf(home, sizeof(home), "%s", env_temp("home"));
    snprintf(path, sizeof(path), "%s/data", home);
    assert_int_equal(mkdir(home, 0700) || mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/data/sharegpt.json", home);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
            "[{\"conversations\":[{\"from\":\"human\",\"value\":\"%040d\"},{\"from\":\"gpt\",\"value\":\"%080d\"}]},"
            "{\"conversations\":[{\"from\":\"human\",\"value\":\"abcd\"},{\"from\":\"gpt\",\"value\":\"abc\"}]}]\n",
            0, 0);
    fclose(f);
    setenv("PLEAT_HOME", home, 1);
    static const struct {
        const char *options, *taken;
    } expected[] = {{"--context 0", "2 of 2 conversations"},
                    {"--context 31 --max-answer 20", "2 of 2 conversations"},
                    {"--context 29 --max-answer 20", "1 of 2 conversations"},
                    {"--context 10 --max-answer 0", "1 of 2 conversations"}};
    for (int i = 0; i < 4; i++) {
        char line[400];
        snprintf(line, sizeof(line),
                 "--profile tests/data/profile --base plain --methods packed -n 20 --seeds 1 --policies random %s",
                 expected[i].options);
        assert_int_equal(run(line), 0);
        if (!strstr(output, expected[i].taken))
            fail_msg("\"%s\" does not hold \"%s\"", output, expected[i].taken);
    }
    says("--profile tests/data/profile --base plain --methods packed --context 1024", 1,
         "--max-answer 1024 leaves no room for a prompt within --context 1024");
    if (before)
        setenv("PLEAT_HOME", before, 1);
    else
        unsetenv("PLEAT_HOME");
    unlink(path);
    snprintf(path, sizeof(path), "%s/data", home);
    rmdir(path);
    rmdir(home);
}

static void bad_options_get_one_sentence(void **state) {
    (void)state;
    says("", 2, "which profile?");
    says("--profile tests/data/profile --policies stat", 2, "\"stat\" is no policy (did you mean state?)");
    says("--profile tests/data/profile --policies state,state", 2, "\"state\" is there twice");
    says("--profile tests/data/profile --policies ''", 2, "at least one is expected");
    says("--profile tests/data/profile --rate 3,x", 2, "--rate is \"3,x\"; numbers above 0");
    says("--profile tests/data/profile --utilisation 0", 2, "--utilisation is \"0\"; numbers above 0");
    says("--profile tests/data/profile --utilisation ''", 2, "--utilisation is \"\"; numbers above 0");
    says("--profile tests/data/profile --rate 3,", 2, "--rate is \"3,\"; numbers above 0");
    says("--profile tests/data/profile --rate 3,4,3", 2, "a number is there twice");
    says("--profile tests/data/profile --rate $(seq -s, 1 33)", 2, "that is too many numbers");
    says("--profile tests/data/profile --policies state,", 2, "\"\" is no policy");
    says("--profile tests/data/profile --seed 9223372036854775808", 2, "--seed must be below 2^63");
    says("--profile tests/data/profile --utilisation 0.5 --rate 3", 2, "say the same thing twice");
    says("--profile tests/data/profile --arrivals gamma:0", 2, "the coefficient of variation");
    says("--profile tests/data/profile --pool a --methods b", 2, "it stands instead of --methods");
    says("--profile tests/data/profile --kv packed", 2, "--kv: \"packed\" is not NAME=NUMBER");
    says("--profile tests/data/profile --step-tokens 100", 2, "--step-tokens is \"100\"");
    says("--profile tests/data/profile --length-noise 9", 2, "--length-noise");
}

static void bad_files_get_one_sentence(void **state) {
    (void)state;
    says("--profile /no/such --lengths tests/data/lengths.csv", 1, "/no/such has no attention-fp16.csv");
    says("--profile /no/such --methods kivi --lengths tests/data/lengths.csv", 1, "/no/such/");
    says(OWN "--methods unknown", 1, "attention-unknown.csv");
    says(OWN "--methods ''", 1, "\"\" is not the name of a method");
    says(OWN "--methods packed,", 1, "\"\" is not the name of a method");
    says(OWN "--methods packed,plain,packed", 1, "--methods names packed twice");
    says(OWN "--methods packed --memory 0.001", 1, "no request fits in the pool packed");
    says("--profile tests/data/profile --base plain --methods packed --lengths /no/such", 1, "/no/such: cannot be");
    says(OWN "--methods packed --growth tests/data/lengths.csv", 1, "tests/data/lengths.csv: line 1:");
    says(OWN "--methods packed --arrivals tests/data/lengths.csv", 1, "tests/data/lengths.csv: line 1: not a trace");
    says("--profile tests/data/profile --base plain --methods packed --lengths tests/data/profile/operators.csv", 1,
         "operators.csv: line 1:");
}

/* ---- on the study's profiles ---- */

/* Table 8: both before throughput before least-memory, and both before length alone, for every method. */
static void the_order_of_table_8(void **state) {
    (void)state;
    char line[4600];
    static const char *const methods[] = {"kivi", "gear", "h2o", "stream"};
    snprintf(line, sizeof(line), "--profile %s --lengths tests/data/lengths.csv --rate 10 --seeds 5 --json",
             profile_directory());
    json_t *all = run_json(line);
    for (int i = 0; i < 4; i++) {
        double both = real(find(all, methods[i], "both", 0), "mean_s");
        double throughput = real(find(all, methods[i], "throughput", 0), "mean_s");
        double memory = real(find(all, methods[i], "least-memory", 0), "mean_s");
        double length = real(find(all, methods[i], "length", 0), "mean_s");
        assert_true(both < 0.85 * memory && both < 0.85 * throughput);
        assert_true(throughput < memory);
        assert_true(length > 1.05 * both);
        assert_true(real(find(all, methods[i], "state", 0), "mean_s") < 1.02 * both);
    }
    json_decref(all);
}

static void state_gains_under_load(void **state) {
    (void)state;
    char line[4600];
    static const char *const methods[] = {"kivi", "gear", "h2o", "stream"};
    snprintf(line, sizeof(line),
             "--profile %s --lengths tests/data/lengths.csv --methods kivi,gear,h2o,stream -n 2500 --seeds 3 "
             "--utilisation 0.3,0.8,0.95 --policies round-robin,power-of-two,least-requests,least-tokens,state --json",
             profile_directory());
    json_t *all = run_json(line);
    for (int i = 0; i < 4; i++) {
        assert_true(times(find(all, methods[i], "state", 0.3), "gain_mean") > 0.99);
        for (int k = 0; k < 2; k++) {
            const json_t *r = find(all, methods[i], "state", k ? 0.95 : 0.8);
            assert_true(times(r, "gain_mean") >= 1.15);
            assert_true(times(r, "gain_p99") >= 1.3);
        }
    }
    json_decref(all);
}

/* Predictions that say nothing must not cost more than they could have brought. */
static void state_survives_useless_predictions(void **state) {
    (void)state;
    char line[4600];
    snprintf(line, sizeof(line),
             "--profile %s --lengths tests/data/lengths.csv --methods kivi -n 2500 --seeds 3 --length-noise 1 "
             "--utilisation 0.5,0.8 --policies both,round-robin,power-of-two,least-requests,least-tokens,state --json",
             profile_directory());
    json_t *all = run_json(line);
    for (int k = 0; k < 2; k++) {
        const json_t *r = find(all, "kivi", "state", k ? 0.8 : 0.5);
        assert_true(times(r, "gain_mean") > 0.99);
        assert_true(times(r, "gain_mean") > times(find(all, "kivi", "both", k ? 0.8 : 0.5), "gain_mean"));
    }
    json_decref(all);
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_has_the_fields),
        cmocka_unit_test(conditions_say_what_was_simulated),
        cmocka_unit_test(every_option_changes_the_figures),
        cmocka_unit_test(the_same_whatever_the_threads),
        cmocka_unit_test(people_get_tables),
        cmocka_unit_test(people_see_the_study_s_figures_beside),
        cmocka_unit_test(a_page_and_a_store),
        cmocka_unit_test(the_page_has_table_8),
        cmocka_unit_test(traces_drive_it),
        cmocka_unit_test(growth_can_be_shown_and_given),
        cmocka_unit_test(no_limit_takes_every_prompt),
        cmocka_unit_test(bad_options_get_one_sentence),
        cmocka_unit_test(bad_files_get_one_sentence),
        cmocka_unit_test(the_order_of_table_8),
        cmocka_unit_test(state_gains_under_load),
        cmocka_unit_test(state_survives_useless_predictions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
