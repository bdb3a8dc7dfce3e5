/* longbench.h - LongBench's data sets (arXiv 2308.14508, table 1; THUDM/LongBench, eval.py): their task class and
 * metric, and their samples as published. */
#ifndef MEASURE_LONGBENCH_H
#define MEASURE_LONGBENCH_H
#include "measure/metrics.h"
#include <jansson.h>

typedef struct longbench_set {
    const char *name;
    const char *klass; /* "qa-single", "qa-multi", "summarisation", "few-shot", "synthetic", "code" */
    metrics_kind metric;
    bool first_line; /* only the answer's first line is scored */
} longbench_set;

/* By name, also with LongBench-E's suffix "_e"; NULL: not one of them. */
const longbench_set *longbench_find(const char *name);
/* The task class of any data set; "other" when it is not LongBench's. */
const char *longbench_class(const char *name);
/* "qa-single", ..., "other", NULL: the order in which tables show them. */
extern const char *const longbench_classes[];

/* ---- samples ---- */

typedef enum longbench_need {
    LONGBENCH_TEXTS,   /* as published: input context answers length dataset language all_classes _id */
    LONGBENCH_ANSWERS, /* what LongBench's pred.py writes: pred answers all_classes; dataset, or else the file's name */
} longbench_need;

typedef struct longbench_sample {
    json_t *record; /* the whole object */
    const char *data_set;
    char id[64]; /* its "id", else its place among those of its data set, from 0 */
    bool own_id; /* it has an "id" */
} longbench_sample;

typedef struct longbench_samples { /* zeroed: empty */
    longbench_sample *sample;
    int n, cap;
    json_t *sets; /* data set: how many were read */
} longbench_samples;

/* Adds the samples of a file: JSON lines, or one object of lists by data set (the form of the study's negative
 * samples). Several files may be added one after another. PLEAT_EINPUT names file, line (or data set and place), field
 * and what is wrong: missing, of another type, no answer, no classes where the metric needs them, an _id that the data
 * set has already. PLEAT_EMEMORY. On failure the samples are as they were after the last good file or less; free them.
 */
pleat_status longbench_read(longbench_samples *samples, longbench_need need, const char *name, const char *bytes,
                            size_t n_bytes, pleat_error *error);
void longbench_free(longbench_samples *samples);
/* How many samples of the data set were read. */
int longbench_count(const longbench_samples *samples, const char *data_set);
/* The sample with this id; NULL: none. */
const longbench_sample *longbench_sample_find(const longbench_samples *samples, const char *data_set, const char *id);

/* eval.py's score of the sample's "pred": the best over its answers. PLEAT_EINPUT: not LongBench's data set, one whose
 * metric needs a segmenter (both by name), a reference the metric cannot use. PLEAT_EMEMORY. */
pleat_status longbench_score(const longbench_sample *sample, double *score, pleat_error *error);
#endif
