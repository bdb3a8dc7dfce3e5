/* stop.c - see stop.h.
 *
 * Matching is Knuth, Morris and Pratt's, a state per string, so that a byte costs the same however strings overlap and
 * however tokens cut them. The engine's thread feeds a state alone, to end a request at its token; the HTTP thread
 * feeds another of the same kind with the text beside it, and so finds the same end. When several strings end at one
 * byte the longest counts; the first byte at which any ends is the end. */
#include "serve/stop.h"
#include "text/utf8.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool stop_add(stop_list *list, const char *bytes, size_t n) {
    assert(list->n < STOP_MOST && n > 0 && n <= STOP_MOST_BYTES);
    char *copy = malloc(n);
    int16_t *fail = malloc(n * sizeof(*fail));
    if (!copy || !fail) {
        free(copy);
        free(fail);
        return false;
    }
    memcpy(copy, bytes, n);
    fail[0] = 0;
    for (size_t i = 1, k = 0; i < n; i++) {
        while (k && bytes[i] != bytes[k])
            k = (size_t)fail[k - 1];
        k += bytes[i] == bytes[k];
        fail[i] = (int16_t)k;
    }
    list->bytes[list->n] = copy;
    list->fail[list->n] = fail;
    list->n_bytes[list->n++] = (int)n;
    return true;
}

void stop_free(stop_list *list) {
    for (int i = 0; i < list->n; i++) {
        free(list->bytes[i]);
        free(list->fail[i]);
    }
    list->n = 0;
}

int stop_step(const stop_list *list, stop_state *state, char byte) {
    int longest = 0;
    for (int i = 0; i < list->n; i++) {
        int k = state->at[i];
        while (k && list->bytes[i][k] != byte)
            k = list->fail[i][k - 1];
        k += list->bytes[i][k] == byte;
        if (k == list->n_bytes[i]) {
            longest = k > longest ? k : longest;
            k = list->fail[i][k - 1];
        }
        state->at[i] = (int16_t)k;
    }
    return longest;
}

bool stop_feed(const stop_list *list, stop_state *state, const char *bytes, size_t n, bool counts) {
    for (size_t i = 0; i < n && list->n; i++)
        if (stop_step(list, state, bytes[i]) && counts)
            return true;
    return false;
}

/* ---- text ---- */

static void show(stop_text *t, size_t n, text *out) {
    char small[300], *repaired = 3 * n <= sizeof(small) ? small : malloc(3 * n);
    if (!repaired) {
        out->failed = true;
        return;
    }
    text_append(out, repaired, utf8_repair(t->held.bytes, n, repaired));
    if (repaired != small)
        free(repaired);
    memmove(t->held.bytes, t->held.bytes + n, t->held.n - n);
    t->held.n -= n;
}

void stop_text_add(stop_text *t, const stop_list *list, const char *bytes, size_t n, bool counts, text *out) {
    for (size_t i = 0; i < n && !t->stopped; i++) {
        text_append(&t->held, &bytes[i], 1);
        int match = stop_step(list, &t->state, bytes[i]);
        if (match && counts) {
            t->stopped = true;
            if (!list->shown)
                t->held.n -= (size_t)match < t->held.n ? (size_t)match : t->held.n;
        }
    }
    out->failed |= t->held.failed;
    if (t->stopped || !t->held.n)
        return;
    int begun = 0;
    for (int i = 0; i < list->n; i++)
        begun = t->state.at[i] > begun ? t->state.at[i] : begun;
    size_t held = (size_t)begun < t->held.n ? (size_t)begun : t->held.n;
    size_t whole = utf8_complete(t->held.bytes, t->held.n - held);
    if (whole)
        show(t, whole, out);
}

void stop_text_end(stop_text *t, text *out) {
    out->failed |= t->held.failed;
    if (t->held.n)
        show(t, t->held.n, out);
}

void stop_text_free(stop_text *t) {
    text_free(&t->held);
}

void text_of_tokens(const pleat_model *model, const int32_t *ids, int n, bool special, text *out) {
    stop_text t = {0};
    for (int i = 0; i < n; i++) {
        size_t n_bytes;
        const char *bytes = pleat_token_bytes(model, ids[i], special, &n_bytes);
        text_append(&t.held, bytes, n_bytes);
    }
    stop_text_end(&t, out);
    stop_text_free(&t);
}
