/* page.h - inside report/: the frame of a page, for the study's and for those of one section alone. */
#ifndef REPORT_PAGE_H
#define REPORT_PAGE_H
#include "report/html.h"

/* Head, style, <h1>heading</h1>; sections follow, then page_end. */
void page_begin(text *page, const char *title, const char *heading);
void page_end(text *page);
#endif
