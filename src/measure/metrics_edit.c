/* metrics_edit.c - edit similarity of code: fuzzywuzzy 0.18.0's ratio of the answer's first line of code.
 *
 * fuzzywuzzy has two engines under it: python-Levenshtein when that is installed, else Python's difflib. LongBench's
 * requirements name fuzzywuzzy alone, so difflib is the published metric, and this is difflib's SequenceMatcher
 * (Ratcliff and Obershelp's matching): the longest common block, the earliest in the answer and then in the reference,
 * then the same left and right of it; ratio = 2 x matched / (both lengths). With its `autojunk`: in a reference of 200
 * characters and more, those that make up more than 1 % of it (over n / 100 + 1) begin no block, they only extend one.
 * Cost: in the worst case cubic, as difflib; quadratic on real lines. */
#include "base/memory.h"
#include "base/status.h"
#include "measure/metrics_text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct place {
    int32_t code;
    int at;
} place;

typedef struct stretch {
    int a_from, a_to, b_from, b_to;
} stretch;

typedef struct matcher {
    codes a, b;
    place *places;       /* [b.n] b's characters by code, then position */
    int *first, *count;  /* [a.n] where a[i] stands in b: places[first .. first + count) */
    int *length, *stamp; /* [b.n] of the block that ends at j, valid when stamp is the row's */
    int row;
    stretch *todo; /* stack */
    int n_todo, cap_todo;
} matcher;

static void matcher_free(matcher *m) {
    codes_free(&m->a);
    codes_free(&m->b);
    free(m->places);
    free(m->first);
    free(m->count);
    free(m->length);
    free(m->stamp);
    free(m->todo);
}

static int by_code(const void *x, const void *y) {
    const place *p = x, *q = y;
    return p->code != q->code ? (p->code > q->code) - (p->code < q->code) : (p->at > q->at) - (p->at < q->at);
}

/* The first of places whose code is at least `code`. */
static int lower_bound(const matcher *m, int64_t code) {
    int low = 0, high = m->b.n;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (m->places[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool prepare(matcher *m) {
    size_t na = (size_t)m->a.n + 1, nb = (size_t)m->b.n + 1;
    m->places = malloc(nb * sizeof(*m->places));
    m->first = malloc(na * sizeof(*m->first));
    m->count = malloc(na * sizeof(*m->count));
    m->length = calloc(nb, sizeof(*m->length));
    m->stamp = calloc(nb, sizeof(*m->stamp));
    if (!m->places || !m->first || !m->count || !m->length || !m->stamp)
        return false;
    for (int j = 0; j < m->b.n; j++)
        m->places[j] = (place){m->b.code[j], j};
    qsort(m->places, (size_t)m->b.n, sizeof(*m->places), by_code);
    for (int i = 0; i < m->a.n; i++) {
        m->first[i] = lower_bound(m, m->a.code[i]);
        m->count[i] = lower_bound(m, (int64_t)m->a.code[i] + 1) - m->first[i];
        if (m->b.n >= 200 && m->count[i] > m->b.n / 100 + 1)
            m->count[i] = 0;
    }
    return true;
}

typedef struct block {
    int a, b, n;
} block;

/* Row by row of a: the block that ends at (i, j) is one longer than the one that ends at (i - 1, j - 1). */
static block longest(matcher *m, stretch s) {
    block best = {s.a_from, s.b_from, 0};
    m->row += 2; /* no stamp of an earlier stretch counts as the row before */
    for (int i = s.a_from; i < s.a_to; i++) {
        int last = -2, last_length = 0; /* what stood at `last` before this row */
        int before = m->row++;
        const place *at = m->places + m->first[i], *end = at + m->count[i];
        for (; at < end && at->at < s.b_to; at++) {
            int j = at->at;
            if (j < s.b_from)
                continue;
            int n = 1;
            if (j - 1 == last)
                n += last_length;
            else if (j > s.b_from && m->stamp[j - 1] == before)
                n += m->length[j - 1];
            last = j;
            last_length = m->stamp[j] == before ? m->length[j] : 0;
            m->stamp[j] = m->row;
            m->length[j] = n;
            if (n > best.n)
                best = (block){i - n + 1, j - n + 1, n};
        }
    }
    while (best.a > s.a_from && best.b > s.b_from && m->a.code[best.a - 1] == m->b.code[best.b - 1])
        best.a--, best.b--, best.n++;
    while (best.a + best.n < s.a_to && best.b + best.n < s.b_to &&
           m->a.code[best.a + best.n] == m->b.code[best.b + best.n])
        best.n++;
    return best;
}

static bool push(matcher *m, stretch s) {
    if (s.a_from >= s.a_to || s.b_from >= s.b_to)
        return true;
    if (!mem_grow(&m->todo, &m->cap_todo, m->n_todo + 1, sizeof(*m->todo)))
        return false;
    m->todo[m->n_todo++] = s;
    return true;
}

/* Characters in common blocks; -1: no memory. */
static int count_matched(matcher *m) {
    int matched = 0;
    if (!prepare(m) || !push(m, (stretch){0, m->a.n, 0, m->b.n}))
        return -1;
    while (m->n_todo) {
        stretch s = m->todo[--m->n_todo];
        block best = longest(m, s);
        matched += best.n;
        if (best.n && (!push(m, (stretch){s.a_from, best.a, s.b_from, best.b}) ||
                       !push(m, (stretch){best.a + best.n, s.a_to, best.b + best.n, s.b_to})))
            return -1;
    }
    return matched;
}

/* The first line without a back quote, "#" or "//"; leading line ends are dropped. */
static const char *code_line(const char *answer, size_t *n_bytes) {
    answer += strspn(answer, "\n");
    for (;;) {
        size_t n = strcspn(answer, "\n");
        if (!memchr(answer, '`', n) && !memchr(answer, '#', n) && !memmem(answer, n, "//", 2)) {
            *n_bytes = n;
            return answer;
        }
        if (!answer[n])
            break;
        answer += n + 1;
    }
    *n_bytes = 0;
    return "";
}

pleat_status metrics_edit(const char *answer, const char *reference, double *score, pleat_error *error) {
    size_t n, n_reference = strlen(reference);
    const char *line = code_line(answer, &n);
    *score = n == n_reference && !memcmp(line, reference, n);
    if (*score > 0 || !n || !n_reference)
        return PLEAT_OK;
    matcher m = {.row = 0};
    int matched = codes_read(line, n, &m.a) && codes_read(reference, n_reference, &m.b) ? count_matched(&m) : -1;
    if (matched >= 0) /* Python rounds halves to even, as rint does */
        *score = rint(100 * (2.0 * matched / (m.a.n + m.b.n))) / 100;
    matcher_free(&m);
    return matched >= 0 ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory to compare two lines of code");
}
