/* small.h - tests: parts of methods.def with budgets that act on short prompts, so that a new line there is tested
 * without a line here. */
#ifndef TESTS_SMALL_H
#define TESTS_SMALL_H
#include "kv/method.h"

/* A policy's spec with its default parameters, but whole-number ones of 128 and more divided by `parts`, no layer
 * skipped, and cuts in decode every 8 steps where that can be said: "tova:keep=128,protect=1". Where that is refused
 * the defaults stay. */
void small_part(const char *name, const kv_param *params, int parts, char *out, size_t cap);
#endif
