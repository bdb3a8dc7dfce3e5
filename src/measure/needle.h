/* needle.h - retrieval over depth: sentences hidden in a long text, each asked for once. */
#ifndef MEASURE_NEEDLE_H
#define MEASURE_NEEDLE_H
#include "base/text.h"
#include "measure/measure.h"

enum { NEEDLE_DEPTHS = 5 }; /* 10, 30, 50, 70, 90 % of the text */
int needle_depth_percent(int i);

/* One long text with a needle at each depth, and the NEEDLE_DEPTHS questions about it. */
typedef struct needle needle;
/* A prompt of at most n_tokens tokens, answer included, whose text is cut from `words` (round: which cut, the next ones
 * begin further on); numbers are drawn from (n_tokens, round). The words must outlive it. Chat format as the model's
 * file says, else plain text. PLEAT_EINPUT: the text is too short, or n_tokens too few or beyond the model's context;
 * PLEAT_EMEMORY. */
pleat_status needle_open(const pleat_model *model, const char *words, size_t n_words, int n_tokens, int round,
                         needle **out, pleat_error *error);
void needle_close(needle *n); /* NULL is fine */
/* A question's whole prompt before the chat format, appended to *out; the line that holds its answer. */
void needle_prompt(const needle *n, int i, text *out);
const char *needle_fact(const needle *n, int i, char *out, size_t cap);

/* Every method's greedy answer to every question: the long text is prefilled once, exactly, and forked; each fork reads
 * the question as the end of its prompt, so that a policy that looks at the last queries sees it.
 * answers [NEEDLE_DEPTHS][methods->n] borrow from n and methods, but their text, which the caller frees; found of the
 * same shape: the answer holds the number. PLEAT_EFULL: it does not fit in the KV memory. */
pleat_status needle_measure(pleat_engine *engine, const measure_methods *methods, const needle *n,
                            store_answer *answers, bool *found, const measure_watch *watch, pleat_error *error);
/* Which needle a stored score or answer belongs to, by its data set ("needle-8192") and sample ("round 0, depth 10 %");
 * false: it is of something else. */
bool needle_of(const char *data_set, const char *sample, int *n_tokens, int *round, int *depth_percent);
#endif
