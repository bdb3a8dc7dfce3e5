/* negatives.h - which samples a compression method breaks: Algorithm 1 of the study (arXiv 2503.24000, section 5),
 * pure.
 *
 * A sample is *benign* when its uncompressed (base) score is at least the mean of all base scores of its data set. It
 * is *negative* for a set of methods at a threshold t when it is benign and every method of the set scores at most (1 -
 * t) x base on it. A sample that some method of the set lacks is *missing* and not negative. Scores are fractions from
 * 0 to 1. */
#ifndef MEASURE_NEGATIVES_H
#define MEASURE_NEGATIVES_H
#include "base/intern.h"
#include "store/store.h"

/* Scores by method and sample, from rows in any order. Sets, samples and methods are numbered as they were first seen.
 */
typedef struct negatives_table {
    intern sets, methods; /* keys: names; methods are "algorithm/config" or "algorithm" */
    intern samples;       /* keys: data set, a 0 byte, sample's name */
    int *set_of;          /* [samples.n] */
    const char **klass;   /* [sets.n] task class, in the caller's rows; "" when unknown */
    double *score;        /* [methods.n][samples.n]; NaN: missing */
    double *mean;         /* [methods.n][sets.n]; NaN: the method has none of the data set */
} negatives_table;

/* The rows must outlive the table. PLEAT_EINPUT: two rows for one sample and method (another seed or metric);
 * PLEAT_EMEMORY. Free with negatives_table_free. */
pleat_status negatives_table_make(const store_scores *rows, negatives_table *out, pleat_error *error);
void negatives_table_free(negatives_table *table);
const char *negatives_sample(const negatives_table *table, int i); /* its name within its data set */

/* Samples without a base score: some method has them, the verdicts leave them out. */
int negatives_unpaired(const negatives_table *table, int base);

/* A method by its whole name, or by its algorithm if that has one configuration only. PLEAT_EINPUT lists what there is.
 */
pleat_status negatives_method(const negatives_table *table, const char *name, int *method, pleat_error *error);
/* The method named by `name`, else (NULL) the first there is of hf, fp16, f16. *called: that name. */
pleat_status negatives_base(const negatives_table *table, const char *name, int *method, const char **called,
                            pleat_error *error);
/* The shortest name that finds the method: its algorithm, or the whole name. out holds n bytes. */
const char *negatives_short_name(const negatives_table *table, int method, char *out, size_t n);

/* Mean of the method's scores on a data set; NaN when it has none. */
double negatives_mean(const negatives_table *table, int method, int set);
/* 100 x the mean of its data sets' means. */
double negatives_average(const negatives_table *table, int method);

enum { NEGATIVES_MOST_METHODS = 32, NEGATIVES_MOST_COMBINED = 8 };

/* What is compared with what. Subsets of the methods are bit masks. */
typedef struct negatives_plan {
    int base, n;
    int method[NEGATIVES_MOST_METHODS];
    char *base_name, *name[NEGATIVES_MOST_METHODS]; /* as the user named them */
} negatives_plan;

/* methods: names separated by commas; NULL: all but the base. base: NULL as in negatives_base. PLEAT_EINPUT: as
 * negatives_method, an empty name, a method twice, too many, none. Free with negatives_plan_free. */
pleat_status negatives_plan_make(const negatives_table *table, const char *methods, const char *base,
                                 negatives_plan *out, pleat_error *error);
void negatives_plan_free(negatives_plan *plan);
/* The subset's methods into `methods`; returns how many. */
int negatives_subset(const negatives_plan *plan, unsigned mask, int *methods);
/* The subsets worth a row: each method, then all larger subsets by size (only the whole when there are more than
 * NEGATIVES_MOST_COMBINED methods). masks holds NEGATIVES_MOST_SUBSETS; returns how many. */
enum { NEGATIVES_MOST_SUBSETS = 1 << NEGATIVES_MOST_COMBINED };
int negatives_subsets(const negatives_plan *plan, unsigned *masks);

/* The distinct task classes, LongBench's in its order and then others as first seen, at most NEGATIVES_MOST_CLASSES;
 * returns how many. They live as long as the table. */
enum { NEGATIVES_MOST_CLASSES = 32 };
int negatives_classes(const negatives_table *table, const char **classes);

typedef struct negatives_tally {
    int samples; /* with a base score */
    int benign, negative;
    int missing; /* of samples: some method of the set has no score */
} negatives_tally;

/* Algorithm 1 for methods [n_methods] at a threshold (a fraction). of_set [sets.n] gets the counts by data set,
 * is_negative [samples.n] (may be NULL) the verdicts. O(samples x methods). */
void negatives_judge(const negatives_table *table, int base, const int *methods, int n_methods, double threshold,
                     negatives_tally *of_set, bool *is_negative);
/* Of the data sets of one class (NULL: all). */
negatives_tally negatives_sum(const negatives_table *table, const negatives_tally *of_set, const char *klass);
/* The method's score on the samples marked in `among` [samples.n], of one class (NULL: all): the mean of the data sets'
 * means, as the study's table of negative samples has it; NaN when there are none. *n: how many samples. */
double negatives_mean_among(const negatives_table *table, int method, const bool *among, const char *klass, int *n);
#endif
