/* quality.h - perplexity of a text, and what a method costs in KL. */
#ifndef MEASURE_QUALITY_H
#define MEASURE_QUALITY_H
#include "measure/measure.h"

typedef struct quality_result {
    int windows, tokens;                    /* scored */
    double perplexity, error;               /* error: one standard error of the perplexity */
    double kl_mean, kl_p99, top1_agreement; /* against f16 on the same path; 0, 0, 1 for f16 itself */
    double kept_share;                      /* live slots / tokens seen at the end of the last window */
    size_t kv_bytes, kv_peak_bytes;         /* at the end of the last window, and most held in it */
} quality_result;

/* The protocol of llama.cpp's perplexity tool: the text is tokenised once (BOS in front where the model adds one,
 * special text not parsed), cut in windows of ctx tokens, the rest dropped; where the model adds one, BOS replaces each
 * window's first token; positions ctx/2 to ctx - 2 are scored. PLEAT_EINPUT: fewer tokens than one window, ctx out of
 * range. most_windows 0: all. */
pleat_status quality_perplexity(pleat_engine *engine, const char *text, size_t text_bytes, int ctx, int most_windows,
                                quality_result *out, const measure_watch *watch, pleat_error *error);

/* The same windows through compressed caches: the first tokens of a window are prefilled once and forked to every
 * method, its last n_scored positions before the final token (0: ctx/2 to ctx - 2, half of the window) are decoded
 * teacher-forced, all methods as one batch, and exactly their logits are scored. */
typedef struct quality_text quality_text;
/* Cuts the text. PLEAT_EINPUT: as above, or a method whose budget is half the window or more (it would never act), or
 * one that compresses inside the prompt, or more than half of a window to be scored. *n_windows: how many there are, at
 * most most_windows (0: all). */
pleat_status quality_text_open(const pleat_model *model, const measure_methods *methods, const char *text,
                               size_t text_bytes, int ctx, int n_scored, int most_windows, quality_text **out,
                               int *n_windows, pleat_error *error);
void quality_text_close(quality_text *t); /* NULL is fine */
/* One window under every method: out [methods->n], f16 first; labels and specs are borrowed from methods. Free each
 * with quality_window_free. */
pleat_status quality_window_measure(pleat_engine *engine, const measure_methods *methods, const quality_text *t,
                                    int window, store_window *out, const measure_watch *watch, pleat_error *error);
void quality_window_free(store_window *w); /* its nll and kl */
/* The figures of n windows of one method together. PLEAT_EMEMORY. */
pleat_status quality_join(const store_window *w, int n, quality_result *out, pleat_error *error);

/* All windows, joined: out [methods->n]. */
pleat_status quality_methods(pleat_engine *engine, const measure_methods *methods, const char *text, size_t text_bytes,
                             int ctx, int most_windows, quality_result *out, const measure_watch *watch,
                             pleat_error *error);
#endif
