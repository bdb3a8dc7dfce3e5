/* serve_run.h - `pleat serve` from an open model to its end. */
#ifndef CLI_SERVE_RUN_H
#define CLI_SERVE_RUN_H
#include "cli/serve_plan.h"

typedef struct serve_task {
    const char *model; /* by name or file */
    int n_threads;     /* of the engine; 0: all cores */
    serve_options options;
    plan_sizes sizes;
    double drain_seconds; /* for answers under way after the first signal */
    bool repack;          /* else weights stay in the mapped file */
    bool json;
} serve_task;

/* Opens everything, prints the plan and the address, serves until SIGTERM or SIGINT and drains. Returns the exit code;
 * what went wrong has been said. */
int serve_run(const char *command_name, const serve_task *t);
#endif
