/* section.h - a section of the page: one file, one function, one line.
 *
 * To add one, write section_NAME() in src/report/section_NAME.c and a line in sections.def at its place on the page. It
 * reads what it shows from the store (its own tables) or from the run's figures, and appends one html_section(), or
 * nothing when the study does not hold what it is about. html.h has the pieces, plot.h the drawings. */
#ifndef REPORT_SECTION_H
#define REPORT_SECTION_H
#include "report/figures.h"
#include "report/html.h"

typedef struct section_source {
    store *db;        /* open for reading */
    const figures *f; /* of the run that the page is about; f->run.id for queries */
} section_source;

/* Fails only when the store cannot be read (or is damaged); a full text is the page's own matter. */
#define SECTION(name) pleat_status section_##name(const section_source *from, text *page, pleat_error *error);
#include "report/sections.def"
#undef SECTION
#endif
