/* pleat.c - pleat's side of bench/peers/run: measures what it is told on its standard input, through the library's
 * public face.
 *
 *   pleat MODEL.gguf THREADS
 *
 * A line "METHOD BATCH PROMPT DECODE" is answered by {"prefill_s": ..., "decode_s": ...} or {"error": ...}. Prompts of
 * a batch follow one another in steps of 512 tokens, decode steps carry one token of every sequence and want all their
 * logits, as the peers do. */
#include "base/clock.h"
#include "pleat.h"
#include <stdio.h>
#include <stdlib.h>

enum { PIECE = 512, MOST_BATCH = 64 };

typedef struct turn {
    pleat_engine *engine;
    pleat_model_info info;
    pleat_seq *seq[MOST_BATCH];
    float *logits[MOST_BATCH];
    int batch, prompt, decode;
} turn;

static int32_t token_of(const turn *t, int seq, int position) {
    return (seq * 997 + position * 31) % (t->info.n_vocab - 1000) + 500;
}

static pleat_status prefill(turn *t, const pleat_method *method, pleat_error *error) {
    int32_t *tokens = malloc((size_t)t->prompt * sizeof(*tokens));
    pleat_status status = tokens ? PLEAT_OK : PLEAT_EMEMORY;
    for (int s = 0; s < t->batch && !status; s++) {
        for (int i = 0; i < t->prompt; i++)
            tokens[i] = token_of(t, s, i);
        status = pleat_seq_open(t->engine, method, &t->seq[s], error);
        if (!status)
            status =
                pleat_prefill(t->engine, t->seq[s], tokens, t->prompt, true, PLEAT_LOGITS_LAST, t->logits[s], error);
    }
    free(tokens);
    return status;
}

static pleat_status decode(turn *t, pleat_error *error) {
    pleat_item item[MOST_BATCH];
    int32_t token[MOST_BATCH];
    pleat_status status = PLEAT_OK;
    for (int step = 0; step < t->decode && !status; step++) {
        for (int s = 0; s < t->batch; s++) {
            token[s] = token_of(t, s, t->prompt + step);
            item[s] = (pleat_item){.seq = t->seq[s],
                                   .tokens = &token[s],
                                   .n_tokens = 1,
                                   .phase = PLEAT_DECODE,
                                   .want = PLEAT_LOGITS_LAST,
                                   .logits = t->logits[s]};
        }
        status = pleat_step(t->engine, item, t->batch, error);
    }
    return status;
}

static void measure(turn *t, const pleat_model *model, const char *spec) {
    pleat_error error = {""};
    pleat_method *method = NULL;
    pleat_status status = pleat_method_parse(spec, model, &method, &error);
    double started = clock_seconds();
    status = status ? status : prefill(t, method, &error);
    double prefilled = clock_seconds();
    status = status ? status : decode(t, &error);
    double ended = clock_seconds();
    if (status)
        printf("{\"error\": \"%s\"}\n", error.text);
    else
        printf("{\"prefill_s\": %.6f, \"decode_s\": %.6f}\n", prefilled - started, ended - prefilled);
    for (int s = 0; s < t->batch; s++) {
        pleat_seq_close(t->seq[s]);
        t->seq[s] = NULL;
    }
    pleat_method_free(method);
}

int main(int argc, char **argv) {
    pleat_error error;
    pleat_model *model;
    turn t = {.batch = 0};
    if (argc != 3)
        return 2;
    pleat_engine_options options = {.n_threads = atoi(argv[2]), .max_step_tokens = PIECE, .max_sequences = MOST_BATCH};
    if (pleat_model_open(argv[1], options.n_threads, &model, &error) ||
        pleat_engine_open(model, &options, &t.engine, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    t.info = pleat_model_describe(model);
    for (int s = 0; s < MOST_BATCH; s++)
        t.logits[s] = malloc((size_t)t.info.n_vocab * sizeof(float));
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("{\"ready\": true}\n");
    char spec[256];
    while (scanf("%255s %d %d %d", spec, &t.batch, &t.prompt, &t.decode) == 4)
        if (t.batch >= 1 && t.batch <= MOST_BATCH && t.prompt > 0 && t.decode >= 0)
            measure(&t, model, spec);
        else
            printf("{\"error\": \"no such point\"}\n");
    for (int s = 0; s < MOST_BATCH; s++)
        free(t.logits[s]);
    pleat_engine_close(t.engine);
    pleat_model_close(model);
    return 0;
}
