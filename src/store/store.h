/* store.h - the study database: one SQLite file that everything measured is written to as it is made, and that the
 * report reads.
 *
 * A *run* is one measurement under one set of conditions: command, model, machine, kernel level, threads, version,
 * options. Beginning a run that the file already holds under the same conditions goes on with it: that is how a killed
 * study resumes. Every put is one transaction on disk (WAL, synchronous=FULL) when it returns. One writer at a time,
 * any number of readers beside it; never called from the engine's threads. docs/store.md has the tables.
 *
 * Every function returns PLEAT_OK, PLEAT_EIO (the file cannot be read or written, or is busy), PLEAT_EINPUT (not a
 * store, damaged, or of a newer pleat) or PLEAT_EMEMORY. Strings in structs that are read belong to the list they came
 * in. */
#ifndef STORE_STORE_H
#define STORE_STORE_H
#include "pleat.h"

enum { STORE_MOST_REPEATS = 32 };

typedef struct store store;

/* A path for writing that is no file: gone when it is closed. */
#define STORE_IN_MEMORY ":memory:"
/* write: made when it is not there, and held against other writers until it is closed (PLEAT_EIO: another one has it);
 * else it must exist and is opened for reading only. */
pleat_status store_open(const char *path, bool write, store **out, pleat_error *error);
/* A writer folds its log into the one file, which can then be copied, or read where nothing may be written. NULL is
 * fine. */
void store_close(store *s);

/* ---- runs ---- */

typedef struct store_run {
    int64_t id;       /* out */
    const char *what; /* "bench", "study" */
    const char *model_name, *model_path, *model_hash;
    const char *machine, *level, *version;
    const char *options; /* JSON, sorted: part of the identity */
    int n_threads;
    const char *started; /* out: UTC, "2026-11-24 05:00:00" */
    bool finished;       /* out */
} store_run;

typedef enum store_how {
    STORE_GO_ON,      /* with the newest run under the same conditions, finished or not */
    STORE_GO_ON_OPEN, /* the same, but a new run when that one is finished */
    STORE_ANEW,       /* a new run */
} store_how;
typedef struct store_begun {
    int64_t id;
    bool resumed, finished; /* finished: nothing is left to measure */
    char started[24];       /* UTC */
} store_begun;
/* The run to measure into: one that is there (what, model_hash, machine, level, n_threads, version and options are the
 * same), or a new one. */
pleat_status store_run_begin(store *s, const store_run *run, store_how how, store_begun *out, pleat_error *error);
pleat_status store_run_finish(store *s, int64_t id, pleat_error *error);

typedef struct store_runs {
    store_run *run;
    int n;
} store_runs;
pleat_status store_runs_read(store *s, store_runs *out, pleat_error *error); /* oldest first */
void store_runs_free(store_runs *runs);

/* ---- throughput ---- */

typedef struct store_point {
    const char *label; /* as the user named the method: "kivi-4" */
    const char *spec;  /* canonical */
    int batch, prompt_tokens;
    const char *stage; /* "prefill" or "decode" */
    bool filled;       /* decode over a synthetic fill */
    int n_repeats;
    double rate[STORE_MOST_REPEATS]; /* tokens/s, summed over the batch */
    double median, spread;           /* of the rates; (max - min) / median */
    size_t kv_bytes, kv_peak_bytes;  /* of the whole batch */
    size_t bytes_needed;             /* with error */
    const char *error;               /* it could not be measured: why; else NULL */
} store_point;

/* Puts n points together; each replaces the run's row of the same label, batch, prompt_tokens, stage and filled. */
pleat_status store_points_put(store *s, int64_t run, const store_point *point, int n, pleat_error *error);

typedef struct store_points {
    store_point *point;
    int n;
} store_points;
pleat_status store_points_read(store *s, int64_t run, store_points *out,
                               pleat_error *error); /* in the order of the puts */
void store_points_free(store_points *points);

/* ---- answers ---- */

typedef struct store_answer {
    const char *data_set, *sample, *klass; /* which prompt */
    const char *prompt;
    const char *label, *spec;
    uint64_t seed;
    const char *text;
    int prompt_tokens, n_tokens;
    const char *finish;
    double ttft_ms, tpot_ms;
    size_t kv_bytes;
    int agree_tokens; /* leading tokens equal to the base's answer */
    bool acted;       /* the method evicted or packed something before the answer's end */
} store_answer;

/* All answers to one prompt at once: they are measured as one batch and stand or fall together. */
pleat_status store_answers_put(store *s, int64_t run, const store_answer *answer, int n, pleat_error *error);
pleat_status store_answers_has(store *s, int64_t run, const char *data_set, const char *sample, bool *has,
                               pleat_error *error);

typedef struct store_answers {
    store_answer *answer;
    int n;
} store_answers;
pleat_status store_answers_read(store *s, int64_t run, store_answers *out, pleat_error *error);
void store_answers_free(store_answers *answers);

/* ---- scores ---- */

typedef struct store_score {
    const char *data_set, *sample, *klass, *prompt; /* NULL counts as "" */
    const char *label;                              /* method; of a published file "algorithm/config" */
    uint64_t seed;
    const char *metric;
    double value; /* 0 to 1 */
} store_score;

/* All of them in one transaction. A sample or a response that is not there yet is added (a published file has scores
 * only); a score of the same response and metric is replaced. */
pleat_status store_scores_put(store *s, int64_t run, const store_score *score, int n, pleat_error *error);

typedef struct store_scores {
    store_score *score;
    int n;
} store_scores;
pleat_status store_scores_read(store *s, int64_t run, store_scores *out,
                               pleat_error *error); /* in the order of the puts */
void store_scores_free(store_scores *scores);

/* ---- quality ---- */

typedef struct store_window { /* one window of a text, decoded through one method's cache beside f16's */
    const char *label, *spec, *text_name;
    int ctx, window;      /* tokens of a window; which one */
    int n;                /* scored positions */
    float *nll, *kl;      /* [n] in the order of the positions: -log p(next token), KL from f16 */
    int same_best;        /* positions with f16's best next token */
    double kept_share;    /* live slots / tokens seen, at the end */
    size_t kv_bytes;      /* at the end */
    size_t kv_peak_bytes; /* most held at a time, the fp16 prompt included; 0 in studies of before schema 3 */
} store_window;

/* Puts one window of all methods together; each replaces the run's row of the same label, text, ctx and window. */
pleat_status store_windows_put(store *s, int64_t run, const store_window *window, int n, pleat_error *error);

typedef struct store_windows {
    store_window *window;
    int n;
} store_windows;
/* In the order of the puts. */
pleat_status store_windows_read(store *s, int64_t run, store_windows *out, pleat_error *error);
void store_windows_free(store_windows *windows);

/* ---- profiles and fitted predictors ---- */

typedef struct store_operator { /* one profiled time */
    const char *name;           /* "once", "layer", "attention" */
    const char *stage;          /* "prefill", "decode" of attention; else NULL */
    int batch, tokens, context;
    double ms;
} store_operator;

typedef struct store_operators {
    store_operator *row;
    int n;
} store_operators;

/* Replaces what the run holds under this label (a method; "" for what all methods share). */
pleat_status store_profile_put(store *s, int64_t run, const char *label, const store_operator *row, int n,
                               pleat_error *error);
pleat_status store_profile_read(store *s, int64_t run, const char *label, store_operators *out, pleat_error *error);
void store_profile_free(store_operators *rows);

/* A fitted predictor as JSON, by kind ("throughput") and label; replaces. */
pleat_status store_model_put(store *s, int64_t run, const char *kind, const char *label, const char *fitted,
                             pleat_error *error);
/* *fitted is NULL when the run holds none; free it. */
pleat_status store_model_read(store *s, int64_t run, const char *kind, const char *label, char **fitted,
                              pleat_error *error);

/* ---- simulations ---- */

enum { STORE_SIMULATION_FIGURES = 9 };

typedef struct store_simulation { /* a pool of replicas under a load and a routing policy */
    const char *pool, *policy;
    double utilisation, rate; /* of what the pool can do; requests per second */
    int n_seeds;
    double mean_s, p50_s, p99_s, ci95; /* over seeds */
    double *figure; /* [n_seeds][STORE_SIMULATION_FIGURES]: mean, median and 99th percentile of delay, mean time
                       to the first token, tokens, share on uncompressed replicas, requests refused,
                       cut, times put back */
} store_simulation;

/* In one transaction; each replaces the run's row of the same pool, rate and policy. */
pleat_status store_simulations_put(store *s, int64_t run, const store_simulation *row, int n, pleat_error *error);

typedef struct store_simulations {
    store_simulation *row;
    int n;
} store_simulations;
pleat_status store_simulations_read(store *s, int64_t run, store_simulations *out,
                                    pleat_error *error); /* in the order of the puts */
void store_simulations_free(store_simulations *rows);
#endif
