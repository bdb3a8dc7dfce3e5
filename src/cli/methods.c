/* methods.c - see methods.h. */
#include "cli/methods.h"
#include "kv/method.h"
#include "model/model.h"
#include <stdio.h>
#include <string.h>

static bool is_among(const char *const *said, int n, const char *sentence) {
    for (int i = 0; i < n; i++)
        if (!strcmp(said[i], sentence))
            return true;
    return false;
}

static void warn(const char *command_name, pleat_method *const *method, int n, const pleat_model *model) {
    const char *said[MEASURE_MOST_METHODS * KV_MOST_WARNINGS];
    int n_said = 0;
    for (int i = 0; i < n; i++) {
        const char *warning[KV_MOST_WARNINGS];
        int n_warnings = kv_method_warnings(method[i], &model->kv, warning);
        for (int k = 0; k < n_warnings; k++)
            if (!is_among(said, n_said, warning[k])) {
                fprintf(stderr, "pleat %s: warning: %s\n", command_name, warning[k]);
                said[n_said++] = warning[k];
            }
    }
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
