/* sample.h - one token from one row of logits. */
#ifndef MODEL_SAMPLE_H
#define MODEL_SAMPLE_H
#include "pleat.h"

typedef struct sampler sampler;
/* Scratch for a vocabulary of n_vocab. PLEAT_EMEMORY. */
pleat_status sampler_open(int n_vocab, sampler **out, pleat_error *error);
void sampler_close(sampler *s);

/* Refuses parameters out of range with a sentence that names them. */
pleat_status sample_check(const pleat_sampling *sampling, pleat_error *error);
/* As pleat_sample. Order: penalties, temperature, then top-k, top-p and min-p on the probabilities, then the draw by
 * rng_uniform(seed, 0, position of the token). PLEAT_EINPUT: bad parameters, or logits without a finite maximum. */
pleat_status sample_token(sampler *s, const pleat_sampling *sampling, float *logits, const int32_t *history,
                          int n_history, int32_t *token, pleat_error *error);
/* The sum of exp((logit - max) / temperature) over n logits, to 1e-11 of it; max is the largest of them, at least. */
double sample_exp_sum(const float *logits, int n, float max, float temperature);
#endif
