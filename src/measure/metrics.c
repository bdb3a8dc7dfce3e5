/* metrics.c - see metrics.h: F1, numbers, classes, and the way to the others. */
#include "measure/metrics.h"
#include "base/memory.h"
#include "base/status.h"
#include "measure/metrics_text.h"
#include <stdlib.h>
#include <string.h>

const char *metrics_name(metrics_kind kind) {
    static const char *const names[] = {
        [METRICS_F1] = "f1",
        [METRICS_ROUGE_L] = "rouge-l",
        [METRICS_CLASSIFICATION] = "classification",
        [METRICS_RETRIEVAL] = "retrieval",
        [METRICS_RETRIEVAL_ZH] = "retrieval",
        [METRICS_COUNT] = "count",
        [METRICS_EDIT] = "edit",
        [METRICS_SEGMENTED] = "segmented",
    };
    return names[kind];
}

/* ---- F1 ---- */

static bool is_punctuation(int32_t c) { /* string.punctuation */
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

static bool is_article(const int32_t *c, int n) {
    return (n == 1 && c[0] == 'a') || (n == 2 && c[0] == 'a' && c[1] == 'n') ||
           (n == 3 && c[0] == 't' && c[1] == 'h' && c[2] == 'e');
}

/* Lower case, then no ASCII punctuation, then a space for each article that stands between word boundaries. */
static bool normalise(const codes *in, codes *out) {
    if (!codes_lower(in, out))
        return false;
    int n = 0;
    for (int i = 0; i < out->n; i++)
        if (!is_punctuation(out->code[i]))
            out->code[n++] = out->code[i];
    int kept = 0;
    for (int i = 0, end; i < n; i = end) {
        for (end = i; end < n && code_is_word(out->code[end]); end++)
            ;
        if (end == i) {
            end++;
        } else if (is_article(out->code + i, end - i)) {
            out->code[kept++] = ' ';
            continue;
        }
        memmove(out->code + kept, out->code + i, (size_t)(end - i) * sizeof(*out->code));
        kept += end - i;
    }
    out->n = kept;
    return true;
}

/* Adds the words of c to counts [*cap], numbered by `words`; returns how many, -1: no memory. */
static int count_words(const codes *c, intern *words, int **counts, int *cap) {
    int n = 0;
    for (int at = 0, from; codes_next_word(c, &at, &from); n++) {
        int word = codes_intern(words, c, from, at), old = *cap;
        if (word < 0 || !mem_grow(counts, cap, word + 1, sizeof(**counts)))
            return -1;
        if (*cap > old)
            memset(*counts + old, 0, (size_t)(*cap - old) * sizeof(**counts));
        ++(*counts)[word];
    }
    return n;
}

static pleat_status score_f1(const codes *answer, const codes *reference, double *score, pleat_error *error) {
    codes a = {0}, r = {0};
    intern words = {0};
    int *in_answer = NULL, *in_reference = NULL, cap_answer = 0, cap_reference = 0, n_answer = -1, n_reference = -1;
    if (normalise(answer, &a) && normalise(reference, &r)) {
        n_answer = count_words(&a, &words, &in_answer, &cap_answer);
        n_reference = n_answer < 0 ? -1 : count_words(&r, &words, &in_reference, &cap_reference);
    }
    int same = 0;
    for (int i = 0; n_reference >= 0 && i < cap_answer && i < cap_reference; i++)
        same += in_answer[i] < in_reference[i] ? in_answer[i] : in_reference[i];
    *score = 0;
    if (same) {
        double precision = (double)same / n_answer, recall = (double)same / n_reference;
        *score = (2 * precision * recall) / (precision + recall);
    }
    free(in_answer);
    free(in_reference);
    intern_free(&words);
    codes_free(&a);
    codes_free(&r);
    return n_reference >= 0 ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the F1 of two texts");
}

/* ---- numbers ---- */

/* The next run of digits from *at on: true, and [*from, *at). */
static bool next_number(const codes *c, int *at, int *from) {
    int i = *at;
    while (i < c->n && !code_is_digit(c->code[i]))
        i++;
    *from = i;
    while (i < c->n && code_is_digit(c->code[i]))
        i++;
    *at = i;
    return i > *from;
}

/* Share of the answer's numbers that are written as `wanted`. */
static double score_numbers(const codes *answer, codes wanted) {
    int n = 0, right = 0;
    for (int at = 0, from; next_number(answer, &at, &from); n++)
        right +=
            at - from == wanted.n && !memcmp(answer->code + from, wanted.code, (size_t)wanted.n * sizeof(*wanted.code));
    return n ? (double)right / n : 0;
}

/* The digits after the first "MARK<digit>" of the reference. */
static bool find_marked(const codes *reference, const int32_t *mark, int n_mark, codes *number) {
    for (int i = 0; i + n_mark < reference->n; i++) {
        int at = i + n_mark, from;
        if (memcmp(reference->code + i, mark, (size_t)n_mark * sizeof(*mark)) || !code_is_digit(reference->code[at]))
            continue;
        next_number(reference, &at, &from);
        *number = (codes){reference->code + from, at - from};
        return true;
    }
    return false;
}

static pleat_status score_retrieval(const codes *answer, const codes *reference, bool chinese, double *score,
                                    pleat_error *error) {
    static const int32_t english_mark[] = {'P', 'a', 'r', 'a', 'g', 'r', 'a', 'p', 'h', ' '},
                         chinese_mark[] = {0x6bb5, 0x843d};
    codes number;
    if (!find_marked(reference, chinese ? chinese_mark : english_mark, chinese ? 2 : 10, &number))
        return err_set(error, PLEAT_EINPUT, "the reference of a retrieval task names no %s",
                       chinese ? "\xe6\xae\xb5\xe8\x90\xbdN" : "\"Paragraph N\"");
    *score = score_numbers(answer, number);
    return PLEAT_OK;
}

/* ---- classes ---- */

/* Of the classes that the answer names, those inside the right one's name are dropped; as the original changes its list
 * while it walks it, the one after a dropped one is not looked at, and of equal names the first goes. */
static pleat_status score_classes(const char *answer, const char *reference, const char *const *classes, int n_classes,
                                  double *score, pleat_error *error) {
    const char **named = malloc(((size_t)n_classes + 1) * sizeof(*named));
    int n = 0;
    bool right = false;
    if (!named)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d classes", n_classes);
    for (int i = 0; i < n_classes; i++)
        if (strstr(answer, classes[i]))
            named[n++] = classes[i];
    for (int i = 0; i < n; i++) {
        if (!strstr(reference, named[i]) || !strcmp(reference, named[i]))
            continue;
        int first = 0;
        while (strcmp(named[first], named[i]))
            first++;
        memmove(named + first, named + first + 1, (size_t)(--n - first) * sizeof(*named));
    }
    for (int i = 0; i < n; i++)
        right = right || !strcmp(named[i], reference);
    *score = right ? 1.0 / n : 0;
    free(named);
    return PLEAT_OK;
}

/* ---- all ---- */

pleat_status metrics_score(metrics_kind kind, const char *answer, const char *reference, const char *const *classes,
                           int n_classes, double *score, pleat_error *error) {
    double value = 0;
    codes a = {0}, r = {0};
    pleat_status status;
    if (kind == METRICS_SEGMENTED)
        return err_set(error, PLEAT_EINPUT,
                       "this data set's metric needs a Chinese word segmenter, which pleat has not");
    if (kind == METRICS_CLASSIFICATION || kind == METRICS_EDIT)
        status = kind == METRICS_EDIT ? metrics_edit(answer, reference, &value, error)
                                      : score_classes(answer, reference, classes, n_classes, &value, error);
    else if (!codes_read(answer, strlen(answer), &a) || !codes_read(reference, strlen(reference), &r))
        status = err_set(error, PLEAT_EMEMORY, "no memory for an answer and its reference");
    else if (kind == METRICS_F1)
        status = score_f1(&a, &r, &value, error);
    else if (kind == METRICS_ROUGE_L)
        status = metrics_rouge_l(&a, &r, &value, error);
    else if (kind == METRICS_COUNT) {
        value = score_numbers(&a, r);
        status = PLEAT_OK;
    } else
        status = score_retrieval(&a, &r, kind == METRICS_RETRIEVAL_ZH, &value, error);
    codes_free(&a);
    codes_free(&r);
    if (!status)
        *score = value;
    return status;
}
