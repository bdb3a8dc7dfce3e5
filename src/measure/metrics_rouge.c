/* metrics_rouge.c - ROUGE-L as the PyPI package `rouge` 1.0.1 computes it (summary level, "exclusive": on sets of
 * words).
 *
 * Both texts are cut at every "."; an empty piece is no sentence, a blank one is a sentence of one empty word; words
 * are what stands between white space, case and punctuation kept. For every pair of sentences one longest common
 * subsequence is traced back; the distinct words of all of them together, over the distinct words of the answer and of
 * the reference, are precision and recall: F = 2 p r / (p + r + 1e-8) Which of several longest subsequences is traced
 * decides which words count, so the way back is the package's: along a match first, else up if the upper value is
 * strictly larger, else left. One bit a cell remembers the choice. Cost: words of the answer x words of the reference;
 * a bit of memory for each, one pair of sentences at a time. */
#include "base/memory.h"
#include "base/status.h"
#include "measure/metrics_text.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct document {
    int *word;  /* [n_words] numbers */
    int *start; /* [n_sentences + 1] into word */
    int n_words, n_sentences, cap_word, cap_start;
} document;

static void document_free(document *d) {
    free(d->word);
    free(d->start);
}

static bool add_word(document *d, int word) {
    if (word < 0 || !mem_grow(&d->word, &d->cap_word, d->n_words + 1, sizeof(*d->word)))
        return false;
    d->word[d->n_words++] = word;
    return true;
}

static bool add_sentence(document *d, intern *words, const codes *c, int from, int to) {
    codes sentence = {c->code + from, to - from};
    int before = d->n_words;
    for (int at = 0, word; codes_next_word(&sentence, &at, &word);)
        if (!add_word(d, codes_intern(words, &sentence, word, at)))
            return false;
    if (d->n_words == before && !add_word(d, codes_intern(words, &sentence, 0, 0)))
        return false;
    if (!mem_grow(&d->start, &d->cap_start, d->n_sentences + 2, sizeof(*d->start)))
        return false;
    d->start[d->n_sentences++] = before;
    d->start[d->n_sentences] = d->n_words;
    return true;
}

static bool document_read(document *d, intern *words, const codes *c) {
    for (int from = 0, i = 0; i <= c->n; i++) {
        if (i < c->n && c->code[i] != '.')
            continue;
        if (i > from && !add_sentence(d, words, c, from, i))
            return false;
        from = i + 1;
    }
    return true;
}

static int count_distinct(const document *d, bool *seen, int n_all) {
    int n = 0;
    memset(seen, 0, (size_t)n_all * sizeof(*seen));
    for (int i = 0; i < d->n_words; i++) {
        n += !seen[d->word[i]];
        seen[d->word[i]] = true;
    }
    return n;
}

/* Marks the words of the longest common subsequence of x [n] and y [m]. row [m + 1] and up (n x m bits) are scratch. */
static void mark_common(const int *x, int n, const int *y, int m, int *row, uint8_t *up, bool *common) {
    memset(row, 0, ((size_t)m + 1) * sizeof(*row));
    for (int i = 0; i < n; i++) {
        size_t bit = (size_t)i * (size_t)m;
        for (int j = 0, diagonal = 0, left = 0; j < m; j++, bit++) {
            int above = row[j + 1];
            bool is_up = above > left;
            left = x[i] == y[j] ? diagonal + 1 : is_up ? above : left;
            diagonal = above;
            row[j + 1] = left;
            uint8_t mask = (uint8_t)(1u << (bit & 7));
            up[bit >> 3] = is_up ? up[bit >> 3] | mask : up[bit >> 3] & (uint8_t)~mask;
        }
    }
    for (int i = n - 1, j = m - 1; i >= 0 && j >= 0;) {
        size_t bit = (size_t)i * (size_t)m + (size_t)j;
        if (x[i] == y[j]) {
            common[x[i]] = true;
            i--, j--;
        } else if (up[bit >> 3] >> (bit & 7) & 1) {
            i--;
        } else {
            j--;
        }
    }
}

static int longest_sentence(const document *d) {
    int most = 0;
    for (int i = 0; i < d->n_sentences; i++)
        most = d->start[i + 1] - d->start[i] > most ? d->start[i + 1] - d->start[i] : most;
    return most;
}

/* Distinct words in the union of the subsequences of all pairs; -1: no memory. */
static int count_common(const document *reference, const document *answer, bool *common, int n_all) {
    size_t n_bits = 0;
    int m = longest_sentence(answer), n_common = 0;
    bool fits = !__builtin_mul_overflow((size_t)longest_sentence(reference), (size_t)m, &n_bits);
    int *row = malloc(((size_t)m + 1) * sizeof(*row));
    uint8_t *up = fits ? malloc(n_bits / 8 + 1) : NULL;
    memset(common, 0, (size_t)n_all * sizeof(*common));
    for (int i = 0; row && up && i < reference->n_sentences; i++)
        for (int k = 0; k < answer->n_sentences; k++) {
            const int *start = reference->start + i, *other = answer->start + k;
            mark_common(reference->word + start[0], start[1] - start[0], answer->word + other[0], other[1] - other[0],
                        row, up, common);
        }
    for (int i = 0; i < n_all; i++)
        n_common += common[i];
    bool room = row && up;
    free(row);
    free(up);
    return room ? n_common : -1;
}

pleat_status metrics_rouge_l(const codes *answer, const codes *reference, double *score, pleat_error *error) {
    document a = {0}, r = {0};
    intern words = {0};
    pleat_status status = PLEAT_OK;
    bool *seen = NULL, room = document_read(&a, &words, answer) && document_read(&r, &words, reference);
    int n_common = -1;
    *score = 0;
    if (room && a.n_sentences && r.n_sentences) {
        seen = calloc((size_t)words.n, sizeof(*seen));
        n_common = seen ? count_common(&r, &a, seen, words.n) : -1;
        room = n_common >= 0;
        if (room) {
            double recall = (double)n_common / count_distinct(&r, seen, words.n);
            double precision = (double)n_common / count_distinct(&a, seen, words.n);
            *score = 2.0 * ((precision * recall) / (precision + recall + 1e-8));
        }
    }
    if (!room)
        status =
            err_set(error, PLEAT_EMEMORY, "no memory for the ROUGE-L of %d and %d characters", answer->n, reference->n);
    free(seen);
    intern_free(&words);
    document_free(&a);
    document_free(&r);
    return status;
}
