# make          build the filter and its man page
# make install  put them where nbdkit and man look for them (DESTDIR is heeded)
# make demo     watch the filter at work on an image made for it
# make lint     look at the source with every tool that has an opinion on it
# make check    do so, and run every test
# make bench    measure speed and memory, each against the same copy without
#               the filter, and write docs/speed.txt and docs/speed.svg
# make deb      build/*.deb, for the nbdkit that is installed
# make rpm      build/*.rpm, the same
# make dist     build/nbdkit-digest-filter-VERSION.tar.gz, the source
# make deps     install what is missing for all of these; those that need it do
#               so by themselves
#
# Longer checks:
#
# make soak          try for SOAK_MINUTES, 30 if not given, to break the filter
# make check-matrix  build and test with the nbdkit of every Debian that has one
#                    that fits, in roots that are made for it (tests/matrix.sh)
# make check-packages
#                    build the .deb in Debian 12 and in Debian 13, install it in
#                    clean ones and use it there; like the matrix, it needs root,
#                    debootstrap and a Debian mirror
# make check-arm64   cross-build for arm64, and run the tests of the digests in qemu
# make check-asan    run end-to-end tests with AddressSanitizer in the filter's C
# make fuzz          give each fuzz target FUZZTIME, 30 minutes if it is not set

SHELL = /bin/bash -o pipefail
.DELETE_ON_ERROR:
.PHONY: all man install deps check demo bench deb rpm dist clean FORCE
.PHONY: lint soak check-matrix check-packages check-here check-arm64 check-asan fuzz

FILTER = nbdkit-digest-filter.so
MAN = nbdkit-digest-filter.1
VERSION = $(shell sed -n 's/.*DIGEST_VERSION "\(.*\)"/\1/p' about.h)
SOURCES = $(wildcard *.go *.c *.h nbdkit/*.go nbdkit/*.c nbdkit/*.h nbdkit/*.ld) go.mod go.sum
SCRIPTS = .ci/run deploy/nbdkit-digest $(wildcard packaging/*.sh tests/*.sh)

# nbdkit loads the filter only if it was built with the headers of that nbdkit.
# Not expanded before a recipe needs it: "make deps" works without nbdkit.
filterdir = $(shell pkg-config --variable=filterdir nbdkit)
prefix = $(shell pkg-config --variable=prefix nbdkit)
mandir = $(prefix)/share/man

# The linker script keeps Go's initialiser from running before nbdkit forks:
# see nbdkit/start.c. Without a build ID, which depends on the path of that
# script, the same source gives the same bytes in any directory.
GO_LDFLAGS = -s -w -buildid= -extldflags "$(LDFLAGS) -Wl,-T,$(CURDIR)/nbdkit/init.ld"

GO_BUILD = go build -trimpath -buildvcs=false -buildmode=c-shared \
    -ldflags '$(GO_LDFLAGS)'

# As Debian builds nbdkit's own filters, and with BIND_NOW.
LDFLAGS ?= -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack
CGO_CFLAGS ?= -O2 -g -fstack-protector-strong -Wformat -Werror=format-security \
    -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
export CGO_CFLAGS

# Neither make nor Go's cache sees that another nbdkit has other headers. This
# file tells make; a macro that no code looks at tells the cache.
BUILT_FOR = build/nbdkit-version
export CGO_ENABLED = 1

all: $(FILTER) man

$(BUILT_FOR): FORCE
	@mkdir -p build
	@version=$$(pkg-config --modversion nbdkit 2>/dev/null); \
	    echo "$$version" | cmp -s - $@ || echo "$$version" > $@

$(FILTER): $(filter-out %_test.go nbdkit-digest-filter.h,$(SOURCES)) $(BUILT_FOR)
	@pkg-config --exists nbdkit || \
	    { echo "nbdkit's headers are missing: run 'make deps'" >&2; exit 1; }
	CGO_CFLAGS="$$CGO_CFLAGS -DBUILT_FOR_$$(tr -c '[:alnum:]\n' _ < $(BUILT_FOR))" \
	    $(GO_BUILD) -o $@ .
	@rm -f nbdkit-digest-filter.h

# A machine without pod2man still gets its filter.
man: $(if $(shell command -v pod2man),$(MAN))

$(MAN): nbdkit-digest-filter.pod about.h
	pod2man --utf8 --section=1 --center=NBDKIT \
	    --release="nbdkit-digest-filter $(VERSION)" $< > $@

install: all
	install -D -m 755 $(FILTER) "$(DESTDIR)$(filterdir)/$(FILTER)"
	if [ -e $(MAN) ]; then \
	    install -D -m 644 $(MAN) "$(DESTDIR)$(mandir)/man1/$(MAN)"; fi

deps:
	@sh tests/deps.sh $(filter bench,$(MAKECMDGOALS))

# With one of these goals, what is missing is installed before the build.
ifneq (,$(filter lint check check-here demo soak bench,$(MAKECMDGOALS)))
$(FILTER) $(MAN) $(BUILT_FOR): | deps
endif

# The tools that are no package of Debian's have a go.mod of their own.
lint: | deps
	test -z "$$(gofmt -l *.go nbdkit tests | tee /dev/stderr)"
	go vet ./...
	cd tests/deploy && go vet ./...
	go tool -modfile=tests/tools/go.mod staticcheck ./...
	shellcheck $(SCRIPTS)
	podchecker nbdkit-digest-filter.pod
	tests/vulnerabilities.sh

check: all lint
	go test -race . ./nbdkit/...
	go test -count=1 -timeout 15m ./tests/...
	cd tests/deploy && go test -count=1 ./...

check-matrix:
	tests/matrix.sh

# What check-matrix runs in each root.
check-here: CGO_CFLAGS += -Werror
check-here: all
	nbdkit --version
	go test . ./nbdkit/...
	go test -count=1 -timeout 30m ./tests/...
	cd tests/deploy && go test -count=1 ./...

# nbdkit's headers are the same for every machine; libc's are not, and go first.
ARM64 = GOARCH=arm64 CC=aarch64-linux-gnu-gcc CGO_CFLAGS="$(CGO_CFLAGS) \
    -idirafter $$(pkg-config --variable=includedir nbdkit)"
check-arm64:
	sh tests/deps.sh arm64
	$(ARM64) $(GO_BUILD) -o build/arm64/$(FILTER) .
	readelf -Wh -l -d build/arm64/$(FILTER) | tee build/arm64/elf | \
	    grep -E 'Machine:|GNU_RELRO|GNU_STACK|Flags: NOW|\.go_init'
	grep -q 'Machine: *AArch64' build/arm64/elf
	grep -q '\.init_array .*\.go_init .*\.got' build/arm64/elf
	$(ARM64) go test -c -o build/arm64/digest.test .
	qemu-aarch64-static -L /usr/aarch64-linux-gnu build/arm64/digest.test \
	    -test.short -test.v -test.run 'Tree|Nodes|Zeros|Hole|Forg|Digest|Fuzz|Messages|Leaves'

check-asan:
	sh tests/deps.sh
	tests/asan.sh

FUZZTIME = 30m
fuzz:
	for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' *_test.go); do \
	    echo "$$target" && \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) \
	        -fuzzminimizetime 5s -parallel 1 . || exit; \
	done

demo: $(FILTER)
	tests/demo.sh

# A round that fails says how to repeat it. SOAK_SEED=0 is a new seed.
SOAK_MINUTES = 30
SOAK_SEED = 0
soak: $(FILTER)
	SOAK=1 go test -count=1 -timeout 60m -run 'LeaveNothing|ManyClientsAtOnce|KilledServer' -v ./tests
	go test -count=1 -timeout 0 -v ./tests/chaos -args -seed=$(SOAK_SEED) -minutes=$(SOAK_MINUTES)

bench: $(FILTER)
	go run ./tests/bench -keep docs

deb rpm: all
	bash packaging/build.sh $@

dist:
	bash packaging/dist.sh

check-packages: dist
	bash packaging/check.sh

clean:
	rm -rf build/nbdkit-version build/package build/*.deb build/*.rpm build/*.tar.gz
	rm -f $(FILTER) $(MAN) nbdkit-digest-filter.h
