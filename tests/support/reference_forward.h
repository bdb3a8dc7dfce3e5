/* reference_forward.h - the forward pass again, plainly and in double, from the file's own tensors. */
#ifndef TESTS_REFERENCE_FORWARD_H
#define TESTS_REFERENCE_FORWARD_H
#include "gguf/gguf.h"
#include "support/tiny_model.h"

/* logits [n_vocab] of the last of n tokens of a model written with these options. */
void reference_logits(const gguf *file, const tiny_options *o, const int32_t *tokens, int n, double *logits,
                      int n_vocab);
#endif
