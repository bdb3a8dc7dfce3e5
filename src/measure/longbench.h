/* longbench.h - LongBench's data sets (arXiv 2308.14508, table 1; THUDM/LongBench, eval.py): their task class and
 * metric, and their samples as published. */
#ifndef MEASURE_LONGBENCH_H
#define MEASURE_LONGBENCH_H
#include "measure/metrics.h"

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
#endif
