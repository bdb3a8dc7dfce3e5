/* cgroup.h - what the control groups around this process leave it (Linux cgroups, version 2 and 1). Internal to base.
 */
#ifndef BASE_CGROUP_H
#define BASE_CGROUP_H
#include <stddef.h>

/* CPU quota in cores, the tightest on the way up; 0: none is set. */
double cgroup_cpu_cores(void);
/* Memory that may still be taken before the tightest limit, file cache that can be dropped counted as free; SIZE_MAX:
 * no limit. */
size_t cgroup_memory_left_bytes(void);
#endif
