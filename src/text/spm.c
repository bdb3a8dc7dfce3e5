/* spm.c - SentencePiece vocabularies (Llama, Gemma): characters joined by the score of the token they make.
 *
 * Kudo and Richardson, "SentencePiece" (EMNLP 2018), the BPE kind, as llama.cpp runs it: spaces become U+2581, one is
 * put in front where the file says so; the text is cut into characters by their lead bytes alone (so broken UTF-8 gives
 * odd but harmless symbols); of all neighbours whose joined text is a token the one with the highest score joins first.
 * A character that ends as no token is spelled in byte tokens <0xXX>.
 *
 * Difference to llama.cpp: a merge never makes a control or unknown token, whatever the vocabulary holds. */
#include "text/vocab.h"
#include <stdlib.h>
#include <string.h>

static const char SPACE[] = "\xE2\x96\x81"; /* U+2581 */

typedef struct spm_text {
    const vocab *v;
    const char *text;
} spm_text;

static bool join(const void *context, const merge_symbol *left, const merge_symbol *right, double *key, int32_t *id) {
    const spm_text *s = context;
    const size_t n = (size_t)left->n + (size_t)right->n;
    if (n > s->v->max_text_bytes)
        return false;
    *id = vocab_find_ordinary(s->v, s->text + left->at, n);
    if (*id < 0)
        return false;
    *key = -(double)s->v->score[*id];
    return true;
}

/* text with U+2581 for spaces, malloc'ed; NULL: no memory. */
static char *escape(const char *text, int n, bool space_prefix, int *n_out) {
    size_t spaces = space_prefix ? 1 : 0;
    for (int i = 0; i < n; i++)
        spaces += text[i] == ' ';
    const size_t bytes = (size_t)n + (space_prefix ? 1 : 0) + 2 * spaces;
    char *out = bytes > INT32_MAX ? NULL : malloc(bytes + 1);
    if (!out)
        return NULL;
    size_t at = 0;
    if (space_prefix) {
        memcpy(out, SPACE, 3);
        at = 3;
    }
    for (int i = 0; i < n; i++) {
        if (text[i] == ' ') {
            memcpy(out + at, SPACE, 3);
            at += 3;
        } else {
            out[at++] = text[i];
        }
    }
    *n_out = (int)at;
    return out;
}

static void emit(const vocab *v, const char *text, const merge_symbol *symbol, id_list *out) {
    const int32_t id = symbol->id >= 0 ? symbol->id : vocab_find_ordinary(v, text + symbol->at, (size_t)symbol->n);
    if (id >= 0) {
        id_list_push(out, id);
        return;
    }
    for (int i = 0; i < symbol->n; i++)
        id_list_push(out, v->byte_id[(uint8_t)text[symbol->at + i]]);
}

bool spm_encode(const vocab *v, const char *text, int n, bool space_prefix, merge *scratch, id_list *out) {
    static const uint8_t bytes_by_lead[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4};
    int n_escaped;
    char *escaped = escape(text, n, space_prefix, &n_escaped);
    if (!escaped)
        return false;
    bool ok = true;
    scratch->n = 0;
    for (int at = 0; at < n_escaped && ok;) {
        const int whole = bytes_by_lead[(uint8_t)escaped[at] >> 4];
        const int have = whole < n_escaped - at ? whole : n_escaped - at;
        ok = merge_add(scratch, at, have, -1);
        at += have;
    }
    const spm_text context = {.v = v, .text = escaped};
    ok = ok && merge_run(scratch, join, &context);
    for (int i = 0; ok && i >= 0 && i < scratch->n; i = scratch->symbol[i].next)
        emit(v, escaped, &scratch->symbol[i], out);
    free(escaped);
    return ok && !out->failed;
}
