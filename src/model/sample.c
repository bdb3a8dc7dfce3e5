/* sample.c - greedy, temperature, top-k, top-p, min-p, penalties.
 *
 * The draw is a pure function of (seed, position), so that two methods that are compared see the same random number at
 * the same place (common random numbers). Candidates are ordered by logit, equal ones by id, so the result does not
 * depend on the sort. Candidates are put in order only as far as the filters and the draw look: those not far below the
 * largest, then those half as far again, and so on. The sum of all weights is taken by blocks, with an exponential that
 * becomes vector code.
 *
 * min-p: arXiv 2407.01082. Repetition penalty: arXiv 1909.05858, section 4.1, over the last 64 tokens; the presence
 * penalty is subtracted once from every token that stands among them, the frequency penalty once for each time. */
#include "model/sample.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>

enum { PENALTY_TOKENS = 64, SCANNED = 256 /* logits that are looked over in one go */ };

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

/* The first of the largest logits, in *best; false: the one at *best is not a number. By blocks: a block in which
 * nothing is above the best so far is passed over without a branch per logit. */
static bool find_best(const float *logits, int n, int32_t *best) {
    float most = -INFINITY;
    *best = 0;
    for (int from = 0; from < n; from += SCANNED) {
        int to = n - from < SCANNED ? n : from + SCANNED, any = 0;
        for (int i = from; i < to; i++)
            any |= !(logits[i] <= most);
        for (int i = from; any && i < to; i++) {
            if (logits[i] <= most)
                continue;
            *best = i;
            if (isnan(logits[i]))
                return false;
            most = logits[i];
        }
    }
    return true;
}

static inline int by_logit(const candidate *x, const candidate *y) {
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Lets list[at] sink in the heap list[0, n), whose root is its last in order. */
static void sink_in(candidate *list, int at, int n) {
    candidate c = list[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && by_logit(&list[child], &list[child + 1]) < 0;
        if (by_logit(&c, &list[child]) >= 0)
            break;
        list[at] = list[child];
    }
    list[at] = c;
}

/* Heapsort: in place, so that nothing is allocated for a token. */
static void sort(candidate *list, int n) {
    for (int i = n / 2 - 1; i >= 0; i--)
        sink_in(list, i, n);
    for (int i = n - 1; i > 0; i--) {
        candidate last = list[0];
        list[0] = list[i];
        list[i] = last;
        sink_in(list, 0, i);
    }
}

/* The best candidates in order, as far as they are looked at: those whose logit is at least `low`. */
typedef struct ranking {
    const float *logits;
    candidate *list;
    int n, n_sorted;
    float max, low, depth;
} ranking;

/* Goes half as deep again below the largest. */
static void rank_deeper(ranking *r) {
    float high = r->low;
    int n = r->n_sorted;
    r->low = r->max - r->depth;
    r->depth *= 1.5f;
    for (int from = 0; from < r->n; from += SCANNED) {
        int to = r->n - from < SCANNED ? r->n : from + SCANNED, any = 0;
        for (int i = from; i < to; i++)
            any |= (r->logits[i] < high) & (r->logits[i] >= r->low);
        for (int i = from; any && i < to; i++)
            if (r->logits[i] < high && r->logits[i] >= r->low)
                r->list[n++] = (candidate){.logit = r->logits[i], .id = i};
    }
    sort(r->list + r->n_sorted, n - r->n_sorted);
    r->n_sorted = n;
}

static const candidate *ranked(ranking *r, int i) {
    while (i >= r->n_sorted)
        rank_deeper(r);
    return &r->list[i];
}

/* e^x of x <= 0, to 1e-11 of it; below -700 as there. 2^n times the series of the rest, without a branch or a call, so
 * that a loop of it becomes vectors. */
static inline double exp_of(double x) {
    const double log2_e = 1.4426950408889634, ln2 = 0.69314718055994531, to_integer = 6755399441055744; /* 1.5 * 2^52 */
    x = x > -700 ? x : -700;
    union {
        double f;
        uint64_t bits; /* the low ones are n's */
    } n = {.f = x * log2_e + to_integer}, power = {.bits = (n.bits + 1023) << 52};
    double r = x - (n.f - to_integer) * ln2, sum = 1 + r / 9;
    for (int i = 8; i > 0; i--)
        sum = 1 + r * (1. / i) * sum;
    return power.f * sum;
}

double sample_exp_sum(const float *logits, int n, float max, float temperature) {
    enum { LANES = 8 };
    double sum = 0, scale = 1 / (double)temperature;
    for (int from = 0; from < n; from += SCANNED) {
        int m = n - from < SCANNED ? n - from : SCANNED;
        double weight[SCANNED] = {0}, lane[LANES] = {0};
        for (int i = 0; i < m; i++)
            weight[i] = exp_of(((double)logits[from + i] - (double)max) * scale);
        for (int i = 0; i < SCANNED; i += LANES)
            for (int j = 0; j < LANES; j++)
                lane[j] += weight[i + j];
        for (int j = 0; j < LANES; j++)
            sum += lane[j];
    }
    return sum;
}

static double weight_of(const candidate *c, float max, float temperature) {
    return exp(((double)c->logit - (double)max) / (double)temperature);
}

static int32_t draw(sampler *s, const pleat_sampling *p, const float *logits, float max, uint64_t position) {
    enum { FIRST_DEPTH = 2 }; /* where most of the weight is, in temperatures */
    ranking r = {.logits = logits,
                 .list = s->list,
                 .n = s->n_vocab,
                 .max = max,
                 .low = INFINITY,
                 .depth = FIRST_DEPTH * (p->temperature > 0.1f ? p->temperature : 0.1f)};
    double sum = 0, kept = 0;
    int n = p->top_k && p->top_k < r.n ? p->top_k : r.n;
    if (n == r.n)
        sum = sample_exp_sum(logits, n, max, p->temperature);
    for (int i = 0; i < n && n < r.n; i++)
        sum += weight_of(ranked(&r, i), max, p->temperature);
    int n_kept = p->top_p < 1 || p->min_p > 0 ? 0 : n;
    while (n_kept < n) {
        double weight = weight_of(ranked(&r, n_kept), max, p->temperature);
        if (n_kept && (weight < (double)p->min_p || kept >= (double)p->top_p * sum))
            break;
        kept += weight;
        n_kept++;
    }
    double at = rng_uniform(p->seed, 0, position) * (kept > 0 ? kept : sum);
    for (int i = 0; i < n_kept; i++) {
        at -= weight_of(ranked(&r, i), max, p->temperature);
        if (at < 0)
            return r.list[i].id;
    }
    return ranked(&r, 0)->id; /* the last weights were lost in the sum's rounding */
}

pleat_status sample_token(sampler *s, const pleat_sampling *p, float *logits, const int32_t *history, int n_history,
                          int32_t *token, pleat_error *error) {
    pleat_status status = sample_check(p, error);
    if (status)
        return status;
    int32_t best;
    if (!find_best(logits, s->n_vocab, &best))
        return err_set(error, PLEAT_EINPUT, "the logit of token %d is not a number", best);
    if (p->temperature > 0) {
        penalise(p, logits, s->n_vocab, history, n_history);
        find_best(logits, s->n_vocab, &best);
    }
    if (isinf(logits[best]))
        return err_set(error, PLEAT_EINPUT, "the largest logit (token %d) is not finite", best);
    *token = p->temperature > 0 ? draw(s, p, logits, logits[best], (uint64_t)n_history) : best;
    return PLEAT_OK;
}
