/* quality.h - perplexity of a text, and what a method costs in KL. */
#ifndef MEASURE_QUALITY_H
#define MEASURE_QUALITY_H
#include "measure/measure.h"

typedef struct quality_result {
    int windows, tokens;                    /* scored */
    double perplexity, error;               /* error: one standard error of the perplexity */
    double kl_mean, kl_p99, top1_agreement; /* against f16 on the same path; 0, 0, 1 for f16 itself */
    double kept_share;                      /* live slots / tokens seen at the end of the last window */
    size_t kv_bytes;                        /* at the end of the last window */
} quality_result;

/* The protocol of llama.cpp's perplexity tool: the text is tokenised once (BOS in front where the model adds one,
 * special text not parsed), cut in windows of ctx tokens, the rest dropped; where the model adds one, BOS replaces each
 * window's first token; positions ctx/2 to ctx - 2 are scored. PLEAT_EINPUT: fewer tokens than one window, ctx out of
 * range. most_windows 0: all. */
pleat_status quality_perplexity(pleat_engine *engine, const char *text, size_t text_bytes, int ctx, int most_windows,
                                quality_result *out, const measure_watch *watch, pleat_error *error);

/* The same windows through compressed caches: tokens 0 to ctx/2 - 1 are prefilled once and forked to every method,
 * positions ctx/2 to ctx - 2 are decoded teacher-forced, all methods as one batch, and exactly their logits are scored;
 * out [methods->n], f16 first. A method whose budget is half the window or more never acts and is refused. */
pleat_status quality_methods(pleat_engine *engine, const measure_methods *methods, const char *text, size_t text_bytes,
                             int ctx, int most_windows, quality_result *out, const measure_watch *watch,
                             pleat_error *error);
#endif
