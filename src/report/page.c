/* page.c - the page: head, verdict, sections (sections.def), in one file that fetches nothing. Colours are CSS
 * variables with a dark set (style.css, put into the program by the assembler). */
#include "report/page.h"
#include "report/report.h"
#include "report/section.h"
#include "base/file.h"
#include "base/status.h"
#include <stdlib.h>

__asm__(".section .rodata\n"
        "report_style_begin: .incbin \"src/report/style.css\"\n"
        ".byte 0\n"
        ".previous\n");
extern const char report_style_begin[];

void page_begin(text *page, const char *title, const char *heading) {
    text_puts(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\n"
                    "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>");
    html_printf(page, "pleat: %s", title);
    text_puts(page, "</title>\n<style>\n");
    text_puts(page, report_style_begin);
    text_puts(page, "</style>\n</head>\n<body>\n<main>\n<h1>");
    html_text(page, heading);
    text_puts(page, "</h1>\n");
}

void page_end(text *page) {
    text_puts(page, "</main>\n</body>\n</html>\n");
}

static pleat_status put_page(store *db, const figures *f, text *page, pleat_error *error) {
    static pleat_status (*const sections[])(const section_source *, text *, pleat_error *) = {
#define SECTION(name) section_##name,
#include "report/sections.def"
#undef SECTION
    };
    const section_source from = {db, f};
    pleat_status status = PLEAT_OK;
    page_begin(page, f->run.model_name ? f->run.model_name : "a study", "Does KV-cache compression pay here?");
    text_puts(page, "<p class=\"sub\">");
    html_printf(page, "%s on %s, %d threads, kernels %s", f->run.model_name ? f->run.model_name : "a model",
                f->run.machine ? f->run.machine : "a machine", f->run.n_threads, f->run.level ? f->run.level : "?");
    text_puts(page, "</p>\n");
    if (!f->run.finished)
        text_puts(page, "<p class=\"warn\">This study is not finished: what follows is what has been measured so far. "
                        "Run it again and it goes on.</p>\n");
    verdict_write(f, page);
    for (size_t i = 0; i < sizeof(sections) / sizeof(*sections) && !status; i++)
        status = sections[i](&from, page, error);
    page_end(page);
    return status;
}

pleat_status report_write(store *db, int64_t run, const char *path, pleat_error *error) {
    figures *f = malloc(sizeof(*f));
    text page = {0};
    if (!f)
        return err_set(error, PLEAT_EMEMORY, "no memory for the report");
    pleat_status status = figures_read(db, run, f, error);
    if (status) {
        free(f);
        return status;
    }
    status = put_page(db, f, &page, error);
    if (!status && page.failed)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the report");
    status = status ? status : file_save(path, page.bytes, page.n, error);
    text_free(&page);
    figures_free(f);
    free(f);
    return status;
}
