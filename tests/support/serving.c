/* serving.c - see serving.h. */
#include "support/serving.h"
#include "support/env.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

const char *serving_model(void) {
    const char *path = env_temp("serve-tiny");
    tiny_options o = tiny_default();
    o.context = 2048;
    o.template = true;
    tiny_write(path, &o);
    return path;
}

const char *serving_file(const char *tag, const char *words) {
    const char *path = env_temp(tag);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(words, f);
    assert_int_equal(fclose(f), 0);
    return path;
}

serving serving_start(const char *const *arguments) {
    serving s = {.program = program_start(arguments)};
    char *line = program_await(s.program.out, "\n}\n");
    s.said = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
    if (!s.said)
        fail_msg("not JSON: %s", line);
    s.port = (int)json_integer_value(json_object_get(s.said, "port"));
    free(line);
    return s;
}

void serving_stop(serving *s) {
    kill(s->program.pid, SIGTERM);
    program_result r = program_end(&s->program);
    if (r.code)
        fail_msg("exit code %d: %s", r.code, r.err);
    program_free(&r);
    json_decref(s->said);
}
