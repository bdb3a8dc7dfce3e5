/* pick.c - arithmetic that policies share which read less: products of a decode query with all bounds of a lane, the
 * best of them, and the bits that say what is read. Layout of bounds: bounds.c. */
#include "kv/lane.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE_BY_SIDE = TILE };

int pick_count(const kv_pick *pick) {
    int n_slots = pick->view->n_slots[pick->ih];
    return (n_slots + pick->bound_slots - 1) / pick->bound_slots;
}

int pick_room(const kv_pick *pick) {
    return (pick_count(pick) + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE * SIDE_BY_SIDE;
}

static uint16_t live_slots(const kv_pick *pick, int bound) {
    const int32_t *pos = pick->view->pos[pick->ih];
    int first = bound * pick->bound_slots, n_slots = pick->view->n_slots[pick->ih];
    unsigned live = 0;
    for (int i = 0; i < pick->bound_slots && first + i < n_slots; i++)
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
    for (int r = 1; r < n_rows; r++)
        memmove(s + r * n, s + r * room, (size_t)n * sizeof(*s));
    for (int b = 0; b < n; b++) {
        live[b] = live_slots(pick, b);
        for (int r = 0; !live[b] && r < n_rows; r++)
            s[r * n + b] = -INFINITY;
    }
}

static int best_first(const void *a, const void *b, void *s) {
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    float x = ((const float *)s)[i], y = ((const float *)s)[k];
    return x != y ? (x < y) - (x > y) : (i > k) - (i < k);
}

void pick_best(const kv_pick *pick, const float *s, int n, int n_best, int32_t *best) {
    int32_t *order = pick->view->scratch->order, *index = pick->view->scratch->inverse;
    for (int i = 0; i < n; i++)
        order[i] = index[i] = i;
    n_best = n_best < n ? n_best : n;
    if (n_best < n)
        select_leaving(order, n, n - n_best, s, NULL, index);
    memcpy(best, order + n - n_best, (size_t)n_best * sizeof(*best));
    qsort_r(best, (size_t)n_best, sizeof(*best), best_first, (void *)s);
}

void pick_read(const kv_pick *pick, int g, int b, uint16_t slots, uint64_t *read) {
    int first = b * pick->bound_slots;
    read[g * pick->n_pages + first / PAGE_TOKENS] |= (uint64_t)slots << (first % PAGE_TOKENS);
}
