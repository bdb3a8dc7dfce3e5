/* cmd_report.c - `pleat report`. */
#include "cli/commands.h"
#include "cli/print.h"
#include "report/report.h"
#include <stdio.h>

static const command self = {
    .name = "report",
    .summary = "The page of a stored study: one HTML file that needs nothing else.",
    .arguments = "",
    .example = "pleat report --store study.db -o report.html",
};

int cmd_report(int argc, char **argv) {
    const char *path = "study.db", *out = "report.html";
    int run = 0, n_arguments, n_threads = 0;
    bool json = false;
    const option options[] = {
        {"store", 0, OPTION_TEXT, &path, "FILE", "the study database", 0, 0},
        {"output", 'o', OPTION_TEXT, &out, "FILE", "the page", 0, 0},
        {"run", 0, OPTION_INT, &run, "ID", "a run of the study; 0: the newest study", 0, 1 << 30},
        OPTION_ONE_THREAD(&n_threads),
        {"json", 0, OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    pleat_error error;
    store *db = NULL;
    pleat_status status = store_open(path, false, &db, &error);
    status = status ? status : report_write(db, run, out, &error);
    store_close(db);
    if (status)
        return print_error(self.name, &error);
    if (json)
        return print_json(self.name, json_pack("{s:s,s:s}", "store", path, "report", out));
    printf("%s\n", out);
    return EXIT_OK;
}
