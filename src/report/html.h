/* html.h - pieces of the page that every section is made of. Text given to these functions is plain: each escapes it,
 * after formatting. Tables scroll sideways inside their own box and keep their first column in sight. */
#ifndef REPORT_HTML_H
#define REPORT_HTML_H
#include "base/text.h"

#define HTML_PRINTF __attribute__((format(printf, 2, 3)))

void html_text(text *page, const char *s); /* NULL: nothing */
void html_printf(text *page, const char *format, ...) HTML_PRINTF;

/* A section of the page; id is its anchor: small letters and hyphens. */
void html_section(text *page, const char *id, const char *title);
void html_section_end(text *page);
void html_heading(text *page, const char *title);                /* inside a section */
void html_note(text *page, const char *format, ...) HTML_PRINTF; /* a paragraph in small, soft type */
/* What most readers skip: shown when its title is clicked. */
void html_fold(text *page, const char *title);
void html_fold_end(text *page);

/* heads: ended by NULL; the first is that of the rows' names. Cells hold numbers unless they say otherwise. */
void html_table(text *page, const char *const *heads);
void html_table_head(text *page); /* the same by hand: heads by html_head(), then rows; closed by html_table_end */
void html_head(text *page, const char *format, ...) HTML_PRINTF;
void html_head_words(text *page, const char *format, ...) HTML_PRINTF; /* over html_cell_words */
void html_row(text *page, const char *format, ...) HTML_PRINTF;        /* begins a row with its name */
void html_cell(text *page, const char *format, ...) HTML_PRINTF;
void html_cell_words(text *page, const char *format, ...) HTML_PRINTF; /* left-aligned, may wrap */
void html_cell_none(text *page, const char *why);                      /* a dash; why: its title, or NULL */
void html_cell_bar(text *page, double share, const char *format, ...)
    __attribute__((format(printf, 3, 4))); /* a number and a bar, share of the full width */
/* A ratio, coloured by how far it is from 1: fully at 2x and at 0.5x. flat: not coloured (a difference inside the
 * noise). title: shown when pointed at, or NULL. */
void html_cell_heat(text *page, double ratio, bool flat, const char *title);
void html_row_end(text *page);
void html_table_end(text *page);

/* "0.85x", "1.60x", "12x". */
const char *html_times(double ratio, char out[16]);
/* "4,096" */
const char *html_count(long n, char out[32]);
#endif
