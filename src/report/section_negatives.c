/* section_negatives.c - the samples that compression breaks: how many by threshold, alone and combined (the study's
 * Figures 6 and 7), averages and what the broken ones score (its Tables 6 and 7), by task class and data set. */
#include "base/status.h"
#include "base/file.h"
#include "measure/negatives.h"
#include "report/page.h"
#include "report/plot.h"
#include "report/report.h"
#include "report/section.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define THRESHOLD 0.1
enum { CURVE_PERCENTS = 50 };

typedef struct view {
    const negatives_table *table;
    const negatives_plan *plan;
    double threshold;
    negatives_tally *of_set; /* [sets.n] scratch */
    bool *negative;          /* [samples.n] scratch */
    const char *classes[NEGATIVES_MOST_CLASSES];
    int n_classes;
    unsigned all;
} view;

static negatives_tally judge(const view *v, unsigned mask, double threshold) {
    int methods[NEGATIVES_MOST_METHODS], n = negatives_subset(v->plan, mask, methods);
    negatives_judge(v->table, v->plan->base, methods, n, threshold, v->of_set, v->negative);
    return negatives_sum(v->table, v->of_set, NULL);
}

static void put_name(const view *v, unsigned mask, text *out) {
    out->n = 0;
    for (int i = 0; i < v->plan->n; i++)
        if (mask >> i & 1)
            text_printf(out, "%s%s", out->n ? " + " : "", v->plan->name[i]);
}

/* ---- tables ---- */

static void put_averages(const view *v, text *page) {
    static const char *const heads[] = {"method", "average score", "negative samples", "of the benign ones", NULL};
    html_table(page, heads);
    html_row(page, "%s (uncompressed)", v->plan->base_name);
    html_cell(page, "%.2f", negatives_average(v->table, v->plan->base));
    html_cell_none(page, "the base");
    html_cell_none(page, "the base");
    html_row_end(page);
    for (int i = 0; i < v->plan->n; i++) {
        negatives_tally sum = judge(v, 1u << i, v->threshold);
        html_row(page, "%s", v->plan->name[i]);
        html_cell(page, "%.2f", negatives_average(v->table, v->plan->method[i]));
        html_cell(page, "%d", sum.negative);
        double share = sum.benign ? (double)sum.negative / sum.benign : 0;
        html_cell_bar(page, share, "%.1f %%", 100 * share);
        html_row_end(page);
    }
    html_table_end(page);
    for (int i = 0; i < v->plan->n; i++) {
        negatives_tally sum = judge(v, 1u << i, v->threshold);
        if (sum.missing)
            html_note(page, "%s has no score for %d of %d samples; they are not counted as negative.", v->plan->name[i],
                      sum.missing, sum.samples);
    }
}

static void put_heads(const view *v, const char *first, bool all, text *page) {
    html_table_head(page);
    html_head(page, "%s", first);
    html_head(page, "benign");
    for (int i = 0; i < v->plan->n; i++)
        html_head(page, "%s", v->plan->name[i]);
    if (all)
        html_head(page, "all together");
    html_row_end(page);
}

/* Negatives by class (of >= 0: by data set) in the columns of put_heads. */
static void put_counts(const view *v, int set, const char *klass, text *page) {
    for (int i = 0; i < v->plan->n + (v->plan->n > 1); i++) {
        judge(v, i < v->plan->n ? 1u << i : v->all, v->threshold);
        negatives_tally sum = set >= 0 ? v->of_set[set] : negatives_sum(v->table, v->of_set, klass);
        if (!i)
            html_cell(page, "%d", sum.benign);
        html_cell(page, "%d", sum.negative);
    }
    html_row_end(page);
}

static void put_classes(const view *v, text *page) {
    html_heading(page, "By task");
    put_heads(v, "task", v->plan->n > 1, page);
    for (int i = 0; i < v->n_classes; i++) {
        html_row(page, "%s", v->classes[i]);
        put_counts(v, -1, v->classes[i], page);
    }
    html_table_end(page);
    html_fold(page, "By data set");
    put_heads(v, "data set", v->plan->n > 1, page);
    for (int i = 0; i < v->table->sets.n; i++) {
        html_row(page, "%s", intern_key(&v->table->sets, i));
        put_counts(v, i, NULL, page);
    }
    html_table_end(page);
    html_fold_end(page);
}

static void put_subsets(const view *v, text *page) {
    static const double thresholds[] = {0.01, 0.02, 0.04, 0.08, 0.1, 0.16, 0.32};
    unsigned masks[NEGATIVES_MOST_SUBSETS];
    int n = negatives_subsets(v->plan, masks);
    text name = {0};
    html_fold(page, "Every combination, by threshold");
    html_table_head(page);
    html_head(page, "negative for all of");
    for (int k = 0; k < 7; k++)
        html_head(page, "%.0f %%", 100 * thresholds[k]);
    html_row_end(page);
    for (int i = 0; i < n; i++) {
        put_name(v, masks[i], &name);
        html_row(page, "%s", name.bytes ? name.bytes : "");
        for (int k = 0; k < 7; k++)
            html_cell(page, "%d", judge(v, masks[i], thresholds[k]).negative);
        html_row_end(page);
    }
    html_table_end(page);
    html_fold_end(page);
    text_free(&name);
}

static void put_score(double score, text *page) {
    if (isnan(score))
        html_cell_none(page, "no score");
    else
        html_cell(page, "%.1f", 100 * score);
}

/* One row per class of what the samples that are negative for the subset score. */
static void put_scores_of(const view *v, unsigned mask, text *page) {
    text name = {0};
    int n;
    judge(v, mask, v->threshold);
    put_name(v, mask, &name);
    for (int i = 0; i < v->n_classes; i++) {
        double base = negatives_mean_among(v->table, v->plan->base, v->negative, v->classes[i], &n);
        if (!n)
            continue;
        html_row(page, "%s", name.bytes ? name.bytes : "");
        html_cell_words(page, "%s", v->classes[i]);
        html_cell(page, "%d", n);
        put_score(base, page);
        for (int k = 0; k < v->plan->n; k++)
            put_score(negatives_mean_among(v->table, v->plan->method[k], v->negative, v->classes[i], &n), page);
        html_row_end(page);
    }
    text_free(&name);
}

static void begin_scores(const view *v, text *page) {
    html_table_head(page);
    html_head(page, "negative for all of");
    html_head_words(page, "task");
    html_head(page, "samples");
    html_head(page, "%s", v->plan->base_name);
    for (int i = 0; i < v->plan->n; i++)
        html_head(page, "%s", v->plan->name[i]);
    html_row_end(page);
}

static void put_scores(const view *v, text *page) {
    unsigned masks[NEGATIVES_MOST_SUBSETS];
    int n = negatives_subsets(v->plan, masks);
    html_heading(page, "What the negative samples score");
    html_note(page, "100 x the mean of the data sets' means, uncompressed and under each method.");
    if (judge(v, v->all, v->threshold).negative) {
        begin_scores(v, page);
        put_scores_of(v, v->all, page);
        html_table_end(page);
    }
    if (n == 1)
        return;
    html_fold(page, "The samples that are negative for one method, or for two");
    begin_scores(v, page);
    for (int i = 0; i < n; i++)
        if (__builtin_popcount(masks[i]) <= 2 && masks[i] != v->all)
            put_scores_of(v, masks[i], page);
    html_table_end(page);
    html_fold_end(page);
}

/* ---- curves ---- */

static void put_curve(const view *v, unsigned mask, int index, plot *p, text *plots, const char *colour,
                      const char *dash) {
    text name = {0};
    text_printf(&p->script, "$n%d << EOD\n", index);
    for (int percent = 1; percent <= CURVE_PERCENTS; percent++)
        text_printf(&p->script, "%d %d\n", percent, judge(v, mask, percent / 100.0).negative);
    text_puts(&p->script, "EOD\n");
    text_printf(plots, "%s$n%d using 1:2 with lines lw 2 %s lc rgb %s title ", plots->n ? ", " : "plot ", index, dash,
                colour);
    if (mask == v->all && v->plan->n > 1)
        text_puts(&name, "all together");
    else
        put_name(v, mask, &name);
    plot_quote(plots, name.bytes ? name.bytes : "");
    text_free(&name);
}

static void begin_curves(plot *p) {
    text_puts(&p->script, "set xlabel 'threshold: loses this share of its score or more, %'\nset yrange [0:*]\n"
                          "set ylabel 'negative samples'\nset key samplen 2\n");
}

static void end_curves(plot *p, text *plots, const char *title, text *page) {
    text_printf(&p->script, "%s\n", plots->bytes ? plots->bytes : "");
    plot_draw(p, title, page);
    text_free(plots);
}

/* Each method alone, and all together. */
static void put_alone(const view *v, text *page) {
    char colour[16];
    text plots = {0};
    plot p = plot_begin("negatives", 340);
    begin_curves(&p);
    for (int i = 0; i < v->plan->n; i++)
        put_curve(v, 1u << i, i, &p, &plots, plot_colour(i + 1, colour), "");
    if (v->plan->n > 1)
        put_curve(v, v->all, v->plan->n, &p, &plots, plot_colour(0, colour), "dt 2");
    end_curves(&p, &plots, "Negative samples over the threshold, each method alone and all together", page);
}

/* Each pair: what a second method saves. Up to four methods make six lines. */
static void put_pairs(const view *v, text *page) {
    unsigned masks[NEGATIVES_MOST_SUBSETS];
    char colour[16];
    int n = negatives_subsets(v->plan, masks), drawn = 0;
    if (v->plan->n < 3 || v->plan->n > 4)
        return;
    text plots = {0};
    plot p = plot_begin("negativepairs", 340);
    begin_curves(&p);
    for (int i = 0; i < n; i++)
        if (__builtin_popcount(masks[i]) == 2) {
            put_curve(v, masks[i], drawn, &p, &plots, plot_colour(drawn + 1, colour), "");
            drawn++;
        }
    end_curves(&p, &plots, "Negative samples over the threshold, for pairs of methods", page);
}

/* Of each task's benign samples, the share that is negative. */
static void put_shares(const view *v, text *page) {
    char colour[16];
    plot p = plot_begin("negativetasks", 340);
    text *s = &p.script, plots = {0};
    text_puts(s, "set style data histograms\nset style histogram clustered gap 1\nset style fill solid noborder\n"
                 "set ylabel 'negative, % of the benign'\nset yrange [0:*]\nset xtics rotate by -20\n$c << EOD\n");
    for (int i = 0; i < v->n_classes; i++) {
        text_printf(s, "\"%s\"", v->classes[i][0] ? v->classes[i] : "?");
        for (int k = 0; k < v->plan->n; k++) {
            judge(v, 1u << k, v->threshold);
            negatives_tally sum = negatives_sum(v->table, v->of_set, v->classes[i]);
            text_printf(s, " %.3f", sum.benign ? 100.0 * sum.negative / sum.benign : 0);
        }
        text_puts(s, "\n");
    }
    text_puts(s, "EOD\n");
    for (int k = 0; k < v->plan->n; k++) {
        text_printf(&plots, "%s$c using %d%s lc rgb %s title ", k ? ", " : "plot ", k + 2, k ? "" : ":xtic(1)",
                    plot_colour(k + 1, colour));
        plot_quote(&plots, v->plan->name[k]);
    }
    end_curves(&p, &plots, "Share of the benign samples that are negative, by task", page);
}

/* ---- the section ---- */

static void put_section(const view *v, text *page) {
    negatives_tally all = judge(v, v->all, v->threshold);
    char samples[32];
    html_section(page, "negatives", "Which answers break");
    html_note(
        page,
        "%s samples of %d data sets. Benign are the %d whose uncompressed score is at least their data set's mean; "
        "negative is a benign one that loses %.4g %% of its score or more.",
        html_count(all.samples, samples), v->table->sets.n, all.benign, 100 * v->threshold);
    put_averages(v, page);
    put_alone(v, page);
    if (v->plan->n > 1)
        html_note(
            page,
            "%d samples are negative for all %d methods together: those that choosing the best method per request "
            "could not save.",
            all.negative, v->plan->n);
    put_pairs(v, page);
    put_subsets(v, page);
    put_shares(v, page);
    put_classes(v, page);
    put_scores(v, page);
    html_section_end(page);
}

static pleat_status put_table(const negatives_table *table, const negatives_plan *plan, double threshold, text *page,
                              pleat_error *error) {
    view v = {.table = table, .plan = plan, .threshold = threshold, .all = (unsigned)((1ull << plan->n) - 1)};
    v.n_classes = negatives_classes(table, v.classes);
    v.of_set = calloc((size_t)table->sets.n + 1, sizeof(*v.of_set));
    v.negative = calloc((size_t)table->samples.n + 1, sizeof(*v.negative));
    bool room = v.of_set && v.negative;
    if (room)
        put_section(&v, page);
    free(v.of_set);
    free(v.negative);
    return room ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the negative samples");
}

/* Nothing is appended when the run has no scores, or no base to compare with and `must` is false. */
static pleat_status put_run(store *db, int64_t run, const char *methods, const char *base, double threshold, bool must,
                            text *page, pleat_error *error) {
    store_scores rows = {0};
    negatives_table table = {0};
    negatives_plan plan = {0};
    pleat_status status = store_scores_read(db, run, &rows, error);
    if (!status && !rows.n && must)
        status = err_set(error, PLEAT_EINPUT, "the run %lld holds no scores", (long long)run);
    if (!status && rows.n) {
        status = negatives_table_make(&rows, &table, error);
        if (!status) {
            status = negatives_plan_make(&table, methods, base, &plan, error);
            if (status == PLEAT_EINPUT && !must)
                status = PLEAT_OK;
        }
        if (!status && plan.n)
            status = put_table(&table, &plan, threshold, page, error);
    }
    negatives_plan_free(&plan);
    negatives_table_free(&table);
    store_scores_free(&rows);
    return status;
}

pleat_status section_negatives(const section_source *from, text *page, pleat_error *error) {
    return put_run(from->db, from->f->run.id, NULL, NULL, THRESHOLD, false, page, error);
}

pleat_status report_negatives_write(store *db, int64_t run, const char *methods, const char *base, double threshold,
                                    const char *path, pleat_error *error) {
    text page = {0};
    page_begin(&page, "negative samples", "Which samples does KV-cache compression break?");
    pleat_status status = put_run(db, run, methods, base, threshold, true, &page, error);
    page_end(&page);
    if (!status)
        status = page.failed ? err_set(error, PLEAT_EMEMORY, "no memory for the report")
                             : file_save(path, page.bytes, page.n, error);
    text_free(&page);
    return status;
}
