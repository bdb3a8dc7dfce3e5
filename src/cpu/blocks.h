/* blocks.h - the weight block types of a GGUF file: sizes, and the exact float value of every element. */
#ifndef CPU_BLOCKS_H
#define CPU_BLOCKS_H
#include "base/f16.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The file's own numbers. */
typedef enum block_type {
    BLOCK_F32 = 0,
    BLOCK_F16 = 1,
    BLOCK_Q4_0 = 2,
    BLOCK_Q4_1 = 3,
    BLOCK_Q5_0 = 6,
    BLOCK_Q5_1 = 7,
    BLOCK_Q8_0 = 8,
    BLOCK_Q4_K = 12,
    BLOCK_Q5_K = 13,
    BLOCK_Q6_K = 14,
    BLOCK_BF16 = 30,
} block_type;

typedef struct block_traits {
    const char *name; /* "Q4_K"; NULL: a type that pleat does not read */
    int elements;     /* of a block */
    int bytes;        /* of a block */
} block_traits;
/* Never NULL; .name is NULL for unknown numbers. */
const block_traits *block_traits_of(uint32_t type);

/* x [n] = the float values of n elements (a multiple of the block's elements) stored at src (any alignment). */
void block_open(block_type type, const uint8_t *src, int64_t n, float *x);

/* The affine form of one group of 16 elements: value[i] = scale * code[i] + minimum, code 0..255, exact in float up to
 * the one rounding of each product. Only for quantised types; group counts 16-element groups from the row's start. What
 * pack.c makes is held against it. */
void block_affine16(block_type type, const uint8_t *row, int64_t group, uint8_t code[16], float *scale, float *minimum);
#endif
