/* route.c - what a pick costs: 64 replicas of two methods, each with so many requests in flight, by policy.
 *
 * A pick, the count in the ledger, and the end that makes room for the next, all in. The fastest of a hundred turns is
 * what the code costs; the median says what else the machine does. */
#include "base/clock.h"
#include "base/rng.h"
#include "route/route.h"
#include <stdio.h>
#include <stdlib.h>

enum { N_REPLICAS = 64, N_TURNS = 400, N_PICKS = 50, MOST_EACH = 128 };

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int pick(route_table *table, route_policy policy, uint64_t i) {
    float answer[2] = {(float)(20 + 800 * rng_uniform(1, 2, i)), (float)(20 + 900 * rng_uniform(1, 3, i))};
    route_request request = {(int)(10 + 500 * rng_uniform(1, 4, i)), answer, 1024};
    return route_pick(table, policy, &request, NULL);
}

static void time_picks(const route_replica *replicas, route_policy policy, int each) {
    static int ticket[N_REPLICAS * MOST_EACH];
    double us[N_TURNS];
    int n = N_REPLICAS * each;
    route_table *table;
    if (route_open(replicas, N_REPLICAS, n, 1, &table, NULL))
        return;
    for (int i = 0; i < n; i++) {
        ticket[i] = pick(table, ROUTE_LEAST_REQUESTS, (uint64_t)i);
        route_progress(table, ticket[i], (int)(400 * rng_uniform(1, 5, (uint64_t)i)));
    }
    for (int turn = 0; turn < N_TURNS; turn++) {
        double before = clock_seconds();
        for (int i = 0; i < N_PICKS; i++) {
            int *at = &ticket[rng_u64(1, 6, (uint64_t)(turn * N_PICKS + i)) % (uint64_t)n];
            route_end(table, *at, 300);
            *at = pick(table, policy, (uint64_t)(n + turn * N_PICKS + i));
            route_progress(table, *at, 200);
        }
        us[turn] = (clock_seconds() - before) / N_PICKS * 1e6;
    }
    route_close(table);
    qsort(us, N_TURNS, sizeof(*us), by_value);
    printf(" %8.2f (%5.2f)", us[N_TURNS / 100], us[N_TURNS / 2]);
}

int main(void) {
    static const char *const names[2] = {"plain", "small"};
    predict_profile *profile[2];
    pleat_error error;
    for (int i = 0; i < 2; i++) {
        predict_profile_options options = {.budget = i ? 512 : 0};
        if (predict_profile_load("tests/data/profile", names[i], &options, &profile[i], &error)) {
            fprintf(stderr, "%s (run this in the repository's root)\n", error.text);
            return 1;
        }
    }
    route_replica replicas[N_REPLICAS];
    static const int each[] = {16, 48, 128};
    for (int i = 0; i < N_REPLICAS; i++)
        replicas[i] =
            (route_replica){profile[i % 4 > 0], i % 4 > 0, 27.6e9, 524288, i % 4 > 0 ? 512 : 0, 4096, 128, 640};
    printf("microseconds a pick (median), %d replicas, by requests in flight at each\n%-16s", N_REPLICAS, "policy");
    for (int k = 0; k < 3; k++)
        printf(" %16d", each[k]);
    putchar('\n');
    for (int p = 0; p < ROUTE_POLICIES; p++) {
        printf("%-16s", route_policy_name((route_policy)p));
        for (int k = 0; k < 3; k++)
            time_picks(replicas, (route_policy)p, each[k]);
        putchar('\n');
    }
    predict_profile_free(profile[0]);
    predict_profile_free(profile[1]);
}
