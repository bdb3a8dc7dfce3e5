/* section_conditions.c - what was measured where: without this no figure means anything. */
#include "report/section.h"
#include <stdio.h>
#include <string.h>

static void put_pair(text *page, const char *name, const char *value) {
    text_printf(page, "<dt>%s</dt><dd>", name);
    html_text(page, value);
    text_puts(page, "</dd>\n");
}

static const char *spec_of(const figures *f, const char *label) {
    for (int k = 0; k < f->points.n; k++)
        if (!strcmp(f->points.point[k].label, label))
            return f->points.point[k].spec;
    for (int k = 0; k < f->n_qualities; k++)
        if (!strcmp(f->quality[k].label, label))
            return f->quality[k].spec;
    for (int k = 0; k < f->answers.n; k++)
        if (!strcmp(f->answers.answer[k].label, label))
            return f->answers.answer[k].spec;
    return NULL;
}

pleat_status section_conditions(const section_source *from, text *page, pleat_error *error) {
    const figures *f = from->f;
    const store_run *r = &f->run;
    char number[32];
    (void)error;
    html_section(page, "conditions", "What was measured where");
    text_puts(page, "<dl>\n");
    put_pair(page, "model", r->model_name);
    put_pair(page, "file's hash", r->model_hash);
    put_pair(page, "machine", r->machine);
    put_pair(page, "kernels", r->level);
    snprintf(number, sizeof(number), "%d", r->n_threads);
    put_pair(page, "threads", number);
    put_pair(page, "begun (UTC)", r->started);
    put_pair(page, "pleat", r->version);
    text_puts(page, "</dl>\n");
    html_table_head(page);
    html_head(page, "method");
    html_head_words(page, "in full");
    html_row_end(page);
    for (int i = 0; i < f->n_labels; i++) {
        const char *spec = spec_of(f, f->label[i]);
        html_row(page, "%s", f->label[i]);
        html_cell_words(page, "%s", spec ? spec : "");
        html_row_end(page);
    }
    html_table_end(page);
    html_fold(page, "Options of the run");
    text_puts(page, "<p><code>");
    html_text(page, r->options);
    text_puts(page, "</code></p>\n");
    html_fold_end(page);
    html_section_end(page);
    return PLEAT_OK;
}
