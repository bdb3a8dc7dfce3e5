/* section_lengths.c - paired answers: does a method make them longer? Each answer's length over that of f16's answer to
 * the same prompt. */
#include "report/plot.h"
#include "report/section.h"

static void put_dots(const figures *f, text *script, double *highest, int *n) {
    figures_lengths l;
    text_puts(script, "$all << EOD\n");
    for (int i = 1; i < f->n_labels; i++) {
        figures_lengths_of(f, f->label[i], &l);
        *n += l.n;
        for (int k = 0; k < l.n_ratios;
             k++) { /* spread sideways by a fixed pattern, so that equal values stay visible */
            text_printf(script, "%.3f %.4f %d\n", i + (k * 37 % 41 - 20) / 80.0, l.ratio[k], i);
            *highest = l.ratio[k] > *highest ? l.ratio[k] : *highest;
        }
    }
    text_puts(script, "EOD\n$mean << EOD\n");
    for (int i = 1; i < f->n_labels; i++) {
        figures_lengths_of(f, f->label[i], &l);
        if (l.n)
            text_printf(script, "%d %.4f\n", i, l.mean);
    }
    text_puts(script, "EOD\n");
}

static bool put_plot(const figures *f, text *page) {
    char colour[16], ink[16];
    int n = 0;
    double highest = 1.6;
    plot p = plot_begin("lengths", 340);
    text *s = &p.script;
    plot_colour(0, ink);
    text_printf(s,
                "set ylabel 'tokens of the answer, over f16'\nunset key\n"
                "set arrow 1 from graph 0, first 1 to graph 1, first 1 nohead lc rgb %s dt 2\nset xtics (",
                ink);
    for (int i = 1; i < f->n_labels; i++) {
        text_puts(s, i > 1 ? ", " : "");
        plot_quote(s, f->label[i]);
        text_printf(s, " %d", i);
    }
    text_printf(s, ")\nset xrange [0.4:%d.6]\n", f->n_labels - 1);
    put_dots(f, s, &highest, &n);
    text_printf(s, "set yrange [0:%.2f]\nplot ", highest * 1.08);
    for (int i = 1; i < f->n_labels; i++)
        text_printf(s, "$all using 1:($3==%d ? $2 : NaN) with points pt 7 ps 0.55 lc rgb %s, ", i,
                    plot_colour(i, colour));
    text_printf(s, "$mean using 1:2:(0.28) with xerrorbars pt -1 lw 3 lc rgb %s\n", ink);
    if (n == 0) {
        plot_drop(&p);
        return true;
    }
    return plot_draw(&p, "Length of every answer over the length of f16's answer, by method", page);
}

static void put_row(const char *label, const figures_lengths *l, text *page) {
    html_row(page, "%s", label);
    html_cell(page, "%d", l->n);
    html_cell(page, "%d", l->n_acted);
    html_cell(page, "%.3f", l->mean);
    html_cell(page, "%.0f %%", 100 * l->share_longer);
    html_cell(page, "%.0f %%", 100 * l->agree);
    html_cell(page, "%d", l->n_capped);
    html_row_end(page);
}

pleat_status section_lengths(const section_source *from, text *page, pleat_error *error) {
    static const char *const heads[] = {"method",        "pairs",      "it acted in",   "mean ratio",
                                        "1.5x and more", "same start", "met the limit", NULL};
    const figures *f = from->f;
    (void)error;
    if (!f->answers.n)
        return PLEAT_OK;
    html_section(page, "lengths", "Length of answers");
    html_note(page, "The same prompts, greedy, after one shared exact prefill. Each dot is one answer's length over "
                    "that of f16's answer; the bar is the mean.");
    if (!put_plot(f, page))
        html_note(page, "(gnuplot is not installed here, so the drawing is left out; the table has its numbers.)");
    html_table(page, heads);
    for (int i = 1; i < f->n_labels; i++) {
        figures_lengths l;
        figures_lengths_of(f, f->label[i], &l);
        if (l.n)
            put_row(f->label[i], &l, page);
    }
    html_table_end(page);
    html_note(page,
              "It acted in: answers during which the method evicted or packed anything; before it acts it gives "
              "f16's answers. Same start: how much of f16's answer comes before the first other token, in the "
              "mean. Met the limit: pairs in which an answer was cut at the limit of new tokens, so that its true "
              "length is not known.");
    html_section_end(page);
    return PLEAT_OK;
}
