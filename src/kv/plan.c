/* plan.c - what stays at an event. The policy gives a budget and a score per slot, the split shares the budget out, and
 * each lane keeps its best: higher score first, then the smaller position (methods.md's tie rule lives here, once, for
 * every policy).
 *
 * Slots scored INFINITY (windows, sinks) always stay, even when they alone exceed the budget. Cost: a step event drops
 * one token of each lane and is one scan; a prompt's end selects by quickselect, linear in the slots. */
#include "kv/lane.h"
#include <limits.h>
#include <math.h>

/* True when slot a leaves before slot b. */
static bool leaves_first(const float *score, const int32_t *pos, int a, int b) {
    if (score[a] != score[b])
        return score[a] < score[b];
    return pos[a] > pos[b];
}

/* Moves the n_drop slots that leave first to the front of order[0..n). */
static void select_leaving(int32_t *order, int n, int n_drop, const float *score, const int32_t *pos) {
    int low = 0, high = n - 1;
    while (low < high) {
        int32_t pivot = order[low + (high - low) / 2];
        int i = low - 1, j = high + 1;
        for (;;) {
            do
                i++;
            while (leaves_first(score, pos, order[i], pivot));
            do
                j--;
            while (leaves_first(score, pos, pivot, order[j]));
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

static void evict_to(kv_lane *lane, int keep, float *score, int32_t *order) {
    int n = 0, n_forced = 0;
    for (int slot = 0; slot < lane->n_slots; slot++) {
        if (lane->pos[slot] == KV_DEAD)
            continue;
        if (isnan(score[slot]))
            score[slot] = -INFINITY;
        n_forced += score[slot] == INFINITY;
        order[n++] = slot;
    }
    int n_drop = n - (keep > n_forced ? keep : n_forced);
    if (n_drop <= 0)
        return;
    if (n_drop == 1) {
        int first = order[0];
        for (int i = 1; i < n; i++)
            if (leaves_first(score, lane->pos, order[i], first))
                first = order[i];
        lane_kill(lane, first);
        return;
    }
    select_leaving(order, n, n_drop, score, lane->pos);
    for (int i = 0; i < n_drop; i++)
        lane_kill(lane, order[i]);
}

static void force_sinks(const kv_cache *cache, kv_lane *lane, float *score) {
    for (int slot = 0; slot < lane->n_slots; slot++)
        if (lane->pos[slot] < cache->method.sinks_tokens)
            score[slot] = INFINITY;
}

void plan_event(kv_cache *cache, int il, kv_event event, kv_scratch *scratch) {
    const kv_method *method = &cache->method;
    int n_heads = cache->model->n_head_kv;
    int n_slots[KV_MAX_HEADS], n_live[KV_MAX_HEADS], keep[KV_MAX_HEADS];
    const int32_t *pos[KV_MAX_HEADS];
    const float *mass[KV_MAX_HEADS];
    int most_live = 0;
    for (int ih = 0; ih < n_heads; ih++) {
        kv_lane *lane = lane_of(cache, il, ih);
        n_slots[ih] = lane->n_slots;
        n_live[ih] = lane->n_live;
        pos[ih] = lane->pos;
        mass[ih] = lane->mass;
        most_live = lane->n_live > most_live ? lane->n_live : most_live;
    }
    kv_view view = {.model = cache->model,
                    .il = il,
                    .event = event,
                    .n_seen = cache->n_seen + cache->n_new,
                    .n_prompt = cache->n_seen + cache->n_new - cache->prompt_from,
                    .n_slots = n_slots,
                    .n_live = n_live,
                    .pos = pos,
                    .mass = lane_of(cache, il, 0)->mass ? mass : NULL,
                    .cache = cache};
    int budget = method->policy->budget(&method->policy_config, &view);
    if (budget == INT_MAX)
        return;
    if (method->split->layer_budget)
        budget = method->split->layer_budget(&method->split_config, &view, budget);
    if (budget >= most_live && !method->split->heads)
        return;
    method->policy->score(&method->policy_config, &view, scratch->score_row);
    for (int ih = 0; ih < n_heads; ih++)
        keep[ih] = budget;
    for (int ih = 0; method->sinks_tokens && ih < n_heads; ih++)
        force_sinks(cache, lane_of(cache, il, ih), scratch->score_row[ih]);
    if (method->split->heads)
        method->split->heads(&method->split_config, &view, (const float *const *)scratch->score_row, budget, keep);
    for (int ih = 0; ih < n_heads; ih++)
        evict_to(lane_of(cache, il, ih), keep[ih], scratch->score_row[ih], scratch->order);
}
