/* generate.h - from ended prompts to answers: the decode loop of a static batch. */
#ifndef ENGINE_GENERATE_H
#define ENGINE_GENERATE_H
#include "base/text.h"
#include "pleat.h"

typedef struct generate_stream {
    /* in */
    pleat_seq *seq;   /* its prompt has ended */
    float *logits;    /* [n_vocab] of the prompt's last token; scratch from then on */
    int32_t *history; /* [n_history] tokens so far, malloc'ed or NULL: penalties and sampling positions; the answer is
                         appended */
    int n_history, cap_history;
    /* out */
    int n_ids;          /* tokens of the answer, without one that ended it; the last n_ids of history */
    text answer;        /* decoded, repaired to valid UTF-8; the caller frees it */
    const char *finish; /* "stop": a token that ends an answer; "length": max_tokens or the context */
    int32_t
        pending; /* the last token when it is not in the cache yet ("length"), else -1: a next turn begins with it */
    double decode_ms; /* from the first step to this stream's end */
    int n_steps;      /* decode steps this stream took part in */
} generate_stream;

typedef struct generate_options {
    int max_tokens; /* of an answer, at least 0 */
    pleat_sampling sampling;
    bool ignore_end; /* goes on after a token that ends an answer */
} generate_options;

/* Whole characters of stream `index` as they come, none (n_bytes 0) after a token that completes none; NULL: nobody
 * listens. false stops all streams ("length"). */
typedef bool (*generate_sink)(void *context, int index, const char *bytes, size_t n_bytes);

/* Decodes all streams to their ends, those still running as one batch. The caller frees history and answer, also after
 * a failure. PLEAT_EFULL (the pool), PLEAT_EMEMORY, PLEAT_EINPUT (sampling). */
pleat_status generate_run(pleat_engine *engine, generate_stream *streams, int n_streams,
                          const generate_options *options, generate_sink sink, void *context, pleat_error *error);
#endif
