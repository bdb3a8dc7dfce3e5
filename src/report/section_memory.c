/* section_memory.c - bytes of the cache per request, and how many requests fit where one f16 request did. */
#include "report/section.h"
#include "measure/throughput.h"
#include <string.h>

/* The longest prompt that f16 was really prefilled with at this batch: only there is a peak that of a prompt. */
static int longest_real(const figures *f, int batch) {
    for (int k = f->n_prompt - 1; k >= 0; k--)
        if (figures_point(f, "f16", batch, f->prompt[k], "prefill"))
            return f->prompt[k];
    return 0;
}

static void put_row(const figures *f, const char *label, int batch, int real, text *page) {
    char bytes[16];
    int longest = f->prompt[f->n_prompt - 1];
    double share = figures_share(f, label, batch, longest);
    html_row(page, "%s", label);
    for (int k = 0; k < f->n_prompt; k++) {
        const store_point *p = figures_point(f, label, batch, f->prompt[k], "decode");
        if (p)
            html_cell(page, "%s", text_bytes(p->kv_bytes, bytes));
        else
            html_cell_none(page, "not measured");
    }
    if (share > 0) {
        html_cell_bar(page, share, "%.0f %%", 100 * share);
        html_cell(page, "%s", html_times(1 / share, bytes));
    } else {
        html_cell_none(page, "not measured");
        html_cell_none(page, "not measured");
    }
    const store_point *p = real ? figures_point(f, label, batch, real, "prefill") : NULL;
    if (p)
        html_cell(page, "%s", text_bytes(p->kv_peak_bytes, bytes));
    else if (real)
        html_cell_none(page, "not measured");
    html_row_end(page);
}

pleat_status section_memory(const section_source *from, text *page, pleat_error *error) {
    const figures *f = from->f;
    (void)error;
    if (!f->n_prompt || !f->n_batch)
        return PLEAT_OK;
    int batch = f->batch[0], longest = f->prompt[f->n_prompt - 1], real = longest_real(f, batch);
    char count[32];
    html_section(page, "memory", "Memory");
    html_note(
        page,
        "Bytes of the KV cache after %s tokens of prompt and %d decoded ones, %d request%s; \"requests\" says how "
        "many fit in the memory of one f16 request. While a prompt is read it stands there in fp16: the peak.",
        html_count(longest, count), THROUGHPUT_DECODE_TOKENS, batch, batch == 1 ? "" : "s together");
    html_table_head(page);
    html_head(page, "method");
    for (int k = 0; k < f->n_prompt; k++)
        html_head(page, "at %s", html_count(f->prompt[k], count));
    html_head(page, "share of f16 at %s", html_count(longest, count));
    html_head(page, "requests");
    if (real)
        html_head(page, "peak, prompt of %s", html_count(real, count));
    html_row_end(page);
    for (int i = 0; i < f->n_labels; i++)
        put_row(f, f->label[i], batch, real, page);
    html_table_end(page);
    html_section_end(page);
    return PLEAT_OK;
}
