/* negatives_plan.c - which methods are compared with which base, the subsets of them, and the classes of tasks. */
#include "base/status.h"
#include "measure/longbench.h"
#include "measure/negatives.h"
#include <stdlib.h>
#include <string.h>

static pleat_status add(const negatives_table *t, const char *name, negatives_plan *p, pleat_error *error) {
    int method;
    if (!*name)
        return err_set(error, PLEAT_EINPUT, "a name in the list of methods is empty");
    pleat_status status = negatives_method(t, name, &method, error);
    if (status)
        return status;
    for (int i = 0; i < p->n; i++)
        if (p->method[i] == method)
            return err_set(error, PLEAT_EINPUT, "the method %.80s is named twice", name);
    if (p->n == NEGATIVES_MOST_METHODS)
        return err_set(error, PLEAT_EINPUT, "more than %d methods at once", NEGATIVES_MOST_METHODS);
    p->method[p->n] = method;
    p->name[p->n] = strdup(name);
    return p->name[p->n++] ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the name %.80s", name);
}

/* Names may have commas of their own: at each place the longest stretch between commas that names a method is one. */
static pleat_status add_list(const negatives_table *t, const char *list, negatives_plan *p, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    for (const char *at = list; !status; at++) {
        size_t first = strcspn(at, ","), n = strlen(at);
        char *name = strndup(at, n);
        int method;
        while (name && n > first && negatives_method(t, name, &method, NULL)) {
            n = (size_t)(strrchr(name, ',') - name);
            name[n] = 0;
        }
        status = name ? add(t, name, p, error) : err_set(error, PLEAT_EMEMORY, "no memory for the list of methods");
        free(name);
        at += n;
        if (!*at)
            break;
    }
    return status;
}

static pleat_status add_others(const negatives_table *t, negatives_plan *p, pleat_error *error) {
    char name[200];
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < t->methods.n && !status; i++)
        if (i != p->base)
            status = add(t, negatives_short_name(t, i, name, sizeof(name)), p, error);
    if (!status && !p->n)
        status = err_set(error, PLEAT_EINPUT, "the scores have no method beside the base %.80s", p->base_name);
    return status;
}

pleat_status negatives_plan_make(const negatives_table *t, const char *methods, const char *base, negatives_plan *out,
                                 pleat_error *error) {
    negatives_plan p = {.n = 0};
    const char *called = NULL;
    pleat_status status = negatives_base(t, base, &p.base, &called, error);
    if (status)
        return status;
    p.base_name = strdup(called);
    if (!p.base_name)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the name %.80s", called);
    else
        status = methods ? add_list(t, methods, &p, error) : add_others(t, &p, error);
    if (status)
        negatives_plan_free(&p);
    else
        *out = p;
    return status;
}

void negatives_plan_free(negatives_plan *p) {
    free(p->base_name);
    for (int i = 0; i < p->n; i++)
        free(p->name[i]);
    *p = (negatives_plan){.n = 0};
}

int negatives_subset(const negatives_plan *p, unsigned mask, int *methods) {
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (mask >> i & 1)
            methods[n++] = p->method[i];
    return n;
}

int negatives_subsets(const negatives_plan *p, unsigned *masks) {
    int n = 0;
    if (p->n > NEGATIVES_MOST_COMBINED) {
        for (int i = 0; i < p->n; i++)
            masks[n++] = 1u << i;
        masks[n++] = (unsigned)((1ull << p->n) - 1);
        return n;
    }
    for (int size = 1; size <= p->n; size++)
        for (unsigned mask = 1; mask < 1u << p->n; mask++)
            if (__builtin_popcount(mask) == size)
                masks[n++] = mask;
    return n;
}

static bool holds(const char *const *list, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i], name))
            return true;
    return false;
}

int negatives_classes(const negatives_table *t, const char **classes) {
    int n = 0;
    for (int i = 0; longbench_classes[i]; i++)
        if (holds(t->klass, t->sets.n, longbench_classes[i]))
            classes[n++] = longbench_classes[i];
    for (int i = 0; i < t->sets.n; i++)
        if (n < NEGATIVES_MOST_CLASSES && !holds(classes, n, t->klass[i]))
            classes[n++] = t->klass[i];
    return n;
}
