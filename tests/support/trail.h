/* trail.h - tests: the logits that a sequence gave along its way, to be compared in their bits. */
#ifndef TESTS_TRAIL_H
#define TESTS_TRAIL_H
#include "bed.h"

typedef struct trail {
    float *logits; /* [most][n_vocab] */
    int n_vocab, n, most;
} trail;
trail trail_new(const bed *b, int most);
void trail_free(trail *t);
float *trail_next(trail *t); /* room for the next logits */
/* The test fails when they differ. */
void trail_compare(const trail *a, const trail *b, const char *what);
#endif
