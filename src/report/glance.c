/* glance.c - all methods in one table, for studies of so many that nobody reads a paragraph of each. Its figures are
 * those of the paragraphs (verdict.c), which stand folded below it. */
#include "report/figures.h"
#include "report/html.h"

static void put_range(const figures *f, const char *label, const char *stage, text *page) {
    figures_cells c = figures_cells_of(f, label, stage);
    char a[16], b[16];
    if (c.n)
        html_cell(page, "%s to %s", html_times(c.lowest, a), html_times(c.highest, b));
    else
        html_cell_none(page, "not measured");
}

static void put_speed(const figures *f, const char *label, int batch, int prompt, text *page) {
    figures_speed speed;
    if (figures_speed_of(f, label, batch, prompt, "decode", &speed))
        html_cell_heat(page, speed.ratio, speed.verdict == FIGURES_SAME || speed.verdict == FIGURES_UNSURE, NULL);
    else
        html_cell_none(page, "not measured");
}

static void put_requests(const figures *f, const char *label, int batch, int prompt, text *page) {
    double share = figures_share(f, label, batch, prompt);
    char times[16];
    if (share > 0)
        html_cell(page, "%s", html_times(1 / share, times));
    else
        html_cell_none(page, "not measured");
}

static void put_quality(const figures *f, const char *label, text *page) {
    const figures_quality *q = figures_quality_of(f, label);
    if (q) {
        html_cell(page, "%.4f", q->result.kl_mean);
        html_cell(page, "%.1f %%", 100 * (1 - q->result.top1_agreement));
    } else {
        html_cell_none(page, "not measured");
        html_cell_none(page, "not measured");
    }
}

static void put_length(const figures *f, const char *label, text *page) {
    figures_lengths l;
    char times[16];
    figures_lengths_of(f, label, &l);
    if (l.n_acted)
        html_cell(page, "%s", html_times(l.mean, times));
    else
        html_cell_none(page, l.n ? "it never acted within the answers" : "not measured");
}

void glance_write(const figures *f, int batch, int prompt, text *page) {
    static const char *const heads[] = {"method",   "decode", "least to most", "prefill, least to most",
                                        "requests", "KL",     "other tokens",  "answers",
                                        NULL};
    char n[32];
    html_note(
        page,
        "All over f16. Decode at batch %d and %s tokens (without colour: not beyond the noise), then over all "
        "measured cells; requests that fit in the same memory; other tokens: how often the likeliest next one is not "
        "f16's; answers: their length.",
        batch, html_count(prompt, n));
    html_table(page, heads);
    for (int i = 1; i < f->n_labels; i++) {
        html_row(page, "%s", f->label[i]);
        put_speed(f, f->label[i], batch, prompt, page);
        put_range(f, f->label[i], "decode", page);
        put_range(f, f->label[i], "prefill", page);
        put_requests(f, f->label[i], batch, prompt, page);
        put_quality(f, f->label[i], page);
        put_length(f, f->label[i], page);
        html_row_end(page);
    }
    html_table_end(page);
}
