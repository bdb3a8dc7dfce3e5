/* figures.c - see figures.h. */
#include "report/figures.h"
#include "base/status.h"
#include <stdlib.h>
#include <string.h>

#define FILLED_LABEL "f16 (filled)"

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

static void list_all(figures *f) {
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        if (!strcmp(p->label, FILLED_LABEL)) {
            f->has_agreement = true;
            f->agreement = *p;
            continue;
        }
        add_label(f, p->label);
        add_size(f->batch, &f->n_batch, p->batch);
        add_size(f->prompt, &f->n_prompt, p->prompt_tokens);
    }
    for (int i = 0; i < f->answers.n; i++)
        add_label(f, f->answers.answer[i].label);
    for (int i = 0; i < f->qualities.n; i++)
        add_label(f, f->qualities.quality[i].label);
    for (int i = 1; i < f->n_labels; i++)
        if (!strcmp(f->label[i], "f16")) {
            memmove(f->label + 1, f->label, (size_t)i * sizeof(*f->label));
            f->label[0] = "f16";
        }
}

pleat_status figures_read(store *db, int64_t run, figures *out, pleat_error *error) {
    figures f = {.n_labels = 0};
    pleat_status status = store_runs_read(db, &f.runs, error);
    if (!status && !pick_run(&f, run))
        status = run ? err_set(error, PLEAT_EINPUT, "the study holds no run %lld", (long long)run)
                     : err_set(error, PLEAT_EINPUT, "the study holds no run yet");
    status = status ? status : store_points_read(db, f.run.id, &f.points, error);
    status = status ? status : store_answers_read(db, f.run.id, &f.answers, error);
    status = status ? status : store_qualities_read(db, f.run.id, &f.qualities, error);
    if (status) {
        figures_free(&f);
        return status;
    }
    list_all(&f);
    *out = f;
    return PLEAT_OK;
}

void figures_free(figures *f) {
    store_runs_free(&f->runs);
    store_points_free(&f->points);
    store_answers_free(&f->answers);
    store_qualities_free(&f->qualities);
}

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

double figures_ratio(const figures *f, const char *label, int batch, int prompt, const char *stage, double *noise) {
    const store_point *p = figures_point(f, label, batch, prompt, stage),
                      *base = figures_point(f, "f16", batch, prompt, stage);
    if (!p || !base)
        return 0;
    if (noise) {
        *noise = p->spread > base->spread ? p->spread : base->spread;
        *noise = *noise < 0.03 ? 0.03 : *noise;
    }
    return p->median / base->median;
}

double figures_holds(const figures *f, const char *label, int batch, int prompt) {
    const store_point *p = figures_point(f, label, batch, prompt, "decode"),
                      *base = figures_point(f, "f16", batch, prompt, "decode");
    return p && base && p->kv_bytes ? (double)base->kv_bytes / (double)p->kv_bytes : 0;
}

const store_quality *figures_quality(const figures *f, const char *label) {
    for (int i = f->qualities.n - 1; i >= 0; i--)
        if (!strcmp(f->qualities.quality[i].label, label))
            return &f->qualities.quality[i];
    return NULL;
}

static const store_answer *base_answer(const figures *f, const store_answer *a) {
    for (int i = 0; i < f->answers.n; i++) {
        const store_answer *b = &f->answers.answer[i];
        if (!strcmp(b->label, "f16") && b->seed == a->seed && !strcmp(b->sample, a->sample) &&
            !strcmp(b->data_set, a->data_set))
            return b;
    }
    return NULL;
}

void figures_lengths_of(const figures *f, const char *label, figures_lengths *out) {
    *out = (figures_lengths){.n = 0};
    int most = (int)(sizeof(out->ratio) / sizeof(*out->ratio)), n_longer = 0;
    for (int i = 0; i < f->answers.n && out->n < most; i++) {
        const store_answer *a = &f->answers.answer[i], *b = base_answer(f, a);
        if (strcmp(a->label, label) || !b || b->n_tokens == 0)
            continue;
        double ratio = (double)a->n_tokens / b->n_tokens;
        out->ratio[out->n++] = ratio;
        out->mean += ratio;
        out->agree += (double)a->agree_tokens / b->n_tokens;
        n_longer += ratio >= 1.5;
        out->n_capped += (a->finish && !strcmp(a->finish, "length")) || (b->finish && !strcmp(b->finish, "length"));
    }
    if (!out->n)
        return;
    out->mean /= out->n;
    out->agree /= out->n;
    out->share_longer = (double)n_longer / out->n;
}
