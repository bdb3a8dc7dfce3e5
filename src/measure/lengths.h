/* lengths.h - paired answers: the same prompts under every method, to see whether answers get longer. */
#ifndef MEASURE_LENGTHS_H
#define MEASURE_LENGTHS_H
#include "measure/measure.h"

typedef struct lengths_prompt {
    char *id, *klass, *text; /* malloc'ed */
} lengths_prompt;
typedef struct lengths_prompts {
    lengths_prompt *prompt;
    int n;
} lengths_prompts;

/* JSONL: an object with "prompt" (text) and, optionally, "id" and "class" per line. source names it in sentences. */
pleat_status lengths_read(const char *source, const char *bytes, size_t n_bytes, lengths_prompts *out,
                          pleat_error *error);
void lengths_free(lengths_prompts *prompts);

/* One answer per method to one prompt, greedy, at most max_tokens new tokens: one exact prefill, forked to every
 * method, decoded as one batch. answers [methods->n] point to `prompt`, `methods` and *texts; free each
 * answers[i].text. Chat format as the model's file says, else the raw text. PLEAT_EFULL: prompt and answer do not fit.
 */
pleat_status lengths_measure(pleat_engine *engine, const measure_methods *methods, const char *data_set,
                             const lengths_prompt *prompt, int max_tokens, store_answer *answers, pleat_error *error);
#endif
