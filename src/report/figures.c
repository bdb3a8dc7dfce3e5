/* figures.c - see figures.h. */
#include "report/figures.h"
#include "base/status.h"
#include <stdlib.h>
#include <math.h>
#include <string.h>

/* ---- arranging ---- */

static void add_label(figures *f, const char *label) {
    for (int i = 0; i < f->n_labels; i++)
        if (!strcmp(f->label[i], label))
            return;
    if (f->n_labels < FIGURES_MOST)
        f->label[f->n_labels++] = label;
}

static void add_size(int *list, int *n, int value) {
    int i = 0;
    while (i < *n && list[i] < value)
        i++;
    if ((i < *n && list[i] == value) || *n == FIGURES_MOST)
        return;
    memmove(list + i + 1, list + i, (size_t)(*n - i) * sizeof(*list));
    list[i] = value;
    ++*n;
}

static bool same_cell(const store_point *a, const store_point *b) {
    return a->batch == b->batch && a->prompt_tokens == b->prompt_tokens && !strcmp(a->label, b->label) &&
           !strcmp(a->stage, b->stage);
}

/* Moves the filled points that have a twin over a real prompt to `checks`. */
static pleat_status part_checks(figures *f, pleat_error *error) {
    int n = 0;
    f->checks.point = calloc((size_t)f->points.n + 1, sizeof(*f->checks.point));
    if (!f->checks.point)
        return err_set(error, PLEAT_EMEMORY, "no memory for the figures of a run");
    for (int i = 0; i < f->points.n; i++) {
        store_point *p = &f->points.point[i];
        bool twin = false;
        for (int k = 0; k < f->points.n && p->filled && !twin; k++)
            twin = !f->points.point[k].filled && same_cell(p, &f->points.point[k]);
        if (twin)
            f->checks.point[f->checks.n++] = *p;
    }
    for (int i = 0; i < f->points.n; i++) {
        bool moved = false;
        for (int k = 0; k < f->checks.n && !moved; k++)
            moved = f->points.point[i].filled && same_cell(&f->points.point[i], &f->checks.point[k]);
        if (!moved)
            f->points.point[n++] = f->points.point[i];
    }
    f->points.n = n;
    for (int i = 0; i < f->checks.n && f->n_agreements < FIGURES_MOST; i++) {
        const store_point *filled = &f->checks.point[i];
        const store_point *real = figures_point(f, filled->label, filled->batch, filled->prompt_tokens, filled->stage);
        if (real && !filled->error && filled->median > 0)
            f->agreement[f->n_agreements++] = (figures_agreement){real, filled};
    }
    return PLEAT_OK;
}

/* Joins the windows of each method (on the first text and window size that it has). */
static pleat_status join_windows(figures *f, pleat_error *error) {
    store_window *some = calloc((size_t)f->windows.n + 1, sizeof(*some));
    if (!some)
        return err_set(error, PLEAT_EMEMORY, "no memory for the figures of a run");
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < f->n_labels && !status; i++) {
        int n = 0;
        for (int k = 0; k < f->windows.n; k++) {
            const store_window *w = &f->windows.window[k];
            if (!strcmp(w->label, f->label[i]) &&
                (n == 0 || (w->ctx == some[0].ctx && !strcmp(w->text_name, some[0].text_name))))
                some[n++] = *w;
        }
        if (!n)
            continue;
        figures_quality *q = &f->quality[f->n_qualities++];
        *q = (figures_quality){
            .label = f->label[i], .spec = some[0].spec, .text_name = some[0].text_name, .ctx = some[0].ctx};
        status = quality_join(some, n, &q->result, error);
    }
    free(some);
    return status;
}

static bool is_base(const store_answer *b, const store_answer *a) {
    return !strcmp(b->label, "f16") && b->seed == a->seed && !strcmp(b->sample, a->sample) &&
           !strcmp(b->data_set, a->data_set);
}

/* The answers to a prompt were put together, so the base is close before its pair. */
static pleat_status pair_answers(figures *f, pleat_error *error) {
    f->base = malloc((size_t)f->answers.n * sizeof(*f->base) + 1);
    if (!f->base)
        return err_set(error, PLEAT_EMEMORY, "no memory for the figures of a run");
    for (int i = 0; i < f->answers.n; i++) {
        const store_answer *a = f->answers.answer;
        int k = i;
        while (k >= 0 && !is_base(&a[k], &a[i]))
            k--;
        f->base[i] = k;
    }
    return PLEAT_OK;
}

static pleat_status arrange(figures *f, pleat_error *error) {
    pleat_status status = part_checks(f, error);
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        add_label(f, p->label);
        add_size(f->batch, &f->n_batch, p->batch);
        add_size(f->prompt, &f->n_prompt, p->prompt_tokens);
    }
    for (int i = 0; i < f->answers.n; i++)
        add_label(f, f->answers.answer[i].label);
    for (int i = 0; i < f->windows.n; i++)
        add_label(f, f->windows.window[i].label);
    for (int i = 1; i < f->n_labels; i++)
        if (!strcmp(f->label[i], "f16")) {
            memmove(f->label + 1, f->label, (size_t)i * sizeof(*f->label));
            f->label[0] = "f16";
        }
    status = status ? status : pair_answers(f, error);
    return status ? status : join_windows(f, error);
}

/* ---- reading ---- */

/* The run that was asked for: by id, else the newest study, else the newest of any kind. */
static bool pick_run(figures *f, int64_t id) {
    int found = -1;
    for (int i = 0; i < f->runs.n; i++) {
        const store_run *r = &f->runs.run[i];
        bool better = found < 0 || !strcmp(r->what, "study") || strcmp(f->runs.run[found].what, "study");
        if (id ? r->id == id : better)
            found = i;
    }
    if (found >= 0)
        f->run = f->runs.run[found];
    return found >= 0;
}

pleat_status figures_read(store *db, int64_t run, figures *out, pleat_error *error) {
    figures *f = out;
    *f = (figures){.n_labels = 0};
    pleat_status status = store_runs_read(db, &f->runs, error);
    if (!status && !pick_run(f, run))
        status = run ? err_set(error, PLEAT_EINPUT, "the study holds no run %lld", (long long)run)
                     : err_set(error, PLEAT_EINPUT, "the study holds no run yet");
    status = status ? status : store_points_read(db, f->run.id, &f->points, error);
    status = status ? status : store_answers_read(db, f->run.id, &f->answers, error);
    status = status ? status : store_windows_read(db, f->run.id, &f->windows, error);
    status = status ? status : arrange(f, error);
    if (status)
        figures_free(f);
    return status;
}

void figures_free(figures *f) {
    store_runs_free(&f->runs);
    store_points_free(&f->points);
    store_points_free(&f->checks);
    store_answers_free(&f->answers);
    store_windows_free(&f->windows);
    free(f->base);
    *f = (figures){.n_labels = 0};
}

/* ---- speed and memory ---- */

const store_point *figures_any(const figures *f, const char *label, int batch, int prompt, const char *stage) {
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        if (p->batch == batch && p->prompt_tokens == prompt && !strcmp(p->label, label) && !strcmp(p->stage, stage))
            return p;
    }
    return NULL;
}

const store_point *figures_point(const figures *f, const char *label, int batch, int prompt, const char *stage) {
    const store_point *p = figures_any(f, label, batch, prompt, stage);
    return p && !p->error && p->median > 0 ? p : NULL;
}

bool figures_filled(const figures *f, int prompt, const char *stage) {
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        if (p->filled && p->prompt_tokens == prompt && !strcmp(p->stage, stage))
            return true;
    }
    return false;
}

static void range(const store_point *p, double *low, double *high) {
    *low = *high = p->rate[0];
    for (int i = 1; i < p->n_repeats; i++) {
        *low = p->rate[i] < *low ? p->rate[i] : *low;
        *high = p->rate[i] > *high ? p->rate[i] : *high;
    }
}

static figures_verdict judge(const store_point *p, const store_point *base, double ratio) {
    double low, high, base_low, base_high;
    if (p->n_repeats < 2 || base->n_repeats < 2)
        return FIGURES_UNSURE;
    range(p, &low, &high);
    range(base, &base_low, &base_high);
    if (low > base_high && ratio > 1 + FIGURES_LEAST_DIFFERENCE)
        return FIGURES_FASTER;
    if (high < base_low && ratio < 1 - FIGURES_LEAST_DIFFERENCE)
        return FIGURES_SLOWER;
    return FIGURES_SAME;
}

bool figures_speed_of(const figures *f, const char *label, int batch, int prompt, const char *stage,
                      figures_speed *out) {
    const store_point *p = figures_point(f, label, batch, prompt, stage),
                      *base = figures_point(f, "f16", batch, prompt, stage);
    if (!p || !base)
        return false;
    double ratio = p->median / base->median;
    *out = (figures_speed){.ratio = ratio, .verdict = judge(p, base, ratio), .point = p, .base = base};
    return true;
}

figures_cells figures_cells_of(const figures *f, const char *label, const char *stage) {
    figures_cells c = {.lowest = INFINITY, .highest = -INFINITY, .slowest_ratio = INFINITY};
    figures_speed speed;
    for (int i = 0; i < f->n_prompt; i++)
        for (int k = 0; k < f->n_batch; k++) {
            if (!figures_speed_of(f, label, f->batch[k], f->prompt[i], stage, &speed))
                continue;
            c.n++;
            c.n_faster += speed.verdict == FIGURES_FASTER;
            c.n_slower += speed.verdict == FIGURES_SLOWER;
            c.lowest = speed.ratio < c.lowest ? speed.ratio : c.lowest;
            c.highest = speed.ratio > c.highest ? speed.ratio : c.highest;
            if (speed.verdict == FIGURES_SLOWER && speed.ratio < c.slowest_ratio) {
                c.slowest_ratio = speed.ratio;
                c.slowest_batch = f->batch[k];
                c.slowest_prompt = f->prompt[i];
            }
        }
    return c;
}

double figures_share(const figures *f, const char *label, int batch, int prompt) {
    const store_point *p = figures_point(f, label, batch, prompt, "decode"),
                      *base = figures_point(f, "f16", batch, prompt, "decode");
    return p && base && base->kv_bytes ? (double)p->kv_bytes / (double)base->kv_bytes : 0;
}

/* ---- quality and lengths ---- */

const figures_quality *figures_quality_of(const figures *f, const char *label) {
    for (int i = 0; i < f->n_qualities; i++)
        if (!strcmp(f->quality[i].label, label))
            return &f->quality[i];
    return NULL;
}

void figures_lengths_of(const figures *f, const char *label, figures_lengths *out) {
    *out = (figures_lengths){.n = 0};
    int n_longer = 0;
    for (int i = 0; i < f->answers.n; i++) {
        const store_answer *a = &f->answers.answer[i], *b = f->base[i] < 0 ? NULL : &f->answers.answer[f->base[i]];
        if (strcmp(a->label, label) || !b || b->n_tokens == 0)
            continue;
        double ratio = (double)a->n_tokens / b->n_tokens;
        if (out->n_ratios < FIGURES_MOST_RATIOS)
            out->ratio[out->n_ratios++] = ratio;
        out->n++;
        out->mean += ratio;
        out->agree += (double)a->agree_tokens / b->n_tokens;
        n_longer += ratio >= 1.5;
        out->n_acted += a->acted;
        out->n_capped += (a->finish && !strcmp(a->finish, "length")) || (b->finish && !strcmp(b->finish, "length"));
    }
    if (!out->n)
        return;
    out->mean /= out->n;
    out->agree /= out->n;
    out->share_longer = (double)n_longer / out->n;
}
