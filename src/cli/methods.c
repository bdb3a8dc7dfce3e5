/* methods.c - see methods.h. */
#include "cli/methods.h"
#include "kv/method.h"
#include "model/model.h"
#include <stdio.h>

static void warn(const char *command_name, pleat_method *const *method, int n, const pleat_model *model) {
    const char *warning[MEASURE_MOST_METHODS * KV_MOST_WARNINGS];
    int n_warnings = 0;
    for (int i = 0; i < n; i++)
        n_warnings = kv_method_warnings(method[i], &model->kv, warning, n_warnings);
    for (int i = 0; i < n_warnings; i++)
        fprintf(stderr, "pleat %s: warning: %s\n", command_name, warning[i]);
}

pleat_status method_read(const char *command_name, const char *spec, const pleat_model *model, pleat_method **out,
                         pleat_error *error) {
    pleat_status status = pleat_method_parse(spec, model, out, error);
    if (!status)
        warn(command_name, out, 1, model);
    return status;
}

pleat_status methods_read(const char *command_name, const char *list, const pleat_model *model, measure_methods *out,
                          pleat_error *error) {
    pleat_status status = measure_methods_parse(list, model, out, error);
    if (!status)
        warn(command_name, out->method, out->n, model);
    return status;
}
