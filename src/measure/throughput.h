/* throughput.h - the throughput grid: methods x batch x prompt length, prefill and decode apart. */
#ifndef MEASURE_THROUGHPUT_H
#define MEASURE_THROUGHPUT_H
#include "measure/measure.h"

enum { THROUGHPUT_MOST_SIZES = 32, THROUGHPUT_DECODE_TOKENS = 64 };

typedef struct throughput_grid {
    const measure_methods *methods; /* f16 first */
    int batch[THROUGHPUT_MOST_SIZES], n_batch;
    int prompt[THROUGHPUT_MOST_SIZES], n_prompt;
    int repeats;     /* at most STORE_MOST_REPEATS */
    int fill_tokens; /* prompts of this length and longer are not prefilled: decode is timed over a synthetic fill, and
                        the longest shorter length at the smallest batch is timed both ways, to show that they agree; 0:
                        never */
} throughput_grid;

/* Adds a size to one of the grid's lists unless it is there. */
void throughput_add_size(int *list, int *n, int value);

/* Called after every repeat that was made (and once for a cell that cannot be measured) with its two points, prefill
 * and decode, or with decode alone over a fill. They belong into one transaction. */
typedef pleat_status (*throughput_sink)(void *context, const store_point *points, int n_points, pleat_error *error);

/* Measures what `known` does not hold yet; a point that could not be measured is tried again. A cell's methods take
 * turns within each repeat, so that noise hits them alike. Prefill: the whole batch's prompts in steps of at most the
 * engine's step tokens. Decode: THROUGHPUT_DECODE_TOKENS steps of the batch, no end of answer. Rates are tokens/s
 * summed over the batch. A point that does not fit in the pool, or in the model's context, gets `error` and
 * `bytes_needed`. */
pleat_status throughput_run(pleat_engine *engine, const throughput_grid *grid, const store_points *known,
                            throughput_sink sink, void *context, const measure_watch *watch, pleat_error *error);
/* About how long that will take, in measure_step_cost's units. */
double throughput_cost(const throughput_grid *grid, const store_points *known);
#endif
