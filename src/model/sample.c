/* sample.c - greedy, temperature, top-k, top-p, min-p, penalties.
 *
 * The draw is a pure function of (seed, position), so that two methods that are compared see the same random number at
 * the same place (common random numbers). Candidates are ordered by logit, equal ones by id, so the result does not
 * depend on the sort. Only what can still be drawn is sorted: the top k by a heap-free selection, or everything when k
 * is off.
 *
 * min-p: arXiv 2407.01082. Repetition penalty: arXiv 1909.05858, section 4.1, over the last 64 tokens; the presence
 * penalty is subtracted once from every token that stands among them. */
#include "model/sample.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>

enum { PENALTY_TOKENS = 64 };

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
        logits[id] -= p->presence_penalty;
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

/* Moves the k best candidates to the front, in any order. */
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

static int32_t draw(sampler *s, const pleat_sampling *p, const float *logits, float max, uint64_t position) {
    int n = s->n_vocab;
    for (int i = 0; i < n; i++)
        s->list[i] = (candidate){.logit = logits[i], .id = i};
    if (p->top_k && p->top_k < n) {
        select_best(s->list, n, p->top_k);
        n = p->top_k;
    }
    qsort(s->list, (size_t)n, sizeof(*s->list), by_logit);
    double sum = 0, kept = 0, floor = p->min_p;
    for (int i = 0; i < n; i++)
        sum += exp(((double)s->list[i].logit - (double)max) / (double)p->temperature);
    int n_kept = 0;
    while (n_kept < n) {
        double weight = exp(((double)s->list[n_kept].logit - (double)max) / (double)p->temperature);
        if (n_kept && (weight < floor || kept >= (double)p->top_p * sum))
            break;
        kept += weight;
        n_kept++;
    }
    double at = rng_uniform(p->seed, 0, position) * kept;
    for (int i = 0; i < n_kept; i++) {
        at -= exp(((double)s->list[i].logit - (double)max) / (double)p->temperature);
        if (at < 0)
            return s->list[i].id;
    }
    return s->list[n_kept - 1].id;
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
