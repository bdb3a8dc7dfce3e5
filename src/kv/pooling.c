/* pooling.c - see pooling.h. An average counts the places beyond the ends as zeros, as the published code does. */
#include "kv/pooling.h"
#include <math.h>

void pooling_run(const float *x, int n, int kernel, bool average, float *y) {
    int half = kernel / 2;
    for (int i = 0; i < n; i++) {
        int from = i < half ? 0 : i - half, to = i + half < n ? i + half : n - 1;
        float most = x[from], sum = 0;
        for (int k = from; k <= to; k++) {
            most = x[k] > most ? x[k] : most;
            sum += x[k];
        }
        y[i] = average ? sum / (float)kernel : most;
    }
}

size_t pooling_floats(const kv_model *model, int window, int n_slots) {
    return (size_t)(model->n_head / model->n_head_kv * window + 3) * (size_t)n_slots;
}

void pooling_score(const kv_view *view, int ih, const pooling *how, float *s) {
    int n_slots = view->n_slots[ih], n = how->window < view->n_window_q ? how->window : view->n_window_q,
        group = view->model->n_head / view->model->n_head_kv, n_old = 0;
    size_t row = (size_t)n_slots;
    float *p = kv_view_work(view, pooling_floats(view->model, how->window, n_slots)),
          *votes = p + (size_t)(group * n) * row, *pooled = votes + row, *ties = kv_view_ties(view, ih);
    int32_t *order = (int32_t *)(pooled + row);
    kv_view_window(view, ih, n, p);
    int n_live = kv_view_order(view, ih, order);
    for (int slot = 0; slot < n_slots; slot++)
        ties[slot] = 0;
    for (int r = 0; r < group * n; r++)
        view->kernels->add(ties, p + (size_t)r * row, n_slots);
    float share = 1 / (float)(how->sum ? n : n * group);
    for (; n_old < n_live && view->pos[ih][order[n_old]] < view->n_seen - how->window; n_old++)
        votes[n_old] = ties[order[n_old]] *= share;
    pooling_run(votes, n_old, how->kernel, how->average, pooled);
    for (int i = 0; i < n_live; i++)
        s[order[i]] = i < n_old ? pooled[i] : INFINITY;
}
