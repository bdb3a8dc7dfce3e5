/* methods.h - the methods that a command was given: parsed for the model, and what a person should know before using
 * them on it said on standard error, "pleat COMMAND: warning: SENTENCE" a line, each sentence once. */
#ifndef CLI_METHODS_H
#define CLI_METHODS_H
#include "measure/measure.h"

/* As pleat_method_parse. */
pleat_status method_read(const char *command_name, const char *spec, const pleat_model *model, pleat_method **out,
                         pleat_error *error);
/* As measure_methods_parse. */
pleat_status methods_read(const char *command_name, const char *list, const pleat_model *model, measure_methods *out,
                          pleat_error *error);
#endif
