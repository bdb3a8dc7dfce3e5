/* trail.c - see trail.h. */
#include "trail.h"
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

trail trail_new(const bed *b, int most) {
    return (trail){
        .logits = malloc((size_t)most * (size_t)b->n_vocab * sizeof(float)), .n_vocab = b->n_vocab, .most = most};
}

void trail_free(trail *t) {
    free(t->logits);
    *t = (trail){0};
}

float *trail_next(trail *t) {
    assert(t->n < t->most);
    return t->logits + (size_t)t->n++ * (size_t)t->n_vocab;
}

void trail_compare(const trail *a, const trail *b, const char *what) {
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++)
        if (memcmp(a->logits + (size_t)i * (size_t)a->n_vocab, b->logits + (size_t)i * (size_t)a->n_vocab,
                   (size_t)a->n_vocab * sizeof(float)))
            fail_msg("%s: step %d of %d differs in its bits", what, i, a->n);
}
