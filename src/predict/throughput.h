/* throughput.h - the time of one engine step, predicted from a profile.
 *
 * A *profile* holds what single operators cost: everything but attention by the tokens of a step, attention by stage,
 * batch and context. It comes from rows: of published CSV files, of a study store, or made in memory. After
 * predict_profile_make a profile never changes, so any number of threads may use it; predict_step_ms allocates nothing,
 * takes some 50 ns, and is finite and above 0 for every step, also outside the profiled grid.
 *
 * Two words on context. A decoding sequence *has* its prompt and what it generated, the token of this step included; it
 * *reads* predict_reads() of them: all, or under an evicting method at most its budget. */
#ifndef PREDICT_THROUGHPUT_H
#define PREDICT_THROUGHPUT_H
#include "pleat.h"

typedef enum predict_stage { PREDICT_PREFILL, PREDICT_DECODE } predict_stage;
enum { PREDICT_STAGES = 2 };

/* ---- profiles ---- */

typedef enum predict_part {
    PREDICT_ONCE,      /* once a step, by its tokens: embedding */
    PREDICT_LAYER,     /* once a layer, by its tokens: matrix products, norms, activation */
    PREDICT_ATTENTION, /* once a layer, by stage, batch, tokens and context: attention, its cache's writes */
} predict_part;

typedef struct predict_row { /* one profiled time */
    predict_part part;
    predict_stage stage; /* of PREDICT_ATTENTION, as what follows */
    int batch;           /* sequences */
    int tokens;          /* PREDICT_ONCE, _LAYER: of the step. Prefill: new ones of each sequence. Decode: not read */
    int context;         /* prefill: tokens cached before. Decode: tokens read */
    double ms;
} predict_row;

typedef struct predict_rows {
    predict_row *row; /* malloc'ed */
    int n, cap;
} predict_rows;

pleat_status predict_rows_add(predict_rows *rows, const predict_row *row, pleat_error *error);
/* Reads DIR/operators.csv and DIR/attention-METHOD.csv. PLEAT_EIO, PLEAT_EINPUT (names file, line, field, value). */
pleat_status predict_rows_load(const char *directory, const char *method, predict_rows *rows, pleat_error *error);
void predict_rows_free(predict_rows *rows);

typedef struct predict_profile predict_profile;

typedef struct predict_profile_options {
    int n_layer;                   /* 0: 32 */
    int budget;                    /* an evicting method's: decode reads min(context, budget); 0: all */
    double factor[PREDICT_STAGES]; /* times predicted by a stage's steps are multiplied with it; 0: 1 */
} predict_profile_options;

/* Rows of one point are averaged; their order has no meaning. The caller keeps rows. Operators and attention of at
 * least one stage must be there; what a stage lacks is taken from the other's rows as work per key. PLEAT_EINPUT,
 * PLEAT_EMEMORY. options may be NULL. Free with predict_profile_free. */
pleat_status predict_profile_make(const predict_rows *rows, const predict_profile_options *options,
                                  predict_profile **profile, pleat_error *error);
/* Both at once, for a directory of published files. */
pleat_status predict_profile_load(const char *directory, const char *method, const predict_profile_options *options,
                                  predict_profile **profile, pleat_error *error);
void predict_profile_free(predict_profile *profile);

/* ---- steps ---- */

typedef struct predict_chunk { /* sequences whose prompts go forward alike */
    int n_seq;
    int tokens;  /* new tokens of each */
    int context; /* tokens each has before */
} predict_chunk;

typedef struct predict_step {
    const predict_chunk *chunk; /* [n_chunk], NULL with 0 */
    int n_chunk;
    int decode_batch;    /* sequences that get one token; 0: none */
    double decode_reads; /* mean over them of predict_reads() */
} predict_step;

/* What a decoding sequence reads that has context_tokens, the new one included. */
double predict_reads(const predict_profile *profile, double context_tokens);
/* The time of one step in ms; 0 for a step of no tokens. */
double predict_step_ms(const predict_profile *profile, const predict_step *step);

/* ---- throughput, as it is measured ---- */

enum { PREDICT_DECODE_TOKENS = 64 }; /* decode is measured over so many tokens after the prompt */

/* Tokens per second of the whole batch: prefill: batch x prompt_tokens over the time of the prompts' steps; decode: over
 * PREDICT_DECODE_TOKENS steps in a growing context. */
double predict_rate(const predict_profile *profile, predict_stage stage, int batch, int prompt_tokens);
#endif
