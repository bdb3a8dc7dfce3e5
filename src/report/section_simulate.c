/* section_simulate.c - routing, simulated: delays over utilisation by policy, what each policy gains over the usual
 * ones, and the study's Table 8 beside ours. */
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

enum { TABLE_8_RATE = 10 };

static int n_of_case(const sim_kept *k, int i) {
    return k->first[i + 1] - k->first[i];
}

static const sim_result *find(const sim_kept *k, int i, route_policy policy) {
    for (int j = k->first[i]; j < k->first[i + 1]; j++)
        if (k->results[j].policy == policy)
            return &k->results[j];
    return NULL;
}

/* ---- Table 8 ---- */

static bool in_table_8(const sim_case *c) {
    return c->load.rate == TABLE_8_RATE && !isnan(sim_paper_mean_s(c->method, ROUTE_LEAST_MEMORY));
}

static void put_times(double times, text *page) {
    if (isnan(times))
        html_cell_none(page, "the study has none");
    else
        html_cell_heat(page, times, fabs(times - 1) < 0.005, NULL);
}

static void put_table_8_row(const sim_kept *k, route_policy policy, text *page) {
    html_row(page, "%s", route_policy_name(policy));
    for (int i = 0; i < k->n_cases; i++) {
        const sim_result *r = find(k, i, policy), *base = find(k, i, ROUTE_LEAST_MEMORY);
        if (!in_table_8(&k->cases[i]))
            continue;
        double paper = sim_paper_mean_s(k->cases[i].method, policy);
        double paper_base = sim_paper_mean_s(k->cases[i].method, ROUTE_LEAST_MEMORY);
        if (r)
            html_cell(page, "%.1f", r->mean.mean_s);
        else
            html_cell_none(page, "not simulated");
        put_times(r && base ? base->mean.mean_s / r->mean.mean_s : NAN, page);
        if (isnan(paper))
            html_cell_none(page, "the study has none");
        else
            html_cell(page, "%.1f", paper);
        put_times(paper_base / paper, page);
    }
    html_row_end(page);
}

static void put_table_8(const sim_kept *k, text *page) {
    int n = 0;
    for (int i = 0; i < k->n_cases; i++)
        n += in_table_8(&k->cases[i]);
    if (!n)
        return;
    html_heading(page, "The study's Table 8, and ours");
    html_note(page,
              "Mean seconds from arrival to last token at 10 requests/s, and how many times less than least-memory "
              "gives; the study's figures beside. Its engine, model and lengths are not these: what can be compared "
              "is the order, and the gains.");
    html_table_head(page);
    html_head(page, "policy");
    for (int i = 0; i < k->n_cases; i++)
        if (in_table_8(&k->cases[i])) {
            html_head(page, "%s, s", k->cases[i].method);
            html_head(page, "gain");
            html_head(page, "study, s");
            html_head(page, "gain");
        }
    html_row_end(page);
    for (int p = 0; p < ROUTE_POLICIES; p++)
        put_table_8_row(k, (route_policy)p, page);
    html_table_end(page);
}

/* ---- one load ---- */

static void put_gain(const sim_result *r, const sim_result *than, bool p99, text *page) {
    char title[64];
    if (!than || than == r) {
        html_cell_none(page, than ? "the best of the usual ones itself" : "no usual policy was simulated");
        return;
    }
    sim_gain gain = p99 ? sim_gain_p99(r, than) : sim_gain_mean(r, than);
    snprintf(title, sizeof(title), "95 %%: %.3f to %.3f, against %s", gain.low, gain.high,
             route_policy_name(than->policy));
    html_cell_heat(page, gain.times, gain.low < 1 && gain.high > 1, title);
}

static void put_case(const sim_kept *k, int i, text *page) {
    static const char *const heads[] = {
        "policy", "mean, s",         "95 %, +-", "median, s", "p99, s",   "to first token, s",
        "tokens", "on uncompressed", "mean, x",  "p99, x",    "put back", NULL};
    const sim_case *c = &k->cases[i];
    const sim_result *of_case = &k->results[k->first[i]];
    const sim_result *usual = sim_best_usual(of_case, n_of_case(k, i), false),
                     *usual_p99 = sim_best_usual(of_case, n_of_case(k, i), true);
    char title[120];
    snprintf(title, sizeof(title), "%.64s, %.2f of what the pool can do", c->method, c->utilisation);
    if (c->load.rate > 0)
        snprintf(title + strlen(title), sizeof(title) - strlen(title), " (%.2f requests/s)", c->load.rate);
    html_fold(page, title);
    html_table(page, heads);
    for (int j = 0; j < n_of_case(k, i); j++) {
        const sim_result *r = &of_case[j];
        html_row(page, "%s", route_policy_name(r->policy));
        html_cell(page, "%.2f", r->mean.mean_s);
        html_cell(page, "%.2f", r->ci95);
        html_cell(page, "%.2f", r->mean.p50_s);
        html_cell(page, "%.2f", r->mean.p99_s);
        html_cell(page, "%.2f", r->mean.first_s);
        html_cell(page, "%.0f", r->mean.tokens);
        html_cell_bar(page, r->mean.base, "%.0f %%", 100 * r->mean.base);
        put_gain(r, usual, false, page);
        put_gain(r, usual_p99, true, page);
        html_cell(page, "%d", r->mean.preempted);
        html_row_end(page);
    }
    html_table_end(page);
    html_fold_end(page);
}

/* ---- curves over utilisation ---- */

static void put_curve(const sim_kept *k, const char *pool, route_policy policy, bool p99, plot *p) {
    text_printf(&p->script, "$p%d << EOD\n", (int)policy);
    for (int i = 0; i < k->n_cases; i++) {
        const sim_result *r = find(k, i, policy);
        if (r && !strcmp(k->cases[i].method, pool))
            text_printf(&p->script, "%.4f %.4f\n", k->cases[i].utilisation, p99 ? r->mean.p99_s : r->mean.mean_s);
    }
    text_puts(&p->script, "EOD\n");
}

/* A pool's policies. One that falls far behind would flatten the rest, so the axis ends at two and a half times the
 * least of the last points. */
static void put_curves(const sim_kept *k, const char *pool, int last, bool p99, const char *name, text *page) {
    char colour[16], title[160];
    double least = INFINITY;
    text plots = {0};
    plot p = plot_begin(name, 340);
    for (int j = k->first[last]; j < k->first[last + 1]; j++) {
        const sim_result *r = &k->results[j];
        double value = p99 ? r->mean.p99_s : r->mean.mean_s;
        least = value < least ? value : least;
        put_curve(k, pool, r->policy, p99, &p);
        text_printf(&plots, "%s$p%d using 1:2 with linespoints pt 7 ps 0.5 lw %d %s lc rgb %s title ",
                    plots.n ? ", " : "plot ", (int)r->policy, r->policy == ROUTE_STATE ? 3 : 2,
                    r->policy >= ROUTE_ROUND_ROBIN && r->policy <= ROUTE_LEAST_TOKENS ? "dt 2" : "",
                    plot_colour(r->policy == ROUTE_STATE ? 0 : (int)r->policy + 1, colour));
        plot_quote(&plots, route_policy_name(r->policy));
    }
    text_printf(&p.script, "set xlabel 'utilisation'\nset ylabel '%s, s'\nset yrange [0:%.3f]\n%s\n",
                p99 ? "99th percentile" : "mean", 2.5 * least, plots.bytes ? plots.bytes : "");
    snprintf(title, sizeof(title), "%s: %s delay over utilisation, by policy", pool,
             p99 ? "99th percentile of" : "mean");
    plot_draw(&p, title, page);
    text_free(&plots);
}

static void put_pool(const sim_kept *k, int from, int nth, text *page) {
    static char names[2 * 16][24]; /* of drawings: they live as long as the page is made */
    const char *pool = k->cases[from].method;
    int n = 0, last = from;
    for (int i = from; i < k->n_cases; i++)
        if (!strcmp(k->cases[i].method, pool)) {
            last = i;
            n++;
        }
    html_heading(page, pool);
    for (int p99 = 0; n > 1 && p99 < 2; p99++) {
        char *name = names[(2 * nth + p99) % 32];
        snprintf(name, sizeof(names[0]), "route%c%c", 'a' + nth % 26, p99 ? 'p' : 'm');
        put_curves(k, pool, last, p99, name, page);
    }
    for (int i = from; i < k->n_cases; i++)
        if (!strcmp(k->cases[i].method, pool))
            put_case(k, i, page);
}

/* ---- the section ---- */

static void put_conditions(const char *options, text *page) {
    static const char *const heads[] = {"condition", "", NULL};
    const char *name;
    json_t *of = options ? json_loads(options, 0, NULL) : NULL, *value;
    if (!json_is_object(of)) {
        json_decref(of);
        return;
    }
    html_fold(page, "Conditions");
    html_table(page, heads);
    json_object_foreach(of, name, value) {
        html_row(page, "%s", name);
        if (json_is_string(value))
            html_cell_words(page, "%s", json_string_value(value));
        else if (json_is_boolean(value))
            html_cell_words(page, "%s", json_is_true(value) ? "yes" : "no");
        else
            html_cell_words(page, "%.6g", json_number_value(value));
        html_row_end(page);
    }
    html_table_end(page);
    html_fold_end(page);
    json_decref(of);
}

static void put_section(const sim_kept *k, const char *options, text *page) {
    html_section(page, "routing", "Routing, simulated");
    html_note(page, "Replicas that compress differently: seconds from a request's arrival to its last token, "
                    "means over seeds. The last columns say how many times less than the best of the usual policies "
                    "(round-robin, random, power-of-two, least-requests, least-tokens), on the same requests.");
    put_table_8(k, page);
    for (int i = 0, nth = 0; i < k->n_cases; i++) {
        bool seen = false;
        for (int j = 0; j < i; j++)
            seen = seen || !strcmp(k->cases[j].method, k->cases[i].method);
        if (!seen)
            put_pool(k, i, nth++, page);
    }
    put_conditions(options, page);
    html_section_end(page);
}

static pleat_status put_run(store *db, int64_t run, const char *options, bool must, text *page, pleat_error *error) {
    sim_kept kept;
    pleat_status status = sim_kept_read(db, run, &kept, error);
    if (status)
        return status;
    if (kept.n)
        put_section(&kept, options, page);
    else if (must)
        status = err_set(error, PLEAT_EINPUT, "the run %lld holds no simulation", (long long)run);
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
