/* growth.c - how much longer answers get under a method, as quantiles read from a file.
 *
 * The built-in file is an assumption. The study (arXiv 2503.24000) publishes two figures of the distribution: the mean
 * growth of requests that grew (its Table 5: KIVI 1.69, GEAR 1.70, H2O 1.55, StreamingLLM 1.76), and that over a fifth
 * grow by 1.5x or more. A lognormal with median 1 has one parameter, which the first figure fixes; it then gives 0.24,
 * 0.24, 0.20 and 0.25 for the second. It says nothing of which answers grow: growth is drawn independently of the
 * prompt, of the answer's own length, and between methods. */
#include "route/workload.h"
#include "base/csv.h"
#include "base/memory.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

__asm__(".section .rodata\n"
        "route_growth_begin: .incbin \"src/route/growth.csv\"\n"
        "route_growth_end: .byte 0\n"
        ".previous\n");
extern const char route_growth_begin[], route_growth_end[];

static const char *const columns[] = {"method", "quantile", "growth", NULL};

const char *sim_growths_text(void) {
    return route_growth_begin;
}

static pleat_status add_method(const csv_row *row, sim_growths *g, pleat_error *error) {
    if (!*row->value[0] || strlen(row->value[0]) >= SIM_METHOD_CAP)
        return csv_fail(row, error, "method is \"%.80s\", not a name of 1 to %d letters", row->value[0],
                        SIM_METHOD_CAP - 1);
    if (!mem_grow(&g->of, &g->cap, g->n + 1, sizeof(*g->of)))
        return err_set(error, PLEAT_EMEMORY, "no memory for %d methods", g->n + 1);
    g->of[g->n] = (sim_growth){.n = 0};
    strcpy(g->of[g->n++].method, row->value[0]);
    return PLEAT_OK;
}

static pleat_status add_knot(void *context, const csv_row *row, pleat_error *error) {
    sim_growths *g = context;
    double quantile, growth;
    pleat_status status = csv_real(row, 1, 0, 1, &quantile, error);
    status = status ? status : csv_real(row, 2, 1e-3, 1e3, &growth, error);
    if (!status && !sim_growth_find(g, row->value[0]))
        status = add_method(row, g, error);
    if (status)
        return status;
    sim_growth *of = (sim_growth *)sim_growth_find(g, row->value[0]);
    if (of->n == SIM_MOST_KNOTS)
        return csv_fail(row, error, "%s has more than %d quantiles", of->method, SIM_MOST_KNOTS);
    if (of->n && (quantile <= of->quantile[of->n - 1] || log(growth) < of->log_growth[of->n - 1]))
        return csv_fail(row, error, "quantile %g, growth %g of %s do not rise above the row before", quantile, growth,
                        of->method);
    of->quantile[of->n] = quantile;
    of->log_growth[of->n++] = log(growth);
    return PLEAT_OK;
}

pleat_status sim_growths_read(const char *path, sim_growths *out, pleat_error *error) {
    sim_growths g = {0};
    pleat_status status =
        path ? csv_read(path, columns, add_knot, &g, error)
             : csv_read_bytes("the built-in growth", route_growth_begin,
                              (size_t)(route_growth_end - route_growth_begin), columns, add_knot, &g, error);
    if (!status && !g.n)
        status = err_set(error, PLEAT_EINPUT, "%.300s holds no row", path);
    if (status)
        sim_growths_free(&g);
    else
        *out = g;
    return status;
}

void sim_growths_free(sim_growths *g) {
    free(g->of);
    *g = (sim_growths){0};
}

const sim_growth *sim_growth_find(const sim_growths *g, const char *method) {
    for (int i = 0; i < g->n; i++)
        if (!strcmp(g->of[i].method, method))
            return &g->of[i];
    return NULL;
}

double sim_growth_at(const sim_growth *g, double q) {
    int i = 0;
    if (!g)
        return 1;
    while (i < g->n && g->quantile[i] <= q)
        i++;
    if (i == 0 || i == g->n)
        return exp(g->log_growth[i ? g->n - 1 : 0]);
    double share = (q - g->quantile[i - 1]) / (g->quantile[i] - g->quantile[i - 1]);
    return exp(g->log_growth[i - 1] + share * (g->log_growth[i] - g->log_growth[i - 1]));
}
