/* page.c - see page.h. */
#include "support/page.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static char page[1 << 20];

void page_read(const char *path) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(page, 1, sizeof(page) - 1, f);
    page[n] = 0;
    fclose(f);
    assert_true(n < sizeof(page) - 1);
}

const char *page_text(void) {
    return page;
}

const char *page_row(const char *heading, const char *name) {
    static char row[4000];
    char head[200];
    const char *at = strstr(page, heading);
    snprintf(head, sizeof(head), "<th scope=\"row\">%s</th>", name);
    at = at ? strstr(at, head) : NULL;
    if (!at)
        fail_msg("the page has no row %s after %s", name, heading);
    snprintf(row, sizeof(row), "%.*s", (int)(strstr(at, "</tr>") - at), at);
    return row;
}

void page_shows(const char *heading, const char *name, const char *format, double value) {
    char number[64], cell[80];
    const char *row = page_row(heading, name);
    snprintf(number, sizeof(number), format, value);
    snprintf(cell, sizeof(cell), ">%s<", number);
    if (!strstr(row, cell))
        fail_msg("\"%s\" does not hold %s", row, number);
}

int page_count(const char *words) {
    int n = 0;
    for (const char *at = page; (at = strstr(at, words)); at++)
        n++;
    return n;
}

int page_drawings(int n) {
    return system("gnuplot --version >/dev/null 2>&1") ? n : page_count("<svg");
}
