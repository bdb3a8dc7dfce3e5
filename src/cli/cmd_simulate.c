/* cmd_simulate.c - `pleat simulate`. */
#include "cli/commands.h"
#include "cli/simulate_print.h"
#include "base/progress.h"
#include "base/status.h"
#include "report/report.h"
#include "route/fleet.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const command self = {
    .name = "simulate",
    .summary =
        "The router's policies under a load, in simulated time, on a published profile: replicas that compress "
        "differently, requests that arrive, and how long each waits for its whole answer.\n"
        "A pool is named by its method: kivi is one uncompressed replica and three of kivi. Every policy sees the same "
        "requests; intervals are over seeds.",
    .arguments = "",
    .example =
        "pleat simulate --profile DIR --methods kivi,gear --rate 10\n"
        "pleat simulate --profile DIR --methods kivi --utilisation 0.5,0.8,0.95 --requests 10000 --report r.html\n"
        "pleat simulate --profile DIR --pool fp16*2,kivi,h2o --arrivals azure.csv --utilisation 0.8",
};

enum { MOST_POOLS = 16, MOST_LEVELS = 32, MOST_CASES = MOST_POOLS * MOST_LEVELS };

typedef struct settings {
    const char *methods, *pool, *policies, *rate, *utilisation, *arrivals, *lengths, *growth, *kv, *budget;
    const char *store, *report;
    sim_engine engine;
    double noise, memory_gb, token_kb;
    int requests, seeds, most_answer, threads, stale_ms;
    uint64_t seed;
    sim_run_options run;
    bool json, show_growth;
} settings;

typedef struct study {
    sim_fleet *fleet; /* [MOST_POOLS] */
    int n_fleets;
    double level[MOST_LEVELS];
    int n_levels;
    route_policy policy[ROUTE_POLICIES];
    int n_policies;
    sim_sizes sizes;
    sim_trace trace;
    sim_growths growths;
    double variation;
    sim_case *cases; /* [MOST_CASES] */
    int n_cases;
    sim_result *results;
} study;

static int usage(const char *name, const char *value, const char *why) {
    fprintf(stderr, "pleat simulate: --%s is \"%.60s\"; %s; see `pleat simulate --help`\n", name, value, why);
    return EXIT_USAGE;
}

/* ---- options that are lists ---- */

/* The list's next part, up to a comma, into part (cut at cap); false when there is none. */
static bool next_part(const char **list, char *part, size_t cap) {
    if (!*list)
        return false;
    size_t n = strcspn(*list, ",");
    snprintf(part, cap, "%.*s", (int)(n < cap ? n : cap), *list);
    *list = (*list)[n] ? *list + n + 1 : NULL;
    return true;
}

static int read_levels(const settings *s, study *t) {
    const char *which = s->utilisation ? "utilisation" : "rate", *list = s->utilisation ? s->utilisation : s->rate;
    char part[64], *end;
    if (s->utilisation && s->rate)
        return usage("rate", s->rate, "it and --utilisation say the same thing twice");
    for (const char *at = list; next_part(&at, part, sizeof(part));) {
        double value = strtod(part, &end);
        if (end == part || *end || !(value > 0 && value <= 1e6))
            return usage(which, list, "numbers above 0, separated by commas, are expected");
        for (int i = 0; i < t->n_levels; i++)
            if (t->level[i] == value)
                return usage(which, list, "a number is there twice");
        if (t->n_levels == MOST_LEVELS)
            return usage(which, list, "that is too many numbers");
        t->level[t->n_levels++] = value;
    }
    return -1;
}

static int read_policies(const settings *s, study *t) {
    const char *names[ROUTE_POLICIES + 1] = {NULL};
    char name[64];
    for (int i = 0; i < ROUTE_POLICIES; i++)
        names[i] = route_policy_name((route_policy)i);
    if (!s->policies) {
        for (t->n_policies = 0; t->n_policies < ROUTE_POLICIES; t->n_policies++)
            t->policy[t->n_policies] = (route_policy)t->n_policies;
        return -1;
    }
    if (!*s->policies)
        return usage("policies", s->policies, "at least one is expected");
    for (const char *at = s->policies; next_part(&at, name, sizeof(name));) {
        route_policy policy = ROUTE_STATE;
        bool known, twice = false;
        known = route_policy_find(name, &policy);
        for (int i = 0; known && i < t->n_policies; i++)
            twice = twice || t->policy[i] == policy;
        if (!known || twice) {
            const char *guess = options_guess(name, names);
            char why[120];
            snprintf(why, sizeof(why), "\"%.30s\" is %s%s%s%s", name, twice ? "there twice" : "no policy",
                     guess && !known ? " (did you mean " : "", guess && !known ? guess : "",
                     guess && !known ? "?)" : "");
            return usage("policies", s->policies, why);
        }
        t->policy[t->n_policies++] = policy;
    }
    return -1;
}

/* "poisson", "gamma:CV", or a file. */
static int read_arrivals(settings *s, study *t) {
    const char *a = s->arrivals;
    char *end;
    t->variation = 1;
    if (!strcmp(a, "poisson")) {
        s->arrivals = NULL;
    } else if (!strncmp(a, "gamma:", 6)) {
        t->variation = strtod(a + 6, &end);
        if (end == a + 6 || *end || !(t->variation >= 0.05 && t->variation <= 20))
            return usage("arrivals", a, "the coefficient of variation after gamma: must be between 0.05 and 20");
        s->arrivals = NULL;
    }
    return -1;
}

/* ---- inputs ---- */

static pleat_status read_sizes(const settings *s, study *t, pleat_error *error) {
    char path[4200], home[3000];
    if (strcmp(s->lengths, "sharegpt"))
        return sim_sizes_read(s->lengths, &t->sizes, error);
    if (!home_path(home, sizeof(home)))
        return err_set(error, PLEAT_EINPUT, "no place to look for sharegpt: set PLEAT_HOME or HOME");
    snprintf(path, sizeof(path), "%s/data/sharegpt.json", home);
    if (access(path, R_OK))
        return err_set(error, PLEAT_EINPUT,
                       "ShareGPT is not there yet; get it with `pleat fetch sharegpt`, or give --lengths FILE");
    int room = s->engine.most_context - (s->most_answer ? s->most_answer : 1);
    if (s->engine.most_context && room < 1)
        return err_set(error, PLEAT_EINPUT, "--max-answer %d leaves no room for a prompt within --context %d",
                       s->most_answer, s->engine.most_context);
    return sim_sizes_sharegpt(path, s->engine.most_context ? room : 0, &t->sizes, error);
}

static bool has_profile(const settings *s, const char *method) {
    char path[4200];
    snprintf(path, sizeof(path), "%s/attention-%s.csv", s->engine.directory, method);
    return !access(path, R_OK);
}

static pleat_status add_fleet(const settings *s, study *t, const char *spec, pleat_error *error) {
    for (int i = 0; i < t->n_fleets; i++)
        if (!strcmp(t->fleet[i].label, spec))
            return err_set(error, PLEAT_EINPUT, "--methods names %.60s twice", spec);
    if (t->n_fleets == MOST_POOLS)
        return err_set(error, PLEAT_EINPUT, "--methods names more than %d pools", MOST_POOLS);
    pleat_status status = sim_fleet_open(&s->engine, spec, &t->fleet[t->n_fleets], error);
    t->n_fleets += !status;
    return status;
}

/* One pool a method; without a list the study's that the directory has. */
static pleat_status open_fleets(const settings *s, study *t, pleat_error *error) {
    static const char *const published[] = {"fp16", "kivi", "gear", "h2o", "stream"};
    pleat_status status = PLEAT_OK;
    char name[200];
    if (s->pool)
        return add_fleet(s, t, s->pool, error);
    if (!s->methods) {
        for (int i = 0; i < 5 && !status; i++)
            if (has_profile(s, published[i]))
                status = add_fleet(s, t, published[i], error);
        return status || t->n_fleets ? status
                                     : err_set(error, PLEAT_EINPUT,
                                               "%.300s has no attention-fp16.csv or the like; say which methods to "
                                               "take with --base and --methods",
                                               s->engine.directory);
    }
    for (const char *at = s->methods; !status && next_part(&at, name, sizeof(name));)
        status = add_fleet(s, t, name, error);
    return status;
}

static pleat_status add_case(const settings *s, study *t, const sim_fleet *fleet, double level, pleat_error *error) {
    sim_case c = {.method = fleet->label, .replica = fleet->replica, .n_replicas = fleet->n};
    sim_load_options *load = &c.load;
    double capacity;
    *load = (sim_load_options){.n = s->requests,
                               .sizes = t->sizes.n ? &t->sizes : NULL,
                               .trace = t->trace.n ? &t->trace : NULL,
                               .variation = t->variation,
                               .most_answer = s->most_answer,
                               .noise = s->noise};
    sim_fleet_methods(fleet, &t->growths, load);
    pleat_status status = sim_fleet_capacity(fleet, load, &capacity, error);
    if (!status && capacity <= 0)
        status = err_set(error, PLEAT_EINPUT, "no request fits in the pool %s: see --memory, --token and --context",
                         fleet->label);
    if (status)
        return status;
    load->rate = s->utilisation ? level * capacity : level;
    c.utilisation = load->rate / capacity;
    if (load->rate <= 0) /* a trace as it is */
        c.utilisation = (t->trace.n - 1) / (t->trace.row[t->trace.n - 1].at_s + 1e-9) / capacity;
    t->cases[t->n_cases++] = c;
    return PLEAT_OK;
}

static pleat_status prepare(const settings *s, study *t, pleat_error *error) {
    t->fleet = calloc(MOST_POOLS, sizeof(*t->fleet));
    t->cases = calloc(MOST_CASES, sizeof(*t->cases));
    if (!t->fleet || !t->cases)
        return err_set(error, PLEAT_EMEMORY, "no memory for a simulation");
    pleat_status status = sim_growths_read(s->growth, &t->growths, error);
    status = status ? status : open_fleets(s, t, error);
    if (!status && s->arrivals)
        status = sim_trace_read(s->arrivals, &t->trace, error);
    if (!status && (s->lengths || !s->arrivals))
        status = read_sizes(s, t, error);
    if (!t->n_levels && !s->arrivals)
        t->level[t->n_levels++] = 10;
    for (int i = 0; i < t->n_fleets && !status; i++)
        for (int k = 0; k < (t->n_levels ? t->n_levels : 1) && !status; k++)
            status = add_case(s, t, &t->fleet[i], t->level[k], error);
    return status;
}

static void free_study(study *t) {
    if (t->results)
        sim_results_free(t->results, t->n_cases * t->n_policies);
    for (int i = 0; i < t->n_fleets; i++)
        sim_fleet_close(&t->fleet[i]);
    free(t->results);
    free(t->cases);
    free(t->fleet);
    sim_sizes_free(&t->sizes);
    sim_trace_free(&t->trace);
    sim_growths_free(&t->growths);
}

/* ---- running ---- */

static void tell(void *context, int done, int of) {
    (void)of;
    progress_update(context, done, NULL);
}

static pleat_status sweep(const settings *s, study *t, pleat_error *error) {
    progress bar;
    sim_sweep_options options = {.policy = t->policy,
                                 .n_policies = t->n_policies,
                                 .n_seeds = s->seeds,
                                 .first_seed = s->seed,
                                 .run = s->run,
                                 .n_threads = s->threads,
                                 .tell = tell,
                                 .tell_context = &bar};
    t->results = calloc((size_t)(t->n_cases * t->n_policies), sizeof(*t->results));
    if (!t->results)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d results", t->n_cases * t->n_policies);
    progress_begin(&bar, "simulate", (double)t->n_cases * t->n_policies * s->seeds);
    pleat_status status = sim_sweep(t->cases, t->n_cases, &options, t->results, error);
    progress_end(&bar);
    return status;
}

/* Compressed methods whose answers are taken to be as long as uncompressed, as the growth file lacks them. */
static void name_without_growth(const study *t, char *out, size_t cap) {
    size_t n = 0;
    *out = 0;
    for (int i = 0; i < t->n_fleets; i++)
        for (int m = 1; m < t->fleet[i].n_methods; m++) {
            const char *name = t->fleet[i].method[m];
            if (!sim_growth_find(&t->growths, name) && !strstr(out, name) && n + strlen(name) + 3 < cap)
                n += (size_t)snprintf(out + n, cap - n, "%s%s", n ? ", " : "", name);
        }
}

/* The conditions, as the store and the JSON hold them. */
static json_t *conditions(const settings *s, const study *t) {
    char arrivals[64], without[400];
    name_without_growth(t, without, sizeof(without));
    snprintf(arrivals, sizeof(arrivals), t->variation == 1 ? "poisson" : "gamma, coefficient of variation %g",
             t->variation);
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:I,s:f,s:f,s:i,s:b,s:f,s:f,s:s,s:s,s:i,s:i,s:i,s:i}",
                     "profile", s->engine.directory, "base", s->engine.base, "calibrated_on",
                     s->engine.calibrate ? s->engine.calibrate : "", "arrivals", s->arrivals ? s->arrivals : arrivals,
                     "lengths", s->lengths || !s->arrivals ? s->lengths : "the trace's", "sizes", t->sizes.note,
                     "growth", s->growth ? s->growth : "assumed from the study's figures", "without_growth", without,
                     "requests", s->requests, "seeds", s->seeds, "seed", (json_int_t)s->seed, "length_noise", s->noise,
                     "stale_s", s->run.stale_s, "routers", s->run.n_routers, "routers_share", !s->run.unshared, "kv_gb",
                     s->memory_gb, "token_kb", s->token_kb, "kv", s->kv, "budget", s->budget, "batch",
                     s->engine.most_batch, "step_tokens", s->engine.step_tokens, "context", s->engine.most_context,
                     "most_answer", s->most_answer);
}

static int simulate(settings *s, study *t) {
    pleat_error error;
    pleat_status status = prepare(s, t, &error);
    status = status ? status : sweep(s, t, &error);
    json_t *of = status ? NULL : conditions(s, t);
    if (!status && (s->store || s->report))
        status = simulate_keep(s->store, s->report, of, t->results, t->n_cases, t->n_policies, &error);
    if (status) {
        json_decref(of);
        return print_error(self.name, &error);
    }
    if (s->json)
        return print_json(self.name, simulate_json(of, t->results, t->n_cases, t->n_policies));
    simulate_show(of, t->results, t->n_cases, t->n_policies);
    json_decref(of);
    if (s->report)
        printf("\nreport: %s\n", s->report);
    return EXIT_OK;
}

static int check(settings *s, study *t) {
    pleat_error error;
    int code = read_levels(s, t);
    code = code >= 0 ? code : read_policies(s, t);
    code = code >= 0 ? code : read_arrivals(s, t);
    if (code >= 0)
        return code;
    if (!s->engine.directory) {
        fprintf(stderr, "pleat simulate: which profile? give its directory with --profile DIR; see `pleat simulate "
                        "--help`\n");
        return EXIT_USAGE;
    }
    if (s->pool && s->methods)
        return usage("pool", s->pool, "it stands instead of --methods");
    if (s->seed > INT64_MAX) {
        fprintf(stderr, "pleat simulate: --seed must be below 2^63; see `pleat simulate --help`\n");
        return EXIT_USAGE;
    }
    if (s->engine.step_tokens <= s->engine.most_batch) {
        char value[32];
        snprintf(value, sizeof(value), "%d", s->engine.step_tokens);
        return usage("step-tokens", value, "a step needs more tokens than --batch, or prompts never get on");
    }
    s->lengths = s->lengths || s->arrivals ? s->lengths : "sharegpt";
    s->engine.kv_bytes = s->memory_gb * 1e9;
    s->engine.token_bytes = s->token_kb * 1024;
    s->run.stale_s = s->stale_ms / 1e3;
    if (sim_engine_set(&s->engine, "kv", s->kv, false, &error) ||
        sim_engine_set(&s->engine, "budget", s->budget, true, &error)) {
        print_error(self.name, &error);
        return EXIT_USAGE;
    }
    return -1;
}

int cmd_simulate(int argc, char **argv) {
    settings s = {.arrivals = "poisson",
                  .kv = "",
                  .budget = "",
                  .engine = sim_engine_default(),
                  .requests = 1000,
                  .seeds = 10,
                  .seed = 1,
                  .most_answer = 1024,
                  .run = {.n_routers = 1}};
    s.memory_gb = s.engine.kv_bytes / 1e9;
    s.token_kb = s.engine.token_bytes / 1024;
    int n_arguments;
    const option options[] = {
        {"profile", 0, OPTION_TEXT, &s.engine.directory, "DIR", "operators.csv and attention-METHOD.csv", 0, 0},
        {"methods", 0, OPTION_TEXT, &s.methods, "A,B", "pools: one uncompressed replica and three of the method", 0, 0},
        {"pool", 0, OPTION_TEXT, &s.pool, "SPEC", "one pool, replica by replica: fp16*2,kivi,h2o", 0, 0},
        {"base", 0, OPTION_TEXT, &s.engine.base, "NAME", "the uncompressed method of the profile", 0, 0},
        {"calibrate", 0, OPTION_TEXT, &s.engine.calibrate, "FILE",
         "measured points of the base: their factor a stage holds for all methods", 0, 0},
        {"policies", 0, OPTION_TEXT, &s.policies, "A,B", "all if not given", 0, 0},
        {"rate", 0, OPTION_TEXT, &s.rate, "R,R", "requests per second; if not given, 10, or a trace as it is", 0, 0},
        {"utilisation", 0, OPTION_TEXT, &s.utilisation, "U,U", "instead: shares of what the pool can do", 0, 0},
        {"arrivals", 0, OPTION_TEXT, &s.arrivals, "HOW",
         "poisson, gamma:CV, or a trace file (Azure's CSV, Mooncake's CSV or JSON lines)", 0, 0},
        {"lengths", 0, OPTION_TEXT, &s.lengths, "FILE",
         "sharegpt, or a CSV with prompt_tokens, answer_tokens; if not given, the trace's own, or sharegpt", 0, 0},
        {"growth", 0, OPTION_TEXT, &s.growth, "FILE",
         "how answers grow under a method: a CSV with method, quantile, growth", 0, 0},
        {"show-growth", 0, OPTION_FLAG, &s.show_growth, NULL, "print the built-in growth file, and nothing else", 0, 0},
        {"length-noise", 0, OPTION_FLOAT, &s.noise, "X",
         "error of predicted lengths: mean absolute, of the logarithm; 0: they are right", 0, 5},
        {"requests", 'n', OPTION_INT, &s.requests, "N", "per run", 1, 10000000},
        {"seeds", 0, OPTION_INT, &s.seeds, "N", "runs of each policy", 1, SIM_MOST_SEEDS},
        {"seed", 0, OPTION_SEED, &s.seed, "N", "the first one", 0, 0},
        {"routers", 0, OPTION_INT, &s.run.n_routers, "N", "routers side by side", 1, 64},
        {"unshared", 0, OPTION_FLAG, &s.run.unshared, NULL, "routers do not hear of each other's requests", 0, 0},
        {"stale", 0, OPTION_INT, &s.stale_ms, "MS", "routers hear of tokens and ends only every MS milliseconds", 0,
         3600000},
        {"memory", 0, OPTION_FLOAT, &s.memory_gb, "GB", "for KV pages, each replica", 1e-3, 1e6},
        {"token", 0, OPTION_FLOAT, &s.token_kb, "KB", "KV bytes of an uncompressed token, in 1,024", 1e-3, 1e6},
        {"kv", 0, OPTION_TEXT, &s.kv, "M=X,..", "KV bytes of a method's token over the uncompressed", 0, 0},
        {"budget", 0, OPTION_TEXT, &s.budget, "M=N,..", "tokens that an evicting method keeps", 0, 0},
        {"batch", 0, OPTION_INT, &s.engine.most_batch, "N", "requests that a step takes at most", 1, 4096},
        {"step-tokens", 0, OPTION_INT, &s.engine.step_tokens, "N", "tokens that a step takes at most", 2, 1 << 20},
        {"context", 0, OPTION_INT, &s.engine.most_context, "N", "longest prompt; 0: no limit", 0, 1 << 24},
        {"max-answer", 0, OPTION_INT, &s.most_answer, "N", "tokens that an answer may have; 0: no limit", 0, 1 << 24},
        {"store", 0, OPTION_TEXT, &s.store, "FILE", "keep the results in a study database", 0, 0},
        {"report", 0, OPTION_TEXT, &s.report, "FILE", "a page with curves and tables", 0, 0},
        {"threads", 't', OPTION_INT, &s.threads, "N", "threads; 0: all cores; results do not depend on it", 0, 1024},
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code < 0 && s.show_growth) {
        fputs(sim_growths_text(), stdout);
        return EXIT_OK;
    }
    study t = {.n_fleets = 0};
    code = code >= 0 ? code : check(&s, &t);
    if (code >= 0)
        return code;
    code = simulate(&s, &t);
    free_study(&t);
    return code;
}
