/* section_predict.c - the throughput predictor: accuracies, predicted against measured, errors over batch and length.
 *
 * On the page of a study the methods are fitted on the study's own grid, so the table says what batch sizes and lengths
 * that were left out came to; a study with too few points for that has no such section. */
#include "base/file.h"
#include "base/status.h"
#include "report/page.h"
#include "report/plot.h"
#include "report/report.h"
#include "report/section.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const stages[] = {"prefill", "decode"};
static const double full_error = 0.2; /* fully coloured */

static void put_percent(text *page, double share) {
    if (share > 0)
        html_cell(page, "%.1f %%", 100 * share);
    else
        html_cell_none(page, NULL);
}

static void put_cells(const predict_case *list, int n, text *page) {
    html_table(page, (const char *const[]){"method", "points", "accuracy", "batch left out", "length left out",
                                           "terms from", NULL});
    for (int i = 0; i < n; i++)
        for (int k = 0; k < list[i].n_cells; k++) {
            const predict_cell *cell = &list[i].cell[k];
            html_row(page, "%s, %s", list[i].method, stages[cell->stage]);
            html_cell(page, "%d", cell->n);
            put_percent(page, cell->accuracy);
            put_percent(page, cell->held_out_batch);
            put_percent(page, cell->held_out_length);
            html_cell(page, "%s",
                      list[i].from_grid    ? "its own grid"
                      : cell->n_fitted     ? "a fifth of its points, which is not scored"
                      : list[i].in_sample  ? "these points"
                      : list[i].calibrated ? "the base's points"
                                           : "nothing measured");
            html_row_end(page);
        }
    html_table_end(page);
}

/* ---- predicted against measured ---- */

static bool has_stage(const predict_case *c, predict_stage stage) {
    for (int i = 0; i < c->points.n; i++)
        if (c->points.point[i].stage == stage)
            return true;
    return false;
}

static void put_data(const predict_case *c, int i, predict_stage stage, double range[2], text *script) {
    text_printf(script, "$m%d << EOD\n", i);
    for (int k = 0; k < c->points.n; k++) {
        const predict_point *p = &c->points.point[k];
        if (p->stage != stage)
            continue;
        double predicted = predict_rate(c->profile, stage, p->batch, p->prompt_tokens);
        text_printf(script, "%.6g %.6g\n", p->rate, predicted);
        range[0] = fmin(range[0], fmin(p->rate, predicted));
        range[1] = fmax(range[1], fmax(p->rate, predicted));
    }
    text_puts(script, "EOD\n");
}

/* Both axes alike; over a wide range logarithmic, marked at 1, 2 and 5. */
static void put_axes(const double range[2], text *script) {
    double low = range[0] / 1.1, high = range[1] * 1.1;
    text_printf(script, "set xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\n", low, high, low, high);
    if (high < 4 * low)
        return;
    text_puts(script, "set logscale xy\n");
    for (int axis = 'x'; axis <= 'y'; axis++) {
        text_printf(script, "set %ctics (1", axis);
        for (double ten = pow(10, floor(log10(low))); ten < high; ten *= 10)
            text_printf(script, ", %g, %g, %g", ten, 2 * ten, 5 * ten);
        text_puts(script, ")\n");
    }
}

static void put_scatter(const predict_case *list, int n, predict_stage stage, text *page) {
    plot p = plot_begin(stage == PREDICT_PREFILL ? "predictprefill" : "predictdecode", 380);
    char colour[16], title[120];
    double range[2] = {INFINITY, 0};
    int n_drawn = 0;
    text_printf(&p.script, "set xlabel 'measured %s, tokens/s'\nset ylabel 'predicted'\n", stages[stage]);
    for (int i = 0; i < n; i++)
        if (has_stage(&list[i], stage)) {
            put_data(&list[i], i, stage, range, &p.script);
            n_drawn++;
        }
    put_axes(range, &p.script);
    text_printf(&p.script,
                "plot x lc rgb %s notitle, 1.1*x dt 3 lc rgb %s title '10 %% off', x/1.1 dt 3 lc rgb %s notitle",
                plot_colour(0, colour), colour, colour);
    for (int i = 0; i < n; i++) {
        if (!has_stage(&list[i], stage))
            continue;
        text_printf(&p.script, ", $m%d using 1:2 with points pt 7 ps 0.5 lc rgb %s title ", i,
                    plot_colour(i + 1, colour));
        plot_quote(&p.script, list[i].method);
    }
    text_puts(&p.script, "\n");
    snprintf(title, sizeof(title), "Predicted against measured %s rates of %d methods", stages[stage], n_drawn);
    if (n_drawn)
        plot_draw(&p, title, page);
    else
        plot_drop(&p);
}

/* ---- errors over batch and length ---- */

static void put_error(const predict_case *c, const predict_point *p, text *page) {
    if (!p) {
        html_cell_none(page, "not measured");
        return;
    }
    double predicted = predict_rate(c->profile, p->stage, p->batch, p->prompt_tokens), error = predicted / p->rate - 1;
    double depth = fmin(fabs(error) / full_error, 1);
    text_printf(page, "<td class=\"heat\" style=\"background:rgba(var(--bad),%.2f)\" title=\"", 0.7 * depth);
    html_printf(page, "measured %.4g, predicted %.4g tokens/s%s", p->rate, predicted,
                p->fitted ? "; fitted on, not scored" : "");
    text_printf(page, "\">%+.1f%s</td>", 100 * error, p->fitted ? "*" : "");
}

static void put_map(const predict_case *c, predict_stage stage, text *page) {
    int n_batch, n_prompt, batch[PREDICT_MOST_SIZES], prompt[PREDICT_MOST_SIZES];
    predict_points_sizes(&c->points, stage, batch, &n_batch, prompt, &n_prompt);
    text title = {0};
    text_printf(&title, "%s, %s", c->method, stages[stage]);
    html_heading(page, title.bytes);
    text_free(&title);
    html_table_head(page);
    html_head(page, "batch");
    for (int k = 0; k < n_prompt; k++)
        html_head(page, "%d", prompt[k]);
    html_row_end(page);
    for (int i = 0; i < n_batch; i++) {
        html_row(page, "%d", batch[i]);
        for (int k = 0; k < n_prompt; k++)
            put_error(c, predict_points_find(&c->points, stage, batch[i], prompt[k]), page);
        html_row_end(page);
    }
    html_table_end(page);
}

static void put_all(const predict_case *list, int n, text *page) {
    html_section(page, "predict", "What the throughput predictor says");
    html_note(page,
              "Accuracy is the mean of 1 - |predicted - measured| / measured, of tokens per second. The prediction is "
              "the time of a step: operators by tokens, attention by batch and context.");
    put_cells(list, n, page);
    for (int stage = PREDICT_STAGES - 1; stage >= 0; stage--)
        put_scatter(list, n, (predict_stage)stage, page);
    html_fold(page, "Errors by batch and length");
    html_note(page,
              "Predicted over measured - 1 in percent; rows: batch; columns: tokens in the prompt. The redder, the "
              "further off; +: predicted too fast. * fitted on.");
    for (int i = 0; i < n; i++)
        for (int stage = PREDICT_STAGES - 1; stage >= 0; stage--)
            if (has_stage(&list[i], (predict_stage)stage))
                put_map(&list[i], (predict_stage)stage, page);
    html_fold_end(page);
    html_section_end(page);
}

/* ---- pages ---- */

pleat_status section_predict(const section_source *from, text *page, pleat_error *error) {
    int n_names, n = 0;
    char **names;
    pleat_status status = predict_case_list(from->db, &from->f->run, &names, &n_names, error);
    predict_case *list = calloc((size_t)n_names + 1, sizeof(*list));
    for (int i = 0; i < n_names; i++) {
        pleat_status one =
            list && !status ? predict_case_get(from->db, &from->f->run, names[i], &list[n], error) : PLEAT_EMEMORY;
        if (!one)
            predict_case_score(&list[n++]);
        else if (list && !status)
            predict_case_free(&list[n]);
        status = !status && one != PLEAT_OK && one != PLEAT_EINPUT ? one : status; /* EINPUT: too few points */
        free(names[i]);
    }
    free(names);
    if (!status && n)
        put_all(list, n, page);
    for (int i = 0; i < n; i++)
        predict_case_free(&list[i]);
    free(list);
    return status;
}

pleat_status report_predict_write(const predict_case *list, int n, const char *path, pleat_error *error) {
    text page = {0};
    page_begin(&page, "throughput predictor", "Predicted throughput");
    put_all(list, n, &page);
    page_end(&page);
    pleat_status status = page.failed ? err_set(error, PLEAT_EMEMORY, "no memory for the report")
                                      : file_save(path, page.bytes, page.n, error);
    text_free(&page);
    return status;
}
