/* memory.c - aligned memory, huge-page mappings and growing arrays; every size is checked before it is used. */
#include "base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cgroup.h"

enum { line_bytes = 64 };
static const size_t huge_bytes = (size_t)2 << 20;

void *mem_alloc(size_t n, size_t size_bytes) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size_bytes, &bytes) || bytes > (size_t)PTRDIFF_MAX - line_bytes)
        return NULL;
    bytes = bytes ? (bytes + line_bytes - 1) / line_bytes * line_bytes : line_bytes;
    void *p = aligned_alloc(line_bytes, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void mem_free(void *p) {
    free(p);
}

/* Whole huge pages, at least one; 0 when it overflows. */
static size_t round_huge(size_t bytes) {
    if (bytes == 0)
        return huge_bytes;
    if (bytes > (size_t)PTRDIFF_MAX - 2 * huge_bytes)
        return 0;
    return (bytes + huge_bytes - 1) / huge_bytes * huge_bytes;
}

void *mem_map(size_t bytes) {
    size_t want = round_huge(bytes);
    if (!want)
        return NULL;
    /* one huge page more than wanted, so that an aligned part can be cut out; the rest goes back */
    char *base =
        mmap(NULL, want + huge_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    size_t before = (huge_bytes - (uintptr_t)base % huge_bytes) % huge_bytes;
    if (before)
        munmap(base, before);
    if (huge_bytes - before)
        munmap(base + before + want, huge_bytes - before);
    madvise(base + before, want, MADV_HUGEPAGE);
    return base + before;
}

void mem_unmap(void *p, size_t bytes) {
    if (p)
        munmap(p, round_huge(bytes));
}

bool mem_grow(void *array_pointer, int *cap, int n, size_t size_bytes) {
    if (n <= *cap)
        return true;
    int wanted = *cap > INT32_MAX / 2 ? INT32_MAX : *cap * 2;
    if (wanted < n)
        wanted = n;
    if (wanted < 8)
        wanted = 8;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)wanted, size_bytes, &bytes) || bytes > PTRDIFF_MAX)
        return false;
    void *array; /* by memcpy: the caller's pointer may have any type */
    memcpy(&array, array_pointer, sizeof array);
    array = realloc(array, bytes ? bytes : 1);
    if (!array)
        return false;
    memcpy(array_pointer, &array, sizeof array);
    *cap = wanted;
    return true;
}

size_t mem_available_bytes(void) {
    FILE *f = fopen("/proc/meminfo", "re");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    size_t system_bytes = (size_t)kib * 1024, group_bytes = cgroup_memory_left_bytes();
    return system_bytes < group_bytes ? system_bytes : group_bytes;
}
