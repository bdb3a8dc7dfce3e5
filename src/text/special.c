/* special.c - cuts a text at special tokens, longest first over the whole text.
 *
 * The rule is llama.cpp's: the longest special token takes all its places from left to right, then the next shorter one
 * works on what is left, and so on (equally long ones, which do not overlap in real vocabularies, go by place). Done by
 * hand that is one sweep of the text per special token, of which Gemma has 6,400. Here each place is tried once for the
 * longest token that begins there; these candidates leave a heap in the order (longer first, then leftmost) and are
 * taken when they are free. What is taken before is never shorter, so a candidate is free when its first and last byte
 * are. A candidate whose first byte is free but whose end is not comes back as the longest token that fits before that
 * end.
 *
 * Trying a place: a filter by the first two bytes, then one hash look-up per length that begins with this byte. */
#include "text/vocab.h"
#include "base/status.h"
#include <stdlib.h>
#include <string.h>

enum { FREE, TAKEN, STRIPPED };

struct special_index {
    const vocab *v;
    int n_always, n_silent;  /* tokens parsed always, and only on demand */
    uint8_t pair[65536 / 8]; /* first two bytes of some token; a token of one byte sets all its second bytes */
    int first[257];          /* length[first[b] .. first[b + 1]): lengths of tokens that begin with byte b, falling */
    int *length;
};

static int compare_lengths(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* keys: first byte in the high half, the length's complement in the low half, so that lengths fall. */
static void index_lengths(special_index *index, uint64_t *keys, int n) {
    qsort(keys, (size_t)n, sizeof *keys, compare_lengths);
    int kept = 0, byte = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && keys[i] == keys[i - 1])
            continue;
        for (; byte <= (int)(keys[i] >> 32); byte++)
            index->first[byte] = kept;
        index->length[kept++] = (int)(INT32_MAX - (uint32_t)keys[i]);
    }
    for (; byte <= 256; byte++)
        index->first[byte] = kept;
}

static int collect(special_index *index, uint64_t *keys) {
    const vocab *v = index->v;
    int n = 0;
    for (int id = 0; id < v->n; id++) {
        const gguf_string s = v->text[id];
        if (!(v->flags[id] & VOCAB_PARSED) || s.n == 0 || s.n > INT32_MAX)
            continue;
        *(v->flags[id] & VOCAB_SILENT ? &index->n_silent : &index->n_always) += 1;
        const uint8_t a = (uint8_t)s.bytes[0];
        if (s.n == 1)
            memset(index->pair + a * 32, 0xFF, 32);
        else
            index->pair[a * 32 + (uint8_t)s.bytes[1] / 8] |= (uint8_t)(1 << ((uint8_t)s.bytes[1] % 8));
        keys[n++] = (uint64_t)a << 32 | (uint32_t)(INT32_MAX - (int)s.n);
    }
    return n;
}

pleat_status special_open(const vocab *v, special_index **out, pleat_error *error) {
    int n = 0;
    for (int id = 0; id < v->n; id++)
        n += (v->flags[id] & VOCAB_PARSED) != 0;
    special_index *index = calloc(1, sizeof *index);
    uint64_t *keys = malloc(((size_t)n + 1) * sizeof *keys);
    int *length = malloc(((size_t)n + 1) * sizeof *length);
    if (!index || !keys || !length) {
        free(index);
        free(keys);
        free(length);
        return err_set(error, PLEAT_EMEMORY, "no memory for an index of %d special tokens", n);
    }
    index->v = v;
    index->length = length;
    index_lengths(index, keys, collect(index, keys));
    free(keys);
    *out = index;
    return PLEAT_OK;
}

void special_close(special_index *index) {
    if (!index)
        return;
    free(index->length);
    free(index);
}

/* ---- cutting ---- */

typedef struct cutter {
    const special_index *index;
    const char *text;
    int n;
    bool parse;
    uint8_t *mark;         /* [n] */
    merge_heap candidates; /* key: negative length; left: place; id */
    special_piece *pieces;
    int n_taken;
} cutter;

/* The longest token of at most limit bytes that begins at a place; -1: none. */
static int32_t longest(const cutter *c, int at, int limit) {
    const special_index *index = c->index;
    const uint8_t a = (uint8_t)c->text[at];
    if (limit > 1) {
        const uint8_t b = (uint8_t)c->text[at + 1];
        if (!(index->pair[a * 32 + b / 8] >> (b % 8) & 1))
            return -1;
    }
    for (int i = index->first[a]; i < index->first[a + 1]; i++) {
        if (index->length[i] > limit)
            continue;
        const int32_t id = vocab_find(index->v, c->text + at, (size_t)index->length[i]);
        if (id < 0 || !(index->v->flags[id] & VOCAB_PARSED))
            continue;
        if (c->parse || !(index->v->flags[id] & VOCAB_SILENT))
            return id;
    }
    return -1;
}

static bool offer(cutter *c, int at, int limit) {
    const int32_t id = longest(c, at, limit);
    if (id < 0)
        return true;
    const int n = (int)c->index->v->text[id].n;
    return merge_heap_push(&c->candidates, (merge_entry){.key = -n, .left = at, .n_bytes = n, .id = id});
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void take(cutter *c, const merge_entry *e) {
    memset(c->mark + e->left, TAKEN, (size_t)e->n_bytes);
    c->pieces[c->n_taken++] = (special_piece){.id = e->id, .at = e->left, .n = e->n_bytes};
    if (c->index->v->flags[e->id] & VOCAB_RSTRIP)
        for (int i = e->left + e->n_bytes; i < c->n && c->mark[i] == FREE && is_space(c->text[i]); i++)
            c->mark[i] = STRIPPED;
}

/* Fills pieces with the tokens taken, in no order. */
static bool take_tokens(cutter *c) {
    for (int at = 0; at < c->n; at++)
        if (!offer(c, at, c->n - at))
            return false;
    c->pieces = malloc(((size_t)c->candidates.n + 1) * sizeof *c->pieces);
    if (!c->pieces)
        return false;
    while (c->candidates.n > 0) {
        const merge_entry e = merge_heap_pop(&c->candidates);
        if (c->mark[e.left] != FREE)
            continue;
        if (c->mark[e.left + e.n_bytes - 1] == FREE) {
            take(c, &e);
            continue;
        }
        int room = 1;
        while (c->mark[e.left + room] == FREE)
            room++;
        if (!offer(c, e.left, room))
            return false;
    }
    return true;
}

static int compare_places(const void *a, const void *b) {
    const special_piece *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

/* Tokens in order with the free text between them. */
static bool join_pieces(const cutter *c, special_piece **pieces, int *n_pieces) {
    special_piece *all = malloc((2 * (size_t)c->n_taken + 1) * sizeof *all);
    if (!all)
        return false;
    if (c->n_taken > 1)
        qsort(c->pieces, (size_t)c->n_taken, sizeof *c->pieces, compare_places);
    int n = 0, at = 0;
    for (int i = 0; i <= c->n_taken; i++) {
        const int next = i < c->n_taken ? c->pieces[i].at : c->n;
        while (at < next && c->mark && c->mark[at] == STRIPPED)
            at++;
        if (at < next)
            all[n++] = (special_piece){.id = -1, .at = at, .n = next - at};
        if (i < c->n_taken) {
            all[n++] = c->pieces[i];
            at = next + c->pieces[i].n;
        }
    }
    *pieces = all;
    *n_pieces = n;
    return true;
}

bool special_cut(const special_index *index, const char *text, int n, bool parse, special_piece **pieces,
                 int *n_pieces) {
    cutter c = {.index = index, .text = text, .n = n, .parse = parse};
    if (index->n_always + (parse ? index->n_silent : 0) == 0)
        return join_pieces(&c, pieces, n_pieces);
    c.mark = calloc((size_t)n + 1, 1);
    const bool ok = c.mark && take_tokens(&c) && join_pieces(&c, pieces, n_pieces);
    free(c.mark);
    free(c.pieces);
    free(c.candidates.entry);
    return ok;
}
