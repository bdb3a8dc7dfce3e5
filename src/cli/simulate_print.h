/* simulate_print.h - what `pleat simulate` prints, and keeps. results [n_cases][n_policies]; of: the conditions. */
#ifndef CLI_SIMULATE_PRINT_H
#define CLI_SIMULATE_PRINT_H
#include "cli/print.h"
#include "route/sweep.h"

void simulate_show(const json_t *of, const sim_result *results, int n_cases, int n_policies);
json_t *simulate_json(json_t *of, const sim_result *results, int n_cases, int n_policies); /* takes `of` over */
/* Into a study store, and onto a page; either may be NULL. */
pleat_status simulate_keep(const char *store_path, const char *report_path, const json_t *of, const sim_result *results,
                           int n_cases, int n_policies, pleat_error *error);
#endif
