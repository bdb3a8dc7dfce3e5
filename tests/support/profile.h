/* profile.h - a made-up step profile that can be worked out on paper. */
#ifndef TESTS_PROFILE_H
#define TESTS_PROFILE_H
#include "predict/throughput.h"

/* A step of n tokens, of which `batch` decode with `reads` tokens in context each, takes
 * step_ms + token_ms x n + key_ms x batch x reads, for up to 8,192 tokens, 256 sequences and 8,192 in context. Prompts
 * have no attention cost of their own. budget: decode reads at most that; 0: all. */
predict_profile *profile_line(double step_ms, double token_ms, double key_ms, int budget);
#endif
