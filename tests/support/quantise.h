/* quantise.h - tests: floats to the weight blocks of a model file, plainly (valid blocks, not the best ones). */
#ifndef SUPPORT_QUANTISE_H
#define SUPPORT_QUANTISE_H
#include "cpu/blocks.h"

/* dst: the blocks of x [n]; n a multiple of the type's block. Finite x only. */
void quantise(block_type type, const float *x, int64_t n, uint8_t *dst);
/* Bytes of n elements; n a multiple of the type's block. */
size_t quantise_bytes(block_type type, int64_t n);
#endif
