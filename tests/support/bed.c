/* bed.c - see bed.h. */
#include "bed.h"
#include "env.h"
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

bed bed_open(tiny_options o, pleat_engine_options engine_options) {
    bed b = {.o = o, .path = env_temp("engine.gguf")};
    pleat_error error = {""};
    tiny_write(b.path, &o);
    if (pleat_model_open(b.path, 1, &b.model, &error) || pleat_engine_open(b.model, &engine_options, &b.engine, &error))
        fail_msg("%s", error.text);
    b.n_vocab = pleat_model_describe(b.model).n_vocab;
    return b;
}

void bed_close(bed *b) {
    pleat_engine_close(b->engine);
    pleat_model_close(b->model);
    unlink(b->path);
}

pleat_seq *bed_seq(const bed *b, const char *spec) {
    pleat_error error = {""};
    pleat_method *method;
    pleat_seq *seq;
    if (pleat_method_parse(spec, b->model, &method, &error) || pleat_seq_open(b->engine, method, &seq, &error))
        fail_msg("%s", error.text);
    pleat_method_free(method);
    return seq;
}

int32_t bed_token(const bed *b, int i) {
    return (int32_t)(((unsigned)i * 7919u + 13u * (unsigned)i * (unsigned)i + 5u) % (unsigned)(b->n_vocab - 8));
}

int32_t *bed_tokens(const bed *b, int n) {
    int32_t *ids = malloc((size_t)n * sizeof(*ids));
    for (int i = 0; i < n; i++)
        ids[i] = bed_token(b, i);
    return ids;
}

void bed_prefill(const bed *b, pleat_seq *seq, const int32_t *ids, int n, float *logits) {
    pleat_error error = {""};
    if (pleat_prefill(b->engine, seq, ids, n, true, logits ? PLEAT_LOGITS_LAST : PLEAT_LOGITS_NONE, logits, &error))
        fail_msg("%s", error.text);
}

void bed_decode(const bed *b, pleat_seq *seq, int32_t token, float *logits) {
    pleat_error error = {""};
    pleat_item item = {seq, &token, 1, PLEAT_DECODE, logits ? PLEAT_LOGITS_LAST : PLEAT_LOGITS_NONE, logits};
    if (pleat_step(b->engine, &item, 1, &error))
        fail_msg("%s", error.text);
}
