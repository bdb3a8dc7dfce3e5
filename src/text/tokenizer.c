/* tokenizer.c - text to ids and back: puts vocabulary, special tokens and the two kinds of merging together.
 *
 * Encoding: special tokens are cut out first (user-defined ones always, control ones only when asked for), the text
 * between goes to byte-level BPE or SPM. Under SPM a space is put in front of a text that begins the input or follows a
 * special token, where the file wants that. The result equals llama.cpp's ids; what differs by intent stands in bpe.c,
 * spm.c, split.c and vocab.c. A tokenizer never changes after it was opened: any number of threads may use one. */
#include "text/tokenizer.h"
#include "base/status.h"
#include "text/vocab.h"
#include <stdlib.h>

/* Ids are counted in an int, and SPM writes three bytes for a space. */
enum { MAX_TEXT_BYTES = INT32_MAX / 8 };

struct tokenizer {
    vocab vocab;
    special_index *specials;
    split *split; /* byte-level BPE only */
    bpe *bpe;     /* byte-level BPE only */
};

/* A file that is silent on BOS gets the pre-tokenizer's default, which is known only when that was read. */
static pleat_status open_bpe(const gguf *file, tokenizer *tok, pleat_error *error) {
    pleat_status status = split_open(file, &tok->split, error);
    if (status)
        return status;
    bool add_bos = false, found = false;
    status = gguf_get_bool(file, "tokenizer.ggml.add_bos_token", &add_bos, &found, error);
    if (status)
        return status;
    if (!found && split_adds_bos(tok->split)) {
        if (tok->vocab.bos < 0)
            return gguf_refuse(file, "tokenizer.ggml.bos_token_id", error,
                               "this pre-tokenizer adds BOS, but there is no tokenizer.ggml.bos_token_id");
        tok->vocab.add_bos = true;
    }
    return bpe_open(file, &tok->vocab, &tok->bpe, error);
}

pleat_status tokenizer_open(const gguf *file, tokenizer **out, pleat_error *error) {
    tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok)
        return err_set(error, PLEAT_EMEMORY, "no memory for the tokenizer of %s", gguf_path(file));
    pleat_status status = vocab_open(file, &tok->vocab, error);
    if (!status)
        status = special_open(&tok->vocab, &tok->specials, error);
    if (!status && !tok->vocab.spm)
        status = open_bpe(file, tok, error);
    if (status) {
        tokenizer_close(tok);
        return status;
    }
    *out = tok;
    return PLEAT_OK;
}

void tokenizer_close(tokenizer *tok) {
    if (!tok)
        return;
    bpe_close(tok->bpe);
    split_close(tok->split);
    special_close(tok->specials);
    vocab_close(&tok->vocab);
    free(tok);
}

static bool encode_pieces(const tokenizer *tok, const char *text, const special_piece *pieces, int n_pieces,
                          id_list *out) {
    merge scratch = {0};
    bool ok = true, after_special = true;
    for (int i = 0; i < n_pieces && ok; i++) {
        const special_piece *p = &pieces[i];
        if (p->id >= 0)
            id_list_push(out, p->id);
        else if (tok->vocab.spm)
            ok = spm_encode(&tok->vocab, text + p->at, p->n, tok->vocab.add_space_prefix && after_special, &scratch,
                            out);
        else
            ok = bpe_encode(tok->bpe, tok->split, text + p->at, p->n, &scratch, out);
        after_special = p->id >= 0;
    }
    merge_free(&scratch);
    return ok && !out->failed;
}

pleat_status tokenizer_encode(const tokenizer *tok, const char *text, size_t text_bytes, tokenizer_mode mode,
                              int32_t **ids, int *n_ids, pleat_error *error) {
    if (text_bytes > MAX_TEXT_BYTES)
        return err_set(error, PLEAT_EINPUT, "a text of %zu bytes cannot be tokenised at once; at most %d can",
                       text_bytes, MAX_TEXT_BYTES);
    id_list list = {.ids = malloc(16 * sizeof *list.ids), .cap = 16};
    special_piece *pieces = NULL;
    int n_pieces = 0;
    bool ok = list.ids != NULL;
    if (ok && mode == TOKENIZER_SPECIAL && tok->vocab.add_bos)
        id_list_push(&list, tok->vocab.bos);
    if (ok && text_bytes > 0) {
        ok = special_cut(tok->specials, text, (int)text_bytes, mode != TOKENIZER_PLAIN, &pieces, &n_pieces) &&
             encode_pieces(tok, text, pieces, n_pieces, &list);
    }
    if (ok && mode == TOKENIZER_SPECIAL && tok->vocab.add_eos)
        id_list_push(&list, tok->vocab.eos);
    free(pieces);
    if (!ok || list.failed) {
        free(list.ids);
        return err_set(error, PLEAT_EMEMORY, "no memory to tokenise a text of %zu bytes", text_bytes);
    }
    *ids = list.ids;
    *n_ids = list.n;
    return PLEAT_OK;
}

const char *tokenizer_bytes(const tokenizer *tok, int32_t id, bool special, size_t *n_bytes) {
    const vocab *v = &tok->vocab;
    *n_bytes = 0;
    if (id < 0 || id >= v->n || ((v->flags[id] & VOCAB_SILENT) && !special))
        return v->bytes;
    *n_bytes = v->start[id + 1] - v->start[id];
    return v->bytes + v->start[id];
}

int tokenizer_n_vocab(const tokenizer *tok) {
    return tok->vocab.n;
}

int32_t tokenizer_bos(const tokenizer *tok) {
    return tok->vocab.bos;
}

int32_t tokenizer_eos(const tokenizer *tok) {
    return tok->vocab.eos;
}

bool tokenizer_adds_bos(const tokenizer *tok) {
    return tok->vocab.add_bos;
}

bool tokenizer_adds_eos(const tokenizer *tok) {
    return tok->vocab.add_eos;
}

bool tokenizer_ends(const tokenizer *tok, int32_t id) {
    return id >= 0 && id < tok->vocab.n && (tok->vocab.flags[id] & VOCAB_ENDS);
}
