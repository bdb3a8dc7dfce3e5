/* hadamard.h - the orthonormal turn of a head's elements that rot and lm store rows in. */
#ifndef KV_HADAMARD_H
#define KV_HADAMARD_H
#include <stdbool.h>

/* x [n_rows][d] := H D x, or, back, D H x; the two undo each other. d is a multiple of 32, at most 256. D: fixed signs,
 * or, without signs, the identity. */
void hadamard_turn(int d, bool signs, bool back, float *x, int n_rows);
#endif
