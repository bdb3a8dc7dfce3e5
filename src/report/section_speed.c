/* section_speed.c - rates over f16's as heat maps, decode over prompt length, f16's own rates, what could not be
 * measured, and every point. */
#include "report/plot.h"
#include "report/section.h"
#include <string.h>

static const char *const stages[] = {"decode", "prefill"};

/* ---- heat maps ---- */

static void put_cell(const figures *f, const char *label, int batch, int prompt, const char *stage, text *page) {
    figures_speed speed;
    char now[16];
    const store_point *p = figures_any(f, label, batch, prompt, stage);
    if (!figures_speed_of(f, label, batch, prompt, stage, &speed)) {
        html_cell_none(page, p && p->error ? p->error : "not measured");
        return;
    }
    text title = {0};
    text_printf(&title, "%.1f tokens/s, f16 %.1f; spread %.0f %% and %.0f %%; KV %s", p->median, speed.base->median,
                100 * p->spread, 100 * speed.base->spread, text_bytes(p->kv_bytes, now));
    html_cell_heat(page, speed.ratio, speed.verdict == FIGURES_SAME || speed.verdict == FIGURES_UNSURE, title.bytes);
    text_free(&title);
}

static void put_lengths_head(const figures *f, const char *stage, text *page) {
    char n[32];
    for (int k = 0; k < f->n_prompt; k++)
        html_head(page, "%s%s", html_count(f->prompt[k], n), figures_filled(f, f->prompt[k], stage) ? "*" : "");
    html_row_end(page);
}

static void put_map(const figures *f, const char *label, const char *stage, text *page) {
    text_puts(page, "<div>");
    html_heading(page, label);
    html_table_head(page);
    html_head(page, "batch");
    put_lengths_head(f, stage, page);
    for (int i = 0; i < f->n_batch; i++) {
        html_row(page, "%d", f->batch[i]);
        for (int k = 0; k < f->n_prompt; k++)
            put_cell(f, label, f->batch[i], f->prompt[k], stage, page);
        html_row_end(page);
    }
    html_table_end(page);
    text_puts(page, "</div>\n");
}

static bool any_point(const figures *f, const char *label, const char *stage) {
    for (int i = 0; i < f->points.n; i++)
        if (!strcmp(f->points.point[i].stage, stage) && !strcmp(f->points.point[i].label, label))
            return true;
    return false;
}

static void put_maps(const figures *f, const char *stage, text *page) {
    text_puts(page, "<div class=\"maps\">\n");
    for (int i = 1; i < f->n_labels; i++)
        if (any_point(f, f->label[i], stage))
            put_map(f, f->label[i], stage, page);
    text_puts(page, "</div>\n");
}

/* ---- the drawing ---- */

static int put_series(const figures *f, const char *label, int index, int batch, text *script) {
    int n = 0;
    text_printf(script, "$m%d << EOD\n", index);
    for (int k = 0; k < f->n_prompt; k++) {
        const store_point *p = figures_point(f, label, batch, f->prompt[k], "decode");
        if (!p)
            continue;
        double low = p->rate[0], high = p->rate[0];
        for (int r = 1; r < p->n_repeats; r++) {
            low = p->rate[r] < low ? p->rate[r] : low;
            high = p->rate[r] > high ? p->rate[r] : high;
        }
        text_printf(script, "%d %.3f %.3f %.3f\n", f->prompt[k], p->median, low, high);
        n++;
    }
    text_puts(script, "EOD\n");
    return n;
}

static void put_plot(const figures *f, text *page) {
    text plots = {0};
    char colour[16];
    int batch = f->n_batch ? f->batch[f->n_batch - 1] : 0, n = 0;
    plot p = plot_begin("rates", 340);
    text *script = &p.script;
    text_printf(script,
                "set xlabel 'tokens in the cache (batch %d; bars: all repeats)'\nset ylabel 'decode, tokens/s'\n"
                "set yrange [0:*]\nset logscale x 2\nset offsets graph 0.05, graph 0.05, 0, 0\nset xtics (",
                batch);
    for (int k = 0; k < f->n_prompt; k++)
        text_printf(script, "%s%d", k ? "," : "", f->prompt[k]);
    text_puts(script, ")\n");
    for (int i = 0; i < f->n_labels; i++) {
        int some = put_series(f, f->label[i], i, batch, script);
        n += some;
        if (!some)
            continue;
        text_printf(&plots, "%s$m%d using 1:2:3:4 with yerrorlines pt 7 ps 0.5 lw 2 lc rgb %s title ",
                    plots.n ? ", " : "plot ", i, plot_colour(i, colour));
        plot_quote(&plots, f->label[i]);
    }
    text_printf(script, "%s\n", plots.bytes ? plots.bytes : "");
    script->failed = script->failed || plots.failed;
    text_free(&plots);
    if (n < 2 || f->n_prompt < 2)
        plot_drop(&p);
    else
        plot_draw(&p, "Decode rate of every method over the number of tokens in the cache", page);
}

/* ---- tables ---- */

static void put_base_rates(const figures *f, text *page) {
    html_heading(page, "f16 itself, tokens per second of the whole batch");
    html_table_head(page);
    html_head(page, "stage, batch");
    put_lengths_head(f, "decode", page);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < f->n_batch; i++) {
            html_row(page, "%s, %d", stages[s], f->batch[i]);
            for (int k = 0; k < f->n_prompt; k++) {
                const store_point *p = figures_point(f, "f16", f->batch[i], f->prompt[k], stages[s]);
                if (p)
                    html_cell(page, "%.0f", p->median);
                else
                    html_cell_none(page, "not measured");
            }
            html_row_end(page);
        }
    html_table_end(page);
}

static void put_refused(const figures *f, text *page) {
    bool any = false;
    char bytes[16];
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        if (!p->error || strcmp(p->stage, "decode"))
            continue;
        if (!any)
            html_heading(page, "Points that could not be measured");
        text_puts(page, any ? "<li>" : "<ul><li>");
        any = true;
        html_printf(page, "%s, batch %d, %d tokens: %s (%s needed)", p->label, p->batch, p->prompt_tokens, p->error,
                    text_bytes(p->bytes_needed, bytes));
        text_puts(page, "</li>\n");
    }
    text_puts(page, any ? "</ul>\n" : "");
}

static void put_agreement(const figures *f, text *page) {
    static const char *const heads[] = {"method", "over a real prompt", "over a fill", "ratio", NULL};
    if (!f->n_agreements)
        return;
    html_fold(page, "Does a synthetic fill stand in for a prompt?");
    html_note(page, "Decode at batch %d and %d tokens, tokens per second, in turns.", f->agreement[0].real->batch,
              f->agreement[0].real->prompt_tokens);
    html_table(page, heads);
    for (int i = 0; i < f->n_agreements; i++) {
        const figures_agreement *a = &f->agreement[i];
        html_row(page, "%s", a->real->label);
        html_cell(page, "%.1f", a->real->median);
        html_cell(page, "%.1f", a->filled->median);
        html_cell(page, "%.2f", a->filled->median / a->real->median);
        html_row_end(page);
    }
    html_table_end(page);
    html_fold_end(page);
}

static void put_all(const figures *f, text *page) {
    static const char *const heads[] = {"method", "batch",    "tokens", "stage",   "tokens/s",
                                        "spread", "over f16", "KV",     "KV peak", NULL};
    char now[16], peak[16], times[16];
    html_fold(page, "Every point");
    html_table(page, heads);
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        figures_speed speed;
        if (p->error)
            continue;
        html_row(page, "%s", p->label);
        html_cell(page, "%d", p->batch);
        html_cell(page, "%d%s", p->prompt_tokens, p->filled ? "*" : "");
        html_cell(page, "%s", p->stage);
        html_cell(page, "%.1f", p->median);
        html_cell(page, "%.0f %%", 100 * p->spread);
        if (figures_speed_of(f, p->label, p->batch, p->prompt_tokens, p->stage, &speed))
            html_cell(page, "%s", html_times(speed.ratio, times));
        else
            html_cell_none(page, NULL);
        html_cell(page, "%s", text_bytes(p->kv_bytes, now));
        html_cell(page, "%s", text_bytes(p->kv_peak_bytes, peak));
        html_row_end(page);
    }
    html_table_end(page);
    html_fold_end(page);
}

static bool any_filled(const figures *f) {
    for (int k = 0; k < f->n_prompt; k++)
        if (figures_filled(f, f->prompt[k], "decode"))
            return true;
    return false;
}

pleat_status section_speed(const section_source *from, text *page, pleat_error *error) {
    const figures *f = from->f;
    (void)error;
    if (!f->points.n)
        return PLEAT_OK;
    html_section(page, "decode", "Decode speed over f16");
    html_note(page,
              "Rows: requests at once; columns: tokens in each request's cache. Above 1 is faster than f16; a cell "
              "without colour does not differ from f16 beyond the noise.%s",
              any_filled(f) ? " *: over a synthetic fill of the cache instead of a prompt." : "");
    put_maps(f, "decode", page);
    put_plot(f, page);
    put_agreement(f, page);
    html_section_end(page);
    html_section(page, "prefill", "Prefill speed over f16");
    html_note(page, "Reading the prompt, compression at its end included.");
    put_maps(f, "prefill", page);
    put_base_rates(f, page);
    put_refused(f, page);
    put_all(f, page);
    html_section_end(page);
    return PLEAT_OK;
}
