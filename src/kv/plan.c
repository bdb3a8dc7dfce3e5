/* plan.c - what stays at an event. The policy gives a budget and a score per slot, the split shares the budget out, and
 * each lane keeps its best: higher score first, then the smaller position (the tie rule lives here, once, for every
 * policy).
 *
 * Slots scored INFINITY (windows, sinks) always stay, even when they alone exceed the budget. Cost: a step event drops
 * one token of each lane and is one scan; a prompt's end selects by quickselect, linear in the slots. */
#include "kv/lane.h"
#include <limits.h>
#include <math.h>

void select_leaving(int32_t *order, int n, int n_drop, const float *score, const float *ties, const int32_t *pos) {
    int low = 0, high = n - 1;
    while (low < high) {
        int32_t pivot = order[low + (high - low) / 2];
        int i = low - 1, j = high + 1;
        for (;;) {
            do
                i++;
            while (leaves_first(score, ties, pos, order[i], pivot));
            do
                j--;
            while (leaves_first(score, ties, pos, pivot, order[j]));
            if (i >= j)
                break;
            int32_t swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        if (n_drop <= j)
            high = j;
        else if (n_drop > j + 1)
            low = j + 1;
        else
            return;
    }
}

/* What a step evicts as a rule. */
static void evict_one(kv_lane *lane, const float *score, const float *ties) {
    int first = -1;
    for (int slot = 0; slot < lane->n_slots; slot++)
        if (lane->pos[slot] != KV_DEAD && score[slot] != INFINITY &&
            (first < 0 || leaves_first(score, ties, lane->pos, slot, first)))
            first = slot;
    if (first >= 0)
        lane_kill(lane, first);
}

static void evict_to(kv_lane *lane, int keep, float *score, const float *ties, int32_t *order) {
    int n = 0, n_forced = 0;
    if (lane->n_live <= keep)
        return;
    if (lane->n_live == keep + 1) {
        evict_one(lane, score, ties);
        return;
    }
    for (int slot = 0; slot < lane->n_slots; slot++) {
        if (lane->pos[slot] == KV_DEAD)
            continue;
        n_forced += score[slot] == INFINITY;
        order[n++] = slot;
    }
    int n_drop = n - (keep > n_forced ? keep : n_forced);
    if (n_drop <= 0)
        return;
    select_leaving(order, n, n_drop, score, ties, lane->pos);
    for (int i = 0; i < n_drop; i++)
        lane_kill(lane, order[i]);
}

static bool pinned(const kv_cache *cache, int32_t pos) {
    for (int i = 0; i < cache->n_pins && cache->pin[i].first <= pos; i++)
        if (pos < cache->pin[i].end)
            return true;
    return false;
}

/* Sinks and pinned tokens must stay; a score that is no number goes first. */
static void force_slots(const kv_cache *cache, const kv_lane *lane, float *restrict score) {
    const kv_method *method = &cache->method;
    const int32_t *restrict pos = lane->pos;
    int n_sinks = method->sinks_tokens;
    for (int slot = 0; slot < lane->n_slots; slot++) {
        float s = isnan(score[slot]) ? -INFINITY : score[slot];
        score[slot] = pos[slot] < n_sinks ? INFINITY : s;
    }
    for (int slot = 0; method->pin && cache->n_pins && slot < lane->n_slots; slot++)
        if (pinned(cache, pos[slot]))
            score[slot] = INFINITY;
}

void plan_event(kv_cache *cache, int il, kv_event event, kv_scratch *scratch, const cpu_kernels *kernels) {
    const kv_method *method = &cache->method;
    int n_heads = cache->model->n_head_kv, keep[KV_MAX_HEADS], most_live = 0;
    int64_t evicted = 0;
    view_store store;
    kv_view view = view_open(cache, il, event, scratch, kernels, &store);
    int budget = method->policy->budget(&method->policy_config, &view);
    if (budget == INT_MAX)
        return;
    if (method->split->layer_budget)
        budget = method->split->layer_budget(&method->split_config, &view, budget);
    for (int ih = 0; ih < n_heads; ih++) {
        most_live = view.n_live[ih] > most_live ? view.n_live[ih] : most_live;
        keep[ih] = budget;
        evicted -= lane_of(cache, il, ih)->evicted;
        scratch->has_ties[ih] = false;
    }
    if (budget >= most_live && !method->split->heads)
        return;
    view.moments = queries_moments(cache, il, kernels);
    method->policy->score(&method->policy_config, &view, scratch->score_row);
    for (int ih = 0; ih < n_heads; ih++)
        force_slots(cache, lane_of(cache, il, ih), scratch->score_row[ih]);
    if (method->split->heads)
        method->split->heads(&method->split_config, &view, (const float *const *)scratch->score_row, budget, keep);
    for (int ih = 0; ih < n_heads; ih++) {
        kv_lane *lane = lane_of(cache, il, ih);
        float *score = scratch->score_row[ih];
        if (method->critical && keep[ih] < lane->n_live)
            critical_weigh(cache, &view, ih, keep[ih], score);
        evict_to(lane, keep[ih], score,
                 scratch->has_ties[ih] ? scratch->ties + (size_t)ih * (size_t)scratch->cap_slots : NULL,
                 scratch->order);
        evicted += lane->evicted;
    }
    if (evicted && event != KV_AT_GRID)
        queries_restart(cache, il);
}
