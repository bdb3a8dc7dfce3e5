/* pleat.c - pleat's side of bench/peers/run: measures what it is told on its standard input, through the library's
 * public face.
 *
 *   pleat MODEL.gguf THREADS FOLDER
 *
 * A line is answered by one, {"seconds": ...} or {"error": ...}:
 *
 *   prefill METHOD BATCH PROMPT DECODE   the prompts, whose caches are then saved in FOLDER
 *   decode METHOD BATCH PROMPT DECODE    loads them, and times the tokens after them
 *   answer METHOD BATCH PROMPT DECODE    prompts and the tokens after them, in one; nothing is saved
 *   forget                               removes the saved caches
 *
 * Prompts of a batch follow one another in steps of 512 tokens, decode steps carry one token of every sequence and want
 * all their logits, as the peers do. A loaded cache is the saved one, bit for bit. */
#include "base/clock.h"
#include "base/status.h"
#include "pleat.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 512, MOST_BATCH = 64, MOST_METHODS = 16 };

typedef struct turn {
    pleat_engine *engine;
    pleat_model_info info;
    pleat_seq *seq[MOST_BATCH];
    float *logits[MOST_BATCH];
    int batch, prompt, decode;
    const char *folder;
    char method[MOST_METHODS][256]; /* those with saved caches; their place names the files */
    int n_methods;
} turn;

static const char *file_of(const turn *t, int method, int seq) {
    static char path[4096];
    snprintf(path, sizeof(path), "%s/%ld-%d-%d.kv", t->folder, (long)getpid(), method, seq);
    return path;
}

/* The place of a method, which it gets when it is new; -1: no room, and error says so. */
static int place_of(turn *t, const char *spec, pleat_error *error) {
    for (int m = 0; m < t->n_methods; m++)
        if (!strcmp(t->method[m], spec))
            return m;
    if (t->n_methods == MOST_METHODS) {
        err_set(error, PLEAT_EMEMORY, "there are %d methods already, which is the most; forget makes room",
                MOST_METHODS);
        return -1;
    }
    snprintf(t->method[t->n_methods], sizeof(t->method[0]), "%s", spec);
    return t->n_methods++;
}

static int32_t token_of(const turn *t, int seq, int position) {
    return (seq * 997 + position * 31) % (t->info.n_vocab - 1000) + 500;
}

/* NULL: no memory, and error says so. */
static int32_t *prompt_of(const turn *t, int seq, pleat_error *error) {
    int32_t *tokens = malloc((size_t)t->prompt * sizeof(*tokens));
    if (!tokens)
        err_set(error, PLEAT_EMEMORY, "no memory for a prompt of %d tokens", t->prompt);
    for (int i = 0; tokens && i < t->prompt; i++)
        tokens[i] = token_of(t, seq, i);
    return tokens;
}

static pleat_status save(turn *t, int place, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    for (int s = 0; s < t->batch && !status; s++) {
        int32_t *tokens = prompt_of(t, s, error);
        status = tokens ? pleat_seq_save(t->seq[s], tokens, t->prompt, file_of(t, place, s), error) : PLEAT_EMEMORY;
        free(tokens);
    }
    return status;
}

static pleat_status prompts(turn *t, const char *spec, const pleat_model *model, double *seconds, pleat_error *error) {
    pleat_method *method = NULL;
    pleat_status status = pleat_method_parse(spec, model, &method, error);
    double started = clock_seconds();
    for (int s = 0; s < t->batch && !status; s++) {
        int32_t *tokens = prompt_of(t, s, error);
        status = tokens ? pleat_seq_open(t->engine, method, &t->seq[s], error) : PLEAT_EMEMORY;
        if (!status)
            status =
                pleat_prefill(t->engine, t->seq[s], tokens, t->prompt, true, PLEAT_LOGITS_LAST, t->logits[s], error);
        free(tokens);
    }
    *seconds = clock_seconds() - started;
    pleat_method_free(method);
    return status;
}

static pleat_status prefill(turn *t, const char *spec, const pleat_model *model, double *seconds, pleat_error *error) {
    int place = place_of(t, spec, error);
    pleat_status status = place < 0 ? PLEAT_EMEMORY : prompts(t, spec, model, seconds, error);
    return status ? status : save(t, place, error);
}

static pleat_status load(turn *t, const char *spec, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    int place = place_of(t, spec, error);
    for (int s = 0; s < t->batch && !status; s++) {
        int32_t *tokens = NULL;
        int n_tokens = 0;
        status = place < 0 ? PLEAT_EMEMORY
                           : pleat_seq_load(t->engine, file_of(t, place, s), &t->seq[s], &tokens, &n_tokens, error);
        free(tokens);
    }
    return status;
}

static pleat_status steps(turn *t, double *seconds, pleat_error *error) {
    pleat_item item[MOST_BATCH];
    int32_t token[MOST_BATCH];
    pleat_status status = PLEAT_OK;
    double started = clock_seconds();
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
    *seconds = clock_seconds() - started;
    return status;
}

static pleat_status decode(turn *t, const char *spec, double *seconds, pleat_error *error) {
    pleat_status status = load(t, spec, error);
    return status ? status : steps(t, seconds, error);
}

static pleat_status whole(turn *t, const char *spec, const pleat_model *model, double *seconds, pleat_error *error) {
    double decoding = 0;
    pleat_status status = prompts(t, spec, model, seconds, error);
    status = status ? status : steps(t, &decoding, error);
    *seconds += decoding;
    return status;
}

static void forget(turn *t) {
    for (int m = 0; m < t->n_methods; m++)
        for (int s = 0; s < MOST_BATCH; s++)
            unlink(file_of(t, m, s));
    t->n_methods = 0;
}

/* One line of standard input; false at its end. */
static bool answer(turn *t, const pleat_model *model) {
    char what[16], spec[256];
    double seconds = 0;
    pleat_error error = {"no such point"};
    pleat_status status = PLEAT_EINPUT;
    if (scanf("%15s", what) != 1)
        return false;
    if (!strcmp(what, "forget")) {
        forget(t);
        status = PLEAT_OK;
    } else if (scanf("%255s %d %d %d", spec, &t->batch, &t->prompt, &t->decode) == 4 && t->batch >= 1 &&
               t->batch <= MOST_BATCH && t->prompt > 0 && t->decode >= 0) {
        status = !strcmp(what, "prefill")  ? prefill(t, spec, model, &seconds, &error)
                 : !strcmp(what, "answer") ? whole(t, spec, model, &seconds, &error)
                                           : decode(t, spec, &seconds, &error);
    }
    for (char *quote = error.text; (quote = strpbrk(quote, "\"\\")) != NULL;)
        *quote = '\''; /* a JSON string */
    if (status)
        printf("{\"error\": \"%s\"}\n", error.text);
    else
        printf("{\"seconds\": %.6f}\n", seconds);
    for (int s = 0; s < MOST_BATCH; s++) {
        if (t->seq[s])
            pleat_seq_close(t->seq[s]);
        t->seq[s] = NULL;
    }
    return true;
}

int main(int argc, char **argv) {
    pleat_error error;
    pleat_model *model;
    static turn t;
    if (argc != 4)
        return 2;
    t.folder = argv[3];
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
    while (answer(&t, model))
        ;
    forget(&t);
    for (int s = 0; s < MOST_BATCH; s++)
        free(t.logits[s]);
    pleat_engine_close(t.engine);
    pleat_model_close(model);
    return 0;
}
