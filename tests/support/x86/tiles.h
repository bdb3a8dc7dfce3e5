/* tiles.h - the product kernels of the level amx with their tile instructions in plain C, and single instructions in
 * both forms. */
#ifndef TESTS_TILES_H
#define TESTS_TILES_H
#include "cpu/kernels.h"

/* The table that amx has, on a machine with avx512vnni; NULL without. */
const cpu_kernels *tiles_emulated_level(void);

typedef struct tiles_trial { /* one product by registers of these shapes */
    int m, k, n;             /* rows of a; double words of its rows, and rows of b; double words of b's rows: 1 to 16 */
    size_t lda, ldb, ldc;    /* bytes from row to row */
    const void *a, *b;
    void *c; /* in and out */
} tiles_trial;

/* c += a x b, signed bytes by unsigned, in 32 bits. */
void tiles_trial_emulated(const tiles_trial *trial);
void tiles_trial_real(const tiles_trial *trial); /* only where the level amx is there */
/* Of this thread: whether the emulated registers are open, and products of tiles so far. */
bool tiles_emulated_open(void);
long tiles_emulated_products(void);
#endif
