/* plot.h - drawings by gnuplot, inside the page as SVG.
 *
 * Append a script to plot.script between plot_begin() and plot_draw(): set what you need, give data as here-documents,
 * end with a plot command. Name colours by plot_colour(): they follow the page into the dark. */
#ifndef REPORT_PLOT_H
#define REPORT_PLOT_H
#include "base/text.h"

enum { PLOT_COLOURS = 8 };

typedef struct plot {
    text script;
    const char *name; /* letters, unlike every other one's on the page; the caller's */
} plot;

/* Terminal, axes and grid of a drawing. */
plot plot_begin(const char *name, int height_px);
/* s as a single-quoted gnuplot string. */
void plot_quote(text *script, const char *s);
/* A colour as gnuplot takes it after `lc rgb`, quoted. 0: ink; 1 to PLOT_COLOURS: the series', repeating after that. */
const char *plot_colour(int i, char out[16]);
/* Draws, appends the SVG to the page, and ends the plot. False, and nothing is appended, when gnuplot is missing or
 * refuses: say the same in a table. title: what it shows, for readers who cannot see it. */
bool plot_draw(plot *p, const char *title, text *page);
void plot_drop(plot *p); /* ends it without drawing */
#endif
