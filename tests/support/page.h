/* page.h - tests: a written report page, looked at row by row. */
#ifndef TESTS_PAGE_H
#define TESTS_PAGE_H

/* Reads the page; the others are of the last one read. The test fails when it is not there. */
void page_read(const char *path);
/* Its text, ended by 0. */
const char *page_text(void);
/* The first row of a name after a heading (or any words), up to its end; the same buffer at every call. The test fails
 * when there is none. */
const char *page_row(const char *heading, const char *name);
/* Fails the test unless that row holds a cell of the number as format makes it: "<td ...>NUMBER</td>". */
void page_shows(const char *heading, const char *name, const char *format, double value);
int page_count(const char *words);
/* How many drawings it has; n if gnuplot, which draws them, is not here. */
int page_drawings(int n);
#endif
