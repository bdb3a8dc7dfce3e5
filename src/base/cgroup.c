/* cgroup.c - reads the CPU and memory limits of this process's control groups.
 *
 * /proc/self/cgroup has lines "ID:CONTROLLERS:PATH"; version 2 is the line "0::PATH". A limit may sit on any ancestor,
 * so the path is walked up to the mount's root and the tightest one counts. In a container the root of the mount is the
 * container's own group, where the files can stand although PATH names a folder that is not visible; missing files say
 * nothing. Every unreadable thing means "no limit": a guess here only sizes defaults. */
#include "base/cgroup.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*visit)(const char *folder, void *out);

static size_t read_file(const char *folder, const char *name, char *out, size_t n) {
    char path[4096];
    out[0] = 0;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    size_t got = fread(out, 1, n - 1, f);
    fclose(f);
    out[got] = 0;
    return got;
}

static void walk_up(const char *mount, const char *group, visit see, void *out) {
    char folder[4096];
    int n = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (n < 0 || n >= (int)sizeof folder)
        return;
    size_t root = strlen(mount);
    for (;;) {
        see(folder, out);
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root)
            return;
        *slash = 0;
    }
}

/* True when the comma-separated list (not ended by 0) holds name. */
static bool lists(const char *list, size_t n, const char *name) {
    size_t n_name = strlen(name);
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && list[end] != ',')
            end++;
        if (end - i == n_name && memcmp(list + i, name, n_name) == 0)
            return true;
        i = end + 1;
    }
    return false;
}

/* Calls see2 on each folder of the version 2 group and see1 on each of the version 1 group of controller. */
static void visit_groups(const char *controller, visit see2, visit see1, void *out) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return;
    char line[4096], mount[64];
    snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controller);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        controllers++;
        size_t n = (size_t)(group - controllers);
        group++;
        if (n == 0) {
            walk_up("/sys/fs/cgroup", group, see2, out);
        } else if (lists(controllers, n, controller)) {
            walk_up(mount, group, see1, out);
        }
    }
    fclose(f);
}

static void keep_lower(double *cores, double quota, double period) {
    if (quota > 0 && period > 0 && (*cores == 0 || quota / period < *cores))
        *cores = quota / period;
}

static void see_cpu2(const char *folder, void *out) {
    char bytes[128], *end;
    if (!read_file(folder, "cpu.max", bytes, sizeof bytes) || strncmp(bytes, "max", 3) == 0)
        return;
    double quota = (double)strtoll(bytes, &end, 10);
    keep_lower(out, quota, (double)strtoll(end, NULL, 10));
}

static void see_cpu1(const char *folder, void *out) {
    char quota[64], period[64];
    if (!read_file(folder, "cpu.cfs_quota_us", quota, sizeof quota))
        return;
    if (!read_file(folder, "cpu.cfs_period_us", period, sizeof period))
        return;
    keep_lower(out, (double)strtoll(quota, NULL, 10), (double)strtoll(period, NULL, 10));
}

double cgroup_cpu_cores(void) {
    double cores = 0;
    visit_groups("cpu", see_cpu2, see_cpu1, &cores);
    return cores;
}

/* The number after "key " at the start of a line of memory.stat; 0 when there is none. */
static uint64_t stat_of(const char *folder, const char *key) {
    char bytes[16384];
    size_t n_key = strlen(key);
    if (!read_file(folder, "memory.stat", bytes, sizeof bytes))
        return 0;
    for (char *line = bytes; line; line = strchr(line, '\n'), line += line ? 1 : 0)
        if (strncmp(line, key, n_key) == 0 && line[n_key] == ' ')
            return strtoull(line + n_key, NULL, 10);
    return 0;
}

static void see_memory(const char *folder, const char *limit_file, const char *used_file, const char *cache_key,
                       size_t *left) {
    char limit_text[64], used_text[64];
    if (!read_file(folder, limit_file, limit_text, sizeof limit_text) || strncmp(limit_text, "max", 3) == 0)
        return;
    if (!read_file(folder, used_file, used_text, sizeof used_text))
        return;
    uint64_t limit = strtoull(limit_text, NULL, 10), used = strtoull(used_text, NULL, 10);
    uint64_t cache = stat_of(folder, cache_key);
    used = used > cache ? used - cache : 0;
    uint64_t free_bytes = limit > used ? limit - used : 0;
    if (free_bytes < *left)
        *left = (size_t)free_bytes;
}

static void see_memory2(const char *folder, void *out) {
    see_memory(folder, "memory.max", "memory.current", "inactive_file", out);
}

static void see_memory1(const char *folder, void *out) {
    see_memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", out);
}

size_t cgroup_memory_left_bytes(void) {
    size_t left = SIZE_MAX;
    visit_groups("memory", see_memory2, see_memory1, &left);
    return left;
}
