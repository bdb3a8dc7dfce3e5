/* sample.c - greedy, temperature, top-k, top-p, min-p, penalties.
 *
 * The draw is a pure function of (seed, position), so that two methods that are compared see the same random number at
 * the same place (common random numbers). Candidates are ordered by logit, equal ones by id, so the result does not
 * depend on the sort. Candidates are put in order only as far as the filters and the draw look: the best 64, then four
 * times as many, and so on, each by a selection in linear time.
 *
 * min-p: arXiv 2407.01082. Repetition penalty: arXiv 1909.05858, section 4.1, over the last 64 tokens; the presence
 * penalty is subtracted once from every token that stands among them, the frequency penalty once for each time. */
#include "model/sample.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>

enum { PENALTY_TOKENS = 64, FIRST_SORTED = 64 };

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct sampler {
    int n_vocab;
    candidate *list; /* [n_vocab] */
};

pleat_status sampler_open(int n_vocab, sampler **out, pleat_error *error) {
    sampler *s = calloc(1, sizeof(*s));
    candidate *list = mem_alloc((size_t)n_vocab, sizeof(*list));
    if (!s || !list) {
        free(s);
        mem_free(list);
        return err_set(error, PLEAT_EMEMORY, "no memory to sample from %d tokens", n_vocab);
    }
    *s = (sampler){.n_vocab = n_vocab, .list = list};
    *out = s;
    return PLEAT_OK;
}

void sampler_close(sampler *s) {
    if (!s)
        return;
    mem_free(s->list);
    free(s);
}

pleat_sampling pleat_sampling_default(void) {
    return (pleat_sampling){.temperature = 0, .top_p = 1, .repeat_penalty = 1};
}

pleat_status sample_check(const pleat_sampling *p, pleat_error *error) {
    const struct {
        const char *name;
        float value, low, high;
    } list[] = {
        {"temperature", p->temperature, 0, 100},
        {"top_k", (float)p->top_k, 0, 1e9f},
        {"top_p", p->top_p, 0, 1},
        {"min_p", p->min_p, 0, 1},
        {"repeat_penalty", p->repeat_penalty, 0.01f, 100},
        {"presence_penalty", p->presence_penalty, -100, 100},
        {"frequency_penalty", p->frequency_penalty, -100, 100},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        if (!(list[i].value >= list[i].low && list[i].value <= list[i].high))
            return err_set(error, PLEAT_EINPUT, "%s is %g; it must be between %g and %g", list[i].name,
                           (double)list[i].value, (double)list[i].low, (double)list[i].high);
    return PLEAT_OK;
}

static void penalise(const pleat_sampling *p, float *logits, int n_vocab, const int32_t *history, int n_history) {
    int from = n_history > PENALTY_TOKENS ? n_history - PENALTY_TOKENS : 0;
    for (int i = from; i < n_history; i++) {
        int32_t id = history[i];
        bool seen = id < 0 || id >= n_vocab;
        for (int j = from; j < i && !seen; j++)
            seen = history[j] == id;
        if (seen)
            continue;
        logits[id] = logits[id] > 0 ? logits[id] / p->repeat_penalty : logits[id] * p->repeat_penalty;
        int n_seen = 1;
        for (int j = i + 1; j < n_history; j++)
            n_seen += history[j] == id;
        logits[id] -= p->presence_penalty + p->frequency_penalty * (float)n_seen;
    }
}

static int32_t best_of(const float *logits, int n) {
    int32_t best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int by_logit(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Moves the k best of n candidates to the front, in an order that depends on nothing but them. */
static void select_best(candidate *list, int n, int k) {
    int low = 0, high = n - 1;
    while (low < high) {
        candidate pivot = list[low + (high - low) / 2];
        int i = low - 1, j = high + 1;
        for (;;) {
            do
                i++;
            while (by_logit(&list[i], &pivot) < 0);
            do
                j--;
            while (by_logit(&list[j], &pivot) > 0);
            if (i >= j)
                break;
            candidate swap = list[i];
            list[i] = list[j];
            list[j] = swap;
        }
        if (k <= j)
            high = j;
        else if (k > j + 1)
            low = j + 1;
        else
            return;
    }
}

/* The best candidates in order, as far as they are looked at. */
typedef struct ranking {
    candidate *list;
    int n, n_sorted;
} ranking;

static const candidate *ranked(ranking *r, int i) {
    while (i >= r->n_sorted) {
        int n_more = r->n_sorted ? 3 * r->n_sorted : FIRST_SORTED, n_left = r->n - r->n_sorted;
        n_more = n_more < n_left ? n_more : n_left;
        select_best(r->list + r->n_sorted, n_left, n_more);
        qsort(r->list + r->n_sorted, (size_t)n_more, sizeof(*r->list), by_logit);
        r->n_sorted += n_more;
    }
    return &r->list[i];
}

static int32_t draw(sampler *s, const pleat_sampling *p, const float *logits, float max, uint64_t position) {
    ranking r = {.list = s->list, .n = s->n_vocab};
    double sum = 0, kept = 0, temperature = (double)p->temperature;
    for (int i = 0; i < r.n; i++)
        s->list[i] = (candidate){.logit = logits[i], .id = i};
    if (p->top_k && p->top_k < r.n) {
        select_best(s->list, r.n, p->top_k);
        r.n = p->top_k;
    }
    for (int i = 0; i < r.n; i++)
        sum += exp(((double)s->list[i].logit - (double)max) / temperature);
    int n_kept = p->top_p < 1 || p->min_p > 0 ? 0 : r.n;
    while (n_kept < r.n) {
        double weight = exp(((double)ranked(&r, n_kept)->logit - (double)max) / temperature);
        if (n_kept && (weight < (double)p->min_p || kept >= (double)p->top_p * sum))
            break;
        kept += weight;
        n_kept++;
    }
    double at = rng_uniform(p->seed, 0, position) * (kept > 0 ? kept : sum);
    for (int i = 0; i < n_kept; i++) {
        at -= exp(((double)ranked(&r, i)->logit - (double)max) / temperature);
        if (at < 0)
            return s->list[i].id;
    }
    return ranked(&r, 0)->id; /* the last weights were lost in the sum's rounding */
}

pleat_status sample_token(sampler *s, const pleat_sampling *p, float *logits, const int32_t *history, int n_history,
                          int32_t *token, pleat_error *error) {
    pleat_status status = sample_check(p, error);
    if (status)
        return status;
    for (int i = 0; i < s->n_vocab; i++)
        if (isnan(logits[i]))
            return err_set(error, PLEAT_EINPUT, "the logit of token %d is not a number", i);
    if (p->temperature > 0)
        penalise(p, logits, s->n_vocab, history, n_history);
    int32_t best = best_of(logits, s->n_vocab);
    if (isinf(logits[best]))
        return err_set(error, PLEAT_EINPUT, "the largest logit (token %d) is not finite", best);
    *token = p->temperature > 0 ? draw(s, p, logits, logits[best], (uint64_t)n_history) : best;
    return PLEAT_OK;
}
