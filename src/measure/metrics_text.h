/* metrics_text.h - inside measure/metrics*: text as Python's str sees it (code points), and the classes of characters
 * that its methods and regular expressions go by. */
#ifndef MEASURE_METRICS_TEXT_H
#define MEASURE_METRICS_TEXT_H
#include "base/intern.h"
#include "pleat.h"
#include <stdint.h>

typedef struct codes { /* zeroed: empty */
    int32_t *code;     /* [n] */
    int n;
} codes;

/* The code points of n_bytes of UTF-8; a byte that belongs to no character becomes U+FFFD. false: no memory. */
bool codes_read(const char *bytes, size_t n_bytes, codes *out);
void codes_free(codes *c);

bool code_is_space(int32_t c); /* str.isspace: what str.split() splits at */
bool code_is_word(int32_t c);  /* \w */
bool code_is_digit(int32_t c); /* \d */
/* str.lower of a whole text: U+0130 becomes two characters, a capital sigma at a word's end the final form. */
bool codes_lower(const codes *in, codes *out);

/* The next stretch without white space from *at on: true, and [*from, *at). */
bool codes_next_word(const codes *c, int *at, int *from);
/* The number of code points [from, to) as one word; -1: no memory. */
int codes_intern(intern *words, const codes *c, int from, int to);

/* The metrics that have files of their own; as metrics_score. */
pleat_status metrics_rouge_l(const codes *answer, const codes *reference, double *score, pleat_error *error);
pleat_status metrics_edit(const char *answer, const char *reference, double *score, pleat_error *error);
#endif
