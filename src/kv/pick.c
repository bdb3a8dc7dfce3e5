/* pick.c - arithmetic that policies share which read less: products of a decode query with all bounds of a lane, shares
 * of them, the best, and the bits that say what is read. Layout of bounds: bounds.c. All of it is paid for each lane
 * and layer of a step, before the attention that it saves: rows stand in whole pages, so that the vector kernels take
 * them. */
#include "kv/lane.h"
#include "kv/dots.h"
#include <math.h>
#include <string.h>

enum { SIDE_BY_SIDE = TILE };

int pick_count(const kv_pick *pick) {
    int n_slots = pick->view->n_slots[pick->ih];
    return (n_slots + pick->bound_slots - 1) / pick->bound_slots;
}

int pick_room(const kv_pick *pick) {
    return page_count(pick_count(pick)) * PAGE_TOKENS;
}

static uint16_t live_slots(const kv_pick *pick, int bound) {
    const int32_t *pos = pick->view->pos[pick->ih];
    int first = bound * pick->bound_slots, n_slots = pick->view->n_slots[pick->ih], n = n_slots - first;
    unsigned live = 0;
    n = n < pick->bound_slots ? n : pick->bound_slots;
    if (pick->view->n_live[pick->ih] == n_slots)
        return (uint16_t)((1u << n) - 1);
    for (int i = 0; i < n; i++)
        live |= (unsigned)(pos[first + i] != KV_DEAD) << i;
    return (uint16_t)live;
}

void pick_products(const kv_pick *pick, const float *a, int n_rows, float *s, uint16_t *live) {
    int d = pick->view->model->head_dim, n = pick_count(pick), n_blocks = (n + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE,
        room = pick_room(pick);
    memset(s, 0, (size_t)(n_rows * room) * sizeof(*s));
    for (int block = 0; block < n_blocks; block++)
        pick->view->kernels->tile[TILE_F16](a, (size_t)(2 * d), n_rows, pick->bound[block], 2 * d,
                                            s + block * SIDE_BY_SIDE, (size_t)room,
                                            block + 1 < n_blocks ? pick->bound[block + 1] : NULL);
    for (int b = 0; b < room; b++) {
        unsigned slots = b < n ? live_slots(pick, b) : 0;
        if (b < n)
            live[b] = (uint16_t)slots;
        for (int r = 0; !slots && r < n_rows; r++)
            s[r * room + b] = -INFINITY;
    }
}

void pick_shares(const kv_pick *pick, float *s, const float *weight, float scale, float *mean) {
    const cpu_kernels *kernels = pick->view->kernels;
    int room = pick_room(pick);
    float max = -INFINITY, sum = 0, correction;
    kernels->scale(s, room, scale);
    kernels->softmax_pages(s, room / PAGE_TOKENS, 1, &max, &sum, &correction);
    if (weight)
        sum = (float)dot_double(s, weight, room);
    kernels->add_scaled(mean, s, room, 1 / sum);
}

void pick_best(const kv_pick *pick, const float *s, int n, int n_best, int32_t *best) {
    int32_t *order = pick->view->scratch->order, *index = pick->view->scratch->inverse;
    for (int i = 0; i < n; i++)
        order[i] = index[i] = i;
    n_best = n_best < n ? n_best : n;
    if (n_best < n)
        select_leaving(order, n, n - n_best, s, NULL, index);
    memcpy(best, order + n - n_best, (size_t)n_best * sizeof(*best));
}

void pick_read(const kv_pick *pick, int g, int b, uint16_t slots, uint64_t *read) {
    int first = b * pick->bound_slots;
    read[g * pick->n_pages + first / PAGE_TOKENS] |= (uint64_t)slots << (first % PAGE_TOKENS);
}
