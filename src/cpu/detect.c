/* detect.c - x86: CPUID is asked for the instructions, XGETBV for the registers that the system saves on a switch, and
 * for AMX arch_prctl for this process' own permission: virtual machines advertise AMX in CPUID and then trap on it.
 * Arm: the system says it all in one word. */
#include "cpu/detect.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef __aarch64__
#include <sys/auxv.h> /* and the bits of AT_HWCAP */
#endif

#ifdef __x86_64__
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>

enum { /* XCR0 */
       XSAVE_YMM = 0x6,
       XSAVE_ZMM = 0xe6,
       XSAVE_AMX = 0x60000,
};
enum { ARCH_REQUEST_PERMISSION = 0x1023, COMPONENT_TILE_DATA = 18 };

static uint64_t saved_registers(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has(unsigned reg, unsigned bits) {
    return (reg & bits) == bits;
}

static bool avx2(const cpu_features *f) {
    return has(f->ecx1, bit_AVX | bit_FMA | bit_F16C) && has(f->ebx7, bit_AVX2) && (f->saved & XSAVE_YMM) == XSAVE_YMM;
}

static bool avx512(const cpu_features *f) {
    return avx2(f) && has(f->ebx7, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ) &&
           (f->saved & XSAVE_ZMM) == XSAVE_ZMM;
}

static bool has_tiles(const cpu_features *f) {
    enum { AMX_TILE = 1u << 24, AMX_INT8 = 1u << 25 };
    return has(f->edx7, AMX_TILE | AMX_INT8) && (f->saved & XSAVE_AMX) == XSAVE_AMX;
}

cpu_features cpu_detect_features(void) {
    cpu_features f = {.saved = saved_registers()};
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d))
        f.ecx1 = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        f.ebx7 = b, f.ecx7 = c, f.edx7 = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            f.eax71 = a;
    }
    if (__get_cpuid(0x8000001a, &a, &b, &c, &d))
        f.eax1a = a;
    f.tiles_permitted = has_tiles(&f) && syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, COMPONENT_TILE_DATA) == 0;
    return f;
}

bool cpu_detect_narrow(const cpu_features *f) {
    enum { FP256 = 1u << 2, FP512 = 1u << 3 };
    return (f->eax1a & (FP256 | FP512)) == FP256;
}

bool cpu_detect_from(const cpu_features *f, cpu_level level) {
    enum { AVX_VNNI = 1u << 4 };
    switch (level) {
    case CPU_PORTABLE:
        return true;
    case CPU_AVX2:
        return avx2(f);
    case CPU_AVX2VNNI:
        return avx2(f) && has(f->eax71, AVX_VNNI);
    case CPU_AVX512:
        return avx512(f);
    case CPU_AVX512VNNI:
        return avx512(f) && has(f->ecx7, bit_AVX512VNNI);
    case CPU_AMX:
        return avx512(f) && has(f->ecx7, bit_AVX512VNNI) && has_tiles(f) && f->tiles_permitted;
    case CPU_NEON:
    case CPU_LEVEL_COUNT:
        break;
    }
    return false;
}
#elif defined(__aarch64__)
cpu_features cpu_detect_features(void) {
    return (cpu_features){.hwcap = getauxval(AT_HWCAP)};
}

bool cpu_detect_from(const cpu_features *f, cpu_level level) {
    return level == CPU_PORTABLE || (level == CPU_NEON && (f->hwcap & HWCAP_ASIMDDP));
}
#else
cpu_features cpu_detect_features(void) {
    return (cpu_features){0};
}

bool cpu_detect_from(const cpu_features *f, cpu_level level) {
    (void)f;
    return level == CPU_PORTABLE;
}
#endif

#ifndef __x86_64__
bool cpu_detect_narrow(const cpu_features *f) {
    (void)f;
    return false;
}
#endif

bool cpu_detect(cpu_level level) {
    cpu_features f = cpu_detect_features();
    return cpu_detect_from(&f, level);
}

static int usable_cpus(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* The text after the colon of the first line of /proc/cpuinfo that starts with one of the two keys in use. */
static bool read_name(char *name, size_t cap) {
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file)
        return false;
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (!colon || (strncmp(line, "model name", 10) != 0 && strncmp(line, "Model", 5) != 0))
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = 0;
        found = *colon != 0;
        snprintf(name, cap, "%s", colon);
    }
    fclose(file);
    return found;
}

void cpu_detect_name(char *out, size_t cap) {
    char name[192];
    if (!read_name(name, sizeof name))
        strcpy(name, "unknown CPU");
    int n = usable_cpus();
    snprintf(out, cap, "%s, %d CPU%s", name, n, n == 1 ? "" : "s");
}
