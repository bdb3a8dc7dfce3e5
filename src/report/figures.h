/* figures.h - inside report/: a run's figures in memory, and what is computed from them. */
#ifndef REPORT_FIGURES_H
#define REPORT_FIGURES_H
#include "base/text.h"
#include "store/store.h"

enum { FIGURES_MOST = 64 };

typedef struct figures {
    store_runs runs; /* owns the strings of run */
    store_run run;
    store_points points; /* without the row that compares fill and prompt */
    store_answers answers;
    store_qualities qualities;
    const char *label[FIGURES_MOST]; /* methods in the order they were measured, f16 first */
    int n_labels;
    int batch[FIGURES_MOST], n_batch, prompt[FIGURES_MOST], n_prompt; /* rising */
    bool has_agreement;
    store_point agreement; /* decode over a fill (rate[0]) and over a real prompt (rate[1]) */
} figures;

pleat_status figures_read(store *db, int64_t run, figures *out, pleat_error *error);
void figures_free(figures *f);

/* A measured point, or NULL (not there, or it could not be measured). */
const store_point *figures_point(const figures *f, const char *label, int batch, int prompt, const char *stage);
/* The same, with its error if it has one. */
const store_point *figures_any(const figures *f, const char *label, int batch, int prompt, const char *stage);
/* Rate over f16's in the same cell; 0: not known. *noise: the larger spread of both, at least 0.03. */
double figures_ratio(const figures *f, const char *label, int batch, int prompt, const char *stage, double *noise);
/* f16's KV bytes over the method's after decode: how many requests the same memory holds. 0: not known. */
double figures_holds(const figures *f, const char *label, int batch, int prompt);
const store_quality *figures_quality(const figures *f, const char *label);

typedef struct figures_lengths {
    int n;                     /* pairs */
    int n_capped;              /* pairs in which some answer met the limit of new tokens */
    double ratio[256];         /* answer / f16's answer, in tokens, in the order of the prompts */
    double mean, share_longer; /* share with 1.5 x and more */
    double agree;              /* mean share of f16's answer that is equal from its start */
} figures_lengths;
void figures_lengths_of(const figures *f, const char *label, figures_lengths *out);

/* verdict.c: the headline and one paragraph per method, as HTML. */
void verdict_write(const figures *f, text *page);
/* plot.c: an SVG of length ratios, of decode rates over prompt length; nothing is appended when gnuplot is not there
 * (false). */
bool plot_lengths(const figures *f, text *page);
bool plot_rates(const figures *f, text *page);
/* html.c */
void html_text(text *page, const char *s); /* escaped */
#endif
