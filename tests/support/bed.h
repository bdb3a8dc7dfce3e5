/* bed.h - a tiny model with an engine, and sequences on it; a failure fails the test. */
#ifndef TESTS_BED_H
#define TESTS_BED_H
#include "engine/engine.h"
#include "tiny_model.h"

typedef struct bed { /* a tiny model with an engine */
    tiny_options o;
    pleat_model *model;
    pleat_engine *engine;
    const char *path;
    int n_vocab;
} bed;

bed bed_open(tiny_options o, pleat_engine_options engine_options);
void bed_close(bed *b);
pleat_seq *bed_seq(const bed *b, const char *spec);
int32_t bed_token(const bed *b, int i);
int32_t *bed_tokens(const bed *b, int n); /* the caller frees */
void bed_prefill(const bed *b, pleat_seq *seq, const int32_t *ids, int n, float *logits);
void bed_decode(const bed *b, pleat_seq *seq, int32_t token, float *logits);
#endif
