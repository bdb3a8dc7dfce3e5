/* section_quality.c - what a method does to the model: KL from f16 and perplexity, over the same text and by position
 * in it. */
#include "report/plot.h"
#include "report/section.h"
#include <string.h>

enum { BINS = 16 };

/* Mean KL of a method in a bin of positions, over all windows of the text it was measured on. */
static double bin_mean(const figures *f, const figures_quality *q, int bin, double *position) {
    double sum = 0, at = 0;
    int n = 0;
    for (int i = 0; i < f->windows.n; i++) {
        const store_window *w = &f->windows.window[i];
        if (strcmp(w->label, q->label) || w->ctx != q->ctx || strcmp(w->text_name, q->text_name))
            continue;
        int from = (int)((long)w->n * bin / BINS), to = (int)((long)w->n * (bin + 1) / BINS);
        for (int k = from; k < to; k++, n++) {
            sum += (double)w->kl[k];
            at += w->ctx / 2 + k;
        }
    }
    *position = n ? at / n : 0;
    return n ? sum / n : 0;
}

static void put_plot(const figures *f, text *page) {
    text plots = {0};
    char colour[16];
    plot p = plot_begin("kl", 340);
    text *s = &p.script;
    text_puts(s, "set xlabel 'tokens in the cache'\nset ylabel 'KL from f16'\nset logscale y\n"
                 "set format y '%g'\n");
    for (int i = 0; i < f->n_qualities; i++) {
        const figures_quality *q = &f->quality[i];
        if (!(q->result.kl_mean > 0))
            continue;
        text_printf(s, "$q%d << EOD\n", i);
        for (int bin = 0; bin < BINS; bin++) {
            double position, kl = bin_mean(f, q, bin, &position);
            if (kl > 0)
                text_printf(s, "%.1f %.9g\n", position, kl);
        }
        text_puts(s, "EOD\n");
        int colour_of = 0;
        while (colour_of < f->n_labels && strcmp(f->label[colour_of], q->label))
            colour_of++;
        text_printf(&plots, "%s$q%d using 1:2 with linespoints pt 7 ps 0.4 lw 2 lc rgb %s title ",
                    plots.n ? ", " : "plot ", i, plot_colour(colour_of, colour));
        plot_quote(&plots, q->label);
    }
    text_printf(s, "%s\n", plots.bytes ? plots.bytes : "");
    if (plots.n)
        plot_draw(&p, "KL divergence from f16 over the number of tokens in the cache", page);
    else
        plot_drop(&p);
    text_free(&plots);
}

static void put_row(const figures_quality *q, double most, text *page) {
    const quality_result *r = &q->result;
    html_row(page, "%s", q->label);
    html_cell_bar(page, most > 0 ? r->kl_mean / most : 0, "%.4f", r->kl_mean);
    html_cell(page, "%.3f", r->kl_p99);
    html_cell(page, "%.1f %%", 100 * r->top1_agreement);
    html_cell(page, "%.2f \u00b1 %.2f", r->perplexity, r->error);
    html_cell(page, "%.0f %%", 100 * r->kept_share);
    html_row_end(page);
}

pleat_status section_quality(const section_source *from, text *page, pleat_error *error) {
    static const char *const heads[] = {
        "method", "KL, mean", "KL, 99th percentile", "same next token", "perplexity", "tokens kept", NULL};
    const figures *f = from->f;
    double most = 0;
    char ctx[32], tokens[32];
    (void)error;
    if (!f->n_qualities)
        return PLEAT_OK;
    const figures_quality *q = &f->quality[0];
    html_section(page, "quality", "What it does to the model");
    html_note(
        page,
        "%s, %d window%s of %s tokens: the first half is prefilled and compressed, the second decoded through the "
        "compressed cache beside f16; %s positions.",
        q->text_name, q->result.windows, q->result.windows == 1 ? "" : "s", html_count(q->ctx, ctx),
        html_count(q->result.tokens, tokens));
    for (int i = 0; i < f->n_qualities; i++)
        most = f->quality[i].result.kl_mean > most ? f->quality[i].result.kl_mean : most;
    html_table(page, heads);
    for (int i = 0; i < f->n_qualities; i++)
        put_row(&f->quality[i], most, page);
    html_table_end(page);
    put_plot(f, page);
    html_section_end(page);
    return PLEAT_OK;
}
