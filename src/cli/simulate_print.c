/* simulate_print.c - see simulate_print.h. */
#include "cli/simulate_print.h"
#include "base/status.h"
#include "report/report.h"
#include "route/kept.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sim_result *find(const sim_result *of_case, int n_policies, route_policy policy) {
    for (int i = 0; i < n_policies; i++)
        if (of_case[i].policy == policy)
            return &of_case[i];
    return NULL;
}

/* ---- for people ---- */

static void show_gain(const sim_result *r, const sim_result *than, bool p99) {
    if (!than) {
        printf(" %18s", "");
        return;
    }
    sim_gain gain = p99 ? sim_gain_p99(r, than) : sim_gain_mean(r, than);
    printf("  %5.2fx %5.2f-%-5.2f", gain.times, gain.low, gain.high);
}

static void show_result(const sim_result *of_case, int n_policies, const sim_result *r) {
    const sim_seed *m = &r->mean;
    printf("%-15s %8.2f +-%5.2f %8.2f %8.2f %7.2f %6.0f %5.2f", route_policy_name(r->policy), m->mean_s, r->ci95,
           m->p50_s, m->p99_s, m->first_s, m->tokens, m->base);
    show_gain(r, sim_best_usual(of_case, n_policies, false), false);
    show_gain(r, sim_best_usual(of_case, n_policies, true), true);
    if (sim_in_table_8(r->of)) {
        const sim_result *base = find(of_case, n_policies, ROUTE_LEAST_MEMORY);
        double paper = sim_paper_mean_s(r->of->method, r->policy);
        double paper_base = sim_paper_mean_s(r->of->method, ROUTE_LEAST_MEMORY);
        if (base)
            printf("  %5.2fx", base->mean.mean_s / m->mean_s);
        if (!isnan(paper))
            printf(" %6.2fx %6.1f", paper_base / paper, paper);
    }
    putchar('\n');
}

static void show_case(const sim_result *of_case, int n_policies) {
    const sim_case *c = of_case->of;
    int refused = 0, cut = 0, preempted = 0;
    if (c->load.rate > 0)
        printf("\n%s: %.2f requests/s, %.2f of what the pool can do\n", c->method, c->load.rate, c->utilisation);
    else
        printf("\n%s: arrivals as recorded, on average %.2f of what the pool can do\n", c->method, c->utilisation);
    printf("%-15s %16s %8s %8s %7s %6s %5s  %-18s %-18s%s\n", "policy", "mean, s", "median", "p99", "first", "tokens",
           "base", "mean, best usual", "p99, best usual",
           sim_in_table_8(c) ? "  over least-memory: here, paper; paper's s" : "");
    for (int i = 0; i < n_policies; i++) {
        show_result(of_case, n_policies, &of_case[i]);
        refused += of_case[i].mean.refused;
        cut += of_case[i].mean.cut;
        preempted += of_case[i].mean.preempted;
    }
    if (refused || cut)
        printf("%d requests were refused (no replica could hold the prompt), %d answers cut by memory, in all runs\n",
               refused, cut);
    if (preempted)
        printf("requests were put back for want of memory %d times, in all runs\n", preempted);
}

static const char *word(const json_t *of, const char *name) {
    const char *value = json_string_value(json_object_get(of, name));
    return value ? value : "";
}

void simulate_show(const json_t *of, const sim_result *r, int n_cases, int n_policies) {
    printf("%s; arrivals: %s; lengths: %s; growth under a method: %s\n", word(of, "profile"), word(of, "arrivals"),
           word(of, "lengths"), word(of, "growth"));
    if (*word(of, "sizes"))
        printf("lengths from %s\n", word(of, "sizes"));
    if (*word(of, "without_growth"))
        printf("no growth is known of %s: answers are taken to be as long as uncompressed\n",
               word(of, "without_growth"));
    printf("%d requests a run, %d seeds; seconds from arrival to last token; base: share on uncompressed replicas\n",
           (int)json_integer_value(json_object_get(of, "requests")), r->n_seeds);
    for (int i = 0; i < n_cases; i++)
        show_case(r + i * n_policies, n_policies);
}

/* ---- JSON ---- */

static void set_gain(json_t *o, const char *name, const sim_gain *gain) {
    json_object_set_new(o, name,
                        json_pack("{s:f,s:f,s:f}", "times", gain->times, "low", gain->low, "high", gain->high));
}

static json_t *result_json(const sim_result *of_case, int n_policies, const sim_result *r) {
    const sim_seed *m = &r->mean;
    const sim_result *usual = sim_best_usual(of_case, n_policies, false),
                     *usual_p99 = sim_best_usual(of_case, n_policies, true);
    double paper = sim_paper_mean_s(r->of->method, r->policy);
    json_t *o = json_pack("{s:s,s:s,s:f,s:f,s:i,s:f,s:f,s:f,s:f}", "policy", route_policy_name(r->policy), "method",
                          r->of->method, "utilisation", r->of->utilisation, "rate", r->of->load.rate, "seeds",
                          r->n_seeds, "mean_s", m->mean_s, "p50_s", m->p50_s, "p99_s", m->p99_s, "ci95", r->ci95);
    json_object_update_new(o, json_pack("{s:f,s:f,s:f,s:i,s:i,s:i}", "ttft_s", m->first_s, "tokens", m->tokens,
                                        "base_share", m->base, "refused", m->refused, "cut", m->cut, "preempted",
                                        m->preempted));
    if (usual) {
        sim_gain gain = sim_gain_mean(r, usual);
        set_gain(o, "gain_mean", &gain);
        gain = sim_gain_p99(r, usual_p99);
        set_gain(o, "gain_p99", &gain);
    }
    if (sim_in_table_8(r->of) && !isnan(paper))
        json_object_set_new(o, "paper_mean_s", json_real(paper));
    return o;
}

json_t *simulate_json(json_t *of, const sim_result *r, int n_cases, int n_policies) {
    json_t *list = json_array(), *o = json_pack("{s:o}", "conditions", of);
    for (int i = 0; i < n_cases * n_policies; i++)
        json_array_append_new(list, result_json(r + i / n_policies * n_policies, n_policies, &r[i]));
    json_object_set_new(o, "results", list);
    return o;
}

/* ---- keeping ---- */

pleat_status simulate_keep(const char *store_path, const char *report_path, const json_t *of, const sim_result *results,
                           int n_cases, int n_policies, pleat_error *error) {
    store *db = NULL;
    store_begun run;
    char *options = json_dumps(of, JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
    if (!options)
        return err_set(error, PLEAT_EMEMORY, "no memory for the conditions");
    store_run identity = {.what = "simulate",
                          .model_name = word(of, "profile"),
                          .model_hash = "",
                          .machine = "simulated",
                          .level = "",
                          .version = PLEAT_VERSION,
                          .options = options};
    pleat_status status = store_open(store_path ? store_path : STORE_IN_MEMORY, true, &db, error);
    status = status ? status : store_run_begin(db, &identity, STORE_ANEW, &run, error);
    status = status ? status : sim_results_put(db, run.id, results, n_cases * n_policies, error);
    status = status ? status : store_run_finish(db, run.id, error);
    if (!status && report_path)
        status = report_simulate_write(db, run.id, report_path, error);
    store_close(db);
    free(options);
    return status;
}
