/* bpe.c - byte-level BPE (GPT-2, Llama 3, Qwen2, SmolLM): bytes joined in the order of the file's list of merges.
 *
 * Sennrich et al. 2016 on bytes (Radford et al. 2019). A merge is two token texts; its rank is its place in the list.
 * Every half and every result is looked up once when the file is opened, so that encoding works on ids: symbols start
 * as the token of one byte and two of them join when the pair is in a hash table. Of a merge that stands there twice
 * the first counts.
 *
 * A byte for which the vocabulary has no token joins nothing and is left out of the ids, as llama.cpp does. A merge
 * never makes a control or unknown token: such a merge is passed over. */
#include "text/vocab.h"
#include "base/status.h"
#include <stdlib.h>
#include <string.h>

typedef struct pair {
    int32_t left, right; /* left -1: a free slot */
    int32_t rank, id;
} pair;

struct bpe {
    const vocab *v;
    pair *slot; /* [mask + 1] linear probing */
    uint32_t mask;
};

static pair *find(const bpe *b, int32_t left, int32_t right) {
    const uint64_t mixed = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    uint32_t i = (uint32_t)(mixed >> 32) & b->mask;
    while (b->slot[i].left >= 0 && (b->slot[i].left != left || b->slot[i].right != right))
        i = (i + 1) & b->mask;
    return &b->slot[i];
}

/* The three ids of one merge; a sentence when one of them is no token. */
static pleat_status read_merge(const gguf *file, const vocab *v, gguf_string s, int64_t index, char *joined,
                               int32_t ids[3], pleat_error *error) {
    char shown[44];
    const char *space = s.n > 1 ? memchr(s.bytes + 1, ' ', s.n - 1) : NULL;
    if (!space || space + 1 == s.bytes + s.n)
        return gguf_refuse(file, "tokenizer.ggml.merges", error,
                           "tokenizer.ggml.merges[%lld] = '%s' is not two texts with a space between", (long long)index,
                           vocab_shown(s, shown));
    const size_t n_left = (size_t)(space - s.bytes), n_right = s.n - n_left - 1;
    ids[0] = vocab_find(v, s.bytes, n_left);
    ids[1] = vocab_find(v, space + 1, n_right);
    ids[2] = -1;
    if (n_left + n_right <= v->max_text_bytes) {
        memcpy(joined, s.bytes, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        ids[2] = vocab_find(v, joined, n_left + n_right);
    }
    const char *what = ids[0] < 0   ? "its left half"
                       : ids[1] < 0 ? "its right half"
                       : ids[2] < 0 ? "what it makes"
                                    : NULL;
    if (what)
        return gguf_refuse(file, "tokenizer.ggml.merges", error,
                           "tokenizer.ggml.merges[%lld] = '%s': %s is not in the vocabulary", (long long)index,
                           vocab_shown(s, shown), what);
    return PLEAT_OK;
}

static pleat_status read_merges(const gguf *file, bpe *b, const gguf_array *list, gguf_string *merges, char *joined,
                                pleat_error *error) {
    gguf_array_strings(list, merges);
    for (int64_t i = 0; i < list->n; i++) {
        int32_t ids[3] = {-1, -1, -1};
        const pleat_status status = read_merge(file, b->v, merges[i], i, joined, ids, error);
        if (status)
            return status;
        pair *p = find(b, ids[0], ids[1]);
        if (p->left < 0 && vocab_ordinary(b->v, ids[2]))
            *p = (pair){.left = ids[0], .right = ids[1], .rank = (int32_t)i, .id = ids[2]};
    }
    return PLEAT_OK;
}

pleat_status bpe_open(const gguf *file, const vocab *v, bpe **out, pleat_error *error) {
    gguf_array list;
    bool found = false;
    const pleat_status status = gguf_get_array(file, "tokenizer.ggml.merges", &list, &found, error);
    if (status)
        return status;
    if (!found)
        return gguf_refuse(file, "tokenizer.ggml.merges", error, "tokenizer.ggml.merges is missing");
    if (list.type != GGUF_STRING || list.n > INT32_MAX / 4)
        return gguf_refuse(file, "tokenizer.ggml.merges", error,
                           "tokenizer.ggml.merges is not a list of at most %d strings", INT32_MAX / 4);
    uint32_t n_slots = 16;
    while (n_slots < 2 * (uint64_t)list.n)
        n_slots *= 2;
    bpe *b = calloc(1, sizeof *b);
    gguf_string *merges = malloc(((size_t)list.n + 1) * sizeof *merges);
    char *joined = malloc(v->max_text_bytes + 1);
    pair *slot = malloc(n_slots * sizeof *slot);
    pleat_status done = PLEAT_EMEMORY;
    if (b && merges && joined && slot) {
        for (uint32_t i = 0; i < n_slots; i++)
            slot[i].left = -1;
        *b = (bpe){.v = v, .slot = slot, .mask = n_slots - 1};
        done = read_merges(file, b, &list, merges, joined, error);
    } else {
        err_set(error, PLEAT_EMEMORY, "no memory for the %lld merges of %s", (long long)list.n, gguf_path(file));
    }
    free(merges);
    free(joined);
    if (done) {
        free(slot);
        free(b);
        return done;
    }
    *out = b;
    return PLEAT_OK;
}

void bpe_close(bpe *b) {
    if (!b)
        return;
    free(b->slot);
    free(b);
}

/* ---- encoding ---- */

typedef struct words {
    const bpe *b;
    char *spelled; /* room for the longest token and one character; NULL: words go through the merges at once */
    merge *scratch;
    id_list *out;
} words;

static bool join(const void *context, const merge_symbol *left, const merge_symbol *right, double *key, int32_t *id) {
    if (left->id < 0 || right->id < 0)
        return false;
    const pair *p = find(context, left->id, right->id);
    if (p->left < 0)
        return false;
    *key = p->rank;
    *id = p->id;
    return true;
}

/* The token that spells the whole word, -1: none. */
static int32_t find_whole(const vocab *v, const char *word, int n, char *spelled) {
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        at += (size_t)vocab_byte_char((uint8_t)word[i], spelled + at);
        if (at > v->max_text_bytes)
            return -1;
    }
    return vocab_find_ordinary(v, spelled, at);
}

static bool encode_word(void *context, const char *word, int n) {
    words *w = context;
    if (w->spelled) {
        const int32_t id = find_whole(w->b->v, word, n, w->spelled);
        if (id >= 0) {
            id_list_push(w->out, id);
            return !w->out->failed;
        }
    }
    w->scratch->n = 0;
    for (int i = 0; i < n; i++)
        if (!merge_add(w->scratch, i, 1, w->b->v->byte_id[(uint8_t)word[i]]))
            return false;
    if (!merge_run(w->scratch, join, w->b))
        return false;
    for (int i = 0; i >= 0 && i < w->scratch->n; i = w->scratch->symbol[i].next)
        if (w->scratch->symbol[i].id >= 0)
            id_list_push(w->out, w->scratch->symbol[i].id);
    return !w->out->failed;
}

bool bpe_encode(const bpe *b, const split *s, const char *text, int n, merge *scratch, id_list *out) {
    words w = {.b = b, .scratch = scratch, .out = out};
    if (split_whole_words(s)) {
        w.spelled = malloc(b->v->max_text_bytes + 2);
        if (!w.spelled)
            return false;
    }
    const bool ok = split_text(s, text, n, encode_word, &w);
    free(w.spelled);
    return ok;
}
