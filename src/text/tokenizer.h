/* tokenizer.h - text to ids and back, from a model file's own vocabulary. Byte-level BPE (pre-tokenizers smollm, gpt-2,
 * qwen2, llama-bpe) and SPM (llama, gemma). Ids equal llama.cpp's; no Unicode normalisation, ever. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H
#include "gguf/gguf.h"

typedef struct tokenizer tokenizer;

/* Tokens first..end-1 of a row of them. */
typedef struct token_span {
    int first, end;
} token_span;

/* PLEAT_EINPUT: an unknown tokenizer.ggml.model or .pre (named), bad merges, scores, types or special ids. The file must
 * outlive the tokenizer (token texts stay in the mapping). */
pleat_status tokenizer_open(const gguf *file, tokenizer **out, pleat_error *error);
void tokenizer_close(tokenizer *tok);
int tokenizer_n_vocab(const tokenizer *tok);

typedef enum tokenizer_mode {
    TOKENIZER_PLAIN,   /* special-token text stays text, nothing is added */
    TOKENIZER_SPECIAL, /* special-token text is parsed, BOS/EOS added as the model says */
    TOKENIZER_PARSE,   /* special-token text is parsed, nothing added (pieces of a chat format) */
} tokenizer_mode;
/* *ids malloc'ed (never NULL on success, even for 0 ids), the caller frees. Invalid UTF-8 goes byte by byte, as llama.cpp
 * has it. O(n log n). */
pleat_status tokenizer_encode(const tokenizer *tok, const char *text, size_t text_bytes, tokenizer_mode mode, int32_t **ids,
                              int *n_ids, pleat_error *error);
/* Bytes of one token as they stand in decoded text (may be part of a character; may hold 0). Control tokens give nothing
 * unless special. Owned by tok. id out of range gives nothing. */
const char *tokenizer_bytes(const tokenizer *tok, int32_t id, bool special, size_t *n_bytes);
int32_t tokenizer_bos(const tokenizer *tok); /* -1: none */
int32_t tokenizer_eos(const tokenizer *tok); /* -1: none */
bool tokenizer_adds_bos(const tokenizer *tok);
bool tokenizer_adds_eos(const tokenizer *tok);
/* EOS, end of turn, end of message: whatever ends an answer in this vocabulary. */
bool tokenizer_ends(const tokenizer *tok, int32_t id);
#endif
