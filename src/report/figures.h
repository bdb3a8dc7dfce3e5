/* figures.h - inside report/: a run's figures in memory, and what is computed from them. */
#ifndef REPORT_FIGURES_H
#define REPORT_FIGURES_H
#include "base/text.h"
#include "measure/quality.h"
#include "store/store.h"

enum { FIGURES_MOST = 64, FIGURES_MOST_RATIOS = 1024 };

typedef struct figures_agreement { /* decode of one method over a real prompt and over a fill of the same length */
    const store_point *real, *filled;
} figures_agreement;

typedef struct figures_quality {
    const char *label, *spec, *text_name;
    int ctx;
    quality_result result;
} figures_quality;

typedef struct figures {
    store_runs runs; /* owns the strings of run */
    store_run run;
    store_points points, checks; /* checks: over a fill, of cells that were also measured over a prompt */
    store_answers answers;
    int *base; /* [answers.n] the f16 answer to the same prompt, or -1 */
    store_windows windows;
    figures_quality quality[FIGURES_MOST]; /* the windows of each method joined */
    int n_qualities;
    figures_agreement agreement[FIGURES_MOST];
    int n_agreements;
    const char *label[FIGURES_MOST]; /* methods in the order they were measured, f16 first */
    int n_labels;
    int batch[FIGURES_MOST], n_batch, prompt[FIGURES_MOST], n_prompt; /* rising */
} figures;

/* The figures of a run; 0: of the newest study, else of the newest run. PLEAT_EINPUT: there is no such run. */
pleat_status figures_read(store *db, int64_t run, figures *out, pleat_error *error);
void figures_free(figures *f);

/* A measured point, or NULL (not there, or it could not be measured). */
const store_point *figures_point(const figures *f, const char *label, int batch, int prompt, const char *stage);
/* The same, with its error if it has one. */
const store_point *figures_any(const figures *f, const char *label, int batch, int prompt, const char *stage);
/* Points of this prompt length were measured over a synthetic fill. */
bool figures_filled(const figures *f, int prompt, const char *stage);

/* A method differs from f16 when all its repeats lie on one side of all of f16's, and the medians by more than 3 %.
 * One repeat of either says nothing about noise. */
#define FIGURES_LEAST_DIFFERENCE 0.03
typedef enum figures_verdict { FIGURES_SAME, FIGURES_FASTER, FIGURES_SLOWER, FIGURES_UNSURE } figures_verdict;
typedef struct figures_speed {
    double ratio; /* of the medians, over f16's */
    figures_verdict verdict;
    const store_point *point, *base;
} figures_speed;
/* False: one of the two was not measured there. */
bool figures_speed_of(const figures *f, const char *label, int batch, int prompt, const char *stage,
                      figures_speed *out);

typedef struct figures_cells { /* all measured ones of a method and a stage */
    int n, n_faster, n_slower; /* beyond the noise */
    double lowest, highest;    /* ratio over f16; lowest > highest: none was measured */
    int slowest_batch, slowest_prompt;
    double slowest_ratio; /* of those that are slower beyond the noise; INFINITY: none is */
} figures_cells;
figures_cells figures_cells_of(const figures *f, const char *label, const char *stage);

/* A method's KV bytes after decode over f16's in the same cell; 0: not known. */
double figures_share(const figures *f, const char *label, int batch, int prompt);
const figures_quality *figures_quality_of(const figures *f, const char *label); /* NULL: not measured */

typedef struct figures_lengths {
    int n;                             /* pairs */
    int n_acted;                       /* pairs in which the method did anything */
    int n_capped;                      /* pairs in which some answer met the limit of new tokens */
    int n_ratios;                      /* at most FIGURES_MOST_RATIOS are kept one by one */
    double ratio[FIGURES_MOST_RATIOS]; /* answer / f16's answer, in tokens, in the order of the prompts */
    double mean, share_longer;         /* share with 1.5 x and more */
    double agree;                      /* mean share of f16's answer that is equal from its start */
} figures_lengths;
void figures_lengths_of(const figures *f, const char *label, figures_lengths *out);

/* verdict.c: the headline and one paragraph per method. */
void verdict_write(const figures *f, text *page);
/* glance.c: all methods in one table, decode and memory at this batch and prompt length. */
void glance_write(const figures *f, int batch, int prompt, text *page);
#endif
