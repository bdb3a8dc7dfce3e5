/* pick.c - the policies. Each but the blind ones gives every able replica a score, the least wins, and equal scores are
 * broken at random (seeded): a fixed order would send every quiet moment's requests to replica 0. */
#include "route/inside.h"
#include "base/rng.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[ROUTE_POLICIES] = {
    [ROUTE_LEAST_MEMORY] = "least-memory",
    [ROUTE_THROUGHPUT] = "throughput",
    [ROUTE_LENGTH] = "length",
    [ROUTE_BOTH] = "both",
    [ROUTE_ROUND_ROBIN] = "round-robin",
    [ROUTE_RANDOM] = "random",
    [ROUTE_POWER_OF_TWO] = "power-of-two",
    [ROUTE_LEAST_REQUESTS] = "least-requests",
    [ROUTE_LEAST_TOKENS] = "least-tokens",
    [ROUTE_LEAST_WORK] = "least-work",
    [ROUTE_STATE] = "state",
};

const char *route_policy_name(route_policy policy) {
    return names[policy];
}

bool route_policy_find(const char *name, route_policy *policy) {
    for (int i = 0; i < ROUTE_POLICIES; i++)
        if (!strcmp(name, names[i])) {
            *policy = (route_policy)i;
            return true;
        }
    return false;
}

/* Fits there, were it alone: the prompt, held whole until it is done, and a first token. */
static bool fits(const route_replica *r, const route_request *request) {
    double tokens = (double)request->prompt_tokens + 1;
    if (r->most_context_tokens && tokens > r->most_context_tokens)
        return false;
    return tokens * r->token_bytes <= r->kv_bytes;
}

/* ---- scores ---- */

static double work_left(const route_table *t, const route_lane *l) {
    float left = 0, spread = t->trust[l->replica.method].spread;
    for (int k = 0; k < l->n; k++)
        left += route_left(l->predicted[k], (float)l->done[k], spread);
    return (double)left + (double)l->waiting_tokens + l->other_tokens;
}

static double score(const route_table *t, route_policy policy, int i, const route_request *request,
                    const route_belief *belief, route_delay *delay) {
    const route_lane *l = &t->lane[i];
    int method = l->replica.method;
    double prompt = request->prompt_tokens, told = (double)request->answer_tokens[method];
    switch (policy) {
    case ROUTE_LEAST_MEMORY:
        return ((double)l->kept_tokens + l->other_tokens) * l->replica.token_bytes;
    case ROUTE_LENGTH:
        return told;
    case ROUTE_THROUGHPUT:
    case ROUTE_BOTH:
        *delay = route_delay_static(l, prompt, policy == ROUTE_BOTH ? told : (double)request->answer_tokens[0]);
        return delay->prefill_s + delay->decode_s;
    case ROUTE_LEAST_TOKENS:
        return (double)(l->prompt_tokens + l->answer_tokens) + l->other_tokens;
    case ROUTE_LEAST_WORK:
        return work_left(t, l) + prompt + (double)belief->tokens[method];
    default:
        return route_requests(l);
    }
}

/* ---- choosing ---- */

typedef struct choice {
    int able[ROUTE_MOST_REPLICAS], n;
} choice;

static void find_able(const route_table *t, const route_request *request, choice *c, int *n_ready) {
    c->n = *n_ready = 0;
    for (int i = 0; i < t->n; i++) {
        *n_ready += t->lane[i].ready;
        if (t->lane[i].ready && fits(&t->lane[i].replica, request))
            c->able[c->n++] = i;
    }
}

static int draw(const route_table *t, int stream, int n) {
    return (int)(rng_uniform(t->seed, (uint64_t)stream, t->n_picks) * n);
}

/* Keeps two different ones. */
static void draw_two(const route_table *t, choice *c) {
    int a = draw(t, 1, c->n), b = draw(t, 2, c->n - 1);
    b += b >= a;
    a = c->able[a];
    b = c->able[b];
    c->able[0] = a;
    c->able[1] = b;
    c->n = 2;
}

static int next_in_turn(route_table *t, const choice *c) {
    int best = 0;
    for (int k = 0; k < c->n; k++) /* able is rising: the first one after the last turn, else the first */
        if (c->able[k] > t->turn) {
            best = k;
            break;
        }
    return t->turn = c->able[best];
}

static void fill_scores(const route_table *t, const choice *c, const route_request *request, const route_belief *belief,
                        route_policy policy, double *scores, route_delay *delays) {
    if (policy == ROUTE_STATE) {
        route_state_scores(t, c->able, c->n, request->prompt_tokens, belief, scores, delays);
        return;
    }
    for (int k = 0; k < c->n; k++) {
        delays[k] = (route_delay){0};
        scores[k] = score(t, policy, c->able[k], request, belief, &delays[k]);
    }
}

static int choose_least(const route_table *t, const choice *c, const route_request *request, const route_belief *belief,
                        route_receipt *out) {
    double scores[ROUTE_MOST_REPLICAS], least = INFINITY;
    route_delay delays[ROUTE_MOST_REPLICAS];
    int n_least = 0, best = -1;
    fill_scores(t, c, request, belief, out->policy, scores, delays);
    for (int k = 0; k < c->n; k++)
        least = scores[k] < least ? scores[k] : least;
    double edge = least + 1e-9 * fabs(least);
    for (int k = 0; k < c->n; k++)
        n_least += scores[k] <= edge;
    int nth = n_least > 1 ? draw(t, 0, n_least) : 0;
    for (int k = 0; k < c->n; k++)
        if (scores[k] <= edge && nth-- == 0)
            best = k;
    for (int k = 0; k < c->n; k++)
        if (k != best && (out->next < 0 || scores[k] < out->next_score)) {
            out->next = c->able[k];
            out->next_score = scores[k];
        }
    out->reason = n_least > 1 ? ROUTE_TIED : ROUTE_BEST;
    out->score = scores[best];
    out->wait_s = delays[best].wait_s;
    out->prefill_s = delays[best].prefill_s;
    out->decode_s = delays[best].decode_s;
    out->tail_s = delays[best].tail_s;
    out->harm_s = delays[best].harm_s;
    return c->able[best];
}

static int choose(route_table *t, choice *c, const route_request *request, const route_belief *belief,
                  route_receipt *out) {
    if (out->policy == ROUTE_ROUND_ROBIN || out->policy == ROUTE_RANDOM) {
        out->reason = c->n > 1 ? ROUTE_BLIND : ROUTE_ONLY;
        return out->policy == ROUTE_RANDOM ? c->able[draw(t, 0, c->n)] : next_in_turn(t, c);
    }
    if (out->policy == ROUTE_POWER_OF_TWO && c->n > 2)
        draw_two(t, c);
    int chosen = choose_least(t, c, request, belief, out);
    out->reason = c->n > 1 ? out->reason : ROUTE_ONLY;
    return chosen;
}

int route_pick(route_table *t, route_policy policy, const route_request *request, route_receipt *receipt) {
    route_receipt out = {.policy = policy, .replica = -1, .next = -1, .score = NAN, .next_score = NAN};
    choice c;
    route_belief belief;
    int n_ready, ticket = -1;
    find_able(t, request, &c, &n_ready);
    out.n_able = c.n;
    if (!n_ready)
        out.reason = ROUTE_NO_READY;
    else if (!c.n)
        out.reason = ROUTE_NO_ROOM;
    else if (t->n_in_flight == t->most_in_flight)
        out.reason = ROUTE_FULL;
    else {
        route_trust_believe(t, request, &belief);
        out.replica = choose(t, &c, request, &belief, &out);
        ticket = route_count(t, out.replica, request, &belief);
        t->n_picks++;
    }
    if (receipt)
        *receipt = out;
    return ticket;
}

/* ---- receipts ---- */

static const char *unit_of(route_policy policy) {
    switch (policy) {
    case ROUTE_LEAST_MEMORY:
        return "bytes";
    case ROUTE_LENGTH:
    case ROUTE_LEAST_TOKENS:
    case ROUTE_LEAST_WORK:
        return "tokens";
    case ROUTE_THROUGHPUT:
    case ROUTE_BOTH:
    case ROUTE_STATE:
        return "s";
    default:
        return "requests";
    }
}

static const char *refusal(route_reason reason) {
    return reason == ROUTE_NO_READY  ? "no replica is ready"
           : reason == ROUTE_NO_ROOM ? "the request fits in no replica"
                                     : "the ledger is full";
}

const char *route_receipt_text(const route_receipt *r, char *out, size_t cap) {
    const char *name = route_policy_name(r->policy), *unit = unit_of(r->policy);
    char parts[120] = "", why[120] = "";
    if (r->replica < 0) {
        snprintf(out, cap, "%s: none, %s", name, refusal(r->reason));
        return out;
    }
    if (r->policy == ROUTE_STATE)
        snprintf(parts, sizeof(parts), " = wait %.3g + prefill %.3g + decode %.3g + tail %.3g + harm %.3g", r->wait_s,
                 r->prefill_s, r->decode_s, r->tail_s, r->harm_s);
    else if (r->policy == ROUTE_THROUGHPUT || r->policy == ROUTE_BOTH)
        snprintf(parts, sizeof(parts), " = prefill %.3g + decode %.3g", r->prefill_s, r->decode_s);
    if (r->reason == ROUTE_ONLY)
        snprintf(why, sizeof(why), "no other can take it");
    else if (r->reason == ROUTE_BLIND)
        snprintf(why, sizeof(why), "one of %d", r->n_able);
    else
        snprintf(why, sizeof(why), "%s replica %d, %.4g %s", r->reason == ROUTE_TIED ? "tied with" : "next best",
                 r->next, r->next_score, unit);
    if (isnan(r->score))
        snprintf(out, cap, "%s: replica %d; %s", name, r->replica, why);
    else
        snprintf(out, cap, "%s: replica %d, %.4g %s%s; %s", name, r->replica, r->score, unit, parts, why);
    return out;
}
