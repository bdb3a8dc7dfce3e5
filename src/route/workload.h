/* workload.h - what a simulated load is made of: request sizes, arrival traces, the growth of answers under a method.
 *
 * Everything is read once and then only looked at, by any number of threads. */
#ifndef ROUTE_WORKLOAD_H
#define ROUTE_WORKLOAD_H
#include "route/simulate.h"

/* ---- sizes ---- */

typedef struct sim_size {
    int32_t prompt, answer; /* tokens, at least 1 */
} sim_size;

typedef struct sim_sizes {
    sim_size *size; /* malloc'ed */
    int n, cap;
    char note[200]; /* what was left out, for people; "" when nothing */
} sim_sizes;

/* A CSV file with columns prompt_tokens, answer_tokens. PLEAT_EIO, PLEAT_EINPUT (file, line, column, value; no row). */
pleat_status sim_sizes_read(const char *path, sim_sizes *out, pleat_error *error);
/* ShareGPT's JSON: the first exchange of every conversation that a human begins and the model answers; tokens are taken
 * as a quarter of the characters (code points), rounded up. A file that breaks off is read as far as it is whole, and
 * the note says so. Prompts above most_prompt (0: no limit) are left out. PLEAT_EIO, PLEAT_EINPUT (not such a file),
 * PLEAT_EMEMORY.
 */
pleat_status sim_sizes_sharegpt(const char *path, int most_prompt, sim_sizes *out, pleat_error *error);
void sim_sizes_free(sim_sizes *sizes);

/* ---- traces ---- */

typedef struct sim_trace_row {
    double at_s; /* from the first */
    sim_size size;
    int nth; /* in the file */
} sim_trace_row;

typedef struct sim_trace {
    sim_trace_row *row; /* malloc'ed, rising in at_s */
    int n, cap;
} sim_trace;

/* Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens: a date and time, tokens), Mooncake's as CSV
 * (timestamp_ms,input_tokens,output_tokens) or as its JSON lines (timestamp in ms, input_length, output_length). A
 * bad line is refused by its number; requests of no tokens are taken as of one. PLEAT_EIO, PLEAT_EINPUT,
 * PLEAT_EMEMORY. */
pleat_status sim_trace_read(const char *path, sim_trace *out, pleat_error *error);
void sim_trace_free(sim_trace *trace);

/* ---- growth ---- */

enum { SIM_MOST_KNOTS = 64, SIM_METHOD_CAP = 64 };

typedef struct sim_growth { /* of one method: the quantiles of answer / uncompressed answer */
    char method[SIM_METHOD_CAP];
    int n;
    double quantile[SIM_MOST_KNOTS], log_growth[SIM_MOST_KNOTS]; /* both rise */
} sim_growth;

typedef struct sim_growths {
    sim_growth *of; /* malloc'ed */
    int n, cap;
} sim_growths;

/* A CSV file with columns method, quantile (0 to 1), growth (above 0), rising within a method; path NULL: the built-in
 * assumption (growth.csv). PLEAT_EIO, PLEAT_EINPUT, PLEAT_EMEMORY. */
pleat_status sim_growths_read(const char *path, sim_growths *out, pleat_error *error);
void sim_growths_free(sim_growths *growths);
const sim_growth *sim_growth_find(const sim_growths *growths, const char *method); /* NULL: not there */
/* At a quantile: log-linear between the knots, the outermost held beyond them; 1 of NULL. */
double sim_growth_at(const sim_growth *growth, double quantile);
/* The built-in file, ended by 0. */
const char *sim_growths_text(void);

/* ---- loads ---- */

typedef struct sim_load_options {
    int n; /* requests; with a trace at most its rows */
    uint64_t seed;
    int n_methods;
    const char *method[ROUTE_MOST_METHODS];       /* [n_methods]; [0] the uncompressed one */
    const sim_growth *growth[ROUTE_MOST_METHODS]; /* NULL: answers as long as uncompressed */
    const sim_sizes *sizes;                       /* NULL: the trace's own */
    const sim_trace *trace; /* NULL: arrivals are drawn. The seed picks where in the trace the n rows begin */
    double rate;            /* arrivals per second; a trace is stretched to it; 0: the trace as it is */
    double variation;       /* of drawn arrivals: their coefficient of variation; 1: Poisson; else gamma */
    int most_answer;        /* tokens; 0: no limit */
    double noise;           /* of predicted lengths: the mean absolute error of their logarithm */
} sim_load_options;

/* Draws a load. Every random number is keyed by seed, purpose (a method's growth: by its name) and request, so that
 * pools, rates and noise levels see the same requests. PLEAT_EINPUT (nothing to draw from), PLEAT_EMEMORY. */
pleat_status sim_load_make(const sim_load_options *options, sim_load *out, pleat_error *error);
#endif
