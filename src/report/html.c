/* html.c - see html.h. */
#include "report/html.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *entity_of(char c) {
    switch (c) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void html_text(text *page, const char *s) {
    for (; s && *s; s++) {
        const char *entity = entity_of(*s);
        if (entity)
            text_puts(page, entity);
        else if ((unsigned char)*s >= ' ' || *s == '\n' ||
                 *s == '\t') /* other control bytes are not allowed in a page */
            text_append(page, s, 1);
    }
}

static void put_v(text *page, const char *format, va_list arguments) {
    char *s = NULL;
    if (vasprintf(&s, format, arguments) < 0) {
        page->failed = true;
        return;
    }
    html_text(page, s);
    free(s);
}

/* before + the formatted text + after */
#define PUT(before, after)                                                                                             \
    do {                                                                                                               \
        va_list arguments;                                                                                             \
        text_puts(page, before);                                                                                       \
        va_start(arguments, format);                                                                                   \
        put_v(page, format, arguments);                                                                                \
        va_end(arguments);                                                                                             \
        text_puts(page, after);                                                                                        \
    } while (0)

void html_printf(text *page, const char *format, ...) {
    PUT("", "");
}

void html_section(text *page, const char *id, const char *title) {
    text_printf(page, "<section id=\"%s\">\n<h2>", id);
    html_text(page, title);
    text_puts(page, "</h2>\n");
}

void html_section_end(text *page) {
    text_puts(page, "</section>\n");
}

void html_heading(text *page, const char *title) {
    text_puts(page, "<h3>");
    html_text(page, title);
    text_puts(page, "</h3>\n");
}

void html_note(text *page, const char *format, ...) {
    PUT("<p class=\"note\">", "</p>\n");
}

void html_fold(text *page, const char *title) {
    text_puts(page, "<details>\n<summary>");
    html_text(page, title);
    text_puts(page, "</summary>\n");
}

void html_fold_end(text *page) {
    text_puts(page, "</details>\n");
}

/* ---- tables ---- */

void html_table_head(text *page) {
    text_puts(page, "<div class=\"wide\" tabindex=\"0\"><table>\n<tr>");
}

void html_head(text *page, const char *format, ...) {
    PUT("<th scope=\"col\">", "</th>");
}

void html_head_words(text *page, const char *format, ...) {
    PUT("<th scope=\"col\" class=\"words\">", "</th>");
}

void html_table(text *page, const char *const *heads) {
    html_table_head(page);
    for (; *heads; heads++)
        html_head(page, "%s", *heads);
    html_row_end(page);
}

void html_row(text *page, const char *format, ...) {
    PUT("<tr><th scope=\"row\">", "</th>");
}

void html_cell(text *page, const char *format, ...) {
    PUT("<td>", "</td>");
}

void html_cell_words(text *page, const char *format, ...) {
    PUT("<td class=\"words\">", "</td>");
}

void html_cell_none(text *page, const char *why) {
    text_puts(page, "<td class=\"none\" title=\"");
    html_text(page, why);
    text_puts(page, "\">&#8211;</td>");
}

void html_cell_bar(text *page, double share, const char *format, ...) {
    share = share >= 0 ? share < 1 ? share : 1 : 0;
    PUT("<td><span class=\"number\">", "</span>");
    text_printf(page, "<span class=\"track\"><span class=\"bar\" style=\"width:%.1f%%\"></span></span></td>",
                100 * share);
}

void html_cell_heat(text *page, double ratio, bool flat, const char *title) {
    char number[16];
    double depth = fabs(log2(ratio));
    depth = depth < 1 ? depth : 1;
    text_puts(page, "<td class=\"heat\"");
    if (!flat)
        text_printf(page, " style=\"background:rgba(var(--%s),%.2f)\"", ratio >= 1 ? "good" : "bad", 0.1 + 0.6 * depth);
    text_puts(page, " title=\"");
    html_text(page, title);
    text_printf(page, "\">%s</td>", html_times(ratio, number));
}

void html_row_end(text *page) {
    text_puts(page, "</tr>\n");
}

void html_table_end(text *page) {
    text_puts(page, "</table></div>\n");
}

const char *html_times(double ratio, char out[16]) {
    snprintf(out, 16, ratio >= 9.995 ? "%.0fx" : "%.2fx", ratio < 1e6 ? ratio : 1e6);
    return out;
}

const char *html_count(long n, char out[32]) {
    char digits[24];
    int n_digits = snprintf(digits, sizeof(digits), "%ld", n < 0 ? -n : n), at = 0;
    if (n < 0)
        out[at++] = '-';
    for (int i = 0; i < n_digits; i++) {
        if (i && (n_digits - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}
