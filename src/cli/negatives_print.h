/* negatives_print.h - the result of `pleat negatives` as JSON and as tables. */
#ifndef CLI_NEGATIVES_PRINT_H
#define CLI_NEGATIVES_PRINT_H
#include "measure/negatives.h"
#include <jansson.h>

enum { NEGATIVES_MOST_THRESHOLDS = 64 };

typedef struct negatives_result {
    const negatives_table *table;
    const negatives_plan *plan;
    double threshold[NEGATIVES_MOST_THRESHOLDS];
    int n_thresholds;
} negatives_result;

/* {"base", "averages", "counts", "combinations", "data_sets"}; NULL: no memory. */
json_t *negatives_json(const negatives_result *result);
/* On stdout; false: no memory. */
bool negatives_print(const negatives_result *result);
/* "10 %", "12.5 %". out holds at least 16 bytes; returns out. */
const char *negatives_percent(double threshold, char *out);
#endif
