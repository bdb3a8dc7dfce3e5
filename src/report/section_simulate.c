/* section_simulate.c - routing, simulated: what the policies gain over the usual ones, by pool and utilisation, as
 * tables and curves; the study's Table 8 beside ours; all figures of each load, and the conditions, folded. */
#include "base/file.h"
#include "base/status.h"
#include "report/page.h"
#include "report/plot.h"
#include "report/report.h"
#include "report/section.h"
#include "route/kept.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_of_case(const sim_kept *k, int i) {
    return k->first[i + 1] - k->first[i];
}

static const sim_result *find(const sim_kept *k, int i, route_policy policy) {
    for (int j = k->first[i]; j < k->first[i + 1]; j++)
        if (k->results[j].policy == policy)
            return &k->results[j];
    return NULL;
}

static const sim_result *best_usual(const sim_kept *k, int i, bool p99) {
    return sim_best_usual(&k->results[k->first[i]], n_of_case(k, i), p99);
}

/* ---- pools: the cases of one name stand together ---- */

static int pool_end(const sim_kept *k, int from) {
    int i = from;
    while (i < k->n_cases && !strcmp(k->cases[i].method, k->cases[from].method))
        i++;
    return i;
}

static bool one_load_each(const sim_kept *k) {
    for (int i = 0; i < k->n_cases; i = pool_end(k, i))
        if (pool_end(k, i) - i > 1)
            return false;
    return true;
}

/* ---- gains ---- */

static void put_gain(const sim_result *r, const sim_result *than, bool p99, text *page) {
    char title[64];
    if (!r || !than || than == r) {
        html_cell_none(page, !r     ? "not simulated"
                             : than ? "the best of the usual ones itself"
                                    : "no usual one to beat");
        return;
    }
    sim_gain gain = p99 ? sim_gain_p99(r, than) : sim_gain_mean(r, than);
    snprintf(title, sizeof(title), "95 %%: %.3f to %.3f, against %s", gain.low, gain.high,
             route_policy_name(than->policy));
    html_cell_heat(page, gain.times, gain.low <= 1 && gain.high >= 1, title);
}

static void put_gain_heads(const char *first, text *page) {
    html_table_head(page);
    html_head(page, "%s", first);
    html_head(page, "state");
    html_head(page, "p99");
    html_head(page, "both");
    html_head(page, "p99");
    html_row_end(page);
}

static void put_gains_of(const sim_kept *k, int i, text *page) {
    const route_policy compared[] = {ROUTE_STATE, ROUTE_BOTH};
    for (int c = 0; c < 2; c++)
        for (int p99 = 0; p99 < 2; p99++)
            put_gain(find(k, i, compared[c]), best_usual(k, i, p99), p99, page);
    html_row_end(page);
}

static void put_gains_by_utilisation(const sim_kept *k, text *page) {
    text_puts(page, "<div class=\"maps\">\n");
    for (int from = 0; from < k->n_cases; from = pool_end(k, from)) {
        text_puts(page, "<div>");
        html_heading(page, k->cases[from].method);
        put_gain_heads("load", page);
        for (int i = from; i < pool_end(k, from); i++) {
            html_row(page, "%.2f", k->cases[i].utilisation);
            put_gains_of(k, i, page);
        }
        html_table_end(page);
        text_puts(page, "</div>\n");
    }
    text_puts(page, "</div>\n");
}

static void put_gains(const sim_kept *k, text *page) {
    html_heading(page, "What a policy gains");
    html_note(page, "How many times less than the best of the usual policies (round-robin, random, power-of-two, "
                    "least-requests, least-tokens), each time the best of them: the mean, then the 99th percentile. "
                    "Load: arrivals over what the pool can do. Not coloured: the 95 %% interval holds 1.");
    if (!one_load_each(k)) {
        put_gains_by_utilisation(k, page);
        return;
    }
    put_gain_heads("pool, load", page);
    for (int i = 0; i < k->n_cases; i++) {
        html_row(page, "%s, %.2f", k->cases[i].method, k->cases[i].utilisation);
        put_gains_of(k, i, page);
    }
    html_table_end(page);
}

/* ---- Table 8 ---- */

static bool has_table_8(const sim_case *c) {
    return sim_in_table_8(c) && !isnan(sim_paper_mean_s(c->method, ROUTE_BOTH));
}

static void put_table_8_row(const sim_kept *k, int i, const sim_result *r, text *page) {
    const sim_result *base = find(k, i, ROUTE_LEAST_MEMORY);
    double paper = sim_paper_mean_s(k->cases[i].method, r->policy);
    html_row(page, "%s", route_policy_name(r->policy));
    html_cell(page, "%.1f", r->mean.mean_s);
    if (base) {
        sim_gain gain = sim_gain_mean(r, base);
        html_cell_heat(page, base->mean.mean_s / r->mean.mean_s, gain.low <= 1 && gain.high >= 1, NULL);
    } else {
        html_cell_none(page, "least-memory was not simulated");
    }
    if (isnan(paper)) {
        html_cell_none(page, "the study has none");
        html_cell_none(page, "the study has none");
    } else {
        html_cell(page, "%.1f", paper);
        html_cell_heat(page, sim_paper_mean_s(k->cases[i].method, ROUTE_LEAST_MEMORY) / paper,
                       r->policy == ROUTE_LEAST_MEMORY, NULL);
    }
    html_row_end(page);
}

static void put_table_8_of(const sim_kept *k, int i, text *page) {
    static const char *const heads[] = {"policy", "s", "gain", "study, s", "gain", NULL};
    text_puts(page, "<div>");
    html_heading(page, k->cases[i].method);
    html_table(page, heads);
    for (int j = k->first[i]; j < k->first[i + 1]; j++)
        put_table_8_row(k, i, &k->results[j], page);
    html_table_end(page);
    text_puts(page, "</div>\n");
}

static void put_table_8(const sim_kept *k, text *page) {
    int n = 0;
    for (int i = 0; i < k->n_cases; i++)
        n += has_table_8(&k->cases[i]);
    if (!n)
        return;
    html_heading(page, "The study's Table 8, and ours");
    html_note(page, "Mean seconds from arrival to last token at 10 requests/s, and how many times less than "
                    "least-memory gives; then the study's. Its engine and lengths are not these: what can be compared "
                    "is the order, and the gains.");
    text_puts(page, "<div class=\"maps broad\">\n");
    for (int i = 0; i < k->n_cases; i++)
        if (has_table_8(&k->cases[i]))
            put_table_8_of(k, i, page);
    text_puts(page, "</div>\n");
    for (int i = 0; i < k->n_cases; i++)
        if (sim_in_table_8(&k->cases[i]) && !has_table_8(&k->cases[i]) && find(k, i, ROUTE_LEAST_MEMORY))
            html_note(page, "%s alone, under least-memory: %.1f s here, %.1f s in the study.", k->cases[i].method,
                      find(k, i, ROUTE_LEAST_MEMORY)->mean.mean_s,
                      sim_paper_mean_s(k->cases[i].method, ROUTE_LEAST_MEMORY));
}

/* ---- one pool ---- */

/* Points of a policy in a pool's drawing; returns how many. */
static int put_curve(const sim_kept *k, int from, route_policy policy, bool p99, text *script) {
    int n = 0;
    text_printf(script, "$p%d << EOD\n", (int)policy);
    for (int i = from; i < pool_end(k, from); i++) {
        const sim_result *r = find(k, i, policy), *usual = best_usual(k, i, p99);
        if (!r || !usual)
            continue;
        sim_gain gain = p99 ? sim_gain_p99(r, usual) : sim_gain_mean(r, usual);
        text_printf(script, "%.4f %.4f\n", k->cases[i].utilisation, gain.times);
        n++;
    }
    text_puts(script, "EOD\n");
    return n;
}

/* Gains over utilisation, a line for each policy that is not a usual one. One that breaks down would flatten the rest:
 * what is below half is not drawn. */
static void put_curves(const sim_kept *k, int from, int nth, bool p99, text *page) {
    char colour[16], title[160], name[24];
    int n = 0;
    text plots = {0};
    snprintf(name, sizeof(name), "route%c%c%c", 'a' + nth / 26, 'a' + nth % 26, p99 ? 'p' : 'm');
    plot p = plot_begin(name, 340);
    for (int policy = 0; policy < ROUTE_POLICIES; policy++) {
        if (sim_is_usual((route_policy)policy) || !put_curve(k, from, (route_policy)policy, p99, &p.script))
            continue;
        int series = policy == ROUTE_STATE ? 0 : policy < ROUTE_ROUND_ROBIN ? policy + 1 : ROUTE_ROUND_ROBIN + 1;
        text_printf(&plots, ", $p%d using 1:2 with linespoints pt 7 ps 0.5 lw %d lc rgb %s title ", policy,
                    policy == ROUTE_STATE ? 3 : 2, plot_colour(series, colour));
        plot_quote(&plots, route_policy_name((route_policy)policy));
        n++;
    }
    text_printf(&p.script,
                "set xlabel 'load'\nset ylabel 'gain, %s'\nset yrange [0.5<*<0.9:*]\n"
                "plot 1 dt 2 lw 2 lc rgb %s title 'best usual'%s\n",
                p99 ? "99th percentile" : "mean", plot_colour(0, colour), plots.bytes ? plots.bytes : "");
    snprintf(title, sizeof(title), "%s: gain in the %s over the best usual policy, by load", k->cases[from].method,
             p99 ? "99th percentile" : "mean");
    if (n)
        plot_draw(&p, title, page);
    else
        plot_drop(&p);
    text_free(&plots);
}

static void put_case(const sim_kept *k, int i, text *page) {
    static const char *const heads[] = {"policy", "mean gain", "p99 gain", "mean, s", "+-",       "median, s",
                                        "p99, s", "first, s",  "tokens",   "base",    "put back", NULL};
    const sim_case *c = &k->cases[i];
    int refused = 0, cut = 0;
    char title[120];
    snprintf(title, sizeof(title), "%.64s, %.2f of what the pool can do", c->method, c->utilisation);
    if (c->load.rate > 0)
        snprintf(title + strlen(title), sizeof(title) - strlen(title), " (%.2f requests/s)", c->load.rate);
    html_fold(page, title);
    html_table(page, heads);
    for (int j = k->first[i]; j < k->first[i + 1]; j++) {
        const sim_result *r = &k->results[j];
        html_row(page, "%s", route_policy_name(r->policy));
        put_gain(r, best_usual(k, i, false), false, page);
        put_gain(r, best_usual(k, i, true), true, page);
        html_cell(page, "%.2f", r->mean.mean_s);
        html_cell(page, "%.2f", r->ci95);
        html_cell(page, "%.2f", r->mean.p50_s);
        html_cell(page, "%.2f", r->mean.p99_s);
        html_cell(page, "%.2f", r->mean.first_s);
        html_cell(page, "%.0f", r->mean.tokens);
        html_cell(page, "%.0f %%", 100 * r->mean.base);
        html_cell(page, "%d", r->mean.preempted);
        html_row_end(page);
        refused += r->mean.refused;
        cut += r->mean.cut;
    }
    html_table_end(page);
    if (refused || cut)
        html_note(page,
                  "In all runs %d requests were refused, as no replica could hold the prompt, and %d answers cut.",
                  refused, cut);
    html_fold_end(page);
}

static void put_pools(const sim_kept *k, text *page) {
    html_heading(page, "All figures, by pool and load");
    html_note(page, "Gains as above; +-: half of the mean's 95 %% interval; first: mean time to the first token; "
                    "tokens: of an answer; base: share of requests on "
                    "uncompressed replicas; put back: for want of memory, in all runs.");
    for (int from = 0, nth = 0; from < k->n_cases; from = pool_end(k, from), nth++) {
        bool several = pool_end(k, from) - from > 1;
        if (several)
            html_heading(page, k->cases[from].method);
        for (int p99 = 0; several && p99 < 2; p99++)
            put_curves(k, from, nth, p99, page);
        for (int i = from; i < pool_end(k, from); i++)
            put_case(k, i, page);
    }
}

/* ---- conditions ---- */

static const struct {
    const char *key, *words;
} conditions[] = {
    {"profile", "profile"},
    {"base", "uncompressed method"},
    {"calibrated_on", "step times calibrated on"},
    {"arrivals", "arrivals"},
    {"lengths", "lengths"},
    {"sizes", "of them taken"},
    {"growth", "growth of answers under a method"},
    {"without_growth", "methods taken not to grow"},
    {"requests", "requests a run"},
    {"seeds", "seeds"},
    {"seed", "first seed"},
    {"length_noise", "error of predicted lengths, mean |log|"},
    {"stale_s", "routers hear every, s (0: at once)"},
    {"routers", "routers"},
    {"routers_share", "routers hear of each other"},
    {"kv_gb", "memory for KV, GB a replica"},
    {"token_kb", "uncompressed token, KB"},
    {"kv", "bytes of a token over uncompressed, given"},
    {"budget", "tokens kept, given"},
    {"batch", "requests in a step at most"},
    {"step_tokens", "tokens in a step at most"},
    {"context", "longest prompt (0: no limit)"},
    {"most_answer", "longest answer (0: no limit)"},
};

static void put_condition(const char *words, const json_t *value, text *page) {
    if (!value || (json_is_string(value) && !json_string_length(value)))
        return;
    html_row(page, "%s", words);
    if (json_is_string(value))
        html_cell_words(page, "%s", json_string_value(value));
    else if (json_is_boolean(value))
        html_cell_words(page, "%s", json_is_true(value) ? "yes" : "no");
    else if (json_is_integer(value))
        html_cell_words(page, "%lld", (long long)json_integer_value(value));
    else
        html_cell_words(page, "%.6g", json_number_value(value));
    html_row_end(page);
}

static void put_conditions(const json_t *of, text *page) {
    html_fold(page, "Conditions");
    html_table_head(page);
    html_head(page, "condition");
    html_head_words(page, "value");
    html_row_end(page);
    for (size_t i = 0; i < sizeof(conditions) / sizeof(*conditions); i++)
        put_condition(conditions[i].words, json_object_get(of, conditions[i].key), page);
    html_table_end(page);
    html_fold_end(page);
}

/* ---- the section ---- */

static void put_section(const sim_kept *k, const json_t *of, text *page) {
    char requests[32];
    html_section(page, "routing", "Routing, simulated");
    html_note(page,
              "Replicas that compress differently, and who gets the next request: seconds from its arrival to its last "
              "token, in simulated time. %s requests a run, %d runs of each policy, all on the same requests.",
              html_count((long)json_integer_value(json_object_get(of, "requests")), requests), k->results[0].n_seeds);
    put_gains(k, page);
    put_table_8(k, page);
    put_pools(k, page);
    put_conditions(of, page);
    html_section_end(page);
}

static pleat_status put_run(store *db, int64_t run, const char *options, bool must, text *page, pleat_error *error) {
    sim_kept kept;
    pleat_status status = sim_kept_read(db, run, &kept, error);
    if (status)
        return status;
    json_t *of = options ? json_loads(options, 0, NULL) : NULL;
    if (kept.n)
        put_section(&kept, of, page);
    else if (must)
        status = err_set(error, PLEAT_EINPUT, "the run %lld holds no simulation", (long long)run);
    json_decref(of);
    sim_kept_free(&kept);
    return status;
}

pleat_status section_simulate(const section_source *from, text *page, pleat_error *error) {
    return put_run(from->db, from->f->run.id, from->f->run.options, false, page, error);
}

static pleat_status options_of(store *db, int64_t run, text *out, pleat_error *error) {
    store_runs runs;
    pleat_status status = store_runs_read(db, &runs, error);
    if (status)
        return status;
    for (int i = 0; i < runs.n; i++)
        if (runs.run[i].id == run && runs.run[i].options)
            text_puts(out, runs.run[i].options);
    store_runs_free(&runs);
    return PLEAT_OK;
}

pleat_status report_simulate_write(store *db, int64_t run, const char *path, pleat_error *error) {
    text page = {0}, options = {0};
    page_begin(&page, "pleat: routing", "Where should requests go?");
    pleat_status status = options_of(db, run, &options, error);
    status = status ? status : put_run(db, run, options.bytes, true, &page, error);
    page_end(&page);
    if (!status && page.failed)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the report");
    status = status ? status : file_save(path, page.bytes, page.n, error);
    text_free(&page);
    text_free(&options);
    return status;
}
