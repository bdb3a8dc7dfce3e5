/* pleat.h - serve a large language model on a CPU with a compressed KV cache.
 *
 * Four nouns. A *model* is a GGUF file, mapped, checked and, unless it stays as it is, packed for this CPU; it never
 * changes. An *engine* owns the threads, the memory pool of KV pages and the scratch of a step. A *sequence* is one
 * growing text with its own compressed cache. A *method* says how that cache is compressed: format x policy x split
 * ("kivi-4+h2o-512"). Work is done by pleat_step(): it takes rows of several sequences at once and moves each of them
 * forward.
 *
 * Every function that can fail returns a pleat_status; on failure it fills *error with one human sentence and leaves
 * its out-parameters as they were. error may be NULL. Nothing here prints or exits. One engine is used by one thread at
 * a time; a model may be shared by any number of engines. */
#ifndef PLEAT_H
#define PLEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PLEAT_VERSION "0.1.0"

typedef enum pleat_status {
    PLEAT_OK = 0,
    PLEAT_EINPUT,  /* a file, spec, text or argument is wrong; the sentence names it */
    PLEAT_EIO,     /* the system refused to open, read or write something */
    PLEAT_EMEMORY, /* the system has no memory left */
    PLEAT_EFULL,   /* pool or context full: an answer, not a fault; nothing was changed */
} pleat_status;

typedef struct pleat_error {
    char text[512]; /* one sentence without a final newline */
} pleat_error;

typedef struct pleat_model pleat_model;
typedef struct pleat_engine pleat_engine;
typedef struct pleat_seq pleat_seq;
typedef struct pleat_method pleat_method;

/* ---- model ---- */

typedef struct pleat_model_info {
    const char *path, *architecture, *name; /* owned by the model */
    int n_layer, n_head, n_head_kv, head_dim, n_embd, n_vocab;
    int context_tokens;     /* the trained context */
    size_t file_bytes;      /* mapped */
    size_t packed_bytes;    /* weights in this process's own memory: repacked for this CPU, and vectors as floats */
    size_t mapped_bytes;    /* weights that are read from the mapped file: its pages */
    size_t f16_token_bytes; /* bytes of an uncompressed fp16 KV cache per token, all layers */
} pleat_model_info;

/* Opens and checks a GGUF file and packs its weights with n_threads threads (0: all cores).
 * PLEAT_EINPUT for a bad file (names field, offset and reason), PLEAT_EIO, PLEAT_EMEMORY. Free with pleat_model_close.
 */
pleat_status pleat_model_open(const char *path, int n_threads, pleat_model **model, pleat_error *error);
/* The same, but the weights stay in the mapped file, and each step packs what it multiplies with, a few rows at a time.
 * Results are those of pleat_model_open, bit for bit. pleat reads nothing ahead, and what is read are pages of the
 * file, shared among processes, which the system can take back; products are slower, those of a single token most. The
 * file must not be changed while the model is open. */
pleat_status pleat_model_open_mapped(const char *path, pleat_model **model, pleat_error *error);
void pleat_model_close(pleat_model *model);
pleat_model_info pleat_model_describe(const pleat_model *model);

/* ---- text ---- */

/* Token ids of text_bytes bytes of text; ids equal llama.cpp's. special: special-token text is parsed and BOS/EOS are
 * added as the model says; else text stays text and nothing is added. *ids is malloc'ed, the caller frees it. */
pleat_status pleat_tokenize(const pleat_model *model, const char *text, size_t text_bytes, bool special, int32_t **ids,
                            int *n_ids, pleat_error *error);
/* The bytes of one token (not ended by 0, may be part of a character); empty for control tokens unless special. */
const char *pleat_token_bytes(const pleat_model *model, int32_t id, bool special, size_t *n_bytes);
/* True for a token that ends an answer (EOS, end of turn). */
bool pleat_token_ends(const pleat_model *model, int32_t id);

/* ---- method ---- */

/* Parses a spec or preset ("kivi:bits=2,group=32+h2o", "streaming-512") and checks it against the model (NULL: only
 * the grammar). PLEAT_EINPUT with a sentence that names the part. Free with pleat_method_free. */
pleat_status pleat_method_parse(const char *spec, const pleat_model *model, pleat_method **method, pleat_error *error);
void pleat_method_free(pleat_method *method);
/* The canonical spec, owned by the method. */
const char *pleat_method_spec(const pleat_method *method);

/* ---- engine and sequences ---- */

typedef struct pleat_engine_options {
    int n_threads;       /* 0: all cores */
    size_t pool_bytes;   /* budget for KV pages; 0: half of the free memory */
    int max_step_tokens; /* rows of one step, a multiple of 64; 0: 512 */
    int max_sequences;   /* 0: 64 */
    size_t prefix_bytes; /* what may be held of earlier prompts for later ones that begin alike; 0: nothing */
} pleat_engine_options;

/* The model must outlive the engine. PLEAT_EINPUT, PLEAT_EMEMORY. */
pleat_status pleat_engine_open(const pleat_model *model, const pleat_engine_options *options, pleat_engine **engine,
                               pleat_error *error);
/* Every sequence must be closed before. */
void pleat_engine_close(pleat_engine *engine);
/* The kernel level in use: "portable", "avx2", "avx512vnni", ... */
const char *pleat_engine_level(const pleat_engine *engine);

/* An empty sequence whose cache is compressed by method (copied). */
pleat_status pleat_seq_open(pleat_engine *engine, const pleat_method *method, pleat_seq **seq, pleat_error *error);
/* A new sequence with src's tokens, whose cache is src's fp16 prompt taken over by another method: src must be inside
 * its prompt under prefill:exact (no PLEAT_PROMPT_END yet), and its method must have wanted what `method` wants.
 * PLEAT_EFULL when the pool cannot hold the copy. */
pleat_status pleat_seq_fork(pleat_engine *engine, const pleat_seq *src, const pleat_method *method, pleat_seq **seq,
                            pleat_error *error);
void pleat_seq_close(pleat_seq *seq);

/* How many tokens the sequence will generate at most, before its prompt ends (0: not known): RocketKV sizes its cache
 * by it, other methods do not care. A fork takes it over. PLEAT_EINPUT below 0. */
pleat_status pleat_seq_expect(pleat_seq *seq, int max_new_tokens, pleat_error *error);
/* Marks n tokens from position `first` on (a system prompt, a tool's schema), now or later in the text, as never to be
 * evicted. It has an effect only under a method with the modifier `pin`; a fork takes marks over. Pinned tokens count
 * in the method's budget, and stay even where they alone exceed it. PLEAT_EINPUT: no such positions; PLEAT_EMEMORY. */
pleat_status pleat_seq_pin(pleat_seq *seq, int first, int n, pleat_error *error);

typedef struct pleat_seq_stats {
    int n_tokens;                    /* tokens seen so far */
    size_t kv_bytes;                 /* pool pages held now */
    size_t kv_peak_bytes;            /* most ever held */
    int64_t kept_tokens_total;       /* live slots summed over all lanes */
    int64_t evicted, seals, reseals; /* slots dropped, pages sealed, pages sealed again by a rebuild */
    int n_lanes;
    const char *method; /* its spec, until the sequence is closed or moved */
} pleat_seq_stats;
pleat_seq_stats pleat_seq_describe(const pleat_seq *seq);

typedef enum pleat_phase {
    PLEAT_PROMPT,     /* tokens of a prompt, more will follow */
    PLEAT_PROMPT_END, /* tokens of a prompt, its last ones: the method's prompt-end event follows */
    PLEAT_DECODE,     /* one token: attends through the compressed cache; the method's step event follows */
} pleat_phase;

typedef enum pleat_logits { PLEAT_LOGITS_NONE, PLEAT_LOGITS_LAST, PLEAT_LOGITS_ALL } pleat_logits;

typedef struct pleat_item {
    pleat_seq *seq;
    const int32_t *tokens;
    int n_tokens; /* PLEAT_DECODE: 1 */
    pleat_phase phase;
    pleat_logits want;
    float *logits; /* [1 or n_tokens][n_vocab], caller's; NULL with PLEAT_LOGITS_NONE */
} pleat_item;

/* Moves every item's sequence forward by its tokens, all in one batch. A prompt may be cut anywhere at absolute
 * multiples of 64 tokens (pleat_seq_cut says where); a sequence's results do not depend on cuts, batch or threads.
 * PLEAT_EFULL: the pool lacks pages (the sentence says how many bytes) or a context would be overrun; PLEAT_EINPUT: a
 * token id out of range, too many rows, a cut in the wrong place. On any failure no sequence has changed. */
pleat_status pleat_step(pleat_engine *engine, const pleat_item *items, int n_items, pleat_error *error);
/* How many of n_tokens further prompt tokens the next step may take: up to the next allowed cut. */
int pleat_seq_cut(const pleat_engine *engine, const pleat_seq *seq, int n_tokens);
/* A whole prompt by steps: cuts it, runs it, ends it (end = false: leaves the prompt open for a fork). want and logits
 * as in pleat_item, for the prompt's tokens. */
pleat_status pleat_prefill(pleat_engine *engine, pleat_seq *seq, const int32_t *tokens, int n_tokens, bool end,
                           pleat_logits want, float *logits, pleat_error *error);
/* An empty sequence takes over what the engine still holds of a prompt that begins with the same tokens, under the same
 * method and salt (NULL: ""; one tenant's salt never meets another's), and from then on offers its own prompt to later
 * ones. What is pinned or expected must be said before. *n_reused tokens are in the cache afterwards; the caller goes
 * on with tokens + *n_reused, at least one. The results are those of a cold run, bit for bit. What can be reused under
 * which method: docs/prefix_cache.md.
 * PLEAT_EINPUT: not empty; PLEAT_EMEMORY: the sequence can only be closed. */
pleat_status pleat_seq_reuse(pleat_seq *seq, const int32_t *tokens, int n_tokens, const char *salt, int *n_reused,
                             pleat_error *error);

/* Moves the cache out of the pool, to memory (folder NULL) or to a file in a folder; the file has no name there and is
 * gone when the cache comes back or the process ends, whichever way. The sequence cannot take part in a step until it
 * is moved in again. On failure it stays where it is. Between moves it goes on bit for bit. PLEAT_EIO, PLEAT_EMEMORY;
 * moving in also PLEAT_EFULL. */
pleat_status pleat_seq_move_out(pleat_seq *seq, const char *folder, pleat_error *error);
pleat_status pleat_seq_move_in(pleat_seq *seq, pleat_error *error);
/* Writes the cache and its tokens to a file that a later process can go on from: written beside it and renamed, so that
 * path is whole or as it was. tokens [n_tokens] is what the sequence has seen, and behind it what it has yet to see (a
 * last token that was sampled and not stepped). PLEAT_EINPUT: fewer tokens than the sequence has seen, or it is moved
 * out; PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status pleat_seq_save(const pleat_seq *seq, const int32_t *tokens, int n_tokens, const char *path,
                            pleat_error *error);
/* A new sequence from such a file, under the method it was saved with; *tokens [*n_tokens] is malloc'ed. PLEAT_EINPUT:
 * damaged, or of another model or version; PLEAT_EFULL, PLEAT_EIO, PLEAT_EMEMORY. */
pleat_status pleat_seq_load(pleat_engine *engine, const char *path, pleat_seq **seq, int32_t **tokens, int *n_tokens,
                            pleat_error *error);
/* Room left: tokens until the model's context ends. With in-cache positions (streaming) decode never uses it up. */
int pleat_seq_room(const pleat_seq *seq);

/* ---- sampling ---- */

typedef struct pleat_sampling {
    float temperature;       /* 0: greedy, with every penalty off */
    int top_k;               /* 0: off */
    float top_p;             /* 1: off */
    float min_p;             /* 0: off */
    float repeat_penalty;    /* 1: off; over the last 64 tokens */
    float presence_penalty;  /* 0: off */
    float frequency_penalty; /* 0: off; as presence, but times how often */
    uint64_t seed;
} pleat_sampling;
pleat_sampling pleat_sampling_default(void); /* greedy */

/* Picks a token from logits [n_vocab] (changed in place by the penalties and filters). history: the tokens so far,
 * prompt and answer. Random numbers are keyed by (seed, position), so two methods see the same ones. PLEAT_EINPUT when
 * the logits hold a NaN. scratch is kept inside the engine. */
pleat_status pleat_sample(pleat_engine *engine, const pleat_sampling *sampling, float *logits, const int32_t *history,
                          int n_history, int32_t *token, pleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
