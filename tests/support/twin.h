/* twin.h - tests: the engine of a desk, asked without a server: what the desk's answers must be. */
#ifndef TESTS_TWIN_H
#define TESTS_TWIN_H
#include "base/text.h"
#include "support/bed.h"

typedef struct twin_ask {
    const char *spec;
    const int32_t *ids; /* [n] the prompt */
    int n;
    const token_span *pin; /* [n_pins] */
    int n_pins, n_answer;  /* tokens of the answer */
    pleat_sampling sampling;
} twin_ask;

/* The model and engine of desk_open, with nothing kept from earlier prompts. */
bed twin_open(void);
/* The answer's tokens to ids [n_answer], and its text to *said (the caller frees it), unless NULL. */
void twin_answer(const bed *b, const twin_ask *q, int32_t *ids, text *said);
#endif
