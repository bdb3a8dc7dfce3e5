/* throughput.h - the time of one engine step, predicted from a profile.
 *
 * A *profile* holds what single operators cost: everything but attention by the tokens of a step, attention by stage,
 * batch and context. It comes from rows: of published CSV files, of a study store, or made in memory. A made profile
 * never changes, so any number of threads may use it; predict_step_ms allocates nothing, takes some 0.1 us, and is
 * finite and above 0 for every step, also outside the profiled grid.
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
    PREDICT_LAYER,     /* once a layer, by the step's tokens: matrix products, norms, activation */
    PREDICT_ATTENTION, /* once a layer, by stage, batch, tokens and context: attention, its cache's writes */
} predict_part;

typedef struct predict_row { /* one profiled time */
    predict_part part;
    predict_stage stage; /* of PREDICT_ATTENTION, as batch and context */
    int batch;           /* sequences */
    int tokens;          /* PREDICT_ONCE, _LAYER: of the step. Prefill: new ones of each sequence. Decode: any */
    int context;         /* prefill: tokens each sequence has before. Decode: tokens it reads */
    double ms;           /* for the whole batch; one layer's, but for PREDICT_ONCE; at most 1e20 */
} predict_row;

typedef struct predict_rows {
    predict_row *row; /* [n], malloc'ed */
    int n, cap;
} predict_rows;

pleat_status predict_rows_add(predict_rows *rows, const predict_row *row, pleat_error *error);
/* Adds DIR/operators.csv and DIR/attention-METHOD.csv. PLEAT_EIO, PLEAT_EINPUT (names file, line, column, value). */
pleat_status predict_rows_load(const char *directory, const char *method, predict_rows *rows, pleat_error *error);
void predict_rows_free(predict_rows *rows);
/* The cache budget that the study gave a method of this name; 0: it does not evict, or is not known. */
int predict_study_budget(const char *method);

typedef struct predict_terms { /* what a stage's times are multiplied with; 0: 1 */
    double operators, attention;
} predict_terms;

typedef struct predict_profile_options {
    int n_layer; /* 0: 32 */
    int budget;  /* an evicting method's: decode reads min(context, budget); 0: all */
    predict_terms terms[PREDICT_STAGES];
} predict_profile_options;

typedef struct predict_profile predict_profile;

/* Rows of one point are averaged, their order has no meaning. There must be layer operators, and attention of both
 * stages. The caller keeps rows. options: NULL is all 0. PLEAT_EINPUT, PLEAT_EMEMORY. Free with
 * predict_profile_free. */
pleat_status predict_profile_make(const predict_rows *rows, const predict_profile_options *options,
                                  predict_profile **profile, pleat_error *error);
/* predict_rows_load and predict_profile_make in one. */
pleat_status predict_profile_load(const char *directory, const char *method, const predict_profile_options *options,
                                  predict_profile **profile, pleat_error *error);
void predict_profile_free(predict_profile *profile);
predict_profile_options predict_profile_options_of(const predict_profile *profile);
/* Changes them; not while another thread uses the profile. */
void predict_profile_tune(predict_profile *profile, const predict_profile_options *options);

/* ---- steps ---- */

typedef struct predict_chunk { /* sequences whose prompts go forward alike */
    int n_seq;
    int tokens;  /* new tokens of each */
    int context; /* tokens each has before */
} predict_chunk;

typedef struct predict_step {
    const predict_chunk *chunk; /* [n_chunk]; NULL with 0 */
    int n_chunk;
    int decode_batch;    /* sequences that get one token; 0: none */
    double decode_reads; /* mean over them of predict_reads() */
} predict_step;

/* What a decoding sequence reads that has context_tokens, the new one included. */
double predict_reads(const predict_profile *profile, double context_tokens);

/* What a step's time is made of, before and without predict_terms; all layers. */
typedef struct predict_parts {
    double operators_ms, attention_ms[PREDICT_STAGES];
    double decode_share; /* of the step's tokens */
} predict_parts;
predict_parts predict_step_parts(const predict_profile *profile, const predict_step *step);

/* The time of one step in ms: the parts by their terms; operators of a mixed step by its stages' shares of the tokens.
 * 0 for a step of no tokens. */
double predict_step_ms(const predict_profile *profile, const predict_step *step);

/* ---- throughput, as it is measured ---- */

enum { PREDICT_DECODE_TOKENS = 64 }; /* decode is measured over so many tokens after the prompt */

/* The mean parts of a step: prefill: all prompts in one; decode: PREDICT_DECODE_TOKENS steps in a growing context. */
predict_parts predict_rate_parts(const predict_profile *profile, predict_stage stage, int batch, int prompt_tokens);
/* Tokens per second of the whole batch: batch x prompt_tokens, or batch, over that step's time. */
double predict_rate(const predict_profile *profile, predict_stage stage, int batch, int prompt_tokens);
#endif
