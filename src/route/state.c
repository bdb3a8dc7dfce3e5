/* state.c - policies that predict seconds: the paper's rule, and `state`.
 *
 * The paper's rule (Gao et al., MLSys 2025, section 5) adds a prompt's own prefill time to its answer's length times
 * the step time at the replica's present batch. It sees neither who waits there nor what the request does to others.
 *
 * `state` compares what the whole pool's delays become. A request of predicted delay T counts as
 *
 *     phi(T) = T + T (T / S)^4 / 5        S^4 = 2 x the mean of T^4 over all requests in flight
 *
 * so that a second more counts 1 + (T / S)^4: as one second for most, as several for those that are slow already. That
 * is what holds the 99th percentile down: long answers go where the batch is small, and are left alone there. S makes
 * the second term, over those in flight, half of the first, whatever their lengths: no scale is to be set, and a few
 * very long answers cannot outvote the rest. (Half was chosen by simulation: less gives the mean more,
 * docs/simulate.md.) A replica's score is
 *
 *     phi(own)                     own = wait + prefill + answer x step
 *   + sum over those there of (seconds the request costs them) x (1 + (T_j / S)^4)
 *
 * The step is the profile's at the batch with the request in it. A request there is slowed by the request's prompt
 * once, and by the batch's growth in every step that both are in: min(its tokens left, the answer's). Wait: prompts in
 * front, and when batch or memory would overflow, the departures that must come first, at the batch's present pace.
 * Memory is taken at half growth: those there are on average half way between what they hold and what they will hold.
 *
 * Requests that only other routers know of count as the average of those known here.
 *
 * Cost: one predicted step a replica, and about a nanosecond a request in flight. */
#include "route/inside.h"
#include <math.h>
#include <string.h>

enum { WIDTH = 4 };
static const double tail_share = 0.5;

route_delay route_delay_static(const route_lane *l, double prompt, double answer) {
    int n = route_requests(l) + 1;
    double tokens = (double)(l->prompt_tokens + l->answer_tokens) + l->other_tokens + prompt;
    double step_s = route_decode_s(l, n < l->replica.most_batch ? n : l->replica.most_batch, tokens / n);
    return (route_delay){.prefill_s = route_prompt_s(l, prompt), .decode_s = answer * step_s};
}

/* ---- those in flight ---- */

typedef struct sums {           /* over a lane's requests; lengths are whole answers in tokens */
    double left, whole, whole4; /* tokens to come; lengths, their fourth powers */
    double shared, shared4;     /* steps shared with the new request; the same weighted with the fourth power */
} sums;

/* Requests side by side. Left to itself the compiler makes one chain of these sums, half as slow again (bench/route.c).
 */
typedef float lanes __attribute__((vector_size(WIDTH * sizeof(float))));
typedef int32_t whole_lanes __attribute__((vector_size(WIDTH * sizeof(int32_t))));

static inline lanes least(lanes a, lanes b) {
    whole_lanes a_is = a < b;
    return (lanes)((a_is & (whole_lanes)a) | (~a_is & (whole_lanes)b));
}

static inline lanes take(const float *from) {
    lanes x;
    memcpy(&x, from, sizeof(x));
    return x;
}

static inline lanes take_whole(const int32_t *from) {
    whole_lanes x;
    memcpy(&x, from, sizeof(x));
    return __builtin_convertvector(x, lanes);
}

static inline double total(lanes x) {
    double sum = 0;
    for (int k = 0; k < WIDTH; k++)
        sum += (double)x[k];
    return sum;
}

/* As route_left. */
static inline lanes left_of(const route_lane *l, int i, lanes done, float spread) {
    return -least(done - take(l->predicted + i), -(spread * done + 1));
}

/* Places past the last request are empty and read as one token to come of an answer of one: they are taken off again.
 */
static sums sum_lane(const route_lane *l, double answer, float spread) {
    lanes left = {0}, whole = {0}, whole4 = {0}, shared = {0}, shared4 = {0}, own = (lanes){0} + (float)answer;
    for (int i = 0; i < l->n; i += WIDTH) {
        lanes done = take_whole(l->done + i), to_come = left_of(l, i, done, spread), all = done + to_come;
        lanes with = least(to_come, own), square = all * all * 1e-4f, fourth = square * square; /* of hundreds */
        left += to_come;
        whole += all;
        whole4 += fourth;
        shared += with;
        shared4 += with * fourth;
    }
    double empty = (WIDTH - l->n % WIDTH) % WIDTH;
    return (sums){total(left) - empty, total(whole) - empty, total(whole4) * 1e8,
                  total(shared) - empty * (answer < 1 ? answer : 1), total(shared4) * 1e8};
}

/* Tokens that an evicting method will hold of the lane's requests at their ends. */
static double sum_kept(const route_lane *l, float spread) {
    lanes kept = {0}, most = kept + (float)l->replica.most_kept_tokens;
    for (int i = 0; i < l->n; i += WIDTH) {
        lanes done = take_whole(l->done + i);
        kept += least(take_whole(l->prompt + i) + done + left_of(l, i, done, spread), most);
    }
    return total(kept); /* an empty place adds one token */
}

/* Others' requests: like those known here; when none is, like the new one half way. */
static void add_others(const route_lane *l, double answer, sums *s) {
    double more = l->other_requests, scale = l->n ? 1 + more / l->n : 0, fourth = answer * answer * answer * answer;
    if (more && l->n)
        *s = (sums){s->left * scale, s->whole * scale, s->whole4 * scale, s->shared * scale, s->shared4 * scale};
    else if (more)
        *s = (sums){more * answer / 2, more * answer, more * fourth, more * answer / 2, more * fourth * answer / 2};
}

/* ---- one replica ---- */

typedef struct outlook {
    sums those;
    double step_s, slope_s; /* with the request in the batch; what one more in the batch adds */
    route_delay delay;
} outlook;

/* How many must leave before the request runs. The growth of what is held is at most half of the tokens to come, so
 * that only an evicting method near its limit is looked at closely. */
static double departures_needed(const route_lane *l, const sums *those, double prompt, double answer, float spread) {
    int n = route_requests(l) + 1;
    double room = l->replica.kv_bytes / l->replica.token_bytes, own = route_kept(&l->replica, prompt + answer);
    double held = (double)l->kept_tokens + l->other_tokens + those->left / 2, by_memory = 0;
    if (held + own > room && l->replica.most_kept_tokens > 0)
        held = ((double)l->kept_tokens + sum_kept(l, spread)) / 2 * (l->n ? (double)route_requests(l) / l->n : 1);
    if (held + own > room)
        by_memory = (held + own - room) / (held + own) * n;
    return n - l->replica.most_batch > by_memory ? n - l->replica.most_batch : by_memory;
}

static outlook look(const route_lane *l, double prompt, double answer, float spread) {
    outlook o = {.those = sum_lane(l, answer, spread)};
    int n = route_requests(l), batch = n + 1 < l->replica.most_batch ? n + 1 : l->replica.most_batch;
    double tokens = (double)(l->prompt_tokens + l->answer_tokens) + l->other_tokens + prompt + answer / 2;
    add_others(l, answer, &o.those);
    o.step_s = route_decode_s(l, batch, tokens / (n + 1));
    if (batch > 1 && o.step_s > l->single_s)
        o.slope_s = (o.step_s - l->single_s) / (batch - 1);
    double over = departures_needed(l, &o.those, prompt, answer, spread);
    o.delay.wait_s = (double)l->waiting_ns / 1e9;
    if (over > 0 && n > 0)
        o.delay.wait_s += over * o.those.left / n * o.step_s / batch;
    o.delay.prefill_s = route_prompt_s(l, prompt) + o.step_s;
    o.delay.decode_s = answer * o.step_s;
    return o;
}

static double fourth(double x) {
    return x * x * x * x;
}

static double score(const route_lane *l, outlook *o, double prompt, double fourth_s) {
    route_delay *d = &o->delay;
    double own_s = d->wait_s + d->prefill_s + d->decode_s, once_s = route_prompt_s(l, prompt);
    double unit4 = fourth(o->step_s) / fourth_s;
    d->tail_s = own_s * fourth(own_s) / fourth_s / 5;
    d->harm_s = o->slope_s * (o->those.shared + unit4 * o->those.shared4) +
                once_s * (route_requests(l) + unit4 * o->those.whole4);
    return own_s + d->tail_s + d->harm_s;
}

void route_state_scores(const route_table *t, const int *able, int n, double prompt, const route_belief *belief,
                        double *scores, route_delay *delays) {
    outlook o[ROUTE_MOST_REPLICAS];
    double sum4 = 0, requests = 0;
    for (int k = 0; k < n; k++) {
        const route_lane *l = &t->lane[able[k]];
        o[k] = look(l, prompt, (double)belief->tokens[l->replica.method], t->trust[l->replica.method].spread);
        sum4 += fourth(o[k].step_s) * o[k].those.whole4;
        requests += route_requests(l);
    }
    for (int k = 0; k < n; k++) {
        const route_lane *l = &t->lane[able[k]];
        double own_s = o[k].delay.wait_s + o[k].delay.prefill_s + o[k].delay.decode_s;
        scores[k] = score(l, &o[k], prompt, (requests > 0 ? sum4 / requests : fourth(own_s)) / tail_share);
        delays[k] = o[k].delay;
    }
}
