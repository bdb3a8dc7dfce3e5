# make            build/pleat and build/libpleat.a
# make tests      every test program under $(BUILD)/tests
# make SAN=1 ...  the same under AddressSanitizer and UndefinedBehaviorSanitizer, in build/san
# make ARM64=1 .. the same for 64-bit Arm, in build/arm64, with the cross compiler and libraries of scripts/deps --all
# make install    PREFIX=/usr/local
# make bench      the benchmarks of bench/, one after another
# make format     clang-format over the tree
CC ?= gcc
PREFIX ?= /usr/local
SAN ?=
ARM64 ?=
BUILD := $(if $(SAN),build/san,$(if $(ARM64),build/arm64,build))
ifdef ARM64
ROOT := $(abspath build/arm64/root)
CC := aarch64-linux-gnu-gcc --sysroot=$(ROOT)
AR := aarch64-linux-gnu-ar
PKG_CONFIG := PKG_CONFIG_SYSROOT_DIR=$(ROOT) PKG_CONFIG_LIBDIR=$(ROOT)/usr/lib/aarch64-linux-gnu/pkgconfig pkg-config
endif
PKG_CONFIG ?= pkg-config
MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))

LIBS := jansson libmicrohttpd sqlite3 libpcre2-8 libutf8proc nettle
CPPFLAGS += -Iinclude -Isrc -D_GNU_SOURCE $(shell $(PKG_CONFIG) --cflags $(LIBS) 2>/dev/null)
CFLAGS ?= -O3 -g
CFLAGS += -std=gnu11 -Wall -Wextra -Wshadow -Wvla -Werror -fno-math-errno -fno-trapping-math -pthread
LDLIBS += $(shell $(PKG_CONFIG) --libs $(LIBS) 2>/dev/null) -lcsv -lm -pthread
ifdef SAN
CFLAGS += -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS += -fsanitize=address,undefined
# Kernels as they are written to be compiled: at -O1 their vectors stay in memory, and each access to them is checked.
KERNEL_FLAGS := -O2
endif

# One file per (domain, ISA): the suffix names the flags. Nothing else may use intrinsics, and all else rounds every product, on every machine.
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx2vnni := $(ISA_avx2)
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_amx := $(ISA_avx512vnni)
ISA_neon := -march=armv8.2-a+dotprod -ffp-contract=off
isa_of = $(lastword $(subst _, ,$(basename $(notdir $1))))
isa_flags = $(if $(ISA_$(isa_of)),$(ISA_$(isa_of)) $(KERNEL_FLAGS),-ffp-contract=off)
FOREIGN := $(if $(filter x86_64,$(MACHINE)),,src/cpu/x86/% tests/support/x86/%) $(if $(filter aarch64,$(MACHINE)),,src/cpu/arm/%)

SOURCES := $(filter-out src/cli/% $(FOREIGN),$(wildcard src/*/*.c src/*/*/*.c))
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
CLI := $(patsubst %.c,$(BUILD)/%.o,$(wildcard src/cli/*.c))
LIB := $(BUILD)/libpleat.a
SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(FOREIGN),$(wildcard tests/support/*.c tests/support/x86/*.c)))
FUZZ := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c)) $(FUZZ:%=$(BUILD)/tests/test_fuzz_%)
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
PEER := $(BUILD)/bench/peers/pleat # pleat's side of bench/peers/run
BENCH_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(wildcard bench/support/*.c)) $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/kernel_cases*.c))

all: $(BUILD)/pleat $(LIB)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo CC $<
	@$(CC) $(CPPFLAGS) $(if $(filter tests/% bench/%,$<),-Itests -Ibench) $(CFLAGS) $(call isa_flags,$<) -MMD -MP -c -o $@ $<

$(BUILD)/src/measure/assets.o: tests/data/shakespeare-40k.txt src/measure/prompts.jsonl
$(BUILD)/src/report/page.o: src/report/style.css
$(BUILD)/src/serve/page.o: src/serve/page.html

$(LIB): $(OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/pleat: $(CLI) $(LIB)
	@echo LD $@
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(SUPPORT) $(LIB)
	@echo LD $@
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS) -lcmocka

$(FUZZ:%=$(BUILD)/tests/test_fuzz_%): $(BUILD)/tests/test_fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/driver.o $(SUPPORT) $(LIB)
	@mkdir -p $(@D)
	@echo LD $@
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS) -lcmocka

# The same targets under libFuzzer, by clang, in build/fuzz.
fuzz:
	@$(MAKE) CC=clang BUILD=build/fuzz CFLAGS="-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -Wno-error" $(FUZZ:%=build/fuzz/fuzz_%)

build/fuzz/fuzz_%: build/fuzz/tests/fuzz/fuzz_%.o $(SUPPORT) $(LIB)
	@echo LD $@
	@clang -fsanitize=fuzzer,address,undefined -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS) -lcmocka

# These run the program itself.
$(addprefix $(BUILD)/tests/test_,cli fetch mapped serve_command serve_flags serve_plan): $(BUILD)/pleat

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(BENCH_SUPPORT) $(LIB)
	@echo LD $@
	@$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS)

tests: $(TESTS)
benches: $(BENCHES) $(PEER)
bench: $(BENCHES)
	@for b in $(BENCHES); do $$b || exit 1; done

install: all
	install -Dm755 $(BUILD)/pleat $(DESTDIR)$(PREFIX)/bin/pleat
	install -Dm644 $(LIB) $(DESTDIR)$(PREFIX)/lib/libpleat.a
	install -Dm644 include/pleat.h $(DESTDIR)$(PREFIX)/include/pleat.h
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig
	printf '%s\n' 'Name: pleat' 'Description: large language models on CPUs with a compressed KV cache' \
	    'Version: $(shell sed -n 's/^#define PLEAT_VERSION "\(.*\)"/\1/p' include/pleat.h)' 'Requires: $(LIBS)' \
	    'Cflags: -I$(PREFIX)/include' 'Libs: -L$(PREFIX)/lib -lpleat -lcsv -lm -pthread' \
	    >$(DESTDIR)$(PREFIX)/lib/pkgconfig/pleat.pc

format:
	clang-format -i $(shell find src include tests bench -name '*.[ch]')

clean:
	rm -rf build

.PHONY: all tests fuzz benches bench install format clean
.SECONDARY:
-include $(OBJECTS:.o=.d) $(CLI:.o=.d) $(SUPPORT:.o=.d) $(BENCH_SUPPORT:.o=.d) $(TESTS:%=%.d) $(BENCHES:%=%.d) $(FUZZ:%=$(BUILD)/tests/fuzz/fuzz_%.d) $(BUILD)/tests/fuzz/driver.d
